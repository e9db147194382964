"""Randomness as a function of place: Philox4x32-10 (Salmon et al., "Parallel random numbers", 2011).

A counter-based generator has no state to carry: the number for a sample is computed from (seed, voice, sample
index) alone, and so is the same whatever the block sizes, rewinds, batches or threads.
"""

from __future__ import annotations

import numpy as np

from streamer.kernels.compiling import compiled

_U = np.uint64
_LOW = _U(0xFFFFFFFF)
_WORD = _U(32)
_MULTIPLIER_0, _MULTIPLIER_1 = _U(0xD2511F53), _U(0xCD9E8D57)
_WEYL_0, _WEYL_1 = _U(0x9E3779B9), _U(0xBB67AE85)

Words = tuple[np.uint64, np.uint64, np.uint64, np.uint64]


@compiled
def philox(c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64) -> Words:
    """Four random words of 32 bits (held in uint64) from a counter of four and a key of two."""
    for _ in range(10):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0 = (product_1 >> _WORD) ^ c1 ^ k0
        c1 = product_1 & _LOW
        c2 = (product_0 >> _WORD) ^ c3 ^ k1
        c3 = product_0 & _LOW
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


@compiled
def uniform(seed: int, voice: int, index: int) -> float:
    """The random number of one sample, in [0, 1), with 53 bits.

    seed and index: int64, all 64 bits count. voice: its low 32 bits count.
    """
    at, key = _U(index), _U(seed)
    high, low, _, _ = philox(at & _LOW, at >> _WORD, _U(voice) & _LOW, _U(0), key & _LOW, key >> _WORD)
    bits = (high << _U(21)) ^ (low >> _U(11))
    return np.float64(bits) * 2.0**-53
