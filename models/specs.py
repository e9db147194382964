"""What a model is: frozen descriptions that say every dialect of WaveNet and SampleRNN exactly.

A spec fixes the shape of every weight (`tensors`), so that the torch modules, the compiled steppers and the
checkpoint reader agree without knowing each other. Matrices are stored (in, out) and applied to row vectors,
``y = x @ W + b``.

Letters: Q levels (codes run 0..Q-1), R residual width, D gate width (WaveNet) or dim (SampleRNN), S skip
width, A output width, E embedding width, C conditioning width, V features of the predictor, L layers, K
kernel, F frame size in samples.
"""

from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from streamer.models.errors import SpecError

Shapes: TypeAlias = "dict[str, tuple[int, ...]]"

MAX_WIDTH = 8192
MAX_LEVELS = 65536
MAX_PARAMETERS = 2**30
MAX_LAYERS = 256
"""Dilated layers of a WaveNet."""
MAX_RNN_LAYERS = 11
"""As many as Dadabots' fork of SampleRNN trains."""
MAX_QUEUED = 2**28
"""Numbers that a WaveNet's layers may remember between samples: few weights can ask for any amount of
memory."""
MAX_CYCLE = 2.0**31
MAX_HARMONICS = 1024


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


def _require_int(name: str, value: object, low: int, high: int) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _require(ok, f"{name} is {value!r}: it must be a whole number from {low} to {high}")


def _require_bool(name: str, value: object) -> None:
    _require(isinstance(value, bool), f"{name} is {value!r}: it must be true or false")


def _require_scale(name: str, value: object) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1
    _require(ok, f"{name} is {value!r}: it must be a number above 0, at most 1")


def _require_number(name: str, value: object, low: float, high: float) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    _require(ok, f"{name} is {value!r}: it must be a number from {low:g} to {high:g}")


def _require_part(name: str, value: object, kind: type) -> None:
    ok = value is None or isinstance(value, kind)
    _require(ok, f"{name} is {value!r}: it must be a {kind.__name__}, or None")


def _require_choice(name: str, value: object, choices: object) -> None:
    allowed = get_args(choices)
    _require(value in allowed, f"{name} is {value!r}: it must be one of {', '.join(allowed)}")


FEATURES = 16
"""V: numbers that a network is told of what its predictor says, and of how well that has done."""
ADJUSTMENTS = 2
"""Outputs by which a network corrects its predictor: where the next sample is, and how surely."""


@dataclass(frozen=True)
class PredictorSpec:
    """A linear predictor fitted anew, every few samples, to the decoded samples before.

    Backward adaptation as in G.728 (Chen et al. 1992): nothing of it is learned, and a network has only to
    learn what it leaves, as LPCNet does (Valin and Skoglund 2019). It says how probable each code is, by a
    logistic around its prediction (`streamer.models.predictor`), and the network's logits are added to that.
    """

    order: int = 64
    """Samples that a prediction is made of."""
    window: int = 1024
    """Samples that it is fitted to."""
    hop: int = 128
    """Samples from one fit to the next."""
    correction: float = 1e-4
    """White noise, as a part of the power, that is added before the fit: it bounds what can be predicted."""
    expansion: float = 1.0
    """The k-th coefficient is multiplied by its k-th power: below 1, resonances ring shorter."""
    floor: float = 1e-4
    """Least scale of the logistic, of full scale, where the network does not say otherwise."""

    def __post_init__(self) -> None:
        """Check every field; raise `SpecError` naming the first that cannot be built."""
        _require_int("the predictor's order", self.order, 1, 256)
        _require_int("the predictor's window", self.window, self.order + 1, 8192)
        _require_int("the predictor's hop", self.hop, 8, 8192)
        _require_number("the predictor's correction", self.correction, 1e-9, 1.0)
        _require_number("the predictor's expansion", self.expansion, 0.5, 1.0)
        _require_number("the predictor's floor", self.floor, 1e-6, 1.0)


