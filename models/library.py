"""Where models lie and how a name finds one: in the user's folder first, then in the package."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from streamer.models.checkpoint import Header, read_header
from streamer.models.container import SUFFIX
from streamer.models.errors import CheckpointError
from streamer.models.folders import choose, files_in

FOLDER_VARIABLE = "STREAMER_MODELS"
"""Environment variable that moves the user's model folder."""


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
        found |= {path.stem: path for path in files_in(folder, SUFFIX)}
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
    if name not in found and allow_path and (os.sep in name or name.endswith(SUFFIX)):
        return Path(name)
    nothing = f"there are none, put {SUFFIX} files into {user_folder()}"
    return choose(name, found, "model", nothing, CheckpointError)


def _entry(name: str, path: Path) -> Entry:
    try:
        return Entry(name, path, read_header(path), "")
    except CheckpointError as error:
        return Entry(name, path, None, str(error))
