"""Live capture: the last seconds that an input device heard, always at hand for priming.

    capture = Capture("microphone", seconds=10)
    samples, rate = capture.last(5)
    capture.close()

What the device hears goes onto a tape that nobody plays. Its callback is compiled, as the output's is: in the
graph of a JACK server a Python one would be late for everybody.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]
from numpy.typing import NDArray

from streamer import audio
from streamer.kernels.atomics import (
    address_to_pointer,
    aligned_words,
    clock_ns,
    load,
    load_acquire,
    monotonic_ns,
    store,
    store_release,
)
from streamer.kernels.compiling import callback
from streamer.models.errors import DeviceError
from streamer.tape import PLAY_HEAD, WRITE_HEAD, Tape, publish, put, ring_size

MOST_CHANNELS = 2
"""Channels that are averaged; a device with more has its first ones heard."""

# Words of what the callback is given.
TAPE, TAPE_WORDS, CHANNELS, CLOSED, LAST_TIME = range(5)
WORDS = 8


def _callback(heard: Any, out: Any, frames: Any, clock: Any, flags: Any, address: Any) -> Any:
    """PaStreamCallback; compiled by `_compiled_callback`, never run as Python."""
    words = carray(address, WORDS, np.int64)
    if load_acquire(words, CLOSED) != 0:
        return 0  # paContinue: it is closed from outside
    tape = carray(address_to_pointer(words[TAPE]), words[TAPE_WORDS], np.int64)
    channels, count = words[CHANNELS], np.int64(frames)
    block = carray(heard, count * channels, np.float32)
    position = load_acquire(tape, WRITE_HEAD)
    for frame in range(count):
        value = 0.0
        for channel in range(channels):
            value += block[frame * channels + channel] / channels
        put(tape, position + frame, value if math.isfinite(value) else 0.0)
    # Nothing is ahead of a play head here: what may be read is what is behind it.
    store_release(tape, PLAY_HEAD, position + count)
    publish(tape, position + count)
    store_release(words, LAST_TIME, monotonic_ns())
    return 0


@cache
def _compiled_callback() -> Any:
    signature = types.int32(
        types.voidptr, types.voidptr, types.uint64, types.voidptr, types.uint64, types.voidptr
    )
    return callback(_callback, signature)


class Ear:
    """What the callback is given: the tape that it writes, and how."""

    def __init__(self, tape: Tape, channels: int) -> None:
        self.tape, self.words = tape, aligned_words(WORDS)
        self.words[[TAPE, TAPE_WORDS]] = tape.buffer.ctypes.data, tape.buffer.size
        self.words[CHANNELS] = channels
        self.words[LAST_TIME] = clock_ns()

    @property
    def address(self) -> int:
        """What the callback is given as its user data."""
        return int(self.words.ctypes.data)


class Capture:
    """A rolling recording of an input device, open until `close`, and again after `reopen`.

    Args:
        device: number or part of the name of the device, or None for the system's default.
        seconds: how much is kept.

    Raises:
        DeviceError: there is no such device, more than one, or it refuses.
    """

    def __init__(self, device: str | None, seconds: float = 10.0) -> None:
        self._wanted = int(device) if device and device.isdecimal() else device
        self._seconds = seconds
        self._stream: Any = None
        self.reopen()

    def reopen(self) -> None:
        """Hear the device again after `close` and `streamer.audio.rescan`; what it heard before is forgotten.

        Raises:
            DeviceError: it is not there, or refuses.
        """
        sounddevice = audio.load_sounddevice()
        try:
            found = sounddevice.query_devices(self._wanted, "input")
            host_api = sounddevice.query_hostapis(found["hostapi"])["name"]
            # Numbers change, and the default may: from now on it is this one.
            self._wanted = f"{found['name']}, {host_api}"
            self.device: str = found["name"]
            self.rate = round(found["default_samplerate"])
            self._ear = Ear(
                _new_tape(self.rate, self._seconds), min(MOST_CHANNELS, found["max_input_channels"])
            )
            self._stream = self._open(found, host_api)
            self._stream.start()
        except (ValueError, sounddevice.PortAudioError) as problem:
            self.close()
            reason = audio.in_one_line(problem)
            raise DeviceError(f"no input is captured ({reason}): connect one, or name another") from problem

    def _open(self, found: Any, host_api: str) -> Any:
        return audio.open_stream(
            "input",
            host_api,
            _compiled_callback(),
            self._ear,
            device=found["index"],
            samplerate=self.rate,
            channels=int(self._ear.words[CHANNELS]),
            latency="high",
        )

    @property
    def alive(self) -> bool:
        """Whether the device still hears: False once it has vanished or was closed."""
        if self._stream is None or not audio.is_active(self._stream):
            return False
        return bool(clock_ns() - load(self._ear.words, LAST_TIME) < audio.LONGEST_SILENCE_NS)

    def last(self, seconds: float) -> tuple[NDArray[np.float32], int]:
        """The last `seconds`, or as much of them as has been heard: float32 [samples], and the rate in Hz.

        Raises:
            DeviceError: the device has vanished.
        """
        ear, rate = self._ear, self.rate
        if not self.alive:
            raise DeviceError(f"{self.device} is not heard any more: connect it again, and capture it anew")
        end = ear.tape.write_head
        first = max(0, end - round(min(seconds, self._seconds) * rate))
        return ear.tape.read(first, end - first), rate

    def close(self, timeout: float = 0.8) -> bool:
        """Closes the device within about `timeout` seconds; False when PortAudio hangs (`audio.leave`)."""
        if self._stream is None:
            return True
        stream, self._stream = self._stream, None
        store(self._ear.words, CLOSED, 1)
        return audio.close_stream(stream, timeout)


def _new_tape(rate: int, seconds: float) -> Tape:
    """Half of a tape can be read; a second of it is left to the device while somebody reads."""
    return Tape(rate, 2 * ring_size(round((seconds + 1) * rate)), rate)
