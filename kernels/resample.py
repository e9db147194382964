"""Polyphase resampling by an exact rational factor, one output sample at a time, with a small constant delay.

Between two rates in the ratio up : down, output sample m lies at input position m * down / up. Its fraction
of an input sample has one of `up` values, the *phases*, and each phase has a filter of its own: the slices
of one Kaiser-windowed sinc (Crochiere and Rabiner, "Multirate Digital Signal Processing", 1983). A live
block therefore always gives the number of frames that it was asked for, after a delay of about half the
taps: 2 ms at 16 kHz, where soxr's better settings take 38 ms or more and give bursts.

Between two rates whose ratio moves (`speeds`, `between`), a sample may lie anywhere between two others: its
filter is taken between the two nearest of `SPEED_PHASES` phases (Smith and Gossett, "A flexible sampling-rate
conversion method", 1984), which keeps images 80 dB down. Where the tape runs faster than the device, what the
device cannot hold is filtered out by a bank of longer filters for each half octave of that ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, gcd, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.compiling import compiled, inner_sum

TAPS = 64  # flat to 0.9 of the lower Nyquist frequency; 96 would reach 0.94, for 1 ms more delay at 16 kHz
STOPBAND_DB = 100.0
_TAPS_STEP = 16  # one AVX-512 register of float32
_LARGEST_BANK = 1 << 22  # taps in all phases together: 16 MiB
SPEED_PHASES = 128  # a line between two phases is off by (pi / phases)^2 / 8 at most: -82 dB
BANKS_PER_OCTAVE = 2
FRACTION_BITS = 32  # of a position between two samples


@dataclass(frozen=True, eq=False)
class Resampling:
    """How to get from one rate to another.

    Attributes:
        up: output frames for every `down` input samples; `up` and `down` have no common factor.
        down: see `up`.
        bank: float32 [up, taps], one filter a phase, oldest sample first, each with a DC gain of 1; taps is 0
            when the rates are equal, and samples pass untouched.
    """

    up: int
    down: int
    bank: NDArray[np.float32]

    @property
    def delay(self) -> float:
        """Group delay in input samples."""
        phases, taps = self.bank.shape
        return (taps * phases - 1) / 2 / phases if taps else 0.0


def design(source_rate: int, target_rate: int) -> Resampling:
    """The filters from `source_rate` to `target_rate`, both in Hz.

    Raises:
        ValueError: a rate is not positive, or the two have so little in common that the bank would be huge.
    """
    if source_rate < 1 or target_rate < 1:
        raise ValueError(f"cannot resample from {source_rate} Hz to {target_rate} Hz: rates must be positive")
    common = gcd(source_rate, target_rate)
    up, down = target_rate // common, source_rate // common
    if up == down:
        return Resampling(1, 1, np.zeros((1, 0), np.float32))
    taps = ceil(TAPS * max(1.0, down / up) / _TAPS_STEP) * _TAPS_STEP
    if up * taps > _LARGEST_BANK:
        raise ValueError(
            f"cannot resample from {source_rate} Hz to {target_rate} Hz: their ratio {up}/{down} is too odd; "
            "choose a device rate such as 44100 or 48000 Hz"
        )
    return Resampling(up, down, _bank(up, down, taps))


def _bank(up: int, down: int, taps: int) -> NDArray[np.float32]:
    """Kaiser-windowed sinc cut at the lower Nyquist frequency: float32 [up, taps]."""
    beta = 0.1102 * (STOPBAND_DB - 8.7)  # Kaiser's formula
    cutoff = 0.5 / max(up, down)  # in cycles a sample at `up` times the source rate
    time = np.arange(taps * up) - (taps * up - 1) / 2
    prototype = np.sinc(2 * cutoff * time) * np.kaiser(taps * up, beta)
    bank = prototype.reshape(taps, up).T[:, ::-1]
    return np.ascontiguousarray(bank / bank.sum(axis=1, keepdims=True), np.float32)


@dataclass(frozen=True, eq=False)
class Speeds:
    """Filters for reading at any speed, one bank for each half octave above the device's rate.

    Attributes:
        table: int64 [banks, 2], of each bank the taps of a phase, and where it begins in `filters`.
        filters: float32, for each bank [SPEED_PHASES + 1, taps], oldest sample first, each with a DC gain of
            1. The last phase is the first, one sample later.
    """

    table: NDArray[np.int64]
    filters: NDArray[np.float32]


@cache
def speeds(banks: int) -> Speeds:
    """Banks for input samples a frame of up to 2^((banks - 1) / BANKS_PER_OCTAVE)."""
    made = [_speed_bank(2.0 ** (-bank / BANKS_PER_OCTAVE)) for bank in range(banks)]
    starts = np.cumsum([0, *(bank.size for bank in made[:-1])])
    table = np.array([[bank.shape[1], start] for bank, start in zip(made, starts, strict=True)], np.int64)
    return Speeds(table, np.concatenate([bank.reshape(-1) for bank in made]))


def banks_for(ratio: float) -> int:
    """How many banks read up to `ratio` input samples a frame."""
    return int(BANKS_PER_OCTAVE * log2(max(1.0, ratio))) + 2


def _speed_bank(cutoff: float) -> NDArray[np.float32]:
    """Kaiser-windowed sinc, cut at `cutoff` of the input's Nyquist frequency: float32 [phases + 1, taps]."""
    taps = ceil(TAPS / cutoff / _TAPS_STEP) * _TAPS_STEP
    beta = 0.1102 * (STOPBAND_DB - 8.7)
    phase = np.arange(SPEED_PHASES + 1)[:, None] / SPEED_PHASES
    time = phase + taps // 2 - 1 - np.arange(taps)
    window = np.i0(beta * np.sqrt(np.maximum(0.0, 1 - (time / (taps / 2)) ** 2)))
    bank = np.sinc(cutoff * time) * window
    return np.ascontiguousarray(bank / bank.sum(axis=1, keepdims=True), np.float32)


