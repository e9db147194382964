"""Automation: numbers that change at exact positions, along lines and by wandering.

A *lane* is one number over time: a tape's samples for a generator's controls, device frames for the mixer's.
It is kept as segments sorted by position, and its value at a position is a function of the segments alone,
whatever the order in which they came. So a generator that is taken back hears again what held there, and a
score rendered later hears what the performance heard.

    SET     the target from the position on
    RAMP    a straight line from the value there to the target, within `length`
    DRIFT   a wandering that is added to all that: a new random number within +-target every `length`,
            smoothly joined (value noise, Perlin 1985), beginning with what the wandering was there

All lanes of one owner are one block of int64 words, so that compiled code needs a single array. Only its
owner touches it. Compiled: `insert`, `value`, `steady_until`, `forget`, `forget_future`, `copy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.atomics import aligned_words
from streamer.kernels.compiling import compiled, inner, part
from streamer.kernels.rng import uniform

SET, RAMP, DRIFT = 0, 1, 2
DEPTH = 256
"""Segments that a lane holds unless asked otherwise."""
NEVER = 2**62
"""A position that is not reached."""

# Words of the block's head, then of a track, then of a segment; targets, limits, knots and starts as float64.
_LANES, _DEPTH = 0, 1
_HEAD = 8
_COUNT, _CURSOR, _DEFAULT, _LOWEST, _HIGHEST = range(5)
_SINCE, _BEFORE, _AFTER = range(5, 8)  # of drifts: where the period last looked at begins, and its knots
_TRACK = 8
_AT, _KIND, _TARGET, _LENGTH, _FROM = range(5)
_SEGMENT = 5

Words = NDArray[np.int64]


def new_lanes(limits: Sequence[tuple[float, float, float]], depth: int = DEPTH) -> Words:
    """Lanes at rest. limits: default, lowest and highest value of each. depth: segments that one holds."""
    lanes = aligned_words(_HEAD + 2 * len(limits) * _track_words(depth))
    lanes[[_LANES, _DEPTH]] = len(limits), depth
    for lane, numbers in enumerate(limits):
        track = lanes[_HEAD + lane * _track_words(depth) :]
        track.view(np.float64)[[_DEFAULT, _LOWEST, _HIGHEST]] = numbers
    lanes[_HEAD + _CURSOR :: _track_words(depth)] = -1
    return lanes


@compiled
def _track_words(depth: int) -> int:
    return _TRACK + depth * _SEGMENT


@inner
def _track(lanes: Words, lane: int) -> int:
    """Where a lane's track of values begins; its wandering has another, as many lanes later."""
    return int(_HEAD + lane * (_TRACK + lanes[_DEPTH] * _SEGMENT))


@inner
def _segment(track: int, index: int) -> int:
    return track + _TRACK + index * _SEGMENT


@inner
def _seek(lanes: Words, track: int, position: int) -> int:
    """The index of the segment that governs a position, -1 before the first; the cursor stays there."""
    index, last = lanes[track + _CURSOR], lanes[track + _COUNT] - 1
    while index < last and lanes[_segment(track, index + 1) + _AT] <= position:
        index += 1
    while index >= 0 and lanes[_segment(track, index) + _AT] > position:
        index -= 1
    lanes[track + _CURSOR] = index
    return int(index)


@inner
def _line(lanes: Words, track: int, index: int, position: int) -> float:
    """The value that segment `index` of a track of values gives a position."""
    numbers = lanes.view(np.float64)
    if index < 0:
        return float(numbers[track + _DEFAULT])
    segment = _segment(track, index)
    passed, length = position - lanes[segment + _AT], lanes[segment + _LENGTH]
    target = numbers[segment + _TARGET]
    if passed >= length:
        return float(target)
    start = numbers[segment + _FROM]
    return float(start + (target - start) * (passed / length))


@inner
def _knot(lanes: Words, track: int, segment: int, number: int) -> float:
    """The wandering's random number at a whole number of periods; the first is where it was."""
    numbers = lanes.view(np.float64)
    if number == 0:
        return float(numbers[segment + _FROM])
    return float(numbers[segment + _TARGET] * (2.0 * uniform(lanes[segment + _AT], track, number) - 1.0))


@part
def _turn(lanes: Words, track: int, segment: int, number: int) -> None:
    """Have a track of drifts hold the knots of a period, which are not drawn for each position anew."""
    numbers = lanes.view(np.float64)
    lanes[track + _SINCE] = lanes[segment + _AT] + number * lanes[segment + _LENGTH]
    numbers[track + _BEFORE] = _knot(lanes, track, segment, number)
    numbers[track + _AFTER] = _knot(lanes, track, segment, number + 1)


