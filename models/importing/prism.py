"""PRiSM SampleRNN (RNCM PRiSM, TensorFlow 2): three tiers, Keras cells, skips that enter layer 0 alone."""

import numpy as np

from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Options, Said, Settings
from streamer.models.importing.weights import Floats, Weights
from streamer.models.specs import SampleRnnSpec

TIERS = ("big_frame_rnn", "frame_rnn")


def convert(weights: Weights, settings: Settings) -> Model:
    """Everything follows from the shapes."""
    fast, levels, dim = weights.shape("sample_mlp/inputs/kernel", 3)
    slow, _ = weights.shape("big_frame_rnn/inputs/kernel", 2)
    lstm = weights.shape("frame_rnn/rnn/layer_0/cell/kernel", 2)[1] == 4 * dim
    spec = SampleRnnSpec(
        frames=(slow, fast),
        dim=dim,
        rnn_layers=weights.count(r"frame_rnn/rnn/layer_(\d+)/cell/kernel"),
        levels=levels,
        cell="lstm-keras" if lstm else "gru-keras",
        embedding=levels,
        skips="prism" if "frame_rnn/rnn/layer_0_skip_out/kernel" in weights else "none",
        upsample_bias="none",
    )
    tensors: dict[str, Floats] = {}
    for tier, name in enumerate(TIERS):
        tensors |= _tier(weights, spec, tier, name)
    tensors |= _perceptron(weights, spec)
    return spec, tensors


def _tier(weights: Weights, spec: SampleRnnSpec, tier: int, name: str) -> dict[str, Floats]:
    dim, frame = spec.dim, spec.frames[tier]
    upsample = weights.take(f"{name}/upsample", spec.slots[tier], dim, dim)
    tensors = {
        f"tier{tier}.expand_weight": weights.take(f"{name}/inputs/kernel", frame, dim),
        f"tier{tier}.expand_bias": weights.take(f"{name}/inputs/bias", dim),
        f"tier{tier}.upsample_weight": upsample.transpose(0, 2, 1),  # a transposed convolution's (k, out, in)
    }
    skips = []
    for layer in range(spec.rnn_layers):
        tensors |= _rnn(weights, spec, tier, layer, f"{name}/rnn/layer_{layer}/cell")
        if spec.skips != "none":
            skips.append(weights.take(f"{name}/rnn/layer_{layer}_skip_out/kernel", dim, dim))
    if skips:
        bias = weights.take(f"{name}/rnn/layer_0_skip_out/bias", dim)
        tensors |= {f"tier{tier}.skip_weight": np.stack(skips), f"tier{tier}.skip_bias": bias}
    return tensors


def _rnn(weights: Weights, spec: SampleRnnSpec, tier: int, layer: int, name: str) -> dict[str, Floats]:
    width, ours = spec.gates * spec.dim, f"tier{tier}.rnn{layer}"
    tensors = {
        f"{ours}.input_weight": weights.take(f"{name}/kernel", spec.layer_input(tier, layer), width),
        f"{ours}.recurrent_weight": weights.take(f"{name}/recurrent_kernel", spec.dim, width),
    }
    if spec.cell == "lstm-keras":
        return tensors | {f"{ours}.bias": weights.take(f"{name}/bias", width)}
    bias, recurrent = weights.take(f"{name}/bias", 2, width)  # Keras' GRU with reset_after
    return tensors | {f"{ours}.bias": bias, f"{ours}.recurrent_bias": recurrent}


def _perceptron(weights: Weights, spec: SampleRnnSpec) -> dict[str, Floats]:
    dim, levels = spec.dim, spec.levels
    hidden = [weights.take(f"sample_mlp/hidden{n}/kernel", dim, dim) for n in (1, 2)]
    biases = [weights.take(f"sample_mlp/hidden{n}/bias", dim) for n in (1, 2)]
    return {
        "embedding": weights.take("sample_mlp/embedding/embeddings", levels, levels),
        "input_weight": weights.take("sample_mlp/inputs/kernel", spec.frames[-1], levels, dim),
        "hidden_weight": np.stack(hidden),
        "hidden_bias": np.stack(biases),
        "output_weight": weights.take("sample_mlp/outputs/kernel", dim, levels),
        "output_bias": weights.take("sample_mlp/outputs/bias", levels),
    }


def said(options: Options, layers: int) -> Said:
    """Its config.json; what is not in it has no say there either."""
    frames = options.wholes("frame_sizes")
    cells = options.choice("rnn_type", {"gru": "gru-keras", "lstm": "lstm-keras"})
    skips = options.choice("skip_conn", {True: "prism", False: "none"})
    return Said(
        rate=options.whole("sample_rate"),
        quantiser=options.choice("q_type", {"mu-law": "mulaw", "linear": "linear-prism"}),
        expected={
            "frame_sizes": ("frames", frames and frames[::-1]),
            "dim": ("dim", options.whole("dim")),
            "num_rnn_layers": ("rnn_layers", options.whole("num_rnn_layers")),
            "rnn_type": ("cell", cells),
            "skip_conn": ("skips", skips),
            "q_levels": ("levels", options.whole("q_levels")),
        },
    )


PRISM = Family(
    name="prism",
    title="PRiSM SampleRNN",
    home="rncm-prism/prism-samplernn",
    marks=("sample_mlp/embedding/embeddings", "big_frame_rnn/upsample", "frame_rnn/upsample"),
    convert=convert,
    quantisers=("mulaw", "linear-prism"),
    rate=16_000,
    configs=("*config.json", "*config*.json"),
    said=said,
)
