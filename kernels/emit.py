"""The vocabulary in which vector code is written: LLVM values, 16 numbers at a time.

Types are LLVM's generic vectors, which lower to AVX-512, AVX2 or NEON by themselves. Every function takes an
`ir.IRBuilder` and emits at its place. Pointers are to bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from streamer.kernels.packing import LANES

BYTE, SHORT, WORD, INDEX = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
FLOAT = ir.FloatType()
BYTES_AT, FLOATS_AT, WORDS_AT = BYTE.as_pointer(), FLOAT.as_pointer(), WORD.as_pointer()
VECTOR, WHOLES = ir.VectorType(FLOAT, LANES), ir.VectorType(WORD, LANES)

Builder = Any
Value = Any


def wholes(value: int) -> Value:
    """A vector of one 32-bit whole number."""
    return ir.Constant(WHOLES, [value] * LANES)


def floats(value: float) -> Value:
    """A vector of one float32."""
    return ir.Constant(VECTOR, [value] * LANES)


def index(value: int | Value) -> Value:
    """A 64-bit whole number."""
    return INDEX(value) if isinstance(value, int) else value


def at(builder: Builder, base: Value, offset: int | Value) -> Value:
    """The pointer so many bytes on."""
    return builder.gep(base, [index(offset)])


def times(builder: Builder, value: Value, factor: int) -> Value:
    """A 64-bit whole number, multiplied."""
    return builder.mul(value, INDEX(factor))


def load(builder: Builder, place: Value, element: Any = FLOAT, lanes: int = LANES) -> Value:
    """A vector of elements, aligned as one of them is."""
    pointer = builder.bitcast(place, ir.VectorType(element, lanes).as_pointer())
    return builder.load(pointer, align=4 if element == FLOAT else element.width // 8)


def load_one(builder: Builder, place: Value, element: Any = FLOAT) -> Value:
    """One element."""
    return builder.load(builder.bitcast(place, element.as_pointer()))


def store(builder: Builder, value: Value, place: Value) -> None:
    """Write a vector or one element, aligned to 4 bytes at most."""
    align = 1 if getattr(value.type, "element", value.type) == BYTE else 4
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=align)


def broadcast(builder: Builder, value: Value) -> Value:
    """A vector of one value in all its lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, WORD(0)), nothing, wholes(0))


def call(builder: Builder, name: str, result: Any, *arguments: Value) -> Value:
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def multiply_add(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """A * b + c, rounded once where the processor can."""
    return call(builder, "llvm.fmuladd.v16f32", VECTOR, a, b, c)


def larger(builder: Builder, a: Value, b: Value) -> Value:
    """The larger of each two; b where one is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def smaller(builder: Builder, a: Value, b: Value) -> Value:
    """The smaller of each two; b where one is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def one_at_least(builder: Builder, count: Value) -> Value:
    """A 64-bit whole number, 1 where it is 0."""
    return builder.select(builder.icmp_unsigned("==", count, INDEX(0)), INDEX(1), count)


def cut(builder: Builder, vector: Value, start: int, lanes: int) -> Value:
    """Some lanes of a vector."""
    if lanes == vector.type.count:
        return vector
    mask = ir.Constant(ir.VectorType(WORD, lanes), list(range(start, start + lanes)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def shifted(builder: Builder, vector: Value, step: int) -> Value:
    """Every lane has what the one `step` before it had, the first ones 0."""
    lanes = vector.type.count
    mask = ir.Constant(ir.VectorType(WORD, lanes), list(range(lanes - step, 2 * lanes - step)))
    return builder.shuffle_vector(ir.Constant(vector.type, None), vector, mask)


def joined(builder: Builder, parts: list[Value]) -> Value:
    """Vectors laid one after the other; their number is a power of two."""
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        mask = ir.Constant(ir.VectorType(WORD, lanes), list(range(lanes)))
        parts = [builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def folded(builder: Builder, combine: Callable[..., Value], vector: Value) -> Value:
    """Combine all lanes of a vector into one value, by halves."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        vector = combine(builder, cut(builder, vector, 0, half), cut(builder, vector, half, half))
    return builder.extract_element(vector, WORD(0))


def added(builder: Builder, values: list[Value]) -> Value:
    """The sum of vectors of whole numbers."""
    return reduce(builder.add, values)


def variable(builder: Builder, first: Value) -> Value:
    """A variable that holds `first` now; LLVM keeps it in a register."""
    place: Any = cgutils.alloca_once(builder, first.type)  # type: ignore[no-untyped-call]
    builder.store(first, place)
    return place


def loop(builder: Builder, count: Value, first: int | Value = 0) -> AbstractContextManager[Any]:
    """Run `.index` from first to count."""
    start = index(first)
    runs: AbstractContextManager[Any] = cgutils.for_range(builder, count, start=start, intp=INDEX)  # type: ignore[no-untyped-call]
    return runs


def function(module: Any, name: str, arguments: list[Any], emit: Callable[..., None]) -> Any:
    """A void function of a module, emitted by `emit(builder, *arguments)` when it is first asked for."""
    if name in module.globals:
        return module.globals[name]
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    made.linkage = "linkonce_odr"
    made.attributes.add("noinline")
    builder = ir.IRBuilder(made.append_basic_block("entry"))
    emit(builder, *made.args)
    builder.ret_void()
    return made


def check_arrays(arrays: tuple[Any, ...], *allowed: Any) -> None:
    """Raise `TypeError` unless these are numba's types of 1-D C-contiguous arrays of allowed elements."""
    for array in arrays:
        flat = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
        if not flat or array.dtype not in allowed:
            raise TypeError(
                f"kernels take 1-D C-contiguous arrays of {' or '.join(map(str, allowed))}, not {array}"
            )
