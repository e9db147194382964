"""A sample of either model in torch, with cached state, as modules that TorchScript compiles too.

They are the arithmetic of `streamer.torch_stepper`'s cached steppers, and their state: TorchScript copies
what it is passed, so lists that change must be its module's own. A bias that the spec leaves out is zeros.
"""

import torch
from torch import Tensor, nn


class WaveNetStep(nn.Module):
    """All of a WaveNet after layer 0's input."""

    dilations: list[int]
    kernel: int
    gate: int
    residual_scale: float
    skip_scale: float
    gate_weight: list[Tensor]
    """L of (K R, 2 D)"""
    gate_bias: list[Tensor]
    """L of (2 D,), conditioning included"""
    residual_weight: list[Tensor]
    """L - 1 of (D, R)"""
    residual_bias: list[Tensor]
    head: list[list[Tensor]]
    """Bias and weight of skip, output1, output2."""
    queues: list[list[Tensor]]
    """Each layer's inputs (1, R) at the last (K - 1) * dilation + 1 positions, a ring by position."""

    def forward(self, h: Tensor, position: int) -> Tensor:
        """Layer 0's input (1, R) at a position -> the logits (1, Q) after it."""
        outputs: list[Tensor] = []
        for layer in range(len(self.dilations)):
            z = self.gated(h, layer, position)
            outputs.append(z)
            if layer < len(self.residual_weight):
                change = torch.addmm(self.residual_bias[layer], z, self.residual_weight[layer])
                h = (h + change) * self.residual_scale
        skip, output1, output2 = self.head
        a = torch.relu(torch.addmm(skip[0], torch.cat(outputs, -1), skip[1]) * self.skip_scale)
        return torch.addmm(output2[0], torch.relu(torch.addmm(output1[0], a, output1[1])), output2[1])

    def gated(self, h: Tensor, layer: int, position: int) -> Tensor:
        """A layer's input (1, R) -> what leaves its gate (1, D)."""
        queue = self.queues[layer]
        length, dilation = len(queue), self.dilations[layer]
        queue[position % length] = h
        # A ring is one longer than its reach: the oldest tap lies one after the newest.
        taps = [queue[(position + 1 + tap * dilation) % length] for tap in range(self.kernel)]
        a = torch.addmm(self.gate_bias[layer], torch.cat(taps, -1), self.gate_weight[layer])
        return torch.tanh(a[:, : self.gate]) * torch.sigmoid(a[:, self.gate :])


class SampleRnnStep(nn.Module):
    """All of a SampleRNN: recurrent state is carried, and every tier's slots wait until they are used."""

    frames: list[int]
    slots_of: list[int]
    """How many slots each tier hands down."""
    scale: float
    """A frame holds ``2 * (code / scale - 1)``."""
    dim: int
    cell: str
    skips: str
    relu_after_sum: bool
    expand: list[list[Tensor]]
    """Bias and weight of each tier; none where it feeds its frame as it is."""
    cells: list[list[list[Tensor]]]
    """Weights of each tier's layers, as `cell_step` takes them."""
    skip: list[list[Tensor]]
    """Bias and weight (layers D, D) of each tier; none without skips."""
    upsample: list[list[Tensor]]
    """Bias (slots or 1, 1, D) and weight (slots, D, D) of each tier."""
    embedding: Tensor
    input_weight: Tensor
    """(F E, D)"""
    perceptron: list[list[Tensor]]
    """Bias and weight of each hidden layer, then of the output."""
    codes: list[int]
    """The slowest frame's, oldest first."""
    states: list[list[Tensor]]
    """Each tier's layers': (1, D), or h and c (1, 2 D) of an LSTM."""
    slots: list[list[Tensor]]
    """Each tier's latest, (1, D)."""

    def forward(self, code: int, position: int) -> Tensor:
        """Append a code -> the logits (1, Q) of the one at the position."""
        self.codes.append(code)
        self.codes.pop(0)
        self.run_due_tiers(position)
        window = torch.embedding(self.embedding, torch.tensor(self.newest(self.frames[-1])))
        slot = self.slots[-1][position % self.slots_of[-1]]
        a = torch.addmm(slot, window.view(1, -1), self.input_weight)
        if self.relu_after_sum:
            a = torch.relu(a)
        for layer in range(len(self.perceptron) - 1):
            a = torch.relu(torch.addmm(self.perceptron[layer][0], a, self.perceptron[layer][1]))
        return torch.addmm(self.perceptron[-1][0], a, self.perceptron[-1][1])

    @torch.jit.export
    def run_due_tiers(self, position: int) -> None:
        """Run every tier whose frame begins at the position on the codes before it."""
        for tier in range(len(self.frames)):
            if position % self.frames[tier] == 0:
                out = self.run_tier(tier, self.tier_input(tier, position))
                bias, weight = self.upsample[tier]
                self.slots[tier] = list(torch.unbind(out @ weight + bias))

    def newest(self, count: int) -> list[int]:
        """The last codes."""
        return self.codes[len(self.codes) - count :]

    def tier_input(self, tier: int, position: int) -> Tensor:
        """What a tier's first layer sees: (1, D), or its frame (1, F)."""
        frame = self.frames[tier]
        y = 2 * (torch.tensor([self.newest(frame)], dtype=torch.float) / self.scale - 1)
        if len(self.expand[tier]) > 0:
            y = torch.addmm(self.expand[tier][0], y, self.expand[tier][1])
        if tier > 0:
            y = y + self.slots[tier - 1][position // frame % self.slots_of[tier - 1]]
        return y

    def run_tier(self, tier: int, y: Tensor) -> Tensor:
        """A tier's input -> its output (1, D); its layers' states go on."""
        outputs: list[Tensor] = []
        states, cells = self.states[tier], self.cells[tier]
        x = torch.cat([y, y], -1) if self.skips == "prism" else y
        for layer in range(len(cells)):
            states[layer] = cell_step(self.cell, cells[layer], x, states[layer])
            h = states[layer][:, : self.dim]
            outputs.append(h)
            x = torch.cat([h, y], -1) if self.skips == "mehri" else h
        if self.skips == "none":
            return outputs[-1]
        return torch.addmm(self.skip[tier][0], torch.cat(outputs, -1), self.skip[tier][1])


def cell_step(cell: str, weights: list[Tensor], x: Tensor, state: Tensor) -> Tensor:
    """Input (1, in) and state -> the state after: (1, D), or h and c (1, 2 D) of an LSTM."""
    if cell == "gru-theano":
        return gru_theano_step(weights, x, state)
    if cell.startswith("gru"):
        return torch.gru_cell(x, state, weights[0], weights[1], weights[2], weights[3])
    h, c = state.chunk(2, -1)
    after = torch.lstm_cell(x, [h, c], weights[0], weights[1], weights[2], weights[3])
    return torch.cat([after[0], after[1]], -1)


def gru_theano_step(weights: list[Tensor], x: Tensor, h: Tensor) -> Tensor:
    """Mehri's GRU: the reset gate comes before the product, and the update gate admits the candidate."""
    w_in, w_rec, bias = weights
    width = 2 * h.shape[-1]
    a = torch.addmm(bias, x, w_in)
    z, r = torch.sigmoid(torch.addmm(a[:, :width], h, w_rec[:, :width])).chunk(2, -1)
    candidate = torch.tanh(torch.addmm(a[:, width:], r * h, w_rec[:, width:]))
    return z * candidate + (1 - z) * h
