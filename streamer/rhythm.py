"""How well a sound keeps to a clock: what the place in a cycle says of the spectrum heard there."""

from __future__ import annotations

import numpy as np

from streamer.frames import Framer, Samples

_FRAME, _HOP = 1024, 512
_BANDS = 24
_LOWEST_HZ = 50.0
_QUIET = 1e-9
"""Added to the power of a band, which may be silent."""


class Rhythm:
    """Listens to sound that goes by in blocks, against a clock whose cycle begins with the first sample.

    Args:
        rate: Hz.
        cycle: samples.
    """

    def __init__(self, rate: int, cycle: float) -> None:
        self._cycle, self._heard = cycle, 0
        self._framer = Framer(_FRAME, _HOP)
        hertz = np.fft.rfftfreq(_FRAME, 1 / rate)
        edges = np.geomspace(_LOWEST_HZ, rate / 2, _BANDS + 1)
        self._band = (hertz[:, None] >= edges[:-1]) & (hertz[:, None] < edges[1:])
        self._band = self._band[:, self._band.any(0)].astype(float)
        places = max(1, round(cycle / _HOP))
        self._counts = np.zeros(places)
        self._sums, self._squares = np.zeros((2, places, self._band.shape[1]))

    def push(self, samples: Samples) -> None:
        """Listen to more samples (T,)."""
        frames = self._framer.push(samples)
        power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME))) ** 2
        levels = 10 * np.log10(power @ self._band + _QUIET)
        middles = (self._heard + np.arange(len(frames))) * _HOP + _FRAME / 2
        places = (middles / self._cycle % 1 * len(self._counts)).astype(int)
        np.add.at(self._counts, places, 1)
        np.add.at(self._sums, places, levels)
        np.add.at(self._squares, places, levels**2)
        self._heard += len(frames)

    def in_time(self) -> float:
        """Share of the spectrum's changes, in dB, that the place in the cycle explains: 1 is all of them.

        Adjusted for the number of cycles (Ezekiel 1930): about 0 without a beat. 0 for less than two cycles.
        """
        count, places = self._counts.sum(), (self._counts > 0).sum()
        if count < 2 * len(self._counts):
            return 0.0
        mean = self._sums.sum(0) / count
        total = (self._squares.sum(0) - count * mean**2).sum() / (count - 1)
        explained = self._sums**2 / np.maximum(self._counts, 1)[:, None]
        within = (self._squares - explained).sum() / (count - places)
        return float(1 - within / total) if total > 0 else 0.0
