"""SampleRNN one sample at a time: a tier runs when a frame is due; what it hands down is computed when used.

Before the code at position p is predicted, every tier whose frame size divides p runs once on the codes just
before p. Its output is upsampled lazily, slot by slot, as the tier below or the perceptron comes to need it,
which halves the burst at a frame's start.

Two savings are exact and made when packing. The perceptron's embedding and convolution become one table row
for each place in the window. Where no ReLU follows the sum, its first hidden layer is linear in the rows and
in the slots too and is folded into both.

`advance` runs what is due and the perceptron; calling it twice changes nothing. `push` appends a code. `feed`
runs what is due only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.compiling import compiled, inner
from streamer.kernels.nonlinear import relu, sigmoid, tanh
from streamer.kernels.simd import (
    Bytes,
    Floats,
    flatten,
    flatten_bytes,
    matvec,
    matvec_rows,
    pack_matrix,
    pack_matrix24,
    pad,
    padded,
    size24,
    span,
    tail,
    zeros,
)
from streamer.models.specs import GATES, SampleRnnSpec

Integers = NDArray[np.int64]
Tensors = Mapping[str, NDArray[np.float32]]

GRU_RESET_AFTER, GRU_RESET_BEFORE, LSTM = 0, 1, 2
"""What is left of the five cells once gates are in one order: r z n, the reset gate after the recurrent
product (Keras, torch) or before it (Theano); i f g o. Theano's update gate admits where the others' keeps,
and so is packed negated."""

_KIND = {"gru-torch": GRU_RESET_AFTER, "gru-keras": GRU_RESET_AFTER, "gru-theano": GRU_RESET_BEFORE}
_ORDER = {GRU_RESET_AFTER: "rzn", GRU_RESET_BEFORE: "rzn", LSTM: "ifgo"}
_ONE, _HALF, _TWO = np.float32(1), np.float32(0.5), np.float32(2)


class SampleRnnWeights(NamedTuple):
    """A SampleRNN packed for stepping: widths padded to LANES, matrices packed by `pack_matrix`, floats flat.

    N tiers, M layers a tier; ``..._at`` are offsets into the array of that name, -1 where there is nothing.
    """

    levels: int
    dim: int
    """D"""
    cell: int
    gates: int
    """Gates of the cell: 3 or 4."""
    square: int
    """Bytes of a packed matrix D -> D; others of D inputs are multiples of it."""
    layers: int
    """M"""
    hidden: int
    """Hidden layers left in the perceptron after folding."""
    side: int
    """V, 0 without a side input."""
    code_scale: np.float32
    """A frame holds ``2 * (code / code_scale - 1)``."""
    frames: Integers
    """(N,)"""
    slots: Integers
    """(N,)"""
    expand_weight: Bytes
    """F -> D of each tier"""
    expand_at: Integers
    """(N,)"""
    start_bias: Floats
    """(D,): the slowest tier's, where it expands; that of every other tier is in the slots' bias."""
    input_weight: Bytes
    """in -> gates D of each layer, from the tier's input or the layer below"""
    input_at: Integers
    """(N, M)"""
    direct_weight: Bytes
    """in -> gates D from the tier's input to the layers above the first (the mehri scheme)"""
    direct_at: Integers
    """(N, M)"""
    bias: Floats
    """(N, M, gates D)"""
    recurrent_weight: Bytes
    """(N, M, D -> gates D): the gates that see h as it is, then a GRU's candidate as its own matrix."""
    candidate_bias: Floats
    """(N, M, D): inside the reset gate's product (Keras, torch)."""
    rest: Floats
    """(N, M, 2, D): h and c before the first sample."""
    skip_weight: Bytes
    """(N, M, D -> D); empty without skips, when the last layer is the tier's output."""
    skip_bias: Floats
    """(N, D)"""
    slot_weight: Bytes
    """(sum of slots, D -> D), slowest tier first"""
    slot_bias: Floats
    """(sum of slots, D), with the expanding bias of the tier below."""
    slot_at: Integers
    """(N,): each tier's first slot, counted in slots."""
    table: Floats
    """(F, Q, D): what a code adds to the perceptron's sum from each place in the window, oldest first."""
    side_weight: Floats
    """V -> D"""
    hidden_weight: Floats
    """(hidden, D -> D)"""
    hidden_bias: Floats
    output_weight: Floats
    """D -> Q"""
    output_bias: Floats


