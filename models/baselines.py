"""What a model must beat before it has learned anything that can be heard: bits of two simple predictors."""

import numpy as np
from numpy.typing import NDArray

from streamer.models.quantisers import Quantiser

Codes = NDArray[np.int64]


def unigram_bits(training: Codes, held_out: Codes, levels: int) -> float:
    """Bits per held-out code under the training codes' histogram, one added to every count."""
    counts = np.bincount(training, minlength=levels) + 1.0
    return float(-np.log2(counts / counts.sum())[held_out].mean())


def linear_predictor_bits(training: Codes, held_out: Codes, quantiser: Quantiser, order: int = 32) -> float:
    """Bits per held-out code under a fixed linear predictor and a discretised logistic around it.

    The predictor is the least-squares fit to the training codes' amplitudes; the logistic's scale,
    proportional to the recent mean error with a floor, is the best of a grid on the training codes.
    """
    table = quantiser.table()
    coefficients = _fit(table[training], order)
    grid = [(factor, floor) for factor in (0.4, 0.5, 0.6, 0.75, 0.9) for floor in (1e-4, 1e-3, 4e-3)]
    part = training[: 20 * len(held_out)]
    best = min(grid, key=lambda choice: _logistic_bits(part, table, coefficients, *choice))
    return _logistic_bits(held_out, table, coefficients, *best)


def _fit(values: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Least-squares predictor of values (T,) from the `order` before, newest first."""
    windows = np.lib.stride_tricks.sliding_window_view(values, order + 1)[:, ::-1]
    gram = windows.T @ windows
    return np.linalg.solve(gram[1:, 1:] + 1e-9 * np.trace(gram) * np.eye(order), gram[1:, 0])


def _logistic_bits(
    codes: Codes, table: NDArray[np.float64], coefficients: NDArray[np.float64], factor: float, floor: float
) -> float:
    order = len(coefficients)
    windows = np.lib.stride_tricks.sliding_window_view(table[codes], order + 1)[:, ::-1]
    prediction = windows[:, 1:] @ coefficients
    scale = factor * _recent_mean(np.abs(windows[:, 0] - prediction)) + floor
    edges = np.concatenate([[-np.inf], (table[1:] + table[:-1]) / 2, [np.inf]])
    upper, lower = (edges[codes[order:] + side] for side in (1, 0))
    mass = _sigmoid((upper - prediction) / scale) - _sigmoid((lower - prediction) / scale)
    return float(-np.log2(np.maximum(mass, 1e-7)).mean())


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    half: NDArray[np.float64] = 0.5 * (1 + np.tanh(x / 2))
    return half


def _recent_mean(error: NDArray[np.float64], memory: int = 64) -> NDArray[np.float64]:
    """Mean of the errors before each sample, over at most `memory` of them."""
    total = np.concatenate([[0.0], np.cumsum(error)])
    end = np.arange(len(error))
    start = np.maximum(end - memory, 0)
    return (total[end] - total[start]) / np.maximum(end - start, 1)
