"""How matrices are laid out in memory, at five precisions, to be read once from front to back.

A matrix (in, out) becomes bytes that describe themselves: a header of one cache line, then *panels* of
inputs, each cut into *pieces* of 128 columns (the last ones of 64, 32, 16), each piece one row of inputs
after the other. What a weight is:

    FP32      a float32
    FIXED24   a whole number of 24 bits and a scale for each column: off by at most 2^-24 of the column's
              largest, which single precision adds up no more finely; three quarters of the bytes to read
    BF16      the upper half of a float32, rounded to nearest
    INT8      a whole number from -127 to 127 and a scale for each column
    DOT8      the same, for products in whole numbers (`simd`): panels of 512 inputs, each with scales and
              the columns' sums of its own

Widths are padded to `LANES` with zeros, so that no product needs a loop for a remainder.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

LANES = 16
PIECE = 8 * LANES
PANEL = 512
"""Inputs that one scale serves when they are quantised: 255 * 127 * 512 still is exact as a float32."""
HEADER_BYTES = 64
_CACHE_LINE = 64

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Packing(IntEnum):
    """What a packed weight is."""

    FP32 = 0
    FIXED24 = 1
    BF16 = 2
    INT8 = 3
    DOT8 = 4


def padded(width: int) -> int:
    """The next multiple of `LANES`."""
    return -(-width // LANES) * LANES


def zero_bytes(count: int) -> Bytes:
    """Zeros (count,) that start on a cache line: a vector load that straddles two lines costs double."""
    values = np.zeros(count + _CACHE_LINE, np.uint8)
    start = -values.ctypes.data % _CACHE_LINE
    return values[start : start + count]


def zeros(count: int) -> Floats:
    """Float32 zeros (count,) that start on a cache line."""
    return zero_bytes(4 * count).view(np.float32)


def flatten(*parts: NDArray[np.floating]) -> Floats:  # type: ignore[type-arg]
    """Lay arrays of any shape one after the other: float32 (sum of sizes,), on a cache line."""
    whole = zeros(sum(part.size for part in parts))
    np.concatenate([part.ravel() for part in parts] or [whole], out=whole)
    return whole


def pad(values: ArrayLike) -> Floats:
    """Copy (..., N) into zeros (..., padded(N)), C order."""
    source = np.asarray(values)
    shape = (*source.shape[:-1], padded(source.shape[-1]))
    out = zeros(int(np.prod(shape))).reshape(shape)
    out[..., : source.shape[-1]] = source
    return out


class Store:
    """Matrices packed one after the other, in the order in which a stepper reads them."""

    def __init__(self) -> None:
        self._parts: list[Bytes] = []
        self._size = 0

    def add(self, weight: ArrayLike, packing: Packing) -> int:
        """Pack a matrix (in, out) behind the others and return where it begins, in bytes."""
        at, matrix = self._size, pack(weight, packing)
        self._parts.append(matrix)
        self._size += matrix.size
        return at

    def bytes(self) -> Bytes:
        """All of it, on a cache line."""
        whole = zero_bytes(self._size)
        np.concatenate(self._parts or [whole], out=whole)
        return whole


def pack(weight: ArrayLike, packing: Packing) -> Bytes:
    """Pack a matrix (in, out)."""
    matrix = np.ascontiguousarray(pad(pad(weight).T).T)
    parts = [
        _PACK[packing](matrix[rows, columns])
        for rows in _panels(len(matrix), packing)
        for columns in pieces(matrix.shape[1])
    ]
    header = np.zeros(HEADER_BYTES, np.uint8)
    header.view(np.int64)[:4] = packing, *matrix.shape, HEADER_BYTES + sum(part.size for part in parts)
    out = zero_bytes(HEADER_BYTES + sum(part.size for part in parts))
    np.concatenate([header, *parts], out=out)
    return out


def size(matrices: Bytes, at: int = 0) -> int:
    """Bytes of the packed matrix that begins there, its header included."""
    return int(matrices[at : at + HEADER_BYTES].view(np.int64)[3])


def unpack(matrix: Bytes) -> NDArray[np.float64]:
    """The weights (in, out), padded, that a packed matrix stands for; what `pack` rounded off is lost."""
    packing, inputs, outputs = (int(word) for word in matrix[:HEADER_BYTES].view(np.int64)[:3])
    out = np.zeros((inputs, outputs))
    at = HEADER_BYTES
    for rows in _panels(inputs, Packing(packing)):
        for columns in pieces(outputs):
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            size = piece_bytes(Packing(packing), *shape)
            out[rows, columns] = _UNPACK[Packing(packing)](matrix[at : at + size], shape)
            at += size
    return out


def pieces(outputs: int) -> Iterator[slice]:
    """The columns of each piece."""
    start = 0
    for width in (PIECE, PIECE // 2, PIECE // 4, PIECE // 8):
        while outputs - start >= width:
            yield slice(start, start + width)
            start += width


def piece_bytes(packing: Packing, inputs: int, width: int) -> int:
    """Bytes of one piece."""
    return width * (inputs * WEIGHT_BYTES[packing] + COLUMN_BYTES[packing])


WEIGHT_BYTES = {
    Packing.FP32: 4,
    Packing.FIXED24: 3,
    Packing.BF16: 2,
    Packing.INT8: 1,
    Packing.DOT8: 1,
}
COLUMN_BYTES = {
    Packing.FP32: 0,
    Packing.FIXED24: 4,
    Packing.BF16: 0,
    Packing.INT8: 4,
    Packing.DOT8: 8,
}
"""What comes before a piece's rows: scales, and sums, float32 each."""


