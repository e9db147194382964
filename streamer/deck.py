"""A deck: one tape being played on a strip of the mixer, faded where its sound begins or ends.

Frame by frame, and therefore the same however the device cuts its blocks, a deck
    - fades in where it was put, and out where another was, at equal power;
    - holds the tape where it is once a fade has reached zero: no sample is skipped or repeated, only faded;
    - fades over the last 2.5 ms of the tape when the producer does not keep up (an *underrun*), holds, and
      goes on from the same place when half the target lead is there again, or 50 ms: waiting for more of a
      deep lead would be a long silence; or the runway, where that is less: a gesture takes back all else,
      a hundred times a second;
    - is *frozen* by passing, at equal power, from the reader to a region of the tape (`streamer.region`). The
      reader goes on during those 10 ms and then holds; thawed, it goes on from there, once there is enough.

Its words begin with those of its reader and its region. The callback alone changes them, until it has LEFT.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.atomics import aligned_words, load, load_acquire, store_release
from streamer.kernels.compiling import inner, part
from streamer.reader import (
    POSITION,
    Filters,
    Words,
    advance,
    bound,
    frames_left,
    read,
    step_of,
    tape_of,
    tune,
    words_at,
)
from streamer.region import (
    AHEAD,
    BEHIND,
    REGION_WORDS,
    SEAM,
    advance_region,
    begin,
    fall,
    follow,
    read_region,
    rise,
)
from streamer.tape import CLAIM, PLAY_HEAD, RUNWAY, TARGET, Tape, claim

Floats = NDArray[np.float64]

FADE_SECONDS = 0.010
REFILL_SECONDS = 0.050
"""An underrun ends when this much is written again, or half the target lead where that is less."""

# What a strip's lanes hold for each frame; rows of a block of float64.
GAIN, PAN, SPEED, FREEZE, LOOP, SCRUB, REVERSE, PLAY = range(8)
STRIP_LANES = ("gain", "pan", "speed", "freeze", "loop", "scrub", "reverse", "play")

# Words: FADE in frames, REFILL in samples; the rest is the callback's. OUT_GAIN as float64.
FADE, REFILL, CONDITION, LEVEL, HELD, FROZEN = range(REGION_WORDS, REGION_WORDS + 6)
IN_AT, IN_LENGTH, OUT_AT, OUT_LENGTH, OUT_GAIN, LEFT = range(REGION_WORDS + 6, REGION_WORDS + 12)
DECK_WORDS = REGION_WORDS + 12

# A strip's counters, which `play` adds to.
UNDERRUNS, SILENT_FRAMES, FRAMES_PLAYED, BAD_SAMPLES = range(4)

ENTERING, RUNNING, WAITING, STARVED = range(4)  # waiting for a first lead is no underrun, being starved is
_STAYS = 1 << 62  # OUT_AT of a deck that is not leaving
STARVED_STEP = 4  # a fade at an underrun is so many times as fast: 2.5 ms


@inner
def fade_gain(level: int, fade: int) -> float:
    """A fade with no corner at either end: 3x^2 - 2x^3, exactly 0 and 1 at its ends."""
    x = level / fade
    return x * x * (3.0 - 2.0 * x)


@inner
def _next_condition(deck: Words, left: int, refilled: bool, opened: bool) -> None:
    """Whether the tape suffices for one more frame and then a whole fade out from this level."""
    if deck[CONDITION] == ENTERING:
        if refilled and opened:
            deck[LEVEL] = deck[FADE]  # the crossfade is its fade in
        deck[CONDITION] = RUNNING if refilled else WAITING
    if refilled:
        deck[CONDITION] = RUNNING
    if deck[CONDITION] == RUNNING and left <= deck[LEVEL] // STARVED_STEP:
        deck[CONDITION] = STARVED if opened else WAITING


@inner
def _next_level(deck: Words, left: int, opened: bool) -> int:
    """The fade's place, 0 (silent) to FADE (full), one frame later; above 0 only with a frame to play."""
    level, held = deck[LEVEL], deck[HELD] == deck[FADE]
    if left <= 0 and not held:
        return 0  # a write head taken back below what was counted on
    if deck[CONDITION] != RUNNING and not held:
        return int(max(0, level - STARVED_STEP))
    return int(min(deck[FADE], level + 1) if opened else max(0, level - 1))


@part
def _freeze(deck: Words, values: Floats, i: int, refilled: bool) -> None:
    """Move between the reader (HELD 0) and the region (HELD = FADE). A deck that leaves stays as it is."""
    loop, scrub, reverse = values[LOOP, i], values[SCRUB, i], values[REVERSE, i] >= 0.5
    stays = deck[OUT_AT] == _STAYS
    if stays:
        deck[FROZEN] = values[FREEZE, i] >= 0.5 or scrub > 0.0
    if deck[FROZEN] != 0:
        if deck[HELD] == 0:
            begin(deck, loop, scrub, reverse)
        elif stays:
            follow(deck, loop, scrub, deck[FADE])
        deck[HELD] = deck[FADE] if deck[LEVEL] == 0 else min(deck[FADE], deck[HELD] + 1)
    elif deck[HELD] > 0 and (refilled or deck[HELD] < deck[FADE]):
        deck[HELD] -= 1


@inner
def _next_sound(deck: Words, reverse: bool) -> float:
    """The sound of this frame, after which reader and region have gone on."""
    held, fade, value = deck[HELD], deck[FADE], 0.0
    if held < fade:
        value = float(read(deck)) * fall(held / fade)
        advance(deck)
    if held > 0:
        value += read_region(deck, fade) * rise(held / fade)
        advance_region(deck, reverse)
    return value


