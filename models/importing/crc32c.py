"""CRC-32C (Castagnoli, RFC 3720), the checksum of TensorFlow's files, by numpy alone: 300 MB in 0.8 s.

A CRC is the remainder of the message, a polynomial over GF(2), divided by the CRC's own polynomial P. P
divides x^6777 + x^484 + x^100 + 1 and, squared six times over, the same in x^64. So the first word of 64 bits
of a message may be taken out and added (xor) to the words 6777, 6777 - 100 and 6777 - 484 behind it, and the
remainder stays: a long message shrinks to its last 6777 words as fast as memory is read.

Those are cut into lanes of equal length that advance together, two bytes a step through one table, and
neighbouring lanes are then joined: the left one's sum passes over as many zero bytes as the right one is
long, which is a 32 x 32 matrix over GF(2). Zeros in front of a message change nothing but for the initial
value, which is added at the end.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = np.uint32(0x82F63B78)  # its bits reflected, the lowest power highest
_MULTIPLE = (6777, 484, 100)
"""Powers of x that with 1 add up to a multiple of the polynomial. Of those with four terms, which a search
gave, this one's first gap is the widest: so many words are folded at once."""
_CHUNK_BYTES = 2**22
_MASK_DELTA = 0xA282EAD8

Words = NDArray[np.uint32]


def crc32c(data: bytes | memoryview | NDArray[Any]) -> int:
    """Return the checksum of contiguous bytes."""
    octets = np.frombuffer(data, np.uint8)
    total = np.array([0xFFFFFFFF], np.uint32)
    for start in range(0, len(octets), _CHUNK_BYTES):
        chunk = octets[start : start + _CHUNK_BYTES]
        total = _pass_zeros(total, len(chunk)) ^ _linear(chunk)
    return int(~total[0])


def masked_crc32c(data: bytes | memoryview | NDArray[Any]) -> int:
    """Return the checksum as LevelDB stores it, rotated and moved, for files that hold checksums."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@cache
def _table() -> Words:
    """What 16 bits in the lower half of a sum become after 16 steps: (65536,)."""
    return _steps(np.arange(2**16, dtype=np.uint32), 16)


def _steps(sums: Words, count: int) -> Words:
    for _ in range(count):
        sums = (sums >> np.uint32(1)) ^ (_POLYNOMIAL * (sums & np.uint32(1)))
    return sums


@cache
def _zeros(log2_bytes: int) -> Words:
    """What each bit of a sum becomes after 2**log2_bytes zero bytes: the columns (32,) of the matrix."""
    if log2_bytes == 0:
        return _steps(np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32)), 8)
    half = _zeros(log2_bytes - 1)
    return _product(half, half)


def _product(matrix: Words, sums: Words) -> Words:
    out = np.zeros_like(sums)
    for bit, column in enumerate(matrix):
        out ^= column * ((sums >> bit) & 1)
    return out


def _pass_zeros(sums: Words, count: int) -> Words:
    """Return what the sums become after count zero bytes."""
    for log2_bytes in range(count.bit_length()):
        if count >> log2_bytes & 1:
            sums = _product(_zeros(log2_bytes), sums)
    return sums


def _linear(chunk: NDArray[np.uint8]) -> Words:
    """Return the sum (1,) of a chunk from the initial value 0, without the final inversion."""
    return _lanes(_fold(chunk) if len(chunk) > 16 * _MULTIPLE[0] else chunk)


def _fold(chunk: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a message of 6777 words that has the sum of a longer one."""
    power, *lower = _MULTIPLE
    padded = np.zeros(-(-len(chunk) // 8) * 8, np.uint8)
    padded[len(padded) - len(chunk) :] = chunk
    words = padded.view(np.uint64)
    last = len(words) - power
    for begin in range(0, last, power - lower[0]):
        block = words[begin : min(begin + power - lower[0], last)]
        for distance in (power, power - lower[0], power - lower[1]):
            words[begin + distance : begin + distance + len(block)] ^= block
    return words[last:].view(np.uint8)


def _lanes(chunk: NDArray[np.uint8]) -> Words:
    words_log2 = max(len(chunk) - 1, 1).bit_length() - 1
    steps_log2 = (words_log2 + 1) // 2
    padded = np.zeros(2 ** (words_log2 + 1), np.uint8)
    padded[len(padded) - len(chunk) :] = chunk
    table = _table()
    sums = np.zeros(2 ** (words_log2 - steps_log2), np.uint32)
    for words in np.ascontiguousarray(padded.view("<u2").reshape(len(sums), -1).T):
        sums = table[(sums & 0xFFFF) ^ words] ^ (sums >> 16)
    lane_log2 = steps_log2 + 1
    while len(sums) > 1:
        sums = _product(_zeros(lane_log2), sums[0::2]) ^ sums[1::2]
        lane_log2 += 1
    return sums
