"""Each fault of a sound is found, in blocks of any size; of what a corpus does, a model may do some."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from played import TUNE, phrase

from streamer.ear import pitchedness
from streamer.watch import CLIP_SECONDS, Watch, faults, listen

RATE = 8000
TUNE_ONCE = phrase(TUNE * 4, RATE, seed=0)

Samples = NDArray[np.float32]


def watched(sound: Samples) -> Watch:
    return listen(RATE, (sound[start : start + 1000] for start in range(0, len(sound), 1000)))


def wrong_with(sound: Samples, corpus: Samples = TUNE_ONCE) -> str:
    return "\n".join(faults(watched(sound).findings(), watched(corpus).findings()))


def noise(seconds: float, level: float = 0.1) -> Samples:
    return np.random.default_rng(0).normal(0, level, round(seconds * RATE)).astype(np.float32)


def tone(seconds: float, hertz: float = 220.0) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def test_nothing_is_wrong_with_a_tune() -> None:
    assert wrong_with(TUNE_ONCE) == ""


def test_silence_is_measured_and_told() -> None:
    hush = np.zeros(round(5.5 * RATE), np.float32)
    sound = np.concatenate([TUNE_ONCE, hush, TUNE_ONCE, hush[: 2 * RATE]])
    assert watched(sound).findings().longest_silence == pytest.approx(5.5, abs=0.3)
    assert "silent for 5." in wrong_with(sound)
    assert wrong_with(np.concatenate([TUNE_ONCE, hush[: 4 * RATE], TUNE_ONCE])) == ""


def test_every_sample_beyond_full_scale_is_counted() -> None:
    sound = TUNE_ONCE.copy()
    sound[[100, 101, 5000]] = 1.01, -1.5, 1.0
    assert wrong_with(sound) == "2 samples beyond full scale: none may be"


def test_dc_counts_wherever_it_is() -> None:
    drifting = np.concatenate([np.tile(TUNE_ONCE, 5)[: 60 * RATE] - 0.02, np.tile(TUNE_ONCE, 5)[: 60 * RATE]])
    assert watched(drifting).findings().dc == pytest.approx(-0.02, abs=2e-3)
    assert "DC of -2" in wrong_with(drifting, np.tile(TUNE_ONCE, 5))


def test_a_burst_of_white_noise_is_told_and_coloured_noise_is_not() -> None:
    burst = np.concatenate([TUNE_ONCE, noise(2), TUNE_ONCE])
    assert watched(burst).findings().longest_noise == pytest.approx(2, abs=2 * 2048 / RATE)
    assert "white noise" in wrong_with(burst)
    brown = np.convolve(noise(4, 0.2), np.ones(8) / 8, "same").astype(np.float32)
    assert watched(brown).findings().longest_noise == 0


def test_a_loop_is_told_with_its_period_and_one_sound_as_such() -> None:
    loop = np.tile(TUNE_ONCE[: 2 * RATE], 15)
    assert "stuck in a loop of 2.0 s for" in wrong_with(loop)
    assert "stuck in one sound for" in wrong_with(tone(20))


def test_what_the_corpus_does_a_model_may() -> None:
    loop = np.tile(TUNE_ONCE[: 2 * RATE], 15)
    assert wrong_with(loop, loop) == ""
    assert "white noise" not in wrong_with(noise(3), noise(2))
    assert "silent" in wrong_with(np.zeros(6 * RATE, np.float32), np.zeros(6 * RATE, np.float32))


@given(cuts=st.lists(st.integers(0, 20 * RATE), max_size=6))
@settings(max_examples=10)
def test_blocks_change_nothing(cuts: list[int]) -> None:
    hush = np.zeros(2 * RATE, np.float32)
    sound = np.concatenate([TUNE_ONCE, hush, noise(2), hush, tone(12)])
    parted = listen(RATE, np.split(sound, sorted(cuts)))
    found, expected = parted.findings(), watched(sound).findings()
    assert replace(found, dc=0.0) == replace(expected, dc=0.0)
    assert found.dc == pytest.approx(expected.dc, abs=1e-7)
    np.testing.assert_array_equal(parted.clip, sound[: round(CLIP_SECONDS * RATE)])


# --- what an ear would say ----------------------------------------------------------------------------------


def test_a_tone_has_its_level_its_centre_and_a_pitch() -> None:
    heard = watched(tone(5)).ear.sound()
    assert heard.level_dbfs == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.1)
    assert heard.centroid_hz == pytest.approx(220, abs=2)
    assert heard.flatness < 1e-3
    assert heard.pitchedness > 0.99
    assert heard.silent_share == 0


def test_white_noise_is_flat_bright_and_without_pitch() -> None:
    watch = watched(noise(5))
    heard = watch.ear.sound()
    assert heard.flatness == pytest.approx(np.exp(-np.euler_gamma), abs=0.02)
    assert heard.centroid_hz == pytest.approx(RATE / 4, rel=0.05)
    assert heard.pitchedness < 0.2
    np.testing.assert_allclose(watch.ear.spectrum_db[5:-5], -20, atol=4)


def test_silence_and_nothing_have_no_sound() -> None:
    assert watched(np.zeros(RATE, np.float32)).ear.sound().silent_share == 1
    assert Watch(RATE).findings().sound.silent_share == 1


def test_pitchedness_is_the_highest_normalised_autocorrelation() -> None:
    frames = np.random.default_rng(1).normal(size=(3, 2048)) + np.sin(np.arange(2048) / 9)
    centred = frames - frames.mean(1, keepdims=True)
    expected = np.zeros(3)
    for lag in range(int(0.0025 * RATE), int(0.016 * RATE)):
        a, b = centred[:, lag:], centred[:, :-lag]
        expected = np.maximum(expected, (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1) + 1e-12))
    np.testing.assert_allclose(pitchedness(frames, RATE), expected, rtol=1e-6)
