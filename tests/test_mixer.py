"""The mixer: every cue at its frame, every sample once, faded where sound begins or ends; in any blocks."""

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.cues import ASAP, CLEAR, REFUSED, Entry, Taken
from streamer.kernels.atomics import clock_ns, load_acquire, sleep_us
from streamer.kernels.compiling import compiled
from streamer.kernels.resample import design
from streamer.lanes import DRIFT, RAMP, SET
from streamer.mixer import DECK, STRIPS, Mixer, Plug, compiled_callback, lane
from streamer.models.errors import ControlError, DeviceError
from streamer.tape import CLAIM, WRITE_HEAD, Tape, attention, publish, put, room, splice

RATE = 8000  # Hz: a fade is 80 frames, at an underrun 20
FADE = 80
CAPACITY = 1 << 14
TARGET = 200  # goes on after an underrun with 100 samples
SCALE = 1 << 20  # numbered samples stay below full scale

Sound = NDArray[np.float32]


def numbers(first: int, count: int) -> Sound:
    """Samples that say their position: 1, 2, 3, ... over SCALE."""
    return np.arange(first + 1, first + count + 1, dtype=np.float32) / SCALE


def noise(first: int, count: int) -> Sound:
    return (0.4 * np.sin(np.arange(first, first + count) ** 2)).astype(np.float32)


