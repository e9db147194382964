"""Whether a sound keeps to a clock: it does, or not, or to another; and in whatever blocks it comes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.rhythm import Rhythm

RATE, CYCLE = 16_000, 12_345.6


def struck(cycle: float, cycles: int, noise: float) -> NDArray[np.float32]:
    """Four strokes of noise a cycle over noise of another loudness, in dB below."""
    rng, length = np.random.default_rng(3), round(cycles * cycle)
    since = np.arange(length) % (cycle / 4)
    loudness = np.exp(-since / 1000) + 10 ** (noise / 20)
    return np.asarray(0.1 * loudness * rng.standard_normal(length), np.float32)


def in_time(samples: NDArray[np.float32], cycle: float = CYCLE, pieces: int = 7) -> float:
    rhythm = Rhythm(RATE, cycle)
    for block in np.array_split(samples, pieces):
        rhythm.push(block)
    return rhythm.in_time()


def test_strokes_on_the_clock_are_in_time_the_more_the_less_noise_there_is() -> None:
    clear, noisy = in_time(struck(CYCLE, 12, noise=-40)), in_time(struck(CYCLE, 12, noise=-12))
    assert 0.55 < clear < 1
    assert 0.3 < noisy < clear - 0.1


@pytest.mark.parametrize("cycles", [3, 30])
def test_what_keeps_no_time_has_nothing_however_short_it_is(cycles: int) -> None:
    hiss = np.random.default_rng(1).standard_normal(round(cycles * CYCLE)).astype(np.float32)
    assert abs(in_time(hiss)) < 0.1


def test_what_keeps_another_time_has_nothing() -> None:
    assert abs(in_time(struck(CYCLE * 1.07, 30, noise=-30))) < 0.05


def test_blocks_do_not_matter() -> None:
    sound = struck(CYCLE, 5, noise=-20)
    assert in_time(sound, pieces=1) == pytest.approx(in_time(sound, pieces=97), abs=1e-9)


@pytest.mark.parametrize("samples", [0, 1000, 20_000])
def test_less_than_two_cycles_says_nothing(samples: int) -> None:
    assert in_time(np.ones(samples, np.float32)) == 0.0