@compiled
def renderable(available: int, phase: int, up: int, down: int) -> int:
    """Output frames that can be made of `available` input samples, the next frame being at `phase`."""
    if available <= 0:
        return 0
    return (available * up - 1 - phase) // down + 1


@inner_sum
def interpolate(bank: NDArray[np.float32], phase: int, ring: NDArray[np.float32], newest: int) -> Any:
    """The output sample (float32) at `phase` whose newest input sample is at position `newest` of a ring.

    Args:
        bank: float32 [up, taps].
        phase: 0 to up - 1.
        ring: float32 [a power of two], holding the taps samples up to `newest`.
        newest: absolute position; the ring holds position p at index p modulo its length.
    """
    taps = bank.shape[1]
    start = (newest - taps + 1) & (ring.size - 1)
    straight = min(taps, ring.size - start)
    row = bank[phase]
    window = ring[start : start + straight]
    total = np.float32(0.0)
    for tap in range(straight):
        total += row[tap] * window[tap]
    wrapped = row[straight:]
    for tap in range(taps - straight):
        total += wrapped[tap] * ring[tap]
    return total


@inner_sum
def between(
    filters: NDArray[np.float32],
    start: int,
    taps: int,
    ring: NDArray[np.float32],
    position: int,
    fraction: int,
) -> Any:
    """The sound (float32) a fraction of a sample after a position, by one bank of `Speeds`.

    Args:
        filters: of `Speeds`.
        start: where the bank begins in it.
        taps: of one of its phases; half of them lie after `position`.
        ring: float32 [a power of two], position p at index p modulo its length.
        position: absolute.
        fraction: 0 to 2^FRACTION_BITS - 1.
    """
    scaled = fraction * SPEED_PHASES
    row = start + (scaled >> FRACTION_BITS) * taps
    weight = np.float32((scaled & ((1 << FRACTION_BITS) - 1)) / (1 << FRACTION_BITS))
    before, after = filters[row : row + taps], filters[row + taps : row + 2 * taps]
    first = (position - taps // 2 + 1) & (ring.size - 1)
    straight = min(taps, ring.size - first)
    window = ring[first : first + straight]
    total, later = np.float32(0.0), np.float32(0.0)
    for tap in range(straight):
        total += before[tap] * window[tap]
        later += after[tap] * window[tap]
    for tap in range(straight, taps):
        total += before[tap] * ring[tap - straight]
        later += after[tap] * ring[tap - straight]
    return total + weight * (later - total)
