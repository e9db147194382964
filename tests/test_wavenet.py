"""The torch WaveNet against a slow reading of its spec, and what steppers rely on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from draws import wavenet_specs, weights_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from slow_expert import forecasts_for, row_of, slow_features, slow_logits

from streamer.models.specs import PredictorSpec, WaveNetSpec
from streamer.models.wavenet import WaveNet

Weights = dict[str, NDArray[np.float32]]

WIDE = WaveNetSpec(
    dilations=(1, 2, 4), residual=12, gate=10, skip=16, output=16, levels=20, kernel=3, input_kernel=2
)
seeds = st.integers(0, 2**32 - 1)


def build(spec: WaveNetSpec, weights: Weights) -> WaveNet:
    module = WaveNet(spec)
    module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return module


def inputs(spec: WaveNetSpec, length: int, seed: int) -> dict[str, torch.Tensor | None]:
    """Random codes (2, T), condition and forecasts: the arguments of `WaveNet.forward`."""
    rng = np.random.default_rng(seed)
    ids = torch.tensor(rng.integers(0, spec.condition_ids, 2)) if spec.condition_ids else None
    vectors = torch.tensor(rng.standard_normal((2, spec.condition)), dtype=torch.float32)
    return {
        "codes": torch.tensor(rng.integers(0, spec.levels, (2, length))),
        "condition": (vectors if ids is None else ids) if spec.condition else None,
        "forecasts": forecasts_for(spec, rng, length),
    }


def slow(
    spec: WaveNetSpec, weights: Weights, codes: NDArray, condition: object, forecasts: object
) -> NDArray:
    """Logits (T, Q) of one sequence in float64, one product a tap and a sample, as the spec words it."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    gates = np.zeros((spec.layers, 2 * spec.gate))
    if spec.condition:
        vector = w["condition_embedding"][condition] if spec.condition_ids else condition
        gates += np.einsum("c,lcg->lg", vector, w["condition_weight"])
    rows = w["embedding"] if spec.embedding else np.eye(spec.levels)
    h = convolve(rows[codes], w["input_weight"], 1) + w.get("input_bias", 0)
    h = h + (slow_features(spec, forecasts) @ w["forecast_weight"] if spec.predictor else 0)
    skip = 0.0
    for layer, dilation in enumerate(spec.dilations):
        taps = w["gate_weight"][layer].reshape(spec.kernel, spec.residual, -1)
        bias = w["gate_bias"][layer] if spec.gate_bias else 0
        f, g = np.split(convolve(h, taps, dilation) + bias + gates[layer], 2, axis=-1)
        z = np.tanh(f) / (1 + np.exp(-g))
        skip = skip + z @ w["skip_weight"].reshape(spec.layers, spec.gate, -1)[layer]
        if layer < spec.layers - 1:
            bias = w["residual_bias"][layer] if spec.residual_bias else 0
            h = (h + z @ w["residual_weight"][layer] + bias) * spec.residual_scale
    s = np.maximum((skip + w.get("skip_bias", 0)) * spec.skip_scale, 0)
    a = np.maximum(s @ w["output1_weight"] + w.get("output1_bias", 0), 0)
    return slow_logits(spec, a @ w["output2_weight"] + w.get("output2_bias", 0), forecasts)


def convolve(x: NDArray, taps: NDArray, dilation: int) -> NDArray:
    """Causal convolution of x (T, in) with taps (K, in, out), oldest first; zeros lie before row 0."""
    out = np.zeros((len(x), taps.shape[-1]))
    for t in range(len(x)):
        for age, tap in enumerate(taps[::-1]):
            if t >= age * dilation:
                out[t] += x[t - age * dilation] @ tap
    return out


@given(wavenet_specs(), seeds)
def test_equals_the_slow_reading(spec: WaveNetSpec, seed: int) -> None:
    weights, given_inputs = weights_of(spec, seed), inputs(spec, 12, seed)
    with torch.no_grad():
        logits = build(spec, weights)(**given_inputs).numpy()
    condition = given_inputs["condition"]
    for row in range(2):
        one = None if condition is None else condition[row].numpy()
        expected = slow(spec, weights, given_inputs["codes"][row].numpy(), one, row_of(given_inputs, row))
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)


