"""nv-wavenet's PyTorch model: no biases at the output, and always conditioned, by a vector for each sample.

Our WaveNet holds one vector for all samples: what the trained upsampling would give for steady features.
"""

import numpy as np

from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Options, Said, Settings, doubling
from streamer.models.importing.wavenets import Layer, stack, torch_conv
from streamer.models.importing.weights import Floats, Weights
from streamer.models.specs import WaveNetSpec


def convert(weights: Weights, settings: Settings) -> Model:
    """But for the dilations, everything follows from the shapes."""
    levels, residual = weights.shape("embed.weight", 2)
    output, skip, _ = weights.shape("conv_out.conv.weight", 3)
    _, condition, _ = weights.shape("cond_layers.conv.weight", 3)
    spec = WaveNetSpec(
        dilations=settings.dilations,
        residual=residual,
        gate=residual,
        skip=skip,
        output=output,
        levels=levels,
        output_bias=False,
        output2_bias=False,
        condition=condition,
    )
    columns = spec.layers * 2 * residual
    conditions = torch_conv(weights, "cond_layers.conv", columns, condition)
    biases = weights.take("cond_layers.conv.bias", columns).reshape(spec.layers, -1)
    layers = [_take_layer(weights, spec, layer) for layer in range(spec.layers)]
    for layer, condition_weight, bias in zip(
        layers, np.split(conditions, spec.layers, axis=1), biases, strict=True
    ):
        layer["condition_weight"] = condition_weight
        layer["gate_bias"] = layer["gate_bias"] + bias
    weights.leave(r"upsample\..*", "spreads features over samples; a vector that is held needs none")
    return spec, stack(spec, layers) | {
        "input_weight": weights.take("embed.weight", levels, residual)[None],
        "output1_weight": torch_conv(weights, "conv_out.conv", output, skip),
        "output2_weight": torch_conv(weights, "conv_end.conv", levels, output),
    }


def _take_layer(weights: Weights, spec: WaveNetSpec, number: int) -> Layer:
    width, residual = spec.residual, f"res_layers.{number}.conv"
    gate, skip = f"dilate_layers.{number}.conv", f"skip_layers.{number}.conv"
    weight: Floats = torch_conv(weights, gate, 2 * width, width, spec.kernel)
    layer = {
        "gate_weight": weight.reshape(-1, 2 * width),
        "gate_bias": weights.take(f"{gate}.bias", 2 * width),
        "skip_weight": torch_conv(weights, skip, spec.skip, width),
        "skip_bias": weights.take(f"{skip}.bias", spec.skip),
    }
    if number < spec.layers - 1:
        layer["residual_weight"] = torch_conv(weights, residual, width, width)
        layer["residual_bias"] = weights.take(f"{residual}.bias", width)
    return layer


def said(options: Options, layers: int) -> Said:
    """The pickled module's attributes, and its config.json."""
    most = options.whole("max_dilation")
    return Said(
        rate=options.whole("sampling_rate"),
        dilations=None if most is None else doubling(layers, most.bit_length()),
        expected={
            "n_layers": ("layers", options.whole("n_layers")),
            "n_residual_channels": ("residual", options.whole("n_residual_channels")),
            "n_skip_channels": ("skip", options.whole("n_skip_channels")),
            "n_out_channels": ("output", options.whole("n_out_channels")),
            "mu_quantization": ("levels", options.whole("mu_quantization")),
        },
    )


NV_WAVENET = Family(
    name="nv-wavenet",
    title="nv-wavenet",
    home="NVIDIA/nv-wavenet",
    marks=("embed.weight", "cond_layers.conv.weight", "dilate_layers.0.conv.weight", "conv_end.conv.weight"),
    convert=convert,
    quantisers=("mulaw",),
    rate=16_000,
    layer=r"dilate_layers\.(\d+)\.conv\.weight",
    block=8,
    configs=("config.json",),
    said=said,
)
