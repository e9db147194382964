"""The clock: frames' times without the jitter of callbacks, along the device's drift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.clock import AGE, CLOCK_WORDS, DUE, NOMINAL, PERIOD, Clock, follow

MS = 1e6
START = 1e15  # ns: a machine that has been up for twelve days


def new_loop(rate: int) -> np.ndarray:
    loop = np.zeros(4)
    loop[PERIOD] = loop[NOMINAL] = 1e9 / rate
    return loop


class Device:
    """Callbacks that come up to a millisecond early or late, of a device whose clock drifts."""

    def __init__(self, loop: np.ndarray, block: int, period: float, seed: int) -> None:
        self.loop, self.block, self.period = loop, block, period
        self.random = np.random.default_rng(seed)
        self.due = START

    def call(self, seconds: float) -> np.ndarray:
        """Plays on for so long; each callback's error of the loop in ms."""
        errors = []
        for _ in range(round(seconds * 1e9 / (self.period * self.block))):
            follow(self.loop, self.due + self.random.uniform(-MS, MS), self.block)
            errors.append((self.loop[DUE] - self.due) / MS)
            self.due += self.period * self.block
        return np.array(errors)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([44100, 48000, 96000]),
    st.sampled_from([32, 64, 128, 441, 512, 1024, 2048]),
    st.floats(-1e-4, 1e-4),
    st.integers(0, 2**32),
)
def test_jitter_is_filtered_out_and_drift_followed(rate: int, block: int, drift: float, seed: int) -> None:
    loop = new_loop(rate)
    device = Device(loop, block, 1e9 / rate * (1 + drift), seed)
    device.call(10)
    assert np.abs(device.call(10)).max() < 0.3
    assert abs(loop[PERIOD] / loop[NOMINAL] - 1 - drift) < 5e-5


def test_the_first_stamp_is_believed_and_every_later_one_less() -> None:
    loop = new_loop(48000)
    follow(loop, START, 128)
    assert loop[DUE] == START
    device = Device(loop, 128, 1e9 / 48000, 1)
    first = np.abs(device.call(1))
    later = np.abs(device.call(9))
    assert later[-1000:].max() < first[:100].max() / 5


def test_a_device_that_stopped_meanwhile_is_followed_at_once() -> None:
    loop = new_loop(48000)
    device = Device(loop, 128, 1e9 / 48000 * 1.0001, 2)
    device.call(20)
    period = loop[PERIOD]
    device.due += 200 * MS
    assert np.abs(device.call(0.0027)).max() <= 1
    assert (loop[AGE], loop[PERIOD]) == (1, period)


def test_an_impossible_drift_is_not_believed() -> None:
    loop = new_loop(48000)
    Device(loop, 128, 1e9 / 48000 * 1.01, 3).call(3)
    assert loop[PERIOD] == pytest.approx(loop[NOMINAL] * 1.001)


def test_a_clock_that_never_ran_says_so_and_guesses() -> None:
    clock = Clock(48000)
    assert clock.words.size == CLOCK_WORDS
    time = clock.read()
    assert (time.callbacks, time.last_callback_ns, time.measured_rate, time.block) == (0, 0, None, 0)
    assert time.period_ns == pytest.approx(1e9 / 48000)
    assert clock.frame_at(clock.time_of(1000)) == pytest.approx(1000, abs=5000)