def _panels(inputs: int, packing: Packing) -> Iterator[slice]:
    step = PANEL if packing == Packing.DOT8 else max(inputs, 1)
    return (slice(start, min(start + step, inputs)) for start in range(0, max(inputs, 1), step))


def _bytes_of(*parts: NDArray[np.generic]) -> Bytes:
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8).ravel() for part in parts])


def _floats_of(piece: Bytes, start: int, count: int) -> NDArray[np.float64]:
    """Floats that lie inside the bytes, from number `start` on."""
    return np.frombuffer(piece.tobytes(), np.float32, count, 4 * start).astype(np.float64)


def _scale(block: Floats, largest: int) -> tuple[NDArray[np.int32], Floats]:
    """Whole numbers from -largest to largest, and each column's scale."""
    extent = np.abs(block).max(0, initial=0.0)
    scales = (np.where(extent > 0, extent, 1).astype(np.float64) / largest).astype(np.float32)
    # A scale that has become denormal is coarse: the quotient may pass the largest by far.
    wholes = np.rint(block / np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float64))
    return np.clip(wholes, -largest, largest).astype(np.int32), scales


def _pack_fp32(block: Floats) -> Bytes:
    return _bytes_of(block)


def _unpack_fp32(piece: Bytes, shape: tuple[int, int]) -> NDArray[np.float64]:
    return _floats_of(piece, 0, shape[0] * shape[1]).reshape(shape)


def _pack_fixed24(block: Floats) -> Bytes:
    """Scales; then in each row the upper 16 bits of all and the lower 8 bits of all."""
    wholes, scales = _scale(block, 2**23 - 1)
    upper = (wholes >> 8).astype(np.int16).view(np.uint8)
    lower = (wholes & 0xFF).astype(np.uint8)
    return _bytes_of(scales, np.hstack([upper, lower]))


def _unpack_fixed24(piece: Bytes, shape: tuple[int, int]) -> NDArray[np.float64]:
    width = shape[1]
    rows = piece[4 * width :].reshape(shape[0], 3 * width)
    upper = np.ascontiguousarray(rows[:, : 2 * width]).view(np.int16).astype(np.int32)
    return ((upper << 8) | rows[:, 2 * width :]) * _floats_of(piece, 0, width)


def _pack_bf16(block: Floats) -> Bytes:
    """Two vectors of columns in one of 32-bit words, the first in the lower halves; one alone as it is."""
    bits = np.ascontiguousarray(block).view(np.uint32)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return _bytes_of(_paired(halves))


def _paired(halves: NDArray[np.uint16]) -> NDArray[np.uint16]:
    if halves.shape[1] == LANES:
        return halves
    return (
        halves.reshape(len(halves), halves.shape[1] // (2 * LANES), 2, LANES)
        .swapaxes(2, 3)
        .reshape(halves.shape)
    )


def _unpack_bf16(piece: Bytes, shape: tuple[int, int]) -> NDArray[np.float64]:
    halves = np.frombuffer(piece.tobytes(), np.uint16).reshape(shape)
    if shape[1] > LANES:
        halves = halves.reshape(shape[0], shape[1] // (2 * LANES), LANES, 2).swapaxes(2, 3).reshape(shape)
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _pack_int8(block: Floats) -> Bytes:
    wholes, scales = _scale(block, 127)
    return _bytes_of(scales, wholes.astype(np.int8))


def _unpack_int8(piece: Bytes, shape: tuple[int, int]) -> NDArray[np.float64]:
    return piece[4 * shape[1] :].view(np.int8).reshape(shape) * _floats_of(piece, 0, shape[1])


def _pack_dot8(block: Floats) -> Bytes:
    """Scales and sums; then for each four inputs, every column's four weights together."""
    wholes, scales = _scale(block, 127)
    fours = wholes.astype(np.int8).reshape(len(block) // 4, 4, block.shape[1]).swapaxes(1, 2)
    return _bytes_of(scales, wholes.sum(0).astype(np.float32), fours)


def _unpack_dot8(piece: Bytes, shape: tuple[int, int]) -> NDArray[np.float64]:
    fours = piece[8 * shape[1] :].view(np.int8).reshape(shape[0] // 4, shape[1], 4)
    return fours.swapaxes(1, 2).reshape(shape) * _floats_of(piece, 0, shape[1])


_PACK = {
    Packing.FP32: _pack_fp32,
    Packing.FIXED24: _pack_fixed24,
    Packing.BF16: _pack_bf16,
    Packing.INT8: _pack_int8,
    Packing.DOT8: _pack_dot8,
}
_UNPACK = {
    Packing.FP32: _unpack_fp32,
    Packing.FIXED24: _unpack_fixed24,
    Packing.BF16: _unpack_bf16,
    Packing.INT8: _unpack_int8,
    Packing.DOT8: _unpack_dot8,
}
