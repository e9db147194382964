"""The play head: every sample once, in order, faded where sound begins or ends; the same in any blocks."""

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.kernels.atomics import clock_ns, load_acquire, sleep_us
from streamer.kernels.compiling import compiled
from streamer.kernels.resample import design
from streamer.models.errors import ControlError, DeviceError
from streamer.playhead import FADE, PlayHead, Plug, compiled_callback
from streamer.tape import WRITE_HEAD, Tape, attention, publish, put, room

RATE = 8000  # Hz: a fade is 80 frames, at an underrun 40
FADE_FRAMES = 80
CAPACITY = 1 << 14
TARGET = 200  # goes on after an underrun with 100 samples

Sound = NDArray[np.float32]


def new_tape(rate: int = RATE, samples: int = 0) -> Tape:
    tape = Tape(rate, CAPACITY, TARGET)
    tape.write(numbers(0, samples))
    return tape


def numbers(first: int, count: int) -> Sound:
    """Samples that say their position: 1, 2, 3, ..."""
    return np.arange(first + 1, first + count + 1, dtype=np.float32)


def fade_in_curve(frames: int = FADE_FRAMES) -> NDArray[np.float64]:
    x = np.arange(1, frames + 1) / frames
    return x * x * (3 - 2 * x)


class Scene:
    """A play head on a tape, played through a list of actions."""

    def __init__(self, sample: Callable[[int, int], Sound], rate: int = RATE) -> None:
        self.sample = sample
        self.tape = Tape(rate, CAPACITY, TARGET)
        self.head = PlayHead(self.tape, RATE, 1)

    def write(self, count: int) -> None:
        self.tape.write(self.sample(self.tape.write_head, min(count, CAPACITY // 2 - self.tape.lead)))

    def swap(self, rate: int) -> None:
        self.tape = Tape(rate, CAPACITY, TARGET)
        self.head.swap(self.tape)

    def gain(self, gain: float) -> None:
        self.head.gain = gain

    def playing(self, on: bool) -> None:
        self.head.playing = on

    def fade(self, inwards: bool) -> None:
        (self.head.fade_in if inwards else self.head.fade_out)()

    def frames(self, count: int) -> Sound:
        return self.head.render(count)[:, 0]


Step = tuple[str, object]
MOVES = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 300)),
    st.tuples(st.just("playing"), st.booleans()),
    st.tuples(st.just("fade"), st.booleans()),
    st.tuples(st.just("frames"), st.integers(1, 300)),
)
ALL_MOVES = MOVES | st.tuples(st.just("swap"), st.sampled_from([8000, 4000, 6000, 16000]))
ALL_MOVES |= st.tuples(st.just("gain"), st.sampled_from([0.0, 0.25, 1.0, 3.0]))


def perform(scene: Scene, steps: list[Step], cut: Callable[[int], list[int]]) -> Sound:
    """Does the steps one after another, cutting each run of frames into blocks."""
    sound = [np.zeros(0, np.float32)]
    for name, value in steps:
        if name == "frames":
            sound += [scene.frames(block) for block in cut(value)]
        else:
            getattr(scene, name)(value)
    return np.concatenate(sound)


def noise(first: int, count: int) -> Sound:
    return np.sin(np.arange(first, first + count) ** 2).astype(np.float32)


@given(st.lists(ALL_MOVES, max_size=25), st.sampled_from([8000, 4000, 6000, 16000]), st.data())
def test_sound_does_not_depend_on_how_it_is_cut_into_blocks(
    steps: list[Step], rate: int, data: st.DataObject
) -> None:
    def pieces(frames: int) -> list[int]:
        cuts = sorted(data.draw(st.lists(st.integers(0, frames), max_size=4)))
        return np.diff([0, *cuts, frames]).tolist()

    whole, cut = Scene(noise, rate), Scene(noise, rate)
    expected = perform(whole, steps, lambda frames: [frames])
    np.testing.assert_array_equal(perform(cut, steps, pieces), expected)
    assert cut.tape.play_head == whole.tape.play_head
    clockless = replace(whole.head.counters(), callbacks=0)
    assert cut.head.counters() == clockless