class SampleRnnState(NamedTuple):
    """All that changes while a SampleRNN runs: memory down to `outputs`, then scratch of one sample."""

    position: Integers
    """(1,): how many codes there are."""
    codes: Integers
    """(slowest frame,), a ring"""
    ran: Integers
    """(N,): the position at which each tier last ran, -1 at rest."""
    h: Floats
    """(N, M, D)"""
    c: Floats
    """(N, M, D), used by an LSTM"""
    outputs: Floats
    """(N, D): what each tier's slots are computed from."""
    frame: Floats
    """A tier's codes, scaled; a tier of frame F uses its own padded(F) of them."""
    frame_at: Integers
    """(N,)"""
    y: Floats
    """(D,): a tier's input"""
    pre: Floats
    """(gates D,): gates before the nonlinearity"""
    candidate: Floats
    """(D,)"""
    side: Floats
    sum: Floats
    other: Floats
    rows: Integers
    """Where the perceptron's inputs are not zero."""
    output: Floats
    logits: Floats
    """(Q,)"""


def _reorder(values: NDArray[np.float32], spec: SampleRnnSpec) -> list[NDArray[np.float32]]:
    """Split (..., gates D) into gates in the order of `_ORDER`, each padded, Theano's update gate negated."""
    kind = _KIND.get(spec.cell, LSTM)
    parts = dict(zip(GATES[spec.cell], np.split(values, spec.gates, -1), strict=True))
    if kind == GRU_RESET_BEFORE:
        parts["z"] = -parts["z"]
    return [pad(parts[gate]) for gate in _ORDER[kind]]


def _pad_rows(matrix: NDArray[np.floating]) -> NDArray[np.float32]:  # type: ignore[type-arg]
    return pad(np.asarray(matrix).T).T


class _Layers:
    """Collects the recurrent layers' arrays, tier by tier, with the offset at which each begins."""

    def __init__(self, spec: SampleRnnSpec, tensors: Tensors) -> None:
        self.spec, self.tensors = spec, tensors
        shape = (spec.tiers, spec.rnn_layers)
        self.input: list[Bytes] = []
        self.direct: list[Bytes] = []
        self.recurrent: list[Bytes] = []
        self.bias: list[Floats] = []
        self.candidate_bias: list[Floats] = []
        self.input_at, self.direct_at = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        for tier in range(spec.tiers):
            for layer in range(spec.rnn_layers):
                self._add(tier, layer)

    def _add(self, tier: int, layer: int) -> None:
        def get(part: str) -> NDArray[np.float32]:
            return self.tensors[f"tier{tier}.rnn{layer}.{part}"]

        self._add_inputs(tier, layer, get("input_weight"))
        recurrent, bias = _reorder(get("recurrent_weight"), self.spec), _reorder(get("bias"), self.spec)
        candidate_bias = zeros(padded(self.spec.dim))
        if self.spec.cell.startswith("gru"):
            self.recurrent += [pack_matrix24(np.concatenate(recurrent[:2], -1)), pack_matrix24(recurrent[2])]
        else:
            self.recurrent.append(pack_matrix24(np.concatenate(recurrent, -1)))
        if self.spec.cell in ("gru-keras", "gru-torch"):
            reset, update, candidate_bias = _reorder(get("recurrent_bias"), self.spec)
            bias = [bias[0] + reset, bias[1] + update, bias[2]]
        self.bias += bias
        self.candidate_bias.append(candidate_bias)

    def _add_inputs(self, tier: int, layer: int, weight: NDArray[np.float32]) -> None:
        if (
            layer == 0 and self.spec.skips == "prism"
        ):  # it sees its input twice: one product with the sum does
            weight = np.sum(np.split(weight.astype(np.float64), 2), 0)
        below = weight if layer == 0 else weight[: self.spec.dim]
        self.input_at[tier, layer] = sum(part.size for part in self.input)
        self.input.append(pack_matrix24(np.concatenate(_reorder(below, self.spec), -1)))
        if layer > 0 and self.spec.skips == "mehri":
            self.direct_at[tier, layer] = sum(part.size for part in self.direct)
            self.direct.append(
                pack_matrix24(np.concatenate(_reorder(weight[self.spec.dim :], self.spec), -1))
            )