@inner
def _wandering(lanes: Words, track: int, index: int, position: int) -> float:
    """What segment `index` of a track of drifts adds at a position."""
    if index < 0:
        return 0.0
    numbers, segment = lanes.view(np.float64), _segment(track, index)
    begins, period = lanes[segment + _AT], lanes[segment + _LENGTH]
    if not begins <= lanes[track + _SINCE] <= position < lanes[track + _SINCE] + period:
        _turn(lanes, track, segment, (position - begins) // period)
    before, after = numbers[track + _BEFORE], numbers[track + _AFTER]
    x = (position - lanes[track + _SINCE]) / period
    return float(before + (after - before) * (x * x * (3.0 - 2.0 * x)))


@compiled
def value(lanes: Words, lane: int, position: int) -> float:
    """A lane's value at a position, within its limits. Positions in order are fastest."""
    track, drifts = _track(lanes, lane), _track(lanes, lane + lanes[_LANES])
    numbers = lanes.view(np.float64)
    total = _line(lanes, track, _seek(lanes, track, position), position)
    if lanes[drifts + _COUNT] > 0:
        total += _wandering(lanes, drifts, _seek(lanes, drifts, position), position)
    return float(min(max(total, numbers[track + _LOWEST]), numbers[track + _HIGHEST]))


@compiled
def steady_until(lanes: Words, lane: int, position: int) -> int:
    """The position up to which the value stays what it is at `position`; that itself where it moves."""
    track, drifts = _track(lanes, lane), _track(lanes, lane + lanes[_LANES])
    if lanes[drifts + _COUNT] > 0:
        return position
    index = _seek(lanes, track, position)
    if index >= 0:
        segment = _segment(track, index)
        if position < lanes[segment + _AT] + lanes[segment + _LENGTH]:
            return position
    if index + 1 < lanes[track + _COUNT]:
        return int(lanes[_segment(track, index + 1) + _AT])
    return NEVER


@inner
def _forget_knots(lanes: Words, track: int) -> None:
    """Segments have changed, or one was asked for what lies beyond it."""
    lanes[track + _SINCE] = NEVER


@inner
def _starts_of(lanes: Words, track: int, wandering: bool, first: int) -> None:
    """Let each segment from `first` on begin where the one before it has got to."""
    numbers = lanes.view(np.float64)
    for index in range(first, lanes[track + _COUNT]):
        segment = _segment(track, index)
        at = lanes[segment + _AT]
        if wandering:
            numbers[segment + _FROM] = _wandering(lanes, track, index - 1, at)
            _forget_knots(lanes, track)
        else:
            numbers[segment + _FROM] = _line(lanes, track, index - 1, at)


@inner
def _drop(lanes: Words, track: int, first: int, count: int) -> None:
    """Take segments out of a track."""
    left = lanes[track + _COUNT] - first - count
    start, behind = _segment(track, first), _segment(track, first + count)
    for word in range(left * _SEGMENT):
        lanes[start + word] = lanes[behind + word]
    lanes[track + _COUNT] -= count
    _forget_knots(lanes, track)
    lanes[track + _CURSOR] = max(-1, min(lanes[track + _CURSOR], lanes[track + _COUNT] - 1))


@inner
def _place(lanes: Words, track: int, position: int, kind: int) -> int:
    """The index that a new segment gets: after all at its position but those that it makes void."""
    index = _seek(lanes, track, position) + 1
    while index > 0:
        before = _segment(track, index - 1)
        if lanes[before + _AT] != position or (kind == RAMP and lanes[before + _KIND] == SET):
            break
        index -= 1
        _drop(lanes, track, index, 1)
    return index


@compiled
def insert(lanes: Words, lane: int, position: int, kind: int, target: float, length: int) -> bool:
    """Have a lane change at a position; of changes at one position the later counts.

    kind: SET, RAMP or DRIFT. length: of a ramp, or a drift's period; at least 1 for those.

    Returns:
        False where the lane is full: nothing has changed then.
    """
    wandering = kind == DRIFT
    track = _track(lanes, lane + lanes[_LANES] if wandering else lane)
    index = _place(lanes, track, position, kind)
    count = lanes[track + _COUNT]
    if count == lanes[_DEPTH]:
        return False
    start, end = _segment(track, index), _segment(track, count)
    for word in range(end - 1, start - 1, -1):
        lanes[word + _SEGMENT] = lanes[word]
    lanes[start + _AT], lanes[start + _KIND] = position, kind
    lanes[start + _LENGTH] = 0 if kind == SET else max(1, length)
    lanes.view(np.float64)[start + _TARGET] = target
    lanes[track + _COUNT] = count + 1
    _starts_of(lanes, track, wandering, index)
    return True


@compiled
def forget(lanes: Words, position: int) -> None:
    """Drop what no value at `position` or later needs."""
    for lane in range(2 * lanes[_LANES]):
        track = _track(lanes, lane)
        governing = _seek(lanes, track, position)
        if governing > 0:
            _drop(lanes, track, 0, governing)
            lanes[track + _CURSOR] = 0


@compiled
def forget_future(lanes: Words, position: int) -> int:
    """Drop all changes that would begin after `position`, and return how many; what moves there moves on."""
    dropped = 0
    for lane in range(2 * lanes[_LANES]):
        track = _track(lanes, lane)
        first = _seek(lanes, track, position) + 1
        count = lanes[track + _COUNT] - first
        _drop(lanes, track, first, count)
        dropped += count
    return int(dropped)


@compiled
def copy(lanes: Words, into: Words) -> None:
    """Have lanes of the same kind hold what these do."""
    into[:_HEAD] = lanes[:_HEAD]
    for lane in range(2 * lanes[_LANES]):
        track = _track(lanes, lane)
        end = _segment(track, lanes[track + _COUNT])
        for word in range(track, end):
            into[word] = lanes[word]


def limits_of(controls: Sequence[Any]) -> list[tuple[float, float, float]]:
    """Default, lowest and highest value of controls, for `new_lanes`."""
    return [(float(c.default), float(c.minimum), float(c.maximum)) for c in controls]
