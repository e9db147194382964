"""What a state can be brought back from: the smallest set of arrays, fit for a file.

    take(spec, state) -> memory
    restore(spec, weights, state, crew, memory)

A memory is of a model, its precision and condition, and B voices; slack and threads may differ. Each has
`position` (1,) int64 and, as int32 and float32:

    WaveNet     codes (n, B), the last of the receptive field
    SampleRNN   h (N, M, B, D), and c of an LSTM, where the slowest tier's frame began; codes (n, B), those of
                one such frame before that place and all since
    predictor   heard (n, B), what it was last fitted to and has heard since, and forecast (B, FORECAST), both
                where the receptive field or the frame begins

A WaveNet is fed its codes from rest: what later ones see of its layers follows from the receptive field. A
SampleRNN runs its tiers on the codes since the frame began. Either does so at the codes' own positions, from
which frames, blocks, hops and random numbers count.

A memory may come from a stranger's file: `restore` checks all of it before it touches the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.kernels import predictor
from streamer.kernels.dispatch import State, Weights, feed, reset
from streamer.kernels.packing import pad
from streamer.kernels.products import Words
from streamer.kernels.samplernn import SampleRnnState
from streamer.models.specs import Spec, WaveNetSpec

Memory = dict[str, NDArray[Any]]
Layout = dict[str, tuple[type, tuple[int, ...]]]

LONGEST = 2**53
"""Positions lie below it."""


def take(spec: Spec, state: State) -> Memory:
    """What brings another state of the model to exactly this one."""
    position, voices = int(state.position[0]), state.logits.size // spec.levels
    layout = _layout(spec, position, voices)
    ring = state.codes.reshape(-1, voices)
    times = np.arange(position - layout["codes"][1][0], position)
    memory: Memory = {"position": state.position.copy(), "codes": ring[times % len(ring)].astype(np.int32)}
    if spec.predictor:
        memory |= predictor.take(spec.predictor, state.predictor, _start(spec, position))
    if isinstance(state, SampleRnnState):
        memory |= _kept(state, position // spec.receptive_field, layout)
    return memory


def _start(spec: Spec, position: int) -> int:
    """The position from which on a state is fed."""
    field = spec.receptive_field
    return max(0, position - field) if isinstance(spec, WaveNetSpec) else position - position % field


def _kept(state: SampleRnnState, frame: int, layout: Layout) -> Memory:
    """What h and c were when the slowest tier's frame of this number began."""
    parts = np.split(_slot(state, frame), [state.h.size])
    return {
        name: part.reshape(*layout[name][1][:-1], -1)[..., : layout[name][1][-1]].copy()
        for name, part in zip("hc", parts, strict=True)
        if name in layout
    }


def _slot(state: SampleRnnState, frame: int) -> NDArray[np.float32]:
    """Where that is kept, h and c after each other: a view."""
    kept = state.kept.reshape(-1, state.h.size + state.c.size)
    slot: NDArray[np.float32] = kept[frame % len(kept)]
    return slot


def begin(spec: Spec, state: State, position: int) -> None:
    """Have a state of rest stand before a position: of a SampleRNN, where a slowest frame begins."""
    state.position[0] = state.earliest[0] = position
    if isinstance(state, SampleRnnState):
        _slot(state, position // spec.receptive_field)[:] = np.concatenate([state.h, state.c])


def restore(
    spec: Spec, weights: Weights, state: State, crew: Words, memory: Mapping[str, NDArray[Any]]
) -> None:
    """Bring a state to where the one was whose memory this is. Nothing earlier is kept.

    Raises `ValueError` for what cannot be a memory of this model.
    """
    voices = state.logits.size // spec.levels
    _check(spec, voices, memory)
    position, codes = int(memory["position"][0]), memory["codes"].astype(np.int64)
    reset(weights, state)
    state.position[0] = position - len(codes)
    known = 0
    if isinstance(state, SampleRnnState):  # its first codes have been heard: h and c are of after them
        state.h[:] = pad(memory["h"]).ravel()
        state.c[:] = pad(memory["c"]).ravel() if "c" in memory else state.c
        known = int(spec.receptive_field)
        ring = state.codes.reshape(-1, voices)
        ring[np.arange(state.position[0], state.position[0] + known) % len(ring)] = codes[:known]
        state.position[0] += known
        _slot(state, position // known)[:] = np.concatenate([state.h, state.c])
    if spec.predictor:
        predictor.restore(weights.predictor, state.predictor, int(state.position[0]), memory)
    feed(weights, state, codes[known:].ravel(), crew)
    state.earliest[0] = position


def _layout(spec: Spec, position: int, voices: int) -> Layout:
    """Type and shape of all that a memory holds."""
    if isinstance(spec, WaveNetSpec):
        count = min(position, spec.receptive_field)
        parts: Layout = {}
    else:
        count = spec.frames[0] + position % spec.frames[0]
        names = "hc" if spec.state_width > spec.dim else "h"
        parts = dict.fromkeys(names, (np.float32, (spec.tiers, spec.rnn_layers, voices, spec.dim)))
    if spec.predictor:
        shapes = predictor.shapes(spec.predictor, _start(spec, position), voices)
        parts |= {name: (np.float32, shape) for name, shape in shapes.items()}
    return {"position": (np.int64, (1,)), "codes": (np.int32, (count, voices))} | parts


def _check(spec: Spec, voices: int, memory: Mapping[str, NDArray[Any]]) -> None:
    """Raise `ValueError` unless a memory may be one of this model's."""
    layout = _layout(spec, 0, voices)
    if memory.keys() != layout.keys():
        raise ValueError(f"a memory of {sorted(memory)}: it must hold {', '.join(layout)}")
    _check_array("position", memory["position"], *layout["position"])
    position = int(memory["position"][0])
    if not 0 <= position < LONGEST:
        raise ValueError(f"a memory's position is {position}: it must be from 0 to {LONGEST - 1}")
    for name, wanted in _layout(spec, position, voices).items():
        _check_array(name, memory[name], *wanted)
    for name in set(memory) & set(predictor.LIMITS):
        low, high, most = memory[name].min(), memory[name].max(), predictor.LIMITS[name]
        if not -most <= low <= high <= most:
            found = f"from {low:g} to {high:g}: it must be from {-most:g} to {most:g}"
            raise ValueError(f"a memory's {name} runs {found}")
    codes, top = memory["codes"], spec.levels - 1
    if codes.size and not 0 <= codes.min() <= codes.max() <= top:
        found = f"from {codes.min()} to {codes.max()}"
        raise ValueError(f"a memory's codes run {found}: they must be from 0 to {top}")


def _check_array(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"a memory's {name} is {array.dtype} {array.shape}: it must be {np.dtype(dtype)} {shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"a memory's {name} is not finite: the file is damaged")
