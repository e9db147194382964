"""WaveNet in torch: the reference that the compiled stepper must equal, and the form that is trained.

Written channels-last with one product over the taps and one over all layers' skips, which trains about twice
as fast on a processor as the same network in Conv1d.
"""

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamer.models import expert
from streamer.models.initial import smooth, uniform
from streamer.models.specs import WaveNetSpec


def _delay(x: Tensor, samples: int) -> Tensor:
    """Delay (B, T, N) by whole samples, zeros coming in."""
    return F.pad(x, (0, 0, samples, 0))[:, : x.shape[1]] if samples else x


class WaveNet(nn.Module):
    """The network of a `WaveNetSpec`; its parameters carry the names and shapes of ``spec.tensors()``."""

    embedding: Tensor
    input_weight: Tensor
    forecast_weight: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    condition_embedding: Tensor
    condition_weight: Tensor
    residual_weight: Tensor
    residual_bias: Tensor
    skip_weight: Tensor
    output1_weight: Tensor
    output2_weight: Tensor

    def __init__(self, spec: WaveNetSpec, seed: int = 0) -> None:
        """Draw the first weights from a generator of its own."""
        super().__init__()
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        for name, shape in spec.tensors().items():
            self.register_parameter(name, nn.Parameter(self._first(name, shape, generator)))

    def _first(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        levels = self.spec.levels
        if name.endswith("bias"):
            return torch.zeros(shape)
        if name == "embedding":
            return smooth(levels, shape[1], generator)
        if name == "input_weight" and not self.spec.embedding:
            taps = [smooth(levels, shape[2], generator) for _ in range(shape[0])]
            return torch.stack(taps) / sqrt(shape[0])
        if name == "output2_weight" and self.spec.predictor:
            return torch.zeros(shape)  # the model begins as its predictor
        if name == "output2_weight":
            return smooth(levels, shape[0], generator).T / sqrt(shape[0])
        return uniform(shape, shape[-2], generator)

    def forward(
        self,
        codes: Tensor,
        condition: Tensor | None = None,
        forecasts: Tensor | None = None,
        from_rest: bool = True,
    ) -> Tensor:
        """Predict the code after each of codes (B, T): logits (B, T, Q).

        condition: ids (B,) or vectors (B, C), as the spec says. forecasts: (B, T, FORECAST), the predictor's
        of the code after each. from_rest: start from zero vectors, as a stepper does. Otherwise only what the
        whole receptive field covers is computed, and logits are those of the last T - receptive_field + 1
        codes.
        """
        assert (forecasts is not None) == bool(self.spec.predictor), "forecasts go with a predictor"
        h = self._input(codes, forecasts, from_rest)
        gates = self._condition(condition)
        length = h.shape[1] if from_rest else codes.shape[1] - self.spec.receptive_field + 1
        outputs = []
        for layer, dilation in enumerate(self.spec.dilations):
            z = self._gated(h, layer, dilation, gates, from_rest)
            outputs.append(z[:, -length:])
            if layer < self.spec.layers - 1:
                h = self._residual(h[:, -z.shape[1] :], z, layer)
        logits = self._output(torch.cat(outputs, -1))
        if self.spec.predictor is None or forecasts is None:
            return logits
        return expert.joined(self.spec.predictor, logits, forecasts[:, -length:])

    def _get(self, name: str) -> Tensor | float:
        """A parameter that the spec may leave out, as something that can be added."""
        return self._parameters.get(name) if name in self._parameters else 0.0  # type: ignore[return-value]

    def _input(self, codes: Tensor, forecasts: Tensor | None, from_rest: bool) -> Tensor:
        taps = self.spec.input_kernel
        h: Tensor | float = self._get("input_bias")
        for tap in range(taps):
            if self.spec.embedding:
                x = F.embedding(codes, self.embedding) @ self.input_weight[tap]
            else:
                x = F.embedding(codes, self.input_weight[tap])
            h = _delay(x, taps - 1 - tap) + h
        if self.spec.predictor is not None and forecasts is not None:
            h = h + expert.features(self.spec.predictor, self.spec.levels, forecasts) @ self.forecast_weight
        assert isinstance(h, Tensor)
        return h if from_rest else h[:, taps - 1 :]

    def _condition(self, condition: Tensor | None) -> Tensor | None:
        """Global conditioning as gates (B, L, 2 D), or None."""
        if not self.spec.condition:
            return None
        assert condition is not None, "this spec needs a condition"
        vector = F.embedding(condition, self.condition_embedding) if self.spec.condition_ids else condition
        return torch.einsum("bc,lcg->blg", vector, self.condition_weight)

    def _gated(self, h: Tensor, layer: int, dilation: int, gates: Tensor | None, from_rest: bool) -> Tensor:
        reach = (self.spec.kernel - 1) * dilation
        if from_rest:
            taps = [_delay(h, reach - tap * dilation) for tap in range(self.spec.kernel)]
        else:
            taps = [
                h[:, tap * dilation : h.shape[1] - reach + tap * dilation] for tap in range(self.spec.kernel)
            ]
        a = torch.cat(taps, -1) @ self.gate_weight[layer]
        if self.spec.gate_bias:
            a = a + self.gate_bias[layer]
        if gates is not None:
            a = a + gates[:, None, layer]
        return torch.tanh(a[..., : self.spec.gate]) * torch.sigmoid(a[..., self.spec.gate :])

    def _residual(self, h: Tensor, z: Tensor, layer: int) -> Tensor:
        bias = self.residual_bias[layer] if self.spec.residual_bias else 0.0
        return (h + z @ self.residual_weight[layer] + bias) * self.spec.residual_scale

    def _output(self, z: Tensor) -> Tensor:
        s = (z @ self.skip_weight + self._get("skip_bias")) * self.spec.skip_scale
        a = F.relu(s) @ self.output1_weight + self._get("output1_bias")
        return F.relu(a) @ self.output2_weight + self._get("output2_bias")
