"""At what precision a model's matrices are kept: the words a performer uses, and what each packs.

    fp32      as exact as float32, packed in whichever of two ways is read sooner
    bf16      weights of 16 bits
    int8      weights of 8 bits, inputs as they are
    int8dot   weights and inputs of 8 bits, multiplied by the processor's dot product; int8 where it has none

Biases, states, nonlinearities and logits are float32 throughout.
"""

from __future__ import annotations

from typing import NamedTuple

from streamer.kernels.packing import Packing
from streamer.models.errors import StreamerError

PRECISIONS = ("fp32", "bf16", "int8", "int8dot")

CACHE_BYTES = 3 * 2**19
"""What a core's own cache may be expected to hold; of more, every byte to read counts. The same on every
machine, so that a model sounds the same on every machine."""


class Scheme(NamedTuple):
    """How to pack a model's matrices."""

    matrix: Packing
    table: Packing
    """Rows of what each code adds at each place: few of many are read."""


def resolve(precision: str) -> str:
    """What a precision comes to on this processor; `StreamerError` if there is none of that name."""
    if precision not in PRECISIONS:
        raise StreamerError(f"no precision {precision!r}: choose {', '.join(PRECISIONS)}")
    from streamer.kernels import simd  # brings LLVM, which listing the precisions need not wait for

    return "int8" if precision == "int8dot" and not simd.dot_lanes() else precision


def scheme(precision: str, weights: int) -> Scheme:
    """The scheme of a resolved precision for matrices of so many weights in all."""
    if precision == "fp32":
        return Scheme(Packing.FP32 if 4 * weights <= CACHE_BYTES else Packing.FIXED24, Packing.FP32)
    matrix = {"bf16": Packing.BF16, "int8": Packing.INT8, "int8dot": Packing.DOT8}[precision]
    return Scheme(matrix, Packing.BF16)
