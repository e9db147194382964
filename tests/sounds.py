"""Files that are sound, and files that are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> NDArray[np.float64]:
    wave: NDArray[np.float64] = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return wave


def write_broken(path: Path) -> None:
    path.write_bytes(b"RIFF, but not really")


def write_cut_off(path: Path) -> None:
    soundfile.write(path, tone(1), RATE)
    path.write_bytes(path.read_bytes()[:20])


def write_empty(path: Path) -> None:
    path.touch()


def write_no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), RATE)


def write_too_short_to_resample(path: Path) -> None:
    soundfile.write(path, np.zeros(1), 192_000)


def write_infinite(path: Path) -> None:
    soundfile.write(path, np.where(np.arange(RATE) == 99, np.inf, tone(1)), RATE, subtype="FLOAT")


def write_not_a_number(path: Path) -> None:
    soundfile.write(path, np.where(np.arange(RATE) == 99, np.nan, tone(1)), RATE, subtype="FLOAT")


def write_folder(path: Path) -> None:
    path.mkdir()


BAD: dict[Callable[[Path], None], str] = {
    write_broken: "cannot be read as audio",
    write_cut_off: "cannot be read as audio",
    write_empty: "cannot be read as audio",
    write_folder: "cannot be read as audio",
    write_no_samples: "holds no audio",
    write_too_short_to_resample: "holds no audio",
    write_infinite: "not finite",
    write_not_a_number: "not finite",
}
"""What makes a file that will not do, and what is said of it."""
