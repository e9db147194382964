"""The play head: follows a tape and turns it into what the sound card asks for.

A Python callback is late by 5 ms as soon as one other thread is busy. This one is compiled by numba, handed
to PortAudio as a raw pointer, and uses no Python, GIL, lock or allocation; it shares with the other threads
nothing but words that are published atomically.

Blocks of int64 words say everything, so that one address is enough for the callback:

    plug   one stream's way to the head, until it is pulled
    head   what the control thread wants (command, gain, next deck), the channels, and the counters
    deck   one tape being played: the tape's address, the filter's address, the fraction of a sample, the fade

Frame by frame, and therefore the same however the device cuts its blocks, the play head
    - is *open* unless it was paused, faded out, or another tape waits; opening and closing take a fade
      of 10 ms;
    - holds the tape where it is once a fade has reached zero: no sample is skipped or repeated, only faded;
    - fades over the last 5 ms of the tape when the producer does not keep up (an *underrun*), holds, and
      goes on from the same place when half the target lead is there again;
    - resamples (`streamer.kernels.resample`; equal rates pass bit for bit), and moves the gain in 10 ms.

`render` is all of that as a plain function of arrays: the callback adds a clock to it, a file needs none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numpy.typing import NDArray

from streamer.kernels.atomics import (
    address_to_pointer,
    aligned_words,
    load,
    load_acquire,
    monotonic_ns,
    sleep_us,
    store,
    store_release,
)
from streamer.kernels.compiling import callback, compiled, inner
from streamer.kernels.resample import Resampling, design, interpolate, renderable
from streamer.models.errors import ControlError, DeviceError
from streamer.tape import PLAY_HEAD, TARGET, WRITE_HEAD, Tape, ring_of

FADE_SECONDS = 0.010
GAIN_SECONDS = 0.010

# Words of the head. One cache line: wanted by the control thread.
COMMAND, GAIN_TARGET, NEXT_DECK = 0, 1, 2  # the gain as float64
# One: constant.
CHANNELS, FADE, GAIN_RAMP = 8, 9, 10  # the last two in frames
# The rest is written by the callback. What it did with the wishes:
DECK, HUSHED, GAIN, GAIN_GOAL, GAIN_LEFT = 16, 17, 18, 19, 20
# What happened so far:
UNDERRUNS, SILENT_FRAMES, FRAMES_PLAYED = 24, 25, 26
# What its clock says; VERSION is odd while the others change:
VERSION, CALLBACKS, DEVICE_UNDERFLOWS, LONGEST_GAP, LONGEST_CALLBACK, FIRST_TIME, LAST_TIME, FRAMES, BLOCK = (
    range(32, 41)
)
HEAD_WORDS = 48

# Words of a plug.
PLUG_HEAD, PULLED = 0, 1
PLUG_WORDS = 8

# Words of a deck.
TAPE, TAPE_WORDS, BANK, UP, DOWN, TAPS, PHASE, LEVEL, CONDITION = range(9)
DECK_WORDS = 16

RUNNING, WAITING, STARVED = 0, 1, 2  # CONDITION: waiting for a first lead is no underrun, being starved is
_PAUSED, _FADED_OUT = 1, 2  # bits of COMMAND; above them a number that changes with every command
_CLOSED = _PAUSED | _FADED_OUT
_STARVED_STEP = 2  # a fade at an underrun is twice as fast, 5 ms
_OUTPUT_UNDERFLOW, _PRIMING = 0x4, 0x10  # paOutputUnderflow, paPrimingOutput


@inner
def _words(address: int, count: int) -> NDArray[np.int64]:
    words: NDArray[np.int64] = carray(address_to_pointer(address), count, np.int64)
    return words


@inner
def _bank(deck: NDArray[np.int64]) -> NDArray[np.float32]:
    bank: NDArray[np.float32] = carray(address_to_pointer(deck[BANK]), (deck[UP], deck[TAPS]), np.float32)
    return bank


@inner
def _next_condition(condition: int, level: int, frames_left: int, refilled: bool, opened: bool) -> int:
    """Whether the tape suffices for one more frame and then a whole fade out from this level."""
    if condition != RUNNING and refilled:
        condition = RUNNING
    if condition == RUNNING and frames_left <= level // _STARVED_STEP:
        return STARVED if opened else WAITING
    return condition


@inner
def _next_level(level: int, fade: int, condition: int, frames_left: int, opened: bool) -> int:
    """The fade's place, 0 (silent) to `fade` (full), one frame later; above 0 only with a frame to play."""
    if frames_left <= 0:
        return 0  # a write head taken back below what was counted on
    if condition != RUNNING:
        return max(0, level - _STARVED_STEP)
    return min(fade, level + 1) if opened else max(0, level - 1)


