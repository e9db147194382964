"""The loss that is trained on, and the bits that are told."""

from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from streamer.models.samplernn import SampleRnn, State
from streamer.models.training.forecasting import FORECASTS, forecasts_of
from streamer.models.training.streams import Batch, Model

LOG2 = log(2)
"""Nats in a bit."""


def loss_of(
    model: Model, batch: Batch, state: State | None, dtype: torch.dtype | None
) -> tuple[Tensor, State | None]:
    """Mean cross-entropy (nats) of a batch's codes after their context, and the state at their end."""
    device = next(model.parameters()).device
    codes, given = (tensor.to(device, non_blocking=True) for tensor in (batch.codes, batch.given))
    forecasts, context = None, model.spec.receptive_field
    if model.spec.predictor:
        forecasts = batch.side[FORECASTS].to(device, non_blocking=True)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        if isinstance(model, SampleRnn):
            told = None if forecasts is None else forecasts[:, context:]
            logits, state = model(given, state, told, batch.positions)
            state = [[layer.detach() for layer in tier] for tier in state]
        else:
            told = None if forecasts is None else forecasts[:, 1:]
            logits = model(given[:, :-1], None, told, from_rest=False)
    targets = codes[:, -logits.shape[1] :]
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()), state


@torch.no_grad()
def held_out_bits(model: Model, codes: NDArray[np.integer], length: int) -> float:
    """Bits per sample of codes (T,) as one stream in full precision, from rest and the first context on."""
    context, forecasts = model.spec.receptive_field, forecasts_of(model.spec, codes)
    total, count, state = 0.0, 0, None
    for start in range(0, len(codes) - context - length + 1, length):
        part = slice(start, start + context + length)
        chunk = torch.from_numpy(codes[None, part].astype(np.int64))
        batch = Batch(chunk, chunk, {FORECASTS: forecasts[None, part]}, torch.tensor([start + context]))
        loss, state = loss_of(model, batch, state, None)
        total, count = total + loss.item(), count + 1
    return total / max(count, 1) / LOG2


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """The type that products are taken in: bfloat16 where the device is quicker at it, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else None
