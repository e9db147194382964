"""Priming: sound from a file or a microphone as the codes that a model continues.

    sound = read_sound(find_sound("choir.flac"), rate, seconds=10)
    codes = to_codes(sound, rate, checkpoint)      then `Stepper.feed` runs the model through them

Sound becomes codes as it does in training (`streamer.models.clips`), so that a model hears what it was
taught to hear; it is not made louder.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import platformdirs
import soundfile as sf
from numpy.typing import NDArray

from streamer.models.checkpoint import SAMPLE_RATES_HZ, Header
from streamer.models.clips import EXTENSIONS, at_rate
from streamer.models.errors import StreamerError
from streamer.models.folders import choose, files_in

FOLDER_VARIABLE = "STREAMER_SOUNDS"
"""Environment variable that moves the folder of sounds."""
LONGEST_SECONDS = 60.0

_BLOCK = 2**20  # samples that are read at a time, of all channels together


def sounds_folder() -> Path:
    """The folder of sounds, whether it exists or not."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_data_path("streamer") / "sounds"


def sounds() -> list[str]:
    """Names, with their endings, of the sound files there; none is opened."""
    return [path.name for path in files_in(sounds_folder(), *EXTENSIONS)]


def find_sound(name: str) -> Path:
    """The sound file of this name in the folder of sounds.

    Raises:
        StreamerError: there is none, with a list of those there are. A name that leads elsewhere is none.
    """
    found = {path.name: path for path in files_in(sounds_folder(), *EXTENSIONS)}
    return choose(name, found, "sound", f"there are none in {sounds_folder()}")


def read_sound(path: Path, rate: int, seconds: float) -> NDArray[np.float32]:
    """The last `seconds` (above 0, at most a minute) of a sound file, mono at `rate` (Hz): float32 [samples].

    Raises:
        StreamerError: the file cannot be read, is no sound, or `seconds` is out of range.
    """
    if not 0 < seconds <= LONGEST_SECONDS:
        raise StreamerError(f"{seconds:g} s of sound: choose more than 0, at most {LONGEST_SECONDS:g}")
    try:
        with sf.SoundFile(path) as file:
            low, high = SAMPLE_RATES_HZ
            if not low <= file.samplerate <= high:
                raise StreamerError(f"its rate is {file.samplerate} Hz: it must be {low} to {high}")
            return at_rate(_read_end(file, round(seconds * file.samplerate)), file.samplerate, rate)
    except (sf.SoundFileError, OSError) as error:
        raise StreamerError(f"{path}: cannot be read as audio ({error})") from None
    except StreamerError as error:
        raise StreamerError(f"{path}: {error}") from None


def to_codes(sound: NDArray[np.float32], rate: int, header: Header) -> NDArray[np.int64]:
    """Sound (T,) at `rate` (Hz) as the codes of a model: int64 [codes], at the model's rate.

    Raises:
        StreamerError: there is no sound, or it is not finite.
    """
    try:
        return header.quantiser.encode(at_rate(sound, rate, header.sample_rate))
    except StreamerError as error:
        raise StreamerError(f"the sound to prime with {error}") from None


def _read_end(file: sf.SoundFile, frames: int) -> NDArray[np.float32]:
    """The last frames, channels averaged, in blocks, since a stranger's file may have a thousand channels."""
    file.seek(max(0, file.frames - frames))
    blocks = file.blocks(_BLOCK // file.channels, frames=frames, dtype="float32", always_2d=True)
    return np.concatenate([np.zeros(0, np.float32), *(block.mean(axis=1) for block in blocks)])
