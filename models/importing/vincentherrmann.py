"""vincentherrmann's pytorch-wavenet: a 1x1 start convolution; only a pickled module tells the dilations."""

from typing import Any

from streamer.models.errors import CheckpointError
from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Options, Said, Settings
from streamer.models.importing.wavenets import (
    Layer,
    gated,
    leave_last_residual,
    stack,
    torch_conv,
)
from streamer.models.importing.weights import Weights
from streamer.models.specs import WaveNetSpec


def convert(weights: Weights, settings: Settings) -> Model:
    """But for the dilations, everything follows from the shapes."""
    residual, levels, _ = weights.shape("start_conv.weight", 3)
    gate, _, kernel = weights.shape("filter_convs.0.weight", 3)
    output, skip, _ = weights.shape("end_conv_1.weight", 3)
    biased = "filter_convs.0.bias" in weights  # its option bias; the last two convolutions always have one
    spec = WaveNetSpec(
        dilations=settings.dilations,
        residual=residual,
        gate=gate,
        skip=skip,
        output=output,
        levels=levels,
        kernel=kernel,
        input_bias=biased,
        gate_bias=biased,
        residual_bias=biased,
        skip_bias=biased,
    )
    tensors = stack(spec, [_take_layer(weights, spec, layer) for layer in range(spec.layers)])
    tensors |= {
        "input_weight": torch_conv(weights, "start_conv", residual, levels)[None],
        "output1_weight": torch_conv(weights, "end_conv_1", output, skip),
        "output1_bias": weights.take("end_conv_1.bias", output),
        "output2_weight": torch_conv(weights, "end_conv_2", levels, output),
        "output2_bias": weights.take("end_conv_2.bias", levels),
    }
    if biased:
        tensors["input_bias"] = weights.take("start_conv.bias", residual)
    weights.leave(r"dilated_queues\..*", "holds what a generation left behind")
    leave_last_residual(weights, rf"residual_convs\.{spec.layers - 1}\..*")
    return spec, tensors


def _take_layer(weights: Weights, spec: WaveNetSpec, number: int) -> Layer:
    shape, last = (spec.gate, spec.residual, spec.kernel), number == spec.layers - 1
    names = f"filter_convs.{number}", f"gate_convs.{number}"
    residual, skip = f"residual_convs.{number}", f"skip_convs.{number}"
    layer = {
        "gate_weight": gated(*(torch_conv(weights, name, *shape) for name in names)),
        "skip_weight": torch_conv(weights, skip, spec.skip, spec.gate),
    }
    if not last:
        layer["residual_weight"] = torch_conv(weights, residual, spec.residual, spec.gate)
    if spec.gate_bias:
        layer["gate_bias"] = gated(*(weights.take(f"{name}.bias", spec.gate) for name in names))
        layer["skip_bias"] = weights.take(f"{skip}.bias", spec.skip)
        if not last:
            layer["residual_bias"] = weights.take(f"{residual}.bias", spec.residual)
    return layer


def said(options: Options, layers: int) -> Said:
    """The pickled module's own attributes: of each layer its dilation, and the one before it."""
    pairs = options.get("dilations")
    if pairs is None:
        return Said()
    ok = isinstance(pairs, (list, tuple)) and len(pairs) == layers and all(map(_is_pair, pairs))
    if not ok:
        raise CheckpointError(f"pytorch-wavenet's dilations are {str(pairs)[:60]}: not a pair for each layer")
    return Said(dilations=tuple(pair[0] for pair in pairs))


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int for v in value)


VINCENTHERRMANN = Family(
    name="vincentherrmann",
    title="pytorch-wavenet",
    home="vincentherrmann/pytorch-wavenet",
    marks=("start_conv.weight", "filter_convs.0.weight", "end_conv_1.weight"),
    convert=convert,
    quantisers=("mulaw-vincent",),
    rate=16_000,
    layer=r"filter_convs\.(\d+)\.weight",
    block=10,
    said=said,
)