@given(wavenet_specs(), seeds)
def test_parameters_are_those_of_the_spec(spec: WaveNetSpec, seed: int) -> None:
    module = WaveNet(spec, seed)
    assert {name: tuple(value.shape) for name, value in module.named_parameters()} == spec.tensors()
    same, other = WaveNet(spec, seed), WaveNet(spec, seed + 1)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), same.parameters(), strict=True))
    assert not torch.equal(module.input_weight, other.input_weight)


@given(wavenet_specs(), seeds, st.data())
def test_the_future_never_changes_the_past(spec: WaveNetSpec, seed: int, data: st.DataObject) -> None:
    module, given_inputs = build(spec, weights_of(spec, seed)), inputs(spec, 12, seed)
    change = data.draw(st.integers(1, 11))
    later = inputs(spec, 12, seed + 1)
    for name in ("codes", "forecasts") if spec.predictor else ("codes",):
        later[name] = torch.cat([given_inputs[name][:, :change], later[name][:, change:]], 1)
    with torch.no_grad():
        before, after = module(**given_inputs), module(**later | {"condition": given_inputs["condition"]})
    torch.testing.assert_close(after[:, :change], before[:, :change], rtol=0, atol=1e-6)


@given(wavenet_specs(), seeds, st.integers(0, 5))
def test_the_tail_needs_no_rest(spec: WaveNetSpec, seed: int, extra: int) -> None:
    """What training computes, the whole receptive field given, is what a stepper says once it has filled."""
    module = build(spec, weights_of(spec, seed))
    given_inputs = inputs(spec, spec.receptive_field + extra, seed)
    with torch.no_grad():
        whole, tail = module(**given_inputs), module(**given_inputs, from_rest=False)
    assert tail.shape == (2, extra + 1, spec.levels)
    torch.testing.assert_close(tail, whole[:, -extra - 1 :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [WIDE, replace(WIDE, kernel=2, input_kernel=1)])
def test_the_reach_is_the_receptive_field(spec: WaveNetSpec) -> None:
    """One code changes the logits of the receptive field that begins with it, and of no other row."""
    module, place = build(spec, weights_of(spec, 1)), 3
    given_inputs = inputs(spec, place + spec.receptive_field + 5, 1)
    changed = given_inputs["codes"].clone()
    changed[:, place] = (changed[:, place] + 1) % spec.levels
    with torch.no_grad():
        difference = (module(**given_inputs | {"codes": changed}) - module(**given_inputs)).abs().amax((0, 2))
    reached = torch.nonzero(difference > 1e-6).flatten()
    assert (reached[0], reached[-1]) == (place, place + spec.receptive_field - 1)


def test_an_id_is_its_vector() -> None:
    by_id = replace(WIDE, condition=3, condition_ids=4)
    weights, codes = weights_of(by_id, 2), inputs(by_id, 9, 2)["codes"]
    table = weights["condition_embedding"]
    by_vector = build(replace(by_id, condition_ids=0), {k: v for k, v in weights.items() if v is not table})
    with torch.no_grad():
        ids = build(by_id, weights)(codes, torch.tensor([3, 1]))
        vectors = by_vector(codes, torch.tensor(table[[3, 1]]))
    torch.testing.assert_close(ids, vectors)
    assert (ids[0, 0] - ids[1, 0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"condition": 2}, "needs a condition"),
        ({"predictor": PredictorSpec()}, "forecasts go with a predictor"),
    ],
)
def test_a_missing_input_is_named(change: dict[str, Any], words: str) -> None:
    spec = replace(WIDE, **change)
    with pytest.raises(AssertionError, match=words):
        WaveNet(spec)(torch.zeros(1, 4, dtype=torch.int64))


def test_a_new_model_with_a_predictor_is_its_predictor() -> None:
    """At step 0 nothing of the network is heard, whatever its first weights are."""
    spec = replace(WIDE, predictor=PredictorSpec())
    given_inputs = inputs(spec, 30, 5)
    with torch.no_grad():
        logits = WaveNet(spec, seed=3)(**given_inputs)
    nothing = np.zeros((30, spec.outputs))
    for row in range(2):
        expected = slow_logits(spec, nothing, row_of(given_inputs, row))
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)