@dataclass(frozen=True)
class ClockSpec:
    """A clock that a network hears: where it is in a cycle, such as four bars of a song that keeps its tempo.

    Rhythm lasts longer than a small network remembers. It is told the time by sine and cosine of the cycle
    and of its harmonics, as a Transformer is (Vaswani et al. 2017); the first sample of all begins a cycle.
    """

    cycle: float
    """Samples, which need not be whole."""
    harmonics: int
    """H: the highest divides the cycle into so many parts. 32 for each bar tell half a semiquaver from the
    other."""

    def __post_init__(self) -> None:
        """Check every field; raise `SpecError` naming the first that cannot be built."""
        _require_number("the clock's cycle", self.cycle, 1, MAX_CYCLE)
        _require_int("the clock's harmonics", self.harmonics, 1, MAX_HARMONICS)


@dataclass(frozen=True)
class WaveNetSpec:
    """A stack of gated dilated causal convolutions over codes (van den Oord et al. 2016).

    ``h = input(codes)``; for each layer ``z = tanh(f) * sigmoid(g)`` with ``[f, g]`` a convolution of ``h``
    at the layer's dilation, ``h = (h + z @ residual) * residual_scale``; then ``relu(skip_scale * sum(z @
    skip)) @ output1``, ReLU, ``@ output2`` gives the logits of the next code. The last layer has no residual
    product: nothing would read it. Every input that lies before the first sample is a zero vector.
    """

    architecture: ClassVar[str] = "wavenet"
    cycle: ClassVar[None] = None

    dilations: tuple[int, ...]
    residual: int
    gate: int
    skip: int
    output: int
    levels: int = 256
    kernel: int = 2
    input_kernel: int = 1
    """Taps of the causal convolution over codes: 1 (nv-wavenet, r9y9, vincentherrmann) or more (ibab: 2)."""
    embedding: int = 0
    """Width of a learned embedding before the input convolution; 0 feeds one-hot vectors."""
    input_bias: bool = False
    gate_bias: bool = True
    residual_bias: bool = True
    skip_bias: bool = True
    output_bias: bool = True
    output2_bias: bool = True
    residual_scale: float = 1.0
    """r9y9 and DeepVoice: sqrt(1/2)."""
    skip_scale: float = 1.0
    """r9y9: sqrt(1/L)."""
    condition: int = 0
    """Width C of a global conditioning vector, added to every layer's gates; 0 is none."""
    condition_ids: int = 0
    """How many ids choose the conditioning vector from a table (ibab's gc_cardinality); 0 takes the vector
    itself."""
    predictor: PredictorSpec | None = None
    """What it says is added to the input convolution, and its distribution to the logits."""

    def __post_init__(self) -> None:
        """Check every field; raise `SpecError` naming the first that cannot be built."""
        _require(isinstance(self.dilations, tuple), "dilations must be a tuple of whole numbers")
        _require_int("the number of layers", len(self.dilations), 1, MAX_LAYERS)
        for dilation in self.dilations:
            _require_int("a dilation", dilation, 1, 65536)
        for name in ("residual", "gate", "skip", "output"):
            _require_int(name, getattr(self, name), 1, MAX_WIDTH)
        _require_int("levels", self.levels, 2, MAX_LEVELS)
        _require_int("kernel", self.kernel, 2, 3)
        _require_int("input_kernel", self.input_kernel, 1, 64)
        for name in ("embedding", "condition"):
            _require_int(name, getattr(self, name), 0, MAX_WIDTH)
        _require_int("condition_ids", self.condition_ids, 0, MAX_LEVELS)
        _require(
            self.condition > 0 or self.condition_ids == 0, "condition_ids needs a condition width above 0"
        )
        for name in ("input_bias", "gate_bias", "residual_bias", "skip_bias", "output_bias", "output2_bias"):
            _require_bool(name, getattr(self, name))
        _require_part("predictor", self.predictor, PredictorSpec)
        _require_scale("residual_scale", self.residual_scale)
        _require_scale("skip_scale", self.skip_scale)
        queued = self.receptive_field * self.residual
        _require(
            queued <= MAX_QUEUED,
            f"dilations and residual ask for queues of {queued}: at most {MAX_QUEUED} numbers",
        )
        _require(
            self.parameters <= MAX_PARAMETERS,
            f"{self.parameters} weights: at most {MAX_PARAMETERS} can be loaded",
        )

    @property
    def layers(self) -> int:
        """Number of dilated layers, L."""
        return len(self.dilations)

    @property
    def receptive_field(self) -> int:
        """Samples that the logits can see, the newest included."""
        return (self.kernel - 1) * sum(self.dilations) + self.input_kernel

    @property
    def outputs(self) -> int:
        """Numbers that come out last: a logit for each code and, behind them, what adjusts a predictor."""
        return self.levels + (ADJUSTMENTS if self.predictor else 0)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(shape) for shape in self.tensors().values())

    def tensors(self) -> Shapes:
        """Name and shape of every weight, by the signal's path; taps run from the oldest."""
        layers, two_gates = self.layers, 2 * self.gate
        shapes: Shapes = {}
        if self.embedding:
            shapes["embedding"] = (self.levels, self.embedding)
        shapes["input_weight"] = (self.input_kernel, self.embedding or self.levels, self.residual)
        if self.input_bias:
            shapes["input_bias"] = (self.residual,)
        if self.predictor:
            shapes["forecast_weight"] = (FEATURES, self.residual)
        shapes["gate_weight"] = (layers, self.kernel * self.residual, two_gates)
        if self.gate_bias:
            shapes["gate_bias"] = (layers, two_gates)
        if self.condition_ids:
            shapes["condition_embedding"] = (self.condition_ids, self.condition)
        if self.condition:
            shapes["condition_weight"] = (layers, self.condition, two_gates)
        shapes["residual_weight"] = (layers - 1, self.gate, self.residual)
        if self.residual_bias:
            shapes["residual_bias"] = (layers - 1, self.residual)
        shapes["skip_weight"] = (layers * self.gate, self.skip)
        if self.skip_bias:
            shapes["skip_bias"] = (self.skip,)
        shapes["output1_weight"] = (self.skip, self.output)
        if self.output_bias:
            shapes["output1_bias"] = (self.output,)
        shapes["output2_weight"] = (self.output, self.outputs)
        if self.output2_bias:
            shapes["output2_bias"] = (self.outputs,)
        return shapes


