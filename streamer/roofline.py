"""The least time in which this machine could make a sample of a model, measured beside the speed itself.

A sample must read its weights and must do its multiply-adds, so it takes at least as long as the longer of

    reading        a loop that only reads, in the order and as often as the model's parts are read: as many
                   bytes in all, a SampleRNN's tiers when their frames are due, on as many threads at once
    multiplying    the sample's multiply-adds at the peak of its arithmetic on one core, operands in the
                   nearest cache, over the threads; a weight is unpacked whenever it is read, and serves as
                   many products as there are voices, or samples ahead

Williams et al. 2009 call it a roofline. A stepper's share of it is this least time over the time it takes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from streamer import ceilings
from streamer.ceilings import ARITHMETIC, GRAIN, Memory, filled_memory, has_arithmetic
from streamer.kernels.wavenet import AHEAD
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec

Job = Callable[[int], None]

BYTES_AT_A_TIME = 2**22
"""Read between two looks at the clock."""
_SIZES = (2**18, 2**20, 2**22, 2**24, 2**26, 2**28)


# --- what a sample takes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Weights that are read together: one of `sets` of them in turn, every so many samples."""

    weights: int
    """In one set; one of a table's row is used by an addition, the others by multiply-adds."""
    sets: int = 1
    every: int = 1
    vectors: int = 1
    """That one reading is multiplied with, of one voice."""

    @property
    def weights_read(self) -> float:
        """By a sample, on average."""
        return self.weights / self.every


def parts(spec: Spec) -> tuple[Part, ...]:
    """What a stepper must read, with all that can be folded exactly already folded."""
    return _wavenet_parts(spec) if isinstance(spec, WaveNetSpec) else _samplernn_parts(spec)


def multiply_adds(spec: Spec) -> float:
    """Multiply-adds of a sample, on average; additions of table rows count, products with zeros too."""
    return sum(part.weights_read * part.vectors for part in parts(spec))


def _wavenet_parts(spec: WaveNetSpec) -> tuple[Part, ...]:
    tap = spec.residual * 2 * spec.gate
    # A layer's older inputs are known a dilation ahead: their taps are read once for a block of samples.
    blocks = [min(dilation, AHEAD) for dilation in spec.dilations]
    older = [Part((spec.kernel - 1) * tap, every=block, vectors=block) for block in blocks]
    residuals = (spec.layers - 1) * spec.gate * spec.residual
    skips = spec.layers * spec.gate * spec.skip
    head = spec.skip * spec.output + spec.output * spec.levels
    table = Part(spec.input_kernel * spec.residual, sets=spec.levels)
    return *older, table, Part(spec.layers * tap + residuals + skips + head)


def _samplernn_parts(spec: SampleRnnSpec) -> tuple[Part, ...]:
    tiers = [Part(_tier_weights(spec, tier), every=frame) for tier, frame in enumerate(spec.frames)]
    slots = [
        Part(spec.dim**2, count, frame // count) for count, frame in zip(spec.slots, spec.frames, strict=True)
    ]
    table = Part(spec.frames[-1] * spec.dim, sets=spec.levels)
    folded = 0 if spec.relu_after_sum else 1  # the first hidden layer is part of the table and the slots
    hidden = spec.hidden - folded
    return *tiers, *slots, table, Part(hidden * spec.dim**2 + spec.dim * spec.levels)


def _tier_weights(spec: SampleRnnSpec, tier: int) -> int:
    """Of one run of a tier, without its slots; PRiSM's first layer reads the doubled input's sum once."""
    doubled = 2 if spec.skips == "prism" else 1
    inputs = [spec.layer_input(tier, layer) for layer in range(spec.rnn_layers)]
    inputs[0] //= doubled
    expanding = spec.frames[tier] * spec.dim if spec.expands(tier) else 0
    skips = spec.rnn_layers * spec.dim**2 if spec.skips != "none" else 0
    clock = 2 * spec.clock.harmonics * spec.dim if spec.clock and tier == 0 else 0
    return expanding + clock + skips + sum((width + spec.dim) * spec.gates * spec.dim for width in inputs)


# --- the machine --------------------------------------------------------------------------------------------


def peak(precision: str, seconds: float) -> float:
    """Multiply-adds a second that one core does with a precision's arithmetic: over so many seconds."""
    given = ceilings.operands(precision)
    passes = max(1, 2**20 // given.multiply_adds)
    rate = _rate(
        lambda count: ceilings.multiply_add(given.weights, given.x, given.sums, count), passes, seconds
    )
    return rate * given.multiply_adds


def bandwidth(memory: Memory, count: int, threads: int, seconds: float) -> float:
    """Bytes a second that threads read from `count` bytes, each from its share, over and over."""
    share = _grains(count / threads)
    times = _read_seconds(memory, [Part(share)], threads, seconds)
    return threads * share / times


def describe(cores: int, seconds: float) -> list[str]:
    """What this machine can do at best, in words: reading by size, and each precision's arithmetic."""
    memory = filled_memory(_SIZES[-1])
    lines = []
    for threads in sorted({1, cores}):
        speeds = [bandwidth(memory, size, threads, seconds) / 1e9 for size in _SIZES]
        told = [
            f"{speed:.0f} GB/s of {size / 2**20:g} MiB" for speed, size in zip(speeds, _SIZES, strict=True)
        ]
        readers = "one core reads" if threads == 1 else f"{threads} cores at once read"
        lines.append(f"{readers} {', '.join(told)}")
    peaks = {name: peak(name, seconds) / 1e9 for name in ARITHMETIC if has_arithmetic(name)}
    told = [f"{speed:.0f} in {name}" for name, speed in peaks.items()]
    return [*lines, f"one core does 10^9 multiply-adds a second: {', '.join(told)}"]


def reference_speed(memory: Memory, threads: int, seconds: float) -> float:
    """Passes a second of the fixed loop: of the slowest of threads at once, each on its own memory."""
    size = ceilings.REFERENCE_BYTES

    def job(thread: int) -> float:
        own = memory[thread * size : (thread + 1) * size]
        return _rate(lambda count: ceilings.reference_passes(own, count), 16, seconds)

    return min(_at_once(threads, job))


def _at_once(threads: int, job: Callable[[int], float]) -> list[float]:
    """What job gives for every thread's number, all begun together."""
    if threads == 1:
        return [job(0)]
    start = threading.Barrier(threads)

    def begin(thread: int) -> float:
        start.wait()
        return job(thread)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))


