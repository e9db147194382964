"""The torch SampleRNN against a slow reading of its spec, and what steppers rely on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from draws import samplernn_specs, weights_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from slow_expert import forecasts_for, row_of, slow_features, slow_logits

from streamer.models.samplernn import SampleRnn
from streamer.models.specs import GATES, PredictorSpec, SampleRnnSpec

Weights = dict[str, NDArray[np.float32]]

WIDE = SampleRnnSpec(frames=(6, 2), dim=12, rnn_layers=2, levels=20, embedding=8)
seeds = st.integers(0, 2**32 - 1)


def build(spec: SampleRnnSpec, weights: Weights) -> SampleRnn:
    module = SampleRnn(spec)
    module.load_state_dict({name.replace(".", "__"): torch.tensor(array) for name, array in weights.items()})
    return module


def inputs(spec: SampleRnnSpec, frames: int, seed: int) -> dict[str, torch.Tensor | None]:
    """Random codes (2, F + T), forecasts of T that many slowest frames, positions: what `forward` takes."""
    rng, top = np.random.default_rng(seed), spec.frames[0]
    return {
        "codes": torch.tensor(rng.integers(0, spec.levels, (2, (1 + frames) * top))),
        "forecasts": forecasts_for(spec, rng, frames * top),
        "positions": torch.tensor([0, 1000]),
    }


def sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def cell(spec: SampleRnnSpec, w: Weights, x: NDArray, state: NDArray) -> NDArray:
    """One step of one layer in its dialect's own words: state (D,) or (2 D,), h first -> state."""
    gates = dict(zip(GATES[spec.cell], np.split(x @ w["input_weight"] + w["bias"], spec.gates), strict=True))
    recurrent = dict(zip(GATES[spec.cell], np.split(w["recurrent_weight"], spec.gates, axis=1), strict=True))
    h = state[: spec.dim]
    if spec.cell.startswith("lstm"):
        i, f, o, g = (gates[name] + h @ recurrent[name] for name in "ifog")
        c = sigmoid(f) * state[spec.dim :] + sigmoid(i) * np.tanh(g)
        return np.concatenate([sigmoid(o) * np.tanh(c), c])
    if spec.cell == "gru-theano":  # the reset before the product; z admits what is new
        z, r = (sigmoid(gates[name] + h @ recurrent[name]) for name in "zr")
        return z * np.tanh(gates["n"] + (r * h) @ recurrent["n"]) + (1 - z) * h
    bias = dict(zip(GATES[spec.cell], np.split(w["recurrent_bias"], spec.gates), strict=True))
    z, r = (sigmoid(gates[name] + h @ recurrent[name] + bias[name]) for name in "zr")
    return (1 - z) * np.tanh(gates["n"] + r * (h @ recurrent["n"] + bias["n"])) + z * h


