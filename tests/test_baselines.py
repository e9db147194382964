"""The simple predictors give what theory says of signals whose entropy is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from streamer.models.baselines import linear_predictor_bits, unigram_bits
from streamer.models.quantisers import Quantiser

Codes = NDArray[np.int64]
FINE = Quantiser(kind="linear-prism", levels=4096)
STEP = 2 / 4096


def halves(codes: Codes) -> tuple[Codes, Codes]:
    middle = len(codes) // 2
    return codes[:middle], codes[middle:]


# --- unigram


def test_unigram_bits_are_the_entropy_of_a_known_distribution() -> None:
    codes = np.random.default_rng(0).choice(4, 200_000, p=[0.5, 0.25, 0.125, 0.125])
    # Entropy 1.75 bits; the mean over 100,000 codes has a deviation of 0.8 / sqrt(1e5) = 0.003.
    assert unigram_bits(*halves(codes), levels=4) == pytest.approx(1.75, abs=0.01)


def test_unigram_bits_of_what_was_never_seen_are_those_of_one_added_count() -> None:
    assert unigram_bits(np.zeros(6, np.int64), np.array([1]), levels=2) == pytest.approx(3.0)  # 1 of 8
    assert unigram_bits(np.zeros(6, np.int64), np.array([0]), levels=2) == pytest.approx(np.log2(8 / 7))


# --- linear prediction


def autoregressive(sigma: float, count: int = 200_000) -> NDArray[np.float64]:
    """A resonance driven by Gaussian noise: x[t] = 1.6 x[t-1] - 0.8 x[t-2] + sigma e[t]."""
    noise = np.random.default_rng(1).standard_normal(count)
    signal: NDArray[np.float64] = lfilter([sigma], [1, -1.6, 0.8], noise)
    return signal


def logistic_cross_entropy(sigma: float) -> float:
    """Bits of Gaussian noise of deviation sigma under the logistic that fits it best."""
    x = np.linspace(-8, 8, 20_001)
    gaussian = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    costs = []
    for scale in np.linspace(0.45, 0.7, 51):
        z = np.abs(x) / scale
        costs.append(np.trapezoid(gaussian * (z + 2 * np.log1p(np.exp(-z)) + np.log(scale)), x))
    return float(min(costs) / np.log(2) + np.log2(sigma))


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_linear_prediction_reaches_the_innovations_entropy(sigma: float) -> None:
    signal = autoregressive(sigma)
    assert np.abs(signal).max() < 0.99  # nothing is clipped
    bits = linear_predictor_bits(*halves(FINE.encode(signal)), FINE)
    # Quantised this finely (sigma is 20 steps or more), a code costs the density's cross-entropy less log2 of
    # a step. Below that no predictor of this shape comes but by chance: the mean over 100,000 codes has a
    # deviation of 0.002. Above it, the scale is a guess from 64 errors, which strays by a tenth (0.007 bit);
    # the grid misses the best factor by a twentieth (0.001), rounding adds noise of 1/12 of a step squared
    # (0.001 at most).
    theory = logistic_cross_entropy(sigma) - np.log2(STEP)
    assert theory - 0.01 < bits < theory + 0.02


def test_linear_prediction_follows_the_loudness() -> None:
    """Half quiet, half loud by 32 times, in turns of 0.1 s: one fixed scale could not fit both."""
    envelope = np.where(np.arange(200_000) // 1600 % 2, 0.0016, 0.05)
    noise = envelope * np.random.default_rng(2).standard_normal(200_000)
    bits = linear_predictor_bits(*halves(FINE.encode(noise)), FINE)
    each = [logistic_cross_entropy(sigma) - np.log2(STEP) for sigma in (0.0016, 0.05)]
    # 64 samples of each turn's 1,600 are spent on noticing that it has begun: 4 % of up to 5 bits.
    assert bits == pytest.approx(np.mean(each), abs=0.25)


def test_a_sine_in_noise_is_far_cheaper_to_linear_prediction_than_to_frequencies_alone() -> None:
    quantiser = Quantiser(levels=256)
    t = np.arange(100_000)
    noise = 0.002 * np.random.default_rng(3).standard_normal(len(t))
    codes = halves(quantiser.encode(0.7 * np.sin(2 * np.pi * t / 36.36) + noise))
    unigram = unigram_bits(*codes, quantiser.levels)
    assert 5.5 < unigram < 8
    assert linear_predictor_bits(*codes, quantiser) < unigram - 3


def test_white_noise_is_no_cheaper_to_linear_prediction() -> None:
    quantiser = Quantiser(levels=256)
    codes = halves(quantiser.encode(0.1 * np.random.default_rng(4).standard_normal(100_000)))
    unigram = unigram_bits(*codes, quantiser.levels)
    assert unigram - 0.05 < linear_predictor_bits(*codes, quantiser) < unigram + 0.2


def test_the_order_is_what_the_predictor_can_see() -> None:
    """x[t] = 0.95 x[t-40] + e[t] is noise to an order of 32 and predictable to one of 40."""
    noise = np.random.default_rng(5).standard_normal(200_000)
    signal = lfilter([0.02], [1, *[0] * 39, -0.95], noise)
    codes = halves(FINE.encode(signal))
    gain = linear_predictor_bits(*codes, FINE, order=32) - linear_predictor_bits(*codes, FINE, order=40)
    # The variance falls by 1 / (1 - 0.95^2).
    assert gain == pytest.approx(np.log2(1 / (1 - 0.95**2)) / 2, abs=0.05)


def test_digital_silence_is_predicted_as_closely_as_the_scales_floor_allows() -> None:
    quantiser = Quantiser(levels=255)  # an odd number: silence is exactly 0, and nothing can be fitted to it
    codes = np.full(5000, quantiser.silence)
    reach = (quantiser.table()[128] - quantiser.table()[127]) / 2 / 1e-4
    assert linear_predictor_bits(codes, codes, quantiser) == pytest.approx(-np.log2(np.tanh(reach / 2)))
