"""WaveNet one sample at a time: with queues of past activations, O(layers) a sample (Paine et al. 2016).

Time t is the position of a code. Once code t is known, layer l turns its input h_l[t] and the older h_l[t -
d], which wait in the layer's ring, into h_{l+1}[t]. A ring is indexed by absolute position, so `rewind` moves
an index and copies nothing: a ring's length is the layer's reach plus the slack that `new_state` was given.

What a layer's older inputs add to its gates is known ahead: for a dilation d, of the next d samples. It is
computed for a block of min(d, 8) samples at a time, which reads those weights once a block.

A state holds one voice or several, which share the position, and so every reading of a weight. `advance`
does the layers for the newest codes and then the head; calling it twice changes nothing. `push` only appends
a code for each voice. `feed` does the layers and no head. Before any code, logits are those of an all-zero
input vector (torch's module has no such row).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.kernels import predictor
from streamer.kernels.compiling import inner, part
from streamer.kernels.nonlinear import gate
from streamer.kernels.packing import Bytes, Floats, Store, flatten, pad, padded, size, zeros
from streamer.kernels.precision import scheme
from streamer.kernels.predictor import PredictorState, PredictorWeights
from streamer.kernels.products import Nonzero, matmat, multiply_positive
from streamer.kernels.views import borrowed, span, tail
from streamer.models.errors import SpecError
from streamer.models.specs import WaveNetSpec

Integers = NDArray[np.int64]
Tensors = Mapping[str, NDArray[np.float32]]

AHEAD = 8
"""Most samples of which the older inputs' part is computed at once."""
_NEVER = -(2**62)


class WaveNetWeights(NamedTuple):
    """A WaveNet packed for stepping: widths padded, arrays flat.

    All matrices lie in `matrices`; ``..._at`` are where they begin there.
    """

    levels: int
    residual: int
    """R"""
    gates: int
    """2 D: tanh's half, then sigmoid's."""
    kernel: int
    """K"""
    taps: int
    """Codes that the input convolution sees."""
    predictor: PredictorWeights
    residual_scale: np.float32
    dilations: Integers
    """(L,)"""
    table: Floats
    """(taps, Q, R): what a code adds to layer 0's input, oldest tap first; the newest has the bias."""
    matrices: Bytes
    forecast_at: int
    """V -> R"""
    older_at: Integers
    """(L,): (K - 1) R -> 2 D, from a layer's older inputs, the oldest first"""
    newest_at: Integers
    """(L,): R -> 2 D"""
    gate_bias: Floats
    """(L, 2 D), without conditioning: that is in the state, since voices share weights."""
    condition_weight: Floats
    """(C, L, 2 D), plain"""
    condition_table: Floats
    """(ids, C), plain; empty where the condition is a vector."""
    residual_at: Integers
    """(L - 1,): D -> R"""
    residual_bias: Floats
    """(L - 1, R)"""
    skip_at: int
    """L D -> S, the skip scale folded in"""
    skip_bias: Floats
    output1_at: int
    """S -> A"""
    output1_bias: Floats
    output2_at: int
    """A -> Q"""
    output2_bias: Floats


class WaveNetState(NamedTuple):
    """All that changes while a WaveNet runs: memory down to `gate_bias`, then scratch of one sample.

    T is the receptive field, one more, and the slack.

    B voices, each one's numbers together: (.., B, ..) says where.
    """

    position: Integers
    """(1,): how many codes there are."""
    slack: Integers
    """(1,): how many samples back the state can be taken."""
    earliest: Integers
    """(1,): the position before which nothing is known, whatever the slack."""
    codes: Integers
    """(T, B), a ring"""
    predictor: PredictorState
    queues: Floats
    """Every layer's ring of inputs, one after the other: (lengths[l], B, R) each."""
    starts: Integers
    """(L,): where in `queues` each ring begins."""
    lengths: Integers
    """(L,): how many positions each ring holds."""
    ahead: Floats
    """(L, AHEAD, B, 2 D): the gates of a block of samples, as far as older inputs and bias make them."""
    ahead_at: Integers
    """(1,): the time of which `ahead` was last used. Any other but the next must have it computed anew."""
    gate_bias: Floats
    """(L, B, 2 D), conditioning included."""
    older: Floats
    """(AHEAD, B, (K - 1) R): a layer's older inputs, the oldest first"""
    h: Floats
    """(B, R): the running residual"""
    pair: Floats
    """(B, 2 D): a layer's gates before the nonlinearity"""
    z: Floats
    """(B, L, D): every layer's output"""
    narrow: Floats
    """(B, D): one layer's output"""
    change: Floats
    """(B, R)"""
    skip: Floats
    """(B, S)"""
    hidden: Floats
    """(B, A)"""
    nonzero: Nonzero
    """What a ReLU has left, of a single voice."""
    output: Floats
    """(B, padded Q)"""
    logits: Floats
    """(B, Q)"""


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


