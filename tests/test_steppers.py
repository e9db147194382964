"""The compiled steppers against the torch modules, for specs drawn at random from every dialect."""

import gc
import threading
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from dialects import DIALECTS, dialect
from draws import clocks, predictors
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.kernels import dispatch, predictor, simd, stepper
from streamer.kernels.stepper import PRECISIONS, Stepper
from streamer.models import checkpoint
from streamer.models.errors import SpecError, StreamerError
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import (
    Cell,
    PredictorSpec,
    SampleRnnSpec,
    SkipScheme,
    Spec,
    UpsampleBias,
    WaveNetSpec,
)
from streamer.models.wavenet import WaveNet

LENGTH = 48
TOLERANCE = 1e-4
PREDICTOR = PredictorSpec(order=5, window=20, hop=8)

seeds = st.integers(0, 2**32 - 1)
widths = st.one_of(st.integers(1, 20), st.sampled_from([32, 63, 64, 65, 80, 112]))


@st.composite
def wavenet_specs(draw: st.DrawFn) -> WaveNetSpec:
    condition = draw(st.integers(0, 4))
    return WaveNetSpec(
        dilations=tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))),
        residual=draw(widths),
        gate=draw(widths),
        skip=draw(widths),
        output=draw(widths),
        levels=draw(st.integers(2, 70)),
        kernel=draw(st.integers(2, 3)),
        input_kernel=draw(st.integers(1, 4)),
        embedding=draw(st.sampled_from([0, 1, 7])),
        residual_scale=draw(st.sampled_from([1.0, 0.5**0.5])),
        skip_scale=draw(st.sampled_from([1.0, 0.3])),
        condition=condition,
        condition_ids=draw(st.integers(0, 3)) if condition else 0,
        predictor=draw(predictors),
        **{
            f"{name}_bias": draw(st.booleans())
            for name in ("input", "gate", "residual", "skip", "output", "output2")
        },
    )


@st.composite
def samplernn_specs(draw: st.DrawFn) -> SampleRnnSpec:
    fastest = draw(st.sampled_from([1, 2, 3, 16, 17]))
    frames = [fastest]
    for ratio in draw(st.lists(st.integers(2, 4), max_size=2)):
        frames.insert(0, frames[0] * ratio)
    clock = draw(clocks)
    return SampleRnnSpec(
        frames=tuple(frames),
        dim=draw(widths),
        rnn_layers=draw(st.integers(1, 5)),
        levels=draw(st.integers(2, 70)),
        cell=draw(st.sampled_from(get_args(Cell))),
        embedding=draw(st.integers(1, 20)),
        skips=draw(st.sampled_from(get_args(SkipScheme))),
        learned_h0=draw(st.booleans()),
        expand_top=True if clock else draw(st.booleans()),
        upsample_bias=draw(st.sampled_from(get_args(UpsampleBias))),
        hidden=draw(st.integers(1, 2)),
        relu_after_sum=draw(st.booleans()),
        predictor=draw(predictors),
        clock=clock,
    )


