"""tanh, sigmoid, exp and what is built of them, against float64."""

import numpy as np
import pytest

from streamer.kernels import nonlinear
from streamer.kernels.compiling import compiled
from streamer.kernels.packing import pad, zeros

_EDGES = [0.0, -0.0, 1e-30, -1e-30, 7.9, 7.91, -7.91, 20.0, -20.0, 87.0, -87.0, 1e30, -1e30, 3.4e38, -3.4e38]


@compiled
def all_of_them(x, tanh, sigmoid, exp):
    for i in range(len(x)):
        tanh[i], sigmoid[i], exp[i] = nonlinear.tanh(x[i]), nonlinear.sigmoid(x[i]), nonlinear.exp(x[i])


@compiled
def through_bits(x):
    return nonlinear.bits_float(nonlinear.float_bits(x))


def arguments():
    """Dense where the functions bend, far out, and at the edges of float32."""
    rng = np.random.default_rng(0)
    dense = [rng.normal(0, scale, 50_000) for scale in (1e-4, 1e-2, 1, 4, 40)]
    return np.concatenate([*dense, np.linspace(-110, 95, 50_000), _EDGES]).astype(np.float32)


def compute(x):
    results = [np.zeros_like(x) for _ in range(3)]
    all_of_them(x, *results)
    return results


def test_tanh_and_sigmoid_are_within_2e_6():
    x = arguments()
    tanh, sigmoid, _ = compute(x)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(tanh - np.tanh(x.astype(np.float64))).max() < 2e-6
    assert np.abs(sigmoid - exact).max() < 2e-6
    assert np.abs(tanh).max() <= 1
    assert 0 <= sigmoid.min() <= sigmoid.max() <= 1


def test_tanh_is_odd_and_exact_near_zero():
    x = np.abs(arguments())
    assert np.array_equal(compute(x)[0], -compute(-x)[0])
    small = x[x < 1e-4]
    assert np.abs(compute(small)[0] / np.where(small == 0, 1, small) - (small != 0)).max() < 1e-6


def test_exp_is_within_1e_6_of_itself():
    x = arguments()
    x = x[(x > -87) & (x < 88.72)]
    exact = np.exp(x.astype(np.float64))
    assert np.abs(compute(x)[2] / exact - 1).max() < 1e-6


def test_exp_vanishes_before_denormals_and_overflows_where_float32_does():
    x = np.array([-np.inf, -3e38, -104, -87.34, -87.32, 88.72, 88.73, 100, 3e38, np.inf], np.float32)
    exp = compute(x)[2]
    assert not exp[:4].any()
    assert np.allclose(exp[4:6], np.exp(x[4:6].astype(np.float64)), rtol=1e-6, atol=0)
    assert exp[4] > np.finfo(np.float32).tiny
    assert np.isinf(exp[6:]).all()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_stays_nan_and_infinity_saturates(which):
    results = compute(np.array([np.nan, -np.inf, np.inf], np.float32))[which]
    assert np.isnan(results[0])
    assert np.allclose(results[1:], [[-1, 1], [0, 1], [0, np.inf]][which], atol=2e-6)


def test_gate_is_tanh_times_sigmoid():
    x = arguments()
    f, g = x[: x.size // 32 * 16], x[::-1][: x.size // 32 * 16]
    out = zeros(f.size)
    nonlinear.gate(out, np.concatenate([f, g]))
    with np.errstate(over="ignore"):
        exact = np.tanh(f.astype(np.float64)) / (1 + np.exp(-g.astype(np.float64)))
    assert np.abs(out - exact).max() < 2e-6


def test_gate_of_zeros_is_zero():
    out = zeros(16)
    nonlinear.gate(out, zeros(32))
    assert np.array_equal(out, np.zeros(16))


def listed(x):
    values, rows = zeros(x.size), np.zeros(x.size, np.int32)
    count = nonlinear.relu_sparse(x, values, rows)
    return rows[:count].tolist(), values[:count]


def test_relu_lists_what_is_left():
    x = pad([1.0, -2.0, 0.0, -0.0, np.nan, np.inf, -np.inf, 3.0])
    rows, values = listed(x)
    assert rows == [0, 4, 5, 7]
    assert np.array_equal(values, [1, np.nan, np.inf, 3], equal_nan=True)
    assert np.array_equal(x[:8], [1, 0, 0, 0, np.nan, np.inf, 0, 3], equal_nan=True)


def test_relu_can_keep_everything_and_nothing():
    assert listed(pad(np.ones(48)))[0] == list(range(48))
    assert listed(pad(-np.ones(48)))[0] == []


@pytest.mark.parametrize("seed", range(5))
def test_both_relus_agree(seed):
    x = pad(np.random.default_rng(seed).standard_normal(160))
    dense = x.copy()
    nonlinear.relu(dense)
    rows, values = listed(x)
    assert np.array_equal(x, dense)
    assert rows == np.flatnonzero(dense).tolist()
    assert np.array_equal(values, dense[rows])


def test_bits_and_back():
    x = arguments()[:1000]
    assert [through_bits(value) for value in x] == x.tolist()