class _Matrices:
    """Packs a model's matrices in the order in which they are read, and remembers where each begins."""

    def __init__(self, spec: WaveNetSpec, tensors: Tensors, precision: str) -> None:
        self._packing = scheme(precision, spec.parameters).matrix
        self.store = Store()
        self.forecast_at = self._add(_get(tensors, "forecast_weight", 0, spec.residual))
        self.older_at, self.newest_at, self.residual_at = [], [], []
        for layer in range(spec.layers):
            weight = _pad_halves(_pad_rows(tensors["gate_weight"][layer], spec.kernel))
            self.older_at.append(self._add(weight[: -padded(spec.residual)]))
            self.newest_at.append(self._add(weight[-padded(spec.residual) :]))
            if layer < spec.layers - 1:
                self.residual_at.append(self._add(tensors["residual_weight"][layer]))
        skip = _pad_rows(tensors["skip_weight"], spec.layers) * np.float32(spec.skip_scale)
        self.skip_at = self._add(skip)
        self.output1_at = self._add(tensors["output1_weight"])
        self.output2_at = self._add(tensors["output2_weight"])

    def _add(self, weight: NDArray[np.float32]) -> int:
        return self.store.add(weight, self._packing)


def pack(spec: WaveNetSpec, tensors: Tensors, precision: str = "fp32") -> WaveNetWeights:
    """Lay a checkpoint's tensors out for stepping. Branches on the spec are taken here, not by the sample.

    precision: as `precision.resolve` gives it.
    """
    layers, scale = spec.layers, np.float32(spec.skip_scale)
    packed = _Matrices(spec, tensors, precision)
    condition = _pad_halves(_get(tensors, "condition_weight", layers, 0, 2 * spec.gate))
    return WaveNetWeights(
        levels=spec.levels,
        residual=padded(spec.residual),
        gates=2 * padded(spec.gate),
        kernel=spec.kernel,
        taps=spec.input_kernel,
        predictor=predictor.pack(spec.predictor, spec.levels),
        residual_scale=np.float32(spec.residual_scale),
        dilations=np.array(spec.dilations, np.int64),
        table=_code_table(spec, tensors),
        matrices=packed.store.bytes(),
        forecast_at=packed.forecast_at,
        older_at=np.array(packed.older_at, np.int64),
        newest_at=np.array(packed.newest_at, np.int64),
        gate_bias=flatten(_pad_halves(_get(tensors, "gate_bias", layers, 2 * spec.gate))),
        condition_weight=flatten(condition.swapaxes(0, 1)),
        condition_table=flatten(_get(tensors, "condition_embedding", 0)),
        residual_at=np.array(packed.residual_at, np.int64),
        residual_bias=flatten(pad(_get(tensors, "residual_bias", layers - 1, spec.residual))),
        skip_at=packed.skip_at,
        skip_bias=pad(_get(tensors, "skip_bias", spec.skip) * scale),
        output1_at=packed.output1_at,
        output1_bias=pad(_get(tensors, "output1_bias", spec.output)),
        output2_at=packed.output2_at,
        output2_bias=pad(_get(tensors, "output2_bias", spec.outputs)),
    )


