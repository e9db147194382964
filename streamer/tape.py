"""The tape: one voice's samples at the model's rate, written ahead of the play head that follows.

A tape is ONE block of 64-byte aligned int64 words, so that compiled code needs a single address: a header
with a cache line for each index that some thread writes alone, then a ring of float32 samples. Everything
is addressed by *position*, the absolute sample number since the beginning (int64); the ring keeps position
p at index p modulo the capacity.

    write head   the position that the next new sample gets; the producer alone writes it
    play head    the first position that has not yet gone to the device; the audio callback alone writes it
    claim        below it the callback may be reading at this moment; the audio callback alone writes it
    target       the lead that the producer fills up to; the control thread writes it
    margin       how far beyond the claim nothing is taken back; the control thread writes it
    runway       how much is laid at once in place of what is taken back; the control thread writes it
    pace         nanoseconds that a sample takes at least where the lead is comfortable; likewise
    promised     how far the tape reaches as soon as a splice is over, 0 otherwise; the producer writes it
    attention    not 0: the producer's compiled loop returns to Python to see what is wanted

The producer never gets further ahead of the play head than half the capacity. Hence the other half, behind
the play head, stays readable for sinks, however the producer hurries.

What is written but not yet claimed can be replaced: the producer prepares the first of the new samples beside
the tape and lays them onto it in one go (`splice`), so that a machine that stalls while it prepares is not
heard: the play head finds the old samples, then the new. `claim` and `splice` settle who was first, as in
Dekker's mutual exclusion: each announces, then looks at what the other has announced. The play head that
claims reads below the write head that it sees afterwards; the producer looks at the claim afterwards and
leaves all as it was where it came too late.

Compiled producers use `room`, `put`, `publish`, `splice`, `attention` on `Tape.buffer`, a play head `claim`;
everybody else uses the class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.kernels.atomics import aligned_words, fence, load, load_acquire, store, store_release
from streamer.kernels.compiling import compiled
from streamer.models.errors import StreamerError

WRITE_HEAD, PROMISED, PLAY_HEAD, CLAIM = 0, 1, 8, 9  # header: words on a cache line share a writer
TARGET, MARGIN, RUNWAY, PACE_NS, ATTENTION, CAPACITY = 16, 17, 18, 19, 24, 32
HEADER_WORDS = 64
RING_START = HEADER_WORDS * 2  # in float32
SHORTEST_LEAD = 0.010  # seconds; half of it, where the play head goes on, must hold its fade out of 5 ms


class TapeError(StreamerError, ValueError):
    """Samples that are no longer, or not yet, on the tape, or do not fit on it."""


@compiled
def ring_of(tape: NDArray[np.int64]) -> NDArray[np.float32]:
    """The tape's samples, float32 [capacity], position p at index p modulo the capacity. A view."""
    return tape.view(np.float32)[RING_START:]


@compiled
def lead(tape: NDArray[np.int64]) -> int:
    """Samples written and not yet played: never negative, for the play head is read first."""
    played = load_acquire(tape, PLAY_HEAD)
    return int(load_acquire(tape, WRITE_HEAD) - played)


@compiled
def room(tape: NDArray[np.int64]) -> int:
    """Samples that the producer may write now: up to the target lead, never negative.

    A producer must fill what room there is, even if it prefers larger runs: after an underrun the play head
    goes on at half the target, and would wait for ever for a producer that waits for more room.
    """
    return int(max(0, load_acquire(tape, TARGET) - lead(tape)))


@compiled
def put(tape: NDArray[np.int64], position: int, sample: float) -> None:
    """Lays one sample at `position`, below write head + room; nobody sees it before `publish`."""
    ring = ring_of(tape)
    ring[position & (ring.size - 1)] = np.float32(sample)


@compiled
def publish(tape: NDArray[np.int64], position: int) -> None:
    """Moves the write head: every sample below `position` is there."""
    store_release(tape, WRITE_HEAD, position)


@compiled
def claim(tape: NDArray[np.int64], position: int) -> int:
    """Announces that everything below `position` may be read now; returns up to where there is sound.

    That is the write head. While a splice is under way it is lower for less than a microsecond, and what is
    claimed may be read below it; whoever asks for no more is told of what is about to be there.
    """
    store_release(tape, CLAIM, position)
    fence()
    written = load_acquire(tape, WRITE_HEAD)
    return int(written if position > written else max(written, load_acquire(tape, PROMISED)))


@compiled
def splice(tape: NDArray[np.int64], position: int, samples: NDArray[np.float32], count: int) -> bool:
    """Lays samples at `position`, below the write head, and makes void whatever lies beyond them.

    count: how many of them, from the first on.

    Returns:
        False where the play head has claimed what lies there: nothing has changed then.
    """
    written = load_acquire(tape, WRITE_HEAD)
    if load_acquire(tape, CLAIM) > position:
        return False
    store_release(tape, PROMISED, position + count)
    store_release(tape, WRITE_HEAD, position)
    fence()
    in_time = load_acquire(tape, CLAIM) <= position
    if in_time:
        ring = ring_of(tape)
        for index in range(count):
            ring[(position + index) & (ring.size - 1)] = samples[index]
    store_release(tape, WRITE_HEAD, position + count if in_time else written)
    store_release(tape, PROMISED, 0)
    return bool(in_time)


@compiled
def attention(tape: NDArray[np.int64]) -> int:
    """The attention word: not 0 when the producer should return to Python."""
    return int(load_acquire(tape, ATTENTION))


@compiled
def _append(tape: NDArray[np.int64], samples: NDArray[np.float32]) -> None:
    first = load_acquire(tape, WRITE_HEAD)
    for index in range(samples.size):
        put(tape, first + index, samples[index])
    publish(tape, first + samples.size)


