"""The vector products against float64."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.kernels import simd
from streamer.kernels.compiling import compiled
from streamer.kernels.simd import LANES, matvec, matvec_rows, pad, padded, span, tail

packings = pytest.mark.parametrize("pack", [simd.pack_matrix, simd.pack_matrix24])
widths = st.integers(1, 200)


@compiled
def multiply(out, bias, weight, x):
    matvec(out, bias, weight, x)


@compiled
def multiply_rows(out, bias, weight, x, rows, count):
    matvec_rows(out, bias, weight, x, rows, count)


@compiled
def copy_part(values, start, length):
    return span(values, start, length).copy(), tail(values, start).copy()


def draw(seed, inputs, outputs):
    """A matrix whose columns differ widely in size, a bias, an input; and what a product may be off by."""
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((inputs, outputs)) * 10 ** rng.uniform(-3, 1, outputs)).astype(np.float32)
    bias, x = rng.standard_normal(outputs).astype(np.float32), rng.standard_normal(inputs).astype(np.float32)
    largest = np.abs(bias) + np.abs(x) @ np.abs(weight) + np.abs(weight).max(0) * np.abs(x).sum()
    return weight, bias, x, 2e-7 * largest * np.sqrt(inputs)


@packings
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), widths, widths)
@example(0, 1, 1)
@example(0, 64, 64)
@example(0, 256, 48)
@example(0, 33, 97)
def test_a_product_equals_float64(pack, seed, inputs, outputs):
    weight, bias, x, tolerance = draw(seed, inputs, outputs)
    out = simd.zeros(padded(outputs))
    multiply(out, pad(bias), pack(weight), pad(x))
    assert np.all(np.abs(out[:outputs] - simd.reference_matvec(bias, weight, x)) <= tolerance)
    assert not out[outputs:].any()


@packings
def test_a_product_may_add_to_its_own_output(pack):
    weight, bias, x, tolerance = draw(1, 80, 112)
    out = pad(bias)
    multiply(out, out, pack(weight), pad(x))
    assert np.all(np.abs(out - simd.reference_matvec(bias, weight, x)) <= tolerance)


@packings
def test_no_inputs_leave_the_bias(pack):
    bias = pad(np.arange(32))
    out = simd.zeros(32)
    multiply(out, bias, pack(np.zeros((0, 32))), simd.zeros(0))
    assert np.array_equal(out, bias)


@packings
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), widths, widths, st.floats(0, 1))
def test_rows_of_zero_inputs_can_be_left_out(pack, seed, inputs, outputs, share):
    weight, bias, x, tolerance = draw(seed, inputs, outputs)
    x[np.random.default_rng(seed).random(inputs) < share] = 0
    rows = np.zeros(padded(inputs), np.int64)
    rows[: np.count_nonzero(x)] = np.flatnonzero(x)
    out = simd.zeros(padded(outputs))
    multiply_rows(out, pad(bias), pack(weight), pad(x), rows, np.count_nonzero(x))
    assert np.all(np.abs(out[:outputs] - simd.reference_matvec(bias, weight, x)) <= tolerance)


def test_left_out_rows_are_not_read():
    weight = np.ones((32, 16), np.float32)
    weight[5] = np.nan
    out, rows = simd.zeros(16), np.delete(np.arange(32), 5)
    multiply_rows(out, simd.zeros(16), simd.pack_matrix(weight), pad(np.ones(32)), rows, 31)
    assert np.array_equal(out, np.full(16, 31))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), widths, widths)
def test_24_bits_are_within_half_a_step_of_the_largest(seed, inputs, outputs):
    weight = draw(seed, inputs, outputs)[0]
    packed = simd.pack_matrix24(weight)
    assert packed.size == simd.size24(padded(inputs), padded(outputs))
    for row in range(0, inputs, 7):
        out, one = simd.zeros(padded(outputs)), simd.zeros(padded(inputs))
        one[row] = 1
        multiply(out, simd.zeros(padded(outputs)), packed, one)
        error = np.abs(out[:outputs] - weight[row].astype(np.float64))
        assert np.all(
            error <= np.abs(weight).max(0) * (2.0**-24 + 2.0**-23)
        )  # and two roundings of the product


def test_infinity_and_nan_are_not_lost():
    out = simd.zeros(16)
    for value, check in ((np.inf, np.isinf), (np.nan, np.isnan)):
        x = pad(np.ones(16))
        x[3] = value
        multiply(out, simd.zeros(16), simd.pack_matrix(np.ones((16, 16))), x)
        assert check(out).all()


def test_everything_starts_on_a_cache_line():
    for array in (
        simd.zeros(7),
        pad(np.ones((3, 5))),
        simd.pack_matrix24(np.ones((3, 5))),
        simd.flatten(np.ones(3)),
    ):
        assert array.ctypes.data % 64 == 0


def test_padding_is_zero():
    assert padded(1) == padded(LANES) == LANES
    assert padded(LANES + 1) == 2 * LANES
    assert np.array_equal(pad(np.ones((2, 3))), np.pad(np.ones((2, 3)), ((0, 0), (0, 13))))


def test_parts_of_an_array():
    part, rest = copy_part(simd.flatten(np.arange(10)), 3, 4)
    assert part.tolist() == [3, 4, 5, 6]
    assert rest.tolist() == list(range(3, 10))


@pytest.mark.parametrize(
    "weight", [np.zeros(256), np.zeros((16, 16), np.float32), np.zeros(512, np.float32)[::2]]
)
def test_other_arrays_are_refused(weight):
    with pytest.raises(TypeError, match="kernels take 1-D C-contiguous arrays of float32 or uint8"):
        multiply(simd.zeros(16), simd.zeros(16), weight, simd.zeros(16))
