"""The tape: what was written is read back until the ring needs the place; and two threads agree."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.kernels.atomics import (
    CACHE_LINE_WORDS,
    aligned_words,
    clock_ns,
    load_acquire,
    sleep_us,
    store,
    store_release,
)
from streamer.kernels.compiling import compiled
from streamer.models.errors import StreamerError
from streamer.tape import (
    CLAIM,
    PLAY_HEAD,
    PROMISED,
    WRITE_HEAD,
    Tape,
    TapeError,
    attention,
    claim,
    lead,
    publish,
    put,
    ring_of,
    ring_size,
    room,
    splice,
)

RATE = 1000  # Hz: 10 samples are the shortest lead
CAPACITY = 64


def numbered(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)


def play(tape: Tape, count: int) -> None:
    store(tape.buffer, PLAY_HEAD, tape.play_head + count)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_everything_from_the_oldest_to_the_write_head_is_there(steps: list[tuple[int, int]]) -> None:
    tape = Tape(RATE, CAPACITY, 32)
    for written, played in steps:
        tape.write(numbered(tape.write_head, min(written, CAPACITY // 2 - tape.lead)))
        play(tape, min(played, tape.lead))
        assert tape.lead == tape.write_head - tape.play_head == lead(tape.buffer)
        assert tape.lead_ms == tape.lead
        assert tape.oldest == max(0, tape.play_head - CAPACITY // 2)
        history = tape.read(tape.oldest, tape.write_head - tape.oldest)
        np.testing.assert_array_equal(history, numbered(tape.oldest, len(history)))


def test_reading_ahead_of_the_write_head_or_behind_the_ring_is_refused() -> None:
    tape = Tape(RATE, CAPACITY, 32)
    for _ in range(5):
        tape.write(numbered(tape.write_head, 20))
        play(tape, 20)
    assert (tape.write_head, tape.oldest) == (100, 68)
    assert len(tape.read(68, 32)) == 32
    for first, count in [(67, 2), (-1, 1), (99, 2), (100, 1), (100, -1)]:
        with pytest.raises(TapeError):
            tape.read(first, count)


def test_what_is_read_is_a_copy() -> None:
    tape = Tape(RATE, CAPACITY, 32)
    tape.write([1, 2, 3])
    tape.read(0, 3)[:] = 0
    assert tape.read(0, 3).tolist() == [1, 2, 3]


def test_a_tape_takes_no_more_than_half_its_capacity_ahead() -> None:
    tape = Tape(RATE, CAPACITY, 32)
    tape.write(np.zeros(30))
    with pytest.raises(TapeError, match="takes 2 more"):
        tape.write(np.zeros(3))
    assert tape.write_head == 30
    with pytest.raises(TapeError, match="one channel"):
        tape.write(np.zeros((2, 1)))


def test_room_is_what_is_missing_to_the_target() -> None:
    tape = Tape(RATE, CAPACITY, 16)
    assert room(tape.buffer) == 16
    tape.write(np.zeros(10))
    assert room(tape.buffer) == 6
    tape.target = 32
    assert room(tape.buffer) == 22
    tape.write(np.zeros(20))
    tape.target = 10
    assert room(tape.buffer) == 0


def test_a_tape_begins_anywhere() -> None:
    tape = Tape(RATE, CAPACITY, 32, start=2**40)
    assert (tape.write_head, tape.play_head, tape.oldest) == (2**40, 2**40, 2**40)
    tape.write(numbered(1, 20))
    assert tape.read(2**40, 20).tolist() == numbered(1, 20).tolist()
    assert claim(tape.buffer, 2**40 + 7) == 2**40 + 20
    assert not splice(tape.buffer, 2**40 + 6, numbered(0, 5), 5)
    assert splice(tape.buffer, 2**40 + 7, numbered(0, 5), 5)
    assert tape.read(2**40, 12).tolist() == [*range(1, 8), *range(5)]
    with pytest.raises(TapeError, match="no longer on the tape"):
        tape.read(2**40 - 1, 2)


@pytest.mark.parametrize("count", [0, 1, 32, 50])
def test_what_was_laid_before_can_be_read_as_if_it_had_been_played(count: int) -> None:
    tape = Tape(RATE, CAPACITY, 32, start=100)
    tape.lay_before(numbered(100 - count, count))
    kept = min(count, CAPACITY // 2)
    assert (tape.write_head, tape.lead, tape.oldest) == (100, 0, 100 - kept)
    tape.write(numbered(100, 32))
    history = tape.read(tape.oldest, kept + 32)
    np.testing.assert_array_equal(history, numbered(100 - kept, kept + 32))
    play(tape, 20)
    assert tape.oldest == max(100 - kept, 88)


def test_what_is_spliced_takes_the_place_of_all_that_follows() -> None:
    tape = Tape(RATE, CAPACITY, 32)
    tape.write(numbered(0, 32))
    assert splice(tape.buffer, 20, numbered(100, 8), 5)
    assert tape.write_head == 25
    with pytest.raises(TapeError, match="the write head is at 25"):
        tape.read(24, 2)
    tape.write(numbered(200, 1))
    assert tape.read(18, 8).tolist() == [18, 19, 100, 101, 102, 103, 104, 200]


@pytest.mark.parametrize("position", [0, 10, 11, 15, 31])
def test_nothing_changes_where_the_play_head_was_first(position: int) -> None:
    tape = Tape(RATE, CAPACITY, 32)
    tape.write(numbered(0, 32))
    assert claim(tape.buffer, 11) == 32
    assert splice(tape.buffer, position, numbered(100, 1), 1) == (position >= 11)
    assert tape.write_head == (position + 1 if position >= 11 else 32)
    assert tape.read(0, 11).tolist() == numbered(0, 11).tolist()


def test_a_play_head_in_the_middle_of_a_splice_is_told_of_what_is_promised() -> None:
    tape = Tape(RATE, CAPACITY, 32)
    tape.write(numbered(0, 20))
    store(tape.buffer, PROMISED, 30)
    assert claim(tape.buffer, 20) == 30
    assert claim(tape.buffer, 21) == 20


@pytest.mark.parametrize(("margin", "runway"), [(-1, 1), (0, 0)])
def test_impossible_margins_and_runways_are_refused(margin: int, runway: int) -> None:
    tape = Tape(RATE, CAPACITY, 32)
    with pytest.raises(TapeError, match=r"samples is impossible: it must be [01] or more"):
        tape.margin, tape.runway = margin, runway


@pytest.mark.parametrize("target", [9, 33])
def test_a_target_that_cannot_be_held_is_refused(target: int) -> None:
    with pytest.raises(TapeError, match="choose 10 to 32"):
        Tape(RATE, CAPACITY, target)
    tape = Tape(RATE, CAPACITY, 32)
    with pytest.raises(TapeError):
        tape.target = target
    assert tape.target == 32


@pytest.mark.parametrize(("rate", "capacity"), [(0, 64), (RATE, 63), (RATE, 0), (RATE, -64)])
def test_impossible_tapes_are_refused(rate: int, capacity: int) -> None:
    with pytest.raises(StreamerError):
        Tape(rate, capacity, 32)


@pytest.mark.parametrize(("samples", "size"), [(1, 2), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_ring_size_is_the_next_power_of_two(samples: int, size: int) -> None:
    assert ring_size(samples) == size


def test_indices_lie_on_cache_lines_of_their_own() -> None:
    for count in (1, 8, 100):
        assert aligned_words(count).ctypes.data % 64 == 0
        assert len(aligned_words(count)) == count
    assert abs(WRITE_HEAD - PLAY_HEAD) >= CACHE_LINE_WORDS
    tape = Tape(RATE, CAPACITY, 32)
    assert tape.buffer.ctypes.data % 64 == 0
    assert ring_of(tape.buffer).ctypes.data % 64 == 0
    assert len(ring_of(tape.buffer)) == CAPACITY


@compiled
def _write_numbers(tape: np.ndarray, count: int) -> int:
    """A producer as compiled voices are: fills the room, publishes, sleeps, heeds attention."""
    position = load_acquire(tape, WRITE_HEAD)
    while position < count and attention(tape) == 0:
        free = min(room(tape), count - position)
        for _ in range(free):
            put(tape, position, np.float32(position & 0xFFFFFF))
            position += 1
        publish(tape, position)
        if free == 0:
            sleep_us(0)
    return position


@compiled
def _check_numbers(tape: np.ndarray, count: int, deadline_ns: int) -> int:
    """A consumer: returns how many samples came in order before a wrong one, the count, or the deadline."""
    ring = ring_of(tape)
    position = 0
    while position < count and clock_ns() < deadline_ns:
        written = load_acquire(tape, WRITE_HEAD)
        for p in range(position, written):
            if ring[p & (ring.size - 1)] != np.float32(p & 0xFFFFFF):
                return p
        if written == position:
            sleep_us(0)
        position = written
        store_release(tape, PLAY_HEAD, position)
    return position


def test_a_producer_and_a_consumer_without_a_lock_never_disagree() -> None:
    tape = Tape(RATE, 256, 100)
    count = 1_000_000
    _write_numbers(tape.buffer, 0)
    _check_numbers(tape.buffer, 0, 0)
    producer = threading.Thread(target=_write_numbers, args=(tape.buffer, count))
    producer.start()
    try:
        assert _check_numbers(tape.buffer, count, clock_ns() + 30_000_000_000) == count
    finally:
        tape.attention = 1
        producer.join()


@compiled
def _write_and_splice(tape: np.ndarray, final: np.ndarray, draft: np.ndarray) -> int:
    """A producer that changes its mind: each sample is the number of the take; `final` gets the last one's.

    Returns the number of takes. It keeps going back by a length that changes, until all of `final` is there.
    """
    position, take = load_acquire(tape, WRITE_HEAD), 1
    while position < final.size and attention(tape) == 0:
        for _ in range(min(room(tape), final.size - position)):
            put(tape, position, np.float32(take & 0xFFFFFF))
            final[position] = take & 0xFFFFFF
            position += 1
        publish(tape, position)
        here, count = position - 1 - take % 96, min(1 + take % 7, draft.size)
        if here >= 0 and here + count <= position:
            draft[:count] = np.float32((take + 1) & 0xFFFFFF)
            if splice(tape, here, draft, count):
                position, take = here + count, take + 1
                final[here:position] = take & 0xFFFFFF
    return take


@compiled
def _claim_and_read(tape: np.ndarray, heard: np.ndarray, block: int, deadline_ns: int) -> int:
    """A play head that reads what it claims, never beyond the write head; returns how much it has read."""
    ring, position = ring_of(tape), 0
    while position < heard.size and clock_ns() < deadline_ns:
        written = claim(tape, max(load_acquire(tape, CLAIM), min(position + block, heard.size)))
        last = min(position + block, written, heard.size)
        for p in range(position, last):
            heard[p] = ring[p & (ring.size - 1)]
        position = max(position, last)
        store_release(tape, PLAY_HEAD, position)
    return position


@pytest.mark.parametrize("block", [1, 7, 50])
def test_what_was_heard_is_never_taken_back(block: int) -> None:
    tape, draft = Tape(RATE, 256, 100), np.zeros(8, np.float32)
    _write_and_splice(tape.buffer, np.zeros(0, np.int64), draft)
    _claim_and_read(tape.buffer, np.zeros(0, np.int64), 1, 0)
    final, heard, takes = np.zeros(200_000, np.int64), np.zeros(200_000, np.int64), []
    producer = threading.Thread(target=lambda: takes.append(_write_and_splice(tape.buffer, final, draft)))
    producer.start()
    try:
        assert _claim_and_read(tape.buffer, heard, block, clock_ns() + 30_000_000_000) == len(heard)
    finally:
        tape.attention = 1
        producer.join()
    assert takes[0] > 10
    np.testing.assert_array_equal(heard, final)


def test_attention_ends_a_compiled_loop() -> None:
    tape = Tape(RATE, 256, 100)
    _write_numbers(tape.buffer, 0)
    producer = threading.Thread(target=_write_numbers, args=(tape.buffer, 1_000_000))
    producer.start()
    tape.attention = 1
    producer.join(10)
    assert not producer.is_alive()
    assert tape.attention == 1
    tape.attention = 0
    assert tape.attention == 0