@given(st.lists(MOVES, max_size=25))
def test_no_sample_is_skipped_or_repeated_whatever_happens(steps: list[Step]) -> None:
    """A tape of ones shows the fade of each frame; with it, the numbered tape shows each frame's position."""

    def ones(first: int, count: int) -> Sound:
        return np.ones(count, np.float32)

    steps = [("write", 150), *steps]
    fade = perform(Scene(ones), steps, lambda frames: [frames])
    scene = Scene(numbers)
    sound = perform(scene, steps, lambda frames: [frames])
    heard = fade > 0
    positions = np.cumsum(heard)[heard]
    np.testing.assert_allclose(sound[heard], positions * fade[heard].astype(np.float64), rtol=1e-6)
    full = fade == 1
    np.testing.assert_array_equal(sound[full], np.cumsum(heard)[full])
    assert not sound[~heard].any()
    assert scene.tape.play_head == heard.sum()
    assert np.abs(np.diff(fade, prepend=0)).max(initial=0) <= 3 / FADE_FRAMES


def test_sound_begins_with_a_fade_when_half_the_target_is_there() -> None:
    tape = new_tape(samples=99)
    head = PlayHead(tape, RATE, 2)
    assert not head.render(50).any()
    assert tape.play_head == 0
    tape.write(numbers(99, 401))
    sound = head.render(200)
    expected = numbers(0, 200).astype(np.float64)
    expected[:FADE_FRAMES] *= fade_in_curve()
    np.testing.assert_allclose(sound[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(sound[FADE_FRAMES:, 0], numbers(FADE_FRAMES, 120))
    np.testing.assert_array_equal(sound[:, 0], sound[:, 1])
    assert head.counters().underruns == head.counters().silent_frames == 0


def test_an_underrun_fades_holds_and_goes_on_where_it_stopped() -> None:
    tape = new_tape(samples=500)
    head = PlayHead(tape, RATE, 1)
    sound = head.render(600)[:, 0]
    last = int(np.flatnonzero(sound)[-1])
    fade_out = sound[last - 38 : last + 1] / numbers(last - 38, 39)
    np.testing.assert_allclose(fade_out, fade_in_curve()[1:-1:2][::-1], rtol=1e-5)
    np.testing.assert_array_equal(
        sound[FADE_FRAMES : last - 38], numbers(FADE_FRAMES, last - 38 - FADE_FRAMES)
    )
    assert 498 <= last + 1 <= 500
    assert tape.play_head == last + 1
    assert (head.counters().underruns, head.counters().silent_frames) == (1, 599 - last)

    tape.write(numbers(500, 100 - tape.lead - 1))  # one less than half the target
    assert not head.render(50).any()
    tape.write(numbers(tape.write_head, 400))
    sound = head.render(200)[:, 0]
    np.testing.assert_allclose(sound[:80], numbers(last + 1, 80) * fade_in_curve(), rtol=1e-6)
    np.testing.assert_array_equal(sound[80:], numbers(last + 81, 120))
    counters = head.counters()
    assert (counters.underruns, counters.silent_frames) == (1, 599 - last + 50)
    assert counters.frames_played == tape.play_head == last + 201


def test_a_fade_at_an_underrun_turns_round_when_the_producer_is_back() -> None:
    tape = new_tape(samples=300)
    head = PlayHead(tape, RATE, 1)
    head.render(280)
    tape.write(numbers(300, 300))
    sound = head.render(200)[:, 0]
    assert sound.all()
    np.testing.assert_array_equal(sound[80:], numbers(360, 120))
    assert (head.counters().underruns, head.counters().silent_frames) == (1, 0)


def test_a_write_head_taken_back_is_never_overrun() -> None:
    tape = new_tape(samples=1000)
    head = PlayHead(tape, RATE, 1)
    head.render(500)
    publish(tape.buffer, 505)
    assert np.count_nonzero(head.render(100)) <= 5
    assert tape.play_head <= 505


def test_pause_holds_the_tape_and_play_goes_on_from_there() -> None:
    tape = new_tape(samples=2000)
    head = PlayHead(tape, RATE, 1)
    head.render(200)
    head.playing = False
    assert not head.playing
    assert not head.is_silent
    sound = head.render(300)[:, 0]
    np.testing.assert_allclose(sound[:79], numbers(200, 79) * fade_in_curve()[:-1][::-1], rtol=1e-5)
    assert not sound[79:].any()
    assert tape.play_head == 279
    assert head.is_silent
    head.playing = True
    assert not head.is_silent
    sound = head.render(300)[:, 0]
    np.testing.assert_array_equal(sound[80:], numbers(359, 220))
    counters = head.counters()
    assert (counters.underruns, counters.silent_frames, counters.frames_played) == (0, 0, tape.play_head)


def test_an_empty_tape_while_paused_is_no_underrun() -> None:
    tape = new_tape(samples=140)
    head = PlayHead(tape, RATE, 1)
    head.render(90)
    head.playing = False
    head.render(100)
    assert 130 <= tape.play_head <= 140
    head.playing = True
    assert not head.render(50).any()
    assert head.counters().underruns == head.counters().silent_frames == 0


@pytest.mark.parametrize("device_rate", [16000, 44100, 48000])
def test_an_underrun_at_the_shortest_lead_is_one_underrun(device_rate: int) -> None:
    """There, half the target and the samples of a fade out are equal but for rounding."""
    tape = Tape(16000, CAPACITY, 160)
    tape.write(np.ones(400))
    head = PlayHead(tape, device_rate, 1)
    for _ in range(3):
        head.render(device_rate // 10)
        tape.write(np.ones(400))
    assert head.counters().underruns == 3


def test_fade_out_ends_in_silence_and_says_so_whatever_playing_says() -> None:
    head = PlayHead(new_tape(samples=2000), RATE, 1)
    head.render(200)
    assert not head.is_silent
    head.fade_out()
    assert not head.wait_silent(0)
    head.render(79)
    assert not head.is_silent
    assert not head.render(1).any()
    assert head.is_silent
    assert head.wait_silent(0)
    head.playing = False
    head.playing = True
    assert not head.render(10).any()
    head.fade_in()
    assert head.render(10).all()


def test_an_old_silence_is_not_taken_for_a_new_one() -> None:
    """A block that began before the command may still bring sound: only a later block's answer counts."""
    head = PlayHead(new_tape(samples=2000), RATE, 1)
    head.fade_out()
    head.render(10)
    assert head.is_silent
    head.fade_in()
    head.fade_out()
    assert not head.is_silent
    head.render(1)
    assert head.is_silent


def test_silence_in_an_underrun_is_not_the_silence_of_a_fade_out() -> None:
    head = PlayHead(new_tape(samples=150), RATE, 1)
    head.render(300)
    assert not head.is_silent


def test_gain_moves_in_a_straight_line_to_its_target() -> None:
    tape = Tape(RATE, CAPACITY, TARGET)
    tape.write(np.ones(2000))
    head = PlayHead(tape, RATE, 1)
    head.render(FADE_FRAMES)
    head.gain = 3.0
    assert head.gain == 3.0
    sound = head.render(100)[:, 0]
    np.testing.assert_allclose(sound[:80], 1 + 2 * np.arange(1, 81) / 80, rtol=1e-6)
    assert (sound[79:] == 3).all()
    head.gain = 0.0
    head.render(40)
    head.gain = 1.0
    sound = head.render(100)[:, 0]
    np.testing.assert_allclose(np.diff(sound[:80]), -0.5 / 80, atol=1e-6)
    assert (sound[79:] == 1).all()


@pytest.mark.parametrize("gain", [-0.1, float("nan"), float("inf")])
def test_an_impossible_gain_is_refused_and_changes_nothing(gain: float) -> None:
    head = PlayHead(new_tape(), RATE, 1)
    with pytest.raises(ControlError, match="0 or more"):
        head.gain = gain
    assert head.gain == 1.0


def test_swap_fades_out_one_tape_and_fades_in_the_other() -> None:
    first, second = new_tape(samples=2000), new_tape(samples=2000)
    head = PlayHead(first, RATE, 1)
    head.render(200)
    head.swap(second)
    assert head.tape is first
    assert not head.wait_swapped(0)
    sound = head.render(300)[:, 0]
    assert head.wait_swapped(0)
    assert head.tape is second
    np.testing.assert_allclose(sound[:79], numbers(200, 79) * fade_in_curve()[:-1][::-1], rtol=1e-5)
    np.testing.assert_allclose(sound[79:159], numbers(0, 80) * fade_in_curve(), rtol=1e-5)
    np.testing.assert_array_equal(sound[159:], numbers(80, 141))
    assert first.play_head == 279
    assert head.counters().underruns == 0


def test_swap_to_a_tape_of_another_rate_changes_the_filter() -> None:
    fast = Tape(16000, CAPACITY, 200)
    tone = np.sin(2 * np.pi * 100 * np.arange(8000) / 16000)
    fast.write(tone)
    head = PlayHead(new_tape(samples=500), RATE, 1)
    head.render(200)
    head.swap(fast)
    sound = head.render(1500)[:, 0]
    way = design(16000, RATE)
    position = np.arange(1500 - 79) * 2 - way.delay
    expected = np.sin(2 * np.pi * 100 * position / 16000)
    np.testing.assert_allclose(sound[79 + 200 :], expected[200:], atol=1e-5)


def test_a_tape_lives_until_the_callback_has_left_it() -> None:
    tapes = [new_tape(samples=500) for _ in range(3)]
    alive = [weakref.ref(tape) for tape in tapes]
    head = PlayHead(tapes[0], RATE, 1)
    head.render(200)
    head.swap(tapes[1])
    head.swap(tapes[2])  # before any callback has seen the other
    tapes.clear()
    gc.collect()
    assert all(tape() is not None for tape in alive)
    head.render(200)
    assert head.tape is alive[2]()
    gc.collect()
    assert [tape() is not None for tape in alive] == [False, False, True]


@pytest.mark.parametrize("device_rate", [48000, 44100, 8000])
def test_resampled_sound_is_the_filter_applied_to_the_tape(device_rate: int) -> None:
    """Against the convolution written out in float64, across the end of the ring."""
    tape = Tape(16000, 1024, 160)
    head = PlayHead(tape, device_rate, 1)
    samples = np.random.default_rng(5).standard_normal(2950).astype(np.float32)
    way = design(16000, device_rate)
    sound = []
    for block in np.split(samples, range(450, 2950, 250)):
        tape.write(block)
        sound.append(head.render(250 * way.up // way.down)[:, 0])
    heard = np.concatenate(sound).astype(np.float64)
    padded = np.concatenate([np.zeros(way.bank.shape[1] - 1), samples])
    steps = [divmod(frame * way.down, way.up) for frame in range(len(heard))]
    taps = way.bank.shape[1]
    expected = [padded[newest : newest + taps] @ way.bank[phase] for newest, phase in steps]
    begun = head.words[FADE]
    np.testing.assert_allclose(heard[begun:], expected[begun:], atol=2e-6)


@pytest.mark.parametrize(("tape_rate", "rate", "channels"), [(16000, 48000, 0), (16000, 191_999, 2)])
def test_impossible_devices_are_refused(tape_rate: int, rate: int, channels: int) -> None:
    with pytest.raises(DeviceError):
        PlayHead(new_tape(tape_rate), rate, channels)


def call_back(head: PlayHead, frames: int, flags: int = 0, plug: Plug | None = None) -> Sound:
    """Calls the compiled callback as PortAudio does."""
    out = np.full((frames, head.channels), np.nan, np.float32)
    plug = plug or Plug(head)
    pointers = [ctypes.c_void_p(address) for address in (out.ctypes.data, plug.address)]
    assert compiled_callback().ctypes(None, pointers[0], frames, None, flags, pointers[1]) == 0
    return out


def test_the_callback_gives_what_render_gives() -> None:
    called, rendered = (PlayHead(new_tape(16000, 5000), 44100, 3) for _ in range(2))
    for frames in (1, 64, 1024, 0, 333):
        np.testing.assert_array_equal(call_back(called, frames), rendered.render(frames))


def test_a_pulled_plug_gives_silence_and_leaves_the_play_head_alone() -> None:
    tape = new_tape(samples=1000)
    head = PlayHead(tape, RATE, 2)
    plug = Plug(head)
    assert call_back(head, 100, plug=plug).any()
    plug.pull()
    assert (call_back(head, 100, plug=plug) == 0).all()
    assert (tape.play_head, head.counters().callbacks) == (100, 1)
    assert call_back(head, 100).all()


def test_the_callback_keeps_time() -> None:
    head = PlayHead(new_tape(samples=5000), RATE, 2)
    counters = head.counters()
    assert (counters.callbacks, counters.last_callback_ns, counters.measured_rate) == (0, 0, None)
    before = clock_ns()
    call_back(head, 100, flags=0x4)
    assert head.counters().measured_rate is None
    sleep_us(2000)
    call_back(head, 70)
    call_back(head, 50, flags=0x4 | 0x2)
    after = clock_ns()
    counters = head.counters()
    assert (counters.callbacks, counters.device_underflows) == (3, 2)
    assert 2_000_000 <= counters.longest_gap_ns <= after - before
    assert 0 < counters.longest_callback_ns <= after - before
    assert before < counters.last_callback_ns < after
    assert counters.measured_rate is not None
    assert 170 * 1e9 / (after - before) <= counters.measured_rate <= 170 * 1e9 / 2_000_000


def test_the_clock_begins_after_priming_and_after_a_restart() -> None:
    head = PlayHead(new_tape(samples=5000), RATE, 2)
    call_back(head, 1000)
    sleep_us(1000)
    call_back(head, 1000, flags=0x10)
    assert head.counters().measured_rate is None
    assert head.counters().longest_gap_ns == 0
    sleep_us(1000)
    call_back(head, 1000)
    assert head.counters().measured_rate is not None
    gap = head.counters().longest_gap_ns
    head.restart_clock()
    sleep_us(gap // 1000 + 1000)
    call_back(head, 1000)
    assert head.counters().measured_rate is None
    assert head.counters().longest_gap_ns == gap
    assert head.counters().callbacks == 4


@compiled
def _write_numbers(tape: NDArray[np.int64]) -> int:
    position = load_acquire(tape, WRITE_HEAD)
    while attention(tape) == 0:
        free = room(tape)
        for _ in range(free):
            position += 1
            put(tape, position - 1, position)
        publish(tape, position)
        sleep_us(100)
    return int(position)


def test_a_producer_thread_and_the_callback_lose_nothing() -> None:
    tape = Tape(RATE, CAPACITY, 4000)
    head = PlayHead(tape, RATE, 1)
    tape.attention = 1
    _write_numbers(tape.buffer)
    tape.attention = 0
    producer = threading.Thread(target=partial(_write_numbers, tape.buffer))
    producer.start()
    try:
        deadline = clock_ns() + 30_000_000_000
        sound = []
        while tape.play_head < 1_000_000 and clock_ns() < deadline:
            sound.append(call_back(head, 256)[:, 0])
        heard = np.concatenate(sound)
    finally:
        tape.attention = 1
        producer.join()
    assert tape.play_head >= 1_000_000
    heard = heard[heard > 0]
    position = np.arange(1, len(heard) + 1, dtype=np.float32)
    assert len(heard) == tape.play_head
    assert (heard <= position).all()
    exact = heard == position
    assert exact.mean() > 0.5
    assert head.counters().frames_played == len(heard)
