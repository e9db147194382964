"""Shapes that other systems' models and a preset have, and random weights for them: speed needs no more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec

_DILATIONS = tuple(2**i for i in range(10))


def _prism(dim: int) -> SampleRnnSpec:
    return SampleRnnSpec(
        frames=(64, 16), dim=dim, rnn_layers=4, cell="gru-keras", embedding=256, upsample_bias="none"
    )


SHAPES: dict[str, Spec] = {
    "wavenet-nv": WaveNetSpec(_DILATIONS * 2, residual=64, gate=64, skip=256, output=256),
    "wavenet-ibab": WaveNetSpec(_DILATIONS * 5, residual=32, gate=32, skip=512, output=512, input_kernel=2),
    "samplernn-laptop-16k": SampleRnnSpec(frames=(256, 64, 8), dim=256, rnn_layers=1, embedding=64),
    "samplernn-prism-256": _prism(256),
    "samplernn-prism-512": _prism(512),
    "samplernn-prism-1024": _prism(1024),
    "samplernn-deepsound": SampleRnnSpec(
        frames=(64, 16),
        dim=1024,
        rnn_layers=2,
        cell="gru-torch",
        embedding=256,
        learned_h0=True,
        hidden=1,
        relu_after_sum=True,
    ),
    "samplernn-mehri-2tier": SampleRnnSpec(
        frames=(16,),
        dim=1024,
        rnn_layers=3,
        cell="gru-theano",
        embedding=256,
        learned_h0=True,
        expand_top=False,
    ),
}
"""By name: nv-wavenet's widths at 20 layers; the defaults of ibab/tensorflow-wavenet; PRiSM's default (dim
1024) and two narrower ones; deepsound/samplernn-pytorch's 16 and 4, which multiply to frames of 16 and 64;
the best two-tier model of Mehri et al. 2017."""


SMALL: dict[str, Spec] = {"wavenet-small": WaveNetSpec(_DILATIONS, residual=16, gate=16, skip=32, output=32)}
"""A shape of which sixteen play at once."""


def random_weights(spec: Spec, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights with which activations neither vanish nor grow, and biases that do not drown the codes."""
    rng = np.random.default_rng(seed)
    table = "embedding" if "embedding" in spec.tensors() else "input_weight"
    return {
        name: rng.standard_normal(shape, np.float32)
        * np.float32(1.0 if name == table else _scale(name, shape))
        for name, shape in spec.tensors().items()
    }


def _scale(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation: of a matrix such that outputs vary as inputs do."""
    return 0.1 if name.endswith(("bias", "h0")) else float(shape[-2] ** -0.5)
