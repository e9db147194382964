"""The device's clock by the system's: when each frame is due, free of the jitter of single callbacks.

A callback comes up to some milliseconds late, and the device's rate drifts against the system's clock. A
delay-locked loop of second order (Adriaensen, "Using a DLL to filter time", 2005) follows both: it predicts
when the next block is due, and corrects its time and its period by a part of the error. It begins wide, when
one stamp is all there is, and narrows as time goes by.

The audio callback alone writes a clock's words; VERSION is odd while it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.atomics import (
    aligned_words,
    clock_ns,
    load_acquire,
    monotonic_ns,
    sleep_us,
    store,
    store_release,
)
from streamer.kernels.compiling import compiled, inner

Words = NDArray[np.int64]

NARROWEST_HZ = 0.05
"""The loop's bandwidth in the long run."""
_NARROWING = 0.5  # the bandwidth in Hz is this over the seconds since the beginning
_MOST_DRIFT = 1e-3  # of the nominal rate; a crystal's is a tenth of that
_LOST_NS = 50e6  # an error that no jitter explains: the device has stopped meanwhile

# Words of a loop, float64: when the present block was due (ns), ns a frame, frames since the beginning.
DUE, PERIOD, AGE, NOMINAL = range(4)

# Words of a clock. The loop's are the last, as float64.
VERSION, CALLBACKS, DEVICE_UNDERFLOWS, LONGEST_GAP, LONGEST_CALLBACK = range(5)
FIRST_TIME, LAST_TIME, FRAMES, BLOCK, FRAME, LOOP = range(5, 11)
CLOCK_WORDS = 16

_OUTPUT_UNDERFLOW, _PRIMING = 0x4, 0x10  # paOutputUnderflow, paPrimingOutput


@compiled
def follow(loop: NDArray[np.float64], now: float, frames: int) -> None:
    """Take in that a block is asked for at `now` (ns), so many frames after the last.

    loop: DUE, PERIOD, AGE, NOMINAL; AGE 0 begins anew, with the period as it is.
    """
    due = loop[DUE] + frames * loop[PERIOD]
    error = now - due
    if loop[AGE] == 0.0 or abs(error) > _LOST_NS:
        loop[DUE], loop[AGE] = now, 1.0
        return
    loop[AGE] += frames
    bandwidth = max(NARROWEST_HZ, _NARROWING * 1e9 / (loop[AGE] * loop[PERIOD]))
    omega = min(np.sqrt(0.5), 2.0 * np.pi * bandwidth * frames * loop[PERIOD] * 1e-9)
    loop[DUE] = due + np.sqrt(2.0) * omega * error
    if frames > 0:
        period = loop[PERIOD] + omega * omega * error / frames
        most = _MOST_DRIFT * loop[NOMINAL]
        loop[PERIOD] = min(max(period, loop[NOMINAL] - most), loop[NOMINAL] + most)


@inner
def keep_time(clock: Words, frame: int, frames: Any, flags: Any, began: int) -> None:
    """Count a callback. Priming ones start the clock anew: they do not come by the device's clock.

    frame: the mixer's at the block's beginning. frames: the block's. flags: PortAudio's. began: ns.
    """
    loop, late = clock.view(np.float64)[LOOP:], flags & _OUTPUT_UNDERFLOW != 0
    first = clock[LAST_TIME] == 0 or flags & _PRIMING != 0
    store_release(clock, VERSION, clock[VERSION] + 1)
    if first:
        store_release(clock, FIRST_TIME, began)
        store_release(clock, FRAMES, 0)
    else:
        store_release(clock, FRAMES, clock[FRAMES] + clock[BLOCK])
        store_release(clock, LONGEST_GAP, max(clock[LONGEST_GAP], began - clock[LAST_TIME]))
    if first or late:
        loop[AGE] = 0.0
    follow(loop, float(began), clock[BLOCK])
    store_release(clock, BLOCK, frames)
    store_release(clock, FRAME, frame)
    store_release(clock, LAST_TIME, began)
    store_release(clock, CALLBACKS, clock[CALLBACKS] + 1)
    store_release(clock, DEVICE_UNDERFLOWS, clock[DEVICE_UNDERFLOWS] + late)
    store_release(clock, LONGEST_CALLBACK, max(clock[LONGEST_CALLBACK], monotonic_ns() - began))
    store_release(clock, VERSION, clock[VERSION] + 1)


@compiled
def _read(clock: Words, copy: Words) -> None:
    """Copies all words as one callback left them."""
    while True:
        version = load_acquire(clock, VERSION)
        for word in range(copy.size):
            copy[word] = load_acquire(clock, word)
        if version % 2 == 0 and load_acquire(clock, VERSION) == version:
            return
        sleep_us(20)


@dataclass(frozen=True)
class Time:
    """What a clock says.

    Attributes:
        callbacks: blocks asked for by the device.
        device_underflows: times that PortAudio said the callback was too late.
        longest_gap_ns: longest time from the beginning of one callback to that of the next.
        longest_callback_ns: longest time inside a callback.
        last_callback_ns: when the last one began, by `streamer.kernels.atomics.clock_ns`; 0 before the first.
        measured_rate: the device's real rate in Hz by the system's clock; None before the second callback.
        block: frames of the last block.
        frame: the mixer's frame at which that began.
        due_ns: when it was due, by the loop; period_ns: ns a frame.
    """

    callbacks: int
    device_underflows: int
    longest_gap_ns: int
    longest_callback_ns: int
    last_callback_ns: int
    measured_rate: float | None
    block: int
    frame: int
    due_ns: float
    period_ns: float


class Clock:
    """The words of a clock and what they say. rate: the device's nominal one in Hz."""

    def __init__(self, rate: int) -> None:
        self.words = aligned_words(CLOCK_WORDS)
        loop = self.words.view(np.float64)[LOOP:]
        loop[PERIOD] = loop[NOMINAL] = 1e9 / rate

    def read(self) -> Time:
        """What it says now."""
        copy = np.empty(CLOCK_WORDS, np.int64)
        _read(self.words, copy)
        _, callbacks, underflows, gap, longest, first, last, frames, block, frame = (
            int(word) for word in copy[:LOOP]
        )
        loop = copy.view(np.float64)[LOOP:]
        return Time(
            callbacks=callbacks,
            device_underflows=underflows,
            longest_gap_ns=gap,
            longest_callback_ns=longest,
            last_callback_ns=last,
            measured_rate=frames * 1e9 / (last - first) if last > first else None,
            block=block,
            frame=frame,
            due_ns=float(loop[DUE]) if last else float(clock_ns()),
            period_ns=float(loop[PERIOD]),
        )

    def frame_at(self, time_ns: int) -> int:
        """The mixer's frame that is due at a time of `clock_ns`; before the first callback, were it now."""
        time = self.read()
        return round(time.frame + (time_ns - time.due_ns) / time.period_ns)

    def time_of(self, frame: int) -> int:
        """When a frame is due, by `clock_ns`."""
        time = self.read()
        return round(time.due_ns + (frame - time.frame) * time.period_ns)

    def restart(self) -> None:
        """Forget when callbacks came: the time between two streams is no gap. Only while no stream runs."""
        store(self.words, LAST_TIME, 0)