class Slow:
    """The spec read one sample at a time in float64: each tier runs when its frame is full."""

    def __init__(self, spec: SampleRnnSpec, weights: Weights, position: int = 0) -> None:
        """position: of the first code that is predicted."""
        self.spec, self.position = spec, position
        self.w = {name: array.astype(np.float64) for name, array in weights.items()}
        rest = np.zeros((spec.rnn_layers, spec.state_width))
        self.state = [list(self.w.get(f"tier{tier}.h0", rest)) for tier in range(spec.tiers)]
        self.slots = [np.zeros((ratio, spec.dim)) for ratio in spec.slots]

    def logits(self, codes: NDArray, forecasts: NDArray | None) -> NDArray:
        """Logits (Q,) of the sample after codes (t,), t at least the slowest frame; its forecast (1, 4)."""
        spec, w, t = self.spec, self.w, len(codes)
        for tier, frame in enumerate(spec.frames):
            if t % frame == 0:
                self.run_tier(tier, codes)
        fastest = spec.frames[-1]
        a = sum(w["embedding"][codes[t - fastest + p]] @ w["input_weight"][p] for p in range(fastest))
        a = a + self.slots[-1][t % fastest]
        a = a + (slow_features(spec, forecasts)[0] @ w["forecast_weight"] if spec.predictor else 0)
        a = np.maximum(a, 0) if spec.relu_after_sum else a
        for weight, bias in zip(w["hidden_weight"], w["hidden_bias"], strict=True):
            a = np.maximum(a @ weight + bias, 0)
        return slow_logits(spec, (a @ w["output_weight"] + w["output_bias"])[None], forecasts)[0]

    def clock(self, position: int) -> NDArray:
        angles = 2 * np.pi * position / self.spec.clock.cycle * np.arange(1, self.spec.clock.harmonics + 1)
        return np.concatenate([np.cos(angles), np.sin(angles)]) @ self.w["clock_weight"]

    def run_tier(self, tier: int, codes: NDArray) -> None:
        spec, t, frame = self.spec, len(codes), self.spec.frames[tier]
        w = {k.removeprefix(f"tier{tier}."): v for k, v in self.w.items() if k.startswith(f"tier{tier}.")}
        y = 2 * (codes[t - frame :] / (spec.levels / 2) - 1)
        y = y @ w["expand_weight"] + w["expand_bias"] if spec.expands(tier) else y
        y = y + self.slots[tier - 1][t // frame % spec.slots[tier - 1]] if tier else y
        y = y + self.clock(self.position + t - frame) if tier == 0 and spec.clock else y
        x = np.concatenate([y, y]) if spec.skips == "prism" else y
        outputs = []
        for layer in range(spec.rnn_layers):
            own = {k.removeprefix(f"rnn{layer}."): v for k, v in w.items() if k.startswith(f"rnn{layer}.")}
            self.state[tier][layer] = cell(spec, own, x, self.state[tier][layer])
            outputs.append(self.state[tier][layer][: spec.dim])
            x = np.concatenate([outputs[-1], y]) if spec.skips == "mehri" else outputs[-1]
        out = outputs[-1]
        if spec.skips != "none":
            out = (
                sum(h @ weight for h, weight in zip(outputs, w["skip_weight"], strict=True)) + w["skip_bias"]
            )
        self.slots[tier] = np.stack([out @ weight for weight in w["upsample_weight"]]) + w.get(
            "upsample_bias", 0
        )


@given(samplernn_specs(), seeds)
def test_equals_the_slow_reading(spec: SampleRnnSpec, seed: int) -> None:
    weights, given_inputs, top = weights_of(spec, seed), inputs(spec, 2, seed), spec.frames[0]
    with torch.no_grad():
        logits = build(spec, weights)(**given_inputs)[0].numpy()
    for row in range(2):
        codes, forecasts = given_inputs["codes"][row].numpy(), row_of(given_inputs, row)
        reading = Slow(spec, weights, int(given_inputs["positions"][row]))
        expected = [
            reading.logits(codes[:t], None if forecasts is None else forecasts[t - top :][:1])
            for t in range(top, len(codes))
        ]
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)


@given(samplernn_specs(), seeds)
def test_parameters_are_those_of_the_spec(spec: SampleRnnSpec, seed: int) -> None:
    module = SampleRnn(spec, seed)
    shapes = {name.replace("__", "."): tuple(value.shape) for name, value in module.named_parameters()}
    assert shapes == spec.tensors()
    same, other = SampleRnn(spec, seed), SampleRnn(spec, seed + 1)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), same.parameters(), strict=True))
    assert not torch.equal(module.input_weight, other.input_weight)


@given(samplernn_specs(), seeds, st.data())
def test_the_future_never_changes_the_past(spec: SampleRnnSpec, seed: int, data: st.DataObject) -> None:
    """Row t predicts codes[F + t] with forecasts[t]: it may hang on that forecast, but not on that code."""
    module, given_inputs, top = build(spec, weights_of(spec, seed)), inputs(spec, 3, seed), spec.frames[0]
    change = data.draw(st.integers(0, 3 * top - 1))
    later = inputs(spec, 3, seed + 1)
    for name, same in (("codes", top + change), ("forecasts", change + 1)):
        if given_inputs[name] is None:
            continue
        later[name] = torch.cat([given_inputs[name][:, :same], later[name][:, same:]], 1)
    with torch.no_grad():
        before, after = module(**given_inputs)[0], module(**later)[0]
    torch.testing.assert_close(after[:, : change + 1], before[:, : change + 1], rtol=0, atol=1e-6)