@compiled
def _copy(tape: NDArray[np.int64], first: int, samples: NDArray[np.float32]) -> None:
    ring = ring_of(tape)
    for index in range(samples.size):
        samples[index] = ring[(first + index) & (ring.size - 1)]


class Tape:
    """One voice's samples at the model's rate, in a ring, addressed by position.

    Args:
        rate: the model's sample rate in Hz.
        capacity: samples in the ring, a power of two (`ring_size` makes one): half ahead of the play head,
            half behind it.
        target: the lead that the producer keeps, in samples: at least 10 ms, at most half the capacity.
        start: the position of the first sample.

    Raises:
        TapeError: one of these is impossible.
    """

    def __init__(self, rate: int, capacity: int, target: int, start: int = 0) -> None:
        if rate < 1:
            raise TapeError(f"a tape cannot run at {rate} Hz: the rate must be positive")
        if capacity < 2 or capacity & (capacity - 1):
            raise TapeError(f"a tape cannot have {capacity} samples: the capacity must be a power of two")
        self.rate = rate
        self.capacity = capacity
        self.buffer = aligned_words(HEADER_WORDS + capacity // 2)
        """int64 [64 + capacity / 2], for compiled producers and play heads."""
        self.buffer[:] = 0  # touches it all: the system must not have to find memory while we play
        self.buffer[CAPACITY] = capacity
        self.buffer[[WRITE_HEAD, PLAY_HEAD, CLAIM]] = start
        self._beginning = start
        self.target = self.runway = target

    @property
    def write_head(self) -> int:
        """The position that the next new sample gets."""
        return int(load(self.buffer, WRITE_HEAD))

    @property
    def play_head(self) -> int:
        """The first position that has not yet gone to the device."""
        return int(load(self.buffer, PLAY_HEAD))

    @property
    def lead(self) -> int:
        """Samples written and not yet played."""
        return int(lead(self.buffer))

    @property
    def lead_ms(self) -> float:
        """The lead in milliseconds."""
        return self.lead * 1000 / self.rate

    @property
    def target(self) -> int:
        """The lead that the producer fills up to, in samples."""
        return int(load(self.buffer, TARGET))

    @target.setter
    def target(self, samples: int) -> None:
        shortest, longest = round(SHORTEST_LEAD * self.rate), self.capacity // 2
        if not shortest <= samples <= longest:
            raise TapeError(f"a lead of {samples} samples does not fit: choose {shortest} to {longest}")
        store(self.buffer, TARGET, samples)

    @property
    def margin(self) -> int:
        """How many samples beyond what is being played no cue takes back."""
        return int(load(self.buffer, MARGIN))

    @margin.setter
    def margin(self, samples: int) -> None:
        if samples < 0:
            raise TapeError(f"a margin of {samples} samples is impossible: it must be 0 or more")
        store(self.buffer, MARGIN, samples)

    @property
    def runway(self) -> int:
        """How many samples are laid at once in place of those that are taken back, if there are so many."""
        return int(load(self.buffer, RUNWAY))

    @runway.setter
    def runway(self, samples: int) -> None:
        if samples < 1:
            raise TapeError(f"a runway of {samples} samples is impossible: it must be 1 or more")
        store(self.buffer, RUNWAY, samples)

    @property
    def pace_ns(self) -> int:
        """Nanoseconds that a sample takes at least where the lead is comfortable; 0 hurries always."""
        return int(load(self.buffer, PACE_NS))

    @pace_ns.setter
    def pace_ns(self, nanoseconds: int) -> None:
        store(self.buffer, PACE_NS, nanoseconds)

    @property
    def attention(self) -> int:
        """Not 0 when the producer's compiled loop is asked to return to Python; the producer clears it."""
        return int(load(self.buffer, ATTENTION))

    @attention.setter
    def attention(self, reason: int) -> None:
        store(self.buffer, ATTENTION, reason)

    @property
    def oldest(self) -> int:
        """The first position that can still be read."""
        return max(self._beginning, self.play_head - self.capacity // 2)

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """A copy of the samples at `first` to `first + count - 1`: float32 [count].

        Raises:
            TapeError: some of them are not written yet, or were overwritten before they could be copied.
        """
        if count < 0 or first + count > self.write_head:
            raise TapeError(
                f"cannot read positions {first} to {first + count}: the write head is at {self.write_head}"
            )
        samples = np.empty(count, np.float32)
        _copy(self.buffer, first, samples)
        if first < self.oldest:  # asked after the copy: what the producer overwrote meanwhile is below it
            raise TapeError(f"position {first} is no longer on the tape: the oldest is {self.oldest}")
        return samples

    def lay_before(self, samples: NDArray[np.float32]) -> None:
        """Lays samples before the first position, as if they had been played; only before anything else."""
        kept = samples[max(0, len(samples) - self.capacity // 2) :]
        first = self.write_head - len(kept)
        ring_of(self.buffer)[np.arange(first, self.write_head) & (self.capacity - 1)] = kept
        self._beginning = first

    def write(self, samples: ArrayLike) -> None:
        """Appends samples (1-D, within -1 and 1 for full scale) and publishes them; for producers in Python.

        Raises:
            TapeError: the lead would exceed half the capacity.
        """
        block = np.ascontiguousarray(samples, np.float32)
        if block.ndim != 1:
            raise TapeError(f"a tape takes one channel, not an array of shape {block.shape}")
        if self.lead + block.size > self.capacity // 2:
            raise TapeError(
                f"{block.size} samples do not fit: the tape takes {self.capacity // 2 - self.lead} more now"
            )
        _append(self.buffer, block)


def ring_size(samples: int) -> int:
    """The smallest capacity of a tape that holds so many samples: the next power of two."""
    return 1 << max(1, samples - 1).bit_length()
