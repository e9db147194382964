"""WaveNet one sample at a time: with queues of past activations, O(layers) a sample (Paine et al. 2016).

Time t is the position of a code. Once code t is known, layer l turns its input h_l[t] and the older h_l[t -
d], which wait in the layer's ring, into h_{l+1}[t]. A ring is indexed by absolute position, so going back in
time moves an index and copies nothing: its length is the layer's reach plus the slack that `new_state` was
given.

`advance` does the layers for the newest code and then the head; calling it twice changes nothing. `push` only
appends a code. `feed` does the layers and no head. Before any code, logits are those of an all-zero input
vector (torch's module has no such row).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.kernels.compiling import compiled, inner
from streamer.kernels.nonlinear import gate, relu
from streamer.kernels.simd import (
    Floats,
    flatten,
    matvec,
    matvec_rows,
    pack_matrix,
    pad,
    padded,
    span,
    tail,
    zeros,
)
from streamer.models.errors import SpecError
from streamer.models.specs import WaveNetSpec

Integers = NDArray[np.int64]
Tensors = Mapping[str, NDArray[np.float32]]


class WaveNetWeights(NamedTuple):
    """A WaveNet packed for stepping: widths padded, matrices packed by `pack_matrix`, arrays flat."""

    levels: int
    residual: int
    """R"""
    gates: int
    """2 D: tanh's half, then sigmoid's."""
    kernel: int
    taps: int
    """Codes that the input convolution sees."""
    side: int
    """V, 0 without a side input."""
    residual_scale: np.float32
    dilations: Integers
    """(L,)"""
    table: Floats
    """(taps, Q, R): what a code adds to layer 0's input, oldest tap first; the newest has the bias."""
    side_weight: Floats
    """V -> R"""
    gate_weight: Floats
    """(L, K R -> 2 D)"""
    gate_bias: Floats
    """(L, 2 D), without conditioning: that is in the state, since voices share weights."""
    condition_weight: Floats
    """(C, L, 2 D), plain"""
    condition_table: Floats
    """(ids, C), plain; empty where the condition is a vector."""
    residual_weight: Floats
    """(L - 1, D -> R)"""
    residual_bias: Floats
    """(L - 1, R)"""
    skip_weight: Floats
    """L D -> S, the skip scale folded in"""
    skip_bias: Floats
    output1_weight: Floats
    """S -> A"""
    output1_bias: Floats
    output2_weight: Floats
    """A -> Q"""
    output2_bias: Floats


class WaveNetState(NamedTuple):
    """All that changes while a WaveNet runs: memory down to `gate_bias`, then scratch of one sample."""

    position: Integers
    """(1,): how many codes there are."""
    codes: Integers
    """(taps + slack,), a ring"""
    queues: Floats
    """Every layer's ring of inputs, one after the other: (lengths[l], R) each."""
    starts: Integers
    """(L,): where in `queues` each ring begins."""
    lengths: Integers
    """(L,): how many positions each ring holds."""
    gate_bias: Floats
    """(L, 2 D), conditioning included."""
    x: Floats
    """(K, R): a layer's taps, oldest first; the last is the running residual."""
    side: Floats
    pair: Floats
    """(2 D,): a layer's gates before the nonlinearity"""
    z: Floats
    """(L, D): every layer's output"""
    change: Floats
    """(R,)"""
    skip: Floats
    hidden: Floats
    rows: Integers
    """Where the head's inputs are not zero."""
    output: Floats
    logits: Floats
    """(Q,)"""


