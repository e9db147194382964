"""A voice: one model, stepped on a thread of its own, that keeps its tape's lead filled.

The compiled part is `streamer.generator`; the thread comes back to Python only when the tape's attention word
is set, to end or to run an errand that only the owner of the model's state may.

Those that help to multiply stay under the normal scheduler: under the real-time one, on a machine that has no
core for each, they would keep the one whom they help from running.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.controls import CONTROLS
from streamer.cues import CueQueue
from streamer.generator import (
    ANSWER_NS,
    ANSWER_SPREAD_NS,
    COUNTED,
    DEFERRED,
    FILL,
    FIRST_CODE,
    FOR_EVER,
    LANES,
    NS_PER_SAMPLE,
    REWINDS,
    REWRITE,
    WORDS,
    Desk,
    aged_jitter,
    generate,
)
from streamer.kernels import cache
from streamer.kernels.atomics import aligned_words, clock_ns, load, store
from streamer.kernels.memories import Memory
from streamer.kernels.sampling import new_scratch
from streamer.kernels.stepper import Stepper
from streamer.lanes import new_lanes
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.precision import AUTO, choose, has_dot_product
from streamer.tape import PLAY_HEAD, SHORTEST_LEAD, Tape, ring_size
from streamer.threads import cores

HISTORY = 60.0
"""Seconds behind the play head from which sound can be heard again, and the longest lead."""
SPARE = 5.0
"""Seconds before those that stay readable, too: what a model has heard before it goes on from there."""
PRIORITY = 2
"""Of SCHED_FIFO: below the audio thread's, which JACK puts at 5 and above."""
LONGEST_RUNWAY = 1.0
"""Seconds of the tape that are laid at once at most."""
MOST_SLACK_BYTES = 2**28
"""Memory of a model's past states, which bounds the lead: two seconds take 80 MB for the shipped WaveNet."""
_PATIENCE = 10.0
_TRIAL_RUNS = 6
"""Least runs of a trial."""

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]

_FOLLOWED = {control.name: control for control in CONTROLS if control.place == "generator"}


def _no_codes() -> Codes:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Start:
    """From where a voice goes on; by default from silence.

    Attributes:
        codes: what the model has heard before, oldest first; run through its state unless there is a memory.
        tail: the samples before the first new one, oldest first: what it sounds on from.
        memory: of a `Stepper` of this model, for exactly the state that it had.
        position: of the first new sample, which keys its randomness.
        take: tells the continuations of one moment apart.
        first: the model's own position of the first of `codes`, by which its clock goes; of a SampleRNN, a
            multiple of its slowest frame.
    """

    codes: Codes = field(default_factory=_no_codes)
    tail: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    memory: Memory | None = None
    position: int = 0
    take: int = 0
    first: int = 0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What it takes to go on from a position: the model's state, and the sound before it."""

    position: int
    memory: Memory
    tail: Floats


