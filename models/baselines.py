"""What a model must beat before it has learned anything that can be heard: bits of two simple predictors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.models.quantisers import Quantiser

Codes = NDArray[np.integer[Any]]
Amplitudes = NDArray[np.float64]

_BLOCK = 2**16
"""Codes, or windows of them, held at once; those of a whole album would fill the memory of a laptop."""
_MOST_BLOCKS = 256
"""That are learned from, evenly spread: 17 minutes at 16 kHz."""


def unigram_bits(training: Codes, held_out: Codes, levels: int) -> float:
    """Bits per held-out code under the training codes' histogram, one added to every count."""
    counts = np.ones(levels)
    for block in _spread(training):
        counts += np.bincount(block, minlength=levels)
    return float(-np.log2(counts / counts.sum())[held_out].mean())


def linear_predictor_bits(training: Codes, held_out: Codes, quantiser: Quantiser, order: int = 32) -> float:
    """Bits per held-out code under a fixed linear predictor and a discretised logistic around it.

    The predictor is the least-squares fit to the training codes' amplitudes; the logistic's scale,
    proportional to the recent mean error with a floor, is the best of a grid on the training codes.
    """
    table = quantiser.table()
    coefficients = _fit(training, table, order)
    learned = _predict(training[: 20 * len(held_out)], table, coefficients)
    grid = [(factor, floor) for factor in (0.4, 0.5, 0.6, 0.75, 0.9) for floor in (1e-4, 1e-3, 4e-3)]
    best = min(grid, key=lambda choice: _logistic_bits(learned, *choice))
    return _logistic_bits(_predict(held_out, table, coefficients), *best)


def _spread(codes: Codes, overlap: int = 0) -> Iterator[Codes]:
    """All blocks of codes (T,), or as many as are learned from; each with some codes of the next."""
    starts = np.arange(0, len(codes) - overlap, _BLOCK)
    for start in starts[:: -(-len(starts) // _MOST_BLOCKS)]:
        yield codes[start : start + _BLOCK + overlap]


def _fit(codes: Codes, table: Amplitudes, order: int) -> Amplitudes:
    """Least-squares predictor of the values of codes (T,) from the `order` before, newest first."""
    gram = np.zeros((order + 1, order + 1))
    for block in _spread(codes, order):
        windows = np.lib.stride_tricks.sliding_window_view(table[block], order + 1)[:, ::-1]
        gram += windows.T @ windows
    ridge = 1e-9 * np.trace(gram) + 1e-30  # digital silence alone has no inverse
    coefficients: Amplitudes = np.linalg.solve(gram[1:, 1:] + ridge * np.eye(order), gram[1:, 0])
    return coefficients


class _Predicted(NamedTuple):
    """Where codes fall from their predictions: each (T - order,), in amplitude."""

    lower: Amplitudes
    """From the prediction to the lower edge of the code's bin."""
    upper: Amplitudes
    recent_error: Amplitudes


def _predict(codes: Codes, table: Amplitudes, coefficients: Amplitudes) -> _Predicted:
    order, values = len(coefficients), table[codes]
    prediction = np.convolve(values[:-1], coefficients, "valid")
    edges = np.concatenate([[-np.inf], (table[1:] + table[:-1]) / 2, [np.inf]])
    lower, upper = (edges[codes[order:] + side] - prediction for side in (0, 1))
    return _Predicted(lower, upper, _recent_mean(np.abs(values[order:] - prediction)))


def _logistic_bits(predicted: _Predicted, factor: float, floor: float) -> float:
    scale = factor * predicted.recent_error + floor
    mass = _sigmoid(predicted.upper / scale) - _sigmoid(predicted.lower / scale)
    return float(-np.log2(np.maximum(mass, 1e-7)).mean())


def _sigmoid(x: Amplitudes) -> Amplitudes:
    half: Amplitudes = 0.5 * (1 + np.tanh(x / 2))
    return half


def _recent_mean(error: Amplitudes, memory: int = 64) -> Amplitudes:
    """Mean of the errors before each sample, over at most `memory` of them."""
    total = np.concatenate([[0.0], np.cumsum(error)])
    end = np.arange(len(error))
    start = np.maximum(end - memory, 0)
    mean: Amplitudes = (total[end] - total[start]) / np.maximum(end - start, 1)
    return mean
