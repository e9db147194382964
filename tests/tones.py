"""Corpora that can be learned in a second."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def write_tones(folder: Path, files: int = 3, level: float = 0.5) -> Path:
    """A periodic corpus: half a second a file of a tone with its octave, 19.7 samples a period."""
    folder.mkdir(exist_ok=True)
    phase = 2 * np.pi * np.arange(RATE // 2) / 19.7
    for number in range(files):
        tone = np.sin(phase + number) + 0.5 * np.sin(2 * (phase + number))
        soundfile.write(folder / f"{number}.wav", level * tone / 1.5, RATE)
    return folder
