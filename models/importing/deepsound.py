"""deepsound's samplernn-pytorch: PyTorch's GRU, a ReLU on the perceptron's sum, one hidden layer after it.

Its tiers are counted from the fastest, and its frame sizes multiply upwards.
"""

import numpy as np

from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Settings
from streamer.models.importing.weights import Floats, Weights, torch_weight
from streamer.models.specs import SampleRnnSpec


def convert(weights: Weights, settings: Settings) -> Model:
    """Everything follows from the shapes."""
    levels, _ = weights.shape("sample_level_mlp.embedding.weight", 2)
    (dim,) = weights.shape("frame_level_rnns.0.input_expand.bias", 1)
    tiers = weights.count(r"frame_level_rnns\.(\d+)\.input_expand\.bias")
    ratios = [weights.shape(f"frame_level_rnns.{tier}.upsampling.bias", 2)[1] for tier in range(tiers)]
    frames = tuple(int(frame) for frame in np.cumprod(ratios)[::-1])
    layers = weights.count(r"frame_level_rnns\.0\.rnn\.weight_ih_l(\d+)")
    h0 = [weights.take(f"frame_level_rnns.{tier}.h0", layers, dim) for tier in range(tiers)][::-1]
    spec = SampleRnnSpec(
        frames=frames,
        dim=dim,
        rnn_layers=layers,
        levels=levels,
        cell="gru-torch",
        embedding=levels,
        learned_h0=any(array.any() for array in h0),
        hidden=1,
        relu_after_sum=True,
    )
    tensors: dict[str, Floats] = {}
    for tier in range(tiers):
        tensors |= _tier(weights, spec, tier, f"frame_level_rnns.{tiers - 1 - tier}")
        if spec.learned_h0:
            tensors[f"tier{tier}.h0"] = h0[tier]
    return spec, tensors | _perceptron(weights, spec)


def _tier(weights: Weights, spec: SampleRnnSpec, tier: int, name: str) -> dict[str, Floats]:
    dim, slots, ours = spec.dim, spec.slots[tier], f"tier{tier}"
    expand = torch_weight(weights, f"{name}.input_expand", dim, spec.frames[tier], 1)
    upsample = torch_weight(weights, f"{name}.upsampling.conv_t", dim, dim, slots)  # (in, out, k)
    tensors = {
        f"{ours}.expand_weight": expand[:, :, 0].T,
        f"{ours}.expand_bias": weights.take(f"{name}.input_expand.bias", dim),
        f"{ours}.upsample_weight": upsample.transpose(2, 0, 1),
        f"{ours}.upsample_bias": weights.take(f"{name}.upsampling.bias", dim, slots).T,
    }
    for layer in range(spec.rnn_layers):
        for part, kind in (("input", "ih"), ("recurrent", "hh")):
            weight = weights.take(f"{name}.rnn.weight_{kind}_l{layer}", 3 * dim, dim)
            tensors[f"{ours}.rnn{layer}.{part}_weight"] = weight.T
        tensors[f"{ours}.rnn{layer}.bias"] = weights.take(f"{name}.rnn.bias_ih_l{layer}", 3 * dim)
        tensors[f"{ours}.rnn{layer}.recurrent_bias"] = weights.take(f"{name}.rnn.bias_hh_l{layer}", 3 * dim)
    return tensors


def _perceptron(weights: Weights, spec: SampleRnnSpec) -> dict[str, Floats]:
    dim, levels, name = spec.dim, spec.levels, "sample_level_mlp"
    first = torch_weight(weights, f"{name}.input", dim, levels, spec.frames[-1])
    hidden = torch_weight(weights, f"{name}.hidden", dim, dim, 1)
    output = torch_weight(weights, f"{name}.output", levels, dim, 1)
    return {
        "embedding": weights.take(f"{name}.embedding.weight", levels, levels),
        "input_weight": first.transpose(2, 1, 0),
        "hidden_weight": hidden[None, :, :, 0].transpose(0, 2, 1),
        "hidden_bias": weights.take(f"{name}.hidden.bias", dim)[None],
        "output_weight": output[:, :, 0].T,
        "output_bias": weights.take(f"{name}.output.bias", levels),
    }


DEEPSOUND = Family(
    name="deepsound",
    title="deepsound's samplernn-pytorch",
    home="deepsound-project/samplernn-pytorch",
    marks=("sample_level_mlp.embedding.weight", "frame_level_rnns.0.input_expand.bias"),
    convert=convert,
    quantisers=("linear-deepsound",),
    rate=16_000,
)