Cell: TypeAlias = Literal["gru-theano", "gru-keras", "gru-torch", "lstm-theano", "lstm-keras"]
SkipScheme: TypeAlias = Literal["none", "prism", "mehri"]
UpsampleBias: TypeAlias = Literal["none", "one", "slot"]

GATES: dict[str, str] = {
    "gru-theano": "zrn",
    "gru-keras": "zrn",
    "gru-torch": "rzn",
    "lstm-theano": "ifog",
    "lstm-keras": "ifgo",
}
"""Order of each cell's gates along the last axis: z update, r reset, n candidate; i input, f forget, o
output, g cell."""


@dataclass(frozen=True)
class SampleRnnSpec:
    """Recurrent tiers of frames over a sample-level perceptron (Mehri et al. 2017).

    Tier 0 is the slowest. A tier of frame size F runs once every F samples on the F codes just before,
    scaled to ``2 * (code / (Q / 2) - 1)``, projected to D and added to the slot that the tier above
    upsampled for this frame; its RNN's output is upsampled into one slot for each frame of the tier below,
    or for each sample. The perceptron sums ``embedding[code] @ input_weight[p]`` over the last F codes of
    the fastest tier with its slot, and gives the logits. Samples before the first have the code ``Q // 2``.
    """

    architecture: ClassVar[str] = "samplernn"

    frames: tuple[int, ...]
    """Samples a frame of each recurrent tier, slowest first, each a multiple of the next: PRiSM's default is
    (64, 16)."""
    dim: int
    rnn_layers: int
    levels: int = 256
    cell: Cell = "gru-torch"
    embedding: int = 256
    skips: SkipScheme = "none"
    """prism: layer 0 sees its input twice; mehri: layers above the first see the tier's input too. Both sum
    all layers."""
    learned_h0: bool = False
    expand_top: bool = True
    """Whether the slowest tier projects its frame to D (PRiSM, deepsound) or feeds it to the RNN as it is
    (Mehri)."""
    upsample_bias: UpsampleBias = "slot"
    hidden: int = 2
    """Hidden layers of the perceptron after the sum: 2 (PRiSM, Mehri) or 1 (deepsound)."""
    relu_after_sum: bool = False
    """deepsound applies a ReLU to the sum; the others go straight into the first hidden layer."""
    predictor: PredictorSpec | None = None
    """What it says is added to the perceptron's sum, and its distribution to the logits."""
    clock: ClockSpec | None = None
    """What it tells is added to the slowest tier's projected frame."""

    def __post_init__(self) -> None:
        """Check every field; raise `SpecError` naming the first that cannot be built."""
        _require(isinstance(self.frames, tuple), "frames must be a tuple of whole numbers")
        _require_int("the number of recurrent tiers", len(self.frames), 1, 3)
        for frame in self.frames:
            _require_int("a frame size", frame, 1, 4096)
        for above, below in zip(self.frames, self.frames[1:], strict=False):
            _require(
                above % below == 0 and above > below,
                f"frames {self.frames}: each must be a multiple of the next",
            )
        _require_int("dim", self.dim, 1, MAX_WIDTH)
        _require_int("rnn_layers", self.rnn_layers, 1, MAX_RNN_LAYERS)
        _require_int("levels", self.levels, 2, MAX_LEVELS)
        _require_int("embedding", self.embedding, 1, MAX_WIDTH)
        _require_int("hidden", self.hidden, 1, 2)
        _require_choice("cell", self.cell, Cell)
        _require_choice("skips", self.skips, SkipScheme)
        _require_choice("upsample_bias", self.upsample_bias, UpsampleBias)
        for name in ("learned_h0", "expand_top", "relu_after_sum"):
            _require_bool(name, getattr(self, name))
        _require_part("predictor", self.predictor, PredictorSpec)
        _require_part("clock", self.clock, ClockSpec)
        _require(
            self.clock is None or self.expand_top,
            "a clock is added to the slowest tier's projected frame: expand_top must be true",
        )
        _require(
            self.parameters <= MAX_PARAMETERS,
            f"{self.parameters} weights: at most {MAX_PARAMETERS} can be loaded",
        )

    @property
    def cycle(self) -> float | None:
        """Samples of its clock's cycle, if it has one."""
        return self.clock.cycle if self.clock else None

    @property
    def tiers(self) -> int:
        """Number of recurrent tiers; the papers count the perceptron as one more."""
        return len(self.frames)

    @property
    def gates(self) -> int:
        """Gates of the cell: 3 in a GRU, 4 in an LSTM."""
        return len(GATES[self.cell])

    @property
    def state_width(self) -> int:
        """Numbers of one layer's state: D for a GRU, 2 D for an LSTM (h, then c)."""
        return self.dim * (2 if self.cell.startswith("lstm") else 1)

    @property
    def slots(self) -> tuple[int, ...]:
        """Upsampling ratio of each tier: frames of the tier below, or samples, in one of its frames."""
        return tuple(a // b for a, b in zip(self.frames, (*self.frames[1:], 1), strict=True))

    @property
    def receptive_field(self) -> int:
        """Codes that the tiers look at directly; the recurrent state remembers beyond."""
        return self.frames[0]

    @property
    def outputs(self) -> int:
        """Numbers that come out last: a logit for each code and, behind them, what adjusts a predictor."""
        return self.levels + (ADJUSTMENTS if self.predictor else 0)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(shape) for shape in self.tensors().values())

    def expands(self, tier: int) -> bool:
        """Whether this tier projects its frame to D before its RNN."""
        return tier > 0 or self.expand_top

    def layer_input(self, tier: int, layer: int) -> int:
        """Width of the input of one RNN layer, after the skip scheme's concatenations."""
        first = self.dim if self.expands(tier) else self.frames[tier]
        if layer == 0:
            return 2 * first if self.skips == "prism" else first
        return self.dim + first if self.skips == "mehri" else self.dim

    def _rnn_tensors(self, tier: int) -> Shapes:
        shapes: Shapes = {}
        width = self.gates * self.dim
        for layer in range(self.rnn_layers):
            name = f"tier{tier}.rnn{layer}"
            shapes[f"{name}.input_weight"] = (self.layer_input(tier, layer), width)
            shapes[f"{name}.recurrent_weight"] = (self.dim, width)
            shapes[f"{name}.bias"] = (width,)
            if self.cell in ("gru-keras", "gru-torch"):
                shapes[f"{name}.recurrent_bias"] = (width,)
        return shapes

    def _tier_tensors(self, tier: int) -> Shapes:
        shapes: Shapes = {}
        if self.expands(tier):
            shapes[f"tier{tier}.expand_weight"] = (self.frames[tier], self.dim)
            shapes[f"tier{tier}.expand_bias"] = (self.dim,)
        if tier == 0 and self.clock:
            shapes["clock_weight"] = (2 * self.clock.harmonics, self.dim)
        shapes |= self._rnn_tensors(tier)
        if self.learned_h0:
            shapes[f"tier{tier}.h0"] = (self.rnn_layers, self.state_width)
        if self.skips != "none":
            shapes[f"tier{tier}.skip_weight"] = (self.rnn_layers, self.dim, self.dim)
            shapes[f"tier{tier}.skip_bias"] = (self.dim,)
        shapes[f"tier{tier}.upsample_weight"] = (self.slots[tier], self.dim, self.dim)
        if self.upsample_bias != "none":
            slots = (self.slots[tier],) if self.upsample_bias == "slot" else ()
            shapes[f"tier{tier}.upsample_bias"] = (*slots, self.dim)
        return shapes

    def tensors(self) -> Shapes:
        """Name and shape of every weight, slowest tier first; frames run from the oldest code."""
        shapes: Shapes = {}
        for tier in range(self.tiers):
            shapes |= self._tier_tensors(tier)
        shapes["embedding"] = (self.levels, self.embedding)
        shapes["input_weight"] = (self.frames[-1], self.embedding, self.dim)
        if self.predictor:
            shapes["forecast_weight"] = (FEATURES, self.dim)
        shapes["hidden_weight"] = (self.hidden, self.dim, self.dim)
        shapes["hidden_bias"] = (self.hidden, self.dim)
        shapes["output_weight"] = (self.dim, self.outputs)
        shapes["output_bias"] = (self.outputs,)
        return shapes