@inner
def _crossfade(deck: Words, frame: int) -> float:
    """The gain of coming and going."""
    gain = 1.0
    if frame < deck[IN_AT] + deck[IN_LENGTH]:
        gain = rise((frame - deck[IN_AT]) / deck[IN_LENGTH])
    if frame >= deck[OUT_AT]:
        gain *= deck.view(np.float64)[OUT_GAIN] * fall((frame - deck[OUT_AT]) / deck[OUT_LENGTH])
    return gain


@part
def _written(deck: Words, values: Floats, count: int) -> int:
    """Claims what so many frames may read; the write head then. What was ever claimed stays so."""
    speeds = values[SPEED, :count]
    reach = bound(deck, count, speeds.min(), speeds.max())
    return claim(tape_of(deck), max(tape_of(deck)[CLAIM], reach))


@inner
def _refill(deck: Words, tape: Words) -> int:
    """The lead with which a deck begins, and goes on after an underrun."""
    return int(min(load_acquire(tape, TARGET) // 2, deck[REFILL], load_acquire(tape, RUNWAY)))


@part
def play(deck: Words, values: Floats, first: int, count: int, mono: Floats, tally: Words) -> None:
    """Add a deck's sound to a strip's.

    Args:
        deck: its words.
        values: float64 [8, at least count], of the strip's lanes.
        first: the frame that these begin with.
        count: how many, at least one.
        mono: float64 [at least count], what is added to.
        tally: the strip's counters.
    """
    tape, frames = tape_of(deck), min(count, deck[OUT_AT] + deck[OUT_LENGTH] - first)
    written = _written(deck, values, count)
    refill, stays = _refill(deck, tape), deck[OUT_AT] == _STAYS
    for i in range(frames):
        tune(deck, values[SPEED, i])
        opened, before = values[PLAY, i] >= 0.5, deck[CONDITION]
        left, refilled = written - deck[POSITION], written - deck[POSITION] >= refill
        _freeze(deck, values, i, refilled)
        left = frames_left(deck, left)
        if deck[HELD] < deck[FADE]:
            _next_condition(deck, left, refilled, opened)
        deck[LEVEL] = _next_level(deck, left, opened)
        starved = deck[CONDITION] == STARVED and stays
        tally[UNDERRUNS] += starved and before != STARVED
        if deck[LEVEL] == 0:
            tally[SILENT_FRAMES] += starved and opened
            continue
        value = _next_sound(deck, values[REVERSE, i] >= 0.5)
        if not np.isfinite(value):
            tally[BAD_SAMPLES] += 1
            continue
        mono[i] += value * (fade_gain(deck[LEVEL], deck[FADE]) * _crossfade(deck, first + i))
        tally[FRAMES_PLAYED] += stays
    store_release(tape, PLAY_HEAD, deck[POSITION])


@inner
def enter(deck: Words, frame: int, length: int) -> None:
    """Begin to play, fading in from this frame on."""
    deck[IN_AT], deck[IN_LENGTH] = frame, length


@inner
def leave(deck: Words, frame: int, length: int) -> None:
    """Fade out from this frame on, from wherever an earlier fade out has got to."""
    gain = 1.0
    if frame >= deck[OUT_AT]:
        gain = deck.view(np.float64)[OUT_GAIN] * fall((frame - deck[OUT_AT]) / deck[OUT_LENGTH])
    deck.view(np.float64)[OUT_GAIN] = gain
    deck[OUT_AT], deck[OUT_LENGTH] = frame, length


@inner
def hurry(deck: Words, frame: int) -> None:
    """Have a deck that leaves be gone after an ordinary fade."""
    if deck[OUT_AT] + deck[OUT_LENGTH] > frame + deck[FADE]:
        leave(deck, frame, deck[FADE])


@inner
def has_ended(deck: Words, frame: int) -> bool:
    """Whether its fade out is over at this frame."""
    return bool(frame >= deck[OUT_AT] + deck[OUT_LENGTH])


@inner
def release(address: int) -> None:
    """Have done with a deck: from now on it may be freed."""
    store_release(words_at(address, DECK_WORDS), LEFT, 1)


@inner
def pace(deck: Words) -> float:
    """Samples a frame by which the tape moves on at present; 0 while it is held."""
    return step_of(deck) if deck[LEVEL] > 0 and deck[HELD] == 0 else 0.0


class Deck:
    """A tape on its way to a strip, on it, or leaving it, and the words that the callback plays it by.

    Args:
        tape: what to play, from its play head on.
        rate: the device's, in Hz.

    Raises:
        DeviceError: no filter leads from the tape's rate to the device's.
    """

    def __init__(self, tape: Tape, rate: int) -> None:
        self.tape = tape
        self._filters = Filters(tape, rate)  # the words hold their addresses
        self._words = aligned_words(DECK_WORDS)
        self._filters.write(self._words)
        self._words[[BEHIND, AHEAD]] = self._filters.behind, self._filters.ahead
        self._words[SEAM] = max(1, round(FADE_SECONDS * tape.rate))
        self._words[FADE] = fade_frames(rate)
        self._words[REFILL] = round(REFILL_SECONDS * tape.rate)
        self._words[OUT_AT] = _STAYS
        self._words.view(np.float64)[OUT_GAIN] = 1.0

    @property
    def address(self) -> int:
        """What the callback finds it by."""
        return int(self._words.ctypes.data)

    @property
    def has_left(self) -> bool:
        """Whether the callback has done with it."""
        return bool(load(self._words, LEFT))


def fade_frames(rate: int) -> int:
    """The frames of an ordinary fade, 10 ms: a multiple of `STARVED_STEP`."""
    return STARVED_STEP * max(1, round(FADE_SECONDS * rate / STARVED_STEP))
