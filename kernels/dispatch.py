"""One set of verbs for every architecture, told apart by the type of the weights.

Of `advance`, `push`, `feed` and `reset` there is one per architecture. In compiled code the choice is made
when the caller is compiled, so that one generator loop serves all architectures and costs none of them a
branch; in Python these are ordinary functions. From either side:

    advance(weights, state, side)         logits of the next code into state.logits (Q,)
    push(weights, state, code)            append a code; state.position[0] += 1
    feed(weights, state, codes, sides)    append codes (T,) that are given; cheaper than advance, push
    reset(weights, state)                 back to rest

The life of a sample: ``advance(weights, state, side); code = sample(state.logits, ...); push(weights, state,
code)``. What is on side row i helps to predict code i, and is computed from what lies before it: side (V,),
sides (T, V) float32, V = 0 without a side input. codes are int64. `advance` may be repeated; every `push`
must follow one at the same position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from streamer.kernels import samplernn, wavenet
from streamer.kernels.samplernn import SampleRnnState, SampleRnnWeights
from streamer.kernels.simd import flatten, padded
from streamer.kernels.wavenet import WaveNetState, WaveNetWeights
from streamer.models.errors import SpecError
from streamer.models.specs import Spec, WaveNetSpec

Weights: TypeAlias = "WaveNetWeights | SampleRnnWeights"
State: TypeAlias = "WaveNetState | SampleRnnState"

MAX_TABLE_BYTES = 2**31
"""Largest table of what each code adds at each place of the input."""

_MODULES: dict[type, ModuleType] = {WaveNetWeights: wavenet, SampleRnnWeights: samplernn}


def pack(spec: Spec, tensors: Mapping[str, NDArray[np.float32]]) -> Weights:
    """Lay a checkpoint's tensors out for stepping; `SpecError` if its table would be too large."""
    _check_table(spec)
    return wavenet.pack(spec, tensors) if isinstance(spec, WaveNetSpec) else samplernn.pack(spec, tensors)


def _check_table(spec: Spec) -> None:
    places = spec.input_kernel if isinstance(spec, WaveNetSpec) else spec.frames[-1]
    width = spec.residual if isinstance(spec, WaveNetSpec) else spec.dim
    size = 4 * places * spec.levels * padded(width)
    if size > MAX_TABLE_BYTES:
        raise SpecError(
            f"{spec.levels} levels at {places} places of width {width} make a table of "
            f"{size / 2**30:.1f} GiB: at most {MAX_TABLE_BYTES // 2**30} can be loaded"
        )


def new_state(weights: Weights) -> State:
    """A state of rest for these weights."""
    return _MODULES[type(weights)].new_state(weights)  # type: ignore[no-any-return]


def copy_state(state: State) -> State:
    """A copy that shares nothing with the state: a snapshot, or the start of another voice."""
    parts: Iterable[Any] = state
    copies: list[Any] = [flatten(part) if part.dtype == np.float32 else part.copy() for part in parts]
    return type(state)(*copies)


def copy_into(state: State, source: State) -> None:
    """Put all of a snapshot into a state of the same weights, in place."""
    parts: Iterable[Any] = state
    for part, other in zip(parts, source, strict=True):
        part[:] = other


def advance(weights: Weights, state: State, side: NDArray[np.float32]) -> None:
    """Compute the next code's logits into ``state.logits``."""
    _MODULES[type(weights)].advance(weights, state, side)


def push(weights: Weights, state: State, code: int) -> None:
    """Append a code."""
    _MODULES[type(weights)].push(weights, state, code)


def feed(weights: Weights, state: State, codes: NDArray[np.int64], sides: NDArray[np.float32]) -> None:
    """Append codes (T,) that are given, with sides (T, V)."""
    _MODULES[type(weights)].feed(weights, state, codes, sides)


def reset(weights: Weights, state: State) -> None:
    """Take a state back to rest."""
    _MODULES[type(weights)].reset(weights, state)


def _choose(
    weights: Any, for_wavenet: Callable[..., None], for_samplernn: Callable[..., None]
) -> Callable[..., None] | None:
    """The implementation for numba's type of the weights; None, a type error to numba, for anything else."""
    if not isinstance(weights, types.NamedTuple):
        return None
    return {WaveNetWeights: for_wavenet, SampleRnnWeights: for_samplernn}.get(weights.instance_class)


def _advance_wavenet(weights: Any, state: Any, side: Any) -> None:
    wavenet.advance(weights, state, side)


def _advance_samplernn(weights: Any, state: Any, side: Any) -> None:
    samplernn.advance(weights, state, side)


@overload(advance)
def _advance(weights: Any, state: Any, side: Any) -> Callable[..., None] | None:
    return _choose(weights, _advance_wavenet, _advance_samplernn)


def _push_wavenet(weights: Any, state: Any, code: Any) -> None:
    wavenet.push(weights, state, code)


def _push_samplernn(weights: Any, state: Any, code: Any) -> None:
    samplernn.push(weights, state, code)


@overload(push)
def _push(weights: Any, state: Any, code: Any) -> Callable[..., None] | None:
    return _choose(weights, _push_wavenet, _push_samplernn)


def _feed_wavenet(weights: Any, state: Any, codes: Any, sides: Any) -> None:
    wavenet.feed(weights, state, codes, sides)


def _feed_samplernn(weights: Any, state: Any, codes: Any, sides: Any) -> None:
    samplernn.feed(weights, state, codes, sides)


@overload(feed)
def _feed(weights: Any, state: Any, codes: Any, sides: Any) -> Callable[..., None] | None:
    return _choose(weights, _feed_wavenet, _feed_samplernn)


def _reset_wavenet(weights: Any, state: Any) -> None:
    wavenet.reset(weights, state)


def _reset_samplernn(weights: Any, state: Any) -> None:
    samplernn.reset(weights, state)


@overload(reset)
def _reset(weights: Any, state: Any) -> Callable[..., None] | None:
    return _choose(weights, _reset_wavenet, _reset_samplernn)