def draw_tensors(spec: Spec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights, biases and h0 that are all far from zero, and small enough for logits of order one."""
    return {
        name: (rng.standard_normal(shape) / max(1, shape[-2] if len(shape) > 1 else 1) ** 0.5).astype(
            np.float32
        )
        for name, shape in spec.tensors().items()
    }


class Case:
    """A spec with random weights, condition and codes; and what torch says of them."""

    def __init__(self, spec: Spec, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.spec = spec
        self.tensors = draw_tensors(spec, rng)
        length = (
            LENGTH if isinstance(spec, WaveNetSpec) else spec.frames[0] * max(2, LENGTH // spec.frames[0])
        )
        self.codes = rng.integers(0, spec.levels, length)
        self.condition = self._draw_condition(rng)

    def _draw_condition(self, rng: np.random.Generator) -> int | np.ndarray | None:
        if not isinstance(self.spec, WaveNetSpec) or not self.spec.condition:
            return None
        if self.spec.condition_ids:
            return int(rng.integers(self.spec.condition_ids))
        return rng.standard_normal(self.spec.condition).astype(np.float32)

    def stepper(self, **options: Any) -> Stepper:
        return Stepper(self.spec, self.tensors, self.condition, **options)

    @torch.no_grad()
    def torch_logits(self, before: np.ndarray | None = None) -> np.ndarray:
        """Row t: the logits of codes[t]; NaN in a WaveNet's row 0, which torch's module does not give.

        before: codes that a SampleRNN finds before the first, one slowest frame of them; else silence.
        """
        weights = {name.replace(".", "__"): torch.from_numpy(value) for name, value in self.tensors.items()}
        forecasts = None
        if self.spec.predictor:
            rows = predictor.forecasts(self.spec.predictor, self.spec.levels, self.codes)
            forecasts = torch.from_numpy(rows)[None]
        if isinstance(self.spec, WaveNetSpec):
            module = WaveNet(self.spec)
            module.load_state_dict(weights)
            condition = None if self.condition is None else torch.tensor(self.condition)[None]
            # torch's row t foretells the code after codes[t] and has its forecast.
            later = None if forecasts is None else forecasts[:, 1:]
            rows = module(torch.from_numpy(self.codes)[None, :-1], condition, later)
            return np.concatenate([np.full((1, self.spec.levels), np.nan, np.float32), rows[0].numpy()])
        network = SampleRnn(self.spec)
        network.load_state_dict(weights)
        before = np.full(self.spec.frames[0], self.spec.levels // 2) if before is None else before
        history = np.concatenate([before, self.codes])
        return network(torch.from_numpy(history)[None], forecasts=forecasts)[0][0].numpy()  # type: ignore[no-any-return]


def check_against_torch(case: Case) -> None:
    ours, torchs = case.stepper().teacher_forced(case.codes), case.torch_logits()
    first = 1 if isinstance(case.spec, WaveNetSpec) else 0
    assert ours.shape == torchs.shape
    assert np.abs(ours - torchs)[first:].max() < TOLERANCE


@settings(max_examples=120, deadline=None, derandomize=True)
@given(wavenet_specs(), seeds)
def test_wavenet_equals_torch(spec: WaveNetSpec, seed: int) -> None:
    check_against_torch(Case(spec, seed))


@settings(max_examples=160, deadline=None, derandomize=True)
@given(samplernn_specs(), seeds)
def test_samplernn_equals_torch(spec: SampleRnnSpec, seed: int) -> None:
    check_against_torch(Case(spec, seed))


@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("skips", get_args(SkipScheme))
@pytest.mark.parametrize("expand_top", [False, True])
def test_every_cell_and_skip_scheme_equals_torch(cell: Cell, skips: SkipScheme, expand_top: bool) -> None:
    spec = SampleRnnSpec((12, 6, 2), 20, 3, 30, cell, 8, skips, learned_h0=True, expand_top=expand_top)
    check_against_torch(Case(spec, seed=1))


@pytest.mark.parametrize("name", DIALECTS)
def test_other_systems_models_give_their_own_logits(name: str) -> None:
    known = dialect(name)
    model = checkpoint.load(known.path)
    ours = Stepper(model.spec, model.tensors, known.condition)
    ours.precede(known.codes[: known.first_t])
    logits = ours.teacher_forced(known.codes[known.first_t :])
    assert np.abs(logits - known.logits).max() < TOLERANCE


@settings(max_examples=30, deadline=None, derandomize=True)
@given(samplernn_specs(), seeds, st.integers(0, 9))
def test_samplernn_looks_back_at_the_last_frame_of_what_precedes(
    spec: SampleRnnSpec, seed: int, more: int
) -> None:
    case, slowest = Case(spec, seed), spec.frames[0]
    before = np.random.default_rng(seed + 1).integers(0, spec.levels, slowest + more)
    ours, torchs = case.stepper(slack=len(case.codes)), case.torch_logits(before[more:])
    ours.precede(before)
    for _ in range(2):
        logits = ours.teacher_forced(case.codes)
        assert np.abs(logits - torchs).max() < TOLERANCE
        ours.rewind(0)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(samplernn_specs(), seeds)
def test_samplernn_finds_silence_before_the_few_codes_that_precede(spec: SampleRnnSpec, seed: int) -> None:
    case, slowest = Case(spec, seed), spec.frames[0]
    before = np.full(slowest, spec.levels // 2)
    before[-1:] = 0
    ours = case.stepper()
    ours.precede(before[-1:])
    ours_logits = ours.teacher_forced(case.codes)
    assert np.abs(ours_logits - case.torch_logits(before)).max() < TOLERANCE


@settings(max_examples=10, deadline=None, derandomize=True)
@given(wavenet_specs(), seeds)
def test_wavenet_is_fed_what_precedes(spec: WaveNetSpec, seed: int) -> None:
    case = Case(spec, seed)
    ours = case.stepper()
    ours.precede(case.codes[:9])
    assert np.abs(ours.teacher_forced(case.codes[9:]) - case.torch_logits()[9:]).max() < TOLERANCE


@settings(max_examples=20, deadline=None, derandomize=True)
@given(wavenet_specs(), seeds)
def test_wavenet_before_any_code_sees_zeros(spec: WaveNetSpec, seed: int) -> None:
    case, blind = (Case(replace(spec, predictor=None), seed) for _ in range(2))
    for name in ("input_weight", "input_bias"):
        if name in blind.tensors:
            blind.tensors[name] = np.zeros_like(blind.tensors[name])
    ours = case.stepper().logits()
    assert np.abs(ours - blind.torch_logits()[1]).max() < TOLERANCE


def small_wavenet(**changes: object) -> WaveNetSpec:
    return replace(WaveNetSpec((1, 2, 4, 8), 12, 20, 18, 33, levels=50, input_kernel=2), **changes)  # type: ignore[arg-type]


def small_samplernn(**changes: object) -> SampleRnnSpec:
    return replace(SampleRnnSpec((12, 4), 20, 2, levels=50, embedding=8), **changes)  # type: ignore[arg-type]


small_specs = [
    pytest.param(small_wavenet(), id="wavenet"),
    pytest.param(small_wavenet(predictor=PREDICTOR, kernel=3), id="wavenet-predictor"),
    pytest.param(small_samplernn(), id="gru"),
    pytest.param(
        small_samplernn(cell="lstm-theano", skips="mehri", learned_h0=True, predictor=PREDICTOR),
        id="lstm-predictor",
    ),
]
each_spec = pytest.mark.parametrize("spec", small_specs)
each_plain_spec = pytest.mark.parametrize("spec", small_specs[::2])
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


def draws(model: Stepper, count: int) -> np.ndarray:
    return model.generate(count, seed=5, temperature=1.1, top_k=20, top_p=0.95)


@each_spec
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12, 13, 31, 48])
def test_feeding_equals_stepping(spec: Spec, count: int) -> None:
    case = Case(spec, 3)
    fed, stepped = case.stepper(), case.stepper()
    fed.feed(case.codes[:count])
    stepped.teacher_forced(case.codes[:count])
    assert fed.position == stepped.position == count
    assert np.array_equal(fed.logits(), stepped.logits())
    rest = case.codes[: 48 - count // 2]
    assert np.array_equal(fed.teacher_forced(rest), stepped.teacher_forced(rest))


@each_spec
def test_asking_for_logits_changes_nothing(spec: Spec) -> None:
    case = Case(spec, 4)
    asked, quiet = case.stepper(), case.stepper()
    for i in range(len(case.codes)):
        assert np.array_equal(asked.logits(), asked.logits())
        asked.feed(case.codes[i : i + 1])
    quiet.feed(case.codes)
    assert np.array_equal(asked.logits(), quiet.logits())


@each_spec
def test_the_same_seed_gives_the_same_codes_whatever_the_blocks(spec: Spec) -> None:
    case = Case(spec, 5)
    whole = draws(case.stepper(), 100)
    model = case.stepper()
    parts = [draws(model, count) for count in (1, 2, 3, 0, 12, 31, 51)]
    assert np.array_equal(np.concatenate(parts), whole)


@each_spec
@each_precision
def test_a_voice_among_several_sounds_as_it_does_alone(spec: Spec, precision: str) -> None:
    case = Case(spec, 13)
    voices, length = 5, len(case.codes)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, spec.levels, (length, voices))
    together = case.stepper(precision=precision, voices=voices)
    together.feed(codes[:21])
    logits = together.teacher_forced(codes[21:])
    drawn = together.generate(40, seed=4, voice=7, temperature=0.9)
    assert drawn.shape == (40, voices)
    for v in range(voices):
        alone = case.stepper(precision=precision)
        alone.feed(codes[:21, v])
        assert np.array_equal(alone.teacher_forced(codes[21:, v]), logits[:, v])
        assert np.array_equal(alone.generate(40, seed=4, voice=7 + v, temperature=0.9), drawn[:, v])


wide_specs = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(WaveNetSpec((1, 2, 4, 8), 256, 256, 512, 256, levels=50), id="wavenet"),
        pytest.param(SampleRnnSpec((12, 4), 256, 1, levels=50, embedding=8), id="samplernn"),
    ],
)


@wide_specs
@each_precision
def test_threads_change_nothing(spec: Spec, precision: str) -> None:
    case = Case(spec, 14)
    one, three = case.stepper(precision=precision), case.stepper(precision=precision, threads=3)
    assert np.array_equal(one.generate(200, seed=3), three.generate(200, seed=3))
    three.close()


def test_helping_threads_end_with_their_stepper() -> None:
    def helpers() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("streamer-helper")]

    case = Case(small_wavenet(), 15)
    closed, dropped = case.stepper(threads=3), case.stepper(threads=2)
    assert len(helpers()) == 3
    closed.close()
    assert len(helpers()) == 1
    del dropped
    gc.collect()
    assert helpers() == []


# What rounding may cost, as a part of how far the logits are spread; measured, then doubled.
ROUNDING = {"bf16": 0.0032, "int8": 0.015, "int8dot": 0.016}


@wide_specs
@pytest.mark.parametrize("precision", ROUNDING)
def test_fewer_bits_give_nearly_the_same_logits(spec: Spec, precision: str) -> None:
    case = Case(spec, 16)
    exact = case.stepper().teacher_forced(case.codes)
    rounded = case.stepper(precision=precision).teacher_forced(case.codes)
    error = np.sqrt(np.mean((rounded - exact) ** 2)) / np.std(exact)
    assert 0 < error < ROUNDING[precision]


def test_int8dot_falls_back_where_there_is_no_dot_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd, "dot_lanes", lambda: 0)
    case = Case(small_samplernn(), 17)
    model = case.stepper(precision="int8dot")
    assert model.precision == "int8"
    expected = case.stepper(precision="int8").teacher_forced(case.codes)
    assert np.array_equal(model.teacher_forced(case.codes), expected)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(StreamerError, match="no precision 'int4': choose fp32, bf16, int8, int8dot"):
        Case(small_wavenet(), 0).stepper(precision="int4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_a_sample_are_those_of_the_matrices_it_reads(precision: str) -> None:
    spec = SampleRnnSpec((8,), 128, 1, levels=256, embedding=8, cell="gru-torch", hidden=2)
    model = Stepper(spec, Case(spec, 0).tensors, precision=precision)
    # A frame's RNN, expansion and eight slots in eight samples; then one hidden layer, the output, the table.
    weights = ((3 + 3 + 8) * 128 * 128 + 16 * 128) / 8 + 128 * 128 + 128 * 256
    each = {"fp32": 4, "bf16": 2, "int8": 1, "int8dot": 1}[precision]
    table = 8 * 128 * (4 if precision == "fp32" else 2)
    assert weights * each + table <= model.weight_bytes <= 1.09 * (weights * each + table)
    assert model.working_set > 8 * 128 * 128 * each


@each_plain_spec
def test_seed_and_voice_each_change_what_is_drawn(spec: Spec) -> None:
    case = Case(spec, 6)
    runs = [
        case.stepper().generate(60, seed=seed, voice=voice).tolist()
        for seed, voice in [(1, 0), (2, 0), (1, 1)]
    ]
    assert runs[0] != runs[1] != runs[2] != runs[0]
    assert case.stepper().generate(60, seed=1).tolist() == runs[0]


@each_plain_spec
def test_temperature_zero_takes_the_most_probable(spec: Spec) -> None:
    case = Case(spec, 7)
    codes = case.stepper().generate(40, seed=1, temperature=0.0)
    assert np.array_equal(case.stepper().teacher_forced(codes).argmax(-1), codes)


@each_spec
def test_reset_goes_back_to_rest(spec: Spec) -> None:
    model = Case(spec, 8).stepper()
    first = draws(model, 50)
    model.reset()
    assert model.position == 0
    assert np.array_equal(draws(model, 50), first)


@each_spec
def test_warming_leaves_the_state(spec: Spec) -> None:
    model = Case(spec, 9).stepper()
    draws(model, 20)
    before = [part.copy() for part in model.state if isinstance(part, np.ndarray)]
    model.warm()
    after = [part for part in model.state if isinstance(part, np.ndarray)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@each_spec
def test_future_codes_do_not_change_past_logits(spec: Spec) -> None:
    case = Case(spec, 10)
    changed = case.codes.copy()
    changed[20:] = (changed[20:] + 7) % spec.levels
    one, other = (case.stepper().teacher_forced(codes) for codes in (case.codes, changed))
    assert np.array_equal(one[:21], other[:21])
    assert not np.array_equal(one[21], other[21])


def test_a_condition_can_change_while_a_state_runs() -> None:
    case = Case(small_wavenet(condition=3, condition_ids=4), 11)
    models = {condition: Stepper(case.spec, case.tensors, condition) for condition in (0, 2)}
    logits = {condition: model.teacher_forced(case.codes) for condition, model in models.items()}
    assert np.abs(logits[0] - logits[2]).max() > 1e-2
    models[0].set_condition(2)
    models[0].reset()
    assert np.array_equal(models[0].teacher_forced(case.codes), logits[2])


def test_new_weights_do_not_compile_again() -> None:
    cases = [Case(small_wavenet(), 1), Case(small_samplernn(), 1)]
    for case in cases:
        case.stepper().warm()
    others = [
        small_wavenet(dilations=(3,), residual=70, predictor=PREDICTOR, condition=4, embedding=3, kernel=3),
        small_samplernn(frames=(8,), cell="gru-theano", skips="prism", learned_h0=True, rnn_layers=1),
        small_samplernn(
            frames=(16, 4, 2), cell="lstm-keras", skips="mehri", expand_top=False, predictor=PREDICTOR
        ),
    ]
    for spec in others:
        Case(spec, 2).stepper().warm()
    kernels = [stepper._generate, stepper._teacher_force, dispatch._feed_here, dispatch._rewind_here]
    assert [len(kernel.signatures) for kernel in kernels] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("spec", "condition", "words"),
    [
        (small_wavenet(condition=3), None, "needs a condition: a vector of 3 numbers"),
        (small_wavenet(condition=3, condition_ids=4), None, "a whole number from 0 to 3"),
        (
            small_wavenet(condition=3, condition_ids=4),
            4,
            "condition is 4: it must be a whole number from 0 to 3",
        ),
        (small_wavenet(condition=3), [1.0, 2.0], "it must be a vector of 3 numbers"),
        (small_wavenet(), 0, "takes no condition"),
        (small_samplernn(), 0, "takes no condition"),
    ],
)
def test_a_wrong_condition_is_named(spec: Spec, condition: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Stepper(spec, Case(spec, 0).tensors, condition)  # type: ignore[arg-type]


def test_wrong_tensors_are_named() -> None:
    tensors = Case(small_wavenet(), 0).tensors
    with pytest.raises(SpecError, match=r"'skip_weight' has shape \(1, 2\)"):
        Stepper(small_wavenet(), tensors | {"skip_weight": np.zeros((1, 2), np.float32)})
    del tensors["gate_bias"]
    with pytest.raises(SpecError, match="'gate_bias' is missing"):
        Stepper(small_wavenet(), tensors)


@pytest.mark.parametrize(
    "spec",
    [
        SampleRnnSpec((16,), 1024, 1, levels=65536, embedding=1),
        WaveNetSpec((1,), 1024, 1, 1, 1, levels=65536, input_kernel=16, embedding=1),
    ],
)
def test_a_table_too_large_for_memory_is_refused(spec: Spec) -> None:
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in spec.tensors().items()}
    with pytest.raises(SpecError, match=r"65536 levels at 16 places of width 1024 make a table of 4.0 GiB"):
        Stepper(spec, weights)


def test_wrong_codes_are_named() -> None:
    model = Case(small_wavenet(), 0).stepper()
    with pytest.raises(ValueError, match="codes run from 0 to 50: they must be from 0 to 49"):
        model.feed([0, 50])
    with pytest.raises(ValueError, match=r"codes have shape \(1, 2\)"):
        model.feed([[0, 1]])
    assert model.position == 0
