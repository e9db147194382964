"""Where models lie and how a name finds one: in the user's folder first, then in the package."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from streamer.models.checkpoint import SUFFIX, Header, read_header
from streamer.models.errors import CheckpointError

FOLDER_VARIABLE = "STREAMER_MODELS"
"""Environment variable that moves the user's model folder."""

_MAX_NAMES_LISTED = 20


@dataclass(frozen=True)
class Entry:
    """A model file that a name finds; its header is None where it cannot be read, and problem says why."""

    name: str
    path: Path
    header: Header | None
    problem: str


def user_folder() -> Path:
    """Return the user's model folder, whether it exists or not."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("streamer") / "models"


def folders() -> tuple[Path, ...]:
    """Return the folders that names are looked for in; an earlier one hides the same name in a later one."""
    return user_folder(), Path(__file__).parent


def names() -> dict[str, Path]:
    """Return every model by its name, the file's without the ending, sorted; no file is opened."""
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        found |= {path.name.removesuffix(SUFFIX): path for path in _model_files(folder)}
    return dict(sorted(found.items()))


def catalogue() -> list[Entry]:
    """Read the header of every model; a file that fails is listed with its problem."""
    return [_entry(name, path) for name, path in names().items()]


def resolve(name: str, allow_path: bool) -> Path:
    """Find the file of a model; raise `CheckpointError` listing the models there are.

    A name is only compared with what lies in the folders, so one from the network can reach nothing else.
    allow_path: for the command line, anything with a folder or the ending of a model file in it is a path.
    """
    found = names()
    if name in found:
        return found[name]
    if allow_path and (os.sep in name or name.endswith(SUFFIX)):
        return Path(name)
    listed = ", ".join(list(found)[:_MAX_NAMES_LISTED]) + (", ..." if len(found) > _MAX_NAMES_LISTED else "")
    nothing = f"there are none, put {SUFFIX} files into {user_folder()}"
    remedy = f"choose one of {listed}" if found else nothing
    raise CheckpointError(f"model {name[:80]!r} is unknown: {remedy}")


def _model_files(folder: Path) -> list[Path]:
    """List the ordinary model files in a folder, none hidden, unprintable, or a link that leads out of it."""
    try:
        inside = folder.resolve(strict=True)
        files = [
            path for path in inside.glob(f"*{SUFFIX}") if path.name.isprintable() and path.name[0] != "."
        ]
        return [path for path in files if path.is_file() and path.resolve().is_relative_to(inside)]
    except OSError:
        return []  # no folder, or one that may not be read, holds no models


def _entry(name: str, path: Path) -> Entry:
    try:
        return Entry(name, path, read_header(path), "")
    except CheckpointError as error:
        return Entry(name, path, None, str(error))
