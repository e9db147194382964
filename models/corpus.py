"""A corpus: a folder of audio, read, brought to one rate and one channel, split by file, and quantised."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from streamer.models.errors import CorpusError
from streamer.models.quantisers import Quantiser

EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
HOLD_OUT_EVERY = 8
"""Every eighth file, in order of name, is held out of training; of fewer files, the last one."""
QUIETEST = 1e-3
"""Least peak of a corpus, of full scale: -60 dBFS, where the audio's own 16 bits leave 33 levels."""


@dataclass(frozen=True)
class Clip:
    """One audio file: its name and its samples (T,) float32, mono, at the corpus's rate."""

    name: str
    samples: NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """Codes to learn from and codes held out, each (T,) int64, of whole files end to end."""

    training: NDArray[np.int64]
    held_out: NDArray[np.int64]


def read_clip(path: Path, rate: int) -> NDArray[np.float32]:
    """Read one file as mono samples at rate (Hz); raise `CorpusError` naming a file that cannot be read."""
    try:
        samples, file_rate = sf.read(path, dtype="float32", always_2d=True)
        return at_rate(samples.mean(axis=1, dtype=np.float32), file_rate, rate)
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None
    except (sf.SoundFileError, RuntimeError, OSError) as error:
        raise CorpusError(f"{path}: cannot be read as audio ({error})") from None


def at_rate(mono: NDArray[np.float32], given: int, rate: int) -> NDArray[np.float32]:
    """Bring samples (T,) from one rate (Hz) to another; raise `CorpusError` for what is no sound."""
    if not np.isfinite(mono).all():
        raise CorpusError("holds samples that are not finite numbers")
    if given != rate:
        mono = soxr.resample(mono, given, rate, quality="HQ")
    if not mono.size:
        raise CorpusError("holds no audio")
    return mono


def read_folder(folder: Path, rate: int, skipped: Callable[[str], None]) -> list[Clip]:
    """Read every audio file below a folder, in order of name; `skipped` is told of those that cannot be.

    Raises `CorpusError` where there is no folder, or not two files to read.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: there is no such folder of audio")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    clips = []
    for path in paths:
        try:
            clips.append(Clip(str(path.relative_to(folder)), read_clip(path, rate)))
        except CorpusError as error:
            skipped(str(error))
    if len(clips) < 2:
        raise CorpusError(
            f"{folder}: {len(clips)} readable audio files ({', '.join(EXTENSIONS)}); training needs at least "
            "two, one of them to hold out"
        )
    return clips


def split(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Split clips into those to learn from and those held out."""
    chosen = set(range(HOLD_OUT_EVERY - 1, len(clips), HOLD_OUT_EVERY)) or {len(clips) - 1}
    training = [clip for i, clip in enumerate(clips) if i not in chosen]
    return training, [clips[i] for i in sorted(chosen)]


def fitting_scale(clips: list[Clip], preemphasis: float) -> float:
    """Scale that brings all but one in 20,000 pre-emphasised samples within 0.95 of full scale.

    Raises `CorpusError` for audio so quiet that no quantiser could be scaled to it.
    """
    unscaled = Quantiser(preemphasis=preemphasis)
    peaks = np.concatenate([np.abs(unscaled.emphasise(clip.samples)) for clip in clips])
    loudest = float(np.quantile(peaks, 0.99995))
    if loudest < QUIETEST:
        raise CorpusError(f"the audio peaks at {loudest:g} of full scale: choose some that can be heard")
    return round(0.95 / loudest, 4)


def quantise(clips: list[Clip], quantiser: Quantiser) -> Corpus:
    """Quantise a corpus file by file, so that the stretching quantisers see whole clips."""
    training, held_out = split(clips)
    codes = [
        np.concatenate([quantiser.encode(clip.samples) for clip in part]) for part in (training, held_out)
    ]
    return Corpus(*codes)
