from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer import lanes
from streamer.lanes import DRIFT, NEVER, RAMP, SET

DEFAULT, LOWEST, HIGHEST = 1.0, -5.0, 5.0
END = 60

Change = tuple[int, int, float, int]  # position, kind, target, length

changes = st.lists(
    st.tuples(
        st.integers(0, END),
        st.sampled_from([SET, RAMP, DRIFT]),
        st.floats(-9, 9).map(lambda x: round(x, 3)),
        st.integers(1, 20),
    ),
    max_size=12,
    unique_by=lambda change: (change[0], change[1] == DRIFT),
)


def new(count: int = 1, depth: int = 16) -> lanes.Words:
    return lanes.new_lanes([(DEFAULT, LOWEST, HIGHEST)] * count, depth)


def with_changes(these: list[Change]) -> lanes.Words:
    block = new()
    for position, kind, target, length in these:
        assert lanes.insert(block, 0, position, kind, target, length)
    return block


def line(these: list[Change], position: int) -> float:
    """The value without drift, by the definition: each ramp starts from what the ones before it give."""
    begun = [c for c in sorted(these) if c[0] <= position and c[1] != DRIFT]
    if not begun:
        return DEFAULT
    at, kind, target, length = begun[-1]
    if kind == SET or position - at >= length:
        return target
    start = line([c for c in these if c[0] < at], at)
    return start + (target - start) * ((position - at) / length)


@settings(deadline=None)
@given(changes, st.lists(st.integers(0, 2 * END), min_size=1, max_size=20))
def test_a_lane_follows_its_changes(these: list[Change], positions: list[int]) -> None:
    straight = [change for change in these if change[1] != DRIFT]
    block = with_changes(straight)
    for position in positions:  # in any order
        expected = min(max(line(straight, position), LOWEST), HIGHEST)
        assert lanes.value(block, 0, position) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(changes, st.randoms())
def test_the_order_in_which_changes_come_does_not_matter(these: list[Change], random: object) -> None:
    shuffled = list(these)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = with_changes(these), with_changes(shuffled)
    for position in range(2 * END):
        assert lanes.value(one, 0, position) == lanes.value(other, 0, position)


@settings(deadline=None)
@given(changes, st.integers(0, END))
def test_what_is_forgotten_is_not_needed(these: list[Change], until: int) -> None:
    whole, rest = with_changes(these), with_changes(these)
    lanes.forget(rest, until)
    for position in range(until, 2 * END):
        assert lanes.value(rest, 0, position) == lanes.value(whole, 0, position)


@settings(deadline=None)
@given(changes, st.integers(0, END))
def test_the_future_can_be_forgotten(these: list[Change], now: int) -> None:
    block = with_changes(these)
    dropped = lanes.forget_future(block, now)
    kept = with_changes([change for change in these if change[0] <= now])
    assert dropped == sum(change[0] > now for change in these)
    for position in range(2 * END):
        assert lanes.value(block, 0, position) == lanes.value(kept, 0, position)


@settings(deadline=None)
@given(changes, changes)
def test_a_copy_is_what_was_copied_whatever_it_was_before(these: list[Change], others: list[Change]) -> None:
    block, copied = with_changes(these), with_changes(others)
    lanes.copy(block, copied)
    lanes.forget_future(block, -1)
    expected = with_changes(these)
    for position in range(2 * END):
        assert lanes.value(copied, 0, position) == lanes.value(expected, 0, position)


@settings(deadline=None)
@given(changes, st.integers(0, 2 * END))
def test_a_steady_value_stays(these: list[Change], position: int) -> None:
    block = with_changes(these)
    until = lanes.steady_until(block, 0, position)
    assert until >= position
    held = lanes.value(block, 0, position)
    for later in range(position, min(until, 2 * END)):
        assert lanes.value(block, 0, later) == held


def test_nothing_moves_for_ever_without_changes() -> None:
    assert lanes.steady_until(new(), 0, 0) == NEVER


def test_of_changes_at_one_position_the_later_counts() -> None:
    block = with_changes([(3, SET, 2.0, 0), (3, SET, 3.0, 0)])
    assert lanes.value(block, 0, 3) == 3.0
    lanes.insert(block, 0, 3, RAMP, 4.0, 10)
    assert lanes.value(block, 0, 3) == 3.0
    assert lanes.value(block, 0, 8) == 3.5
    lanes.insert(block, 0, 3, SET, -1.0, 0)
    assert lanes.value(block, 0, 8) == -1.0


def test_a_drift_wanders_smoothly_within_its_depth_and_can_be_ended() -> None:
    block = new()
    lanes.insert(block, 0, 100, DRIFT, 0.5, 1000)
    wandering = np.array([lanes.value(block, 0, p) for p in range(30_000)]) - DEFAULT
    assert not wandering[:101].any()
    assert 0.3 < np.abs(wandering).max() <= 0.5
    steepest = 1.5 * 2 * 0.5 / 1000  # from one end to the other within a period
    assert np.abs(np.diff(wandering)).max() < 1.01 * steepest
    lanes.insert(block, 0, 30_000, DRIFT, 0.0, 1000)
    ending = np.array([lanes.value(block, 0, p) for p in range(29_999, 31_002)]) - DEFAULT
    assert np.abs(np.diff(ending)).max() < 0.01
    assert ending[-1] == 0.0


def test_lanes_drift_apart() -> None:
    block = new(2)
    for lane in (0, 1):
        lanes.insert(block, lane, 0, DRIFT, 0.5, 10)
    one, other = ([lanes.value(block, lane, p) for p in range(10, 200)] for lane in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.7


def test_a_full_lane_refuses_and_keeps_what_it_has() -> None:
    block = new(depth=4)
    for position in range(4):
        assert lanes.insert(block, 0, position, SET, float(position), 0)
    assert not lanes.insert(block, 0, 9, SET, 9.0, 0)
    assert [lanes.value(block, 0, p) for p in (0, 1, 2, 3, 10)] == [0, 1, 2, 3, 3]
    lanes.forget(block, 2)
    assert lanes.insert(block, 0, 9, SET, 4.5, 0)
    assert lanes.value(block, 0, 9) == 4.5
