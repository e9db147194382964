"""One set of verbs for every architecture, told apart by the type of the weights.

Of `advance`, `push`, `feed`, `reset` and `rewind` there is one per architecture. In compiled code the choice
is made when the caller is compiled, so that one generator loop serves all architectures and costs none of
them a branch; in Python these are ordinary functions. From either side:

    advance(weights, state, crew)               logits of the next codes into state.logits (B, Q)
    push(weights, state, codes)                 append a code for each voice (B,); state.position[0] += 1
    feed(weights, state, codes, crew)           append codes (T, B) that are given; cheaper than advance, push
    reset(weights, state)                       back to rest
    rewind(weights, state, position, crew)      back to a position, from `earliest(state)` to the present one

The life of a sample: `advance`, a code for each voice drawn from its logits, `push`. A state's B voices share
its position and every reading of the weights. codes are int64, flat. crew: the threads that multiply
(`products`). `advance` may be repeated; every `push` must follow one at the same position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamer.kernels import samplernn, wavenet
from streamer.kernels.compiling import compiled, overload_part
from streamer.kernels.packing import padded
from streamer.kernels.products import Words
from streamer.kernels.samplernn import SampleRnnState, SampleRnnWeights
from streamer.kernels.wavenet import WaveNetState, WaveNetWeights
from streamer.models.errors import SpecError
from streamer.models.specs import Spec, WaveNetSpec

Weights: TypeAlias = "WaveNetWeights | SampleRnnWeights"
State: TypeAlias = "WaveNetState | SampleRnnState"
Codes = NDArray[np.int64]

MAX_TABLE_BYTES = 2**31
"""Largest table of what each code adds at each place of the input."""

_MODULES: dict[type, ModuleType] = {WaveNetWeights: wavenet, SampleRnnWeights: samplernn}


def pack(spec: Spec, tensors: Mapping[str, NDArray[np.float32]], precision: str = "fp32") -> Weights:
    """Lay a checkpoint's tensors out for stepping at a precision of `precision.resolve`.

    Raises `SpecError` if its table would be too large.
    """
    _check_table(spec)
    if isinstance(spec, WaveNetSpec):
        return wavenet.pack(spec, tensors, precision)
    return samplernn.pack(spec, tensors, precision)


def _check_table(spec: Spec) -> None:
    places = spec.input_kernel if isinstance(spec, WaveNetSpec) else spec.frames[-1]
    width = spec.residual if isinstance(spec, WaveNetSpec) else spec.dim
    size = 4 * places * spec.levels * padded(width)
    if size > MAX_TABLE_BYTES:
        raise SpecError(
            f"{spec.levels} levels at {places} places of width {width} make a table of "
            f"{size / 2**30:.1f} GiB: at most {MAX_TABLE_BYTES // 2**30} can be loaded"
        )


def new_state(weights: Weights, voices: int = 1, slack: int = 0) -> State:
    """A state of rest for these weights and some voices. slack: how many samples back it can be taken."""
    return _MODULES[type(weights)].new_state(weights, voices, slack)  # type: ignore[no-any-return]


def bytes_read(weights: Weights) -> float:
    """Bytes of weights that a sample reads on average."""
    return _MODULES[type(weights)].bytes_read(weights)  # type: ignore[no-any-return]


def advance(weights: Weights, state: State, crew: Words) -> None:
    """Compute the next codes' logits into ``state.logits``."""
    _advance_here(weights, state, crew)


def push(weights: Weights, state: State, codes: Codes) -> None:
    """Append a code for each voice."""
    _push_here(weights, state, codes)


def feed(weights: Weights, state: State, codes: Codes, crew: Words) -> None:
    """Append codes (T, B) that are given."""
    _feed_here(weights, state, codes, crew)


def reset(weights: Weights, state: State) -> None:
    """Take a state back to rest."""
    _MODULES[type(weights)].reset(weights, state)


def rewind(weights: Weights, state: State, position: int, crew: Words) -> None:
    """Take a state back to a position from `earliest` to the present one, unchecked.

    What follows is, bit for bit, as if no later code had been. A condition must not have changed since.
    """
    _rewind_here(weights, state, position, crew)


@compiled
def earliest(state: State) -> int:
    """The earliest position that a state can be taken back to: slack behind the furthest it has come."""
    return int(max(state.earliest[0], state.position[0] - state.slack[0]))


def _choose(
    weights: Any, for_wavenet: Callable[..., None], for_samplernn: Callable[..., None]
) -> Callable[..., None] | None:
    """The implementation for numba's type of the weights; None, a type error to numba, for anything else."""
    if not isinstance(weights, types.NamedTuple):
        return None
    return {WaveNetWeights: for_wavenet, SampleRnnWeights: for_samplernn}.get(weights.instance_class)


def _advance_wavenet(weights: Any, state: Any, crew: Any) -> None:
    wavenet.advance(weights, state, crew)


def _advance_samplernn(weights: Any, state: Any, crew: Any) -> None:
    samplernn.advance(weights, state, crew)


@overload_part(advance)
def _advance(weights: Any, state: Any, crew: Any) -> Callable[..., None] | None:
    return _choose(weights, _advance_wavenet, _advance_samplernn)


def _push_wavenet(weights: Any, state: Any, codes: Any) -> None:
    wavenet.push(weights, state, codes)


def _push_samplernn(weights: Any, state: Any, codes: Any) -> None:
    samplernn.push(weights, state, codes)


@overload_part(push)
def _push(weights: Any, state: Any, codes: Any) -> Callable[..., None] | None:
    return _choose(weights, _push_wavenet, _push_samplernn)


def _feed_wavenet(weights: Any, state: Any, codes: Any, crew: Any) -> None:
    wavenet.feed(weights, state, codes, crew)


def _feed_samplernn(weights: Any, state: Any, codes: Any, crew: Any) -> None:
    samplernn.feed(weights, state, codes, crew)


@overload_part(feed)
def _feed(weights: Any, state: Any, codes: Any, crew: Any) -> Callable[..., None] | None:
    return _choose(weights, _feed_wavenet, _feed_samplernn)


def _rewind_wavenet(weights: Any, state: Any, position: Any, crew: Any) -> None:
    wavenet.rewind(weights, state, position, crew)


def _rewind_samplernn(weights: Any, state: Any, position: Any, crew: Any) -> None:
    samplernn.rewind(weights, state, position, crew)


@overload_part(rewind)
def _rewind(weights: Any, state: Any, position: Any, crew: Any) -> Callable[..., None] | None:
    return _choose(weights, _rewind_wavenet, _rewind_samplernn)


# From Python: entries to compiled code, where the verbs above are what `_choose` has chosen.


@compiled
def _advance_here(weights: Any, state: Any, crew: Any) -> None:
    advance(weights, state, crew)


@compiled
def _push_here(weights: Any, state: Any, codes: Any) -> None:
    push(weights, state, codes)


@compiled
def _feed_here(weights: Any, state: Any, codes: Any, crew: Any) -> None:
    feed(weights, state, codes, crew)


@compiled
def _rewind_here(weights: Any, state: Any, position: int, crew: Any) -> None:
    rewind(weights, state, position, crew)