def _rate(work: Job, at_a_time: int, seconds: float) -> float:
    """Units of work a second, over at least so many seconds, after some that warm the caches."""
    work(at_a_time)
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not done:
        work(at_a_time)
        done += at_a_time
    return done / elapsed


def _grains(count: float) -> int:
    """Bytes, rounded up to what the reading loop can take."""
    return math.ceil(count / GRAIN) * GRAIN


def _read_seconds(memory: Memory, shares: list[Part], threads: int, seconds: float) -> float:
    """Seconds a sample of the slowest of threads that read at once. shares: bytes, of one thread."""
    starts = np.cumsum([0, *(part.weights * part.sets for part in shares)])
    rows = [(start, part.weights, part.sets, part.every) for start, part in zip(starts, shares, strict=False)]
    cycle = max(part.every for part in shares)
    cycle_bytes = sum(part.weights * cycle // part.every for part in shares)
    at_a_time = cycle * max(1, BYTES_AT_A_TIME // cycle_bytes)

    def job(thread: int) -> float:
        own = memory[thread * starts[-1] : (thread + 1) * starts[-1]]
        table, position = np.array(rows, np.int64), [0]

        def read(count: int) -> None:
            ceilings.read_samples(own, table, position[0], count)
            position[0] += count

        return 1 / _rate(read, at_a_time, seconds)

    return max(_at_once(threads, job))


# --- both together ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roofline:
    """The least time of one step of a model that is kept, and split over threads, in one way."""

    spec: Spec
    arithmetic: str
    """Of `ceilings.ARITHMETIC`."""
    weight_bytes: int
    """Bytes of weights that a step reads, on average."""
    threads: int = 1
    voices: int = 1
    """That share each reading of a weight."""

    @property
    def memory_bytes(self) -> int:
        """How much memory the reading loop needs."""
        return self.threads * sum(share.weights * share.sets for share in self.shares())

    def least_seconds(self, memory: Memory, seconds: float) -> float:
        """Measure, for about so many seconds each, how long a step of all voices takes at least."""
        reading = _read_seconds(memory, self.shares(), self.threads, seconds)
        fresh = peak(self.arithmetic, seconds)
        again = fresh if self._bare == self.arithmetic else peak(self._bare, seconds)
        return max(reading, self.multiplying_seconds(fresh, again))

    def multiplying_seconds(self, fresh: float, again: float) -> float:
        """How long the multiply-adds take at one core's peaks: with a weight just read, and used again."""
        readings = sum(part.weights_read for part in parts(self.spec))
        products = multiply_adds(self.spec) * self.voices
        return (readings / fresh + (products - readings) / again) / self.threads

    @property
    def _bare(self) -> str:
        """The arithmetic that is left once a weight is unpacked."""
        return "int8dot" if self.arithmetic == "int8dot" else "fp32"

    def shares(self) -> list[Part]:
        """One thread's share of every part, in bytes."""
        each = self.weight_bytes / sum(part.weights_read for part in parts(self.spec)) / self.threads
        return [Part(_grains(part.weights * each), part.sets, part.every) for part in parts(self.spec)]
