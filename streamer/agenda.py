"""What the mixer has been told and has yet to do: cues leave their queue, decks wait for their frame.

Changes of lanes go to the lanes, which know the future by themselves. Decks that are to come, or to go, wait
in a list sorted by frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.cues import AT, CLEAR, KIND, LANE, LENGTH, REFUSED, TARGET, entry_at, taken, took, waiting
from streamer.deck import release
from streamer.kernels.compiling import inner, part
from streamer.lanes import NEVER, forget, forget_future, insert
from streamer.strip import STRIPS, lane

DECK = 4
"""A kind of entry: its lane is a strip's number, its target a deck's address or 0, its length the fade's."""
PENDING = 64
"""Decks that may wait."""

LANES = lane(STRIPS, "play") + 1
"""How many lanes a mixer has."""

# Words: how many wait, then four for each.
_COUNT, _FIRST = 0, 4
WHEN, STRIP, ADDRESS, FADE = range(4)
_ITEM = 4
AGENDA_WORDS = _FIRST + PENDING * _ITEM

Words = NDArray[np.int64]


@inner
def item(index: int) -> int:
    """Where the words of one that waits begin: WHEN, STRIP, ADDRESS, FADE."""
    return _FIRST + index * _ITEM


@inner
def next_frame(agenda: Words) -> int:
    """When the next deck comes or goes."""
    return int(agenda[item(0) + WHEN]) if agenda[_COUNT] > 0 else NEVER


@inner
def drop_first(agenda: Words) -> None:
    """The next deck has come or gone."""
    agenda[_COUNT] -= 1
    for word in range(item(0), item(agenda[_COUNT])):
        agenda[word] = agenda[word + _ITEM]


@inner
def _add(agenda: Words, at: int, strip: int, address: Any, fade: int) -> bool:
    """Have a deck wait, behind all others of its frame; False where it cannot."""
    if agenda[_COUNT] == PENDING or not 1 <= strip <= STRIPS:
        if address != 0:
            release(address)
        return False
    index = agenda[_COUNT]
    while index > 0 and agenda[item(index - 1) + WHEN] > at:
        for word in range(_ITEM):
            agenda[item(index) + word] = agenda[item(index - 1) + word]
        index -= 1
    place = item(index)
    agenda[place + WHEN], agenda[place + STRIP] = at, strip
    agenda[place + ADDRESS], agenda[place + FADE] = address, fade
    agenda[_COUNT] += 1
    return True


@inner
def _clear(agenda: Words, frame: int) -> None:
    """Forget the decks that would come or go after a frame."""
    while agenda[_COUNT] > 0 and agenda[item(agenda[_COUNT] - 1) + WHEN] > frame:
        agenda[_COUNT] -= 1
        address = agenda[item(agenda[_COUNT]) + ADDRESS]
        if address != 0:
            release(address)


@part
def take_cues(queue: Words, lanes: Words, agenda: Words, frame: int) -> None:
    """Take what waits in the queue, at this frame or later."""
    first, last = waiting(queue)
    if first == last:
        return
    forget(lanes, frame)
    numbers = queue.view(np.float64)
    for serial in range(first, last):
        entry = entry_at(queue, serial)
        at, number, kind = max(frame, queue[entry + AT]), queue[entry + LANE], queue[entry + KIND]
        target, length, done = numbers[entry + TARGET], queue[entry + LENGTH], True
        if kind == DECK:
            done = _add(agenda, at, number, np.int64(target), length)
        elif kind == CLEAR:
            forget_future(lanes, at)
            _clear(agenda, at)
        else:
            done = 0 <= number < LANES and insert(lanes, number, at, kind, target, length)
        took(queue, serial, at if done else REFUSED)
    taken(queue, last)
