"""Going back, remembering, siblings: bit for bit as if what was undone had never been."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from draws import specs, weights_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from streamer.kernels.compiling import compiled
from streamer.kernels.dispatch import rewind
from streamer.kernels.stepper import Stepper
from streamer.models.specs import ClockSpec, PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec

AFTER = 30
SMALL_WAVENET = WaveNetSpec((1, 2, 4, 8), 12, 20, 18, 33, levels=50, input_kernel=2)
PREDICTOR = PredictorSpec(order=5, window=20, hop=8)
PREDICTED = replace(SMALL_WAVENET, predictor=PREDICTOR)
SMALL_SAMPLERNN = SampleRnnSpec((12, 4), 20, 2, levels=50, embedding=8)

seeds = st.integers(0, 2**32 - 1)
voices = st.integers(1, 2)
moves = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 70), st.booleans(), st.booleans()), min_size=1, max_size=4
)
"""Codes to append, samples to go back then, whether the codes are fed, whether logits are asked for."""


class Case:
    """A model with random weights and condition."""

    def __init__(self, spec: Spec, seed: int, voices: int = 1) -> None:
        self.spec, self.voices = spec, voices
        self.rng = np.random.default_rng(seed)
        self.tensors = weights_of(spec, seed)
        self.axis = (voices,) if voices > 1 else ()
        self.condition: Any = None
        if isinstance(spec, WaveNetSpec) and spec.condition:
            ids = spec.condition_ids
            self.condition = ids - 1 if ids else self.rng.standard_normal(spec.condition)

    def stepper(self, **options: Any) -> Stepper:
        return Stepper(self.spec, self.tensors, self.condition, voices=self.voices, **options)

    def codes(self, count: int) -> NDArray[np.int64]:
        return self.rng.integers(0, self.spec.levels, (count, *self.axis))

    def feed(self, model: Stepper, codes: NDArray[np.int64]) -> None:
        model.feed(codes)

    def logits(self, model: Stepper, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        return model.teacher_forced(codes)

    def ask(self, model: Stepper) -> None:
        model.logits()

    def wander(self, model: Stepper, moves: list[tuple[int, int, bool, bool]]) -> NDArray[np.int64]:
        """Go on and back, and return the codes that are left."""
        codes, furthest = self.codes(0), 0
        slack = int(model.state.slack[0])
        for count, back, fed, asked in moves:
            more = self.codes(count)
            (self.feed if fed else self.logits)(model, more)
            if asked:
                self.ask(model)
            furthest = max(furthest, model.position)
            assert model.earliest == max(0, furthest - slack)
            model.rewind(max(model.earliest, model.position - back))
            codes = np.concatenate([codes, more])[: model.position]
        return codes

    def assert_same(self, model: Stepper, other: Stepper) -> None:
        """Both are at one place and go on alike."""
        assert model.position == other.position
        more = self.codes(AFTER)
        assert np.array_equal(self.logits(model, more), self.logits(other, more))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(specs, seeds, voices, st.integers(0, 60), moves)
@example(
    replace(SMALL_SAMPLERNN, cell="lstm-theano"), 1, 1, 13, [(13, 13, False, True), (12, 12, True, True)]
)
@example(replace(SMALL_SAMPLERNN, cell="lstm-keras"), 1, 2, 12, [(25, 13, False, True), (0, 0, False, False)])
@example(PREDICTED, 2, 2, 17, [(40, 17, False, True), (3, 3, True, False)])
def test_what_was_taken_back_has_never_been(
    spec: Spec, seed: int, voices: int, slack: int, moves: list[tuple[int, int, bool, bool]]
) -> None:
    case = Case(spec, seed, voices)
    model, straight = case.stepper(slack=slack), case.stepper()
    case.feed(straight, case.wander(model, moves))
    case.assert_same(model, straight)


@pytest.mark.parametrize("spec", [SMALL_WAVENET, SMALL_SAMPLERNN])
def test_every_position_of_the_slack_can_be_gone_back_to(spec: Spec) -> None:
    case, slack = Case(spec, 3), 40
    codes = case.codes(100)
    for position in range(100 - slack, 101):
        model, straight = case.stepper(slack=slack), case.stepper()
        case.logits(model, codes)
        model.rewind(position)
        case.feed(straight, codes[:position])
        case.assert_same(model, straight)


@pytest.mark.parametrize("spec", [SMALL_WAVENET, SMALL_SAMPLERNN])
def test_positions_that_are_not_kept_are_refused(spec: Spec) -> None:
    case = Case(spec, 4)
    model = case.stepper(slack=20)
    case.feed(model, case.codes(50))
    model.rewind(35)
    for position in (29, 36, -1):
        with pytest.raises(ValueError, match=f"position {position}: it must be from 30 to 35"):
            model.rewind(position)
    model.rewind(30)
    model.reset()
    assert model.earliest == 0


def test_codes_from_before_the_beginning_are_kept() -> None:
    case = Case(SMALL_SAMPLERNN, 5)
    model, straight = case.stepper(slack=30), case.stepper()
    for one in (model, straight):
        one.state.codes[-12:] = np.arange(12)
    case.logits(model, case.codes(30))
    model.rewind(0)
    case.assert_same(model, straight)


@compiled
def go_back(weights, state, position, crew):  # type: ignore[no-untyped-def]
    rewind(weights, state, position, crew)


@pytest.mark.parametrize("spec", [SMALL_WAVENET, SMALL_SAMPLERNN])
def test_compiled_code_goes_back_alike(spec: Spec) -> None:
    case = Case(spec, 6)
    models = [case.stepper(slack=30) for _ in range(2)]
    codes = case.codes(60)
    for model in models:
        case.logits(model, codes)
    models[0].rewind(43)
    go_back(models[1].weights, models[1].state, 43, models[1].crew)
    case.assert_same(*models)


@pytest.mark.parametrize(
    "spec",
    [
        WaveNetSpec((1, 2, 4, 8), 256, 256, 512, 256, levels=50),
        SampleRnnSpec((12, 4), 256, 1, levels=50, embedding=8),
    ],
)
def test_threads_go_back_alike(spec: Spec) -> None:
    case = Case(spec, 7)
    one, two = case.stepper(slack=30), case.stepper(slack=30, threads=2)
    codes = case.codes(60)
    for model in (one, two):
        case.logits(model, codes)
        model.rewind(47)
    case.assert_same(one, two)
    two.close()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(specs, seeds, voices, st.integers(0, 60), st.integers(0, 60), moves)
@example(replace(SMALL_SAMPLERNN, cell="lstm-theano"), 1, 1, 0, 5, [(12, 0, False, True)])
@example(PREDICTED, 2, 2, 17, 0, [(50, 3, False, True), (50, 0, False, True)])
def test_a_memory_goes_on_where_it_was_taken(
    spec: Spec, seed: int, voices: int, slack: int, other_slack: int, moves: list[tuple[int, int, bool, bool]]
) -> None:
    case = Case(spec, seed, voices)
    model, other = case.stepper(slack=slack), case.stepper(slack=other_slack)
    case.wander(model, moves)
    memory = load(save(model.memory()))
    case.logits(other, case.codes(20))
    other.remember(memory)
    assert other.earliest == other.position
    again = other.memory()
    assert again.keys() == memory.keys()
    assert all(np.array_equal(again[name], memory[name]) for name in memory)
    case.assert_same(model, other)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(specs, seeds, st.integers(0, 60), st.integers(1, 40), st.integers(0, 40))
def test_what_follows_a_memory_can_be_taken_back(
    spec: Spec, seed: int, position: int, more: int, back: int
) -> None:
    case = Case(spec, seed)
    model, straight = case.stepper(), case.stepper(slack=40)
    codes = case.codes(position + more)
    case.logits(model, codes[:position])
    straight.remember(model.memory())
    case.logits(straight, codes[position:])
    straight.rewind(straight.position - min(back, more))
    case.feed(model, codes[position : straight.position])
    case.assert_same(straight, model)


@pytest.mark.parametrize(
    "spec", [SMALL_SAMPLERNN, replace(SMALL_SAMPLERNN, predictor=PREDICTOR, cell="lstm-keras")]
)
def test_a_clock_is_right_after_years(spec: Spec) -> None:
    """Whole cycles later all is the same, rewound too; another part of a cycle later it is not."""
    cycle = 2 * 12.0  # whole frames, and whole hops of the predictor
    case = Case(replace(spec, clock=ClockSpec(cycle, 3)), 9)
    codes, found = case.codes(60), []
    for begin in (0, 24, 24 * 10**11, 12):
        model = case.stepper(slack=40)
        model.reset(begin)
        assert (model.position, model.earliest) == (begin, begin)
        case.logits(model, codes)
        model.rewind(begin + 31)
        found.append(case.logits(model, codes[31:]))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[3], atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "bytes_"),
    [
        (SMALL_WAVENET, 8 + 4 * 17),
        (PREDICTED, 8 + 4 * 17 + 4 * (20 + (100 - 17) % 8 + 4)),
        (SMALL_SAMPLERNN, 8 + 4 * (12 + 100 % 12) + 4 * 4 * 20),
        (replace(SMALL_SAMPLERNN, cell="lstm-theano"), 8 + 4 * (12 + 100 % 12) + 2 * 4 * 4 * 20),
        (
            replace(SMALL_SAMPLERNN, predictor=PREDICTOR),
            8 + 4 * (12 + 100 % 12) + 4 * 4 * 20 + 4 * (20 + (100 - 100 % 12) % 8 + 4),
        ),
    ],
)
def test_a_memory_holds_no_more_than_is_needed(spec: Spec, bytes_: int) -> None:
    case = Case(spec, 8)
    model = case.stepper(slack=50)
    case.feed(model, case.codes(100))
    assert sum(array.nbytes for array in model.memory().values()) == bytes_


DAMAGE: dict[str, tuple[Spec, dict[str, Any], str]] = {
    "missing": (SMALL_WAVENET, {"codes": None}, "it must hold position, codes$"),
    "unknown": (SMALL_WAVENET, {"h": np.zeros(3)}, "'h', 'position'.: it must hold position, codes"),
    "other-model": (SMALL_SAMPLERNN, {"h": None}, "it must hold position, codes, h$"),
    "position-shape": (SMALL_WAVENET, {"position": np.array([1, 2])}, r"position is int64 \(2,\)"),
    "position-type": (SMALL_WAVENET, {"position": np.array([100.0])}, r"position is float64 \(1,\)"),
    "negative": (SMALL_WAVENET, {"position": np.array([-1])}, "position is -1: it must be from 0"),
    "endless": (SMALL_WAVENET, {"position": np.array([2**60])}, f"position is {2**60}: it must be"),
    "phase": (SMALL_SAMPLERNN, {"position": np.array([101])}, r"codes is int32 \(16, 1\): .* \(17, 1\)"),
    "few-codes": (SMALL_WAVENET, {"codes": np.zeros((3, 1), np.int32)}, r"\(3, 1\): .* int32 \(17, 1\)"),
    "wide-codes": (SMALL_WAVENET, {"codes": np.zeros((17, 1))}, r"float64 \(17, 1\): .* int32"),
    "voices": (SMALL_WAVENET, {"codes": np.zeros((17, 2), np.int32)}, r"\(17, 2\): .* int32 \(17, 1\)"),
    "high": (SMALL_WAVENET, {"codes": np.full((17, 1), 50, np.int32)}, "run from 50 to 50: .* 0 to 49"),
    "low": (SMALL_SAMPLERNN, {"codes": np.full((16, 1), -1, np.int32)}, "run from -1 to -1: .* 0 to 49"),
    "nan": (SMALL_SAMPLERNN, {"h": np.full((2, 2, 1, 20), np.nan, np.float32)}, "h is not finite"),
    "deaf": (PREDICTED, {"heard": None}, "it must hold position, codes, heard, forecast$"),
    "unheard": (PREDICTED, {"heard": np.zeros((20, 1), np.float32)}, r"\(20, 1\): .* float32 \(23, 1\)"),
    "infinite": (PREDICTED, {"forecast": np.full((1, 4), np.inf, np.float32)}, "forecast is not finite"),
    "loud": (PREDICTED, {"heard": np.full((23, 1), 2, np.float32)}, "runs from 2 to 2: .* from -1 to 1"),
    "huge": (PREDICTED, {"forecast": np.full((1, 4), -1e9, np.float32)}, "from -1e[+]09 to -1e[+]09: "),
}


@pytest.mark.parametrize(("spec", "damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_memory_is_refused_and_changes_nothing(
    spec: Spec, damage: dict[str, Any], words: str
) -> None:
    case = Case(spec, 9)
    model, twin = case.stepper(), case.stepper()
    codes = case.codes(100)
    for one in (model, twin):
        case.feed(one, codes)
    memory = {name: part for name, part in (model.memory() | damage).items() if part is not None}
    with pytest.raises(ValueError, match=words):
        model.remember(memory)
    case.assert_same(model, twin)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(specs, seeds, voices)
def test_siblings_share_weights_and_nothing_else(spec: Spec, seed: int, voices: int) -> None:
    case = Case(spec, seed, voices)
    model, twin = case.stepper(slack=9), case.stepper()
    codes = case.codes(40)
    case.logits(model, codes)
    sibling = model.sibling(slack=5)
    assert sibling.weights is model.weights
    case.assert_same(sibling, twin)
    assert (sibling.earliest, model.earliest) == (AFTER - 5, 40 - 9)
    twin.reset()
    case.feed(twin, codes)
    case.assert_same(model, twin)


def test_a_sibling_works_alone_and_outlives_its_elder() -> None:
    case = Case(SMALL_WAVENET, 11)
    model = case.stepper(threads=2)
    sibling = model.sibling()
    assert (model.threads, sibling.threads) == (2, 1)
    model.close()
    del model
    case.assert_same(sibling, case.stepper())


def test_a_siblings_condition_is_its_own() -> None:
    case = Case(replace(SMALL_WAVENET, condition=3, condition_ids=4), 12)
    model, twin = case.stepper(), case.stepper()
    sibling = model.sibling()
    sibling.set_condition(0)
    case.assert_same(model, twin)
    twin.reset()
    twin.set_condition(0)
    case.assert_same(sibling, twin)
