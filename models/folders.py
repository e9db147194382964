"""Folders whose files are found by name: nothing that a name says can lead out of them."""

from collections.abc import Mapping
from pathlib import Path

from streamer.models.errors import StreamerError

_MAX_NAMES_LISTED = 20
_MAX_NAME_SHOWN = 80


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """List the ordinary files with these endings, none hidden, unprintable, or a link that leads out."""
    try:
        inside = folder.resolve(strict=True)
        files = [path for path in inside.iterdir() if path.suffix.lower() in suffixes]
        shown = [path for path in files if path.name.isprintable() and path.name[0] != "."]
        return sorted(path for path in shown if path.is_file() and path.resolve().is_relative_to(inside))
    except OSError:
        return []  # no folder, or one that may not be read, holds no files


def choose(
    name: str, found: Mapping[str, Path], what: str, nothing: str, kind: type[StreamerError] = StreamerError
) -> Path:
    """The file of a name; where there is none, raise an error of this kind that lists the names there are.

    A name is only compared with those found, so one from the network can reach nothing else.
    what: a word for what the names name. nothing: what to do where there are none.
    """
    if name in found:
        return found[name]
    listed = ", ".join(list(found)[:_MAX_NAMES_LISTED]) + (", ..." if len(found) > _MAX_NAMES_LISTED else "")
    remedy = f"choose one of {listed}" if found else nothing
    raise kind(f"{what} {name[:_MAX_NAME_SHOWN]!r} is unknown: {remedy}")
