"""Packed matrices stand for the weights that they were made from, as nearly as each packing promises."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.kernels.packing import (
    LANES,
    PANEL,
    Packing,
    Store,
    flatten,
    pack,
    pad,
    padded,
    size,
    unpack,
    zeros,
)

widths = st.integers(0, 300)
every_packing = pytest.mark.parametrize("packing", Packing)


def matrix(seed, inputs, outputs):
    """Columns differ widely in size, and rows do a little; one column in five is zero."""
    rng = np.random.default_rng(seed)
    columns = 10 ** rng.uniform(-12, 12, outputs) * (rng.random(outputs) > 0.2)
    return (rng.standard_normal((inputs, outputs)) * columns).astype(np.float32)


def largest_error(packing, weight):
    """What each weight may be off by."""
    steps = {Packing.FIXED24: 2**23 - 1, Packing.INT8: 127, Packing.DOT8: 127}
    if packing == Packing.FP32:
        return np.zeros(weight.shape)
    if packing == Packing.BF16:
        return np.abs(weight) * 2.0**-8
    largest = np.abs(weight).max(0, initial=0.0).astype(np.float64)
    return np.broadcast_to(largest * (0.5 / steps[packing] + 2.0**-23), weight.shape)


@every_packing
@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), widths, widths)
@example(0, 1, 1)
@example(1, PANEL + 1, 16)
@example(2, 2 * PANEL, 240)
def test_weights_come_back(packing, seed, inputs, outputs):
    weight = matrix(seed, inputs, outputs)
    back = unpack(pack(weight, packing))
    assert back.shape == (padded(inputs), padded(outputs))
    assert np.all(np.abs(back[:inputs, :outputs] - weight) <= largest_error(packing, weight))
    assert not back[inputs:].any()
    assert not back[:, outputs:].any()


@every_packing
def test_a_column_of_denormals_does_not_overflow(packing):
    weight = np.full((32, 16), 1e-42, np.float32)
    weight[:, 3] = 1.0
    back = unpack(pack(weight, packing))
    assert np.isfinite(back).all()
    assert np.abs(back - weight)[:, 4:].max() <= 1e-38
    assert np.abs(back[:, 3] - 1).max() < 1e-6


@every_packing
def test_zeros_are_exact(packing):
    assert not unpack(pack(np.zeros((40, 70), np.float32), packing)).any()


def test_a_store_lays_matrices_one_after_the_other():
    store = Store()
    weights = [matrix(seed, 40, 50) for seed in range(5)]
    starts = [store.add(weight, packing) for weight, packing in zip(weights, Packing, strict=True)]
    whole = store.bytes()
    ends = [*starts[1:], whole.size]
    for start, end, weight, packing in zip(starts, ends, weights, Packing, strict=True):
        assert size(whole, start) == end - start
        assert np.array_equal(unpack(whole[start:end]), unpack(pack(weight, packing)))


def test_fewer_bits_take_fewer_bytes():
    sizes = [pack(matrix(0, 256, 256), packing).size for packing in Packing]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[4] > sizes[3] > 256 * 256


def test_everything_starts_on_a_cache_line():
    arrays = [
        zeros(7),
        pad(np.ones((3, 5))),
        flatten(np.ones(3)),
        *(pack(np.ones((3, 5)), p) for p in Packing),
    ]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)


def test_padding_is_zero():
    assert padded(1) == padded(LANES) == LANES
    assert padded(LANES + 1) == 2 * LANES
    assert np.array_equal(pad(np.ones((2, 3))), np.pad(np.ones((2, 3)), ((0, 0), (0, 13))))
