"""keskival's wavenet_synth (TensorFlow 1, its V1 format): ibab's network with one input tap and no biases."""

from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Settings
from streamer.models.importing.wavenets import Layer, gated, leave_last_residual, stack
from streamer.models.importing.weights import Weights
from streamer.models.specs import WaveNetSpec


def convert(weights: Weights, settings: Settings) -> Model:
    """The dilations are in its source alone; everything else follows from the shapes."""
    _, levels, residual = weights.shape("dense_w", 3)
    kernel, _, gate = weights.shape("layer_0/w1", 3)
    _, skip, output = weights.shape("co1", 3)
    spec = WaveNetSpec(
        dilations=settings.dilations,
        residual=residual,
        gate=gate,
        skip=skip,
        output=output,
        levels=levels,
        kernel=kernel,
        gate_bias=False,
        residual_bias=False,
        skip_bias=False,
        output_bias=False,
        output2_bias=False,
    )
    tensors = stack(spec, [_take_layer(weights, spec, layer) for layer in range(spec.layers)])
    leave_last_residual(weights, f"layer_{spec.layers - 1}/cw")
    return spec, tensors | {
        "input_weight": weights.take("dense_w", 1, levels, residual),
        "output1_weight": weights.take("co1", 1, skip, output)[0],
        "output2_weight": weights.take("co2", 1, output, levels)[0],
    }


def _take_layer(weights: Weights, spec: WaveNetSpec, number: int) -> Layer:
    name, taps = f"layer_{number}", (spec.kernel, spec.residual, spec.gate)
    layer = {
        "gate_weight": gated(weights.take(f"{name}/w1", *taps), weights.take(f"{name}/w2", *taps)),
        "skip_weight": weights.take(f"{name}/co_skip", 1, spec.gate, spec.skip)[0],
    }
    if number < spec.layers - 1:
        layer["residual_weight"] = weights.take(f"{name}/cw", 1, spec.gate, spec.residual)[0]
    return layer


KESKIVAL = Family(
    name="keskival",
    title="wavenet_synth",
    home="keskival/wavenet_synth",
    marks=("dense_w", "layer_0/w1", "layer_0/co_skip", "co1", "co2"),
    convert=convert,
    quantisers=("mulaw",),
    rate=48_000,
    layer=r"layer_(\d+)/w1",
    block=10,
)
