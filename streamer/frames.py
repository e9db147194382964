"""Sound that goes by in blocks, cut into frames; nothing of it is held but what a later frame needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.models.silence import runs

Samples = NDArray[np.float32]
Frames = NDArray[np.float64]


class Framer:
    """Cuts blocks of sound into frames of one length, one every hop; the last, unfinished, is left out.

    Args:
        length, hop: in samples; the hop is at most the length.
    """

    def __init__(self, length: int, hop: int) -> None:
        self._length, self._hop = length, hop
        self._rest = np.zeros(0)

    def push(self, samples: Samples) -> Frames:
        """The frames (N, length) that samples (T,) have made whole."""
        known = np.concatenate([self._rest, samples])
        count = max(0, (len(known) - self._length) // self._hop + 1)
        self._rest = known[count * self._hop :]
        if not count:
            return np.zeros((0, self._length))
        return np.lib.stride_tricks.sliding_window_view(known, self._length)[: count * self._hop : self._hop]


class LongestRun:
    """The longest run of true flags, which come in blocks."""

    def __init__(self) -> None:
        self.longest = 0
        self._running = 0

    def push(self, flags: NDArray[np.bool_]) -> None:
        """Take more flags into account."""
        for begin, end in runs(flags):
            self._running = end - begin + (0 if begin else self._running)
            self.longest = max(self.longest, self._running)
        if flags.size and not flags[-1]:
            self._running = 0
