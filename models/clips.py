"""One audio file: decoded block by block, its channels averaged, brought to one rate.

Whatever its length, no more of it is held than a block. libsndfile reads what it knows; FFmpeg, through PyAV,
the rest, where it is installed (the extra ``train``).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from streamer.models.errors import CorpusError

EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
"""What libsndfile reads."""
MORE_EXTENSIONS = (
    ".aac",
    ".ape",
    ".caf",
    ".m4a",
    ".mka",
    ".mp4",
    ".mpc",
    ".oga",
    ".tta",
    ".webm",
    ".wma",
    ".wv",
)
"""What PyAV reads besides."""

Samples = NDArray[np.float32]

_BLOCK = 2**18
"""Numbers that are decoded at a time, of all channels together."""


@dataclass(frozen=True)
class Opened:
    """A file that is being decoded."""

    rate: int
    """Hz."""
    channels: int
    blocks: Iterator[Samples]
    """(frames, channels) in -1..1, to be taken once."""


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Decode a file; raise `CorpusError`, also while blocks are taken, for one that cannot be read."""
    try:
        with _with_libsndfile(path) if path.suffix.lower() in EXTENSIONS else _with_ffmpeg(path) as file:
            yield file
    except CorpusError:
        raise
    except (
        sf.SoundFileError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:  # FFmpeg's errors are the last two
        raise CorpusError(f"cannot be read as audio ({' '.join(str(error).split())})") from None


@contextmanager
def _with_libsndfile(path: Path) -> Iterator[Opened]:
    with sf.SoundFile(path) as file:
        frames = max(1, _BLOCK // file.channels)

        def blocks() -> Iterator[Samples]:
            while len(block := file.read(frames, dtype="float32", always_2d=True)):
                yield block

        yield Opened(file.samplerate, file.channels, blocks())


@contextmanager
def _with_ffmpeg(path: Path) -> Iterator[Opened]:
    try:
        import av
    except ModuleNotFoundError:
        raise CorpusError("needs PyAV to be read: pip install 'streamer[train]'") from None
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise CorpusError("holds no audio")
        stream = container.streams.audio[0]
        floats = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)

        def blocks() -> Iterator[Samples]:
            for frame in container.decode(stream):
                for part in floats.resample(frame):
                    yield np.asarray(part.to_ndarray().T, np.float32)

        yield Opened(stream.rate, stream.channels, blocks())


def mono(block: Samples) -> Samples:
    """Average channels: (frames, channels) -> (frames,); raise `CorpusError` for what is no sound."""
    if not np.isfinite(block).all():
        raise CorpusError("holds samples that are not finite numbers")
    averaged: Samples = block.mean(axis=1, dtype=np.float32)
    return averaged


def resampled(blocks: Iterable[Samples], given: int, rate: int) -> Iterator[Samples]:
    """Bring mono blocks from one rate (Hz) to another; together they are as `at_rate` gives the whole."""
    if given == rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(given, rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def read_clip(path: Path, rate: int) -> Samples:
    """Read one file as mono samples at rate (Hz); raise `CorpusError` naming a file that cannot be read."""
    try:
        with opened(path) as file:
            blocks = [mono(block) for block in file.blocks]
        return at_rate(np.concatenate([np.zeros(0, np.float32), *blocks]), file.rate, rate)
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None


def at_rate(mono: Samples, given: int, rate: int) -> Samples:
    """Bring samples (T,) from one rate (Hz) to another; raise `CorpusError` for what is no sound."""
    if not np.isfinite(mono).all():
        raise CorpusError("holds samples that are not finite numbers")
    if given != rate:
        mono = soxr.resample(mono, given, rate, quality="HQ")
    if not mono.size:
        raise CorpusError("holds no audio")
    return mono
