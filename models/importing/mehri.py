"""The original SampleRNN (Mehri et al. 2017, Theano) and Dadabots' fork (Carr and Zukowski 2018).

Their parameters have the same names: two or three tiers, Theano's cells, `mehri` skips. Weight normalisation
is there where `.g0` is, by columns.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from streamer.models.errors import CheckpointError
from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Options, Said, Settings
from streamer.models.importing.weights import Floats, Weights, normalised
from streamer.models.specs import SampleRnnSpec

_SETTING = re.compile(r"^\t([A-Z0-9_]+) +(.*)$", re.MULTILINE)


def convert(weights: Weights, settings: Settings) -> Model:
    """Everything follows from the shapes."""
    big = "BigFrameLevel.Output.W0" in weights
    names = ("BigFrameLevel", "FrameLevel") if big else ("FrameLevel",)
    dim, levels = weights.shape("SampleLevel.Output.W0", 2)
    kind = "LSTM" if f"{names[0]}.LSTM1.Step.Input.W0" in weights else "GRU"
    fast = weights.shape("FrameLevel.Output.W0", 2)[1] // dim
    slow = weights.shape(f"{names[0]}.{kind}1.Step.Input.W0", 2)[0]
    layers = weights.count(rf"FrameLevel\.{kind}(\d+)(?:\+inpskip)?\.Step\.Input\.W0")
    h0 = {name: _h0(weights, name, layers, dim * (2 if kind == "LSTM" else 1)) for name in names}
    spec = SampleRnnSpec(
        frames=(slow, fast) if big else (slow,),
        dim=dim,
        rnn_layers=layers,
        levels=levels,
        cell="lstm-theano" if kind == "LSTM" else "gru-theano",
        embedding=weights.shape("SampleLevel.L1_PrevSamples.W0", 2)[0] // fast,
        skips="mehri" if _skip(names[0], kind, 1) + ".W0" in weights else "none",
        learned_h0=any(array.any() for array in h0.values()),
        expand_top=False,
    )
    tensors: dict[str, Floats] = {}
    for tier, name in enumerate(names):
        tensors |= _tier(weights, spec, tier, name, kind)
        if spec.learned_h0:
            tensors[f"tier{tier}.h0"] = h0[name]
    tensors |= _perceptron(weights, spec)
    weights.leave(r"BigFrameLevel\.IndependentPreds\..*", "helps training; no logit depends on it")
    return spec, tensors


def _h0(weights: Weights, name: str, layers: int, width: int) -> Floats:
    """The first state, which is saved, all zero, even where it was not learned."""
    return weights.take(f"{name}.h0", layers, width)


def _skip(tier: str, kind: str, layer: int) -> str:
    """The name of a layer's way out; only the LSTM's has the layer's number in front."""
    return f"{tier}.{kind}{layer if kind == 'LSTM' else ''}.outskip{layer}y"


def _linear(weights: Weights, name: str, *shape: int) -> Floats:
    weight = weights.take(f"{name}.W0", *shape)
    return normalised(weight, weights.take(f"{name}.g0", shape[1]), 0) if f"{name}.g0" in weights else weight


def _tier(weights: Weights, spec: SampleRnnSpec, tier: int, name: str, kind: str) -> dict[str, Floats]:
    dim, slots, ours = spec.dim, spec.slots[tier], f"tier{tier}"
    upsample = _linear(weights, f"{name}.Output", dim, slots * dim).reshape(dim, slots, dim)
    tensors = {
        f"{ours}.upsample_weight": upsample.transpose(1, 0, 2),
        f"{ours}.upsample_bias": weights.take(f"{name}.Output.b", slots * dim).reshape(slots, dim),
    }
    if spec.expands(tier):
        tensors[f"{ours}.expand_weight"] = _linear(weights, f"{name}.InputExpand", spec.frames[tier], dim)
        tensors[f"{ours}.expand_bias"] = weights.take(f"{name}.InputExpand.b", dim)
    for layer in range(spec.rnn_layers):
        above = "+inpskip" if layer and spec.skips == "mehri" else ""
        tensors |= _rnn(weights, spec, tier, layer, f"{name}.{kind}{layer + 1}{above}.Step")
    if spec.skips == "mehri":
        ways = [_skip(name, kind, layer + 1) for layer in range(spec.rnn_layers)]
        tensors[f"{ours}.skip_weight"] = np.stack([_linear(weights, way, dim, dim) for way in ways])
        tensors[f"{ours}.skip_bias"] = weights.take(f"{ways[0]}.b", dim)
    return tensors