class Voice:
    """One model playing onto one tape.

    Args:
        name: what performers call the model.
        checkpoint: the model.
        values: of the controls in `streamer.generator.LANES`; others keep their default.
        lead: seconds that the tape is kept written ahead of the play head.
        longest_lead: seconds up to which that may be changed, as far as memory allows.
        number: tells voices of one seed apart, 0 to 255.
        start: from where it goes on.
        precision: of `streamer.precision.SETTINGS`.
        sibling: another voice of this model, to share its weights; it need not play any more.

    Raises:
        StreamerError: the model needs an input that cannot be computed live, or the lead is impossible.
        ValueError: the memory does not fit the model.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        values: Mapping[str, float],
        lead: float,
        *,
        longest_lead: float | None = None,
        number: int = 0,
        start: Start | None = None,
        precision: str = AUTO,
        sibling: Voice | None = None,
    ) -> None:
        start = start or Start()
        rate, quantiser = checkpoint.sample_rate, checkpoint.quantiser
        longest = max(lead, longest_lead or lead)
        if not SHORTEST_LEAD <= lead <= longest <= HISTORY:
            raise StreamerError(
                f"a lead of {lead * 1000:g} ms is impossible: "
                f"choose {SHORTEST_LEAD * 1000:g} to {HISTORY * 1000:g} ms"
            )
        self.name = name
        self.checkpoint = checkpoint
        self.number = number
        self.take = start.take
        self.values = {control: _first_value(control, values) for control in LANES}
        """Of the controls that it follows, at its first sample."""
        slack = min(round(longest * rate), MOST_SLACK_BYTES // _bytes_per_sample(checkpoint.spec))
        self.longest_lead = slack / rate
        self.tape = Tape(
            rate,
            2 * ring_size(round((HISTORY + SPARE) * rate)),
            min(round(lead * rate), slack),
            start.position,
        )
        self.cues = CueQueue()
        self.scheduling = "not started"
        longest_runway = round(LONGEST_RUNWAY * rate)
        if sibling is not None:
            self._stepper: Stepper = sibling._stepper.sibling(slack)
        else:
            self._stepper = new_stepper(
                name, checkpoint, choose(precision, checkpoint, has_dot_product()), slack
            )
        self._desk = Desk(
            tape=self.tape.buffer,
            queue=self.cues.words,
            lanes=self._new_lanes(),
            words=aligned_words(WORDS),
            codes=np.full(self.tape.capacity, 0, np.int32),  # which touches it all, as the tape does
            counts=np.zeros(checkpoint.spec.levels, np.int32),
            draft=np.zeros(longest_runway, np.float32),
            void_codes=np.zeros(longest_runway, np.int32),
            kept_lanes=self._new_lanes(),
            amplitudes=(quantiser.table() / quantiser.scale).astype(np.float32),
            preemphasis=np.float32(quantiser.preemphasis),
            key=number + (start.take << 8),
            rate=rate,
            code=np.zeros(1, np.int64),
            scratch=new_scratch(checkpoint.spec.levels),
        )
        self._errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._begin(start)

    def _begin(self, start: Start) -> None:
        """Bring the model and the tape to where they go on."""
        self._bring(start)
        self.ahead = self._stepper.position - start.position
        """How far the model's own positions are ahead of the tape's."""

    def _bring(self, start: Start) -> None:
        self.tape.lay_before(start.tail)
        known = start.codes[-self.tape.capacity // 2 :]
        places = np.arange(start.position - len(known), start.position) & (self.tape.capacity - 1)
        self._desk.codes[places] = known
        self._desk.words[COUNTED] = -2  # behind no position: who first needs the counts takes them all
        self._desk.words[FIRST_CODE] = start.position - len(known)
        if start.memory is not None:
            self._stepper.remember(start.memory)
            return
        spec = self.checkpoint.spec
        if isinstance(spec, WaveNetSpec):  # a SampleRNN begins with silence by itself
            silence = np.full(
                max(0, spec.receptive_field - len(start.codes)), self.checkpoint.quantiser.silence
            )
            self._stepper.feed(np.concatenate([silence, start.codes]))
        else:
            self._stepper.reset(start.first)
            self._stepper.feed(start.codes)

    @property
    def realtime_factor(self) -> float:
        """Seconds of sound written in a second of work, over about the last second of sound; 0 before any."""
        cost = float(load(self._desk.words.view(np.float64), NS_PER_SAMPLE))
        return 1e9 / (cost * self.checkpoint.sample_rate) if cost else 0.0

    @property
    def rewinds(self) -> int:
        """How often cues have taken back what was written."""
        return int(load(self._desk.words, REWINDS))

    @property
    def jitter(self) -> float:
        """Seconds that the generator was late at most, lately, in looking at its cues."""
        return float(aged_jitter(self._desk.words, clock_ns())) / 1e9

    @property
    def deferred(self) -> int:
        """How often a cue was answered later than was meant, since the play head was faster."""
        return int(load(self._desk.words, DEFERRED))

    @property
    def answer(self) -> float:
        """Seconds within which nearly every answer of late was prepared; 0 before the first."""
        numbers = self._desk.words.view(np.float64)
        return float(load(numbers, ANSWER_NS) + 2 * load(numbers, ANSWER_SPREAD_NS)) / 1e9

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

    def keep(self, lead: float, margin: float, runway: float, pace: float) -> None:
        """Write so many seconds ahead, as far as memory allows, and answer cues so near to the play head.

        margin: seconds before which no cue takes effect. runway: seconds that are prepared before they take
        the place of what was written. pace: how many times as fast as it is played the lead is refilled at
        most, once it is comfortable.
        """
        rate, shortest = self.tape.rate, math.ceil(SHORTEST_LEAD * self.tape.rate)
        self.tape.target = max(shortest, round(min(lead, self.longest_lead) * rate))
        self.tape.margin = math.ceil(margin * rate)
        self.tape.runway = math.ceil(min(runway, LONGEST_RUNWAY) * rate)
        self.tape.pace_ns = round(1e9 / (pace * rate))

    def trial(self, seconds: float) -> float:
        """The real-time factor on the threads in use, from so many seconds of work that leave no trace.

        Of runs that hold a SampleRNN's slowest frame, whole, the fastest counts: helpers that have just begun
        may share a core with whom they help until the system moves them, and it may interrupt any run.
        """
        spec, rate = self.checkpoint.spec, self.checkpoint.sample_rate
        frame = spec.frames[0] if isinstance(spec, SampleRnnSpec) else 1
        run = frame * math.ceil(SHORTEST_LEAD * rate / frame)
        tape, stepper = Tape(rate, 2 * ring_size(run), run), self._stepper.sibling()
        stepper.use(self.threads)
        desk = self._desk._replace(tape=tape.buffer, queue=CueQueue().words, words=aligned_words(WORDS))
        desk = desk._replace(lanes=desk.lanes.copy(), codes=np.zeros(tape.capacity, np.int32))
        taken: list[int] = []
        while len(taken) < _TRIAL_RUNS or sum(taken) < 1e9 * seconds:
            began = clock_ns()
            generate(stepper.weights, stepper.state, stepper.crew, desk, FILL)
            taken.append(clock_ns() - began)
            store(tape.buffer, PLAY_HEAD, tape.write_head)
        stepper.close()
        return run / rate * 1e9 / min(taken)

    def fill(self) -> None:
        """Take the cues and write until the lead is full. Not while the thread runs."""
        generate(*self._model, self._desk, FILL)

    def warm(self) -> None:
        """Compile, or load from disk, all that `fill` and the thread run; writes nothing."""
        self.tape.attention = 1
        self.fill()
        self.tape.attention = 0
        cache.mark_compiled(f"voice-{self.checkpoint.spec.architecture}")

    def start(self) -> None:
        """Keep the lead filled from now on, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"streamer-{self.name}", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float, lead: float = 0.0) -> bool:
        """Wait up to `timeout` seconds for so many seconds of lead, at most half of what is kept; whether."""
        wanted = min(self.tape.target // 2, round(lead * self.tape.rate)) if lead else self.tape.target // 2
        deadline = time.monotonic() + timeout
        while self.tape.lead < wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def snapshot(self, tail: float) -> Snapshot:
        """A position a runway behind the earliest that can still be taken back, and all to go on from there.

        Going back there has the generator write again what it had written, which changes nothing.

        tail: seconds of sound before it, as far as they are kept.
        """
        found: list[Snapshot] = []
        self._ask(lambda: found.append(self._snapshot(tail)))
        return found[0]

    def codes(self, position: int, count: int) -> Codes:
        """The codes before a position that was written, the last `count` of those that are kept."""
        first = max(position - count, int(self._desk.words[FIRST_CODE]), self.tape.oldest)
        kept: Codes = self._desk.codes[np.arange(first, position) & (self.tape.capacity - 1)].astype(np.int64)
        return kept[max(0, self.tape.oldest - first) :]  # what the generator has overwritten meanwhile

    def stop(self) -> None:
        """End the thread; what is written stays."""
        self._ending = True
        self.tape.attention = 1
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.tape.attention = 0
        self._ending = False

    def close(self) -> None:
        """End the thread and those that help; what is written stays, and nothing more can be."""
        self.stop()
        self._stepper.close()

    def _new_lanes(self) -> NDArray[np.int64]:
        return new_lanes([_limits(control, value) for control, value in self.values.items()])

    @property
    def _model(self) -> tuple[Any, Any, Any]:
        return self._stepper.weights, self._stepper.state, self._stepper.crew

    def _run(self) -> None:
        self.scheduling = _ask_for_realtime()
        while not self._ending:
            generate(*self._model, self._desk, FOR_EVER)
            self.tape.attention = int(self._ending)
            while not self._errands.empty():
                self._errands.get()()

    def _ask(self, errand: Callable[[], None]) -> None:
        """Have something done by the thread that owns the model's state, and wait for it."""
        if self._thread is None:
            errand()
            return
        done = threading.Event()

        def run() -> None:
            try:
                errand()
            finally:
                done.set()

        self._errands.put(run)
        self.tape.attention = 1
        if not done.wait(_PATIENCE):
            raise StreamerError(f"{self.name} does not answer")

    def _snapshot(self, tail: float) -> Snapshot:
        generate(*self._model, self._desk, REWRITE)
        here = self.tape.write_head
        first = max(self.tape.oldest, here - round(tail * self.tape.rate))
        return Snapshot(here, self._stepper.memory(), self.tape.read(first, here - first))


def new_stepper(name: str, checkpoint: Checkpoint, precision: str, slack: int = 0) -> Stepper:
    """A model at rest, as voices play it; raise `StreamerError` for one that none can play."""
    spec = checkpoint.spec
    return Stepper(spec, checkpoint.tensors, _condition(spec), precision=precision, slack=slack)


def _first_value(control: str, values: Mapping[str, float]) -> float:
    default = _FOLLOWED[control].default
    assert default is not None
    return float(values.get(control, default))


def _limits(control: str, value: float) -> tuple[float, float, float]:
    """A lane's first value, and its limits."""
    row = _FOLLOWED[control]
    assert row.minimum is not None
    assert row.maximum is not None
    return value, row.minimum, row.maximum


def _bytes_per_sample(spec: Spec) -> int:
    """About what going back one sample further takes."""
    predictor = 24 + 4 * spec.predictor.order // spec.predictor.hop if spec.predictor else 0
    if isinstance(spec, WaveNetSpec):
        return 4 * len(spec.dilations) * spec.residual + predictor
    return math.ceil(8 * spec.tiers * spec.rnn_layers * spec.dim / spec.frames[0]) + 8 + predictor


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
