"""Matrix times vector in single precision, as LLVM vector code: what nearly all of a sample's time goes into.

A matrix (in, out) is packed for reading once, front to back: columns in blocks of 64 (the last one of 16, 32
or 48), and in each block one row after the other. A block keeps its sums in vectors of 16 floats while it
runs over the inputs, each input broadcast once. The types are LLVM's generic ones, which lower to AVX-512,
AVX2 or NEON by themselves.

Rule of this package: every vector is padded to a multiple of `LANES`, and the padding is zero and stays zero.
Products then need no remainder loops, and packed matrices have zero rows and columns there.

In compiled code:
    matvec(out, bias, weight, x)      out = bias + x @ weight; `out` may be `bias` itself, which accumulates
    span(values, start, length)       a part of a 1-D array, without a slice's reference counting

All arrays are float32, 1-D, C order. Nothing is checked: lengths are the caller's promise. Other precisions
(bf16, int8) will be further functions beside `_matvec_function`, with packings of their own.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import ArrayLike, NDArray

from streamer.kernels.compiling import intrinsic

LANES = 16
BLOCK = 4 * LANES
_CACHE_LINE_BYTES = 64

Floats = NDArray[np.float32]

_INDEX = ir.IntType(64)
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


def padded(width: int) -> int:
    """The next multiple of `LANES`."""
    return -(-width // LANES) * LANES


def zeros(count: int) -> Floats:
    """Float32 zeros (count,) that start on a cache line: a load that straddles two lines costs double."""
    spare = _CACHE_LINE_BYTES // 4
    values = np.zeros(count + spare, np.float32)
    start = (-values.ctypes.data // 4) % spare
    return values[start : start + count]


def flatten(*parts: NDArray[np.floating[Any]]) -> Floats:
    """Lay arrays of any shape one after the other: float32 (sum of sizes,), on a cache line."""
    whole = zeros(sum(part.size for part in parts))
    end = 0
    for part in parts:
        whole[end : end + part.size] = part.ravel()
        end += part.size
    return whole


def pad(values: ArrayLike) -> Floats:
    """Copy (..., N) into zeros (..., padded(N)), C order."""
    source = np.asarray(values)
    shape = (*source.shape[:-1], padded(source.shape[-1]))
    out = zeros(int(np.prod(shape))).reshape(shape)
    out[..., : source.shape[-1]] = source
    return out


def pack_matrix(weight: ArrayLike) -> Floats:
    """Pack (in, out) for `matvec`: float32 (padded(in) * padded(out),)."""
    matrix = np.asarray(weight)
    inputs, outputs = map(padded, matrix.shape)
    whole = np.zeros((inputs, outputs), np.float32)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    packed, end = zeros(whole.size), 0
    for start in range(0, outputs, BLOCK):
        block = whole[:, start : start + BLOCK]
        packed[end : end + block.size] = block.ravel()
        end += block.size
    return packed


def reference_matvec(bias: ArrayLike, weight: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    """What `matvec` computes, in float64 from the unpacked matrix (in, out)."""
    return np.asarray(bias, np.float64) + np.asarray(x, np.float64) @ np.asarray(weight, np.float64)


def _vector_at(builder: Any, pointer: Any, offset: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [offset]), _VECTOR.as_pointer())


def _broadcast(builder: Any, value: Any) -> Any:
    lane0 = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(lane0, ir.Constant(_VECTOR, ir.Undefined), mask)


def _sum_of_zero(builder: Any) -> Any:
    place: Any = cgutils.alloca_once(builder, _VECTOR)  # type: ignore[no-untyped-call]
    builder.store(ir.Constant(_VECTOR, [0.0] * LANES), place)
    return place


def _emit_block(builder: Any, arguments: Any, start: Any, vectors: int) -> None:
    """Emit one block of columns: its sums stay in registers, which is what LLVM makes of allocas.

    Narrow blocks take several inputs at a time into sums of their own: four additions are always under way.
    """
    out, bias, weight, x, inputs, _ = arguments
    phases = 4 // vectors
    multiply_add_type = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    multiply_add = builder.module.declare_intrinsic("llvm.fmuladd.v16f32", (), multiply_add_type)
    columns = [builder.add(start, _INDEX(v * LANES)) for v in range(vectors)]
    sums = [[_sum_of_zero(builder) for _ in columns] for _ in range(phases)]
    for column, total in zip(columns, sums[0], strict=True):
        builder.store(builder.load(_vector_at(builder, bias, column), align=4), total)
    block = builder.gep(weight, [builder.mul(start, inputs)])
    with cgutils.for_range(builder, builder.udiv(inputs, _INDEX(phases)), intp=_INDEX) as loop:
        for phase in range(phases):
            k = builder.add(builder.mul(loop.index, _INDEX(phases)), _INDEX(phase))
            value = _broadcast(builder, builder.load(builder.gep(x, [k])))
            row = builder.mul(k, _INDEX(vectors * LANES))
            for v in range(vectors):
                column = builder.load(
                    _vector_at(builder, block, builder.add(row, _INDEX(v * LANES))), align=4
                )
                total = builder.call(multiply_add, [column, value, builder.load(sums[phase][v])])
                builder.store(total, sums[phase][v])
    for column, *totals in zip(columns, *sums, strict=True):
        total = reduce(builder.fadd, map(builder.load, totals))
        builder.store(total, _vector_at(builder, out, column), align=4)


def _matvec_function(module: Any) -> Any:
    """What `matvec` calls, defined once a module: void(out, bias, weight, x, inputs, outputs)."""
    name = "streamer_matvec_f32"
    if name in module.globals:
        return module.globals[name]
    pointer = _FLOAT.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer] * 4 + [_INDEX] * 2)
    function = ir.Function(module, signature, name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    outputs = function.args[-1]
    whole_blocks = builder.udiv(outputs, _INDEX(BLOCK))
    with cgutils.for_range(builder, whole_blocks, intp=_INDEX) as loop:
        _emit_block(builder, function.args, builder.mul(loop.index, _INDEX(BLOCK)), 4)
    start = builder.mul(whole_blocks, _INDEX(BLOCK))
    left = builder.sub(outputs, start)
    for vectors in (1, 2, 3):
        with builder.if_then(builder.icmp_unsigned("==", left, _INDEX(vectors * LANES))):
            _emit_block(builder, function.args, start, vectors)
    builder.ret_void()
    return function


def _check_floats(*arrays: Any) -> None:
    for array in arrays:
        if not (
            isinstance(array, types.Array)
            and array.dtype == types.float32
            and array.ndim == 1
            and array.layout == "C"
        ):
            raise TypeError(f"kernels take 1-D C-contiguous float32 arrays, not {array}")


@intrinsic
def matvec(typing_context: Any, out: Any, bias: Any, weight: Any, x: Any) -> Any:
    """`out[:] = bias + x @ weight`: out and bias (N,), weight from `pack_matrix`, x (K,), all padded."""
    _check_floats(out, bias, weight, x)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(t)(context, builder, a) for t, a in zip(signature.args, arguments, strict=True)
        ]
        pointers = [array.data for array in arrays]
        builder.call(_matvec_function(builder.module), [*pointers, arrays[3].nitems, arrays[0].nitems])
        return context.get_dummy_value()

    return types.void(out, bias, weight, x), codegen


@intrinsic
def span(typing_context: Any, values: Any, start: Any, length: Any) -> Any:
    """`values[start : start + length]`, unchecked. It holds no reference: `values` keeps the memory alive."""
    _check_floats(values)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type = signature.args[0]
        source = context.make_array(array_type)(context, builder, arguments[0])
        view = context.make_array(array_type)(context, builder)
        context.populate_array(
            view,
            data=builder.gep(source.data, [arguments[1]]),
            shape=[arguments[2]],
            strides=[context.get_constant(types.intp, 4)],
            itemsize=context.get_constant(types.intp, 4),
            meminfo=None,
        )
        return view._getvalue()

    return types.Array(types.float32, 1, "C")(values, types.intp, types.intp), codegen
