"""What a network makes of a predictor's forecasts, read slowly in float64; and forecasts to make it of."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamer.models.specs import FEATURES, Spec


def forecasts_for(spec: Spec, rng: np.random.Generator, length: int) -> torch.Tensor | None:
    """Random forecasts (2, T, 4), if the spec has a predictor: what it may say of any sound."""
    if spec.predictor is None:
        return None
    rows = rng.uniform((-1, 0.001, 0.001, -9), (1, 0.3, 0.3, 9), (2, length, 4))
    return torch.tensor(rows, dtype=torch.float32)


def row_of(inputs: dict[str, torch.Tensor | None], row: int) -> NDArray[Any] | None:
    """The forecasts (T, 4) of one row of a batch."""
    forecasts = inputs["forecasts"]
    return None if forecasts is None else forecasts[row].numpy().astype(np.float64)


def slow_features(spec: Spec, forecasts: Any) -> NDArray[Any]:
    """Features (T, 16) of forecasts (T, 4), one after the other."""
    out = np.zeros((len(forecasts), FEATURES))
    for t, (prediction, fast, slow, residual) in enumerate(forecasts):
        mu = spec.levels - 1
        place = 11 * (1 + np.sign(prediction) * np.log1p(mu * abs(prediction)) / np.log1p(mu)) / 2
        out[t, int(place)] = 1 - place % 1
        if place % 1:
            out[t, int(place) + 1] = place % 1
        floor = spec.predictor.floor  # type: ignore[union-attr]
        out[t, 12:14] = (np.log(np.array([fast, slow]) + floor) + 5) / 2
        out[t, 14:] = np.tanh(residual / 2), np.log1p(abs(residual))
    return out


def slow_logits(spec: Spec, outputs: NDArray[Any], forecasts: Any) -> NDArray[Any]:
    """Logits (T, Q) of a network's outputs (T, Q + 2), the logistic's mass in each code's bin added."""
    if spec.predictor is None:
        return outputs
    mu, levels = spec.levels - 1, spec.levels
    borders = 2 * (np.arange(1, levels) - 0.5) / mu - 1  # of mu-law codes that are rounded to the nearest
    borders = np.sign(borders) * ((1 + mu) ** np.abs(borders) - 1) / mu
    logits = np.zeros((len(outputs), levels))
    for t, (prediction, fast, _, _) in enumerate(forecasts):
        shift, width = outputs[t, levels:]
        scale = (0.72 * fast + spec.predictor.floor) * np.exp(np.clip(width, -8, 8)) + 0.004 * abs(prediction)
        below = 0.5 + 0.5 * np.tanh((borders - prediction - scale * shift) / scale / 2)
        above = 0.5 - 0.5 * np.tanh((borders - prediction - scale * shift) / scale / 2)
        # Of two differences that are the same, the one that takes small numbers from each other is exact.
        below, above = np.r_[0, below, 1], np.r_[1, above, 0]
        mass = np.maximum(np.diff(below), -np.diff(above))
        far = below[:-1] > 0.5
        mass = np.where(far, -np.diff(above), np.diff(below))
        logits[t] = outputs[t, :levels] + np.log(mass + 1e-8)
    return logits
