"""SampleRNN one sample at a time: a tier runs when a frame is due; what it hands down is computed when used.

Before the code at position p is predicted, every tier whose frame size divides p runs once on the codes just
before p. Its output is upsampled lazily, slot by slot, as the tier below or the perceptron comes to need it,
which halves the burst at a frame's start.

Two savings are exact and made when packing. The perceptron's embedding and convolution become one table row
for each place in the window, of which a sample takes one a place: a sparse product with ones. Where no ReLU
follows the sum, its first hidden layer is linear in the rows and in the slots too and is folded into both.

A state holds one voice or several, which share the position, and so every reading of a weight. `advance`
runs what is due and the perceptron; calling it twice changes nothing. `push` appends a code for each voice.
`feed` runs what is due only.

Where a frame of the slowest tier begins, h and c are kept, as they are before any tier runs there. `rewind`
takes them back from the last such place and runs what was due since, on codes that are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.kernels import predictor
from streamer.kernels.compiling import inner, part
from streamer.kernels.nonlinear import sigmoid, tanh
from streamer.kernels.packing import Bytes, Floats, Store, flatten, pad, padded, size, zeros
from streamer.kernels.precision import Scheme, scheme
from streamer.kernels.predictor import PredictorState, PredictorWeights
from streamer.kernels.products import Nonzero, matmat, matvec_sparse, multiply_positive
from streamer.kernels.views import borrowed, span, tail
from streamer.models.specs import GATES, SampleRnnSpec

Integers = NDArray[np.int64]
Tensors = Mapping[str, NDArray[np.float32]]

GRU_RESET_AFTER, GRU_RESET_BEFORE, LSTM = 0, 1, 2
"""What is left of the five cells once gates are in one order: r z n, the reset gate after the recurrent
product (Keras, torch) or before it (Theano); i f g o. Theano's update gate admits where the others' keeps,
and so is packed negated."""

_KIND = {"gru-torch": GRU_RESET_AFTER, "gru-keras": GRU_RESET_AFTER, "gru-theano": GRU_RESET_BEFORE}
_ORDER = {GRU_RESET_AFTER: "rzn", GRU_RESET_BEFORE: "rzn", LSTM: "ifgo"}
_ONE, _TWO = np.float32(1), np.float32(2)


class SampleRnnWeights(NamedTuple):
    """A SampleRNN packed for stepping: widths padded to LANES, floats flat.

    N tiers, M layers a tier. All matrices lie in `matrices`; ``..._at`` are where they begin there, -1 where
    there is none.
    """

    levels: int
    dim: int
    """D"""
    cell: int
    gates: int
    """Gates of the cell: 3 or 4."""
    layers: int
    """M"""
    hidden: int
    """Hidden layers left in the perceptron after folding."""
    predictor: PredictorWeights
    code_scale: np.float32
    """A frame holds ``2 * (code / code_scale - 1)``."""
    frames: Integers
    """(N,)"""
    slots: Integers
    """(N,)"""
    matrices: Bytes
    expand_at: Integers
    """(N,): F -> D"""
    start_bias: Floats
    """(D,): the slowest tier's, where it expands; that of every other tier is in the slots' bias."""
    cycle: float
    """Of the clock, samples."""
    harmonics: int
    """H; 0 without a clock."""
    clock_at: int
    """2 H -> D: what a clock adds to the slowest tier's input."""
    input_at: Integers
    """(N, M): in -> gates D, from the tier's input or the layer below"""
    direct_at: Integers
    """(N, M): in -> gates D, from the tier's input to the layers above the first (the mehri scheme)"""
    bias: Floats
    """(N, M, gates D)"""
    recurrent_at: Integers
    """(N, M): D -> the gates that see h as it is: all but the candidate of a GRU that resets before"""
    recurrent_bias: Floats
    """(N, M, gates D): matters inside the reset gate's product (Keras, torch)."""
    candidate_at: Integers
    """(N, M): D -> D, the candidate of a GRU that resets before"""
    rest: Floats
    """(N, M, 2, D): h and c before the first sample."""
    skip_at: Integers
    """(N, M): D -> D; without skips the last layer is the tier's output."""
    skip_bias: Floats
    """(N, D)"""
    slot_at: Integers
    """(sum of slots,): D -> D, slowest tier first"""
    slot_bias: Floats
    """(sum of slots, D), with the expanding bias of the tier below."""
    first_slot: Integers
    """(N,): each tier's first slot."""
    table_at: int
    """F Q -> D: what a code adds to the perceptron's sum from each place in the window, oldest first."""
    forecast_at: int
    """V -> D"""
    hidden_at: Integers
    """(hidden,): D -> D"""
    hidden_bias: Floats
    output_at: int
    """D -> Q"""
    output_bias: Floats


