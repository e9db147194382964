"""A voice: one model, stepped on a thread of its own, that keeps its tape's lead filled.

The thread stays inside one compiled call, free of the GIL: returning to Python for every block would cost a
switch interval of the interpreter (5 ms) each time. It comes back only when the tape's attention word is
set. Controls reach it as atomically published words; it reads them once a run of `RUN` samples.

Randomness is keyed by (seed, voice, position), so a voice sounds the same however its writing is cut into
runs, and however many threads help to multiply. Those that help stay under the normal scheduler: under the
real-time one, on a machine that has no core for each, they would keep the one whom they help from running.
"""

from __future__ import annotations

import math
import os
import threading
import time
from typing import Any

import numpy as np

from streamer.kernels import cache
from streamer.kernels.atomics import (
    aligned_words,
    clock_ns,
    load,
    load_acquire,
    monotonic_ns,
    sleep_us,
    store,
    store_release,
)
from streamer.kernels.compiling import compiled
from streamer.kernels.dispatch import advance, push
from streamer.kernels.rng import uniform
from streamer.kernels.sampling import new_scratch, sample
from streamer.kernels.stepper import Stepper
from streamer.kernels.views import borrowed
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.precision import AUTO, choose, has_dot_product
from streamer.tape import (
    PLAY_HEAD,
    SHORTEST_LEAD,
    WRITE_HEAD,
    Tape,
    attention,
    publish,
    put,
    ring_of,
    ring_size,
    room,
)
from streamer.threads import cores

RUN = 64
"""Most samples written between two looks at the controls and the tape: 4 ms at 16 kHz."""
HISTORY = 60.0
"""Seconds behind the play head that stay readable, and the longest lead."""
NAP_US = 500
"""How long the thread sleeps when the lead is full."""
PRIORITY = 2
"""Of SCHED_FIFO: below the audio thread's, which JACK puts at 5 and above."""
_TRIAL_RUNS = 6
"""Least runs of a trial."""

# Words that the control thread publishes, as float64; seeds are exact there.
TEMPERATURE, TOP_K, TOP_P, SEED = range(4)
LIVE = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P, "seed": SEED}
"""The controls that a voice follows, by name."""
# Words that the generator publishes.
NS_PER_SAMPLE = 8
WORDS = 16


@compiled
def _write(
    weights: Any, state: Any, crew: Any, tape: Any, words: Any, decoding: Any, scratch: Any, count: int
) -> None:
    """Write samples onto the tape. decoding: amplitudes (Q,), pre-emphasis, voice, side (V,), code (1,)."""
    weights, state, crew = borrowed(weights), borrowed(state), borrowed(crew)
    amplitudes, preemphasis, voice, side, code = decoding
    wanted, ring = words.view(np.float64), ring_of(tape)
    temperature, top_p = load_acquire(wanted, TEMPERATURE), load_acquire(wanted, TOP_P)
    top_k, seed = int(load_acquire(wanted, TOP_K)), int(load_acquire(wanted, SEED))
    first = load_acquire(tape, WRITE_HEAD)
    last = ring[(first - 1) & (ring.size - 1)]
    for position in range(first, first + count):
        advance(weights, state, side, crew)
        code[0] = sample(state.logits, scratch, temperature, top_k, top_p, uniform(seed, voice, position))
        push(weights, state, code)
        last = np.float32(amplitudes[code[0]] + preemphasis * last)
        put(tape, position, float(last))
    publish(tape, first + count)


@compiled
def _account(words: Any, elapsed_ns: int, count: int, rate: int) -> None:
    """Publish the cost of a sample as a mean over about the last second of sound."""
    numbers = words.view(np.float64)
    cost, before = elapsed_ns / count, numbers[NS_PER_SAMPLE]
    weight = min(1.0, count / rate) if before > 0.0 else 1.0
    store_release(numbers, NS_PER_SAMPLE, before + weight * (cost - before))


@compiled
def _generate(
    weights: Any,
    state: Any,
    crew: Any,
    tape: Any,
    words: Any,
    decoding: Any,
    scratch: Any,
    rate: int,
    forever: bool,
) -> None:
    """Fill the tape's room; then return, or go on filling it for ever, until attention is asked for."""
    while attention(tape) == 0:
        count = min(room(tape), RUN)
        if count > 0:
            began = monotonic_ns()
            _write(weights, state, crew, tape, words, decoding, scratch, count)
            _account(words, monotonic_ns() - began, count, rate)
        elif forever:
            sleep_us(NAP_US)
        else:
            return


