"""The mixer: sixteen strips, each with a tape or none, into what the sound card asks for.

A Python callback is late by 5 ms as soon as one other thread is busy. This one is compiled by numba, handed
to PortAudio as a raw pointer, and uses no Python, GIL, lock or allocation; it shares with the other threads
nothing but words that are published atomically.

    mixer = Mixer(rate, channels)
    mixer.put(1, tape, fade_s=0.05)                        strips have the numbers 1 to 16; 0 is the master
    mixer.cues.push([Entry(lane(1, "gain"), RAMP, 0.5, length=480)])
    mixer.render(frames)                                   or `streamer.audio.Output(mixer, device)`

Time is counted in *frames* rendered since the beginning. Cues are taken at a block's beginning, and take
effect at the frame that they ask for, or at the block's first where that has passed. From there on everything
goes frame by frame, the same however the device cuts its blocks: lanes move, decks fade in and out
(`streamer.deck`), and the sum goes through the volume and, beyond full scale, a limiter.

Words that point to all else, so that one address is enough for the callback:

    plug     one stream's way to the mixer, until it is pulled
    mixer    the whole output; it points to the lanes, the queue of cues, the agenda, the strips, the clock
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numpy.typing import NDArray

from streamer.agenda import (
    ADDRESS,
    AGENDA_WORDS,
    DECK,
    FADE,
    STRIP,
    drop_first,
    item,
    next_frame,
    take_cues,
)
from streamer.clock import CLOCK_WORDS, Clock, keep_time
from streamer.controls import find
from streamer.cues import ASAP, CueQueue, Entry
from streamer.deck import (
    BAD_SAMPLES,
    FADE_SECONDS,
    FRAMES_PLAYED,
    SILENT_FRAMES,
    STRIP_LANES,
    UNDERRUNS,
    Deck,
    fade_frames,
    fade_gain,
)
from streamer.kernels.atomics import (
    aligned_words,
    load,
    load_acquire,
    monotonic_ns,
    sleep_us,
    store,
    store_release,
)
from streamer.kernels.compiling import callback, compiled, inner, part
from streamer.lanes import limits_of, new_lanes
from streamer.meters import Meter, falls, measure, meter_of
from streamer.models.errors import ControlError, DeviceError
from streamer.reader import words_at
from streamer.strip import (
    CHUNK,
    METER,
    PACE,
    PLACE,
    STRIP_WORDS,
    STRIPS,
    Scratch,
    change,
    fill,
    lane,
    mix,
    note_place,
)
from streamer.tape import Tape

__all__ = ["DECK", "FADE_SECONDS", "STRIPS", "Mixer", "Plug", "compiled_callback", "lane"]

RELEASE_SECONDS = 0.1
"""How long the limiter takes to come back from silence; it moves in a straight line."""

# Words of the mixer. The control thread's, a cache line of its own:
COMMAND = 0
# Constant; addresses, then numbers, the last three as float64:
LANES_AT, LANES_SIZE, QUEUE_AT, QUEUE_SIZE, AGENDA_AT, STRIPS_AT, CLOCK_AT, SCRATCH_AT = range(8, 16)
CHANNELS, FADE_FRAMES, RELEASE, PEAK_KEEPS, MEAN_KEEPS = range(16, 21)
# The callback's; LIMIT and the meter as float64. NOW is the frame as it goes on, FRAME the block's end,
# published with the strips' places; VERSION is odd while they change.
VERSION, FRAME, HUSHED, NOW, LEVEL, LIMIT, MASTER_METER = range(24, 31)
MIXER_WORDS = 32

# Words of a plug.
PLUG_MIXER, PULLED, UNTIMED = range(3)
PLUG_WORDS = 8

_FADED_OUT = 1  # the bit of COMMAND; above it a number that changes with every command

Words = NDArray[np.int64]
Floats = NDArray[np.float64]


@inner
def _scratch_of(mixer: Words) -> Scratch:
    rows = len(STRIP_LANES)
    numbers = words_at(mixer[SCRATCH_AT], CHUNK * (rows + 1 + mixer[CHANNELS])).view(np.float64)
    values = numbers[: rows * CHUNK].reshape(rows, CHUNK)
    return Scratch(values, numbers[rows * CHUNK : (rows + 1) * CHUNK], numbers[(rows + 1) * CHUNK :])


@inner
def _strip_at(mixer: Words, number: int) -> Words:
    return words_at(mixer[STRIPS_AT] + 8 * STRIP_WORDS * (number - 1), STRIP_WORDS)


@inner
def _keeps(mixer: Words) -> tuple[float, float]:
    numbers = mixer.view(np.float64)
    return numbers[PEAK_KEEPS], numbers[MEAN_KEEPS]


@part
def _change_decks(mixer: Words, agenda: Words) -> int:
    """Let decks come and go whose frame it is; the frame of the next."""
    frame = mixer[NOW]
    while next_frame(agenda) <= frame:
        first = item(0)
        change(_strip_at(mixer, agenda[first + STRIP]), agenda[first + ADDRESS], frame, agenda[first + FADE])
        drop_first(agenda)
    return next_frame(agenda)


@inner
def _limit(mixer: Words, bus: Floats, channels: int) -> None:
    """A peak limiter: at once as low as a frame needs, and back along a straight line; 1 touches nothing."""
    numbers = mixer.view(np.float64)
    gain, release = numbers[LIMIT], numbers[RELEASE]
    for first in range(0, bus.size, channels):
        peak = 0.0
        for channel in range(channels):
            peak = max(peak, abs(bus[first + channel]))
        gain = min(1.0, gain + release)
        if peak * gain > 1.0:
            gain = 1.0 / peak
        for channel in range(channels):
            bus[first + channel] = min(max(bus[first + channel] * gain, -1.0), 1.0)
    numbers[LIMIT] = gain


@inner
def _fade(mixer: Words, bus: Floats, channels: int, opened: bool) -> None:
    """The whole output's fade, at the device's command."""
    level, full = mixer[LEVEL], mixer[FADE_FRAMES]
    for first in range(0, bus.size, channels):
        level = min(full, level + 1) if opened else level - 1
        for channel in range(channels):
            bus[first + channel] *= fade_gain(level, full)
    mixer[LEVEL] = level


@part
def _finish(mixer: Words, lanes: Words, bus: Floats, opened: bool) -> None:
    """What becomes of the sum of all strips: volume, limiter, fade, meter. And the frames are done."""
    channels, frame, scratch = mixer[CHANNELS], mixer[NOW], _scratch_of(mixer)
    volume = scratch.values[0, : bus.size // channels]
    fill(lanes, 0, frame, volume)
    for i in range(bus.size):
        bus[i] *= volume[i // channels]
    _limit(mixer, bus, channels)
    _fade(mixer, bus, channels, opened)
    measure(mixer.view(np.float64)[MASTER_METER : MASTER_METER + 2], bus, channels, _keeps(mixer))
    mixer[NOW] = frame + volume.size


@part
def _note_places(mixer: Words) -> None:
    """Publish the frame and where the tapes are at it."""
    store_release(mixer, VERSION, mixer[VERSION] + 1)
    store_release(mixer, FRAME, mixer[NOW])
    for number in range(1, STRIPS + 1):
        note_place(_strip_at(mixer, number))
    store_release(mixer, VERSION, mixer[VERSION] + 1)


@part
def _render(mixer: Words, out: NDArray[np.float32]) -> None:
    """Plays on by as many frames as `out` holds; once it is faded out, by none, and `out` is silent.

    Args:
        mixer: the words of a `Mixer`.
        out: float32 [frames * channels], interleaved.
    """
    command, channels = load_acquire(mixer, COMMAND), mixer[CHANNELS]
    opened, lanes = command & _FADED_OUT == 0, words_at(mixer[LANES_AT], mixer[LANES_SIZE])
    agenda = words_at(mixer[AGENDA_AT], AGENDA_WORDS)
    take_cues(words_at(mixer[QUEUE_AT], mixer[QUEUE_SIZE]), lanes, agenda, mixer[NOW])
    asked, done = out.size // channels, 0
    frames, scratch = asked if opened else min(asked, max(0, mixer[LEVEL] - 1)), _scratch_of(mixer)
    while done < frames:
        count = min(frames - done, CHUNK, _change_decks(mixer, agenda) - mixer[NOW])
        bus = scratch.bus[: count * channels]
        bus[:] = 0.0
        for number in range(1, STRIPS + 1):
            mix(_strip_at(mixer, number), number, lanes, mixer[NOW], count, scratch, _keeps(mixer))
        _finish(mixer, lanes, bus, opened)
        for i in range(bus.size):
            out[done * channels + i] = np.float32(bus[i])
        done += count
    if done < asked:
        mixer[LEVEL] = 0
        out[done * channels :] = 0.0
    _note_places(mixer)
    store_release(mixer, HUSHED, command if mixer[LEVEL] == 0 and not opened else -1)


@compiled
def _place_at(mixer: Words, number: int, frame: int) -> float:
    """Where a strip's tape will be at a frame if it moves on as it does."""
    numbers = _strip_at(mixer, number).view(np.float64)
    while True:
        version = load_acquire(mixer, VERSION)
        place, pace = load_acquire(numbers, PLACE), load_acquire(numbers, PACE)
        ahead = frame - load_acquire(mixer, FRAME)
        if version % 2 == 0 and load_acquire(mixer, VERSION) == version:
            return float(place + pace * ahead)
        sleep_us(20)


