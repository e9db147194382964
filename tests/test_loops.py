"""What is stuck is found, exactly or nearly; music that people play, however often it comes back, is not."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from played import TUNE, phrase, play_again_and_again

from streamer.loops import LONGEST_LAG, LoopFinder, Stuck

RATE = 8000

Samples = NDArray[np.float32]


def stuck_in(sound: Samples, rate: int = RATE, block: int = 5000) -> list[Stuck]:
    finder = LoopFinder(rate)
    for start in range(0, len(sound), block):
        finder.push(sound[start : start + block])
    return finder.found


def with_noise(sound: Samples, decibels: float) -> Samples:
    """Noise around a sound, so far below it."""
    noise = np.random.default_rng(3).normal(0, sound.std() * 10 ** (-decibels / 20), len(sound))
    return (sound + noise).astype(np.float32)


def loop_of(seconds: float, whole: float = 45.0) -> Samples:
    """The beginning of a tune, round and round."""
    piece = phrase(TUNE + TUNE[::-1], RATE, seed=1)[: round(seconds * RATE)]
    return np.tile(piece, int(whole / seconds) + 1)[: round(whole * RATE)]


@pytest.mark.parametrize("seconds", [0.31, 1.337, 3.0, 5.777])
@pytest.mark.parametrize("noise", [60, 20, 10])
def test_a_loop_is_found_whatever_its_length_and_in_noise(seconds: float, noise: float) -> None:
    (found,) = stuck_in(with_noise(loop_of(seconds), noise))
    assert found.begin < 3
    assert found.end > 43
    turns = found.period / seconds
    assert turns == pytest.approx(round(turns), abs=0.08 / seconds)
    assert round(turns) >= 1


def test_a_loop_that_never_comes_twice_alike_is_found() -> None:
    """Half a percent out of time and a decibel out of level, as a model that goes round plays it."""
    rng, piece = np.random.default_rng(2), phrase(TUNE, RATE, seed=1)[: round(3.1 * RATE)]
    turns = [
        soxr.resample(piece, RATE, RATE * rng.uniform(0.995, 1.005)) * 10 ** (rng.uniform(-1, 1) / 20)
        for _ in range(14)
    ]
    (found,) = stuck_in(with_noise(np.concatenate(turns).astype(np.float32), 20))
    assert found.seconds > 35


def test_where_it_is_stuck_is_told() -> None:
    free = phrase(TUNE * 7, RATE, seed=4)[: 20 * RATE]
    (found,) = stuck_in(np.concatenate([free, loop_of(2.0, 30.0), free]))
    assert found.begin == pytest.approx(20, abs=2.5)
    assert found.end == pytest.approx(50, abs=2.5)
    assert found.period == pytest.approx(2.0, abs=0.07)


@pytest.mark.parametrize("vibrato", [0.0, 3.0])
def test_a_drone_is_found_and_has_no_period(vibrato: float) -> None:
    time = np.arange(30 * RATE) / RATE
    phase = 2 * np.pi * 220 * time + vibrato * np.sin(2 * np.pi * 5.3 * time)
    drone = 0.3 * np.sin(phase) + 0.1 * np.sin(2 * phase)
    (found,) = stuck_in(with_noise(drone.astype(np.float32), 20))
    assert found.seconds > 27
    assert found.period == 0 or vibrato


def test_unchanging_noise_is_stuck_too() -> None:
    (found,) = stuck_in(np.random.default_rng(0).normal(0, 0.1, 30 * RATE).astype(np.float32))
    assert found.period == 0


def test_silence_is_not_stuck() -> None:
    assert stuck_in(np.zeros(30 * RATE, np.float32)) == []


def test_a_riff_that_is_played_again_and_again_is_not_stuck() -> None:
    """The same notes eight times, as a hand plays them: a little early or late, softer or louder."""
    assert stuck_in(play_again_and_again(TUNE, 8, RATE)) == []


def test_a_loop_that_comes_only_twice_is_music() -> None:
    free = phrase(TUNE * 3, RATE, seed=4)
    riff = phrase(TUNE, RATE, seed=5)
    assert stuck_in(np.concatenate([free, riff, riff, free])) == []


@given(cuts=st.lists(st.integers(1, 20 * RATE), max_size=5))
@settings(max_examples=10)
def test_blocks_change_nothing(cuts: list[int]) -> None:
    sound = loop_of(1.5, 20.0)
    whole, parted = LoopFinder(RATE), LoopFinder(RATE)
    whole.push(sound)
    for part in np.split(sound, sorted(cuts)):
        parted.push(part)
    assert parted.found == whole.found
    assert whole.longest.seconds > 15


def test_what_it_holds_is_bounded() -> None:
    finder = LoopFinder(RATE)
    for _ in range(3):
        finder.push(loop_of(3.0, 60.0))
    assert len(finder._prints) * 0.064 == pytest.approx(3 * LONGEST_LAG, abs=0.2)
    assert len(finder.found) == 1
