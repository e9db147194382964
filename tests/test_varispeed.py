"""Varispeed: the right pitch, nothing else, and no seam where the speed changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.cues import Entry
from streamer.lanes import RAMP, SET
from streamer.mixer import Mixer, lane
from streamer.tape import Tape

CAPACITY = 1 << 17
FADE = 0.010


def new_tape(rate: int, sound: NDArray[np.float64]) -> Tape:
    tape = Tape(rate, CAPACITY, rate)
    tape.write(sound)
    return tape


def speed(value: float, at: int = 0, kind: int = SET, length: int = 0) -> Entry:
    return Entry(lane(1, "speed"), kind, value, length, at)


def play(tape: Tape, rate: int, frames: int, cues: list[Entry]) -> NDArray[np.float64]:
    mixer = Mixer(rate, 1)
    mixer.put(1, tape, 0, also=cues)
    sound = mixer.render(frames)[:, 0].astype(np.float64)
    assert mixer.counters().underruns == 0
    return sound


def tone_and_rest_db(sound: NDArray[np.float64], frequency: float) -> tuple[float, float]:
    """Level in dB of the sine of so many cycles a frame, and of all the rest."""
    angle = 2 * np.pi * frequency * np.arange(len(sound))
    basis = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, sound, rcond=None)
    rest = sound - basis @ fit
    return 20 * np.log10(np.hypot(*fit)), 20 * np.log10(np.sqrt(2) * rest.std() + 1e-12)


@pytest.mark.parametrize(("rate", "device"), [(16000, 48000), (16000, 44100), (48000, 48000), (48000, 44100)])
@pytest.mark.parametrize("factor", [0.25, 0.7, 0.999, 1.03, 1.5, 2.0, 3.3, 4.0])
def test_a_tone_changes_its_pitch_and_nothing_else(rate: int, device: int, factor: float) -> None:
    highest = min(0.43, 0.43 * device / (rate * factor) * 0.75)  # of the tape's rate; what both can hold
    for frequency in (0.01, highest):
        tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(CAPACITY // 2))
        sound = play(new_tape(rate, tone), device, 4000, [speed(factor)])[1500:]
        level, rest = tone_and_rest_db(sound, frequency * factor * rate / device)
        assert level == pytest.approx(20 * np.log10(0.5), abs=0.5)
        assert rest < level - 70


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.6, 4.0])
def test_what_the_device_cannot_hold_is_not_heard(factor: float) -> None:
    for beyond in (1.2, 1.5, 0.96 * factor):
        frequency = 0.5 * beyond / factor
        if frequency >= 0.49 or beyond < 1.15:
            continue
        tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(CAPACITY // 2))
        sound = play(new_tape(48000, tone), 48000, 4000, [speed(factor)])[1500:]
        assert 20 * np.log10(np.abs(sound).max()) < -66


@settings(max_examples=20)
@given(
    st.sampled_from([16000, 48000]),
    st.lists(st.tuples(st.floats(0.25, 4), st.integers(1, 3000)), min_size=1, max_size=4),
)
def test_the_sound_has_no_seam_wherever_the_speed_goes(rate: int, ramps: list[tuple[float, int]]) -> None:
    """A slow tone never moves further in a frame than its speed allows."""
    tone = 0.5 * np.sin(2 * np.pi * 50 / rate * np.arange(CAPACITY // 2))
    cues, at = [], 700
    for value, length in [*ramps, (1.0, 500)]:
        cues.append(speed(value, at, RAMP, length))
        at += length + 50
    sound = play(new_tape(rate, tone), 48000, min(at + 1000, 14000), cues)[600:]
    assert np.abs(np.diff(sound)).max() < 0.5 * 2 * np.pi * 50 / 48000 * 4.05
    bend = 0.5 * (2 * np.pi * 50 / 48000 * 4.05) ** 2 + 2e-3  # and a jump of the speed bends it a little
    assert np.abs(np.diff(sound, 2)).max() < bend + 0.5 * 2 * np.pi * 50 / 48000 * 4


def test_back_at_speed_1_the_tape_passes_bit_for_bit_again() -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, CAPACITY // 2)
    tape = new_tape(48000, noise)
    mixer = Mixer(48000, 1)
    mixer.put(1, tape, 0, also=[speed(1.37, 1000, RAMP, 777), speed(1.0, 2500, RAMP, 333)])
    mixer.render(2833 + 520)  # what it takes at most from anywhere between two samples
    start = tape.play_head
    sound = mixer.render(500)[:, 0]
    np.testing.assert_array_equal(sound, noise.astype(np.float32)[start : start + 500])
    assert tape.play_head == start + 500


def test_the_position_at_a_frame_goes_by_the_speed() -> None:
    tape = new_tape(16000, np.zeros(CAPACITY // 2))
    mixer = Mixer(48000, 1)
    mixer.put(1, tape, 0, also=[speed(2.0)])
    mixer.render(3000)
    assert tape.play_head == pytest.approx(2000, abs=1)
    ahead = mixer.position_at(1, 6000)
    mixer.render(3000)
    assert tape.play_head == pytest.approx(ahead, abs=1)