class SampleRnnState(NamedTuple):
    """All that changes while a SampleRNN runs: memory down to `outputs`, then scratch of one sample.

    B voices, each one's numbers together: (.., B, ..) says where.
    """

    position: Integers
    """(1,): how many codes there are."""
    slack: Integers
    """(1,): how many samples back the state can be taken."""
    earliest: Integers
    """(1,): the position before which nothing is known, whatever the slack."""
    codes: Integers
    """(2 slowest frames + slack, B), a ring"""
    ran: Integers
    """(N,): the position at which each tier last ran, -1 at rest."""
    h: Floats
    """(N, M, B, D)"""
    c: Floats
    """(N, M, B, D) in an LSTM, else empty"""
    predictor: PredictorState
    kept: Floats
    """(the slowest frames of the slack, and one; 1 or 2, N, M, B, D), a ring: h, and c if there is any."""
    outputs: Floats
    """(N, B, D): what each tier's slots are computed from."""
    frame: Floats
    """A tier's codes, scaled: (B, padded F) of each tier."""
    frame_at: Integers
    """(N,)"""
    told: Floats
    """(B, padded 2 H): what the clock tells, cosines and then sines."""
    y: Floats
    """(B, D): a tier's input"""
    pre: Floats
    """(B, gates D): gates before the nonlinearity, as far as the layer's input makes them"""
    recurrent: Floats
    """(B, gates D): what h adds to them; of a GRU that resets before, (B, 2 D)"""
    reset: Floats
    """(B, D): h behind the reset gate, where that comes before the product"""
    candidate: Floats
    """(B, D): that product"""
    sum: Floats
    """(B, D)"""
    other: Floats
    """(B, D)"""
    window: Nonzero
    """A sample's rows of the table, each times 1."""
    nonzero: Nonzero
    """What a ReLU has left, of a single voice."""
    output: Floats
    """(B, padded Q)"""
    logits: Floats
    """(B, Q)"""


def _reorder(values: NDArray[np.float32], spec: SampleRnnSpec) -> list[NDArray[np.float32]]:
    """Split (..., gates D) into gates in the order of `_ORDER`, each padded, Theano's update gate negated."""
    kind = _KIND.get(spec.cell, LSTM)
    parts = dict(zip(GATES[spec.cell], np.split(values, spec.gates, -1), strict=True))
    if kind == GRU_RESET_BEFORE:
        parts["z"] = -parts["z"]
    return [pad(parts[gate]) for gate in _ORDER[kind]]


def _folds(spec: SampleRnnSpec) -> bool:
    return not spec.relu_after_sum


def _through_hidden(
    values: NDArray[np.floating], spec: SampleRnnSpec, tensors: Tensors
) -> NDArray[np.float64]:  # type: ignore[type-arg]
    """What is added to the perceptron's sum, taken through the first hidden layer where that is exact."""
    if not _folds(spec):
        return values.astype(np.float64)
    return np.asarray(values.astype(np.float64) @ tensors["hidden_weight"][0].astype(np.float64))