class Voice:
    """One model playing onto one tape.

    Args:
        name: what performers call the model.
        checkpoint: the model.
        controls: values of the `LIVE` controls.
        lead: seconds that the tape is kept written ahead of the play head.
        number: tells voices of one seed apart.
        precision: of `streamer.precision.SETTINGS`.

    Raises:
        StreamerError: the model needs an input that cannot be computed live, or the lead is impossible.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        controls: dict[str, float],
        lead: float,
        number: int = 0,
        precision: str = AUTO,
    ) -> None:
        spec, rate, quantiser = checkpoint.spec, checkpoint.sample_rate, checkpoint.quantiser
        if not SHORTEST_LEAD <= lead <= HISTORY:
            raise StreamerError(
                f"a lead of {lead * 1000:g} ms is impossible: "
                f"choose {SHORTEST_LEAD * 1000:g} to {HISTORY * 1000:g} ms"
            )
        self.name = name
        self.checkpoint = checkpoint
        self.tape = Tape(rate, 2 * ring_size(round(HISTORY * rate)), round(lead * rate))
        self.scheduling = "not started"
        self._stepper = new_stepper(name, checkpoint, choose(precision, checkpoint, has_dot_product()))
        self._words = aligned_words(WORDS)
        amplitudes = (quantiser.table() / quantiser.scale).astype(np.float32)
        side = np.zeros(spec.side, np.float32)
        code = np.zeros(1, np.int64)
        self._decoding = (amplitudes, np.float32(quantiser.preemphasis), number, side, code)
        self._scratch = new_scratch(spec.levels)
        self._thread: threading.Thread | None = None
        for control, value in controls.items():
            self.set(control, value)
        self._prime()

    def _prime(self) -> None:
        """Let the model have heard silence, as much of it as it can see; a SampleRNN begins so by itself."""
        if isinstance(self.checkpoint.spec, WaveNetSpec):
            silence = self.checkpoint.quantiser.silence
            self._stepper.feed(np.full(self.checkpoint.spec.receptive_field, silence, np.int64))

    def set(self, control: str, value: float) -> None:
        """Change a control of `LIVE`, from the next run of samples on."""
        store(self._words.view(np.float64), LIVE[control], float(value))

    @property
    def realtime_factor(self) -> float:
        """Seconds of sound written in a second of work, over about the last second of sound; 0 before any."""
        cost = float(load(self._words.view(np.float64), NS_PER_SAMPLE))
        return 1e9 / (cost * self.checkpoint.sample_rate) if cost else 0.0

    @property
    def precision(self) -> str:
        """What the model's matrices are kept at, of `streamer.kernels.precision.PRECISIONS`."""
        return self._stepper.precision

    @property
    def threads(self) -> int:
        """How many multiply, the one that writes included."""
        return self._stepper.threads

    def use(self, threads: int) -> None:
        """Multiply on so many threads from now on, which changes no sample. Not while the thread runs."""
        self._stepper.use(threads)

    def trial(self, seconds: float) -> float:
        """The real-time factor on the threads in use, from so many seconds of work that leave no trace.

        Of runs that hold a SampleRNN's slowest frame, whole, the fastest counts: helpers that have just begun
        may share a core with whom they help until the system moves them, and it may interrupt any run.
        """
        spec, rate = self.checkpoint.spec, self.checkpoint.sample_rate
        frame = spec.frames[0] if isinstance(spec, SampleRnnSpec) else 1
        run = frame * math.ceil(SHORTEST_LEAD * rate / frame)
        tape, before = Tape(rate, 2 * ring_size(run), run), self._stepper.snapshot()
        words = aligned_words(WORDS)
        words[:] = self._words
        took: list[int] = []
        while len(took) < _TRIAL_RUNS or sum(took) < 1e9 * seconds:
            began = clock_ns()
            self._generate(tape, words, forever=False)
            took.append(clock_ns() - began)
            store(tape.buffer, PLAY_HEAD, tape.write_head)
        self._stepper.restore(before)
        return run / rate * 1e9 / min(took)

    def fill(self) -> None:
        """Write until the lead is full, and return. Not while the thread runs."""
        self._generate(self.tape, self._words, forever=False)

    def warm(self) -> None:
        """Compile, or load from disk, all that `fill` and the thread run; writes nothing."""
        self.tape.attention = 1
        self._generate(self.tape, self._words, forever=False)
        self.tape.attention = 0
        cache.mark_compiled(f"voice-{self.checkpoint.spec.architecture}")

    def start(self) -> None:
        """Keep the lead filled from now on, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"streamer-{self.name}", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until half the lead is written and it plays; return whether."""
        deadline = time.monotonic() + timeout
        while self.tape.lead < self.tape.target // 2:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def stop(self) -> None:
        """End the thread; what is written stays."""
        self.tape.attention = 1
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.tape.attention = 0

    def close(self) -> None:
        """End the thread and those that help; what is written stays, and nothing more can be."""
        self.stop()
        self._stepper.close()

    def _run(self) -> None:
        self.scheduling = _ask_for_realtime()
        self._generate(self.tape, self._words, forever=True)

    def _generate(self, tape: Tape, words: Any, forever: bool) -> None:
        model = (self._stepper.weights, self._stepper.state, self._stepper.crew)
        rate = self.checkpoint.sample_rate
        _generate(*model, tape.buffer, words, self._decoding, self._scratch, rate, forever)


def new_stepper(name: str, checkpoint: Checkpoint, precision: str) -> Stepper:
    """A model at rest, as voices play it; raise `StreamerError` for one that none can play."""
    spec = checkpoint.spec
    if spec.side:
        raise StreamerError(f"{name}: it needs an input from past samples that this version cannot compute")
    return Stepper(spec, checkpoint.tensors, _condition(spec), precision=precision)


def _condition(spec: Spec) -> Any:
    """What a conditioned model is conditioned on until a control says otherwise: its first id, or zeros."""
    if not isinstance(spec, WaveNetSpec) or not spec.condition:
        return None
    return 0 if spec.condition_ids else np.zeros(spec.condition, np.float32)


def _ask_for_realtime() -> str:
    """Put this thread under the real-time scheduler where that is allowed; say which one it is under.

    On a single core it would starve everything else, the audio thread's parent included.
    """
    if not hasattr(os, "sched_setscheduler") or cores() < 2:
        return "normal"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError:
        return "normal"
    return "realtime"