def _expands(spec: SampleRnnSpec, tensors: Tensors) -> tuple[list[Bytes], Integers]:
    parts: list[Bytes] = []
    at = np.full(spec.tiers, -1, np.int64)
    for tier in range(spec.tiers):
        if spec.expands(tier):
            at[tier] = sum(part.size for part in parts)
            parts.append(pack_matrix24(tensors[f"tier{tier}.expand_weight"]))
    return parts, at


def _folds(spec: SampleRnnSpec) -> bool:
    return not spec.relu_after_sum


def _through_hidden(
    values: NDArray[np.floating], spec: SampleRnnSpec, tensors: Tensors
) -> NDArray[np.float64]:  # type: ignore[type-arg]
    """What is added to the perceptron's sum, taken through the first hidden layer where that is exact."""
    if not _folds(spec):
        return values.astype(np.float64)
    return np.asarray(values.astype(np.float64) @ tensors["hidden_weight"][0].astype(np.float64))


def _slots(spec: SampleRnnSpec, tensors: Tensors, tier: int) -> tuple[list[Bytes], NDArray[np.floating]]:  # type: ignore[type-arg]
    """A tier's slots: packed matrices, and biases (slots, D) with all that is added wherever a slot is."""
    weight = tensors[f"tier{tier}.upsample_weight"]
    bias = np.zeros((len(weight), spec.dim)) + tensors.get(f"tier{tier}.upsample_bias", np.float32(0))
    if tier < spec.tiers - 1:
        return [pack_matrix24(slot) for slot in weight], bias + tensors[f"tier{tier + 1}.expand_bias"]
    bias = _through_hidden(bias, spec, tensors) + (tensors["hidden_bias"][0] if _folds(spec) else 0.0)
    return [pack_matrix24(_through_hidden(slot, spec, tensors)) for slot in weight], bias


def _code_table(spec: SampleRnnSpec, tensors: Tensors) -> Floats:
    embedding = tensors["embedding"].astype(np.float64)
    rows = [pad(_through_hidden(embedding @ weight, spec, tensors)) for weight in tensors["input_weight"]]
    return flatten(*rows)


def _rest(spec: SampleRnnSpec, tensors: Tensors) -> Floats:
    parts = 2 if _KIND.get(spec.cell, LSTM) == LSTM else 1
    rest = np.zeros((spec.tiers, spec.rnn_layers, 2, spec.dim), np.float32)
    for tier in range(spec.tiers if spec.learned_h0 else 0):
        rest[tier, :, :parts] = tensors[f"tier{tier}.h0"].reshape(spec.rnn_layers, parts, spec.dim)
    return flatten(pad(rest))


