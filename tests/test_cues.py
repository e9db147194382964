from __future__ import annotations

import threading

import pytest

from streamer import cues
from streamer.cues import ASAP, SIZE, CueQueue, Entry, Taken
from streamer.models.errors import ControlError


def take(queue: CueQueue, place: int) -> list[tuple[int, int]]:
    """Take all that waits, as a consumer does; return each one's lane and wanted place."""
    first, last = cues.waiting(queue.words)
    found = []
    for serial in range(first, last):
        at = cues.entry_at(queue.words, serial)
        found.append((int(queue.words[at + cues.LANE]), int(queue.words[at + cues.AT])))
        cues.took(queue.words, serial, place)
    cues.taken(queue.words, last)
    return found


def test_entries_are_taken_in_order_and_their_places_come_back() -> None:
    queue = CueQueue()
    entries = [Entry(2, 1, 0.5, 10), Entry(3, 0, -1.5, 0, 77)]
    assert queue.push(entries) == 0
    assert not queue.is_empty
    assert queue.reap() == []
    assert take(queue, 99) == [(2, ASAP), (3, 77)]
    assert queue.is_empty
    assert queue.reap() == [Taken(serial, entry, 99) for serial, entry in enumerate(entries)]
    assert queue.reap() == []


def test_places_survive_until_they_are_asked_for() -> None:
    queue = CueQueue()
    for turn in range(3 * SIZE):
        assert queue.push([Entry(turn % 7, 0, float(turn))]) == turn
        take(queue, turn)
    found = queue.reap()
    assert [(each.serial, each.at, each.entry.target) for each in found] == [
        (turn, turn, float(turn)) for turn in range(3 * SIZE)
    ]


def test_more_than_can_ever_wait_is_refused_at_once() -> None:
    queue = CueQueue()
    with pytest.raises(ControlError, match="too many"):
        queue.push([Entry(0, 0, 0.0)] * (SIZE + 1))
    assert queue.is_empty


def test_nobody_waits_for_ever_for_a_consumer_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cues, "_PATIENCE", 0.02)
    queue = CueQueue()
    queue.push([Entry(0, 0, 0.0)] * SIZE)
    with pytest.raises(ControlError, match="nobody plays"):
        queue.push([Entry(1, 0, 0.0)])


def test_many_may_push_at_once_and_nothing_is_lost() -> None:
    queue = CueQueue()
    count, producers = 2000, 4

    def push(lane: int) -> None:
        for turn in range(count):
            queue.push([Entry(lane, 0, float(turn)), Entry(lane, 1, float(turn))])

    threads = [threading.Thread(target=push, args=(lane,)) for lane in range(producers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        take(queue, 0)
    take(queue, 0)
    for thread in threads:
        thread.join()
    found = queue.reap()
    assert [each.serial for each in found] == list(range(2 * count * producers))
    for lane in range(producers):
        own = [(each.entry.kind, each.entry.target) for each in found if each.entry.lane == lane]
        assert own == [(kind, float(turn)) for turn in range(count) for kind in (0, 1)]