Spec: TypeAlias = "WaveNetSpec | SampleRnnSpec"

ARCHITECTURES: dict[str, type[WaveNetSpec] | type[SampleRnnSpec]] = {
    WaveNetSpec.architecture: WaveNetSpec,
    SampleRnnSpec.architecture: SampleRnnSpec,
}


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """Return the spec as plain JSON values, its architecture included."""
    return {"architecture": spec.architecture, **asdict(spec)}


def spec_from_json(data: object) -> Spec:
    """Read what `spec_to_json` wrote; raise `SpecError` on anything foreign or missing."""
    _require(isinstance(data, dict), "the spec is not a JSON object")
    values = dict(data)  # type: ignore[call-overload]
    if values.get("side") == 0:  # of an input that nothing could compute: all files have it that are older
        del values["side"]
    architecture = values.pop("architecture", None)
    known = isinstance(architecture, str) and architecture in ARCHITECTURES
    _require(known, f"architecture {architecture!r} is unknown: it must be wavenet or samplernn")
    kind = ARCHITECTURES[architecture]
    foreign = sorted(set(values) - {field.name for field in fields(kind)})
    _require(not foreign, f"the spec has unknown fields: {', '.join(map(repr, foreign))}")
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    try:
        for name, part in _PARTS.items():
            if values.get(name) is not None:
                values[name] = _part_from_json(name, part, values[name])
        return kind(**values | lists)
    except TypeError as error:
        raise SpecError(f"the spec is incomplete: {error}") from None


_PARTS: dict[str, type[PredictorSpec] | type[ClockSpec]] = {"predictor": PredictorSpec, "clock": ClockSpec}
"""Fields of a spec that are specs themselves."""


def _part_from_json(name: str, kind: type[PredictorSpec] | type[ClockSpec], data: object) -> Any:
    _require(isinstance(data, dict), f"{name} is {data!r}: it must be a JSON object, or null")
    assert isinstance(data, dict)
    foreign = sorted(set(data) - {field.name for field in fields(kind)})
    _require(not foreign, f"the {name} has unknown fields: {', '.join(map(repr, foreign))}")
    return kind(**data)
