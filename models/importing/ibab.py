"""ibab's tensorflow-wavenet (TensorFlow 1): two input taps, global conditioning by id or by vector.

Its biases' names got lost: it hands them to `tf.Variable` in the wrong place, so that they are saved as
`Variable`, `Variable_1` and so on, in the order in which they were made.
"""

from collections.abc import Sequence

from streamer.models.errors import CheckpointError
from streamer.models.importing.family import Family, Model
from streamer.models.importing.settings import Options, Said, Settings
from streamer.models.importing.wavenets import Layer, gated, leave_last_residual, stack
from streamer.models.importing.weights import Floats, Weights
from streamer.models.specs import WaveNetSpec

_LAYER_BIASES = ("filter_bias", "gate_bias", "dense_bias", "slip_bias")
_OUTPUT_BIASES = ("postprocess1_bias", "postprocess2_bias")
_POST = "postprocessing"


def convert(weights: Weights, settings: Settings) -> Model:
    """The dilations are in its JSON alone; everything else follows from the shapes."""
    taps, levels, residual = weights.shape("causal_layer/filter", 3)
    kernel, _, gate = weights.shape(f"{_layer(0)}/filter", 3)
    if levels == 1:
        raise CheckpointError("tensorflow-wavenet's option scalar_input is on: it cannot be imported")
    skip = weights.shape(f"{_layer(0)}/skip", 3)[2]
    conditioned, biased = f"{_layer(0)}/gc_gate" in weights, _has_biases(weights)
    ids = weights.shape("embeddings/gc_embedding", 2)[0] if "embeddings/gc_embedding" in weights else 0
    spec = WaveNetSpec(
        dilations=settings.dilations,
        residual=residual,
        gate=gate,
        skip=skip,
        output=skip,
        levels=levels,
        kernel=kernel,
        input_kernel=taps,
        gate_bias=biased,
        residual_bias=biased,
        skip_bias=biased,
        output_bias=biased,
        output2_bias=biased,
        condition=weights.shape(f"{_layer(0)}/gc_gate", 3)[1] if conditioned else 0,
        condition_ids=ids,
    )
    tensors = stack(spec, [_take_layer(weights, spec, layer) for layer in range(spec.layers)])
    tensors |= {"input_weight": weights.take("causal_layer/filter", taps, levels, residual)}
    if ids:
        tensors["condition_embedding"] = weights.take("embeddings/gc_embedding", ids, spec.condition)
    tensors |= _output(weights, spec)
    leave_last_residual(weights, f"{_layer(spec.layers - 1)}/(dense|Variable_2|dense_bias)")
    return spec, tensors


def _layer(number: int) -> str:
    return f"dilated_stack/layer{number}"


def _has_biases(weights: Weights) -> bool:
    return any(name in weights for name in (f"{_layer(0)}/Variable", f"{_layer(0)}/{_LAYER_BIASES[0]}"))


def _bias(weights: Weights, scope: str, names: Sequence[str], number: int, width: int) -> Floats:
    """A bias by its rightful name, which variants of the program give it, or by its number."""
    rightful = f"{scope}/{names[number]}"
    numbered = f"{scope}/Variable" + (f"_{number}" if number else "")
    return weights.take(rightful if rightful in weights else numbered, width)


def _take_layer(weights: Weights, spec: WaveNetSpec, number: int) -> Layer:
    name, last = _layer(number), number == spec.layers - 1
    taps = spec.kernel, spec.residual, spec.gate
    layer = {
        "gate_weight": gated(weights.take(f"{name}/filter", *taps), weights.take(f"{name}/gate", *taps)),
        "skip_weight": weights.take(f"{name}/skip", 1, spec.gate, spec.skip)[0],
    }
    if not last:
        layer["residual_weight"] = weights.take(f"{name}/dense", 1, spec.gate, spec.residual)[0]
    if spec.condition:
        width = 1, spec.condition, spec.gate
        parts = weights.take(f"{name}/gc_filter", *width), weights.take(f"{name}/gc_gate", *width)
        layer["condition_weight"] = gated(*parts)
    if spec.gate_bias:
        widths = spec.gate, spec.gate, spec.residual, spec.skip
        wanted = [n for n in range(4) if n != 2 or not last]
        biases = {n: _bias(weights, name, _LAYER_BIASES, n, widths[n]) for n in wanted}
        layer |= {"gate_bias": gated(biases[0], biases[1]), "skip_bias": biases[3]}
        if not last:
            layer["residual_bias"] = biases[2]
    return layer


def _output(weights: Weights, spec: WaveNetSpec) -> dict[str, Floats]:
    widths = spec.output, spec.levels
    tensors = {
        "output1_weight": weights.take(f"{_POST}/postprocess1", 1, spec.skip, widths[0])[0],
        "output2_weight": weights.take(f"{_POST}/postprocess2", 1, spec.output, widths[1])[0],
    }
    if spec.output_bias:
        for number in range(2):
            bias = _bias(weights, _POST, _OUTPUT_BIASES, number, widths[number])
            tensors[f"output{number + 1}_bias"] = bias
    return tensors


def said(options: Options, layers: int) -> Said:
    """Its wavenet_params.json."""
    options.choice("scalar_input", {False: False})
    filters = options.whole("filter_width")
    return Said(
        rate=options.whole("sample_rate"),
        dilations=options.wholes("dilations"),
        expected={
            "filter_width": ("kernel", filters),
            "residual_channels": ("residual", options.whole("residual_channels")),
            "dilation_channels": ("gate", options.whole("dilation_channels")),
            "skip_channels": ("skip", options.whole("skip_channels")),
            "quantization_channels": ("levels", options.whole("quantization_channels")),
            "use_biases": ("gate_bias", options.choice("use_biases", {True: True, False: False})),
        },
    )


IBAB = Family(
    name="ibab",
    title="tensorflow-wavenet",
    home="ibab/tensorflow-wavenet",
    marks=("causal_layer/filter", "dilated_stack/layer0/filter", "postprocessing/postprocess1"),
    convert=convert,
    quantisers=("mulaw",),
    rate=16_000,
    layer=r"dilated_stack/layer(\d+)/filter",
    block=10,
    configs=("wavenet_params.json",),
    said=said,
)