@inner
def _fade_gain(level: int, fade: int) -> float:
    """A fade with no corner at either end: 3x^2 - 2x^3, exactly 0 and 1 at its ends."""
    x = level / fade
    return x * x * (3.0 - 2.0 * x)


@inner
def _next_gain(head: NDArray[np.int64], target: float) -> float:
    """The gain of the next frame; a new target starts a new straight line from where the gain is."""
    numbers = head.view(np.float64)
    if numbers[GAIN_GOAL] != target:
        numbers[GAIN_GOAL] = target
        head[GAIN_LEFT] = head[GAIN_RAMP]
    if head[GAIN_LEFT] > 0:
        numbers[GAIN] += (target - numbers[GAIN]) / head[GAIN_LEFT]
        head[GAIN_LEFT] -= 1
        if head[GAIN_LEFT] == 0:
            numbers[GAIN] = target
    return float(numbers[GAIN])


@inner
def _sample(ring: NDArray[np.float32], position: int, bank: NDArray[np.float32], phase: int) -> Any:
    """The sound at a position and phase; without taps the very sample."""
    if bank.shape[1] == 0:
        return ring[position & (ring.size - 1)]
    return interpolate(bank, phase, ring, position)


@inner
def _render_deck(
    head: NDArray[np.int64],
    deck: NDArray[np.int64],
    out: NDArray[np.float32],
    first: int,
    opened: bool,
    leaving: bool,
) -> int:
    """Plays one deck into frames `first` and on.

    Returns:
        The first frame not written: all are done, or the deck was leaving and its fade has reached zero.
    """
    channels, fade, frames = head[CHANNELS], head[FADE], out.size // head[CHANNELS]
    up, down = deck[UP], deck[DOWN]
    gain_target = load_acquire(head.view(np.float64), GAIN_TARGET)
    tape, bank = _words(deck[TAPE], deck[TAPE_WORDS]), _bank(deck)
    ring = ring_of(tape)
    written, refill = load_acquire(tape, WRITE_HEAD), load_acquire(tape, TARGET) // 2
    position, phase, level, condition = tape[PLAY_HEAD], deck[PHASE], deck[LEVEL], deck[CONDITION]
    left = renderable(written - position, phase, up, down)
    underruns, silent, played, frame = 0, 0, 0, first
    while frame < frames:
        refilled = written - position >= refill
        before = condition
        condition = _next_condition(condition, level, left, refilled, opened)
        level = _next_level(level, fade, condition, left, opened)
        if leaving and level == 0:
            break
        underruns += condition == STARVED and before != STARVED
        silent += condition == STARVED and level == 0 and opened
        value = 0.0
        gain = _next_gain(head, gain_target)
        if level > 0:
            value = _sample(ring, position, bank, phase) * (gain * _fade_gain(level, fade))
            phase += down
            position += phase // up
            phase %= up
            left -= 1
            played += 1
        for channel in range(channels):
            out[frame * channels + channel] = np.float32(value)
        frame += 1
    deck[PHASE], deck[LEVEL], deck[CONDITION] = phase, level, condition
    store_release(tape, PLAY_HEAD, position)
    store_release(head, UNDERRUNS, head[UNDERRUNS] + underruns)
    store_release(head, SILENT_FRAMES, head[SILENT_FRAMES] + silent)
    store_release(head, FRAMES_PLAYED, head[FRAMES_PLAYED] + played)
    return frame