def _callback(source: Any, out: Any, frames: Any, clock: Any, flags: Any, address: Any) -> Any:
    """PaStreamCallback; compiled by `compiled_callback`, never run as Python. `address` is that of a plug."""
    began = monotonic_ns()
    plug = carray(address, PLUG_WORDS, np.int64)
    mixer = words_at(plug[PLUG_MIXER], MIXER_WORDS)
    block = carray(out, np.int64(frames) * mixer[CHANNELS], np.float32)
    if load_acquire(plug, PULLED) != 0:
        block[:] = 0.0
    else:
        frame = mixer[NOW]
        _render(mixer, block)
        if plug[UNTIMED] == 0:
            keep_time(words_at(mixer[CLOCK_AT], CLOCK_WORDS), frame, np.int64(frames), np.int64(flags), began)
    return 0  # paContinue


@cache
def compiled_callback() -> Any:
    """The PortAudio callback as a numba cfunc (`address`, `ctypes`), compiled on the first call."""
    signature = types.int32(
        types.voidptr, types.voidptr, types.uint64, types.voidptr, types.uint64, types.voidptr
    )
    return callback(_callback, signature)


@dataclass(frozen=True)
class StripCounters:
    """What happened on a strip, or on all, since the mixer was made.

    Attributes:
        frames_played: frames with sound from the tape in play, fades included.
        underruns: times that the producer was too slow.
        silent_frames: frames of silence in underruns.
        bad_samples: frames left out because they were not finite.
    """

    frames_played: int
    underruns: int
    silent_frames: int
    bad_samples: int


