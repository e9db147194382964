"""The adaptive predictor: its kernels against the slow definition, and what models may rely on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from draws import predictor_specs, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.kernels.predictor import forecasts
from streamer.kernels.stepper import Stepper
from streamer.models import expert, predictor
from streamer.models.quantisers import Quantiser
from streamer.models.specs import PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec

LEVELS = 256
seeds = st.integers(0, 2**32 - 1)


def tones(count: int, seed: int) -> NDArray[np.int64]:
    """Codes of two tones and some noise, which swell and break off."""
    rng = np.random.default_rng(seed)
    t = np.arange(count)
    clip = 0.3 * np.sin(0.11 * t) + 0.2 * np.sin(0.37 * t) + 0.02 * rng.standard_normal(count)
    return Quantiser(levels=LEVELS).encode(clip * np.where(t % 700 < 600, (t % 700) / 700, 0))


@settings(max_examples=40)
@given(predictor_specs(), seeds)
def test_equals_its_definition(spec: PredictorSpec, seed: int) -> None:
    codes = tones(400, seed)
    ours, slow = forecasts(spec, LEVELS, codes), predictor.forecasts(spec, LEVELS, codes)
    assert np.abs(ours[:, :3] - slow[:, :3]).max() < 1e-4
    np.testing.assert_allclose(ours[:, 3], slow[:, 3], rtol=1e-2, atol=0.1)


def test_equals_its_definition_as_models_have_it() -> None:
    codes, spec = tones(4000, 1), PredictorSpec()
    ours, slow = forecasts(spec, LEVELS, codes), predictor.forecasts(spec, LEVELS, codes)
    assert np.abs(ours[:, :3] - slow[:, :3]).max() < 1e-4


@settings(max_examples=20)
@given(predictor_specs(), st.integers(1, 300), seeds)
def test_a_forecast_knows_the_past_alone(spec: PredictorSpec, place: int, seed: int) -> None:
    codes = tones(310, seed)
    changed = codes.copy()
    changed[place:] = (changed[place:] + 7) % LEVELS
    before, after = forecasts(spec, LEVELS, codes), forecasts(spec, LEVELS, changed)
    assert np.array_equal(before[: place + 1], after[: place + 1])
    assert not np.array_equal(before[place + 1], after[place + 1])


def test_silence_is_forecast_from_silence() -> None:
    silence = Quantiser(levels=LEVELS).silence
    rows = forecasts(PredictorSpec(), LEVELS, np.full(3000, silence))
    assert np.isfinite(rows).all()
    assert np.abs(rows[:, :3]).max() < 1e-4


def test_what_is_loudest_stays_finite_and_within_full_scale() -> None:
    rng = np.random.default_rng(0)
    square = np.where(np.arange(4000) // 37 % 2, LEVELS - 1, 0)
    for codes in (square, rng.integers(0, 2, 4000) * (LEVELS - 1), np.full(4000, LEVELS - 1)):
        rows = forecasts(PredictorSpec(order=128, window=512), LEVELS, codes)
        assert np.isfinite(rows).all()
        assert np.abs(rows[:, 0]).max() <= 1
        assert rows[:, 1:3].max() <= 2


MODELS: list[Spec] = [
    WaveNetSpec((1, 2, 4), residual=8, gate=8, skip=8, output=8, predictor=PredictorSpec(12, 100, 16)),
    SampleRnnSpec((12, 4), dim=8, rnn_layers=1, embedding=4, predictor=PredictorSpec(12, 100, 16)),
]


@pytest.mark.parametrize("spec", MODELS)
@pytest.mark.parametrize("way", ["feed", "teacher_forced", "two voices"])
def test_models_learn_from_the_very_numbers_that_they_play_by(spec: Spec, way: str) -> None:
    """The forecast in a stepper's memory is, bit for bit, the one of before training."""
    assert spec.predictor is not None
    codes = tones(400, 5)
    trained = forecasts(spec.predictor, LEVELS, codes)
    model = Stepper(spec, weights_of(spec, 1), voices=2 if way == "two voices" else 1)
    for start in range(0, 400, 20):
        part = codes[start : start + 20]
        if way == "two voices":
            model.feed(np.stack([part[::-1], part], 1))
        else:
            getattr(model, way)(part)
        memory, field = model.memory(), spec.receptive_field
        position = model.position - (field if isinstance(spec, WaveNetSpec) else model.position % field)
        assert np.array_equal(memory["forecast"][-1], trained[position])


def bits(spec: PredictorSpec, codes: NDArray[np.int64]) -> float:
    """Of the predictor alone."""
    outputs = torch.zeros(len(codes), LEVELS + 2)
    logits = expert.joined(spec, outputs, torch.from_numpy(forecasts(spec, LEVELS, codes)))
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(codes)) / np.log(2))


def test_a_pitched_sound_costs_fewer_bits_than_noise() -> None:
    rng = np.random.default_rng(2)
    noise = Quantiser(levels=LEVELS).encode(rng.uniform(-0.5, 0.5, 6000))
    clean = Quantiser(levels=LEVELS).encode(0.4 * np.sin(0.13 * np.arange(6000)))
    assert bits(PredictorSpec(), clean) < 3 < 6 < bits(PredictorSpec(), noise) < 8.5


@pytest.mark.parametrize("levels", [2, 3, 16, 256, 1024])
def test_the_logistic_gives_every_code_its_share(levels: int) -> None:
    """Whatever the scale, the shares of all codes are those of one whole."""
    scale = torch.logspace(-5, 1, 20)[:, None]
    mass = expert.log_mass(torch.linspace(-1.2, 1.2, 31)[None].expand(20, 31), scale.expand(20, 31), levels)
    np.testing.assert_allclose(mass.exp().sum(-1), 1, atol=1e-3)


def test_a_codes_amplitude_lies_between_its_edges() -> None:
    for levels in (2, 3, 256, 1000):
        edges, values = predictor.edges(levels), predictor.amplitudes(levels)
        assert (edges[:-1] < values).all()
        assert (values < edges[1:]).all()
        inside = edges[1:-1]
        quantiser = Quantiser(levels=levels)
        assert np.array_equal(quantiser.encode(inside + 1e-9), np.arange(1, levels))
        assert np.array_equal(quantiser.encode(inside - 1e-9), np.arange(levels - 1))


@settings(max_examples=20)
@given(st.sampled_from([16, 255, 256]), seeds)
def test_the_gradient_by_hand_is_that_of_the_formula(levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, scale = (torch.tensor(rng.uniform(low, 1, 5), dtype=torch.float32) for low in (-1, 0.01))
    weights = torch.tensor(rng.normal(size=(5, levels)), dtype=torch.float32)

    def gradient(log_mass: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        inputs = [part.double().requires_grad_() for part in (prediction, scale)]
        return list(torch.autograd.grad((log_mass(*inputs, levels) * weights).sum(), inputs))

    def formula(prediction: torch.Tensor, scale: torch.Tensor, levels: int) -> torch.Tensor:
        bounds = torch.tensor(predictor.edges(levels))
        share = torch.sigmoid((bounds - prediction[:, None]) / scale[:, None])
        return torch.log(share.diff() + predictor.EPSILON)

    for ours, theirs in zip(gradient(expert.log_mass), gradient(formula), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
