"""`Stepper`: a model that is stepped from Python. It validates; compiled code works on its weights and state.

One convention holds everywhere: row i of logits belongs to codes[i] and is known before it. From rest, row 0
is what the model says before any code. (torch's WaveNet gives in row t the logits of code t + 1: rows here
are one later.)
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.kernels import cache, dispatch, memories, wavenet
from streamer.kernels.compiling import compiled
from streamer.kernels.dispatch import State, Weights, advance, push
from streamer.kernels.memories import Memory
from streamer.kernels.precision import PRECISIONS as PRECISIONS
from streamer.kernels.precision import resolve
from streamer.kernels.products import THREADS, Helpers, new_crew
from streamer.kernels.rng import uniform
from streamer.kernels.sampling import new_scratch, sample
from streamer.kernels.views import borrowed, span
from streamer.kernels.wavenet import WaveNetState, WaveNetWeights
from streamer.models.errors import SpecError
from streamer.models.specs import Spec, WaveNetSpec

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]


@compiled
def _generate(
    weights: Any,
    state: Any,
    crew: Any,
    codes: Any,
    scratch: Any,
    keys: Any,
    temperature: float,
    top_k: int,
    top_p: float,
    typical_p: float,
) -> None:
    """Fill codes (T B,); keys: seed, the first voice."""
    weights, state, crew = borrowed(weights), borrowed(state), borrowed(crew)
    levels = weights.levels
    voices = len(state.logits) // levels
    count = len(codes) // voices
    for i in range(count):
        advance(weights, state, crew)
        for v in range(voices):
            u = uniform(keys[0], keys[1] + v, state.position[0])
            logits = span(state.logits, v * levels, levels)
            codes[i * voices + v] = sample(logits, scratch, temperature, top_k, top_p, typical_p, u)
        push(weights, state, span(codes, i * voices, voices))


@compiled
def _teacher_force(weights: Any, state: Any, crew: Any, codes: Any, logits: Any) -> None:
    """Fill logits (T, B Q) while appending codes (T B,)."""
    voices = len(codes) // max(1, len(logits))
    for i in range(len(logits)):
        advance(weights, state, crew)
        logits[i] = state.logits
        push(weights, state, span(codes, i * voices, voices))


class Stepper:
    """A model and its state. Not safe to use from two threads at once; the GIL is free while it works.

    Args:
        spec, tensors: the model, its weights named and shaped as ``spec.tensors()`` says.
        condition: id or vector (C,), if the model takes any.
        precision: of `PRECISIONS`; ``stepper.precision`` is what it comes to on this processor.
        threads: how many multiply; where it is more than one, `close` ends those that help.
        voices: how many streams share the weights, step by step. Arrays then have an axis for them after
            time: codes (T, voices), logits (T, voices, Q).
        slack: how many samples back `rewind` can take it.

    Raises:
        SpecError: tensors or condition do not fit the spec.
    """

    def __init__(
        self,
        spec: Spec,
        tensors: Mapping[str, Floats],
        condition: int | ArrayLike | None = None,
        *,
        precision: str = "fp32",
        threads: int = 1,
        voices: int = 1,
        slack: int = 0,
    ) -> None:
        _check_tensors(spec, tensors)
        self.spec = spec
        self.precision = resolve(precision)
        self.voices = voices
        self.weights: Weights = dispatch.pack(spec, tensors, self.precision)
        self.state: State = dispatch.new_state(self.weights, voices, slack)
        self._hire(threads)
        self._scratch = new_scratch(spec.levels)
        if condition is not None:
            self.set_condition(condition)
        elif isinstance(spec, WaveNetSpec) and spec.condition:
            raise SpecError("this model needs a condition: " + _condition_words(spec))

    @property
    def position(self) -> int:
        """How many codes there are."""
        return int(self.state.position[0])

    @property
    def earliest(self) -> int:
        """The earliest position that `rewind` can take it back to."""
        return int(dispatch.earliest(self.state))

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that a sample reads on average, however many voices share them."""
        return dispatch.bytes_read(self.weights)

    @property
    def working_set(self) -> int:
        """Bytes of all weights that are read in turn."""
        return self.weights.matrices.size

    @property
    def threads(self) -> int:
        """How many multiply, the caller's included."""
        return int(self.crew[THREADS])

    def use(self, threads: int) -> None:
        """Multiply on so many threads from now on, which changes no bit of what comes out."""
        self.close()
        self._hire(threads)

    def _hire(self, threads: int) -> None:
        self.crew = new_crew(threads)
        self._end = weakref.finalize(self, Helpers(self.crew).close)

    def close(self) -> None:
        """End the threads that help; the stepper is of no more use."""
        self._end()

    def reset(self, position: int = 0) -> None:
        """Go back to rest, before any code; the condition stays.

        position: of the next code, by which a clock goes; of a SampleRNN, a multiple of its slowest frame.
        """
        dispatch.reset(self.weights, self.state)
        memories.begin(self.spec, self.state, position)

    def precede(self, codes: ArrayLike) -> None:
        """At rest, have codes (T,) lie before the first one, in place of what the spec says is there.

        A WaveNet is fed them. A SampleRNN's tiers look back at the last frame of them, and their first states
        stay, a predictor's too: so the programs that these models come from begin from a seed.
        """
        given = self._codes(codes)
        if isinstance(self.spec, WaveNetSpec):
            self.feed(given)
        else:
            seen = given[-self.spec.frames[0] :].ravel()
            self.state.codes[len(self.state.codes) - seen.size :] = seen

    def rewind(self, position: int) -> None:
        """Go back to a position; what follows is, bit for bit, as if no later code had been.

        A condition must not have changed since. Raises `ValueError` for a position that is not kept.
        """
        if not self.earliest <= position <= self.position:
            raise ValueError(f"position {position}: it must be from {self.earliest} to {self.position}")
        dispatch.rewind(self.weights, self.state, position, self.crew)

    def sibling(self, slack: int = 0) -> Stepper:
        """Another stepper of this model, at rest, on one thread: the weights are shared, not copied.

        slack: how many samples back `rewind` can take it.
        """
        other = copy.copy(self)
        other.state = dispatch.new_state(self.weights, self.voices, slack)
        if isinstance(self.state, WaveNetState) and isinstance(other.state, WaveNetState):
            other.state.gate_bias[:] = self.state.gate_bias
        other._scratch = new_scratch(self.spec.levels)
        other._hire(1)
        return other

    def memory(self) -> Memory:
        """The least that brings another stepper of this model, with the same condition, to where this is."""
        return memories.take(self.spec, self.state)

    def remember(self, memory: Memory) -> None:
        """Go on, bit for bit, as the stepper whose `memory` this is would have; nothing earlier is kept.

        Raises `ValueError` for what cannot be a memory of this model; the state is then as it was.
        """
        memories.restore(self.spec, self.weights, self.state, self.crew, memory)

    def set_condition(self, condition: int | ArrayLike) -> None:
        """Condition all that follows on an id or a vector (C,); `SpecError` where the spec takes none."""
        if not isinstance(self.weights, WaveNetWeights) or not isinstance(self.state, WaveNetState):
            raise SpecError("this model takes no condition: leave it out")
        wavenet.set_condition(self.weights, self.state, condition)

    def feed(self, codes: ArrayLike) -> None:
        """Append codes (T,) that are given: priming."""
        dispatch.feed(self.weights, self.state, self._codes(codes).ravel(), self.crew)

    def logits(self) -> Floats:
        """Logits (Q,) of the next code; appends nothing."""
        dispatch.advance(self.weights, self.state, self.crew)
        return self._shaped(self.state.logits.copy(), self.spec.levels)

    def teacher_forced(self, codes: ArrayLike) -> Floats:
        """Append codes (T,) and return the logits (T, Q) that the model gave for each before seeing it."""
        given = self._codes(codes)
        logits = np.zeros((len(given), self.voices * self.spec.levels), np.float32)
        _teacher_force(self.weights, self.state, self.crew, given.ravel(), logits)
        return self._shaped(logits, self.spec.levels)

    def generate(
        self,
        count: int,
        seed: int = 0,
        voice: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        typical_p: float = 1.0,
    ) -> Codes:
        """Draw and append ``count`` codes (count,).

        What is drawn at a position does not depend on how calls are cut, nor on how many voices or threads
        there are.

        voice: keys the random numbers; of several voices, it is the first one's. temperature: 0 takes the
        most probable. top_k: 0 is off. top_p, typical_p: 1 is off.
        """
        codes = np.zeros(count * self.voices, np.int64)
        keys = np.array([seed, voice], np.int64)
        settings = float(temperature), int(top_k), float(top_p), float(typical_p)
        _generate(self.weights, self.state, self.crew, codes, self._scratch, keys, *settings)
        return codes if self.voices == 1 else codes.reshape(count, self.voices)

    def warm(self) -> None:
        """Compile, or load from disk, all that runs live; the state is left as it was."""
        other = self.sibling()
        codes = np.zeros((1, *self._axis), int)
        other.generate(1)
        other.feed(codes)
        other.teacher_forced(codes)
        other.rewind(other.position)
        other.reset()
        cache.mark_compiled(self.spec.architecture)

    @property
    def _axis(self) -> tuple[int, ...]:
        """The axis of the voices, where there are several."""
        return (self.voices,) if self.voices > 1 else ()

    def _shaped(self, values: Floats, width: int) -> Floats:
        """Give (.., B width) its axis of voices."""
        return values.reshape(*values.shape[:-1], *self._axis, width)

    def _codes(self, codes: ArrayLike) -> Codes:
        given = np.array(codes, np.int64)
        if given.shape[1:] != self._axis or given.ndim == 0:
            wanted = f"(T, {self.voices})" if self._axis else "one row"
            raise ValueError(f"codes have shape {given.shape}: they must be {wanted} of whole numbers")
        if given.size and not 0 <= given.min() <= given.max() < self.spec.levels:
            top = self.spec.levels - 1
            raise ValueError(f"codes run from {given.min()} to {given.max()}: they must be from 0 to {top}")
        return given


def _condition_words(spec: WaveNetSpec) -> str:
    if spec.condition_ids:
        return f"a whole number from 0 to {spec.condition_ids - 1}"
    return f"a vector of {spec.condition} numbers"


def _check_tensors(spec: Spec, tensors: Mapping[str, Floats]) -> None:
    for name, shape in spec.tensors().items():
        if name not in tensors:
            raise SpecError(f"weight {name!r} is missing: the spec asks for shape {shape}")
        if tensors[name].shape != shape:
            raise SpecError(f"weight {name!r} has shape {tensors[name].shape}: the spec asks for {shape}")
