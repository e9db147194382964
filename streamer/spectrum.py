"""The spectrum of sound as a performer reads it: bands of equal width to the ear, in decibels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST_HZ = 40.0
FLOOR_DB = -90.0

_FEWEST = 16  # samples that have a spectrum worth the name


def band_edges(rate: float, bands: int) -> NDArray[np.float64]:
    """Where bands begin and end, Hz, [bands + 1]: from 40 Hz to half the rate, in equal ratios."""
    return np.geomspace(LOWEST_HZ, rate / 2, bands + 1)


def spectrum_db(samples: NDArray[np.float32], rate: float, bands: int) -> NDArray[np.float64]:
    """The loudest partial of each band, dB [bands]: 0 for a sine at full scale, at least -90.

    samples: mono, [samples], at `rate` (Hz). A band too narrow to have a frequency of its own takes those
    around it.
    """
    if samples.size < _FEWEST:
        return np.full(bands, FLOOR_DB)
    window = np.hanning(samples.size)
    amplitudes = np.abs(np.fft.rfft(samples * window)) * 2 / window.sum()
    places = band_edges(rate, bands) * samples.size / rate  # of the edges, in bins
    firsts = np.clip(np.floor(places[:-1]).astype(int), 0, amplitudes.size - 1)
    ends = np.clip(np.ceil(places[1:]).astype(int), firsts + 1, amplitudes.size)
    loudest = [amplitudes[first:end].max() for first, end in zip(firsts, ends, strict=True)]
    levels: NDArray[np.float64] = np.maximum(20 * np.log10(np.maximum(loudest, 1e-10)), FLOOR_DB)
    return levels
