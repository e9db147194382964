"""What the WaveNet families have in common: their layers, one by one, become our stacked tensors."""

import numpy as np

from streamer.models.importing.weights import Floats, Weights, torch_weight
from streamer.models.specs import WaveNetSpec

Layer = dict[str, Floats]
"""One layer's tensors under our names, without the axis for layers; the last one has no residual."""

_STACKED = ("gate_weight", "gate_bias", "condition_weight", "residual_weight", "residual_bias", "skip_weight")


def stack(spec: WaveNetSpec, layers: list[Layer]) -> dict[str, Floats]:
    """The tensors of all layers together, as far as the spec has them."""
    shapes = spec.tensors()
    tensors = {
        name: np.asarray([layer[name] for layer in layers if name in layer], np.float32).reshape(shapes[name])
        for name in _STACKED
        if name in shapes
    }
    if spec.skip_bias:
        biases = [layer["skip_bias"] for layer in layers]
        tensors["skip_bias"] = np.asarray(np.sum(biases, 0, dtype=np.float64), np.float32)
    return tensors


def gated(tanh: Floats, sigmoid: Floats) -> Floats:
    """Two convolutions (K, R, D) as one matrix (K R, 2 D); or two biases (D,) as one (2 D,)."""
    both = np.concatenate([tanh, sigmoid], -1)
    return both.reshape(-1, both.shape[-1]) if both.ndim == 3 else both


def torch_conv(weights: Weights, name: str, out: int, into: int, taps: int = 1) -> Floats:
    """A PyTorch convolution (out, in, taps) as (taps, in, out); of one tap as (in, out)."""
    weight = torch_weight(weights, name, out, into, taps).transpose(2, 1, 0)
    return weight[0] if taps == 1 else weight


def leave_last_residual(weights: Weights, pattern: str) -> None:
    """Say of what is left of the last layer, by a pattern of its names, why it plays no part."""
    weights.leave(pattern, "leads on from the last layer, where nothing reads it")
