"""Matrix times vector, as LLVM vector code: what nearly all of a sample's time goes into.

A matrix (in, out) is packed for reading once, front to back: columns in blocks of 64 (the last one of 16, 32
or 48), and in each block one row after the other. A block keeps its sums in vectors of 16 floats while it
runs over the inputs, each input broadcast once. The types are LLVM's generic ones, which lower to AVX-512,
AVX2 or NEON by themselves. Sums are in single precision; weights are packed in one of two ways:

    pack_matrix      float32, the faster of the two where a matrix stays in the second-level cache
    pack_matrix24    whole numbers of 24 bits, with a scale for each column: a quarter less to read, which is
                     what matrices wait for that come from further away. A weight is off by at most 2^-24 of
                     its column's largest; single precision adds the products up no more finely than that.

Rule of this package: every vector is padded to a multiple of `LANES`, and the padding is zero and stays zero.
Products then need no remainder loops, and packed matrices have zero rows and columns there.

In compiled code:
    matvec(out, bias, weight, x)      out = bias + x @ weight; `out` may be `bias` itself, which accumulates
    matvec_rows(..., rows, count)     the same, where all but the inputs rows[:count] are zero
    span(values, start, length)       a part of a vector, without a slice's reference counting
    tail(values, start)               the rest of an array, likewise: where a matrix or a bias begins

Vectors are float32, all arrays 1-D, C order. Nothing is checked: lengths are the caller's promise. A further
precision (bf16, int8) is one more `_Packing`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import ArrayLike, NDArray

from streamer.kernels.compiling import intrinsic

LANES = 16
BLOCK = 4 * LANES
_CACHE_LINE = 64

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_BYTE, _SHORT, _FLAG, _INDEX, _FLOAT = (
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_WHOLES = ir.VectorType(_FLAG, LANES)


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


def flatten(*parts: NDArray[np.floating[Any]]) -> Floats:
    """Lay arrays of any shape one after the other: float32 (sum of sizes,), on a cache line."""
    whole = zeros(sum(part.size for part in parts))
    np.concatenate([part.ravel() for part in parts] or [whole], out=whole)
    return whole


def flatten_bytes(*parts: Bytes) -> Bytes:
    """Lay packed matrices one after the other: uint8 (sum of sizes,), on a cache line."""
    return flatten(*(part.view(np.float32) for part in parts)).view(np.uint8)


def pad(values: ArrayLike) -> Floats:
    """Copy (..., N) into zeros (..., padded(N)), C order."""
    source = np.asarray(values)
    shape = (*source.shape[:-1], padded(source.shape[-1]))
    out = zeros(int(np.prod(shape))).reshape(shape)
    out[..., : source.shape[-1]] = source
    return out


def _blocks(weight: ArrayLike) -> list[Floats]:
    """Cut a matrix (in, out), padded both ways, into blocks of columns."""
    matrix = np.asarray(weight)
    inputs, outputs = map(padded, matrix.shape)
    whole = np.zeros((inputs, outputs), np.float32)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    return [whole[:, start : start + BLOCK] for start in range(0, outputs, BLOCK)]


def pack_matrix(weight: ArrayLike) -> Floats:
    """Pack (in, out) for `matvec`: float32 (padded(in) * padded(out),)."""
    return flatten(*_blocks(weight))


def pack_matrix24(weight: ArrayLike) -> Bytes:
    """Pack (in, out) for `matvec` in 24 bits: uint8 (`size24(in, out)`,).

    Each block of columns: its scales (float32), then in each row the upper 16 bits of all and the lower 8
    bits of all.
    """
    return flatten_bytes(*map(_pack_block24, _blocks(weight)))


def _pack_block24(block: Floats) -> Bytes:
    largest = np.abs(block).max(0, initial=0.0)
    scales = np.where(largest > 0, largest, 1).astype(np.float64) / (2**23 - 1)
    wholes = np.rint(block / scales).astype(np.int32)
    upper = (wholes >> 8).astype(np.int16).view(np.uint8)
    lower = (wholes & 0xFF).astype(np.uint8)
    return np.concatenate([scales.astype(np.float32).view(np.uint8), np.hstack([upper, lower]).ravel()])


def size24(inputs: int, outputs: int) -> int:
    """Bytes of a matrix packed by `pack_matrix24`; both widths padded."""
    return outputs * (3 * inputs + 4)


def reference_matvec(bias: ArrayLike, weight: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    """What `matvec` computes, in float64 from the unpacked matrix (in, out)."""
    return np.asarray(bias, np.float64) + np.asarray(x, np.float64) @ np.asarray(weight, np.float64)


def _load(builder: Any, base: Any, offset: Any, element: Any, bytes_each: int) -> Any:
    """A vector of LANES elements from so many bytes after a byte pointer."""
    place = builder.bitcast(builder.gep(base, [offset]), ir.VectorType(element, LANES).as_pointer())
    return builder.load(place, align=bytes_each)


def _load_single(builder: Any, row: Any, v: int, vectors: int) -> Any:
    return _load(builder, row, _INDEX(4 * LANES * v), _FLOAT, 4)


def _load_24(builder: Any, row: Any, v: int, vectors: int) -> Any:
    upper = builder.sext(_load(builder, row, _INDEX(2 * LANES * v), _SHORT, 2), _WHOLES)
    lower = builder.zext(_load(builder, row, _INDEX(LANES * (2 * vectors + v)), _BYTE, 1), _WHOLES)
    return builder.sitofp(builder.or_(builder.shl(upper, ir.Constant(_WHOLES, [8] * LANES)), lower), _VECTOR)


class _Packing(NamedTuple):
    """How a packed matrix is read."""

    name: str
    weight_bytes: int
    scaled: bool
    """Whether each block begins with a scale for each of its columns."""
    load: Callable[..., Any]
    """Emits the weights of vector v of a row, from a pointer to the row: (builder, row, v, vectors)."""


_SINGLE = _Packing("f32", 4, False, _load_single)
_FIXED24 = _Packing("fixed24", 3, True, _load_24)
_PACKINGS = {types.float32: _SINGLE, types.uint8: _FIXED24}


class _Arguments(NamedTuple):
    """What the emitted function is called with."""

    out: Any
    bias: Any
    weight: Any
    x: Any
    inputs: Any
    outputs: Any
    rows: Any = None
    """Indices of the inputs to take; None takes all of them."""
    count: Any = None


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once where the processor can."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(builder.module.declare_intrinsic("llvm.fmuladd.v16f32", (), kind), [a, b, c])


def _broadcast(builder: Any, value: Any) -> Any:
    lane0 = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _FLAG(0))
    return builder.shuffle_vector(
        lane0, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_WHOLES, [0] * LANES)
    )


def _new_sum(builder: Any) -> Any:
    place: Any = cgutils.alloca_once(builder, _VECTOR)  # type: ignore[no-untyped-call]
    builder.store(ir.Constant(_VECTOR, [0.0] * LANES), place)
    return place


def _emit_sums(builder: Any, packing: _Packing, given: _Arguments, block: Any, vectors: int) -> list[Any]:
    """Emit the loop over the inputs of one block: the sums of its columns, without scale and bias.

    They stay in registers, which is what LLVM makes of the allocas. Narrow blocks take several inputs at a
    time into sums of their own, so that four additions are always under way.
    """
    phases = 4 // vectors if given.rows is None else 1
    sums = [[_new_sum(builder) for _ in range(vectors)] for _ in range(phases)]
    turns = builder.udiv(given.inputs, _INDEX(phases)) if given.rows is None else given.count
    with cgutils.for_range(builder, turns, intp=_INDEX) as loop:
        for phase in range(phases):
            k = builder.add(builder.mul(loop.index, _INDEX(phases)), _INDEX(phase))
            if given.rows is not None:
                k = builder.load(builder.gep(given.rows, [k]))
            value = _broadcast(builder, builder.load(builder.gep(given.x, [k])))
            row = builder.gep(block, [builder.mul(k, _INDEX(packing.weight_bytes * LANES * vectors))])
            for v, place in enumerate(sums[phase]):
                weights = packing.load(builder, row, v, vectors)
                builder.store(_multiply_add(builder, weights, value, builder.load(place)), place)
    return [reduce(builder.fadd, map(builder.load, places)) for places in zip(*sums, strict=True)]


def _emit_block(builder: Any, packing: _Packing, given: _Arguments, start: Any, vectors: int) -> None:
    """Emit a block of columns: out[start:] = bias[start:] + x @ weight[:, start:]."""
    scale_bytes = 4 if packing.scaled else 0
    column = builder.add(builder.mul(given.inputs, _INDEX(packing.weight_bytes)), _INDEX(scale_bytes))
    block = builder.gep(given.weight, [builder.mul(start, column)])
    rows = builder.gep(block, [_INDEX(scale_bytes * LANES * vectors)])
    offset = builder.mul(start, _INDEX(4))
    for v, total in enumerate(_emit_sums(builder, packing, given, rows, vectors)):
        here = _INDEX(4 * LANES * v)
        bias = _load(builder, given.bias, builder.add(offset, here), _FLOAT, 4)
        if packing.scaled:
            value = _multiply_add(builder, total, _load(builder, block, here, _FLOAT, 4), bias)
        else:
            value = builder.fadd(total, bias)
        out = builder.gep(given.out, [builder.add(offset, here)])
        builder.store(value, builder.bitcast(out, _VECTOR.as_pointer()), align=4)


def _product_function(module: Any, packing: _Packing, choosing: bool) -> Any:
    """The LLVM function for one packing, defined once a module. choosing: it takes rows and count, too."""
    name = f"streamer_matvec_{packing.name}" + ("_rows" if choosing else "")
    if name in module.globals:
        return module.globals[name]
    bytes_at, floats_at = _BYTE.as_pointer(), _FLOAT.as_pointer()
    kinds = [bytes_at, bytes_at, bytes_at, floats_at, _INDEX, _INDEX]
    kinds += [_INDEX.as_pointer(), _INDEX] if choosing else []
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    given = _Arguments(*function.args)
    whole_blocks = builder.udiv(given.outputs, _INDEX(BLOCK))
    with cgutils.for_range(builder, whole_blocks, intp=_INDEX) as loop:
        _emit_block(builder, packing, given, builder.mul(loop.index, _INDEX(BLOCK)), BLOCK // LANES)
    start = builder.mul(whole_blocks, _INDEX(BLOCK))
    left = builder.sub(given.outputs, start)
    for vectors in range(1, BLOCK // LANES):
        with builder.if_then(builder.icmp_unsigned("==", left, _INDEX(vectors * LANES))):
            _emit_block(builder, packing, given, start, vectors)
    builder.ret_void()
    return function


def _emit_call(context: Any, builder: Any, kinds: Any, arguments: Any, *choice: Any) -> None:
    """Emit the call for arrays out, bias, weight, x."""
    arrays = [context.make_array(kind)(context, builder, a) for kind, a in zip(kinds, arguments, strict=True)]
    out, bias, weight, x = arrays
    pointers = [builder.bitcast(array.data, _BYTE.as_pointer()) for array in (out, bias, weight)]
    function = _product_function(builder.module, _PACKINGS[kinds[2].dtype], bool(choice))
    builder.call(function, [*pointers, x.data, x.nitems, out.nitems, *choice])


def _check(arrays: tuple[Any, ...], *allowed: Any) -> None:
    for array in arrays:
        flat = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
        if not flat or array.dtype not in allowed:
            raise TypeError(
                f"kernels take 1-D C-contiguous arrays of {' or '.join(map(str, allowed))}, not {array}"
            )


@intrinsic
def matvec(typing_context: Any, out: Any, bias: Any, weight: Any, x: Any) -> Any:
    """`out[:] = bias + x @ weight`: out and bias (N,), weight packed, x (K,), all padded."""
    _check((out, bias, x), types.float32)
    _check((weight,), *_PACKINGS)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _emit_call(context, builder, signature.args, arguments)
        return context.get_dummy_value()

    return types.void(out, bias, weight, x), codegen


@intrinsic
def matvec_rows(typing_context: Any, out: Any, bias: Any, weight: Any, x: Any, rows: Any, count: Any) -> Any:
    """`matvec` for an x that is zero except in rows[:count] (int64): the other rows are not even read."""
    _check((out, bias, x), types.float32)
    _check((weight,), *_PACKINGS)
    _check((rows,), types.int64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        indices = context.make_array(signature.args[4])(context, builder, arguments[4])
        _emit_call(context, builder, signature.args[:4], arguments[:4], indices.data, arguments[5])
        return context.get_dummy_value()

    return types.void(out, bias, weight, x, rows, types.int64), codegen


def _emit_view(context: Any, builder: Any, kind: Any, array: Any, start: Any, stop: Any) -> Any:
    """An array over array[start:stop] that holds no reference; stop None is the end."""
    source = context.make_array(kind)(context, builder, array)
    view = context.make_array(kind)(context, builder)
    context.populate_array(
        view,
        data=builder.gep(source.data, [start]),
        shape=[builder.sub(source.nitems if stop is None else stop, start)],
        strides=[source.itemsize],
        itemsize=source.itemsize,
        meminfo=None,
    )
    return view._getvalue()


@intrinsic
def span(typing_context: Any, values: Any, start: Any, length: Any) -> Any:
    """`values[start : start + length]`, unchecked. It holds no reference: `values` keeps the memory alive."""
    _check((values,), types.float32)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start, length = arguments
        return _emit_view(context, builder, signature.args[0], array, start, builder.add(start, length))

    return values(values, types.intp, types.intp), codegen


@intrinsic
def tail(typing_context: Any, values: Any, start: Any) -> Any:
    """`values[start:]`, unchecked, likewise: a matrix or a bias inside the array that holds many."""
    _check((values,), *_PACKINGS)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, start = arguments
        return _emit_view(context, builder, signature.args[0], array, start, None)

    return values(values, types.intp), codegen
