"""Cues: changes at exact places, and the queue on which they reach whoever plays.

A performer's `Cue` names a voice and a control. What the generator or the mixer get are `Entry`s: a lane, how
it changes, and where: at a position of the tape, at a frame of the device, or as soon as possible. The
consumer alone decides where an entry takes effect, since it alone knows what is still to come, and writes it
back: that is what a score is made of.

A `CueQueue` has one consumer, compiled and free of locks (a generator, or the audio callback), and producers
in Python that share a lock of their own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer.controls import Value
from streamer.kernels.atomics import aligned_words, load, load_acquire, store, store_release
from streamer.kernels.compiling import compiled
from streamer.models.errors import ControlError

ASAP = -1
"""An entry's place: the earliest that can be had."""
REFUSED = -2
"""Where an entry took effect that had no room in its lane: nowhere."""
CLEAR = 3
"""A kind beside those of `streamer.lanes`: drop everything that lies in the future."""
SIZE = 1024
"""Entries that may wait; a power of two."""

# Words of a queue's head, a cache line for each side; then entries of eight words, the target as float64.
_PUT, _TAKEN, _HEAD = 0, 8, 16
LANE, KIND, TARGET, LENGTH, AT, _TOOK = range(6)
_ENTRY = 8
_PATIENCE = 0.25  # seconds: ten blocks of the slowest device; a lost one must not hold up who sends cues

Words: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Cue:
    """What a performer asks for.

    Attributes:
        voice: 1 to 16; 0 is the master.
        control: a name of `streamer.controls.CONTROLS`.
        value: as `streamer.controls.parse` returns it.
        action: set it, move there in a straight line, or let it wander within +-value.
        seconds: how long a ramp takes; the period of a drift.
        after: seconds later than the moment that the cue is given for: an envelope is several such ramps.
    """

    voice: int
    control: str
    value: Value
    action: Literal["set", "ramp", "drift"] = "set"
    seconds: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A cue as its consumer takes it.

    Attributes:
        lane: which lane changes. kind: of `streamer.lanes`, or one of the consumer's own. target: the value.
        length: of a ramp or a period, in the consumer's samples or frames.
        at: the position or frame wanted, or `ASAP`.
    """

    lane: int
    kind: int
    target: float
    length: int = 0
    at: int = ASAP


@dataclass(frozen=True)
class Taken:
    """An entry that has been taken, and where: a position or frame, or `REFUSED`."""

    serial: int
    entry: Entry
    at: int


@compiled
def waiting(queue: Words) -> tuple[int, int]:
    """The serials that wait to be taken: from the first up to, not including, the second."""
    return int(queue[_TAKEN]), int(load_acquire(queue, _PUT))


@compiled
def entry_at(queue: Words, serial: int) -> int:
    """Where an entry's words begin: LANE, KIND, TARGET (as float64), LENGTH, AT."""
    return int(_HEAD + (serial & (SIZE - 1)) * _ENTRY)


@compiled
def took(queue: Words, serial: int, at: int) -> None:
    """Say where an entry takes effect; `taken` publishes it."""
    queue[entry_at(queue, serial) + _TOOK] = at


@compiled
def taken(queue: Words, last: int) -> None:
    """All entries below `last` are taken, and their places said."""
    store_release(queue, _TAKEN, last)


class CueQueue:
    """Entries on their way from control threads to one compiled consumer."""

    def __init__(self) -> None:
        self.words = aligned_words(_HEAD + SIZE * _ENTRY)
        """For `waiting`, `entry_at`, `took`, `taken`."""
        self._lock = threading.Lock()
        self._read = 0
        self._reaped: deque[Taken] = deque()

    def push(self, entries: Sequence[Entry]) -> int:
        """Have entries taken, all at once, and return the first one's serial; the others' follow.

        Raises:
            ControlError: they are too many, or the consumer has stopped taking any.
        """
        if len(entries) > SIZE:
            raise ControlError(f"{len(entries)} changes at once are too many: send at most {SIZE}")
        with self._lock:
            first = int(load(self.words, _PUT))
            self._make_room(first + len(entries))
            numbers = self.words.view(np.float64)
            for serial, entry in enumerate(entries, first):
                at = entry_at(self.words, serial)
                self.words[at + LANE], self.words[at + KIND] = entry.lane, entry.kind
                self.words[at + LENGTH], self.words[at + AT] = entry.length, entry.at
                numbers[at + TARGET] = entry.target
            store(self.words, _PUT, first + len(entries))
        return first

    def reap(self) -> list[Taken]:
        """All entries taken since the last call, in the order in which they were."""
        with self._lock:
            self._collect()
            found = list(self._reaped)
            self._reaped.clear()
        return found

    @property
    def is_empty(self) -> bool:
        """Whether all that was pushed has been taken."""
        return bool(load(self.words, _PUT) == load(self.words, _TAKEN))

    def _make_room(self, last: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        self._collect()
        while last - self._read > SIZE:
            if time.monotonic() > deadline:
                raise ControlError(f"{SIZE} changes wait already, and nobody plays; try again later")
            time.sleep(0.0005)
            self._collect()

    def _collect(self) -> None:
        """Read back what the consumer has said of entries that it has taken."""
        numbers = self.words.view(np.float64)
        for serial in range(self._read, int(load(self.words, _TAKEN))):
            at = entry_at(self.words, serial)
            lane, kind, _, length, wanted, place = (int(word) for word in self.words[at : at + _ENTRY - 2])
            entry = Entry(lane, kind, float(numbers[at + TARGET]), length, wanted)
            self._reaped.append(Taken(serial, entry, place))
            self._read = serial + 1
