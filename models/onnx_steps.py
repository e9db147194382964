"""One step of each architecture as an ONNX graph: the newest code and the state in, logits and the state out.

They compute what `models/wavenet.py` and `models/samplernn.py` do, for one stream, and do as the compiled
steppers what is exact: tables for embedding and first convolution, rings addressed by position, tiers that
run only when due.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import tau
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from streamer.models.onnx_graph import Graph, GraphBranch, Name
from streamer.models.specs import GATES, ClockSpec, SampleRnnSpec, WaveNetSpec

Tensors: TypeAlias = "Mapping[str, NDArray[np.float32]]"

CODE, POSITION, CONDITION = "code", "position", "condition"


@dataclass(frozen=True)
class Held:
    """A part of the state: what it is at the beginning, and the value that it is after a step."""

    initial: NDArray[Any]
    after: Name


State: TypeAlias = "dict[str, Held]"
"""By the names of the inputs."""


# --- WaveNet ------------------------------------------------------------------------------------------------


def wavenet_step(graph: Graph, spec: WaveNetSpec, tensors: Tensors) -> tuple[Name, State]:
    """Return the logits (1, Q) of the code after `code`, and the state.

    `queue` (sum of (K-1) * dilation, R) is every layer's ring of past inputs, one behind the other.
    """
    h, state = _wavenet_input(graph, spec, tensors)
    reach = (spec.kernel - 1) * np.array(spec.dilations)
    begin = np.concatenate([[0], np.cumsum(reach)])[:-1]
    queue = np.zeros((int(reach.sum()), spec.residual), np.float32)
    past = _wavenet_past(graph, spec, reach, begin)
    gates = _wavenet_condition(graph, spec, tensors)
    inputs, outputs = [], []
    for layer in range(spec.layers):
        inputs.append(h)
        z = _wavenet_gated(graph, spec, tensors, layer, graph.op("Concat", past[layer], h, axis=1), gates)
        outputs.append(z)
        if layer < spec.layers - 1:
            bias = tensors["residual_bias"][layer] if spec.residual_bias else None
            h = graph.op("Add", h, graph.affine(z, tensors["residual_weight"][layer], bias))
            h = graph.op("Mul", h, graph.number(spec.residual_scale)) if spec.residual_scale != 1 else h
    rows = _ring_rows(graph, reach[:, None], begin[:, None], 0)
    filled = graph.op("ScatterND", "queue", rows, graph.op("Concat", *inputs, axis=0))
    state |= {"queue": Held(queue, filled), POSITION: _next_position(graph)}
    return _wavenet_output(graph, spec, tensors, graph.op("Concat", *outputs, axis=1)), state


def _wavenet_input(graph: Graph, spec: WaveNetSpec, tensors: Tensors) -> tuple[Name, State]:
    """The input convolution as a table (taps * (Q + 1), R) of what codes add; a code of Q adds nothing."""
    taps, levels = spec.input_kernel, spec.levels
    table = tensors["input_weight"]
    if spec.embedding:
        table = tensors["embedding"] @ table
    table = np.concatenate([table, np.zeros((taps, 1, spec.residual), np.float32)], 1)
    state: State = {}
    window = CODE
    if taps > 1:
        window = graph.op("Concat", "codes", CODE, axis=0)
        state["codes"] = Held(np.full(taps - 1, levels), graph.last(window, taps - 1))
    rows = graph.op("Add", window, graph.weight(np.arange(taps) * (levels + 1)))
    added = graph.op("Gather", graph.weight(table.reshape(-1, spec.residual), "table"), rows)
    h = graph.op("ReduceSum", added, graph.weight([0]), keepdims=1)
    return graph.op("Add", h, graph.weight(tensors["input_bias"])) if spec.input_bias else h, state


def _ring_rows(graph: Graph, reach: NDArray[Any], begin: NDArray[Any], ahead: NDArray[Any] | int) -> Name:
    """Rows of the queue, in each layer's ring, so far ahead of the position."""
    place = graph.op("Add", POSITION, graph.weight(np.asarray(ahead)))
    return graph.op("Add", graph.op("Mod", place, graph.weight(reach)), graph.weight(begin))


def _wavenet_past(graph: Graph, spec: WaveNetSpec, reach: NDArray[Any], begin: NDArray[Any]) -> list[Name]:
    """What each layer's taps see, (1, (K-1) R), but for the newest input."""
    ahead = np.array(spec.dilations)[:, None] * np.arange(spec.kernel - 1)
    rows = _ring_rows(graph, reach[:, None], begin[:, None], ahead)
    seen = graph.shaped(graph.op("Gather", "queue", rows), spec.layers, -1)
    return graph.parts(seen, [1] * spec.layers, axis=0)


def _wavenet_condition(graph: Graph, spec: WaveNetSpec, tensors: Tensors) -> list[Name] | None:
    """What the condition adds to each layer's gates."""
    if not spec.condition:
        return None
    vector = CONDITION
    if spec.condition_ids:
        vector = graph.op("Gather", graph.weight(tensors["condition_embedding"]), CONDITION)
    return [graph.affine(vector, weight) for weight in tensors["condition_weight"]]


