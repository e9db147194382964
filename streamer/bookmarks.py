"""Bookmarks: a moment of a voice in one file, from which any voice goes on exactly as it would have gone on.

A file is a container like a model's (`streamer.models.container`): JSON about the moment, the stepper's
memory as tensors, and the end of the tape, for listening and for priming other models. It comes from anywhere
and is checked throughout; whether the memory fits the model, only the stepper can tell
(`Stepper.remember`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from streamer.controls import Value
from streamer.models import container
from streamer.models.checkpoint import SAMPLE_RATES_HZ
from streamer.models.container import SUFFIX, blaming, require
from streamer.models.errors import StreamerError
from streamer.models.folders import choose, files_in
from streamer.records import Record, from_json

FOLDER_VARIABLE = "STREAMER_BOOKMARKS"
"""Environment variable that moves the folder of bookmarks."""
FORMAT_VERSION = 1
LONGEST_TAIL_SECONDS = 60
MAX_BYTES = 2**28
"""Of a file: a minute of tape at 192 kHz takes a sixth of it."""
MAX_NAME = 80
"""Longest name (characters)."""

_STORED_AS = tuple(container.DTYPES)
_TAIL, _MEMORY = "tail", "memory."


@dataclass(frozen=True, eq=False)
class Moment(Record):
    """A moment of a voice; raise `StreamerError` for one that cannot be.

    Attributes:
        model: name of the model.
        hash: the model's, SHA-256 in hexadecimal.
        memory: what `Stepper.memory` gave there; the stepper checks whether it fits the model.
        tail: float32 [samples], what was on the tape up to there, at most a minute; may be empty.
        rate: of the tail, in Hz.
        values: the generator's controls there, the seed among them.
        position: on the tape.
        take: which of the voice's generators it was; with `number`, the key of its randomness.
        number: of the voice.
    """

    model: str
    hash: str
    memory: Mapping[str, NDArray[Any]]
    tail: NDArray[np.float32]
    rate: int
    values: Mapping[str, Value]
    position: int
    take: int
    number: int

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        digits = len(self.hash) == 64 and set(self.hash) <= set("0123456789abcdef")
        require(digits, f"hash is {self.hash!r}: it must be 64 hexadecimal digits")
        low, high = SAMPLE_RATES_HZ
        require(low <= self.rate <= high, f"rate is {self.rate} Hz: it must be {low} to {high}")
        most = LONGEST_TAIL_SECONDS * self.rate
        ok = self.tail.ndim == 1 and self.tail.dtype == np.float32 and self.tail.size <= most
        require(ok, f"the tail must be one channel of float32, at most {LONGEST_TAIL_SECONDS} s")
        for name, array in {_TAIL: self.tail, **self.memory}.items():
            known = isinstance(array, np.ndarray) and array.dtype in container.DTYPES.values()
            require(known, f"{name!r} must be an array of one of {', '.join(container.DTYPES)}")
            require(
                bool(np.isfinite(array).all()), f"{name!r} holds numbers that are not finite: save it again"
            )


_DESCRIBED = [field.name for field in fields(Moment) if field.name not in ("memory", "tail")]


def bookmarks_folder() -> Path:
    """The folder of bookmarks, whether it exists or not."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("streamer") / "bookmarks"


def names(folder: Path) -> list[str]:
    """The bookmarks there, sorted; no file is opened."""
    return [path.stem for path in files_in(folder, SUFFIX)]


def save(folder: Path, name: str, moment: Moment) -> None:
    """Write a bookmark, whole or not at all; one of the same name is replaced.

    Raises:
        StreamerError: the name would lead elsewhere, or the file cannot be written.
    """
    allowed = name.isprintable() and name == name.strip() and 0 < len(name) <= MAX_NAME
    if not allowed or name[0] == "." or not set(name).isdisjoint("/\\:"):
        raise StreamerError(
            f"a bookmark cannot be called {name[:MAX_NAME]!r}: use at most {MAX_NAME} printable characters, "
            "no slash, backslash or colon, and no dot at the beginning"
        )
    with blaming(folder, "written", StreamerError):
        folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{name}{SUFFIX}", moment)


def load(folder: Path, name: str) -> Moment:
    """Read a bookmark and check all of it.

    A name is only compared with what lies in the folder, so one from the network can reach nothing else.

    Raises:
        StreamerError: there is none of this name, with a list of those there are; or what is wrong with it.
    """
    found = {path.stem: path for path in files_in(folder, SUFFIX)}
    return read(choose(name, found, "bookmark", f"there are none in {folder}"))


def write(path: Path, moment: Moment) -> None:
    """Write a moment into this file; raise `StreamerError` where that cannot be."""
    described = {name: getattr(moment, name) for name in _DESCRIBED}
    described |= {"values": dict(moment.values), "version": FORMAT_VERSION}
    memory = {f"{_MEMORY}{name}": np.ascontiguousarray(array) for name, array in moment.memory.items()}
    with blaming(path, "written", StreamerError):
        container.write(path, described, {_TAIL: np.ascontiguousarray(moment.tail), **memory})


def read(path: Path) -> Moment:
    """Read this file and check all of it; raise a `StreamerError` that names the file and the fault."""
    with (
        blaming(path, "read", StreamerError),
        container.open_file(path, "save the bookmark again") as file,
    ):
        described, places = container.read_header(file, FORMAT_VERSION, _STORED_AS, MAX_BYTES)
        del described["version"]
        foreign = [name for name in places if name != _TAIL and not name.startswith(_MEMORY)]
        require(
            not foreign and _TAIL in places, f"it is no bookmark: it has {', '.join(foreign) or 'no tail'}"
        )
        arrays = {name: container.read_tensor(file, name, place) for name, place in places.items()}
        tail = arrays.pop(_TAIL)
        memory = {name.removeprefix(_MEMORY): array for name, array in arrays.items()}
        return from_json(Moment, described, memory=memory, tail=tail)
