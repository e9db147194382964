"""What a network makes of a predictor's forecasts, in torch: features that go in, and what joins its logits.

The logits of a network with a predictor are its own, one for each code, and the logarithm of how probable the
predictor has each code (a product of experts, Hinton 2002). Two further outputs of the network move the
prediction, by so many scales, and multiply the scale by a power of e: a network governs how loud it plays.
"""

from math import log1p
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from streamer.models.predictor import EPSILON, FACTOR, GROWTH, HATS, WIDEST, edges
from streamer.models.specs import PredictorSpec


def features(spec: PredictorSpec, levels: int, forecasts: Tensor) -> Tensor:
    """What a network is told of forecasts (.., FORECAST): (.., V).

    Hats over the companded prediction, as a table's rows with interpolation between them; then the logarithms
    of both means of errors, and the last residual, squashed, and its size.
    """
    prediction, fast, slow, residual = _exact(forecasts).unbind(-1)
    mu = levels - 1
    companded = torch.sign(prediction) * torch.log1p(mu * prediction.abs()) / log1p(mu)
    place = (companded + 1) * ((HATS - 1) / 2)
    hats = F.relu(1 - (place[..., None] - torch.arange(HATS, device=place.device)).abs())
    means = [(torch.log(mean + spec.floor) + 5) / 2 for mean in (fast, slow)]
    others = torch.stack([*means, torch.tanh(residual / 2), torch.log1p(residual.abs())], -1)
    return torch.cat([hats, others], -1)


def log_mass(prediction: Tensor, scale: Tensor, levels: int) -> Tensor:
    """Logarithm of how probable each code is by a logistic, at least `EPSILON`: two (..) -> (.., Q)."""
    mass: Tensor = _LogMass.apply(prediction, scale, levels)  # type: ignore[no-untyped-call]
    return mass


class _LogMass(torch.autograd.Function):
    """`log_mass` with its gradient by hand: a third of the time of a training step's most expensive sum."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, scale: Tensor, levels: int) -> Tensor:
        bounds = torch.tensor(edges(levels), dtype=prediction.dtype, device=prediction.device)
        x = (bounds - prediction[..., None]) / scale[..., None]
        below, above = torch.sigmoid(x), torch.sigmoid(-x)
        # sigmoid(b) - sigmoid(a) as a product, which is exact far out, too.
        within = -torch.expm1((bounds[:-1] - bounds[1:]) / scale[..., None])
        mass = below[..., 1:] * above[..., :-1] * within + EPSILON
        ctx.save_for_backward(scale, x, below * above, mass)
        return torch.log(mass)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        scale, x, slope, mass = ctx.saved_tensors
        weight = F.pad(gradients[0] / mass, (1, 1))  # a bound ends one code and begins the next
        at_bounds = (weight[..., :-1] - weight[..., 1:]) * slope
        return -at_bounds.sum(-1) / scale, -(at_bounds * x).sum(-1) / scale, None


def joined(spec: PredictorSpec, outputs: Tensor, forecasts: Tensor) -> Tensor:
    """Logits (.., Q) from a network's outputs (.., Q + 2) and forecasts (.., FORECAST), which they adjust."""
    logits, shift, width = _exact(outputs).tensor_split([-2, -1], -1)
    prediction, fast = _exact(forecasts[..., :2]).unbind(-1)
    factor = torch.exp(width[..., 0].clamp(-WIDEST, WIDEST))
    scale = (FACTOR * fast + spec.floor) * factor + GROWTH * prediction.abs()
    return logits + log_mass(prediction + scale * shift[..., 0], scale, logits.shape[-1])


def _exact(values: Tensor) -> Tensor:
    """In float32 at least, whatever products are taken in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