def pack(spec: SampleRnnSpec, tensors: Tensors) -> SampleRnnWeights:
    """Lay a checkpoint's tensors out for stepping. Dialects are told apart here, not by the sample."""
    tiers = range(spec.tiers)
    layers, (expand, expand_at) = _Layers(spec, tensors), _expands(spec, tensors)
    slots = [_slots(spec, tensors, tier) for tier in tiers]
    skips = [tensors[f"tier{tier}.skip_weight"] for tier in tiers if spec.skips != "none"]
    skip_bias = [pad(tensors[f"tier{tier}.skip_bias"]) for tier in tiers if spec.skips != "none"]
    hidden = slice(1 if _folds(spec) else 0, None)
    side = tensors.get("side_weight", np.zeros((0, spec.dim), np.float32))
    start_bias = tensors["tier0.expand_bias"] if spec.expand_top else np.zeros(spec.dim)
    return SampleRnnWeights(
        levels=spec.levels,
        dim=padded(spec.dim),
        cell=_KIND.get(spec.cell, LSTM),
        gates=spec.gates,
        square=size24(padded(spec.dim), padded(spec.dim)),
        layers=spec.rnn_layers,
        hidden=len(tensors["hidden_weight"][hidden]),
        side=padded(spec.side),
        code_scale=np.float32(spec.levels / 2),
        frames=np.array(spec.frames, np.int64),
        slots=np.array(spec.slots, np.int64),
        expand_weight=flatten_bytes(*expand),
        expand_at=expand_at,
        start_bias=pad(start_bias),
        input_weight=flatten_bytes(*layers.input),
        input_at=layers.input_at,
        direct_weight=flatten_bytes(*layers.direct),
        direct_at=layers.direct_at,
        bias=flatten(*layers.bias),
        recurrent_weight=flatten_bytes(*layers.recurrent),
        candidate_bias=flatten(*layers.candidate_bias),
        rest=_rest(spec, tensors),
        skip_weight=flatten_bytes(*(pack_matrix24(weight) for tier in skips for weight in tier)),
        skip_bias=flatten(*skip_bias),
        slot_weight=flatten_bytes(*(weight for weights, _ in slots for weight in weights)),
        slot_bias=flatten(*(pad(bias) for _, bias in slots)),
        slot_at=np.cumsum([0, *spec.slots[:-1]], dtype=np.int64),
        table=_code_table(spec, tensors),
        side_weight=pack_matrix(_through_hidden(side, spec, tensors)),
        hidden_weight=flatten(*map(pack_matrix, tensors["hidden_weight"][hidden])),
        hidden_bias=flatten(pad(tensors["hidden_bias"][hidden])),
        output_weight=pack_matrix(tensors["output_weight"]),
        output_bias=pad(tensors["output_bias"]),
    )


def new_state(weights: SampleRnnWeights) -> SampleRnnState:
    """A state of rest."""
    tiers, dim = len(weights.frames), weights.dim
    frames = np.array([padded(int(frame)) for frame in weights.frames], np.int64)
    state = SampleRnnState(
        position=np.zeros(1, np.int64),
        codes=np.zeros(weights.frames[0], np.int64),
        ran=np.zeros(tiers, np.int64),
        h=zeros(tiers * weights.layers * dim),
        c=zeros(tiers * weights.layers * dim),
        outputs=zeros(tiers * dim),
        frame=zeros(int(frames.sum())),
        frame_at=np.cumsum(frames) - frames,
        y=zeros(dim),
        pre=zeros(weights.gates * dim),
        candidate=zeros(dim),
        side=zeros(weights.side),
        sum=zeros(dim),
        other=zeros(dim),
        rows=np.zeros(dim, np.int64),
        output=zeros(weights.output_bias.size),
        logits=zeros(weights.levels),
    )
    reset(weights, state)
    return state


@compiled
def reset(weights: SampleRnnWeights, state: SampleRnnState) -> None:
    """Take a state back to rest: h0 in every layer, the middle code in every place before the first."""
    dim = weights.dim
    state.position[0] = 0
    state.codes[:] = weights.levels // 2
    state.ran[:] = -1
    for layer in range(len(weights.frames) * weights.layers):
        for i in range(dim):
            state.h[layer * dim + i] = weights.rest[2 * layer * dim + i]
            state.c[layer * dim + i] = weights.rest[(2 * layer + 1) * dim + i]


