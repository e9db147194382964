"""`Stepper`: a model that is stepped from Python. It validates; compiled code works on its weights and state.

One convention holds everywhere: row i of logits, and of the side input, belongs to codes[i] and is known
before it. From rest, row 0 is what the model says before any code. (torch's WaveNet gives in row t the logits
of code t + 1: rows here are one later.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.kernels import cache, dispatch, wavenet
from streamer.kernels.compiling import compiled
from streamer.kernels.dispatch import State, Weights, advance, feed, push
from streamer.kernels.rng import uniform
from streamer.kernels.sampling import sample
from streamer.kernels.wavenet import WaveNetState, WaveNetWeights
from streamer.models.errors import SpecError
from streamer.models.specs import Spec, WaveNetSpec

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]


@compiled
def _generate(
    weights: Any,
    state: Any,
    codes: Any,
    sides: Any,
    scratch: Any,
    keys: Any,
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    """Fill codes (T,); keys: seed, voice."""
    for i in range(len(codes)):
        advance(weights, state, sides[i])
        u = uniform(keys[0], keys[1], state.position[0])
        codes[i] = sample(state.logits, scratch, temperature, top_k, top_p, u)
        push(weights, state, codes[i])


@compiled
def _teacher_force(weights: Any, state: Any, codes: Any, sides: Any, logits: Any) -> None:
    """Fill logits (T, Q) while appending codes (T,)."""
    for i in range(len(codes)):
        advance(weights, state, sides[i])
        logits[i] = state.logits
        push(weights, state, codes[i])


@compiled
def _feed(weights: Any, state: Any, codes: Any, sides: Any) -> None:
    feed(weights, state, codes, sides)


class Stepper:
    """A model and its state. Not safe to use from two threads at once; the GIL is free while it works."""

    def __init__(
        self, spec: Spec, tensors: Mapping[str, Floats], condition: int | ArrayLike | None = None
    ) -> None:
        """Pack tensors, named and shaped as ``spec.tensors()`` says. condition: id or vector (C,), if any.

        Raises `SpecError` where tensors or condition do not fit the spec.
        """
        _check_tensors(spec, tensors)
        self.spec = spec
        self.weights: Weights = dispatch.pack(spec, tensors)
        self.state: State = dispatch.new_state(self.weights)
        self._scratch = np.zeros(spec.levels, np.float32)
        if condition is not None:
            self.set_condition(condition)
        elif isinstance(spec, WaveNetSpec) and spec.condition:
            raise SpecError("this model needs a condition: " + _condition_words(spec))

    @property
    def position(self) -> int:
        """How many codes there are."""
        return int(self.state.position[0])

    def reset(self) -> None:
        """Go back to rest, before any code; the condition stays."""
        dispatch.reset(self.weights, self.state)

    def set_condition(self, condition: int | ArrayLike) -> None:
        """Condition all that follows on an id or a vector (C,); `SpecError` where the spec takes none."""
        if not isinstance(self.weights, WaveNetWeights) or not isinstance(self.state, WaveNetState):
            raise SpecError("this model takes no condition: leave it out")
        wavenet.set_condition(self.weights, self.state, condition)

    def feed(self, codes: ArrayLike, side: ArrayLike | None = None) -> None:
        """Append codes (T,) that are given, with their side input (T, V): priming."""
        given = self._codes(codes)
        _feed(self.weights, self.state, given, self._sides(side, len(given)))

    def logits(self, side: ArrayLike | None = None) -> Floats:
        """Logits (Q,) of the next code, given its side input (V,); appends nothing."""
        sides = self._sides(None if side is None else np.asarray(side)[None], 1)
        dispatch.advance(self.weights, self.state, sides[0])
        return self.state.logits.copy()

    def teacher_forced(self, codes: ArrayLike, side: ArrayLike | None = None) -> Floats:
        """Append codes (T,) and return the logits (T, Q) that the model gave for each before seeing it."""
        given = self._codes(codes)
        logits = np.zeros((len(given), self.spec.levels), np.float32)
        _teacher_force(self.weights, self.state, given, self._sides(side, len(given)), logits)
        return logits

    def generate(
        self,
        count: int,
        seed: int = 0,
        voice: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        side: ArrayLike | None = None,
    ) -> Codes:
        """Draw and append ``count`` codes. What is drawn at a position does not depend on how calls are cut.

        temperature: 0 takes the most probable. top_k: 0 is off. top_p: 1 is off. side: (count, V), if the
        spec has one.
        """
        codes = np.zeros(count, np.int64)
        keys = np.array([seed, voice], np.int64)
        settings = float(temperature), int(top_k), float(top_p)
        _generate(self.weights, self.state, codes, self._sides(side, count), self._scratch, keys, *settings)
        return codes

    def snapshot(self) -> State:
        """A copy of the state."""
        return dispatch.copy_state(self.state)

    def restore(self, snapshot: State) -> None:
        """Go back to a snapshot of this stepper, in place: who holds ``state`` sees it."""
        dispatch.copy_into(self.state, snapshot)

    def warm(self) -> None:
        """Compile, or load from disk, all that runs live; the state is left as it was."""
        before = self.snapshot()
        side = np.zeros((1, self.spec.side), np.float32)
        self.generate(1, side=side)
        self.feed([0], side)
        self.teacher_forced([0], side)
        self.reset()
        self.restore(before)
        cache.mark_compiled(self.spec.architecture)

    def _codes(self, codes: ArrayLike) -> Codes:
        given = np.array(codes, np.int64)
        if given.ndim != 1:
            raise ValueError(f"codes have shape {given.shape}: they must be one row of whole numbers")
        if given.size and not 0 <= given.min() <= given.max() < self.spec.levels:
            top = self.spec.levels - 1
            raise ValueError(f"codes run from {given.min()} to {given.max()}: they must be from 0 to {top}")
        return given

    def _sides(self, side: ArrayLike | None, count: int) -> Floats:
        width = self.spec.side
        if side is None and width == 0:
            return np.zeros((count, 0), np.float32)
        if side is None:
            raise ValueError(f"this model needs a side input of {width} numbers a sample")
        sides = np.array(side, np.float32)
        if sides.shape != (count, width):
            raise ValueError(f"the side input has shape {sides.shape}: it must be {(count, width)}")
        return sides


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
