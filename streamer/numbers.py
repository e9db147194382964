"""Codes and conditions that the command line names, from numpy's own files; nothing is unpickled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.models.errors import StreamerError

MAX_NUMBERS = 2**28
_WHOLE = re.compile(r"\d{1,9}")


def codes_from(path: Path) -> NDArray[np.int64]:
    """Codes (T,) of a .npy file of whole numbers; raise `StreamerError` for any other."""
    array = _load(path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise StreamerError(
            f"{path}: it holds {array.dtype} of shape {array.shape}, not a row of whole numbers"
        )
    return array.astype(np.int64)


def condition_from(text: str) -> int | NDArray[np.float64]:
    """A condition: an id, numbers between commas, or a .npy file of them; raise `StreamerError`."""
    if _WHOLE.fullmatch(text):
        return int(text)
    if text.endswith(".npy"):
        vector = _load(Path(text))
        if vector.ndim != 1 or vector.dtype.kind not in "iuf":
            raise StreamerError(
                f"{text}: it holds {vector.dtype} of shape {vector.shape}, not a row of numbers"
            )
        return vector.astype(np.float64)
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise StreamerError(
            f"condition {text[:80]!r}: give an id, numbers between commas, or FILE.npy"
        ) from None


def _load(path: Path) -> NDArray[Any]:
    try:
        array = np.lib.format.open_memmap(path, "r")  # which refuses what it would have to unpickle
    except OSError as error:
        raise StreamerError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError):
        raise StreamerError(f"{path}: is no sound .npy file of numbers") from None
    if array.size > MAX_NUMBERS:
        raise StreamerError(f"{path}: it holds {array.size} numbers, at most {MAX_NUMBERS} can be read")
    return array