def _wavenet_gated(
    graph: Graph, spec: WaveNetSpec, tensors: Tensors, layer: int, x: Name, gates: list[Name] | None
) -> Name:
    bias = tensors["gate_bias"][layer] if spec.gate_bias else None
    a = graph.affine(x, tensors["gate_weight"][layer], bias)
    a = a if gates is None else graph.op("Add", a, gates[layer])
    filtered, gated = graph.parts(a, [spec.gate] * 2, axis=1)
    return graph.op("Mul", graph.op("Tanh", filtered), graph.op("Sigmoid", gated))


def _wavenet_output(graph: Graph, spec: WaveNetSpec, tensors: Tensors, z: Name) -> Name:
    s = graph.affine(z, tensors["skip_weight"], tensors.get("skip_bias"))
    s = graph.op("Mul", s, graph.number(spec.skip_scale)) if spec.skip_scale != 1 else s
    a = graph.affine(graph.op("Relu", s), tensors["output1_weight"], tensors.get("output1_bias"))
    return graph.affine(graph.op("Relu", a), tensors["output2_weight"], tensors.get("output2_bias"))


def _next_position(graph: Graph) -> Held:
    return Held(np.zeros(1, np.int64), graph.op("Add", POSITION, graph.weight([1])))


# --- SampleRNN ----------------------------------------------------------------------------------------------


