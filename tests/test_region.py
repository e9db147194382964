"""Freezing: what was heard goes round without a click, the tape is held, and goes on where it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.cues import Entry
from streamer.kernels.atomics import load
from streamer.lanes import SET
from streamer.mixer import Mixer, lane
from streamer.tape import CLAIM, Tape, publish, put

RATE = 8000
FADE = 80  # frames and samples: also the seam's
CAPACITY = 1 << 14
START = 4000


def noise(count: int, seed: int = 1) -> NDArray[np.float32]:
    """Smooth enough for a click to stand out."""
    rough = np.random.default_rng(seed).uniform(-1, 1, count + 63)
    return (0.8 * np.convolve(rough, np.hanning(64) / 16, "valid")).astype(np.float32)


class Rig:
    """A mixer with one tape on strip 1, played to START."""

    def __init__(self, sound: NDArray[np.float32] | None = None, rate: int = RATE) -> None:
        self.sound = noise(8000) if sound is None else sound
        self.tape = Tape(rate, CAPACITY, 400)
        self.tape.write(self.sound)
        self.mixer = Mixer(RATE, 1)
        self.mixer.put(1, self.tape, 0)
        self.frames(START * RATE // rate)

    def set(self, **values: float) -> None:
        self.mixer.cues.push([Entry(lane(1, name), SET, value) for name, value in values.items()])

    def frames(self, count: int) -> NDArray[np.float32]:
        return self.mixer.render(count)[:, 0]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_frozen_region_goes_round_with_its_period(reverse: bool) -> None:
    rig = Rig()
    rig.set(freeze=1, loop=0.1, scrub=0.05, reverse=reverse)
    rig.frames(FADE)
    sound = rig.frames(4000)
    np.testing.assert_allclose(sound[800:], sound[:-800], atol=1e-6)
    begin = START - 400 - 800
    region = rig.sound[begin : begin + 720]  # up to the seam
    if reverse:
        first = int(np.argmin([np.abs(sound[i : i + 720] - region[::-1]).sum() for i in range(800)]))
        np.testing.assert_allclose(sound[first : first + 720], region[::-1], atol=1e-6)
    else:
        np.testing.assert_allclose(sound[800 - FADE : 800 - FADE + 720], region, atol=1e-6)


def test_the_seam_is_a_crossfade_of_equal_power() -> None:
    rig = Rig()
    rig.set(freeze=1, loop=0.1, scrub=0.05)
    sound = rig.frames(800)[-FADE:]
    end = START - 400
    x = np.arange(FADE) / FADE * np.pi / 2
    out, into = rig.sound[end - FADE : end], rig.sound[end - 800 - FADE : end - 800]
    np.testing.assert_allclose(sound, out * np.cos(x) + into * np.sin(x), atol=1e-6)


def test_the_tape_is_held_and_goes_on_where_it_was() -> None:
    rig = Rig()
    rig.set(freeze=1, loop=0.1)
    rig.frames(3000)
    hold = START + FADE - 1  # it went on while it faded out
    assert rig.tape.play_head == hold == rig.mixer.position_at(1, 10**6)
    rig.set(freeze=0)
    rig.frames(FADE)
    sound = rig.frames(500)
    assert rig.tape.play_head == hold + FADE + 500
    np.testing.assert_array_equal(sound, rig.sound[hold + FADE : hold + FADE + 500])
    assert rig.mixer.counters().underruns == 0


def test_scrub_freezes_by_itself_as_far_back_as_it_says() -> None:
    rig = Rig()
    rig.set(scrub=0.3, loop=0.05)
    rig.frames(400)
    sound = rig.frames(300)
    begin = START - 2400 - 400
    np.testing.assert_allclose(sound, rig.sound[begin : begin + 300], atol=1e-6)
    rig.set(scrub=0)
    rig.frames(FADE)
    head = rig.tape.play_head
    np.testing.assert_array_equal(rig.frames(200), rig.sound[head : head + 200])


GESTURES = st.lists(
    st.tuples(
        st.sampled_from(["freeze", "scrub", "loop", "reverse", "speed", "play", "put"]),
        st.floats(0, 1),
        st.integers(1, 700),
    ),
    max_size=15,
)


@settings(max_examples=60)
@given(GESTURES, st.sampled_from([8000, 4000, 16000]))
def test_no_gesture_clicks(gestures: list[tuple[str, float, int]], rate: int) -> None:
    """A slow tone: whatever is crossfaded with whatever, no frame is far from the one before."""

    def tone() -> NDArray[np.float32]:
        return (0.5 * np.sin(2 * np.pi * 10 / rate * np.arange(8000))).astype(np.float32)

    rig = Rig(tone(), rate)
    sound = [rig.frames(2)]
    for name, x, frames in gestures:
        if name == "put":
            another = Tape(rate, CAPACITY, 400)
            another.write(tone())
            rig.mixer.put(1, another, 0.02 * x)
        else:
            values = {"loop": 0.02 + 0.3 * x, "speed": 0.25 + 3.75 * x, "scrub": 0.5 * max(0, x - 0.5)}
            rig.set(**{name: values.get(name, float(x > 0.5))})
        sound.append(rig.frames(frames))
    heard = np.concatenate(sound)
    assert np.abs(np.diff(heard)).max() < 0.08


def test_where_there_is_no_past_it_is_silent_and_the_tape_waits() -> None:
    tape = Tape(RATE, CAPACITY, 400)
    tape.write(noise(8000))
    mixer = Mixer(RATE, 1)
    mixer.put(1, tape, 0, also=[Entry(lane(1, "freeze"), SET, 1)])
    assert not mixer.render(500).any()
    assert tape.play_head == 0
    mixer.cues.push([Entry(lane(1, "freeze"), SET, 0)])
    mixer.render(FADE)
    assert mixer.render(200).all()


def test_a_region_never_reads_what_the_producer_overwrites() -> None:
    """With the tape full: half the ring ahead of the play head is new, all that is heard is old."""
    rig = Rig(np.full(8000, 0.25, np.float32))
    while rig.tape.play_head < 2 * CAPACITY:
        rig.frames(1000)
        rig.tape.write(np.full(rig.tape.capacity // 2 - rig.tape.lead, 0.25))
    rig.set(freeze=1, loop=60, scrub=60)
    rig.frames(2 * FADE)
    while rig.tape.lead < CAPACITY // 2:  # as far as it may, and of another sound
        put(rig.tape.buffer, rig.tape.write_head, 1.0)
        publish(rig.tape.buffer, rig.tape.write_head + 1)
    for position in range(int(load(rig.tape.buffer, CLAIM)), rig.tape.write_head):
        put(rig.tape.buffer, position, 1.0)  # taken back, and written anew
    sound = rig.frames(CAPACITY)
    assert np.abs(sound).max() < 0.25 * 1.42  # equal power, of one sound with itself
    assert np.abs(sound).min() > 0.2


def test_freezing_hides_an_underrun() -> None:
    rig = Rig(noise(4300))
    rig.frames(600)
    assert rig.mixer.counters().underruns == 1
    rig.set(freeze=1, loop=0.1, scrub=0.05)
    rig.frames(FADE)
    assert np.abs(rig.frames(1000)).max() > 0.05
    silent = rig.mixer.counters().silent_frames
    rig.set(freeze=0, scrub=0)
    assert np.abs(rig.frames(1000)).max() > 0.05  # until there is something to go on with
    head = rig.tape.play_head
    rig.tape.write(noise(3000, 2))
    rig.frames(FADE)
    assert rig.mixer.counters().silent_frames == silent
    assert rig.tape.play_head > head


def test_a_frozen_deck_stays_as_it_is_while_another_takes_over() -> None:
    rig = Rig(np.full(8000, 0.25, np.float32))
    rig.set(freeze=1, loop=0.1)
    rig.frames(500)
    hold = rig.tape.play_head
    another = Tape(RATE, CAPACITY, 400)
    another.write(np.full(8000, 0.25, np.float32))
    rig.mixer.put(1, another, 0.1, also=[Entry(lane(1, "freeze"), SET, 0)])
    rig.frames(400)
    assert rig.tape.play_head == hold
    assert another.play_head == 400
    rig.frames(1000)
    assert another.play_head == 1400