def test_every_code_of_the_past_is_heard() -> None:
    """The other half of causality: a code changes the next row, and through the state rows far later."""
    module, given_inputs = build(WIDE, weights_of(WIDE, 1)), inputs(WIDE, 4, 1)
    top = WIDE.frames[0]
    for place in range(top):
        changed = given_inputs["codes"].clone()
        changed[:, top + place] = (changed[:, top + place] + 7) % WIDE.levels
        with torch.no_grad():
            difference = module(changed)[0] - module(**given_inputs)[0]
        heard = difference.abs().amax((0, 2))
        assert heard[place + 1] > 1e-4
        assert heard[3 * top :].max() > 1e-6


@given(samplernn_specs(), seeds, st.integers(1, 3))
def test_carried_state_equals_one_pass(spec: SampleRnnSpec, seed: int, first: int) -> None:
    """Training reads a sequence in pieces, each beginning with the frame before it."""
    module, given_inputs = build(spec, weights_of(spec, seed)).double(), inputs(spec, 4, seed)
    codes, forecasts, top = given_inputs["codes"], given_inputs["forecasts"], spec.frames[0]
    forecasts, cut = None if forecasts is None else forecasts.double(), first * top
    early, late = (None, None) if forecasts is None else (forecasts[:, :cut], forecasts[:, cut:])
    positions = given_inputs["positions"]
    with torch.no_grad():
        whole, after_whole = module(codes, None, forecasts, positions)
        head, state = module(codes[:, : top + cut], None, early, positions)
        tail, after_tail = module(codes[:, cut:], state, late, positions + cut)
    # In float64, since sums over another number of rows are taken in another order.
    torch.testing.assert_close(torch.cat([head, tail], 1), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after_tail, after_whole, rtol=1e-9, atol=1e-9)


@given(samplernn_specs(), seeds)
def test_rest_is_the_learned_state_or_zeros(spec: SampleRnnSpec, seed: int) -> None:
    weights = weights_of(spec, seed)
    state = build(spec, weights).initial_state(3)
    assert [len(tier) for tier in state] == [spec.rnn_layers] * spec.tiers
    for tier, layers in enumerate(state):
        h0 = weights.get(f"tier{tier}.h0", np.zeros((spec.rnn_layers, spec.state_width)))
        for layer, rest in zip(layers, h0, strict=True):
            np.testing.assert_array_equal(layer.detach(), np.broadcast_to(rest, (3, spec.state_width)))


@pytest.mark.parametrize("length", [6, 7, 11])
def test_half_a_frame_cannot_be_predicted(length: int) -> None:
    with pytest.raises(AssertionError, match=r"slowest frame's 6|multiple of the frame 6"):
        SampleRnn(WIDE)(torch.zeros(1, length, dtype=torch.int64))


def test_missing_forecasts_are_named() -> None:
    with pytest.raises(AssertionError, match="forecasts go with a predictor"):
        SampleRnn(replace(WIDE, predictor=PredictorSpec()))(torch.zeros(1, 12, dtype=torch.int64))


def test_a_new_model_with_a_predictor_is_its_predictor() -> None:
    """At step 0 nothing of the network is heard, whatever its first weights are."""
    spec = replace(WIDE, predictor=PredictorSpec())
    given_inputs = inputs(spec, 3, 5)
    with torch.no_grad():
        logits = SampleRnn(spec, seed=3)(**given_inputs)[0]
    nothing = np.zeros((logits.shape[1], spec.outputs))
    for row in range(2):
        expected = slow_logits(spec, nothing, row_of(given_inputs, row))
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)
