"""Both networks as others write them, channels first in Conv1d over whole sequences: what ours must outrun.

The WaveNet is that of r9y9 and vincentherrmann: every layer over every sample, the receptive field's
included, each with a skip product of its own. The SampleRNN is deepsound's: a Conv1d for each product,
learned upsampling by ConvTranspose1d, a Conv1d over the embedded codes. They take our weights, and give our
logits.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamer.models.errors import SpecError
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import SampleRnnSpec, WaveNetSpec
from streamer.models.wavenet import WaveNet


def _conv(weight: Tensor, bias: Tensor | None, dilation: int = 1) -> nn.Conv1d:
    """A convolution with a weight (taps, in, out)."""
    taps, inputs, outputs = weight.shape
    layer = nn.Conv1d(inputs, outputs, taps, dilation=dilation, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight.permute(2, 1, 0))
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer


def _embedding(weight: Tensor) -> nn.Embedding:
    """An embedding with a weight (Q, width)."""
    layer = nn.Embedding(*weight.shape)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


class PlainWaveNet(nn.Module):
    """A `WaveNet` in Conv1d; raises `SpecError` for a spec with what is not in a plain one."""

    def __init__(self, model: WaveNet) -> None:
        """Take the weights of a model."""
        super().__init__()
        spec = model.spec
        _require(spec == WaveNetSpec(spec.dilations, spec.residual, spec.gate, spec.skip, spec.output))
        self.spec = spec
        self.embedding = _embedding(model.input_weight[0])
        gates = model.gate_weight.view(spec.layers, spec.kernel, spec.residual, 2 * spec.gate)
        self.gates = nn.ModuleList(
            _conv(gates[layer], model.gate_bias[layer], dilation)
            for layer, dilation in enumerate(spec.dilations)
        )
        self.residuals = nn.ModuleList(
            _conv(weight[None], bias)
            for weight, bias in zip(model.residual_weight, model.residual_bias, strict=True)
        )
        skip_biases = [model.get_parameter("skip_bias"), *[None] * (spec.layers - 1)]
        skips = model.skip_weight.view(spec.layers, 1, spec.gate, spec.skip)
        self.skips = nn.ModuleList(map(_conv, skips, skip_biases))
        self.output1 = _conv(model.output1_weight[None], model.get_parameter("output1_bias"))
        self.output2 = _conv(model.output2_weight[None], model.get_parameter("output2_bias"))

    def forward(self, codes: Tensor) -> Tensor:
        """Predict the code after each of codes (B, T): logits (B, Q, T)."""
        h = self.embedding(codes).mT
        skips: Tensor | float = 0.0
        for layer, (gate, skip) in enumerate(zip(self.gates, self.skips, strict=True)):
            filtered, opened = gate(F.pad(h, (self.spec.dilations[layer], 0))).chunk(2, 1)
            z = torch.tanh(filtered) * torch.sigmoid(opened)
            skips = skips + skip(z)
            if layer < self.spec.layers - 1:
                h = h + self.residuals[layer](z)
        assert isinstance(skips, Tensor)
        logits: Tensor = self.output2(F.relu(self.output1(F.relu(skips))))
        return logits


class PlainSampleRnn(nn.Module):
    """A `SampleRnn` in Conv1d; raises `SpecError` for a spec with what is not in a plain one."""

    def __init__(self, model: SampleRnn) -> None:
        """Take the weights of a model."""
        super().__init__()
        spec = model.spec
        _require(
            spec == SampleRnnSpec(spec.frames, spec.dim, spec.rnn_layers, embedding=spec.embedding)
            and spec.cell == "gru-torch"
        )
        self.spec = spec
        weights = {name.replace("__", "."): value for name, value in model.named_parameters()}
        tiers = range(spec.tiers)
        self.expand = nn.ModuleList(
            _conv(weights[f"tier{tier}.expand_weight"][None], weights[f"tier{tier}.expand_bias"])
            for tier in tiers
        )
        self.rnn = nn.ModuleList(_gru(spec, weights, tier) for tier in tiers)
        self.upsample = nn.ModuleList(_upsampling(weights[f"tier{tier}.upsample_weight"]) for tier in tiers)
        self.upsample_bias = nn.ParameterList(
            weights[f"tier{tier}.upsample_bias"].detach().T.clone() for tier in tiers
        )
        self.embedding = _embedding(weights["embedding"])
        self.input = _conv(weights["input_weight"], None)
        self.hidden = nn.ModuleList(
            _conv(weight[None], bias)
            for weight, bias in zip(weights["hidden_weight"], weights["hidden_bias"], strict=True)
        )
        self.output = _conv(weights["output_weight"][None], weights["output_bias"])

    def forward(self, codes: Tensor) -> Tensor:
        """Predict codes[:, F:] of codes (B, F + T) from rest: logits (B, Q, T)."""
        spec, top = self.spec, self.spec.frames[0]
        length = codes.shape[1] - top
        scaled = 2 * (codes.float() / (spec.levels / 2) - 1)
        slots: Tensor | None = None
        for tier, frame in enumerate(spec.frames):
            frames = scaled[:, top - frame : top + length - frame].reshape(len(codes), -1, frame)
            y = self.expand[tier](frames.mT)
            y = y if slots is None else y + slots
            out, _ = self.rnn[tier](y.mT)
            slots = self.upsample[tier](out.mT)
            slots = slots + self.upsample_bias[tier].repeat(1, out.shape[1])
        a = self.input(self.embedding(codes[:, top - spec.frames[-1] : -1]).mT) + slots
        for hidden in self.hidden:
            a = F.relu(hidden(a))
        logits: Tensor = self.output(a)
        return logits


def _gru(spec: SampleRnnSpec, weights: Mapping[str, Tensor], tier: int) -> nn.GRU:
    rnn = nn.GRU(spec.dim, spec.dim, spec.rnn_layers, batch_first=True)
    with torch.no_grad():
        for layer in range(spec.rnn_layers):
            name = f"tier{tier}.rnn{layer}"
            for ours, theirs in (("input_weight", "weight_ih"), ("recurrent_weight", "weight_hh")):
                getattr(rnn, f"{theirs}_l{layer}").copy_(weights[f"{name}.{ours}"].T)
            for ours, theirs in (("bias", "bias_ih"), ("recurrent_bias", "bias_hh")):
                getattr(rnn, f"{theirs}_l{layer}").copy_(weights[f"{name}.{ours}"])
    return rnn


def _upsampling(weight: Tensor) -> nn.ConvTranspose1d:
    """Learned upsampling with a weight (slots, in, out)."""
    slots, inputs, outputs = weight.shape
    layer = nn.ConvTranspose1d(inputs, outputs, slots, stride=slots, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight.permute(1, 2, 0))
    return layer


def _require(plain: bool) -> None:
    if not plain:
        raise SpecError("this spec is no plain one: compare a recipe that keeps to the defaults")
