"""A region of the tape played round and round while the tape is held: freeze, loop, scrub, reverse.

A region is a periodic sound of the tape: its last 10 ms pass into the 10 ms of the tape that lead up to its
start, at equal power, so that it closes without a click and its period is exactly its length. Played
backwards, it is the same sound. A region that moves passes into the new one in 10 ms, as grains do; what is
asked for meanwhile has to wait for that.

It lies before the *anchor*, where the tape was when it was frozen, and its filters look at nothing beyond (so
it ends half a filter before, a few milliseconds at most), nor at what the producer may overwrite. Where there
is too little tape, it is silent.
"""

from __future__ import annotations

import numpy as np

from streamer.kernels.compiling import inner, part
from streamer.kernels.resample import FRACTION_BITS
from streamer.reader import FASTEST, ONE_SAMPLE, POSITION, RATE, READER_WORDS, STEP, Words, look, tape_of
from streamer.tape import CAPACITY

# Words: constant ones, then the region; times of the controls in seconds as float64.
SEAM, BEHIND, AHEAD = range(READER_WORDS, READER_WORDS + 3)  # in samples; the last two of the filters
ANCHOR, LOOP, SCRUB, MOVING = range(READER_WORDS + 3, READER_WORDS + 7)
START, LENGTH, AT = range(READER_WORDS + 7, READER_WORDS + 10)  # AT in 2^-32 samples from START
OLD_START, OLD_LENGTH, OLD_AT = range(READER_WORDS + 10, READER_WORDS + 13)
REGION_WORDS = READER_WORDS + 13

_SLACK = 2 * int(FASTEST)  # seams by which the play head moves while a region fades in or out


@inner
def fall(x: float) -> float:
    """The way out of a crossfade of equal power, from 1 at x = 0 to 0 at 1."""
    return float(np.cos(0.5 * np.pi * x)) if x < 1.0 else 0.0


@inner
def rise(x: float) -> float:
    """The way in."""
    return float(np.sin(0.5 * np.pi * x)) if x < 1.0 else 1.0


@part
def _aim(words: Words, capacity: int, loop: float, scrub: float) -> None:
    """Set START and LENGTH to what the controls ask for, as far as the tape goes."""
    seam = words[SEAM]
    oldest = max(0, words[POSITION] + _SLACK * seam - capacity // 2) + seam + words[BEHIND]
    there = words[ANCHOR] - oldest
    length = min(max(2 * seam, np.int64(np.rint(loop * words[RATE]))), there - words[AHEAD])
    if length < 2 * seam:
        length = 0
    back = min(max(words[AHEAD], np.int64(np.rint(scrub * words[RATE]))), there - length)
    words[START], words[LENGTH] = words[ANCHOR] - back - length, length
    numbers = words.view(np.float64)
    numbers[LOOP], numbers[SCRUB] = loop, scrub


@inner
def begin(words: Words, loop: float, scrub: float, reverse: bool) -> None:
    """Choose a region where the reader is, and go to where it begins."""
    words[ANCHOR] = words[POSITION]
    _aim(words, tape_of(words)[CAPACITY], loop, scrub)
    words[AT] = (words[LENGTH] << FRACTION_BITS) - 1 if reverse and words[LENGTH] > 0 else 0
    words[MOVING] = 0


@inner
def follow(words: Words, loop: float, scrub: float, fade: int) -> None:
    """Move the region where the controls want it, unless it is moving."""
    numbers = words.view(np.float64)
    if words[MOVING] > 0 or (numbers[LOOP] == loop and numbers[SCRUB] == scrub):
        return
    words[OLD_START], words[OLD_LENGTH], words[OLD_AT] = words[START], words[LENGTH], words[AT]
    _aim(words, tape_of(words)[CAPACITY], loop, scrub)
    if words[START] != words[OLD_START] or words[LENGTH] != words[OLD_LENGTH]:
        words[AT] %= max(1, words[LENGTH] << FRACTION_BITS)
        words[MOVING] = fade


@inner
def _read_one(words: Words, start: int, length: int, at: int) -> float:
    if length == 0:
        return 0.0
    position, fraction = start + (at >> FRACTION_BITS), at & (ONE_SAMPLE - 1)
    value = float(look(words, position, fraction))
    passed = at - ((length - words[SEAM]) << FRACTION_BITS)
    if passed <= 0:
        return value
    x = passed / (words[SEAM] << FRACTION_BITS)
    return value * fall(x) + float(look(words, position - length, fraction)) * rise(x)


@part
def read_region(words: Words, fade: int) -> float:
    """The sound of the region where it is."""
    value = _read_one(words, words[START], words[LENGTH], words[AT])
    if words[MOVING] == 0:
        return value
    x = 1.0 - words[MOVING] / fade
    old = _read_one(words, words[OLD_START], words[OLD_LENGTH], words[OLD_AT])
    return old * fall(x) + value * rise(x)


@inner
def advance_region(words: Words, reverse: bool) -> None:
    """Go on in the region by one frame."""
    step = -words[STEP] if reverse else words[STEP]
    words[AT] = (words[AT] + step) % max(1, words[LENGTH] << FRACTION_BITS)
    if words[MOVING] > 0:
        words[MOVING] -= 1
        words[OLD_AT] = (words[OLD_AT] + step) % max(1, words[OLD_LENGTH] << FRACTION_BITS)
