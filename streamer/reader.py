"""Reading a tape at any speed: the device's rate and varispeed in one, sample by sample.

A reader stands at a position and a fraction of a sample. At speed 1 it goes by exact rational steps from
phase to phase (`streamer.kernels.resample`; equal rates pass bit for bit); at any other by fixed-point steps
of 2^-32 samples, with filters of the same delay, so that the sound has no seam where one becomes the other.
When the speed comes back to 1 between two phases, it runs faster by 0.2 % until it has reached one.

A reader's words begin its deck's. Everything here is compiled, and looks at samples that its caller has made
sure of: `frames_left` says how far it gets, `bound` where a block may reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]
from numpy.typing import NDArray

from streamer.kernels.atomics import address_to_pointer
from streamer.kernels.compiling import inner, part
from streamer.kernels.resample import (
    BANKS_PER_OCTAVE,
    FRACTION_BITS,
    Resampling,
    banks_for,
    between,
    design,
    interpolate,
    renderable,
    speeds,
)
from streamer.models.errors import DeviceError
from streamer.tape import Tape, ring_of

Words = NDArray[np.int64]

FASTEST = 4.0
ONE_SAMPLE = 1 << FRACTION_BITS
_MASK = ONE_SAMPLE - 1
_CATCH_UP = ONE_SAMPLE >> 9  # a frame, towards the next phase
_BLEND = 4.0  # in the first quarter of each half octave, one bank passes into the next

# Words: constant ones, then where the reader is, then what follows from the speed.
TAPE, TAPE_WORDS, RATE, BANK, TAPS, UP, DOWN, DELAY, FILTERS, FILTERS_SIZE, TABLE, BANKS = range(12)
POSITION, EXACT, PHASE, FRACTION = range(12, 16)
SPEED, STEP, LOW, MIX, HALF = range(16, 21)  # SPEED and MIX as float64
READER_WORDS = 21


@inner
def words_at(address: int, count: int) -> Words:
    """The words at an address, int64 [count]."""
    words: Words = carray(address_to_pointer(address), count, np.int64)
    return words


@inner
def tape_of(words: Words) -> Words:
    """The words of the tape that this reader reads."""
    return words_at(words[TAPE], words[TAPE_WORDS])


@inner
def _taps_of(words: Words, bank: Any) -> int:
    """How long the filters of a bank of `streamer.kernels.resample.Speeds` are."""
    return int(words_at(words[TABLE], 2 * words[BANKS])[2 * bank])


@inner
def _octaves(words: Words, speed: float) -> float:
    """How far above the device's rate the tape runs, in banks."""
    return float(BANKS_PER_OCTAVE * np.log2(max(1.0, speed * words[DOWN] / words[UP])))


@inner
def tune(words: Words, speed: float) -> None:
    """Make ready for frames at this speed."""
    numbers = words.view(np.float64)
    if words[EXACT] != 0 and speed != 1.0:
        words[FRACTION] = (words[PHASE] << FRACTION_BITS) // words[UP]
        words[EXACT] = 0
    if numbers[SPEED] == speed:
        return
    numbers[SPEED] = speed
    words[STEP] = np.int64(np.rint(speed * words[DOWN] / words[UP] * ONE_SAMPLE))
    octaves = _octaves(words, speed)
    words[LOW] = np.int64(octaves)
    numbers[MIX] = min(1.0, _BLEND * (octaves - words[LOW]))
    words[HALF] = _taps_of(words, words[LOW] + (numbers[MIX] > 0.0)) // 2


