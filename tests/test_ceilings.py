"""The loops that speeds are measured against really read and multiply all that they say they do."""

import numpy as np
import pytest

from streamer import ceilings
from streamer.ceilings import ARITHMETIC, GRAIN, VECTORS, has_arithmetic, sum_lanes

STEPS, PASSES = 5, 3


def filled(count: int, seed: int = 0) -> np.ndarray:
    memory = ceilings.filled_memory(count)
    memory[:] = np.random.default_rng(seed).integers(0, 256, count, np.uint8)
    return memory


def words(memory: np.ndarray, start: int, size: int) -> int:
    return int(np.bitwise_xor.reduce(memory[start : start + size].view(np.int64)))


def test_reading_takes_every_word_of_what_is_due() -> None:
    memory = filled(8 * GRAIN)
    # A table of three rows that take turns, and two grains that are read every second sample.
    parts = np.array([[0, GRAIN, 3, 1], [4 * GRAIN, 2 * GRAIN, 1, 2]])
    expected = 0
    for position in range(3, 3 + 4):
        expected ^= words(memory, position % 3 * GRAIN, GRAIN)
        if position % 2 == 0:
            expected ^= words(memory, 4 * GRAIN, 2 * GRAIN)
    assert ceilings.read_samples(memory, parts, 3, 4) == expected


def packed(precision: str, values: np.ndarray) -> np.ndarray:
    """Whole numbers (STEPS, VECTORS, lanes * per_sum) as `multiply_add` wants them."""
    if precision == "bf16":  # two vectors share 32-bit words: the even one below, the odd one above
        halves = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return halves.reshape(STEPS, VECTORS // 2, 2, -1).swapaxes(-1, -2).reshape(-1)
    if precision == "fixed24":
        upper = (values >> 8).astype(np.int16).reshape(STEPS, -1).view(np.uint8)
        lower = (values & 0xFF).astype(np.uint8).reshape(STEPS, -1)
        return np.concatenate([upper, lower], -1).reshape(-1)
    return values.astype(ARITHMETIC[precision].weight).reshape(-1)


@pytest.mark.parametrize("precision", list(ARITHMETIC))
def test_multiplying_takes_every_weight(precision: str) -> None:
    if not has_arithmetic(precision):
        pytest.skip(f"this processor has no instruction for {precision}")
    arithmetic, rng = ARITHMETIC[precision], np.random.default_rng(1)
    width = sum_lanes(precision) * arithmetic.per_sum
    values = rng.integers(-120, 121, (STEPS, VECTORS, width))
    x = rng.integers(0, 100, width)
    sums = np.zeros((VECTORS, sum_lanes(precision)), np.int32 if arithmetic.per_sum > 1 else np.float32)
    ceilings.multiply_add(packed(precision, values), x.astype(arithmetic.x), sums.reshape(-1), PASSES)
    products = (values * x).reshape(STEPS, VECTORS, -1, arithmetic.per_sum)
    np.testing.assert_array_equal(sums, PASSES * products.sum((0, -1)))


@pytest.mark.parametrize("precision", list(ARITHMETIC))
def test_operands_say_how_much_a_pass_multiplies(precision: str) -> None:
    given = ceilings.operands(precision)
    assert given.multiply_adds * ARITHMETIC[precision].weight_bytes == given.weights.nbytes
    assert 0.9 * ceilings.BLOCK_BYTES < given.weights.nbytes <= ceilings.BLOCK_BYTES
    assert given.weights.ctypes.data % 64 == 0
    assert len(given.sums) == VECTORS * sum_lanes(precision)


def test_memory_is_written_and_begins_on_a_cache_line() -> None:
    memory = ceilings.filled_memory(1000)
    assert (len(memory), memory.ctypes.data % 64) == (1000, 0)
    assert memory.all()