def samplernn_step(graph: Graph, spec: SampleRnnSpec, tensors: Tensors) -> tuple[Name, State]:
    """Return the logits (1, Q) of the code after `code`, and the state.

    `codes` (slowest frame,) are the last codes; `tierN.rnn` (layers, D or 2 D) is a tier's recurrent state,
    `tierN.slots` (ratio, D) what it last said to the tier below, which takes one slot after the other.
    """
    window = graph.op("Concat", "codes", CODE, axis=0)
    window = graph.last(window, spec.frames[0])
    state: State = {
        "codes": Held(np.full(spec.frames[0], spec.levels // 2), window),
        POSITION: _next_position(graph),
    }
    scaled = graph.op("Mul", graph.op("Cast", window, to=1), graph.number(4.0 / spec.levels))
    scaled = graph.op("Sub", scaled, graph.number(2.0))
    slots: Name | None = None
    for tier in range(spec.tiers):
        held = _tier(graph, spec, tensors, tier, scaled, slots)
        slots = held[f"tier{tier}.slots"].after
        state |= held
    assert slots is not None
    return _perceptron(graph, spec, tensors, window, _slot(graph, slots, 1, spec.frames[-1])), state


def _slot(graph: Graph, slots: Name, frame: int, count: int) -> Name:
    """The slot (1, D) that the tier with this frame, or the perceptron (1), takes now."""
    turn = graph.op("Div", POSITION, graph.weight([frame]))
    return graph.op("Gather", slots, graph.op("Mod", turn, graph.weight([count])))


def _tier(
    graph: Graph, spec: SampleRnnSpec, tensors: Tensors, tier: int, scaled: Name, above: Name | None
) -> State:
    """Run a tier where its frame begins; keep what it said otherwise."""
    own = _under(tensors, f"tier{tier}.")
    frame, ratio = spec.frames[tier], spec.slots[tier]
    rnn = own["h0"] if spec.learned_h0 else np.zeros((spec.rnn_layers, spec.state_width), np.float32)
    initial = {f"tier{tier}.rnn": rnn, f"tier{tier}.slots": np.zeros((ratio, spec.dim), np.float32)}
    now, later = graph.branch(), graph.branch()
    due = graph.op("Equal", graph.op("Mod", POSITION, graph.weight([frame])), graph.weight([0]))
    y = now.shaped(now.last(scaled, frame), 1, frame)
    if spec.expands(tier):
        y = now.affine(y, own["expand_weight"], own["expand_bias"])
    if above is not None:
        y = now.op("Add", y, _slot(now, above, frame, spec.slots[tier - 1]))
    if tier == 0 and spec.clock:
        y = now.op("Add", y, now.affine(_told(now, spec.clock), tensors["clock_weight"]))
    ran = _run_layers(now, spec, own, y, f"tier{tier}.rnn")
    kept = [later.op("Identity", name) for name in initial]
    like = list(initial.values())
    after = graph.choose(due, GraphBranch(now, ran, like), GraphBranch(later, kept, like))
    return {name: Held(array, result) for (name, array), result in zip(initial.items(), after, strict=True)}


def _told(graph: Graph, clock: ClockSpec) -> Name:
    """What a clock tells at the position (1, 2 H); turns are counted in float64, since positions grow."""
    turns = graph.op("Div", graph.op("Cast", POSITION, to=TensorProto.DOUBLE), graph.exact(clock.cycle))
    harmonics = graph.weight(np.arange(1, clock.harmonics + 1))
    turns = graph.op("Mul", turns, graph.op("Cast", harmonics, to=TensorProto.DOUBLE))
    part = graph.op("Cast", graph.op("Sub", turns, graph.op("Floor", turns)), to=TensorProto.FLOAT)
    angles = graph.op("Mul", part, graph.number(tau))
    told = graph.op("Concat", graph.op("Cos", angles), graph.op("Sin", angles), axis=0)
    return graph.shaped(told, 1, 2 * clock.harmonics)


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _run_layers(graph: Graph, spec: SampleRnnSpec, own: Tensors, y: Name, state: Name) -> list[Name]:
    """Return a tier's new state, and its slots."""
    x = graph.op("Concat", y, y, axis=1) if spec.skips == "prism" else y
    outputs, states = [], []
    for layer, held in enumerate(graph.parts(state, [1] * spec.rnn_layers, axis=0)):
        cell = _lstm if spec.cell.startswith("lstm") else _gru
        h, after = cell(graph, spec, _under(own, f"rnn{layer}."), x, held)
        outputs.append(h)
        states.append(after)
        x = graph.op("Concat", h, y, axis=1) if spec.skips == "mehri" else h
    out = outputs[-1]
    if spec.skips != "none":
        joined = graph.op("Concat", *outputs, axis=1)
        out = graph.affine(joined, own["skip_weight"].reshape(-1, spec.dim), own["skip_bias"])
    upsample = own["upsample_weight"]
    flat = upsample.transpose(1, 0, 2).reshape(spec.dim, -1)
    slots = graph.shaped(graph.affine(out, flat), len(upsample), spec.dim)
    if spec.upsample_bias != "none":
        slots = graph.op("Add", slots, graph.weight(own["upsample_bias"]))
    return [graph.op("Concat", *states, axis=0), slots]


def _gates(graph: Graph, spec: SampleRnnSpec, x: Name) -> dict[str, Name]:
    """Cut (1, gates * D) into its gates, by their letters."""
    order = GATES[spec.cell]
    return dict(zip(order, graph.parts(x, [spec.dim] * len(order), axis=1), strict=True))


def _gru(graph: Graph, spec: SampleRnnSpec, own: Tensors, x: Name, h: Name) -> tuple[Name, Name]:
    """A GRU of any of three kinds; Theano's resets before the product, and its z admits the candidate."""
    weight, dim = own["recurrent_weight"], spec.dim
    a = _gates(graph, spec, graph.affine(x, own["input_weight"], own["bias"]))
    if spec.cell == "gru-theano":
        b = dict(
            zip("zr", graph.parts(graph.affine(h, weight[:, : 2 * dim]), [dim] * 2, axis=1), strict=True)
        )
    else:
        b = _gates(graph, spec, graph.affine(h, weight, own["recurrent_bias"]))
    z, r = (graph.op("Sigmoid", graph.op("Add", a[gate], b[gate])) for gate in "zr")
    if spec.cell == "gru-theano":
        candidate = graph.affine(graph.op("Mul", r, h), weight[:, 2 * dim :])
    else:
        candidate = graph.op("Mul", r, b["n"])
    n = graph.op("Tanh", graph.op("Add", a["n"], candidate))
    old, new = (n, h) if spec.cell != "gru-theano" else (h, n)
    after = graph.op("Add", old, graph.op("Mul", z, graph.op("Sub", new, old)))
    return after, after


def _lstm(graph: Graph, spec: SampleRnnSpec, own: Tensors, x: Name, state: Name) -> tuple[Name, Name]:
    h, c = graph.parts(state, [spec.dim] * 2, axis=1)
    from_h = graph.affine(h, own["recurrent_weight"])
    gates = _gates(graph, spec, graph.op("Add", graph.affine(x, own["input_weight"], own["bias"]), from_h))
    i, f, o = (graph.op("Sigmoid", gates[gate]) for gate in "ifo")
    admitted = graph.op("Mul", i, graph.op("Tanh", gates["g"]))
    c = graph.op("Add", graph.op("Mul", f, c), admitted)
    h = graph.op("Mul", o, graph.op("Tanh", c))
    return h, graph.op("Concat", h, c, axis=1)


def _perceptron(graph: Graph, spec: SampleRnnSpec, tensors: Tensors, window: Name, slot: Name) -> Name:
    """The logits, from a table (F * Q, D) of what each code at each place adds, and the slot."""
    frame = spec.frames[-1]
    table = (tensors["embedding"] @ tensors["input_weight"]).reshape(-1, spec.dim)
    rows = graph.op("Add", graph.last(window, frame), graph.weight(np.arange(frame) * spec.levels))
    added = graph.op("Gather", graph.weight(table, "table"), rows)
    a = graph.op("Add", graph.op("ReduceSum", added, graph.weight([0]), keepdims=1), slot)
    a = graph.op("Relu", a) if spec.relu_after_sum else a
    for weight, bias in zip(tensors["hidden_weight"], tensors["hidden_bias"], strict=True):
        a = graph.op("Relu", graph.affine(a, weight, bias))
    return graph.affine(a, tensors["output_weight"], tensors["output_bias"])