class _Matrices:
    """Packs a model's matrices in the order in which they are read, and remembers where each begins."""

    def __init__(self, spec: SampleRnnSpec, tensors: Tensors, packings: Scheme) -> None:
        self.spec, self.tensors, self.packings = spec, tensors, packings
        self.store = Store()
        layers = (spec.tiers, spec.rnn_layers)
        self.expand_at = np.full(spec.tiers, -1, np.int64)
        self.input_at, self.direct_at, self.recurrent_at, self.candidate_at, self.skip_at = (
            np.full(layers, -1, np.int64) for _ in range(5)
        )
        self.slot_at: list[int] = []
        for tier in range(spec.tiers):
            self._add_tier(tier)
        self.clock_at = self._add(tensors["clock_weight"]) if spec.clock else -1
        self.table_at = self.store.add(_code_table(spec, tensors), packings.table)
        self.forecast_at = self._add(_through_hidden(_forecast_weight(spec, tensors), spec, tensors))
        left = tensors["hidden_weight"][1 if _folds(spec) else 0 :]
        self.hidden_at = np.array([self._add(weight) for weight in left], np.int64)
        self.output_at = self._add(tensors["output_weight"])

    def _add(self, weight: NDArray[np.floating]) -> int:  # type: ignore[type-arg]
        return self.store.add(weight, self.packings.matrix)

    def _add_tier(self, tier: int) -> None:
        spec, tensors = self.spec, self.tensors
        if spec.expands(tier):
            self.expand_at[tier] = self._add(tensors[f"tier{tier}.expand_weight"])
        for layer in range(spec.rnn_layers):
            self._add_inputs(tier, layer)
            self._add_recurrent(tier, layer)
        for layer in range(spec.rnn_layers if spec.skips != "none" else 0):
            self.skip_at[tier, layer] = self._add(tensors[f"tier{tier}.skip_weight"][layer])
        for slot in tensors[f"tier{tier}.upsample_weight"]:
            last = tier == spec.tiers - 1
            self.slot_at.append(self._add(_through_hidden(slot, spec, tensors) if last else slot))

    def _add_inputs(self, tier: int, layer: int) -> None:
        weight = self.tensors[f"tier{tier}.rnn{layer}.input_weight"]
        if layer == 0 and self.spec.skips == "prism":  # its input twice: one product with the sum
            weight = np.sum(np.split(weight.astype(np.float64), 2), 0)
        below = weight if layer == 0 else weight[: self.spec.dim]
        self.input_at[tier, layer] = self._add(np.concatenate(_reorder(below, self.spec), -1))
        if layer > 0 and self.spec.skips == "mehri":
            direct = _reorder(weight[self.spec.dim :], self.spec)
            self.direct_at[tier, layer] = self._add(np.concatenate(direct, -1))

    def _add_recurrent(self, tier: int, layer: int) -> None:
        gates = _reorder(self.tensors[f"tier{tier}.rnn{layer}.recurrent_weight"], self.spec)
        direct = 2 if _KIND.get(self.spec.cell) == GRU_RESET_BEFORE else len(gates)
        self.recurrent_at[tier, layer] = self._add(np.concatenate(gates[:direct], -1))
        if direct < len(gates):
            self.candidate_at[tier, layer] = self._add(gates[direct])


def _biases(spec: SampleRnnSpec, tensors: Tensors, part: str) -> Floats:
    """Every layer's biases of one kind, zeros where the cell has none."""
    nothing = np.zeros(spec.gates * spec.dim, np.float32)
    layers = [f"tier{tier}.rnn{layer}" for tier in range(spec.tiers) for layer in range(spec.rnn_layers)]
    return flatten(
        *(gate for name in layers for gate in _reorder(tensors.get(f"{name}.{part}", nothing), spec))
    )


def _slot_biases(spec: SampleRnnSpec, tensors: Tensors) -> Floats:
    """A bias for each slot, with all that is added wherever the slot is."""
    parts = []
    for tier in range(spec.tiers):
        bias = np.zeros((spec.slots[tier], spec.dim)) + tensors.get(
            f"tier{tier}.upsample_bias", np.float32(0)
        )
        if tier < spec.tiers - 1:
            bias = bias + tensors[f"tier{tier + 1}.expand_bias"]
        else:
            bias = _through_hidden(bias, spec, tensors) + (tensors["hidden_bias"][0] if _folds(spec) else 0.0)
        parts.append(pad(bias))
    return flatten(*parts)