def _rnn(weights: Weights, spec: SampleRnnSpec, tier: int, layer: int, name: str) -> dict[str, Floats]:
    dim, width, ours = spec.dim, spec.gates * spec.dim, f"tier{tier}.rnn{layer}"
    tensors = {
        f"{ours}.input_weight": _linear(weights, f"{name}.Input", spec.layer_input(tier, layer), width)
    }
    if spec.cell == "lstm-theano":
        tensors[f"{ours}.recurrent_weight"] = _linear(weights, f"{name}.Recurrent_Gates", dim, width)
        return tensors | {f"{ours}.bias": weights.take(f"{name}.b", width)}
    gates = _linear(weights, f"{name}.Recurrent_Gates", dim, 2 * dim)
    candidate = _linear(weights, f"{name}.Recurrent_Candidate", dim, dim)
    tensors[f"{ours}.recurrent_weight"] = np.concatenate([gates, candidate], 1)
    return tensors | {f"{ours}.bias": weights.take(f"{name}.Input.b", width)}


def _perceptron(weights: Weights, spec: SampleRnnSpec) -> dict[str, Floats]:
    dim, levels, fast = spec.dim, spec.levels, spec.frames[-1]
    first = _linear(weights, "SampleLevel.L1_PrevSamples", fast * spec.embedding, dim)
    if "SampleLevel.Embedding" in weights:
        embedding = weights.take("SampleLevel.Embedding", levels, spec.embedding)
    elif spec.embedding == levels:  # its option emb_size is 0: one-hot vectors
        embedding = np.eye(levels, dtype=np.float32)
    else:
        raise CheckpointError("tensor 'SampleLevel.Embedding' of SampleRNN is missing")
    hidden = [_linear(weights, f"SampleLevel.L{n}", dim, dim) for n in (2, 3)]
    return {
        "embedding": embedding,
        "input_weight": first.reshape(fast, spec.embedding, dim),
        "hidden_weight": np.stack(hidden),
        "hidden_bias": np.stack([weights.take(f"SampleLevel.L{n}.b", dim) for n in (2, 3)]),
        "output_weight": _linear(weights, "SampleLevel.Output", dim, levels),
        "output_bias": weights.take("SampleLevel.Output.b", levels),
    }


def read_settings(text: str) -> Mapping[str, object]:
    """The newest block of model_settings.txt, to which every start of training adds one."""
    block = text[text.rfind("Model settings:") :]
    return {name: _value(value.strip()) for name, value in _SETTING.findall(block)}


def _value(text: str) -> object:
    if text in ("True", "False"):
        return text == "True"
    return int(text) if re.fullmatch(r"-?\d{1,15}", text) else text


def said(options: Options, layers: int) -> Said:
    """Its model_settings.txt."""
    big, fast = options.whole("BIG_FRAME_SIZE"), options.whole("FRAME_SIZE")
    cells = options.choice("RNN_TYPE", {"GRU": "gru-theano", "LSTM": "lstm-theano"})
    skips = options.choice("SKIP_CONN", {True: "mehri", False: "none"})
    return Said(
        rate=options.whole("BITRATE"),  # that is what it calls its sample rate
        quantiser=options.choice("Q_TYPE", {"linear": "linear-mehri", "mu-law": "mulaw-mehri"}),
        expected={
            "FRAME_SIZE": ("frames", fast and ((big, fast) if big else (fast,))),
            "DIM": ("dim", options.whole("DIM")),
            "N_RNN": ("rnn_layers", options.whole("N_RNN")),
            "RNN_TYPE": ("cell", cells),
            "SKIP_CONN": ("skips", skips),
            "Q_LEVELS": ("levels", options.whole("Q_LEVELS")),
        },
    )


MEHRI = Family(
    name="mehri",
    title="SampleRNN (Mehri et al.)",
    home="soroushmehr/sampleRNN_ICLR2017",
    marks=("SampleLevel.L1_PrevSamples.W0", "SampleLevel.Output.W0", "FrameLevel.Output.W0"),
    convert=convert,
    quantisers=("linear-mehri", "mulaw-mehri"),
    rate=16_000,
    configs=("model_settings.txt",),
    read_config=read_settings,
    said=said,
)

DADABOTS = replace(
    MEHRI,
    name="dadabots",
    title="Dadabots' SampleRNN",
    home="ZVK/sampleRNN_ICLR2017",
    quantisers=("mulaw-mehri", "linear-mehri"),
)