def new_tape(samples: int, rate: int = RATE, sound: Callable[[int, int], Sound] = numbers) -> Tape:
    tape = Tape(rate, CAPACITY, TARGET * rate // RATE)
    tape.write(sound(0, samples))
    return tape


def playing(tape: Tape, channels: int = 1, frames: int = FADE) -> Mixer:
    """A mixer with a tape on strip 1, faded in."""
    mixer = Mixer(RATE, channels)
    mixer.put(1, tape, 0)
    mixer.render(frames)
    return mixer


def cue(mixer: Mixer, name: str, value: float, kind: int = SET, length: int = 0, at: int = ASAP) -> None:
    strip = 0 if name == "volume" else 1
    mixer.cues.push([Entry(lane(strip, name), kind, value, length, at)])


def rise(frames: int = FADE) -> NDArray[np.float64]:
    """A crossfade's way in; its square and that of the way out are 1 together."""
    return np.sin(np.pi / 2 * np.arange(frames) / frames)


def smooth(frames: int = FADE) -> NDArray[np.float64]:
    """Every other fade's way in."""
    x = np.arange(1, frames + 1) / frames
    return x * x * (3 - 2 * x)


# --- the same in any blocks ---------------------------------------------------------------------------------

LANES = {
    "gain": st.floats(0, 2),
    "pan": st.floats(-1, 1),
    "speed": st.one_of(st.just(1.0), st.floats(0.25, 4)),
    "freeze": st.sampled_from([0.0, 1.0]),
    "loop": st.floats(0.02, 0.1),
    "scrub": st.sampled_from([0.0, 0.0, 0.01, 0.05]),
    "reverse": st.sampled_from([0.0, 1.0]),
    "play": st.sampled_from([0.0, 1.0, 1.0]),
}
FRAMES = 1500


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    name = draw(st.sampled_from(sorted(LANES)))
    kind = draw(st.sampled_from([SET, SET, RAMP, DRIFT])) if name in ("gain", "pan", "speed") else SET
    length = draw(st.integers(1, 400)) if kind != SET else 0
    strip = draw(st.integers(1, 2))
    return Entry(lane(strip, name), kind, draw(LANES[name]), length, draw(st.integers(0, FRAMES)))


Change = tuple[int, int, int, int, float]  # frame, strip, tape's rate (0: none), samples on it, fade
changes = st.tuples(
    st.integers(0, FRAMES),
    st.integers(1, 2),
    st.sampled_from([0, 8000, 4000, 6000, 16000]),
    st.sampled_from([300, 1500, 8000]),
    st.sampled_from([0.0, 0.02, 0.1]),
)


def perform(cues: list[Entry], decks: list[Change], blocks: list[int]) -> tuple[Sound, list[int], Mixer]:
    mixer, tapes = Mixer(RATE, 2), []
    for at, strip, rate, samples, fade in decks:
        if rate:
            tapes.append(new_tape(samples, rate, noise))
            mixer.put(strip, tapes[-1], fade, at)
        else:
            mixer.take(strip, fade, at)
    mixer.cues.push(cues)
    sound = np.concatenate([mixer.render(frames) for frames in blocks])
    return sound, [tape.play_head for tape in tapes], mixer


@settings(max_examples=60)
@given(
    st.lists(entries(), max_size=12),
    st.lists(changes, min_size=1, max_size=6),
    st.lists(st.integers(1, 1024), max_size=12),
    st.data(),
)
def test_sound_does_not_depend_on_how_it_is_cut_into_blocks(
    cues: list[Entry], decks: list[Change], blocks: list[int], data: st.DataObject
) -> None:
    frames = FRAMES + 300
    cuts = np.minimum(np.cumsum([0, *blocks]), frames)
    expected, positions, whole = perform(cues, decks, [frames])
    sound, heads, cut = perform(cues, decks, np.diff([*cuts, frames]).tolist())
    np.testing.assert_array_equal(sound, expected)
    assert heads == positions
    assert cut.counters() == whole.counters()
    assert np.abs(expected).max() <= 1
    taken = whole.cues.reap()
    assert [each.at for each in taken] == [each.entry.at for each in taken]


def test_blocks_of_one_frame_are_the_same_too() -> None:
    cues = [Entry(lane(1, "speed"), RAMP, 2.0, 300, 100), Entry(lane(1, "freeze"), SET, 1.0, 0, 700)]
    decks: list[Change] = [(3, 1, 16000, 8000, 0.0), (500, 1, 6000, 8000, 0.1)]
    expected, *_ = perform(cues, decks, [1200])
    sound, *_ = perform(cues, decks, [1] * 1200)
    np.testing.assert_array_equal(sound, expected)


# --- where cues take effect ---------------------------------------------------------------------------------


def test_a_cue_takes_effect_at_its_frame_or_at_once_and_says_where() -> None:
    mixer = playing(new_tape(2000), frames=100)
    mixer.cues.reap()
    cue(mixer, "gain", 0.5, at=150)
    cue(mixer, "gain", 2.0, at=30)  # too late
    cue(mixer, "gain", 0.25)
    sound = mixer.render(200)[:, 0]
    np.testing.assert_array_equal(sound[:50], numbers(100, 50) / 4)
    np.testing.assert_array_equal(sound[50:], numbers(150, 150) / 2)
    assert [each.at for each in mixer.cues.reap()] == [150, 100, 100]


def test_a_ramp_is_a_straight_line() -> None:
    mixer = playing(new_tape(2000, sound=lambda _, count: np.full(count, 0.25, np.float32)))
    cue(mixer, "gain", 2.0, RAMP, 100)
    sound = mixer.render(150)[:, 0]
    np.testing.assert_allclose(sound[:100], 0.25 + 0.25 * np.arange(100) / 100, rtol=1e-6)
    assert (sound[100:] == 0.5).all()


def test_what_cannot_be_done_is_refused_and_what_lies_ahead_can_be_cleared() -> None:
    tape = new_tape(2000)
    mixer = playing(tape, frames=100)
    mixer.cues.reap()
    entries = [Entry(1000, SET, 1.0), Entry(-1, SET, 1.0), Entry(17, DECK, 0.0), Entry(0, DECK, 0.0)]
    mixer.cues.push(entries)
    cue(mixer, "gain", 0.0, at=150)
    later = new_tape(2000)
    mixer.put(1, later, 0, at=200)
    mixer.cues.push([Entry(0, CLEAR, 0.0)])
    assert mixer.reads(later)
    sound = mixer.render(300)[:, 0]
    assert [each.at for each in mixer.cues.reap()][:4] == [REFUSED] * 4
    np.testing.assert_array_equal(sound, numbers(100, 300))
    assert not mixer.reads(later)


def test_cues_that_come_together_take_effect_in_one_block() -> None:
    mixer = playing(new_tape(2000), frames=100)
    mixer.cues.reap()
    tape = new_tape(2000)
    first = mixer.put(1, tape, 0, also=[Entry(lane(1, "gain"), SET, 0.5), Entry(lane(0, "volume"), SET, 0.5)])
    mixer.render(10)
    taken = mixer.cues.reap()
    assert [each.serial for each in taken] == [first, first + 1, first + 2]
    assert {each.at for each in taken} == {100}
    assert taken[0] == Taken(first, replace(taken[0].entry, kind=DECK, lane=1, length=FADE), 100)


# --- one tape -----------------------------------------------------------------------------------------------


def test_a_tape_passes_bit_for_bit_after_its_fade_in() -> None:
    tape = new_tape(2000, sound=noise)
    mixer = Mixer(RATE, 3)
    mixer.put(16, tape, 0)
    sound = mixer.render(500)
    np.testing.assert_allclose(sound[:FADE, 0], noise(0, FADE) * rise(), atol=1e-7)
    for channel in range(3):
        np.testing.assert_array_equal(sound[FADE:, channel], noise(FADE, 500 - FADE))
    assert tape.play_head == mixer.frame == 500
    assert mixer.position_at(16, 700) == 700
    assert mixer.position_at(1, 700) == 0
    assert mixer.counters().frames_played == mixer.strip_counters(16).frames_played == 500


def test_sound_waits_for_half_the_target() -> None:
    tape = new_tape(99)
    mixer = playing(tape)
    assert not mixer.render(50).any()
    assert tape.play_head == 0
    tape.write(numbers(99, 401))
    sound = mixer.render(200)[:, 0]
    np.testing.assert_allclose(sound[:FADE], numbers(0, FADE) * smooth(), rtol=1e-6)
    np.testing.assert_array_equal(sound[FADE:], numbers(FADE, 120))
    assert mixer.counters().underruns == mixer.counters().silent_frames == 0


def test_an_underrun_fades_holds_and_goes_on_where_it_stopped() -> None:
    tape = new_tape(500)
    mixer = playing(tape, frames=0)
    sound = mixer.render(600)[:, 0]
    last = int(np.flatnonzero(sound)[-1])
    np.testing.assert_allclose(
        sound[last - 18 : last + 1] / numbers(last - 18, 19), smooth()[3:-1:4][::-1], rtol=1e-5
    )
    np.testing.assert_array_equal(sound[FADE : last - 18], numbers(FADE, last - 18 - FADE))
    assert 498 <= last + 1 <= 500
    assert tape.play_head == last + 1
    assert (mixer.counters().underruns, mixer.counters().silent_frames) == (1, 599 - last)

    tape.write(numbers(500, 100 - tape.lead - 1))  # one less than half the target
    assert not mixer.render(50).any()
    tape.write(numbers(tape.write_head, 400))
    sound = mixer.render(200)[:, 0]
    np.testing.assert_allclose(sound[:FADE], numbers(last + 1, FADE) * smooth(), rtol=1e-6)
    np.testing.assert_array_equal(sound[FADE:], numbers(last + 81, 120))
    counters = mixer.strip_counters(1)
    assert (counters.underruns, counters.silent_frames) == (1, 599 - last + 50)
    assert counters.frames_played == tape.play_head == last + 201


def test_a_deep_lead_is_not_waited_for_after_an_underrun() -> None:
    tape = Tape(RATE, CAPACITY, 4000)
    tape.write(numbers(0, 399))
    mixer = playing(tape)
    assert not mixer.render(10).any()
    tape.write(numbers(399, 1))  # 50 ms
    assert mixer.render(10).any()


def test_a_fade_at_an_underrun_turns_round_when_the_producer_is_back() -> None:
    tape = new_tape(300)
    mixer = playing(tape, frames=290)
    tape.write(numbers(300, 300))
    sound = mixer.render(200)[:, 0]
    assert sound.all()
    np.testing.assert_array_equal(sound[80:], numbers(370, 120))
    assert (mixer.counters().underruns, mixer.counters().silent_frames) == (1, 0)


def test_a_write_head_taken_back_is_never_overrun() -> None:
    tape = new_tape(1000)
    mixer = playing(tape, frames=500)
    publish(tape.buffer, 505)
    assert np.count_nonzero(mixer.render(100)) <= 5
    assert tape.play_head <= 505


@pytest.mark.parametrize("device_rate", [16000, 44100, 48000])
def test_an_underrun_at_the_shortest_lead_is_one_underrun(device_rate: int) -> None:
    tape = Tape(16000, CAPACITY, 160)
    tape.write(np.full(400, 0.5))
    mixer = Mixer(device_rate, 1)
    mixer.put(1, tape, 0)
    for _ in range(3):
        mixer.render(device_rate // 10)
        tape.write(np.full(400, 0.5))
    assert mixer.counters().underruns == 3


def test_pause_holds_the_tape_and_play_goes_on_from_there() -> None:
    tape = new_tape(2000)
    mixer = playing(tape, frames=200)
    cue(mixer, "play", 0)
    sound = mixer.render(300)[:, 0]
    np.testing.assert_allclose(sound[:79], numbers(200, 79) * smooth()[:-1][::-1], rtol=1e-5)
    assert not sound[79:].any()
    assert tape.play_head == mixer.position_at(1, 9999) == 279
    cue(mixer, "play", 1)
    sound = mixer.render(300)[:, 0]
    np.testing.assert_array_equal(sound[80:], numbers(359, 220))
    counters = mixer.counters()
    assert (counters.underruns, counters.silent_frames, counters.frames_played) == (0, 0, tape.play_head)


def test_an_empty_tape_while_paused_is_no_underrun() -> None:
    tape = new_tape(140)
    mixer = playing(tape, frames=90)
    cue(mixer, "play", 0)
    mixer.render(100)
    assert 130 <= tape.play_head <= 140
    cue(mixer, "play", 1)
    assert not mixer.render(50).any()
    assert mixer.counters().underruns == mixer.counters().silent_frames == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_never_reaches_the_device(bad: float) -> None:
    tape = new_tape(100, sound=noise)
    tape.write([bad, 0.25])
    tape.write(noise(102, 500))
    sound = playing(tape).render(100)[:, 0]
    assert sound[20] == 0
    assert sound[21] == 0.25
    np.testing.assert_array_equal(sound[22:], noise(102, 78))
    resampled = Mixer(16000, 1)
    tape = new_tape(100, sound=noise)
    tape.write([bad] + 500 * [0.25])
    resampled.put(1, tape, 0)
    assert np.isfinite(resampled.render(800)).all()
    assert resampled.strip_counters(1).bad_samples > 10


@pytest.mark.parametrize("device_rate", [48000, 44100, 8000])
def test_resampled_sound_is_the_filter_applied_to_the_tape(device_rate: int) -> None:
    """Against the convolution written out in float64, across the end of the ring."""
    tape, mixer = Tape(16000, 1024, 160), Mixer(device_rate, 1)
    mixer.put(1, tape, 0)
    samples = 0.2 * np.random.default_rng(5).standard_normal(2950).astype(np.float32)
    way = design(16000, device_rate)
    sound = []
    for block in np.split(samples, range(450, 2950, 250)):
        tape.write(block)
        sound.append(mixer.render(250 * way.up // way.down)[:, 0])
    heard = np.concatenate(sound).astype(np.float64)
    padded = np.concatenate([np.zeros(way.bank.shape[1] - 1), samples])
    steps = [divmod(frame * way.down, way.up) for frame in range(len(heard))]
    taps = way.bank.shape[1]
    expected = [padded[newest : newest + taps] @ way.bank[phase] for newest, phase in steps]
    begun = device_rate // 90
    np.testing.assert_allclose(heard[begun:], expected[begun:], atol=2e-6)


# --- several tapes ------------------------------------------------------------------------------------------


def test_a_tape_follows_another_at_equal_power() -> None:
    first, second = (
        new_tape(4000, sound=lambda _, count, level=level: np.full(count, level, np.float32))
        for level in (0.5, 0.25)
    )
    mixer = playing(first, frames=200)
    mixer.put(1, second, 0.05, at=300)
    sound = mixer.render(700)[:, 0]
    expected = 0.5 * rise(401)[:0:-1] + 0.25 * rise(400)
    np.testing.assert_allclose(
        sound[100:500], 0.5 * np.sqrt(1 - rise(400) ** 2) + 0.25 * rise(400), atol=1e-6
    )
    assert expected.size == 400
    assert (sound[500:] == 0.25).all()
    assert (first.play_head, second.play_head) == (700, 600)
    assert not mixer.reads(first)
    assert mixer.reads(second)


def test_a_strip_that_is_left_is_empty_and_costs_no_sample() -> None:
    tape = new_tape(4000)
    mixer = playing(tape, frames=200)
    mixer.take(1, 0.05)
    sound = mixer.render(1000)[:, 0]
    assert sound[:399].all()
    assert not sound[401:].any()
    assert tape.play_head == 600
    assert not mixer.reads(tape)
    mixer.put(1, tape, 0)  # and may come again
    assert mixer.render(500).any()
    assert tape.play_head == 1100


def test_quick_successors_neither_click_nor_pile_up() -> None:
    def steady(_: int, count: int) -> Sound:
        return np.full(count, 0.1, np.float32)

    tapes = [new_tape(8000, sound=steady) for _ in range(12)]
    mixer = playing(tapes[0], frames=200)
    for number, tape in enumerate(tapes[1:]):
        mixer.put(1, tape, 1.0, at=300 + 100 * number)
    sound = mixer.render(1400)[:, 0]
    assert np.abs(np.diff(sound)).max() < 0.01
    assert sum(map(mixer.reads, tapes)) == 3
    mixer.render(8000)
    assert [mixer.reads(tape) for tape in tapes] == [False] * 11 + [True]


def test_of_two_tapes_at_one_frame_the_later_counts() -> None:
    first, second, third = new_tape(2000), new_tape(2000), new_tape(2000)
    mixer = playing(first, frames=200)
    mixer.put(1, second, 0)
    mixer.put(1, third, 0)
    mixer.render(200)
    assert (first.play_head, second.play_head, third.play_head) == (280, 0, 200)


def test_strips_are_added_and_their_gains_are_their_own() -> None:
    mixer = Mixer(RATE, 1)
    for strip in range(1, STRIPS + 1):
        mixer.put(strip, new_tape(1000), 0)
        mixer.cues.push([Entry(lane(strip, "gain"), SET, strip / STRIPS)])
    sound = mixer.render(400)[FADE:, 0]
    np.testing.assert_allclose(sound, numbers(FADE, 320) * (STRIPS + 1) / 2, rtol=1e-6)


def test_a_tape_lives_until_the_callback_has_left_it() -> None:
    tapes = [new_tape(2000) for _ in range(3)]
    alive = [weakref.ref(tape) for tape in tapes]
    mixer = playing(tapes[0], frames=200)
    mixer.put(1, tapes[1], 0)
    mixer.put(1, tapes[2], 0, at=900)
    tapes.clear()
    gc.collect()
    assert all(tape() is not None for tape in alive)
    mixer.render(200)
    mixer.take(2, 0)
    gc.collect()
    assert [tape() is not None for tape in alive] == [False, True, True]


def test_impossible_wishes_are_refused() -> None:
    tape = new_tape(500)
    mixer = playing(tape)
    with pytest.raises(ControlError, match="already"):
        mixer.put(2, tape, 0)
    for strip in (0, STRIPS + 1):
        with pytest.raises(ControlError, match="1 to 16"):
            mixer.put(strip, new_tape(0), 0)
        with pytest.raises(ControlError, match="1 to 16"):
            mixer.meters(strip)
    with pytest.raises(DeviceError, match="191999"):
        Mixer(191_999, 2).put(1, new_tape(0, 16000), 0)
    with pytest.raises(DeviceError, match="0 channels"):
        Mixer(48000, 0)


# --- the way out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_pan_keeps_the_power_and_the_centre_untouched(channels: int) -> None:
    def steady(_: int, count: int) -> Sound:
        return np.full(count, 0.5, np.float32)

    mixer = playing(new_tape(3000, sound=steady), channels)
    assert (mixer.render(10) == 0.5).all()
    cue(mixer, "pan", -1, RAMP, 500)
    sound = mixer.render(600)
    if channels == 1:
        assert (sound == 0.5).all()
        return
    np.testing.assert_allclose((sound[:, :2] ** 2).sum(axis=1), 0.5, rtol=1e-5)
    np.testing.assert_allclose(sound[-1, :2], [0.5 * np.sqrt(2), 0], atol=1e-7)
    np.testing.assert_array_equal(sound[:, :2], sound[:, -2:])


def test_the_limiter_touches_only_what_is_too_loud() -> None:
    loud = np.concatenate([np.full(300, 0.9), np.full(10, -1.8), np.full(3000, 0.9)])
    tape = Tape(RATE, CAPACITY, TARGET)
    tape.write(loud)
    mixer = playing(tape)
    sound = mixer.render(2000)[:, 0]
    np.testing.assert_array_equal(sound[:220], np.float32(0.9))
    np.testing.assert_allclose(sound[220:230], -1, atol=1e-6)
    assert (np.abs(sound) <= 1).all()
    back = sound[230:] / np.float32(0.9)
    assert (np.diff(back) >= 0).all()
    np.testing.assert_allclose(back[:350], 10 / 18 + np.arange(1, 351) / 800, rtol=1e-4)
    np.testing.assert_array_equal(sound[230 + 360 :], np.float32(0.9))


def test_volume_is_the_gain_of_all() -> None:
    mixer = playing(new_tape(1000))
    cue(mixer, "volume", 2.0)
    np.testing.assert_array_equal(mixer.render(100)[:, 0], 2 * numbers(FADE, 100))


def test_meters_say_how_loud_a_strip_and_the_whole_are() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(8000) / RATE)
    tape = Tape(RATE, CAPACITY, TARGET)
    tape.write(tone)
    mixer = playing(tape, 2)
    cue(mixer, "gain", 0.5)
    cue(mixer, "pan", 1.0)
    mixer.render(6000)
    strip, whole = mixer.meters(1), mixer.meters()
    assert strip.peak == pytest.approx(0.25, rel=0.01)
    assert strip.rms == pytest.approx(0.25 / np.sqrt(2), rel=0.1)
    assert whole.peak == pytest.approx(0.25 * np.sqrt(2), rel=0.01)
    assert whole.rms == pytest.approx(0.25 / np.sqrt(2), rel=0.1)
    assert mixer.meters(2).peak == mixer.meters(2).rms == 0
    mixer.take(1, 0)
    mixer.render(round(1.7 * RATE))
    assert mixer.meters(1).peak == pytest.approx(0.025, rel=0.05)
    mixer.render(30 * RATE)
    assert mixer.meters(1).peak == mixer.meters(1).rms == 0


def test_fade_out_ends_in_silence_says_so_and_holds_all() -> None:
    tape = new_tape(2000)
    mixer = playing(tape, frames=200)
    assert not mixer.is_silent
    mixer.fade_out()
    assert not mixer.wait_silent(0)
    np.testing.assert_allclose(mixer.render(79)[:, 0], numbers(200, 79) * smooth()[:-1][::-1], rtol=1e-5)
    assert not mixer.is_silent
    assert not mixer.render(100).any()
    assert mixer.is_silent
    assert mixer.wait_silent(0)
    assert mixer.frame == tape.play_head == 279
    cue(mixer, "gain", 0.5)
    mixer.fade_in()
    assert not mixer.is_silent
    sound = mixer.render(200)[:, 0]
    np.testing.assert_array_equal(sound[FADE:], numbers(359, 120) / 2)


def test_an_old_silence_is_not_taken_for_a_new_one() -> None:
    """A block that began before the command may still bring sound: only a later block's answer counts."""
    mixer = playing(new_tape(2000))
    mixer.fade_out()
    mixer.render(100)
    assert mixer.is_silent
    mixer.fade_in()
    mixer.render(0)
    assert not mixer.is_silent
    mixer.fade_out()
    assert not mixer.is_silent
    mixer.render(1)
    assert mixer.is_silent


# --- the callback -------------------------------------------------------------------------------------------


def call_back(mixer: Mixer, frames: int, flags: int = 0, plug: Plug | None = None) -> Sound:
    """Calls the compiled callback as PortAudio does."""
    out = np.full((frames, mixer.channels), np.nan, np.float32)
    plug = plug or Plug(mixer)
    pointers = [ctypes.c_void_p(address) for address in (out.ctypes.data, plug.address)]
    assert compiled_callback().ctypes(None, pointers[0], frames, None, flags, pointers[1]) == 0
    return out


def test_the_callback_gives_what_render_gives() -> None:
    called, rendered = Mixer(44100, 3), Mixer(44100, 3)
    for mixer in (called, rendered):
        mixer.put(1, new_tape(5000, 16000, noise), 0)
    for frames in (1, 64, 1024, 0, 333):
        np.testing.assert_array_equal(call_back(called, frames), rendered.render(frames))


def test_a_pulled_plug_gives_silence_and_leaves_the_mixer_alone() -> None:
    tape = new_tape(1000)
    mixer = playing(tape, frames=0)
    plug = Plug(mixer)
    assert call_back(mixer, 100, plug=plug).any()
    plug.pull()
    assert (call_back(mixer, 100, plug=plug) == 0).all()
    assert (tape.play_head, mixer.frame, mixer.counters().callbacks) == (100, 100, 1)
    assert call_back(mixer, 100).all()


def test_the_callback_keeps_time() -> None:
    mixer = playing(new_tape(5000), frames=1000)
    before = clock_ns()
    call_back(mixer, 100, flags=0x4)
    assert mixer.counters().measured_rate is None
    sleep_us(2000)
    call_back(mixer, 70)
    call_back(mixer, 50, flags=0x4 | 0x2)
    after = clock_ns()
    counters = mixer.counters()
    assert (counters.callbacks, counters.device_underflows, mixer.block) == (3, 2, 50)
    assert 2_000_000 <= counters.longest_gap_ns <= after - before
    assert 0 < counters.longest_callback_ns <= after - before
    assert before < counters.last_callback_ns < after
    assert counters.measured_rate is not None
    assert 170 * 1e9 / (after - before) <= counters.measured_rate <= 170 * 1e9 / 2_000_000
    # The underflow has it begin anew: the last block's stamp is believed.
    assert mixer.time_of(1170) == pytest.approx(counters.last_callback_ns, abs=1000)
    assert mixer.frame_at(counters.last_callback_ns + 10**9) == pytest.approx(1170 + RATE, abs=10)


def test_the_clock_begins_after_priming_and_after_a_restart() -> None:
    mixer = playing(new_tape(5000))
    call_back(mixer, 1000)
    sleep_us(1000)
    call_back(mixer, 1000, flags=0x10)
    assert mixer.counters().measured_rate is None
    assert mixer.counters().longest_gap_ns == 0
    sleep_us(1000)
    call_back(mixer, 1000)
    assert mixer.counters().measured_rate is not None
    gap = mixer.counters().longest_gap_ns
    mixer.restart_clock()
    sleep_us(gap // 1000 + 1000)
    call_back(mixer, 1000)
    assert mixer.counters().measured_rate is None
    assert mixer.counters().longest_gap_ns == gap
    assert mixer.counters().callbacks == 4


# --- two threads --------------------------------------------------------------------------------------------

LENGTH = 400_000
CODES = 1 << 23


@compiled
def _write_and_splice(tape: NDArray[np.int64], final: NDArray[np.float64], draft: NDArray[np.float32]) -> int:
    """Writes samples that say position and generation; each time some are replaced, a new one begins."""
    generation, random, takes = 1, 1, 0
    position = load_acquire(tape, WRITE_HEAD)
    while attention(tape) == 0 and position < final.size - 8192:
        for _ in range(min(room(tape), 512)):
            final[position] = (position % 4096 + 4096 * generation) / CODES
            put(tape, position, final[position])
            position += 1
        publish(tape, position)
        random = (random * 1103515245 + 12345) % (1 << 31)
        claimed = load_acquire(tape, CLAIM)
        back = claimed + (random >> 8) % max(1, position - claimed)
        generation, count = generation % 1000 + 1, min(draft.size, position - back)
        for place in range(count):
            draft[place] = ((back + place) % 4096 + 4096 * generation) / CODES
        if count > 0 and splice(tape, back, draft, count):
            takes += 1
            final[back : back + count] = draft[:count]
            position = back + count
    return takes


def test_what_is_taken_back_after_being_claimed_was_never_heard() -> None:
    tape, mixer = Tape(RATE, CAPACITY, 4000), Mixer(RATE, 1)
    final, draft = np.zeros(LENGTH), np.zeros(64, np.float32)
    tape.attention = 1
    _write_and_splice(tape.buffer, final, draft)
    tape.attention = 0
    takes: list[int] = []
    producer = threading.Thread(target=lambda: takes.append(_write_and_splice(tape.buffer, final, draft)))
    mixer.put(1, tape, 0)
    mixer.render(FADE)  # the crossfade passes over silence: its first frame would be a sample times 0
    producer.start()
    deadline, blocks = clock_ns() + 30_000_000_000, []
    try:
        while producer.is_alive() and clock_ns() < deadline:
            blocks.append(mixer.render(64)[:, 0])
    finally:
        tape.attention = 1
        producer.join()
    sound = np.concatenate(blocks)
    heard = np.flatnonzero(sound)
    assert len(heard) == tape.play_head  # each position once, none skipped
    assert takes[0] > 1000
    expected, gains = final[FADE : len(heard)], smooth()
    ratio = sound[heard][FADE:] / expected
    gain = gains[np.clip(np.searchsorted(gains, ratio - 1e-5), 0, FADE - 1)]  # of the fades at underruns
    np.testing.assert_allclose(sound[heard][FADE:], expected * gain, rtol=1e-6)
    assert (gain == 1).mean() > 0.3