@dataclass(frozen=True)
class MixerCounters(StripCounters):
    """What happened on all strips, and at the device, since the mixer was made.

    Attributes:
        callbacks: blocks asked for by the device.
        device_underflows: times that PortAudio said the callback was too late.
        longest_gap_ns: longest time from the beginning of one callback to that of the next.
        longest_callback_ns: longest time inside a callback.
        last_callback_ns: when the last one began, by `streamer.kernels.atomics.clock_ns`; 0 before the first.
        measured_rate: the device's real rate in Hz by the system's clock; None before the second callback.
    """

    callbacks: int
    device_underflows: int
    longest_gap_ns: int
    longest_callback_ns: int
    last_callback_ns: int
    measured_rate: float | None


class Plug:
    """One stream's way to a mixer; pulled, it leads nowhere, and the stream gets silence.

    A sound server that froze may call again long after another stream has taken over the mixer, which only
    one may play at a time. What the callback reads stays alive as long as the plug.

    Args:
        mixer: whose words the callback is led to.
        timed: whether blocks are asked for by a device's clock.
    """

    def __init__(self, mixer: Mixer, timed: bool = True) -> None:
        self._mixer = mixer
        self._words = aligned_words(PLUG_WORDS)
        self._words[PLUG_MIXER] = mixer.words.ctypes.data
        self._words[UNTIMED] = not timed

    @property
    def address(self) -> int:
        """What the callback is given as its user data."""
        return int(self._words.ctypes.data)

    def pull(self) -> None:
        """Leaves the mixer to another stream."""
        store(self._words, PULLED, 1)