@inner
def _read_frame(weights: SampleRnnWeights, state: SampleRnnState, tier: int) -> Floats:
    """The codes just before the position, scaled: (padded(F),)."""
    length, size = weights.frames[tier], len(state.codes)
    width = (length + 15) // 16 * 16
    frame: Floats = span(state.frame, state.frame_at[tier], width)
    for i in range(length):
        code = np.float32(state.codes[(state.position[0] - length + i) % size])
        frame[i] = _TWO * (code / weights.code_scale - _ONE)
    return frame


@inner
def _upsample(weights: SampleRnnWeights, state: SampleRnnState, tier: int, slot: int, out: Floats) -> None:
    """One slot of a tier's output, its bias included: out (D,)."""
    dim = weights.dim
    at = weights.slot_at[tier] + slot
    weight = tail(weights.slot_weight, at * weights.square)
    matvec(out, tail(weights.slot_bias, at * dim), weight, span(state.outputs, tier * dim, dim))


@inner
def _read_input(weights: SampleRnnWeights, state: SampleRnnState, tier: int) -> Floats:
    """A tier's input y: its frame, expanded, and the slot from above; of Mehri's slowest tier, the frame."""
    frame = _read_frame(weights, state, tier)
    if weights.expand_at[tier] < 0:
        return frame
    bias = weights.start_bias
    if tier > 0:
        bias = state.y
        slot = state.position[0] // weights.frames[tier] % weights.slots[tier - 1]
        _upsample(weights, state, tier - 1, slot, bias)
    matvec(state.y, bias, tail(weights.expand_weight, weights.expand_at[tier]), frame)
    return state.y


@inner
def _run_gru_reset_after(pre: Floats, candidate: Floats, h: Floats) -> None:
    """Gates pre (3 D,) = [r, z, n], n without its recurrent part, which is in candidate (D,)."""
    dim = len(h)
    for i in range(dim):
        r, z = sigmoid(pre[i]), sigmoid(pre[dim + i])
        n = tanh(pre[2 * dim + i] + r * candidate[i])
        h[i] = n + z * (h[i] - n)


@inner
def _reset_gate(pre: Floats, candidate: Floats, h: Floats) -> None:
    for i in range(len(h)):
        candidate[i] = sigmoid(pre[i]) * h[i]


@inner
def _run_gru_reset_before(pre: Floats, h: Floats) -> None:
    """Gates pre (3 D,) = [r, z, n], complete."""
    dim = len(h)
    for i in range(dim):
        z, n = sigmoid(pre[dim + i]), tanh(pre[2 * dim + i])
        h[i] = n + z * (h[i] - n)


@inner
def _run_lstm(pre: Floats, h: Floats, c: Floats) -> None:
    """Gates pre (4 D,) = [i, f, g, o]."""
    dim = len(h)
    for i in range(dim):
        kept = sigmoid(pre[dim + i]) * c[i]
        c[i] = kept + sigmoid(pre[i]) * tanh(pre[2 * dim + i])
        h[i] = sigmoid(pre[3 * dim + i]) * tanh(c[i])


@inner
def _run_cell(weights: SampleRnnWeights, state: SampleRnnState, index: int) -> None:
    """One step of a layer, numbered through all tiers, from its input's part of the gates in state.pre."""
    dim = weights.dim
    pre, candidate = state.pre, state.candidate
    h = span(state.h, index * dim, dim)
    recurrent = tail(weights.recurrent_weight, index * weights.gates * weights.square)
    if weights.cell == LSTM:
        matvec(pre, pre, recurrent, h)
        _run_lstm(pre, h, span(state.c, index * dim, dim))
        return
    both = span(pre, 0, 2 * dim)
    own = tail(recurrent, 2 * weights.square)
    matvec(both, both, recurrent, h)
    if weights.cell == GRU_RESET_AFTER:
        matvec(candidate, tail(weights.candidate_bias, index * dim), own, h)
        _run_gru_reset_after(pre, candidate, h)
    else:
        _reset_gate(pre, candidate, h)
        last = span(pre, 2 * dim, dim)
        matvec(last, last, own, candidate)
        _run_gru_reset_before(pre, h)


