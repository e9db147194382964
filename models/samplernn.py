"""SampleRNN in torch: the reference that the compiled stepper must equal, and the form that is trained."""

from math import sqrt, tau

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamer.models import expert
from streamer.models.initial import smooth, uniform
from streamer.models.specs import GATES, ClockSpec, SampleRnnSpec

State = list[list[Tensor]]
"""The state of every tier's every layer: (B, D) for a GRU, (B, 2 D) for an LSTM (h, then c)."""

_TORCH_GATES = {"gru": "rzn", "lstm": "ifgo"}


class SampleRnn(nn.Module):
    """The network of a `SampleRnnSpec`; its parameters carry the names and shapes of ``spec.tensors()``.

    Names have dots in the checkpoint and double underscores as attributes, since torch reserves the dot.
    """

    embedding: Tensor
    input_weight: Tensor
    clock_weight: Tensor
    forecast_weight: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def __init__(self, spec: SampleRnnSpec, seed: int = 0) -> None:
        """Draw the first weights from a generator of its own."""
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        for name, shape in spec.tensors().items():
            value = self._first(name, shape, generator)
            self.register_parameter(name.replace(".", "__"), nn.Parameter(value))

    def _first(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if name.endswith(("bias", "h0")):
            return torch.zeros(shape)
        if name == "embedding":
            return smooth(shape[0], shape[1], generator)
        if name == "output_weight" and self.spec.predictor:
            return torch.zeros(shape)  # the model begins as its predictor
        if name == "output_weight":
            return smooth(shape[1], shape[0], generator).T / sqrt(shape[0])
        fan_in = shape[-2] * (shape[0] if name == "input_weight" else 1)
        return uniform(shape, fan_in, generator)

    def initial_state(self, batch: int) -> State:
        """State of rest: the learned h0, or zeros."""
        spec = self.spec
        zeros = self.embedding.new_zeros(spec.rnn_layers, spec.state_width)
        tiers = [self._tier(tier, "h0") if spec.learned_h0 else zeros for tier in range(spec.tiers)]
        return [[layer.expand(batch, -1) for layer in h0] for h0 in tiers]

    def forward(
        self,
        codes: Tensor,
        state: State | None = None,
        forecasts: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Predict codes[:, F:] of codes (B, F + T): logits (B, T, Q) and the state after them.

        F is the slowest frame and T a multiple of it. Row t predicts codes[:, F + t] from what lies before
        it. forecasts: (B, T, FORECAST), the predictor's of each of them. positions: (B,) of codes[:, F], by
        which a clock goes; without them, 0.
        """
        spec, top = self.spec, self.spec.frames[0]
        assert (forecasts is not None) == bool(spec.predictor), "forecasts go with a predictor"
        length = codes.shape[1] - top
        assert length > 0, f"{codes.shape[1]} codes: there must be more than the slowest frame's {top}"
        assert length % top == 0, f"{length} codes to predict: it must be a multiple of the frame {top}"
        state = self.initial_state(len(codes)) if state is None else state
        scaled = 2 * (codes.to(self.embedding.dtype) / (spec.levels / 2) - 1)
        slots: Tensor | None = None
        after: State = []
        for tier, frame in enumerate(spec.frames):
            frames = scaled[:, top - frame : top + length - frame].reshape(len(codes), -1, frame)
            if tier == 0 and spec.clock:
                first = codes.new_zeros(len(codes)) if positions is None else positions
                times = first[:, None] + frame * torch.arange(frames.shape[1], device=first.device)
                slots = clock_features(spec.clock, times).to(frames) @ self.clock_weight
            slots, tier_state = self._run_tier(tier, frames, slots, state[tier])
            after.append(tier_state)
        assert slots is not None
        return self._perceptron(codes[:, top - spec.frames[-1] : -1], slots, forecasts), after

    def _tier(self, tier: int, name: str) -> Tensor:
        return getattr(self, f"tier{tier}__{name.replace('.', '__')}")  # type: ignore[no-any-return]

    def _run_tier(
        self, tier: int, frames: Tensor, slots: Tensor | None, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Frames (B, N, F), slots from above (B, N, D) -> slots for below (B, N * ratio, D), new state."""
        spec = self.spec
        y = (
            frames @ self._tier(tier, "expand_weight") + self._tier(tier, "expand_bias")
            if spec.expands(tier)
            else frames
        )
        y = y if slots is None else y + slots
        outputs, after = [], []
        x = torch.cat([y, y], -1) if spec.skips == "prism" else y
        for layer in range(spec.rnn_layers):
            h, last = self._run_rnn(tier, layer, x, state[layer])
            outputs.append(h)
            after.append(last)
            x = torch.cat([h, y], -1) if spec.skips == "mehri" else h
        out = outputs[-1]
        if spec.skips != "none":
            out = torch.cat(outputs, -1) @ self._tier(tier, "skip_weight").flatten(0, 1) + self._tier(
                tier, "skip_bias"
            )
        return self._upsample(tier, out), after

    def _upsample(self, tier: int, out: Tensor) -> Tensor:
        weight = self._tier(tier, "upsample_weight")
        slots = out @ weight.transpose(0, 1).flatten(1)
        slots = slots.view(*out.shape[:2], len(weight), -1)
        if self.spec.upsample_bias != "none":
            slots = slots + self._tier(tier, "upsample_bias")
        return slots.flatten(1, 2)

    def _run_rnn(self, tier: int, layer: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One RNN layer over x (B, N, in) from its state -> outputs (B, N, D), last state."""
        spec, name = self.spec, f"rnn{layer}"
        weights = [
            self._tier(tier, f"{name}.{part}") for part in ("input_weight", "recurrent_weight", "bias")
        ]
        if spec.cell == "gru-theano":
            return _theano_gru(x, state, *weights)
        if spec.cell in ("gru-keras", "gru-torch"):
            weights.append(self._tier(tier, f"{name}.recurrent_bias"))
        else:
            weights.append(torch.zeros_like(weights[2]))
        kind = spec.cell.split("-")[0]
        flat = [
            _reorder(weight, GATES[spec.cell], _TORCH_GATES[kind]).mT.contiguous() for weight in weights[:2]
        ]
        flat += [_reorder(bias, GATES[spec.cell], _TORCH_GATES[kind]) for bias in weights[2:]]
        if torch.is_autocast_enabled(x.device.type):  # or every time step would cast them anew
            flat = [weight.to(torch.get_autocast_dtype(x.device.type)) for weight in flat]
        if kind == "gru":
            out, last = torch.gru(x, state[None].contiguous(), flat, True, 1, 0.0, False, False, True)
            return out, last[0]
        start = [part[None].contiguous() for part in state.chunk(2, -1)]
        out, h, c = torch.lstm(x, start, flat, True, 1, 0.0, False, False, True)
        return out, torch.cat([h[0], c[0]], -1)

    def _perceptron(self, codes: Tensor, slots: Tensor, forecasts: Tensor | None) -> Tensor:
        """Codes (B, F - 1 + T) and slots (B, T, D) -> logits (B, T, Q)."""
        frame = self.spec.frames[-1]
        embedded = F.embedding(codes, self.embedding)
        window = embedded.unfold(1, frame, 1).transpose(2, 3).flatten(2)
        a = window @ self.input_weight.flatten(0, 1) + slots
        predictor = self.spec.predictor
        if predictor is not None and forecasts is not None:
            a = a + expert.features(predictor, self.spec.levels, forecasts) @ self.forecast_weight
        if self.spec.relu_after_sum:
            a = F.relu(a)
        for layer in range(self.spec.hidden):
            a = F.relu(a @ self.hidden_weight[layer] + self.hidden_bias[layer])
        logits = a @ self.output_weight + self.output_bias
        if predictor is None or forecasts is None:
            return logits
        return expert.joined(predictor, logits, forecasts)


def clock_features(clock: ClockSpec, positions: Tensor) -> Tensor:
    """What a clock tells at positions (..): cosines and sines of every harmonic, float64 (.., 2 H)."""
    turns = positions.double() / clock.cycle % 1
    angles = tau * turns[..., None] * torch.arange(1, clock.harmonics + 1, device=positions.device)
    return torch.cat([torch.cos(angles), torch.sin(angles)], -1)


def _reorder(weight: Tensor, order: str, wanted: str) -> Tensor:
    """Put the gates along the last axis into another order."""
    parts = dict(zip(order, weight.chunk(len(order), -1), strict=True))
    return torch.cat([parts[gate] for gate in wanted], -1)


def _theano_gru(x: Tensor, h: Tensor, w_in: Tensor, w_rec: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mehri's GRU: the reset gate comes before the product, and the update gate admits the candidate."""
    dim = h.shape[-1]
    projected = x @ w_in + bias
    outputs = []
    for a in projected.unbind(1):
        z, r = torch.sigmoid(a[..., : 2 * dim] + h @ w_rec[:, : 2 * dim]).chunk(2, -1)
        candidate = torch.tanh(a[..., 2 * dim :] + (r * h) @ w_rec[:, 2 * dim :])
        h = z * candidate + (1 - z) * h
        outputs.append(h)
    return torch.stack(outputs, 1), h