@inner
def frames_left(words: Words, available: int) -> int:
    """Frames that the reader can make at its speed of `available` samples from its position on."""
    if words[EXACT] != 0:
        return int(renderable(available, words[PHASE], words[UP], words[DOWN]))
    room = ((available - words[HALF]) << FRACTION_BITS) + words[DELAY] - words[FRACTION]
    return int((room - 1) // words[STEP] + 1) if room > 0 else 0


@inner
def bound(words: Words, frames: int, slowest: float, fastest: float) -> int:
    """A position that reading so many frames (1 or more), at speeds within these, stays below."""
    if words[EXACT] != 0 and slowest == 1.0 and fastest == 1.0:
        return int(words[POSITION] + (words[PHASE] + (frames - 1) * words[DOWN]) // words[UP] + 1)
    step = fastest * words[DOWN] / words[UP] * ONE_SAMPLE + _CATCH_UP
    half = _taps_of(words, np.int64(_octaves(words, fastest)) + 1) // 2
    way = ONE_SAMPLE + np.int64(frames * step) - words[DELAY]
    return int(words[POSITION] + (way >> FRACTION_BITS) + half + 2)


@part
def _filtered(words: Words, bank: int, position: int, fraction: int) -> Any:
    filters = carray(address_to_pointer(words[FILTERS]), words[FILTERS_SIZE], np.float32)
    start = words_at(words[TABLE], 2 * words[BANKS])[2 * bank + 1]
    return between(filters, start, _taps_of(words, bank), ring_of(tape_of(words)), position, fraction)


@part
def look(words: Words, position: int, fraction: int) -> Any:
    """The sound at a position and a fraction of a sample (2^-32), by the filters of the present speed."""
    at = fraction - words[DELAY]
    newest, part = position + (at >> FRACTION_BITS), at & _MASK
    low, mix = words[LOW], np.float32(words.view(np.float64)[MIX])
    if mix == 0.0:
        return _filtered(words, low, newest, part)
    value = _filtered(words, low + 1, newest, part)
    if mix < 1.0:
        lower = _filtered(words, low, newest, part)
        value = lower + mix * (value - lower)
    return value


@inner
def read(words: Words) -> Any:
    """The sound where the reader is; without a filter the very sample."""
    if words[EXACT] == 0:
        return look(words, words[POSITION], words[FRACTION])
    ring = ring_of(tape_of(words))
    if words[TAPS] == 0:
        return ring[words[POSITION] & (ring.size - 1)]
    bank = carray(address_to_pointer(words[BANK]), (words[UP], words[TAPS]), np.float32)
    return interpolate(bank, words[PHASE], ring, words[POSITION])


@inner
def advance(words: Words) -> None:
    """Go on by one frame."""
    up = words[UP]
    if words[EXACT] != 0:
        phase = words[PHASE] + words[DOWN]
        words[POSITION] += phase // up
        words[PHASE] = phase % up
        return
    fraction = words[FRACTION] + words[STEP]
    if words.view(np.float64)[SPEED] == 1.0:
        phase = -(-fraction * up >> FRACTION_BITS)  # the next one, rounded up
        if (phase << FRACTION_BITS) - fraction * up <= _CATCH_UP * up:
            words[EXACT], words[PHASE] = 1, phase % up
            words[POSITION] += phase // up
            return
        fraction += _CATCH_UP
    words[POSITION] += fraction >> FRACTION_BITS
    words[FRACTION] = fraction & _MASK


@inner
def place_of(words: Words) -> float:
    """The position with its fraction."""
    if words[EXACT] != 0:
        return float(words[POSITION] + words[PHASE] / words[UP])
    return float(words[POSITION] + words[FRACTION] / ONE_SAMPLE)


@inner
def step_of(words: Words) -> float:
    """Samples that the reader goes on by in a frame."""
    if words[EXACT] != 0:
        return float(words[DOWN] / words[UP])
    return float(words[STEP] / ONE_SAMPLE)


class Filters:
    """All filters from a tape's rate to a device's, and a reader's first words."""

    def __init__(self, tape: Tape, rate: int) -> None:
        self._exact = _design(tape.rate, rate)
        self._speeds = speeds(banks_for(FASTEST * tape.rate / rate))
        self._tape = tape

    @property
    def behind(self) -> int:
        """How many samples before a position are looked at, at most."""
        return int(self._speeds.table[-1, 0]) // 2 + int(self._exact.delay) + 1

    @property
    def ahead(self) -> int:
        """How many samples after a position are looked at, at most."""
        return max(0, int(self._speeds.table[-1, 0]) // 2 - int(self._exact.delay)) + 1

    def write(self, words: Words) -> None:
        """Put a reader of the tape, where it was last played, into its words."""
        exact, speed, tape = self._exact, self._speeds, self._tape
        words[[TAPE, TAPE_WORDS, RATE]] = tape.buffer.ctypes.data, tape.buffer.size, tape.rate
        words[[BANK, TAPS]] = exact.bank.ctypes.data, exact.bank.shape[1]
        words[[UP, DOWN]] = exact.up, exact.down
        words[DELAY] = round(exact.delay * ONE_SAMPLE)
        words[[FILTERS, FILTERS_SIZE]] = speed.filters.ctypes.data, speed.filters.size
        words[[TABLE, BANKS]] = speed.table.ctypes.data, len(speed.table)
        words[[POSITION, EXACT]] = tape.play_head, 1
        words.view(np.float64)[SPEED] = np.nan  # tuned with the first frame


def _design(source_rate: int, target_rate: int) -> Resampling:
    try:
        return design(source_rate, target_rate)
    except ValueError as problem:
        raise DeviceError(str(problem)) from problem
