"""A strip of the mixer: a deck in play and those that leave, their gain, meter and pan.

    words    its counters, its meter, where its tape is and how fast that moves, its decks
    lanes    how its controls move; `streamer.deck` says which

Compiled: `change` has another deck follow, `mix` adds a strip's sound to the output.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.deck import (
    DECK_WORDS,
    GAIN,
    IN_AT,
    PAN,
    STRIP_LANES,
    enter,
    has_ended,
    hurry,
    leave,
    pace,
    play,
    release,
)
from streamer.kernels.compiling import inner, part
from streamer.lanes import steady_until, value
from streamer.meters import is_at_rest, measure
from streamer.reader import place_of, words_at

STRIPS = 16
CHUNK = 128
"""Frames between two looks at lanes and tapes."""

# Words of a strip: its counters (of `streamer.deck`), then these; all but DECKS as float64.
METER, PLACE, PACE, DECKS = 4, 6, 7, 8
STRIP_WORDS = 16
_DECKS = 4  # the one in play, then those that leave, the youngest first; a third hurries the oldest

Words = NDArray[np.int64]
Floats = NDArray[np.float64]


class Scratch(NamedTuple):
    """Where strips are mixed.

    values: float64 [8, CHUNK], of a strip's lanes. mono: float64 [CHUNK], its sound. bus: float64
    [CHUNK * channels], the output, interleaved.
    """

    values: Floats
    mono: Floats
    bus: Floats


def lane(strip: int, name: str) -> int:
    """The number of a lane for a cue's `Entry`: of strip 1 to 16, or of the master, 0.

    name: of `streamer.deck.STRIP_LANES`, or "volume".
    """
    return 0 if strip == 0 else 1 + (strip - 1) * len(STRIP_LANES) + STRIP_LANES.index(name)


@part
def fill(lanes: Words, number: int, frame: int, values: Floats) -> None:
    """A lane's values at this frame and the following ones."""
    steady = steady_until(lanes, number, frame) - frame
    if steady >= values.size:
        values[:] = value(lanes, number, frame)
        return
    for i in range(values.size):
        values[i] = value(lanes, number, frame + i)


@part
def change(strip: Words, address: int, frame: int, length: int) -> None:
    """Have the deck in play leave within `length` frames, and the one at `address` (0: none) come."""
    length = max(1, length)
    decks = strip[DECKS : DECKS + _DECKS]
    if decks[0] != 0 and words_at(decks[0], DECK_WORDS)[IN_AT] == frame:
        release(decks[0])  # two at one frame: the later counts
    elif decks[0] != 0:
        _let_leave(decks, frame, length)
    decks[0] = address
    if address != 0:
        enter(words_at(address, DECK_WORDS), frame, length)


@inner
def _let_leave(decks: Words, frame: int, length: int) -> None:
    """Have the deck in play leave. When it is the third, the oldest has its last fade; a fourth cuts that."""
    if decks[_DECKS - 1] != 0:
        release(decks[_DECKS - 1])
    for slot in range(_DECKS - 1, 0, -1):
        decks[slot] = decks[slot - 1]
    youngest = words_at(decks[1], DECK_WORDS)
    leave(youngest, frame, length)
    if decks[_DECKS - 1] != 0:
        hurry(words_at(decks[_DECKS - 1], DECK_WORDS), frame)


@inner
def _let_go(decks: Words, frame: int) -> None:
    """Take out the decks that have ended before this frame."""
    kept = 1
    for slot in range(1, _DECKS):
        address, decks[slot] = decks[slot], 0
        if address != 0 and has_ended(words_at(address, DECK_WORDS), frame):
            release(address)
        elif address != 0:
            decks[kept] = address
            kept += 1


@inner
def _pan(values: Floats, mono: Floats, bus: Floats, channels: int) -> None:
    """Add mono sound at its place between left and right: at equal power, untouched at the centre."""
    left, right, last = 1.0, 1.0, 0.0
    for i in range(mono.size):
        pan = values[PAN, i]
        if pan != last:
            last, angle = pan, (pan + 1.0) * 0.25 * np.pi
            left, right = np.sqrt(2.0) * np.cos(angle), np.sqrt(2.0) * np.sin(angle)
            if pan == 0.0 or channels == 1:
                left = right = 1.0
        for channel in range(channels):
            bus[i * channels + channel] += mono[i] * (left if channel % 2 == 0 else right)


@part
def mix(
    strip: Words,
    number: int,
    lanes: Words,
    frame: int,
    count: int,
    scratch: Scratch,
    keeps: tuple[float, float],
) -> None:
    """Add `count` frames (at most CHUNK) of a strip to the bus.

    Args:
        strip: its words.
        number: 1 to 16.
        lanes: all lanes, as `lane` numbers them.
        frame: the first one's number.
        count: how many; no deck of this strip comes within them.
        scratch: where to.
        keeps: of `streamer.meters.falls`.
    """
    decks, meter = strip[DECKS : DECKS + _DECKS], strip.view(np.float64)[METER : METER + 2]
    values, mono = scratch.values, scratch.mono[:count]
    mono[:] = 0.0
    if decks[0] == 0 and decks[1] == 0:
        if not is_at_rest(meter):
            measure(meter, mono, 1, keeps)
        return
    first_lane = 1 + (number - 1) * values.shape[0]
    for row in range(values.shape[0]):
        fill(lanes, first_lane + row, frame, values[row, :count])
    for slot in range(_DECKS):
        if decks[slot] != 0:
            play(words_at(decks[slot], DECK_WORDS), values, frame, count, mono, strip)
    _let_go(decks, frame + count)
    for i in range(count):
        mono[i] *= values[GAIN, i]
    measure(meter, mono, 1, keeps)
    _pan(values, mono, scratch.bus, scratch.bus.size // CHUNK)


@inner
def note_place(strip: Words) -> None:
    """Write down where the tape in play is, and how fast it moves."""
    numbers, address = strip.view(np.float64), strip[DECKS]
    if address == 0:
        numbers[PLACE] = numbers[PACE] = 0.0
        return
    deck = words_at(address, DECK_WORDS)
    numbers[PLACE], numbers[PACE] = place_of(deck), pace(deck)
