"""Silences are shortened as said, and however the audio is cut into blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.models.silence import SilenceCutter, runs, silent_frames

RATE = 16000
FRAME = 320
FADE = 80


def tone(seconds: float) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def quiet(seconds: float, offset: float = 1e-3) -> NDArray[np.float32]:
    return np.full(round(seconds * RATE), offset, np.float32)


def cut(blocks: list[NDArray[np.float32]], longest: float = 0.25) -> NDArray[np.float32]:
    cutter = SilenceCutter(RATE, longest)
    return np.concatenate([*(cutter.push(block) for block in blocks), cutter.finish()])


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60)), max_size=5),
    st.lists(st.integers(0, 30_000), max_size=9),
)
def test_blocks_make_no_difference(frames: list[tuple[int, int]], edges: list[int]) -> None:
    audio = np.concatenate(
        [quiet(0.007), *(part for a, b in frames for part in (tone(a / 50), quiet(b / 50)))]
    )
    blocks = np.split(audio, sorted(edge for edge in edges if edge < len(audio)))
    np.testing.assert_array_equal(cut(blocks), cut([audio]))


def test_a_long_silence_is_not_held() -> None:
    cutter = SilenceCutter(RATE, 0.25)
    kept = [cutter.push(tone(1))]
    for _ in range(100):
        kept.append(cutter.push(quiet(10)))
        assert len(cutter._held) + len(cutter._head) <= 0.25 * RATE
    kept.append(cutter.push(tone(1)))
    assert sum(map(len, kept)) == 2 * RATE + RATE // 4 - FADE


@pytest.mark.parametrize("offset", [0.0, 0.02, -0.5])
def test_an_offset_is_no_sound(offset: float) -> None:
    assert silent_frames(quiet(1, offset), RATE).all()
    assert len(cut([quiet(1, offset)])) == 0


@pytest.mark.parametrize(("level", "silent"), [(0.0043, True), (0.0046, False)])
def test_silence_is_below_fifty_decibels_under_full_scale(level: float, silent: bool) -> None:
    """A sine of -50 dBFS rms has an amplitude of 0.00447."""
    assert silent_frames(tone(1) * np.float32(2 * level), RATE).all() == silent


def test_runs_are_where_flags_are() -> None:
    flags = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    assert list(runs(flags)) == [(0, 2), (4, 5), (6, 7)]
