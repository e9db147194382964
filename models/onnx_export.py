"""A model as ONNX, for other programs: one step, state in and state out (docs/export.md).

Opset 17. Every part of the state is an input, and an output of the same name with `_next` behind it; what it
is at the beginning stands in the metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, StringStringEntryProto, helper

from streamer.models.checkpoint import Checkpoint
from streamer.models.container import blaming, require, write_atomically
from streamer.models.errors import CheckpointError
from streamer.models.onnx_graph import Graph, initializer, value_info
from streamer.models.onnx_steps import CODE, CONDITION, State, samplernn_step, wavenet_step
from streamer.models.quantisers import quantiser_to_json
from streamer.models.specs import Spec, WaveNetSpec, spec_to_json

SUFFIX = ".onnx"
OPSET, IR_VERSION = 17, 8
MAX_BYTES = 2**31 - 2**20
"""Of one file: Protocol Buffers hold less than 2 GiB."""

_NEXT = "_next"


def export(model: Checkpoint, path: Path) -> None:
    """Write a model as ONNX, whole or not at all.

    Raises `CheckpointError`: the spec has what a step cannot compute, or the file would be too large, or
    cannot be written.
    """
    with blaming(path, "written", CheckpointError):
        require(path.suffix == SUFFIX, f"the name of an ONNX file ends in {SUFFIX}: give such a one")
        write_atomically(path, build(model).SerializeToString())


def build(model: Checkpoint) -> ModelProto:
    """Return a model as ONNX; raise `StreamerError` if it cannot be one."""
    spec = model.spec
    require(spec.predictor is None, "its spec has a predictor, which the ONNX step cannot compute")
    graph = Graph()
    if isinstance(spec, WaveNetSpec):
        logits, state = wavenet_step(graph, spec, model.tensors)
    else:
        logits, state = samplernn_step(graph, spec, model.tensors)
    size = sum(array.nbytes for array in graph.weights.values())
    require(size <= MAX_BYTES, f"it would have {size} bytes of weights: ONNX holds at most {MAX_BYTES}")
    return _assemble(graph, spec, logits, state, _metadata(model, state))


def _assemble(graph: Graph, spec: Spec, logits: str, state: State, metadata: dict[str, str]) -> ModelProto:
    outputs = [value_info("logits", np.zeros(spec.levels, np.float32))]
    graph.nodes.append(helper.make_node("Reshape", [logits, graph.weight([-1])], ["logits"]))
    for name, held in state.items():
        graph.nodes.append(helper.make_node("Identity", [held.after], [name + _NEXT]))
        outputs.append(value_info(name + _NEXT, held.initial))
    inputs = [value_info(CODE, np.zeros(1, np.int64)), *_condition(spec)]
    inputs += [value_info(name, held.initial) for name, held in state.items()]
    weights = [initializer(name, array) for name, array in graph.weights.items()]
    proto = helper.make_graph(graph.nodes, spec.architecture, inputs, outputs, weights)
    made = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="streamer"
    )
    made.metadata_props.extend(StringStringEntryProto(key=key, value=text) for key, text in metadata.items())
    return made


def _condition(spec: Spec) -> list[Any]:
    """The input of what a WaveNet is conditioned on: an id (1,), or a vector (C,)."""
    if not isinstance(spec, WaveNetSpec) or not spec.condition:
        return []
    like = np.zeros(1, np.int64) if spec.condition_ids else np.zeros((1, spec.condition), np.float32)
    return [value_info(CONDITION, like)]


def _metadata(model: Checkpoint, state: State) -> dict[str, str]:
    """What a program needs beside the graph, as texts; all but plain texts are JSON."""
    levels, provenance = model.spec.levels, model.provenance
    first = model.quantiser.silence if isinstance(model.spec, WaveNetSpec) else levels // 2
    return {
        "sample_rate": str(model.sample_rate),
        "initial_code": str(first),
        "initial_state": json.dumps({name: _briefly(held.initial) for name, held in state.items()}),
        "amplitudes": json.dumps(model.quantiser.table().tolist()),
        "quantiser": json.dumps(quantiser_to_json(model.quantiser)),
        "temperature": str(provenance.temperature),
        "spec": json.dumps(spec_to_json(model.spec)),
        "title": provenance.title,
        "licence": provenance.licence,
        "attribution": provenance.attribution,
        "hash": model.hash,
    }


def _briefly(array: NDArray[Any]) -> Any:
    """Return an array as lists, or as the one number that fills it."""
    return array.flat[0].item() if (array == array.flat[0]).all() else array.tolist()