@compiled
def render(head: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Plays on by as many frames as `out` holds.

    One deck is played today; several voices would be several decks, mixed here.

    Args:
        head: the words of a `PlayHead`.
        out: float32 [frames * channels], interleaved; every channel gets the same.
    """
    command, wanted = load_acquire(head, COMMAND), load_acquire(head, NEXT_DECK)
    frames, frame = out.size // head[CHANNELS], 0
    while True:
        deck = _words(head[DECK], DECK_WORDS)
        leaving = head[DECK] != wanted
        opened = command & _CLOSED == 0 and not leaving
        frame = _render_deck(head, deck, out, frame, opened, leaving)
        if frame == frames:
            break
        store_release(head, DECK, wanted)
    hushed = command if command & _CLOSED != 0 and deck[LEVEL] == 0 else -1
    store_release(head, HUSHED, hushed)


@inner
def _keep_time(head: NDArray[np.int64], frames: np.int64, flags: np.int64, began: int) -> None:
    """Counts a callback. Priming ones start the clock anew: they do not come by the device's clock."""
    store_release(head, VERSION, head[VERSION] + 1)
    if head[LAST_TIME] == 0 or flags & _PRIMING != 0:
        store_release(head, FIRST_TIME, began)
        store_release(head, FRAMES, 0)
    else:
        store_release(head, FRAMES, head[FRAMES] + head[BLOCK])
        store_release(head, LONGEST_GAP, max(head[LONGEST_GAP], began - head[LAST_TIME]))
    head[BLOCK] = frames
    store_release(head, LAST_TIME, began)
    store_release(head, CALLBACKS, head[CALLBACKS] + 1)
    store_release(head, DEVICE_UNDERFLOWS, head[DEVICE_UNDERFLOWS] + (flags & _OUTPUT_UNDERFLOW != 0))
    store_release(head, LONGEST_CALLBACK, max(head[LONGEST_CALLBACK], monotonic_ns() - began))
    store_release(head, VERSION, head[VERSION] + 1)


def _callback(source: Any, out: Any, frames: Any, clock: Any, flags: Any, address: Any) -> Any:
    """PaStreamCallback; compiled by `compiled_callback`, never run as Python. `address` is that of a plug."""
    began = monotonic_ns()
    plug = carray(address, PLUG_WORDS, np.int64)
    head = _words(plug[PLUG_HEAD], HEAD_WORDS)
    block = carray(out, np.int64(frames) * head[CHANNELS], np.float32)
    if load_acquire(plug, PULLED) != 0:
        block[:] = 0.0
    else:
        render(head, block)
        _keep_time(head, np.int64(frames), np.int64(flags), began)
    return 0  # paContinue


@cache
def compiled_callback() -> Any:
    """The PortAudio callback as a numba cfunc (`address`, `ctypes`), compiled on the first call."""
    signature = types.int32(
        types.voidptr, types.voidptr, types.uint64, types.voidptr, types.uint64, types.voidptr
    )
    return callback(_callback, signature)


@compiled
def _read_clock(head: NDArray[np.int64], copy: NDArray[np.int64]) -> None:
    """Copies the words from VERSION to BLOCK, all of one callback."""
    while True:
        version = load_acquire(head, VERSION)
        for index in range(copy.size):
            copy[index] = load_acquire(head, VERSION + index)
        if version % 2 == 0 and load_acquire(head, VERSION) == version:
            return
        sleep_us(20)


@dataclass(frozen=True)
class PlayHeadCounters:
    """What happened at the play head since it was made.

    Attributes:
        callbacks: blocks asked for by the device.
        frames_played: frames with sound from the tape, fades included.
        underruns: times that the producer was too slow.
        silent_frames: frames of silence in underruns.
        device_underflows: times that PortAudio said the callback was too late.
        longest_gap_ns: longest time from the beginning of one callback to that of the next.
        longest_callback_ns: longest time inside a callback.
        last_callback_ns: when the last one began, by `streamer.kernels.atomics.clock_ns`; 0 before the first.
        measured_rate: the device's real rate in Hz by the system's clock; None before the second callback.
    """

    callbacks: int
    frames_played: int
    underruns: int
    silent_frames: int
    device_underflows: int
    longest_gap_ns: int
    longest_callback_ns: int
    last_callback_ns: int
    measured_rate: float | None


class _Deck:
    """A tape and the filter from its rate to the device's, and the words that the callback reads them by."""

    def __init__(self, tape: Tape, rate: int) -> None:
        self.tape = tape
        self.resampling = _design(tape.rate, rate)
        self.words = aligned_words(DECK_WORDS)
        self.words[[TAPE, TAPE_WORDS]] = tape.buffer.ctypes.data, tape.buffer.size
        self.words[[UP, DOWN]] = self.resampling.up, self.resampling.down
        self.words[[BANK, TAPS]] = self.resampling.bank.ctypes.data, self.resampling.bank.shape[1]
        self.words[CONDITION] = WAITING

    @property
    def address(self) -> int:
        return int(self.words.ctypes.data)


def _design(source_rate: int, target_rate: int) -> Resampling:
    try:
        return design(source_rate, target_rate)
    except ValueError as problem:
        raise DeviceError(str(problem)) from problem


class Plug:
    """One stream's way to a play head; pulled, it leads nowhere, and the stream gets silence.

    A sound server that froze may call again long after another stream has taken over the play head, which
    only one may move at a time. What the callback reads stays alive as long as the plug.
    """

    def __init__(self, play_head: PlayHead) -> None:
        self._play_head = play_head
        self._words = aligned_words(PLUG_WORDS)
        self._words[PLUG_HEAD] = play_head.words.ctypes.data

    @property
    def address(self) -> int:
        """What the callback is given as its user data."""
        return int(self._words.ctypes.data)

    def pull(self) -> None:
        """Leaves the play head to another stream."""
        store(self._words, PULLED, 1)


class PlayHead:
    """Follows a tape at a device's rate. Begins open: fades in once half the tape's target lead is there.

    The setters are for control threads, `render` for whoever has no device; `streamer.audio` hands a `Plug`
    and the `compiled_callback` to PortAudio.

    Args:
        tape: what to play first.
        rate: the device's rate in Hz.
        channels: the device's channels; each gets the same.

    Raises:
        DeviceError: no filter leads from the tape's rate to the device's.
    """

    def __init__(self, tape: Tape, rate: int, channels: int = 2) -> None:
        if channels < 1:
            raise DeviceError(f"cannot play on {channels} channels: there must be at least one")
        self.rate = rate
        self.channels = channels
        self.words = aligned_words(HEAD_WORDS)
        self._lock = threading.Lock()  # between control threads; the callback knows nothing of it
        self._decks = [_Deck(tape, rate)]  # the one in play, and all that are to follow it
        self.words[[DECK, NEXT_DECK]] = self._decks[0].address
        self.words[CHANNELS] = channels
        self.words[FADE] = _STARVED_STEP * max(1, round(FADE_SECONDS * rate / _STARVED_STEP))
        self.words[GAIN_RAMP] = max(1, round(GAIN_SECONDS * rate))
        self.words[HUSHED] = -1
        self.words.view(np.float64)[[GAIN_TARGET, GAIN_GOAL, GAIN]] = 1.0
        compiled_callback()  # now, so that no stream ever waits for a compiler
        self.render(0)

    @property
    def gain(self) -> float:
        """The gain that the play head moves to: linear, 0 or more and finite, else a ControlError."""
        return float(load(self.words.view(np.float64), GAIN_TARGET))

    @gain.setter
    def gain(self, factor: float) -> None:
        if not 0 <= factor < float("inf"):
            raise ControlError(f"a gain of {factor} is impossible: it must be 0 or more, and finite")
        store(self.words.view(np.float64), GAIN_TARGET, factor)

    @property
    def playing(self) -> bool:
        """False while paused: faded out, and the tape held where it is."""
        return not self._command() & _PAUSED

    @playing.setter
    def playing(self, wanted: bool) -> None:
        self._set_command(_PAUSED, not wanted)

    def fade_out(self) -> None:
        """Asks for silence, whatever `playing` says; `is_silent` tells when it is there."""
        self._set_command(_FADED_OUT, True)

    def fade_in(self) -> None:
        """Takes `fade_out` back."""
        self._set_command(_FADED_OUT, False)

    @property
    def is_silent(self) -> bool:
        """True when paused or faded out and the fade has ended: silence until the next command."""
        return bool(load(self.words, HUSHED) == self._command())

    def wait_silent(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for `is_silent` and returns it; False too without a device."""
        return _wait_until(lambda: self.is_silent, timeout)

    @property
    def tape(self) -> Tape:
        """The tape in play."""
        with self._lock:
            return self._release_decks().tape

    def swap(self, tape: Tape) -> None:
        """Lets another tape follow, of any rate: the one in play fades out and stays, the new one fades in.

        Returns at once; `tape` tells when it has happened. Each tape stays alive until the callback has
        left it.

        Raises:
            DeviceError: no filter leads from the tape's rate to the device's.
        """
        deck = _Deck(tape, self.rate)
        with self._lock:
            self._release_decks()
            self._decks.append(deck)
            store(self.words, NEXT_DECK, deck.address)

    def wait_swapped(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until the tape last given to `swap` is in play; returns whether."""
        return _wait_until(lambda: bool(load(self.words, DECK) == load(self.words, NEXT_DECK)), timeout)

    def counters(self) -> PlayHeadCounters:
        """What happened so far."""
        clock = np.empty(BLOCK + 1 - VERSION, np.int64)
        _read_clock(self.words, clock)
        _, callbacks, underflows, gap, longest, first_time, last_time, frames, _ = (
            int(word) for word in clock
        )
        elapsed_ns = last_time - first_time
        return PlayHeadCounters(
            callbacks=callbacks,
            frames_played=int(load(self.words, FRAMES_PLAYED)),
            underruns=int(load(self.words, UNDERRUNS)),
            silent_frames=int(load(self.words, SILENT_FRAMES)),
            device_underflows=underflows,
            longest_gap_ns=gap,
            longest_callback_ns=longest,
            last_callback_ns=last_time,
            measured_rate=frames * 1e9 / elapsed_ns if elapsed_ns > 0 else None,
        )

    def restart_clock(self) -> None:
        """Forgets when callbacks came: the time between two streams is no gap. Only while no stream runs."""
        store(self.words, LAST_TIME, 0)

    def render(self, frames: int) -> NDArray[np.float32]:
        """Plays on without a device: float32 [frames, channels]. Only while no stream runs."""
        out = np.empty((frames, self.channels), np.float32)
        render(self.words, out.reshape(-1))
        return out

    def _command(self) -> int:
        return int(load(self.words, COMMAND))

    def _set_command(self, bit: int, on: bool) -> None:
        """Sets one wish and renumbers the command: an answer to an older one is none to this."""
        with self._lock:
            command = self._command()
            number, wishes = command >> 2, command & _CLOSED
            store(self.words, COMMAND, (number + 1) << 2 | (wishes | bit if on else wishes & ~bit))

    def _release_decks(self) -> _Deck:
        """Lets go of the decks that the callback has left, and returns the one in play."""
        address = load(self.words, DECK)
        while self._decks[0].address != address:
            del self._decks[0]
        return self._decks[0]


def _wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.001)
    return True