def _code_table(spec: SampleRnnSpec, tensors: Tensors) -> NDArray[np.float32]:
    embedding = tensors["embedding"].astype(np.float64)
    rows = [_through_hidden(embedding @ weight, spec, tensors) for weight in tensors["input_weight"]]
    return np.concatenate(rows).astype(np.float32)


def _forecast_weight(spec: SampleRnnSpec, tensors: Tensors) -> NDArray[np.float32]:
    return tensors.get("forecast_weight", np.zeros((0, spec.dim), np.float32))


def _rest(spec: SampleRnnSpec, tensors: Tensors) -> Floats:
    parts = 2 if _KIND.get(spec.cell, LSTM) == LSTM else 1
    rest = np.zeros((spec.tiers, spec.rnn_layers, 2, spec.dim), np.float32)
    for tier in range(spec.tiers if spec.learned_h0 else 0):
        rest[tier, :, :parts] = tensors[f"tier{tier}.h0"].reshape(spec.rnn_layers, parts, spec.dim)
    return flatten(pad(rest))


def pack(spec: SampleRnnSpec, tensors: Tensors, precision: str = "fp32") -> SampleRnnWeights:
    """Lay a checkpoint's tensors out for stepping. Dialects are told apart here, not by the sample.

    precision: as `precision.resolve` gives it.
    """
    packed = _Matrices(spec, tensors, scheme(precision, spec.parameters))
    skip_bias = [pad(tensors[f"tier{t}.skip_bias"]) for t in range(spec.tiers) if spec.skips != "none"]
    start_bias = tensors["tier0.expand_bias"] if spec.expand_top else np.zeros(spec.dim)
    return SampleRnnWeights(
        levels=spec.levels,
        dim=padded(spec.dim),
        cell=_KIND.get(spec.cell, LSTM),
        gates=spec.gates,
        layers=spec.rnn_layers,
        hidden=len(packed.hidden_at),
        predictor=predictor.pack(spec.predictor, spec.levels),
        code_scale=np.float32(spec.levels / 2),
        frames=np.array(spec.frames, np.int64),
        slots=np.array(spec.slots, np.int64),
        matrices=packed.store.bytes(),
        expand_at=packed.expand_at,
        start_bias=pad(start_bias),
        cycle=float(spec.clock.cycle) if spec.clock else 1.0,
        harmonics=spec.clock.harmonics if spec.clock else 0,
        clock_at=packed.clock_at,
        input_at=packed.input_at,
        direct_at=packed.direct_at,
        bias=_biases(spec, tensors, "bias"),
        recurrent_at=packed.recurrent_at,
        recurrent_bias=_biases(spec, tensors, "recurrent_bias"),
        candidate_at=packed.candidate_at,
        rest=_rest(spec, tensors),
        skip_at=packed.skip_at,
        skip_bias=flatten(*skip_bias),
        slot_at=np.array(packed.slot_at, np.int64),
        slot_bias=_slot_biases(spec, tensors),
        first_slot=np.cumsum([0, *spec.slots[:-1]], dtype=np.int64),
        table_at=packed.table_at,
        forecast_at=packed.forecast_at,
        hidden_at=packed.hidden_at,
        hidden_bias=flatten(pad(tensors["hidden_bias"][1 if _folds(spec) else 0 :])),
        output_at=packed.output_at,
        output_bias=pad(tensors["output_bias"]),
    )


