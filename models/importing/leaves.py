"""An array that is found in a file before it is read, and the number types that it may have there."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamer.models.container import open_file, require

MAX_DIMENSIONS = 8


@runtime_checkable
class Leaf(Protocol):
    """An array in a file, whose shape is known and which is read on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def stored_bytes(self) -> int: ...  # noqa: D102

    def load(self) -> NDArray[Any]:
        """Read it; raise `StreamerError` if it is damaged."""
        ...


@dataclass(frozen=True)
class Numbers:
    """How numbers are stored, little-endian; numpy lacks bfloat16, the upper half of a float32."""

    dtype: np.dtype[Any]
    bfloat16: bool = False

    def convert(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return floating-point numbers as float32, others as they are: a contiguous array of its own."""
        if self.bfloat16:
            return (stored.astype(np.uint32) << 16).view(np.float32)
        kept = np.float32 if stored.dtype.kind == "f" else stored.dtype.newbyteorder("=")
        with np.errstate(over="ignore"):  # a double may become infinite, which a checkpoint refuses
            return np.array(stored, kept)


def elements(shape: Iterable[int], name: str, most: int) -> int:
    """Return how many numbers an array has; raise `StreamerError` if they cannot be, or are over most."""
    sizes = tuple(shape)
    sound = len(sizes) <= MAX_DIMENSIONS and all(type(size) is int and size >= 0 for size in sizes)
    require(
        sound and math.prod(max(size, 1) for size in sizes) < 2**48,
        f"the shape of {name!r} cannot be: get a new copy",
    )
    count = math.prod(sizes)
    require(
        count <= most, f"{name!r} has the shape {sizes}, but only {most} numbers are there: get a new copy"
    )
    return count


def read_bytes(path: Path, offset: int, count: int) -> bytes:
    """Read a part of a file, exactly."""
    with open_file(path, "it was there before") as file:
        file.seek(offset)
        data = file.read(count)
    require(len(data) == count, "it has become shorter while it was read")
    return data