@inner
def _run_tier(weights: SampleRnnWeights, state: SampleRnnState, tier: int) -> None:
    """Run a tier's layers on its due frame and leave its output for the slots."""
    y, dim, width = _read_input(weights, state, tier), weights.dim, weights.gates * weights.dim
    x = y
    for layer in range(weights.layers):
        index = tier * weights.layers + layer
        weight = tail(weights.input_weight, weights.input_at[tier, layer])
        matvec(state.pre, tail(weights.bias, index * width), weight, x)
        if weights.direct_at[tier, layer] >= 0:
            direct = tail(weights.direct_weight, weights.direct_at[tier, layer])
            matvec(state.pre, state.pre, direct, y)
        _run_cell(weights, state, index)
        x = span(state.h, index * dim, dim)
    _write_output(weights, state, tier)


@inner
def _write_output(weights: SampleRnnWeights, state: SampleRnnState, tier: int) -> None:
    """The sum of all layers' skips; without skips, the last layer."""
    dim, layers = weights.dim, weights.layers
    out = span(state.outputs, tier * dim, dim)
    if len(weights.skip_weight) == 0:
        h = span(state.h, ((tier + 1) * layers - 1) * dim, dim)
        for i in range(dim):
            out[i] = h[i]
        return
    bias = tail(weights.skip_bias, tier * dim)
    for index in range(tier * layers, (tier + 1) * layers):
        matvec(
            out,
            bias,
            tail(weights.skip_weight, index * weights.square),
            span(state.h, index * dim, dim),
        )
        bias = out


@inner
def _run_due_tiers(weights: SampleRnnWeights, state: SampleRnnState) -> None:
    position = state.position[0]
    for tier in range(len(weights.frames)):
        if position % weights.frames[tier] == 0 and state.ran[tier] != position:
            _run_tier(weights, state, tier)
            state.ran[tier] = position


@inner
def _sum_window(weights: SampleRnnWeights, state: SampleRnnState, side: Floats) -> None:
    """The perceptron's sum: the slot, the table's rows for the window, the side input."""
    window, dim, size = weights.frames[-1], weights.dim, len(state.codes)
    _upsample(weights, state, len(weights.frames) - 1, state.position[0] % window, state.sum)
    for place in range(window):
        code = state.codes[(state.position[0] - window + place) % size]
        row = span(weights.table, (place * weights.levels + code) * dim, dim)
        for i in range(dim):
            state.sum[i] += row[i]
    if weights.side > 0:
        for i in range(len(side)):
            state.side[i] = side[i]
        matvec(state.sum, state.sum, weights.side_weight, state.side)


@compiled
def advance(weights: SampleRnnWeights, state: SampleRnnState, side: Floats) -> None:
    """Compute the next code's logits into ``state.logits``. side (V,): known before that code."""
    _run_due_tiers(weights, state)
    _sum_window(weights, state, side)
    dim = weights.dim
    x, other = state.sum, state.other
    count = relu(x, state.rows)
    for layer in range(weights.hidden):
        weight = tail(weights.hidden_weight, layer * dim * dim)
        matvec_rows(other, tail(weights.hidden_bias, layer * dim), weight, x, state.rows, count)
        count = relu(other, state.rows)
        x, other = other, x
    matvec_rows(state.output, weights.output_bias, weights.output_weight, x, state.rows, count)
    for i in range(len(state.logits)):
        state.logits[i] = state.output[i]


@compiled
def push(weights: SampleRnnWeights, state: SampleRnnState, code: int) -> None:
    """Append a code, 0 to Q - 1. `advance` must have been called for the position; to append many, `feed`."""
    state.codes[state.position[0] % len(state.codes)] = code
    state.position[0] += 1


@compiled
def feed(weights: SampleRnnWeights, state: SampleRnnState, codes: Integers, sides: Floats) -> None:
    """Append codes (T,) that are given: as `advance` and `push` for each, without the perceptron."""
    for i in range(len(codes)):
        _run_due_tiers(weights, state)
        push(weights, state, codes[i])