def new_state(weights: SampleRnnWeights, voices: int = 1, slack: int = 0) -> SampleRnnState:
    """A state of rest for some voices. slack: how many samples back it can be taken."""
    tiers, dim, slowest = len(weights.frames), weights.dim, int(weights.frames[0])
    memory = tiers * weights.layers * voices * dim
    parts = 2 if weights.cell == LSTM else 1
    frames = np.array([padded(int(frame)) for frame in weights.frames], np.int64) * voices
    window = int(weights.frames[-1])
    state = SampleRnnState(
        position=np.zeros(1, np.int64),
        slack=np.full(1, slack),
        earliest=np.zeros(1, np.int64),
        codes=np.zeros((2 * slowest + slack) * voices, np.int64),
        ran=np.zeros(tiers, np.int64),
        h=zeros(memory),
        c=zeros((parts - 1) * memory),
        predictor=predictor.new_state(weights.predictor, voices, slowest + slack),
        kept=zeros((-(-slack // slowest) + 1) * parts * memory),
        outputs=zeros(tiers * voices * dim),
        frame=zeros(int(frames.sum())),
        frame_at=np.cumsum(frames) - frames,
        told=zeros(voices * padded(2 * weights.harmonics)),
        y=zeros(voices * dim),
        pre=zeros(voices * weights.gates * dim),
        recurrent=zeros(voices * weights.gates * dim),
        reset=zeros(voices * dim),
        candidate=zeros(voices * dim),
        sum=zeros(voices * dim),
        other=zeros(voices * dim),
        window=Nonzero(flatten(np.ones(window)), np.zeros(window, np.int32), np.array([window])),
        nonzero=Nonzero(zeros(dim), np.zeros(dim, np.int32), np.zeros(1, np.int64)),
        output=zeros(voices * weights.output_bias.size),
        logits=zeros(voices * weights.levels),
    )
    reset(weights, state)
    return state


def reset(weights: SampleRnnWeights, state: SampleRnnState) -> None:
    """Take a state back to rest: h0 in every layer, the middle code in every place before the first."""
    state.position[0] = state.earliest[0] = 0
    state.codes[:] = weights.levels // 2
    state.ran[:] = -1
    predictor.reset(state.predictor)
    rest = weights.rest.reshape(-1, 2, 1, weights.dim)
    state.h.reshape(len(rest), -1, weights.dim)[:] = rest[:, 0]
    if len(state.c):
        state.c.reshape(len(rest), -1, weights.dim)[:] = rest[:, 1]
    state.kept[: len(state.h) + len(state.c)] = np.concatenate([state.h, state.c])


def bytes_read(weights: SampleRnnWeights) -> float:
    """Bytes of weights that a sample reads on average."""

    def sizes(places: NDArray[np.int64]) -> int:
        return sum(size(weights.matrices, int(at)) for at in places.ravel() if at >= 0)

    total = 0.0
    for tier, frame in enumerate(weights.frames):
        first = weights.first_slot[tier]
        slots = weights.slot_at[first : first + weights.slots[tier]]
        own = (
            weights.input_at,
            weights.direct_at,
            weights.recurrent_at,
            weights.candidate_at,
            weights.skip_at,
        )
        frame_bytes = sum(sizes(places[tier]) for places in own) + sizes(weights.expand_at[tier : tier + 1])
        frame_bytes += sizes(np.array([weights.clock_at])) if tier == 0 else 0
        total += (frame_bytes + sizes(slots)) / int(frame)
    rows = size(weights.matrices, weights.table_at) / weights.levels  # one of each place's
    return total + rows + sizes(weights.hidden_at) + size(weights.matrices, weights.output_at)


@inner
def _voices(state: SampleRnnState) -> int:
    return len(state.sum) // len(state.nonzero.values)


@inner
def _copy(out: Floats, values: Floats) -> None:
    for i in range(len(out)):
        out[i] = values[i]


@inner
def _kept(weights: SampleRnnWeights, state: SampleRnnState) -> Floats:
    """Where h and c are kept of the slowest frame that the position is in."""
    size = len(state.h) + len(state.c)
    slot = state.position[0] // weights.frames[0] % (len(state.kept) // size)
    kept: Floats = span(state.kept, slot * size, size)
    return kept


@inner
def _keep(weights: SampleRnnWeights, state: SampleRnnState) -> None:
    """Keep h and c if the slowest tier is due."""
    if state.position[0] % weights.frames[0] == 0:
        kept = _kept(weights, state)
        _copy(span(kept, 0, len(state.h)), state.h)
        _copy(tail(kept, len(state.h)), state.c)


@inner
def _read_frame(weights: SampleRnnWeights, state: SampleRnnState, tier: int) -> Floats:
    """The codes just before the position, scaled: (B, padded(F))."""
    length, voices = weights.frames[tier], _voices(state)
    width, size = (length + 15) // 16 * 16, len(state.codes) // voices
    frame: Floats = span(state.frame, state.frame_at[tier], voices * width)
    for i in range(length):
        at = (state.position[0] - length + i) % size * voices
        for voice in range(voices):
            code = np.float32(state.codes[at + voice])
            frame[voice * width + i] = _TWO * (code / weights.code_scale - _ONE)
    return frame


@inner
def _read_clock(weights: SampleRnnWeights, state: SampleRnnState) -> Floats:
    """What the clock tells at the position, to every voice: (B, padded(2 H))."""
    harmonics, voices = weights.harmonics, _voices(state)
    angle = 2 * math.pi * (state.position[0] / weights.cycle % 1.0)
    x, y = math.cos(angle), math.sin(angle)
    cosine, sine = x, y
    for k in range(harmonics):
        for voice in range(voices):
            told = tail(state.told, voice * (len(state.told) // voices))
            told[k], told[harmonics + k] = np.float32(cosine), np.float32(sine)
        cosine, sine = cosine * x - sine * y, sine * x + cosine * y
    return state.told


@inner
def _multiply(
    weights: SampleRnnWeights,
    state: SampleRnnState,
    crew: Integers,
    out: Floats,
    bias: Floats,
    bias_width: int,
    at: int,
    x: Floats,
) -> None:
    """`out = bias + x @ matrix` for every voice."""
    matmat(crew, out, bias, tail(weights.matrices, at), x, _voices(state), bias_width)


@inner
def _upsample(
    weights: SampleRnnWeights, state: SampleRnnState, crew: Integers, tier: int, slot: int, out: Floats
) -> None:
    """One slot of a tier's output, its bias included: out (B, D)."""
    number = weights.first_slot[tier] + slot
    bias = tail(weights.slot_bias, number * weights.dim)
    x = span(state.outputs, tier * len(out), len(out))
    _multiply(weights, state, crew, out, bias, 0, weights.slot_at[number], x)


@inner
def _read_input(weights: SampleRnnWeights, state: SampleRnnState, crew: Integers, tier: int) -> Floats:
    """A tier's input y: its frame, expanded, and the slot from above, or what the clock tells.

    Of Mehri's slowest tier it is the frame.
    """
    frame = _read_frame(weights, state, tier)
    if weights.expand_at[tier] < 0:
        return frame
    bias, bias_width = weights.start_bias, 0
    if tier > 0:
        bias, bias_width = state.y, weights.dim
        slot = state.position[0] // weights.frames[tier] % weights.slots[tier - 1]
        _upsample(weights, state, crew, tier - 1, slot, bias)
    _multiply(weights, state, crew, state.y, bias, bias_width, weights.expand_at[tier], frame)
    if tier == 0 and weights.harmonics > 0:
        told = _read_clock(weights, state)
        _multiply(weights, state, crew, state.y, state.y, weights.dim, weights.clock_at, told)
    return state.y


@inner
def _run_gru_reset_after(pre: Floats, recurrent: Floats, h: Floats) -> None:
    """Gates pre and recurrent (3 D,) = [r, z, n]."""
    dim = len(h)
    for i in range(dim):
        r, z = sigmoid(pre[i] + recurrent[i]), sigmoid(pre[dim + i] + recurrent[dim + i])
        n = tanh(pre[2 * dim + i] + r * recurrent[2 * dim + i])
        h[i] = n + z * (h[i] - n)


@inner
def _reset_gate(pre: Floats, recurrent: Floats, h: Floats, out: Floats) -> None:
    for i in range(len(h)):
        out[i] = sigmoid(pre[i] + recurrent[i]) * h[i]


@inner
def _run_gru_reset_before(pre: Floats, recurrent: Floats, candidate: Floats, h: Floats) -> None:
    """Gates pre (3 D,) = [r, z, n], recurrent (2 D,) = [r, z], candidate (D,) n's recurrent part."""
    dim = len(h)
    for i in range(dim):
        z, n = sigmoid(pre[dim + i] + recurrent[dim + i]), tanh(pre[2 * dim + i] + candidate[i])
        h[i] = n + z * (h[i] - n)


@inner
def _run_lstm(pre: Floats, recurrent: Floats, h: Floats, c: Floats) -> None:
    """Gates pre and recurrent (4 D,) = [i, f, g, o]."""
    dim = len(h)
    for i in range(dim):
        kept = sigmoid(pre[dim + i] + recurrent[dim + i]) * c[i]
        g = tanh(pre[2 * dim + i] + recurrent[2 * dim + i])
        c[i] = kept + sigmoid(pre[i] + recurrent[i]) * g
        h[i] = sigmoid(pre[3 * dim + i] + recurrent[3 * dim + i]) * tanh(c[i])


@inner
def _run_cell(
    weights: SampleRnnWeights, state: SampleRnnState, crew: Integers, tier: int, layer: int
) -> None:
    """One step of a layer, from its input's part of the gates in state.pre."""
    dim, width, voices = weights.dim, weights.gates * weights.dim, _voices(state)
    index = tier * weights.layers + layer
    h = span(state.h, index * voices * dim, voices * dim)
    c = span(state.c, index * voices * dim, voices * dim)
    bias = tail(weights.recurrent_bias, index * width)
    _multiply(weights, state, crew, state.recurrent, bias, 0, weights.recurrent_at[tier, layer], h)
    if weights.cell == GRU_RESET_BEFORE:
        for v in range(voices):
            pre, recurrent = span(state.pre, v * width, width), span(state.recurrent, 2 * v * dim, 2 * dim)
            _reset_gate(pre, recurrent, span(h, v * dim, dim), span(state.reset, v * dim, dim))
        at = weights.candidate_at[tier, layer]
        _multiply(weights, state, crew, state.candidate, tail(bias, 2 * dim), 0, at, state.reset)
        for v in range(voices):
            pre, recurrent = span(state.pre, v * width, width), span(state.recurrent, 2 * v * dim, 2 * dim)
            candidate = span(state.candidate, v * dim, dim)
            _run_gru_reset_before(pre, recurrent, candidate, span(h, v * dim, dim))
        return
    for v in range(voices):
        pre, recurrent = span(state.pre, v * width, width), span(state.recurrent, v * width, width)
        own = span(h, v * dim, dim)
        if weights.cell == LSTM:
            _run_lstm(pre, recurrent, own, span(c, v * dim, dim))
        else:
            _run_gru_reset_after(pre, recurrent, own)


@inner
def _run_tier(weights: SampleRnnWeights, state: SampleRnnState, crew: Integers, tier: int) -> None:
    """Run a tier's layers on its due frame and leave its output for the slots."""
    y, width = _read_input(weights, state, crew, tier), weights.gates * weights.dim
    x, size = y, len(state.y)
    for layer in range(weights.layers):
        index = tier * weights.layers + layer
        bias = tail(weights.bias, index * width)
        _multiply(weights, state, crew, state.pre, bias, 0, weights.input_at[tier, layer], x)
        direct = weights.direct_at[tier, layer]
        if direct >= 0:
            _multiply(weights, state, crew, state.pre, state.pre, width, direct, y)
        _run_cell(weights, state, crew, tier, layer)
        x = span(state.h, index * size, size)
    _write_output(weights, state, crew, tier)


@inner
def _write_output(weights: SampleRnnWeights, state: SampleRnnState, crew: Integers, tier: int) -> None:
    """The sum of all layers' skips; without skips, the last layer."""
    dim, layers, size = weights.dim, weights.layers, len(state.y)
    out = span(state.outputs, tier * size, size)
    if weights.skip_at[tier, 0] < 0:
        h = span(state.h, ((tier + 1) * layers - 1) * size, size)
        _copy(out, h)
        return
    bias, bias_width = tail(weights.skip_bias, tier * dim), 0
    for layer in range(layers):
        h = span(state.h, (tier * layers + layer) * size, size)
        _multiply(weights, state, crew, out, bias, bias_width, weights.skip_at[tier, layer], h)
        bias, bias_width = out, dim


@part
def _run_due_tiers(weights: SampleRnnWeights, state: SampleRnnState, crew: Integers) -> None:
    position = state.position[0]
    for tier in range(len(weights.frames)):
        if position % weights.frames[tier] == 0 and state.ran[tier] != position:
            _run_tier(weights, state, crew, tier)
            state.ran[tier] = position


@inner
def _sum_window(weights: SampleRnnWeights, state: SampleRnnState, crew: Integers) -> None:
    """The perceptron's sum: the slot, the table's rows for the window, what the predictor tells."""
    window, dim, voices = weights.frames[-1], weights.dim, _voices(state)
    size, table = len(state.codes) // voices, tail(weights.matrices, weights.table_at)
    _upsample(weights, state, crew, len(weights.frames) - 1, state.position[0] % window, state.sum)
    for voice in range(voices):
        total = span(state.sum, voice * dim, dim)
        for place in range(window):
            at = (state.position[0] - window + place) % size
            code = state.codes[at * voices + voice]
            state.window.rows[place] = np.int32(place * weights.levels + code)
        matvec_sparse(crew, total, total, table, total, state.window)
    if weights.predictor.order > 0:
        told = predictor.tell(weights.predictor, state.predictor, state.position[0])
        _multiply(weights, state, crew, state.sum, state.sum, dim, weights.forecast_at, told)


@part
def advance(weights: SampleRnnWeights, state: SampleRnnState, crew: Integers) -> None:
    """Compute the next codes' logits into ``state.logits``."""
    weights, state, crew = borrowed(weights), borrowed(state), borrowed(crew)
    _run_due_tiers(weights, state, crew)
    _sum_window(weights, state, crew)
    x, other, voices, nonzero = state.sum, state.other, _voices(state), state.nonzero
    for layer in range(weights.hidden):
        bias = tail(weights.hidden_bias, layer * weights.dim)
        matrix = tail(weights.matrices, weights.hidden_at[layer])
        multiply_positive(crew, other, bias, matrix, x, voices, nonzero)
        x, other = other, x
    matrix = tail(weights.matrices, weights.output_at)
    multiply_positive(crew, state.output, weights.output_bias, matrix, x, voices, nonzero)
    predictor.join(weights.predictor, state.predictor, state.position[0], state.output, state.logits)


@part
def push(weights: SampleRnnWeights, state: SampleRnnState, codes: Integers) -> None:
    """Append a code, 0 to Q - 1, for each voice (B,). `advance` must have been called for the position."""
    weights, state, codes = borrowed(weights), borrowed(state), borrowed(codes)
    at = state.position[0] * len(codes) % len(state.codes)
    for voice in range(len(codes)):
        state.codes[at + voice] = codes[voice]
    predictor.hear(weights.predictor, state.predictor, state.position[0], codes)
    state.position[0] += 1
    _keep(weights, state)


@part
def feed(weights: SampleRnnWeights, state: SampleRnnState, codes: Integers, crew: Integers) -> None:
    """Append codes (T B,) that are given: as `advance` and `push` for each, without the perceptron."""
    weights, state = borrowed(weights), borrowed(state)
    codes, crew = borrowed(codes), borrowed(crew)
    voices = _voices(state)
    for start in range(0, len(codes), voices):
        _run_due_tiers(weights, state, crew)
        push(weights, state, span(codes, start, voices))


@part
def rewind(weights: SampleRnnWeights, state: SampleRnnState, position: int, crew: Integers) -> None:
    """Take a state back to a position that is kept: later codes have never been."""
    weights, state, crew = borrowed(weights), borrowed(state), borrowed(crew)
    state.earliest[0] = max(state.earliest[0], state.position[0] - state.slack[0])
    state.position[0] = position
    kept = _kept(weights, state)
    _copy(state.h, kept)
    _copy(state.c, tail(kept, len(state.h)))
    state.ran[:] = -1
    for due in range(position - position % weights.frames[0], position, weights.frames[-1]):
        state.position[0] = due
        _run_due_tiers(weights, state, crew)
    state.position[0] = position
