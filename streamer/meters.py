"""Meters: how loud a sound is, as performers are used to seeing it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.compiling import inner

PEAK, SQUARE = range(2)
"""A meter's words, float64: the decaying peak, and the mean square."""

_FALL_SECONDS = 1.7  # in which a peak falls by 20 dB (IEC 60268-18)
_WINDOW_SECONDS = 0.3
_NOTHING = 1e-12


@dataclass(frozen=True)
class Meter:
    """How loud it is, as linear amplitudes.

    Attributes:
        peak: the greatest sample, falling by 20 dB in 1.7 s.
        rms: root mean square over about 300 ms.
    """

    peak: float
    rms: float


def meter_of(numbers: NDArray[np.float64]) -> Meter:
    """What a meter's words say."""
    return Meter(float(numbers[PEAK]), float(np.sqrt(numbers[SQUARE])))


def falls(rate: int) -> tuple[float, float]:
    """What a peak keeps of itself in a frame, and what a mean square does."""
    return 0.1 ** (1 / (_FALL_SECONDS * rate)), float(np.exp(-1 / (_WINDOW_SECONDS * rate)))


@inner
def measure(
    meter: NDArray[np.float64], sound: NDArray[np.float64], channels: int, keeps: tuple[float, float]
) -> None:
    """Take in sound, float64 [frames * channels], interleaved: the loudest channel's peak, all their mean.

    keeps: of `falls`.
    """
    peak_keeps, mean_keeps = keeps
    peak, square = meter[PEAK], meter[SQUARE]
    for frame in range(sound.size // channels):
        peak *= peak_keeps
        total = 0.0
        for channel in range(channels):
            value = sound[frame * channels + channel]
            peak = max(peak, abs(value))
            total += value * value
        square = total / channels + mean_keeps * (square - total / channels)
    meter[PEAK], meter[SQUARE] = peak, square


@inner
def is_at_rest(meter: NDArray[np.float64]) -> bool:
    """Whether it shows nothing that silence would change; then it shows 0."""
    if meter[SQUARE] < _NOTHING and meter[PEAK] < _NOTHING:
        meter[PEAK] = meter[SQUARE] = 0.0
    return bool(meter[PEAK] == 0.0)