def _pad_halves(halves: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pad each half of (..., 2 D) by itself, so that both begin on a vector: (..., 2 padded(D))."""
    return np.concatenate([pad(half) for half in np.split(halves, 2, -1)], -1)


def _pad_rows(matrix: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Pad each of the groups of rows of (groups * N, M) by itself: (groups * padded(N), M)."""
    parts = matrix.reshape(groups, -1, matrix.shape[-1])
    return pad(parts.swapaxes(1, 2)).swapaxes(1, 2).reshape(-1, matrix.shape[-1])


def _code_table(spec: WaveNetSpec, tensors: Tensors) -> Floats:
    weight = tensors["input_weight"].astype(np.float64)
    table = tensors["embedding"].astype(np.float64) @ weight if spec.embedding else weight.copy()
    if spec.input_bias:
        table[-1] += tensors["input_bias"]
    return flatten(pad(table))


def _get(tensors: Tensors, name: str, *shape: int) -> NDArray[np.float32]:
    """A tensor that the spec may leave out: zeros then."""
    return tensors[name] if name in tensors else np.zeros(shape, np.float32)


def pack(spec: WaveNetSpec, tensors: Tensors) -> WaveNetWeights:
    """Lay a checkpoint's tensors out for stepping. Branches on the spec are taken here, not by the sample."""
    layers, scale = spec.layers, np.float32(spec.skip_scale)
    gate_weight = [
        pack_matrix(_pad_halves(_pad_rows(weight, spec.kernel))) for weight in tensors["gate_weight"]
    ]
    condition = _pad_halves(_get(tensors, "condition_weight", layers, 0, 2 * spec.gate))
    return WaveNetWeights(
        levels=spec.levels,
        residual=padded(spec.residual),
        gates=2 * padded(spec.gate),
        kernel=spec.kernel,
        taps=spec.input_kernel,
        side=padded(spec.side),
        residual_scale=np.float32(spec.residual_scale),
        dilations=np.array(spec.dilations, np.int64),
        table=_code_table(spec, tensors),
        side_weight=pack_matrix(_get(tensors, "side_weight", 0, spec.residual)),
        gate_weight=flatten(*gate_weight),
        gate_bias=flatten(_pad_halves(_get(tensors, "gate_bias", layers, 2 * spec.gate))),
        condition_weight=flatten(condition.swapaxes(0, 1)),
        condition_table=flatten(_get(tensors, "condition_embedding", 0)),
        residual_weight=flatten(*map(pack_matrix, tensors["residual_weight"])),
        residual_bias=flatten(pad(_get(tensors, "residual_bias", layers - 1, spec.residual))),
        skip_weight=pack_matrix(_pad_rows(tensors["skip_weight"], layers) * scale),
        skip_bias=pad(_get(tensors, "skip_bias", spec.skip) * scale),
        output1_weight=pack_matrix(tensors["output1_weight"]),
        output1_bias=pad(_get(tensors, "output1_bias", spec.output)),
        output2_weight=pack_matrix(tensors["output2_weight"]),
        output2_bias=pad(_get(tensors, "output2_bias", spec.levels)),
    )


def new_state(weights: WaveNetWeights, slack: int = 0) -> WaveNetState:
    """A state of rest, unconditioned. slack: how many samples back a state can still be taken."""
    layers = len(weights.dilations)
    lengths = (weights.kernel - 1) * weights.dilations + 1 + slack
    ends = np.cumsum(lengths * weights.residual)
    return WaveNetState(
        position=np.zeros(1, np.int64),
        codes=np.zeros(weights.taps + slack, np.int64),
        queues=zeros(int(ends[-1])),
        starts=ends - lengths * weights.residual,
        lengths=lengths,
        gate_bias=flatten(weights.gate_bias),
        x=zeros(weights.kernel * weights.residual),
        side=zeros(weights.side),
        pair=zeros(weights.gates),
        z=zeros(layers * weights.gates // 2),
        change=zeros(weights.residual),
        skip=zeros(weights.skip_bias.size),
        hidden=zeros(weights.output1_bias.size),
        rows=np.zeros(max(weights.skip_bias.size, weights.output1_bias.size), np.int64),
        output=zeros(weights.output2_bias.size),
        logits=zeros(weights.levels),
    )


def set_condition(weights: WaveNetWeights, state: WaveNetState, condition: int | ArrayLike) -> None:
    """Condition a state on an id or a vector (C,) from its next sample on; `SpecError` if it does not fit."""
    width = weights.condition_weight.size // weights.gate_bias.size
    if not width:
        raise SpecError("this model takes no condition: leave it out")
    if weights.condition_table.size:
        ids = weights.condition_table.size // width
        if not isinstance(condition, (int, np.integer)) or not 0 <= condition < ids:
            raise SpecError(f"condition is {condition!r}: it must be a whole number from 0 to {ids - 1}")
        vector = weights.condition_table.reshape(ids, width)[condition]
    else:
        vector = np.asarray(condition, np.float32)
        if vector.shape != (width,):
            raise SpecError(f"condition has shape {vector.shape}: it must be a vector of {width} numbers")
    state.gate_bias[:] = weights.gate_bias + vector @ weights.condition_weight.reshape(width, -1)


@compiled
def reset(weights: WaveNetWeights, state: WaveNetState) -> None:
    """Take a state back to rest; its condition stays."""
    state.position[0] = 0
    state.queues[:] = np.float32(0)


@inner
def _read_input(weights: WaveNetWeights, state: WaveNetState, side: Floats, time: int) -> None:
    """Put layer 0's input h_0[time] at the end of x. What lies before the first code adds nothing."""
    width = weights.residual
    h = span(state.x, (weights.kernel - 1) * width, width)
    h[:] = np.float32(0)
    for tap in range(max(0, weights.taps - 1 - time), weights.taps):
        code = state.codes[(time - weights.taps + 1 + tap) % len(state.codes)]
        row = span(weights.table, (tap * weights.levels + code) * width, width)
        for i in range(width):
            h[i] += row[i]
    if weights.side > 0 and time >= 0:
        for i in range(len(side)):
            state.side[i] = side[i]
        matvec(h, h, weights.side_weight, state.side)


@inner
def _read_queue(weights: WaveNetWeights, state: WaveNetState, layer: int, time: int) -> None:
    """Put a layer's older taps before its input in x, and that input into the layer's ring."""
    width, older, length = weights.residual, weights.kernel - 1, state.lengths[layer]
    newest = time % length
    for tap in range(older):
        slot = newest - (older - tap) * weights.dilations[layer]
        row = span(state.queues, state.starts[layer] + (slot if slot >= 0 else slot + length) * width, width)
        x = span(state.x, tap * width, width)
        for i in range(width):
            x[i] = row[i]
    row = span(state.queues, state.starts[layer] + newest * width, width)
    h = span(state.x, older * width, width)
    for i in range(width):
        row[i] = h[i]


@inner
def _convolve(weights: WaveNetWeights, state: WaveNetState, layer: int) -> None:
    """z[layer] from x."""
    gates, inputs = weights.gates, len(state.x)
    bias = tail(state.gate_bias, layer * gates)
    matvec(state.pair, bias, tail(weights.gate_weight, layer * inputs * gates), state.x)
    gate(span(state.z, layer * gates // 2, gates // 2), state.pair)


@inner
def _add_residual(weights: WaveNetWeights, state: WaveNetState, layer: int) -> None:
    """Turn the end of x from the layer's input into the next layer's."""
    width, depth = weights.residual, weights.gates // 2
    bias = tail(weights.residual_bias, layer * width)
    weight = tail(weights.residual_weight, layer * depth * width)
    matvec(state.change, bias, weight, span(state.z, layer * depth, depth))
    h = span(state.x, (weights.kernel - 1) * width, width)
    for i in range(width):
        h[i] = (h[i] + state.change[i]) * weights.residual_scale


@inner
def _run_layers(weights: WaveNetWeights, state: WaveNetState, side: Floats) -> None:
    """All that later samples need of the newest code: every layer but the last one's convolution."""
    time = state.position[0] - 1
    _read_input(weights, state, side, time)
    last = len(weights.dilations) - 1
    for layer in range(last):
        _read_queue(weights, state, layer, time)
        _convolve(weights, state, layer)
        _add_residual(weights, state, layer)
    _read_queue(weights, state, last, time)
    if time < 0:  # what came before the first code is a zero vector to every layer
        state.queues[:] = np.float32(0)


@compiled
def advance(weights: WaveNetWeights, state: WaveNetState, side: Floats) -> None:
    """Compute the next code's logits into ``state.logits``. side (V,): known once the newest code is."""
    _run_layers(weights, state, side)
    _convolve(weights, state, len(weights.dilations) - 1)
    matvec(state.skip, weights.skip_bias, weights.skip_weight, state.z)
    count = relu(state.skip, state.rows)
    matvec_rows(state.hidden, weights.output1_bias, weights.output1_weight, state.skip, state.rows, count)
    count = relu(state.hidden, state.rows)
    matvec_rows(state.output, weights.output2_bias, weights.output2_weight, state.hidden, state.rows, count)
    for i in range(len(state.logits)):
        state.logits[i] = state.output[i]


@compiled
def push(weights: WaveNetWeights, state: WaveNetState, code: int) -> None:
    """Append a code, 0 to Q - 1. `advance` must have been called for the position; to append many, `feed`."""
    state.codes[state.position[0] % len(state.codes)] = code
    state.position[0] += 1


@compiled
def feed(weights: WaveNetWeights, state: WaveNetState, codes: Integers, sides: Floats) -> None:
    """Append codes (T,) that are given, sides (T, V): as `advance` and `push` for each, without the head."""
    for i in range(len(codes)):
        if state.position[0] > 0:
            _run_layers(weights, state, sides[i])
        push(weights, state, codes[i])
