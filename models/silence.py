"""Silence in audio that comes block by block: what it is, and how it is shortened.

Silence is any stretch of 20 ms frames whose level without its DC is below -50 dBFS rms. At the ends of a clip
it is cut; inside, a longer stretch keeps its beginning and its end and loses its middle, crossfaded over 5
ms.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.020
SILENCE_DBFS = -50.0
CROSSFADE_SECONDS = 0.005

Samples = NDArray[np.float32]

_NOTHING = np.zeros(0, np.float32)


def silent_frames(audio: Samples, rate: int) -> NDArray[np.bool_]:
    """Tell for each whole frame of 20 ms whether it is silent: shape (T // frame,)."""
    length = round(FRAME_SECONDS * rate)
    frames = audio[: len(audio) // length * length].reshape(-1, length)
    quiet: NDArray[np.bool_] = frames.std(axis=1, dtype=np.float64) < 10 ** (SILENCE_DBFS / 20)
    return quiet


def runs(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every stretch of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def crossfade(tail: Samples, piece: Samples) -> Samples:
    """Fade linearly from ``tail`` into ``piece`` over as much as both have."""
    overlap = min(len(tail), len(piece))
    ramp = (np.arange(overlap, dtype=np.float32) + np.float32(0.5)) / np.float32(max(overlap, 1))
    before, fading = np.split(tail, [len(tail) - overlap])
    return np.concatenate([before, fading * (1 - ramp) + piece[:overlap] * ramp, piece[overlap:]])


def join(first: Samples, second: Samples, rate: int) -> Samples:
    """Put two pieces end to end, crossfaded over 5 ms (less where one is shorter)."""
    kept = max(0, len(first) - round(CROSSFADE_SECONDS * rate))
    return np.concatenate([first[:kept], crossfade(first[kept:], second)])


class SilenceCutter:
    """Shortens the silences of one clip; holds no more than the longest that is kept."""

    def __init__(self, rate: int, longest_seconds: float) -> None:
        """rate: Hz. longest_seconds: of a silence inside the clip."""
        self._rate = rate
        self._frame = round(FRAME_SECONDS * rate)
        self._half = round(longest_seconds * rate / 2)
        self._rest = _NOTHING
        """Less than a frame, not judged yet."""
        self._started = False
        """Whether there has been sound."""
        self._head = _NOTHING
        """The beginning of a silence that has lost its middle."""
        self._held = _NOTHING
        """Silence that belongs to the clip if sound follows."""

    def push(self, samples: Samples) -> Samples:
        """What is known to be kept once these samples (T,) have come."""
        samples = np.concatenate([self._rest, samples])
        quiet = silent_frames(samples, self._rate)
        reached, kept = 0, [_NOTHING]
        for begin, end in runs(quiet):
            kept += self._sound(samples[reached * self._frame : begin * self._frame])
            self._silence(samples[begin * self._frame : end * self._frame])
            reached = end
        kept += self._sound(samples[reached * self._frame : len(quiet) * self._frame])
        self._rest = samples[len(quiet) * self._frame :]
        return np.concatenate(kept)

    def finish(self) -> Samples:
        """What is left at the end of the clip: less than a frame is sound only where it follows sound."""
        return self._rest if self._started and not self._held.size else _NOTHING

    def _sound(self, samples: Samples) -> list[Samples]:
        if not samples.size:
            return []
        self._started = True
        silence = join(self._head, self._held, self._rate) if self._head.size else self._held
        self._head = self._held = _NOTHING
        return [silence, samples]

    def _silence(self, samples: Samples) -> None:
        if not self._started:
            return
        held = np.concatenate([self._held, samples])
        if not self._head.size and len(held) > 2 * self._half:
            self._head, held = held[: self._half], held[self._half :]
        self._held = held[-self._half :] if self._head.size else held
