"""r9y9's wavenet_vocoder, unconditioned, one-hot in and softmax out: residuals and skips are scaled."""

from math import sqrt

from streamer.models.errors import CheckpointError
from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Options, Said, Settings, doubling
from streamer.models.importing.wavenets import Layer, leave_last_residual, stack, torch_conv
from streamer.models.importing.weights import Shape, Weights
from streamer.models.specs import WaveNetSpec

_PREEMPHASIS = 0.85  # written in its audio.py


def convert(weights: Weights, settings: Settings) -> Model:
    """But for the dilations, everything follows from the shapes."""
    _refuse_others(weights)
    (residual,) = weights.shape("first_conv.bias", 1)
    if _convolution(weights, "first_conv")[1] == 1:
        raise CheckpointError(
            "wavenet_vocoder's option input_type is raw or mulaw: only mulaw-quantize can be imported"
        )
    (levels,) = weights.shape("last_conv_layers.3.bias", 1)
    (skip,) = weights.shape("conv_layers.0.conv1x1_skip.bias", 1)
    (gates,) = weights.shape("conv_layers.0.conv.bias", 1)
    spec = WaveNetSpec(
        dilations=settings.dilations,
        residual=residual,
        gate=gates // 2,
        skip=skip,
        output=skip,
        levels=levels,
        kernel=_convolution(weights, "conv_layers.0.conv")[2],
        input_bias=True,
        residual_scale=sqrt(0.5),
        skip_scale=sqrt(1 / len(settings.dilations)),
    )
    tensors = stack(spec, [_take_layer(weights, spec, layer) for layer in range(spec.layers)])
    leave_last_residual(weights, rf"conv_layers\.{spec.layers - 1}\.conv1x1_out\..*")
    return spec, tensors | {
        "input_weight": torch_conv(weights, "first_conv", residual, levels)[None],
        "input_bias": weights.take("first_conv.bias", residual),
        "output1_weight": torch_conv(weights, "last_conv_layers.1", skip, skip),
        "output1_bias": weights.take("last_conv_layers.1.bias", skip),
        "output2_weight": torch_conv(weights, "last_conv_layers.3", levels, skip),
        "output2_bias": weights.take("last_conv_layers.3.bias", levels),
    }


def _refuse_others(weights: Weights) -> None:
    for mark, option in (
        ("conv_layers.0.conv1x1c", "cin_channels (local conditioning)"),
        ("conv_layers.0.conv1x1g", "gin_channels (global conditioning)"),
    ):
        if any(f"{mark}.{part}" in weights for part in ("weight", "weight_v")):
            raise CheckpointError(f"wavenet_vocoder's option {option} is on: it cannot be imported")


def _convolution(weights: Weights, name: str) -> Shape:
    """The shape (out, in, taps) of a convolution, weight-normalised or not."""
    return weights.shape(f"{name}.weight_v" if f"{name}.weight_v" in weights else f"{name}.weight", 3)


def _take_layer(weights: Weights, spec: WaveNetSpec, number: int) -> Layer:
    name, gates = f"conv_layers.{number}", 2 * spec.gate
    gate = torch_conv(weights, f"{name}.conv", gates, spec.residual, spec.kernel)
    layer = {
        "gate_weight": gate.reshape(-1, gates),
        "gate_bias": weights.take(f"{name}.conv.bias", gates),
        "skip_weight": torch_conv(weights, f"{name}.conv1x1_skip", spec.skip, spec.gate),
        "skip_bias": weights.take(f"{name}.conv1x1_skip.bias", spec.skip),
    }
    if number < spec.layers - 1:
        layer["residual_weight"] = torch_conv(weights, f"{name}.conv1x1_out", spec.residual, spec.gate)
        layer["residual_bias"] = weights.take(f"{name}.conv1x1_out.bias", spec.residual)
    return layer


def said(options: Options, layers: int) -> Said:
    """Its hparams.json."""
    options.at_most("cin_channels", 0)
    options.at_most("gin_channels", 0)
    options.choice("legacy", {False: False})  # older versions scaled the sum of skips layer by layer
    stacks, gain = options.whole("stacks"), options.get("global_gain_scale")
    if stacks and layers % stacks:
        raise CheckpointError(f"wavenet_vocoder's option stacks is {stacks}: it must divide {layers} layers")
    return Said(
        rate=options.whole("sample_rate"),
        quantiser=options.choice("input_type", {"mulaw-quantize": "mulaw-floor"}),
        preemphasis=options.choice("preprocess", {"": 0.0, "none": 0.0, "preemphasis": _PREEMPHASIS}) or 0.0,
        scale=float(gain) if isinstance(gain, (int, float)) and gain > 0 else 1.0,
        dilations=doubling(layers, layers // stacks) if stacks else None,
        expected={
            "layers": ("layers", options.whole("layers")),
            "residual_channels": ("residual", options.whole("residual_channels")),
            "skip_out_channels": ("skip", options.whole("skip_out_channels")),
            "kernel_size": ("kernel", options.whole("kernel_size")),
            "out_channels": ("levels", options.whole("out_channels")),
        },
    )


R9Y9 = Family(
    name="r9y9",
    title="wavenet_vocoder",
    home="r9y9/wavenet_vocoder",
    marks=("first_conv.bias", "conv_layers.0.conv1x1_skip.bias", "last_conv_layers.3.bias"),
    convert=convert,
    quantisers=("mulaw-floor",),
    rate=22_050,
    layer=r"conv_layers\.(\d+)\.conv\.bias",
    block=6,
    configs=("hparams.json", "*.json"),
    said=said,
)
