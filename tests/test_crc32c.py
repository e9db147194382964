"""CRC-32C: as RFC 3720 has it, and as bit by bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.models.importing import crc32c as module
from streamer.models.importing.crc32c import crc32c


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_examples_of_the_standard(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


@given(st.binary(max_size=300))
def test_equals_bit_by_bit(data: bytes) -> None:
    assert crc32c(data) == bit_by_bit(data)


@given(st.binary(max_size=300), st.integers(1, 70))
def test_chunks_join(data: bytes, chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
        assert crc32c(data) == bit_by_bit(data)


@pytest.mark.parametrize("size", [54_216, 65_537, 108_432, 108_433, 108_440, 150_001])
def test_long_messages(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)


def test_a_message_of_several_chunks_is_joined() -> None:
    """Zeros in front change nothing but what they make of the initial value: they are the same for both."""
    begin, end = bytes(2**22 + 5), np.random.default_rng(0).bytes(300)
    last = bit_by_bit(end) ^ bit_by_bit(bytes(300))
    assert crc32c(begin + end) == crc32c(begin + bytes(300)) ^ last
