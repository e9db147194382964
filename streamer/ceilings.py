"""Compiled loops that only read, or only multiply and add: what no stepper on this machine can beat.

    read_samples     reads weights in the order and as often as a stepper must, and makes nothing of them
    multiply_add     one precision's arithmetic, unpacking included, on weights that stay in the nearest cache

Both are LLVM vector code, like the products of `streamer.kernels`, and give back what they computed, so that
nothing can be optimised away and tests can check it. The last one, `reference_passes`, is the fixed loop that
speeds are compared with from one day to another: change it and every stored comparison loses its meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numpy.typing import NDArray

from streamer.kernels.compiling import compiled, intrinsic
from streamer.kernels.simd import dot_lanes

cgutils: Any = _cgutils  # untyped

GRAIN = 512
"""Bytes that reading takes at a time: eight loads of a cache line, into eight sums that do not wait for each
other."""
VECTORS = 8
"""Vectors of sums that multiplying and adding keeps: two a cycle, each after four cycles."""
BLOCK_BYTES = 16384
"""Weights that `multiply_add` goes round: they stay in the nearest cache, for the sums are in registers."""
REFERENCE_BYTES = 2**20

_CACHE_LINE = 64
_BYTE, _SHORT, _WORD, _LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_SINGLE = ir.FloatType()
_ALL = _LONG(VECTORS)

Memory = NDArray[np.uint8]


def filled_memory(count: int) -> Memory:
    """Bytes (count,) on a cache line, written once: untouched pages would all be the same page of zeros."""
    whole = np.full(count + _CACHE_LINE, 1, np.uint8)
    start = -whole.ctypes.data % _CACHE_LINE
    return whole[start : start + count]


# --- reading ------------------------------------------------------------------------------------------------


def _new_sum(builder: Any, kind: Any) -> Any:
    place = cgutils.alloca_once(builder, kind)
    builder.store(ir.Constant(kind, None), place)
    return place


def _load(builder: Any, base: Any, offset: int, element: Any, lanes: int) -> Any:
    """A vector of elements from so many bytes after a byte pointer."""
    place = builder.bitcast(builder.gep(base, [_LONG(offset)]), ir.VectorType(element, lanes).as_pointer())
    return builder.load(place, align=1)


@intrinsic
def _xor(typing_context: Any, memory: Any, start: Any, count: Any) -> Any:
    """Exclusive or of all 64-bit words of memory[start : start + count], count a multiple of GRAIN."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _CACHE_LINE // 8
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        base = builder.gep(array.data, [arguments[1]])
        sums = [_new_sum(builder, ir.VectorType(_LONG, lanes)) for _ in range(GRAIN // _CACHE_LINE)]
        turns = builder.udiv(arguments[2], _LONG(GRAIN))
        with cgutils.for_range(builder, turns, intp=_LONG) as loop:
            here = builder.gep(base, [builder.mul(loop.index, _LONG(GRAIN))])
            for i, place in enumerate(sums):
                read = _load(builder, here, i * _CACHE_LINE, _LONG, lanes)
                builder.store(builder.xor(builder.load(place), read), place)
        whole = reduce(builder.xor, map(builder.load, sums))
        return reduce(builder.xor, [builder.extract_element(whole, _WORD(lane)) for lane in range(lanes)])

    return types.int64(memory, types.int64, types.int64), codegen


@compiled
def read_samples(memory: Memory, parts: NDArray[np.int64], first: int, count: int) -> int:
    """Read what each of `count` samples from position `first` on reads; the words read, by exclusive or.

    parts (P, 4): where in memory a part begins, how many bytes one reading of it takes (a multiple of GRAIN),
    how many such sets lie there one after the other and take turns, and every how many samples it is read.
    """
    found = 0
    for position in range(first, first + count):
        for i in range(len(parts)):
            start, size, sets, every = parts[i]
            if position % every == 0:
                found ^= _xor(memory, start + position // every % sets * size, size)
    return found


# --- multiplying and adding ---------------------------------------------------------------------------------


@cache
def lanes() -> int:
    """Floats in this processor's widest vector."""
    features = llvmlite.binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


_DOT = {
    16: ("llvm.x86.avx512.vpdpbusd.512", _WORD),
    8: ("llvm.x86.avx512.vpdpbusd.256", _WORD),
    4: ("llvm.aarch64.neon.sdot.v4i32.v16i8", _BYTE),
}
"""By lanes: the instruction that adds four products of bytes to every 32-bit sum, and what its factors are.
LLVM 22 has vpdpbusd take bytes, and still understands the 32-bit words of all versions before."""


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = a.type
    function = builder.module.declare_intrinsic(
        f"llvm.fmuladd.v{kind.count}f32", (), ir.FunctionType(kind, [kind] * 3)
    )
    return builder.call(function, [a, b, c])


def _vectors(element: Any) -> Any:
    return ir.VectorType(element, lanes())


def _unpack_single(builder: Any, here: Any, v: int) -> Any:
    return _load(builder, here, 4 * lanes() * v, _SINGLE, lanes())


def _unpack_24(builder: Any, here: Any, v: int) -> Any:
    """Upper 16 bits of all vectors, then the lower 8 bits of all."""
    width, words = lanes(), _vectors(_WORD)
    upper = builder.sext(_load(builder, here, 2 * width * v, _SHORT, width), words)
    lower = builder.zext(_load(builder, here, width * (2 * VECTORS + v), _BYTE, width), words)
    whole = builder.or_(builder.shl(upper, ir.Constant(words, [8] * width)), lower)
    return builder.sitofp(whole, _vectors(_SINGLE))


def _unpack_bf16(builder: Any, here: Any, v: int) -> Any:
    """Two vectors in one load: one in the lower halves of its 32-bit words, one in the upper halves."""
    width, words = lanes(), _vectors(_WORD)
    pairs = _load(builder, here, 4 * width * (v // 2), _WORD, width)
    if v % 2:
        single = builder.and_(pairs, ir.Constant(words, [0xFFFF0000] * width))
    else:
        single = builder.shl(pairs, ir.Constant(words, [16] * width))
    return builder.bitcast(single, _vectors(_SINGLE))


def _unpack_int8(builder: Any, here: Any, v: int) -> Any:
    byte = _load(builder, here, lanes() * v, _BYTE, lanes())
    return builder.sitofp(builder.sext(byte, _vectors(_WORD)), _vectors(_SINGLE))


def _dot_bytes(builder: Any, here: Any, v: int, x: Any, total: Any) -> Any:
    """Four products a sum; x are whole numbers of 0 to 127, the same whether the instruction has signs."""
    width = dot_lanes()
    name, element = _DOT[width]
    sums, factors = ir.VectorType(_WORD, width), ir.VectorType(element, 32 * width // element.width)
    function = builder.module.declare_intrinsic(name, (), ir.FunctionType(sums, [sums, factors, factors]))
    weights = _load(builder, here, 4 * width * v, _BYTE, 4 * width)
    return builder.call(function, [total, builder.bitcast(x, factors), builder.bitcast(weights, factors)])


def _by_unpacking(unpack: Callable[..., Any]) -> Callable[..., Any]:
    def add(builder: Any, here: Any, v: int, x: Any, total: Any) -> Any:
        return _multiply_add(builder, unpack(builder, here, v), x, total)

    return add


class _Arithmetic(NamedTuple):
    """How one precision multiplies and adds."""

    weight_bytes: int
    weight: Any
    """numpy's type of the packed weights"""
    x: Any
    per_sum: int
    """Multiply-adds that one sum takes at once."""
    add: Callable[..., Any]
    """Emits a vector of sums after the weights of vector v: (builder, step's pointer, v, x, sums)."""


ARITHMETIC = {
    "fp32": _Arithmetic(4, np.float32, np.float32, 1, _by_unpacking(_unpack_single)),
    "fixed24": _Arithmetic(3, np.uint8, np.float32, 1, _by_unpacking(_unpack_24)),
    "bf16": _Arithmetic(2, np.uint16, np.float32, 1, _by_unpacking(_unpack_bf16)),
    "int8": _Arithmetic(1, np.int8, np.float32, 1, _by_unpacking(_unpack_int8)),
    "int8dot": _Arithmetic(1, np.int8, np.uint8, 4, _dot_bytes),
}
"""fixed24 is fp32 as `kernels.pack_matrix24` keeps it."""


def sum_lanes(precision: str) -> int:
    """Sums in one vector of this precision's arithmetic."""
    return dot_lanes() if precision == "int8dot" else lanes()


def has_arithmetic(precision: str) -> bool:
    """Whether this processor has it: all but the product of bytes is everywhere."""
    return precision != "int8dot" or dot_lanes() > 0


def _emit_steps(
    builder: Any, arithmetic: _Arithmetic, width: int, pointers: Any, steps: Any, passes: Any
) -> None:
    """Emit `passes` rounds over all steps of the weights: pointers to weights, x, sums."""
    weights, x, sums = pointers
    element = _WORD if arithmetic.per_sum > 1 else _SINGLE
    factor = _load(builder, x, 0, _BYTE if arithmetic.per_sum > 1 else _SINGLE, width * arithmetic.per_sum)
    totals = [_new_sum(builder, ir.VectorType(element, width)) for _ in range(VECTORS)]
    step = _LONG(arithmetic.weight_bytes * arithmetic.per_sum * width * VECTORS)
    with (
        cgutils.for_range(builder, passes, intp=_LONG),
        cgutils.for_range(builder, steps, intp=_LONG) as loop,
    ):
        here = builder.gep(weights, [builder.mul(loop.index, step)])
        for v, place in enumerate(totals):
            builder.store(arithmetic.add(builder, here, v, factor, builder.load(place)), place)
    for v, place in enumerate(totals):
        out = builder.gep(sums, [_LONG(4 * width * v)])
        builder.store(builder.load(place), builder.bitcast(out, place.type), align=1)


def _arithmetic_of(weights: Any, x: Any) -> str:
    """The precision whose arrays have these types (numba's)."""
    kinds = (np.dtype(str(weights.dtype)), np.dtype(str(x.dtype)))
    return next(name for name, a in ARITHMETIC.items() if (np.dtype(a.weight), np.dtype(a.x)) == kinds)


@intrinsic
def _steps(typing_context: Any, weights: Any, x: Any, sums: Any, passes: Any) -> Any:
    precision = _arithmetic_of(weights, x)
    if not has_arithmetic(precision):
        raise TypeError(f"this processor has no instruction for {precision}")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args[:3]
        arrays = [
            context.make_array(kind)(context, builder, a) for kind, a in zip(kinds, arguments, strict=False)
        ]
        pointers = [builder.bitcast(array.data, _BYTE.as_pointer()) for array in arrays]
        arithmetic, width = ARITHMETIC[precision], sum_lanes(precision)
        step = arithmetic.weight_bytes * arithmetic.per_sum * width * VECTORS
        size = builder.mul(arrays[0].nitems, arrays[0].itemsize)
        steps = builder.udiv(size, _LONG(step))
        _emit_steps(builder, arithmetic, width, pointers, steps, arguments[3])
        return context.get_dummy_value()

    return types.void(weights, x, sums, types.int64), codegen


@compiled
def multiply_add(weights: Any, x: Any, sums: Any, passes: int) -> None:
    """Put into sums what `passes` rounds over the weights add up to, each weight times its lane's x.

    weights are cut into steps, a step into VECTORS vectors: sums[v, lane] is the sum over all steps of
    weights[step, v, lane] * x[lane]; for int8dot, of four such products. Types are those of `ARITHMETIC`.
    """
    _steps(weights, x, sums, passes)


class Operands(NamedTuple):
    """What `multiply_add` is called with."""

    weights: Any
    x: Any
    sums: Any
    multiply_adds: int
    """In one pass."""


def operands(precision: str, count: int = BLOCK_BYTES) -> Operands:
    """Ones, packed for a precision, that fill at most so many bytes."""
    arithmetic, width = ARITHMETIC[precision], sum_lanes(precision)
    step = arithmetic.weight_bytes * arithmetic.per_sum * width * VECTORS
    weights = filled_memory(count // step * step).view(arithmetic.weight)
    sums = filled_memory(4 * width * VECTORS).view(np.int32 if arithmetic.per_sum > 1 else np.float32)
    x = np.ones(width * arithmetic.per_sum, arithmetic.x)
    return Operands(weights, x, sums, weights.nbytes // arithmetic.weight_bytes)


def reference_passes(memory: Memory, count: int) -> None:
    """The loop that never changes: fp32 products and sums over memory (REFERENCE_BYTES,), `count` times."""
    given = operands("fp32")
    multiply_add(memory.view(np.float32), given.x, given.sums, count)