class Mixer:
    """Plays up to sixteen tapes at once at a device's rate.

    Cues are for control threads, `render` for whoever has no device; `streamer.audio` hands a `Plug` and the
    `compiled_callback` to PortAudio.

    Args:
        rate: the device's rate in Hz.
        channels: the device's channels: left and right in turn. Fewer than two know no pan.

    Raises:
        DeviceError: there is no channel.
    """

    def __init__(self, rate: int, channels: int = 2) -> None:
        if channels < 1:
            raise DeviceError(f"cannot play on {channels} channels: there must be at least one")
        self.rate = rate
        self.channels = channels
        self.cues = CueQueue()
        """Changes of lanes (see `lane`), and `streamer.cues.CLEAR`; decks go by `put` and `take`."""
        self.words = aligned_words(MIXER_WORDS)
        self._lanes = new_lanes(limits_of([find("volume"), *map(find, STRIP_LANES * STRIPS)]))
        self._agenda = aligned_words(AGENDA_WORDS)
        self._strips = aligned_words(STRIP_WORDS * STRIPS)
        self._scratch = aligned_words(CHUNK * (len(STRIP_LANES) + 1 + channels))
        self._clock = Clock(rate)
        self._lock = threading.Lock()  # between control threads; the callback knows nothing of it
        self._decks: list[Deck] = []  # all that the callback may still read
        self._point()
        self._warm()

    def _point(self) -> None:
        """Let the words say where all is, and how it begins."""
        words, numbers = self.words, self.words.view(np.float64)
        for place, block in (
            (LANES_AT, self._lanes),
            (QUEUE_AT, self.cues.words),
            (AGENDA_AT, self._agenda),
            (STRIPS_AT, self._strips),
            (CLOCK_AT, self._clock.words),
            (SCRATCH_AT, self._scratch),
        ):
            words[place] = block.ctypes.data
        words[LANES_SIZE], words[QUEUE_SIZE] = self._lanes.size, self.cues.words.size
        words[CHANNELS] = self.channels
        words[FADE_FRAMES] = words[LEVEL] = fade_frames(self.rate)
        words[HUSHED] = -1
        numbers[RELEASE] = 1 / (RELEASE_SECONDS * self.rate)
        numbers[[PEAK_KEEPS, MEAN_KEEPS]] = falls(self.rate)
        numbers[LIMIT] = 1.0

    def _warm(self) -> None:
        """Compile, or load from disk, all of it now: no stream, and no cue, ever waits for a compiler."""
        self.render(0)
        self.position_at(1, 0)
        self.counters()

    def put(self, strip: int, tape: Tape, fade_s: float, at: int = ASAP, also: Sequence[Entry] = ()) -> int:
        """Let a tape follow on a strip, from its play head on, crossfaded at equal power.

        Args:
            strip: 1 to 16.
            tape: of any rate; it stays alive until the callback has left it.
            fade_s: seconds of the crossfade, at least 10 ms.
            at: the frame.
            also: entries that are taken in the same block.

        Returns:
            The cue's serial; those of `also` follow.

        Raises:
            DeviceError: no filter leads from the tape's rate to the device's.
            ControlError: there is no such strip, the tape is on one, or too many cues wait.
        """
        _check_strip(strip)
        deck = Deck(tape, self.rate)
        with self._lock:
            self._release_decks()
            if any(other.tape is tape for other in self._decks):
                raise ControlError("this tape is being played already: take it off, or put another")
            serial = self._push(strip, deck.address, fade_s, at, also)
            self._decks.append(deck)
        return serial

    def take(self, strip: int, fade_s: float, at: int = ASAP, also: Sequence[Entry] = ()) -> int:
        """Fade a strip out and leave it empty; as `put`."""
        _check_strip(strip)
        with self._lock:
            self._release_decks()
            return self._push(strip, 0, fade_s, at, also)

    def _push(self, strip: int, address: int, fade_s: float, at: int, also: Sequence[Entry]) -> int:
        frames = max(int(self.words[FADE_FRAMES]), round(fade_s * self.rate))
        return self.cues.push([Entry(strip, DECK, float(address), frames, at), *also])

    def reads(self, tape: Tape) -> bool:
        """Whether a tape is to be played, is played, or is still fading out."""
        with self._lock:
            self._release_decks()
            return any(deck.tape is tape for deck in self._decks)

    def fade_out(self) -> None:
        """Asks for silence; `is_silent` tells when it is there. All tapes and `frame` then hold."""
        self._command(faded_out=True)

    def fade_in(self) -> None:
        """Takes `fade_out` back."""
        self._command(faded_out=False)

    @property
    def is_silent(self) -> bool:
        """True when faded out and the fade has ended: silence until the next command."""
        return bool(load(self.words, HUSHED) == load(self.words, COMMAND))

    def wait_silent(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for `is_silent` and returns it; False too without a device."""
        return _wait_until(lambda: self.is_silent, timeout)

    @property
    def frame(self) -> int:
        """Frames rendered since the beginning."""
        return int(load(self.words, FRAME))

    @property
    def block(self) -> int:
        """Frames of the device's last block; 0 before the first."""
        return self._clock.read().block

    def frame_at(self, time_ns: int) -> int:
        """The frame due at a time of the monotonic clock (`streamer.kernels.atomics.clock_ns`), smoothly.

        That is when its block would be asked for, were a block one frame long.
        """
        return self._clock.frame_at(time_ns)

    def time_of(self, frame: int) -> int:
        """When a frame is due: the reverse of `frame_at`, in ns."""
        return self._clock.time_of(frame)

    def position_at(self, strip: int, frame: int) -> int:
        """The position of the tape in play that a frame begins with, if it moves on as it does; 0 without."""
        _check_strip(strip)
        return int(_place_at(self.words, strip, frame))

    def meters(self, strip: int | None = None) -> Meter:
        """How loud a strip is after its gain and before its pan, or what goes to the device."""
        if strip is None:
            return meter_of(self.words.view(np.float64)[MASTER_METER : MASTER_METER + 2])
        return meter_of(self._strip(strip).view(np.float64)[METER : METER + 2])

    def strip_counters(self, strip: int) -> StripCounters:
        """What happened on a strip so far."""
        return StripCounters(**_counts(self._strip(strip)))

    def counters(self) -> MixerCounters:
        """What happened so far."""
        clock = self._clock.read()
        return MixerCounters(
            **_counts(self._strips.reshape(STRIPS, STRIP_WORDS).sum(axis=0)),
            callbacks=clock.callbacks,
            device_underflows=clock.device_underflows,
            longest_gap_ns=clock.longest_gap_ns,
            longest_callback_ns=clock.longest_callback_ns,
            last_callback_ns=clock.last_callback_ns,
            measured_rate=clock.measured_rate,
        )

    def restart_clock(self) -> None:
        """Forgets when callbacks came: the time between two streams is no gap. Only while no stream runs."""
        self._clock.restart()

    def render(self, frames: int) -> NDArray[np.float32]:
        """Plays on without a device: float32 [frames, channels]. Only while no stream runs."""
        out, plug = np.empty((frames, self.channels), np.float32), Plug(self, timed=False)
        compiled_callback().ctypes(None, out.ctypes.data, frames, None, 0, plug.address)
        return out

    def _strip(self, number: int) -> Words:
        _check_strip(number)
        return self._strips[STRIP_WORDS * (number - 1) : STRIP_WORDS * number]

    def _command(self, faded_out: bool) -> None:
        """Sets the wish and renumbers the command: an answer to an older one is none to this."""
        with self._lock:
            number = int(load(self.words, COMMAND)) >> 1
            store(self.words, COMMAND, (number + 1) << 1 | (_FADED_OUT if faded_out else 0))

    def _release_decks(self) -> None:
        """Lets go of the decks that the callback has left."""
        self._decks = [deck for deck in self._decks if not deck.has_left]


def _check_strip(number: int) -> None:
    if not 1 <= number <= STRIPS:
        raise ControlError(f"there is no strip {number}: choose 1 to {STRIPS}")


def _counts(words: Words) -> dict[str, int]:
    return {
        "frames_played": int(words[FRAMES_PLAYED]),
        "underruns": int(words[UNDERRUNS]),
        "silent_frames": int(words[SILENT_FRAMES]),
        "bad_samples": int(words[BAD_SAMPLES]),
    }


def _wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.001)
    return True