def new_state(weights: WaveNetWeights, voices: int = 1, slack: int = 0) -> WaveNetState:
    """A state of rest for some voices, unconditioned. slack: how many samples back it can be taken.

    A sample of slack costs 4 L R bytes a voice.
    """
    layers, width = len(weights.dilations), voices * weights.residual
    history = receptive_field(weights) + 1 + slack
    lengths = (weights.kernel - 1) * weights.dilations + 1 + slack
    ends = np.cumsum(lengths * width)
    widest = max(weights.skip_bias.size, weights.output1_bias.size)
    bias = weights.gate_bias.reshape(layers, 1, weights.gates)
    state = WaveNetState(
        position=np.zeros(1, np.int64),
        slack=np.full(1, slack),
        earliest=np.zeros(1, np.int64),
        codes=np.zeros(history * voices, np.int64),
        predictor=predictor.new_state(weights.predictor, voices, history),
        queues=zeros(int(ends[-1])),
        starts=ends - lengths * width,
        lengths=lengths,
        ahead=zeros(layers * AHEAD * voices * weights.gates),
        ahead_at=np.full(1, _NEVER),
        gate_bias=flatten(np.repeat(bias, voices, 1)),
        older=zeros(AHEAD * (weights.kernel - 1) * width),
        h=zeros(width),
        pair=zeros(voices * weights.gates),
        z=zeros(voices * layers * weights.gates // 2),
        narrow=zeros(voices * weights.gates // 2),
        change=zeros(width),
        skip=zeros(voices * weights.skip_bias.size),
        hidden=zeros(voices * weights.output1_bias.size),
        nonzero=Nonzero(zeros(widest), np.zeros(widest, np.int32), np.zeros(1, np.int64)),
        output=zeros(voices * weights.output2_bias.size),
        logits=zeros(voices * weights.levels),
    )
    reset(
        weights, state
    )  # and have the system find all the memory now: later, that takes as long as a sample
    return state


def set_condition(weights: WaveNetWeights, state: WaveNetState, condition: int | ArrayLike) -> None:
    """Condition a state's voices on an id or a vector (C,) from the next sample on.

    Raises `SpecError` if it does not fit.
    """
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
    bias = weights.gate_bias + vector @ weights.condition_weight.reshape(width, -1)
    state.gate_bias.reshape(len(weights.dilations), -1, weights.gates)[:] = bias.reshape(-1, 1, weights.gates)
    state.ahead_at[0] = _NEVER


def reset(weights: WaveNetWeights, state: WaveNetState) -> None:
    """Take a state back to rest; its condition stays."""
    state.position[0] = state.earliest[0] = 0
    predictor.reset(state.predictor)
    state.queues[:] = 0
    state.ahead_at[0] = _NEVER


def bytes_read(weights: WaveNetWeights) -> float:
    """Bytes of weights that a sample reads on average."""
    matrices = weights.matrices
    ahead = np.minimum(weights.dilations, AHEAD)
    older = sum(size(matrices, int(at)) / int(n) for at, n in zip(weights.older_at, ahead, strict=True))
    every = [
        *weights.newest_at,
        *weights.residual_at,
        weights.skip_at,
        weights.output1_at,
        weights.output2_at,
    ]
    rows = 4.0 * weights.taps * weights.residual
    return older + sum(size(matrices, int(at)) for at in every) + rows


def receptive_field(weights: WaveNetWeights) -> int:
    """How many of the last codes matter."""
    return weights.taps + (weights.kernel - 1) * int(weights.dilations.sum())


@inner
def _voices(weights: WaveNetWeights, state: WaveNetState) -> int:
    return len(state.h) // weights.residual


@inner
def _copy(out: Floats, values: Floats) -> None:
    for i in range(len(out)):
        out[i] = values[i]


@inner
def _read_input(weights: WaveNetWeights, state: WaveNetState, crew: Integers, time: int) -> None:
    """Put layer 0's input h_0[time] into h. What lies before the first code adds nothing."""
    width, voices = weights.residual, _voices(weights, state)
    length = len(state.codes) // voices
    state.h[:] = np.float32(0)
    for voice in range(voices):
        h = span(state.h, voice * width, width)
        for tap in range(max(0, weights.taps - 1 - time), weights.taps):
            code = state.codes[(time - weights.taps + 1 + tap) % length * voices + voice]
            row = span(weights.table, (tap * weights.levels + code) * width, width)
            for i in range(width):
                h[i] += row[i]
    if weights.predictor.order > 0 and time >= 0:
        told = predictor.tell(weights.predictor, state.predictor, time + 1)
        matrix = tail(weights.matrices, weights.forecast_at)
        matmat(crew, state.h, state.h, matrix, told, voices, width)


@inner
def _gather_older(weights: WaveNetWeights, state: WaveNetState, layer: int, time: int, out: Floats) -> None:
    """The inputs that a layer's older taps see at a time: out (B, (K - 1) R)."""
    width, older, voices = weights.residual, weights.kernel - 1, _voices(weights, state)
    length, start = state.lengths[layer], state.starts[layer]
    for tap in range(older):
        slot = (time - (older - tap) * weights.dilations[layer]) % length
        for voice in range(voices):
            row = span(state.queues, start + (slot * voices + voice) * width, width)
            _copy(span(out, (voice * older + tap) * width, width), row)


@inner
def _look_ahead(
    weights: WaveNetWeights, state: WaveNetState, crew: Integers, layer: int, time: int
) -> Floats:
    """The gates (B, 2 D) at a time as far as older inputs and bias make them.

    They are computed at a block's start, for all of it.
    """
    voices, block = _voices(weights, state), min(weights.dilations[layer], AHEAD)
    width, older = voices * weights.gates, (weights.kernel - 1) * len(state.h)
    ahead = span(state.ahead, layer * AHEAD * width, AHEAD * width)
    first = time % block
    if first == 0 or not 0 <= time - state.ahead_at[0] <= 1:
        count = block - first
        bias = span(state.gate_bias, layer * width, width)
        for i in range(count):
            _gather_older(weights, state, layer, time + i, span(state.older, i * older, older))
            _copy(span(ahead, (first + i) * width, width), bias)
        out = tail(ahead, first * width)
        matrix = tail(weights.matrices, weights.older_at[layer])
        matmat(crew, out, out, matrix, state.older, count * voices, weights.gates)
    part: Floats = span(ahead, first * width, width)
    return part


@inner
def _convolve(weights: WaveNetWeights, state: WaveNetState, crew: Integers, layer: int, time: int) -> None:
    """A layer's output, into `narrow` and into its place in z."""
    gates, depth, voices = weights.gates, weights.gates // 2, _voices(weights, state)
    ahead = _look_ahead(weights, state, crew, layer, time)
    matmat(crew, state.pair, ahead, tail(weights.matrices, weights.newest_at[layer]), state.h, voices, gates)
    for voice in range(voices):
        narrow = span(state.narrow, voice * depth, depth)
        gate(narrow, span(state.pair, voice * gates, gates))
        _copy(span(state.z, (voice * len(weights.dilations) + layer) * depth, depth), narrow)


@inner
def _keep(state: WaveNetState, layer: int, time: int) -> None:
    """Put a layer's input h into its ring; what came before the first code is zero to every layer."""
    if time >= 0:
        width = len(state.h)
        slot = time % state.lengths[layer]
        _copy(span(state.queues, state.starts[layer] + slot * width, width), state.h)


@inner
def _add_residual(weights: WaveNetWeights, state: WaveNetState, crew: Integers, layer: int) -> None:
    """Turn h from the layer's input into the next layer's."""
    width, voices = weights.residual, _voices(weights, state)
    bias = tail(weights.residual_bias, layer * width)
    matrix = tail(weights.matrices, weights.residual_at[layer])
    matmat(crew, state.change, bias, matrix, state.narrow, voices, 0)
    for i in range(len(state.h)):
        state.h[i] = (state.h[i] + state.change[i]) * weights.residual_scale


@part
def _run_layers(weights: WaveNetWeights, state: WaveNetState, crew: Integers) -> None:
    """All that later samples need of the newest codes: every layer but the last one's convolution."""
    time = state.position[0] - 1
    _read_input(weights, state, crew, time)
    last = len(weights.dilations) - 1
    for layer in range(last):
        _convolve(weights, state, crew, layer, time)
        _keep(state, layer, time)
        _add_residual(weights, state, crew, layer)
    _keep(state, last, time)


@part
def advance(weights: WaveNetWeights, state: WaveNetState, crew: Integers) -> None:
    """Compute the next codes' logits into ``state.logits``."""
    weights, state, crew = borrowed(weights), borrowed(state), borrowed(crew)
    _run_layers(weights, state, crew)
    time, last, voices = state.position[0] - 1, len(weights.dilations) - 1, _voices(weights, state)
    _convolve(weights, state, crew, last, time)
    state.ahead_at[0] = time
    matmat(crew, state.skip, weights.skip_bias, tail(weights.matrices, weights.skip_at), state.z, voices, 0)
    matrix, nonzero = tail(weights.matrices, weights.output1_at), state.nonzero
    multiply_positive(crew, state.hidden, weights.output1_bias, matrix, state.skip, voices, nonzero)
    matrix = tail(weights.matrices, weights.output2_at)
    multiply_positive(crew, state.output, weights.output2_bias, matrix, state.hidden, voices, nonzero)
    predictor.join(weights.predictor, state.predictor, time + 1, state.output, state.logits)


@part
def push(weights: WaveNetWeights, state: WaveNetState, codes: Integers) -> None:
    """Append a code, 0 to Q - 1, for each voice (B,). `advance` must have been called for the position."""
    weights, state, codes = borrowed(weights), borrowed(state), borrowed(codes)
    at = state.position[0] * len(codes) % len(state.codes)
    for voice in range(len(codes)):
        state.codes[at + voice] = codes[voice]
    predictor.hear(weights.predictor, state.predictor, state.position[0], codes)
    state.position[0] += 1


@part
def feed(weights: WaveNetWeights, state: WaveNetState, codes: Integers, crew: Integers) -> None:
    """Append codes (T B,) that are given: as `advance` and `push` for each, without the head."""
    weights, state = borrowed(weights), borrowed(state)
    codes, crew = borrowed(codes), borrowed(crew)
    voices, last = _voices(weights, state), len(weights.dilations) - 1
    for i in range(len(codes) // voices):
        if state.position[0] > 0:
            _run_layers(weights, state, crew)
            _look_ahead(weights, state, crew, last, state.position[0] - 1)
            state.ahead_at[0] = state.position[0] - 1
        push(weights, state, span(codes, i * voices, voices))


@part
def rewind(weights: WaveNetWeights, state: WaveNetState, position: int, crew: Integers) -> None:
    """Take a state back to a position that is kept: later codes have never been.

    Blocks ahead need no care: what one holds of a sample comes from inputs before its block began.
    """
    state = borrowed(state)
    state.earliest[0] = max(state.earliest[0], state.position[0] - state.slack[0])
    state.position[0] = position
