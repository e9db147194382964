"""Matrix times vector, as LLVM vector code: what nearly all of a sample's time goes into.

One emitted function multiplies a packed matrix (`packing`) by one vector, by several, or by a sparse one. It
takes one piece of columns after the other; a piece keeps its sums in vectors of 16 while it runs over the
inputs, each broadcast once. Several vectors take a piece four at a time, so that weights are read from
memory once and unpacked once for four. A column's terms are added in the order of the inputs whatever is
computed beside it: with one voice or many, on one thread or several, sparse or not, the result has the same
bits.

Products in whole numbers (`Packing.DOT8`) need an instruction by name, `vpdpbusd` on x86-64 or `sdot` on Arm;
`dot_lanes` says whether this processor has one. Their input becomes whole numbers first, 512 at a time: x ~
scale * (q - zero), q from 0 to 255, x = 0 exact; the columns' sums take the zero off again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types

from streamer.kernels import emit
from streamer.kernels.compiling import callback, intrinsic
from streamer.kernels.emit import (
    BYTE,
    BYTES_AT,
    FLOAT,
    INDEX,
    SHORT,
    VECTOR,
    WHOLES,
    WORD,
    Builder,
    Value,
    at,
    broadcast,
    floats,
    load,
    load_one,
    loop,
    multiply_add,
    store,
    times,
    variable,
    wholes,
)
from streamer.kernels.packing import COLUMN_BYTES, HEADER_BYTES, LANES, PANEL, PIECE, WEIGHT_BYTES, Packing

TOGETHER = 4
"""Vectors that share the reading of a piece."""
_STEPS = 253
"""Steps from the lowest to the highest input: rounding may add one at either end of a byte."""
_ROUNDER = 12582912.0  # 1.5 * 2^23: adding it rounds to a whole number, which the low bits then hold
_SMALLEST_SCALE = 1e-30  # its inverse is finite


def dot_lanes() -> int:
    """How many sums of four products of bytes one instruction of this processor makes; 0 without any."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512vnni"):
        return 16
    if features.get("avxvnni"):
        return 8
    return 4 if features.get("dotprod") else 0


class _Work(NamedTuple):
    """What a product is asked for: 64-bit numbers, and pointers to bytes."""

    out: Value
    bias: Value
    matrix: Value
    x: Value
    count: Value
    """How many vectors: rows of x, of out and, `bias_step` bytes apart, of bias."""
    bias_step: Value
    rows: Value
    """Of a sparse vector: x[i] belongs to the input rows[i] (int32)."""
    terms: Value
    """Of a column's sum: all inputs, or as many as there are `rows`."""
    outputs: Value


class _Tile(NamedTuple):
    """Sums that are in registers together: vectors of x, from `first` on, by vectors of a piece's columns."""

    first: Value
    vectors: int
    columns: range
    """In vectors of LANES."""
    width: int
    """The piece's, in vectors of LANES."""


# Rows of weights as vectors of floats: `load(builder, row, columns, width)`.


def _load_fp32(builder: Builder, row: Value, columns: range, width: int) -> list[Value]:
    return [load(builder, at(builder, row, 4 * LANES * v)) for v in columns]


def _load_fixed24(builder: Builder, row: Value, columns: range, width: int) -> list[Value]:
    def one(v: int) -> Value:
        upper = builder.sext(load(builder, at(builder, row, 2 * LANES * v), SHORT), WHOLES)
        lower = builder.zext(load(builder, at(builder, row, LANES * (2 * width + v)), BYTE), WHOLES)
        return builder.sitofp(builder.or_(builder.shl(upper, wholes(8)), lower), VECTOR)

    return [one(v) for v in columns]


def _load_bf16(builder: Builder, row: Value, columns: range, width: int) -> list[Value]:
    if width == 1:
        halves = builder.zext(load(builder, row, SHORT), WHOLES)
        return [builder.bitcast(builder.shl(halves, wholes(16)), VECTOR)]
    out = []
    for v in columns[::2]:
        pair = load(builder, at(builder, row, 2 * LANES * v), WORD)
        out += [builder.shl(pair, wholes(16)), builder.and_(pair, wholes(-0x10000))]
    return [builder.bitcast(bits, VECTOR) for bits in out]


def _load_int8(builder: Builder, row: Value, columns: range, width: int) -> list[Value]:
    def one(v: int) -> Value:
        return builder.sitofp(builder.sext(load(builder, at(builder, row, LANES * v), BYTE), WHOLES), VECTOR)

    return [one(v) for v in columns]


_LOAD: dict[Packing, Callable[..., list[Value]]] = {
    Packing.FP32: _load_fp32,
    Packing.FIXED24: _load_fixed24,
    Packing.BF16: _load_bf16,
    Packing.INT8: _load_int8,
}


# Products in floats.


def _emit_float_sums(
    builder: Builder, packing: Packing, work: _Work, tile: _Tile, rows: Value, sparse: bool
) -> list[list[Value]]:
    """The sums of a tile, [vector of x][vector of columns], from where the piece's rows begin."""
    sums = [[variable(builder, floats(0.0)) for _ in tile.columns] for _ in range(tile.vectors)]
    row_bytes = WEIGHT_BYTES[packing] * LANES * tile.width
    x = [_row_of(builder, work.x, tile, r, times(builder, work.terms, 4)) for r in range(tile.vectors)]
    with loop(builder, work.terms) as run:
        k = run.index
        if sparse:
            k = builder.sext(load_one(builder, at(builder, work.rows, times(builder, k, 4)), WORD), INDEX)
        weights = _LOAD[packing](
            builder, at(builder, rows, times(builder, k, row_bytes)), tile.columns, tile.width
        )
        for vector, places in zip(x, sums, strict=True):
            value = broadcast(builder, load_one(builder, at(builder, vector, times(builder, run.index, 4))))
            for weight, place in zip(weights, places, strict=True):
                builder.store(multiply_add(builder, weight, value, builder.load(place)), place)
    return [[builder.load(place) for place in places] for places in sums]


def _row_of(builder: Builder, base: Value, tile: _Tile, r: int, step: Value) -> Value:
    """The tile's vector r, where vectors lie `step` bytes apart."""
    return at(builder, base, builder.mul(builder.add(tile.first, INDEX(r)), step))


def _emit_float_tile(
    builder: Builder, packing: Packing, work: _Work, tile: _Tile, piece: Value, start: Value, sparse: bool
) -> None:
    """out[:, start + columns] = bias + sums, scaled."""
    rows = at(builder, piece, COLUMN_BYTES[packing] * LANES * tile.width)
    sums = _emit_float_sums(builder, packing, work, tile, rows, sparse)
    for r, totals in enumerate(sums):
        for v, total in zip(tile.columns, totals, strict=True):
            out, bias = _places(builder, work, tile, r, v, start)
            if COLUMN_BYTES[packing]:
                scale = load(builder, at(builder, piece, 4 * LANES * v))
                store(builder, multiply_add(builder, total, scale, load(builder, bias)), out)
            else:
                store(builder, builder.fadd(total, load(builder, bias)), out)


def _places(builder: Builder, work: _Work, tile: _Tile, r: int, v: int, start: Value) -> tuple[Value, Value]:
    """Where the tile's vector r has its 16 sums of column vector v: in out and in bias."""
    column = builder.add(times(builder, start, 4), INDEX(4 * LANES * v))
    out = _row_of(builder, work.out, tile, r, times(builder, work.outputs, 4))
    bias = _row_of(builder, work.bias, tile, r, work.bias_step)
    return at(builder, out, column), at(builder, bias, column)


# Products in whole numbers.


class _Quantised(NamedTuple):
    """A panel of the input as whole numbers: PANEL bytes, a scale and a zero for each vector."""

    bytes: Value
    scales: Value
    zeros: Value


def _new_quantised(builder: Builder, count: Value) -> _Quantised:
    space = [builder.alloca(BYTE, size=times(builder, count, size)) for size in (PANEL, 4, 4)]
    for place in space:
        place.align = 64
    return _Quantised(*space)


def _emit_range(builder: Builder, x: Value, inputs: Value) -> tuple[Value, Value]:
    """The lowest and the highest of the inputs and 0."""
    low, high = variable(builder, floats(0.0)), variable(builder, floats(0.0))
    with loop(builder, builder.udiv(inputs, INDEX(LANES))) as run:
        values = load(builder, at(builder, x, times(builder, run.index, 4 * LANES)))
        builder.store(emit.smaller(builder, values, builder.load(low)), low)
        builder.store(emit.larger(builder, values, builder.load(high)), high)
    return (
        emit.folded(builder, emit.smaller, builder.load(low)),
        emit.folded(builder, emit.larger, builder.load(high)),
    )


def _emit_quantise(builder: Builder, x: Value, inputs: Value, r: Value, quantised: _Quantised) -> None:
    """Make whole numbers of the inputs of vector r."""
    low, high = _emit_range(builder, x, inputs)
    step, rounder = FLOAT(1.0 / _STEPS), FLOAT(_ROUNDER)
    scale = builder.fsub(builder.fmul(high, step), builder.fmul(low, step))
    scale = emit.larger(builder, scale, FLOAT(_SMALLEST_SCALE))
    inverse = builder.fdiv(FLOAT(1.0), scale)
    # One above what brings the lowest to 0, so that no rounding brings it below.
    zero = builder.fsub(builder.fadd(rounder, FLOAT(1.0)), builder.fmul(low, inverse))
    inverses, offset = broadcast(builder, inverse), broadcast(builder, zero)
    zero = builder.fsub(zero, rounder)
    into = at(builder, quantised.bytes, times(builder, r, PANEL))
    flip = 0x80 if dot_lanes() == 4 else 0  # Arm's instruction takes signed inputs
    with loop(builder, builder.udiv(inputs, INDEX(LANES))) as run:
        values = load(builder, at(builder, x, times(builder, run.index, 4 * LANES)))
        bits = builder.bitcast(multiply_add(builder, values, inverses, offset), WHOLES)
        bits = builder.trunc(builder.xor(bits, wholes(flip)), ir.VectorType(BYTE, LANES))
        store(builder, bits, at(builder, into, times(builder, run.index, LANES)))
    store(builder, scale, at(builder, quantised.scales, times(builder, r, 4)))
    zero = builder.fsub(zero, FLOAT(float(flip)))
    store(builder, zero, at(builder, quantised.zeros, times(builder, r, 4)))


def _dot(builder: Builder, total: Value, inputs: Value, weights: Value) -> Value:
    """Add four products of bytes to each of 16 sums; inputs and weights are four bytes to a lane."""
    lanes = dot_lanes()
    name = {
        16: "llvm.x86.avx512.vpdpbusd.512",
        8: "llvm.x86.avx512.vpdpbusd.256",
        4: "llvm.aarch64.neon.sdot.v4i32.v16i8",
    }[lanes]
    sums = []
    for start in range(0, LANES, lanes):
        given = [emit.cut(builder, vector, start, lanes) for vector in (total, inputs, weights)]
        if lanes == 4:
            given[1:] = [builder.bitcast(factor, ir.VectorType(BYTE, 4 * lanes)) for factor in given[1:]]
        sums.append(emit.call(builder, name, given[0].type, *given))
    return emit.joined(builder, sums)


def _emit_dot_sums(
    builder: Builder, tile: _Tile, rows: Value, inputs: Value, quantised: _Quantised
) -> list[list[Value]]:
    """The sums of a tile over one panel, as whole numbers.

    A single vector takes several fours of inputs at a time into sums of their own, so that eight additions
    are always under way; in whole numbers their order does not matter.
    """
    phases = max(1, min(4, 8 // len(tile.columns))) if tile.vectors == 1 else 1
    sums = [
        [[variable(builder, wholes(0)) for _ in range(phases)] for _ in tile.columns]
        for _ in range(tile.vectors)
    ]
    x = [_row_of(builder, quantised.bytes, tile, r, INDEX(PANEL)) for r in range(tile.vectors)]
    with loop(builder, builder.udiv(inputs, INDEX(4 * phases))) as run:
        for phase in range(phases):
            k = builder.add(times(builder, run.index, phases), INDEX(phase))
            row = at(builder, rows, times(builder, k, 4 * LANES * tile.width))
            weights = [load(builder, at(builder, row, 4 * LANES * v), WORD) for v in tile.columns]
            for vector, columns in zip(x, sums, strict=True):
                value = broadcast(builder, load_one(builder, at(builder, vector, times(builder, k, 4)), WORD))
                for weight, places in zip(weights, columns, strict=True):
                    place = places[phase]
                    builder.store(_dot(builder, builder.load(place), value, weight), place)
    return [
        [emit.added(builder, [builder.load(place) for place in places]) for places in columns]
        for columns in sums
    ]


def _emit_dot_tile(
    builder: Builder,
    work: _Work,
    tile: _Tile,
    piece: Value,
    start: Value,
    inputs: Value,
    quantised: _Quantised,
) -> None:
    """out[:, start + columns] = bias + scales * (sums - zero * the columns' sums)."""
    rows = at(builder, piece, COLUMN_BYTES[Packing.DOT8] * LANES * tile.width)
    for r, totals in enumerate(_emit_dot_sums(builder, tile, rows, inputs, quantised)):
        scale, zero = (
            broadcast(builder, load_one(builder, _row_of(builder, place, tile, r, INDEX(4))))
            for place in (quantised.scales, quantised.zeros)
        )
        zero = builder.fneg(zero)
        for v, total in zip(tile.columns, totals, strict=True):
            out, bias = _places(builder, work, tile, r, v, start)
            scales = load(builder, at(builder, piece, 4 * LANES * v))
            column_sums = load(builder, at(builder, piece, 4 * LANES * (tile.width + v)))
            total = multiply_add(builder, column_sums, zero, builder.sitofp(total, VECTOR))
            total = multiply_add(builder, total, builder.fmul(scales, scale), load(builder, bias))
            store(builder, total, out)


# Pieces of columns, panels of inputs.

_EmitTile = Callable[[_Tile, Value, Value], None]
"""Emits a tile, from its piece and that piece's first column."""


def _emit_piece(
    builder: Builder, work: _Work, piece: Value, start: Value, width: int, emit_tile: _EmitTile
) -> None:
    """All vectors of x by one piece of columns."""
    groups = builder.udiv(work.count, INDEX(TOGETHER))
    with loop(builder, groups) as run:
        first = times(builder, run.index, TOGETHER)
        for half in range(0, width, 4):
            columns = range(half, min(half + 4, width))
            emit_tile(_Tile(first, TOGETHER, columns, width), piece, start)
    with loop(builder, work.count, times(builder, groups, TOGETHER)) as run:
        emit_tile(_Tile(run.index, 1, range(width), width), piece, start)


def _emit_pieces(
    builder: Builder,
    work: _Work,
    panel: Value,
    column_bytes: Value,
    part: Value,
    parts: Value,
    emit_piece: Any,
) -> None:
    """The pieces of one part: whole pieces are shared out, the last part has the narrower ones, too."""
    whole = builder.udiv(work.outputs, INDEX(PIECE))
    first = builder.udiv(builder.mul(part, whole), parts)
    last = builder.udiv(builder.mul(builder.add(part, INDEX(1)), whole), parts)
    with loop(builder, last, first) as run:
        start = times(builder, run.index, PIECE)
        emit_piece(at(builder, panel, builder.mul(start, column_bytes)), start, PIECE // LANES)
    with builder.if_then(builder.icmp_unsigned("==", builder.add(part, INDEX(1)), parts)):
        done = variable(builder, times(builder, whole, PIECE))
        for width in (4, 2, 1):
            wanted = builder.and_(work.outputs, INDEX(width * LANES))
            with builder.if_then(builder.icmp_unsigned("!=", wanted, INDEX(0))):
                start = builder.load(done)
                emit_piece(at(builder, panel, builder.mul(start, column_bytes)), start, width)
                builder.store(builder.add(start, INDEX(width * LANES)), done)


def _emit_float_product(
    builder: Builder, packing: Packing, work: _Work, inputs: Value, part: Value, parts: Value, sparse: bool
) -> None:
    column_bytes = builder.add(times(builder, inputs, WEIGHT_BYTES[packing]), INDEX(COLUMN_BYTES[packing]))

    def emit_tile(tile: _Tile, piece: Value, start: Value) -> None:
        _emit_float_tile(builder, packing, work, tile, piece, start, sparse)

    def emit_piece(piece: Value, start: Value, width: int) -> None:
        if sparse:
            emit_tile(_Tile(INDEX(0), 1, range(width), width), piece, start)
        else:
            _emit_piece(builder, work, piece, start, width, emit_tile)

    _emit_pieces(builder, work, work.matrix, column_bytes, part, parts, emit_piece)


def _emit_dot_product(builder: Builder, work: _Work, inputs: Value, part: Value, parts: Value) -> None:
    quantised = _new_quantised(builder, work.count)
    x_step, out_step = times(builder, inputs, 4), times(builder, work.outputs, 4)
    panel, bias, bias_step = (variable(builder, value) for value in (work.matrix, work.bias, work.bias_step))
    panels = builder.udiv(builder.add(inputs, INDEX(PANEL - 1)), INDEX(PANEL))
    panels = emit.one_at_least(builder, panels)  # without inputs, what is left is the bias
    with loop(builder, panels) as run:
        first = times(builder, run.index, PANEL)
        left = builder.sub(inputs, first)
        size = builder.select(builder.icmp_unsigned("<", left, INDEX(PANEL)), left, INDEX(PANEL))
        with loop(builder, work.count) as vector:
            x = at(builder, work.x, builder.mul(vector.index, x_step))
            _emit_quantise(builder, at(builder, x, times(builder, first, 4)), size, vector.index, quantised)
        here = work._replace(bias=builder.load(bias), bias_step=builder.load(bias_step))

        def emit_tile(tile: _Tile, piece: Value, start: Value) -> None:
            _emit_dot_tile(builder, here, tile, piece, start, size, quantised)

        def emit_piece(piece: Value, start: Value, width: int) -> None:
            _emit_piece(builder, here, piece, start, width, emit_tile)

        column_bytes = builder.add(size, INDEX(COLUMN_BYTES[Packing.DOT8]))
        _emit_pieces(builder, here, builder.load(panel), column_bytes, part, parts, emit_piece)
        next_panel = at(builder, builder.load(panel), builder.mul(column_bytes, work.outputs))
        for place, value in ((panel, next_panel), (bias, work.out), (bias_step, out_step)):
            builder.store(value, place)


def _emit_product(builder: Builder, packing: Packing, sparse: bool, *arguments: Value) -> None:
    """The body of the function for one packing."""
    out, bias, matrix, x, count, bias_step, rows, active, part, parts = arguments
    word = [load_one(builder, at(builder, matrix, 8 * i), INDEX) for i in range(3)]
    inputs, outputs = word[1], word[2]
    terms = active if sparse else inputs
    work = _Work(out, bias, at(builder, matrix, HEADER_BYTES), x, count, bias_step, rows, terms, outputs)
    if packing == Packing.DOT8:
        _emit_dot_product(builder, work, inputs, part, parts)
    else:
        _emit_float_product(builder, packing, work, inputs, part, parts, sparse)


ORDER_WORDS = 8
_ARGUMENTS = [BYTES_AT] * 4 + [INDEX] * 2 + [BYTES_AT] + [INDEX] * 3


def _emit_choice(builder: Builder, *arguments: Value) -> None:
    """Look at the matrix's packing, and at whether x is sparse, and call the function for both."""
    matrix, rows = arguments[2], arguments[6]
    packing = load_one(builder, matrix, INDEX)
    sparse = builder.icmp_unsigned("!=", builder.ptrtoint(rows, INDEX), INDEX(0))
    for kind in Packing:
        if kind == Packing.DOT8 and not dot_lanes():
            continue
        with builder.if_then(builder.icmp_signed("==", packing, INDEX(int(kind)))):
            if kind == Packing.DOT8:
                builder.call(_product_function(builder.module, kind, False), arguments)
                continue
            with builder.if_else(sparse) as (then, otherwise):
                with then:
                    builder.call(_product_function(builder.module, kind, True), arguments)
                with otherwise:
                    builder.call(_product_function(builder.module, kind, False), arguments)


def _product_function(module: Any, packing: Packing, sparse: bool) -> Any:
    name = f"streamer_product_{packing.name.lower()}" + ("_sparse" if sparse else "")
    return emit.function(
        module, name, _ARGUMENTS, lambda builder, *given: _emit_product(builder, packing, sparse, *given)
    )


@intrinsic
def _product(typing_context: Any, order: Any, part: Any, parts: Any) -> Any:
    """The emitted function, from the address of an order."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        order, part, parts = arguments
        words = builder.inttoptr(order, INDEX.as_pointer())
        given = [builder.load(builder.gep(words, [INDEX(i)])) for i in range(ORDER_WORDS)] + [part, parts]
        given = [
            builder.inttoptr(value, kind) if kind == BYTES_AT else value
            for value, kind in zip(given, _ARGUMENTS, strict=True)
        ]
        builder.call(emit.function(builder.module, "streamer_product", _ARGUMENTS, _emit_choice), given)
        return context.get_dummy_value()

    return types.void(order, part, parts), codegen


_SIGNATURE = types.void(types.int64, types.int64, types.int64)


def _follow(order: int, part: int, parts: int) -> None:
    _product(order, part, parts)


@cache
def _compiled_product() -> Any:
    return callback(_follow, _SIGNATURE)


def product_address() -> int:
    """Where the product's code is, compiled or loaded on the first call.

    What multiplies calls it by its address: so it is compiled once, not into every function that uses it.
    """
    address: int = _compiled_product().address
    return address


@intrinsic
def call_product(typing_context: Any, code: Any, order: Any, part: Any, parts: Any) -> Any:
    """`out = bias + x @ matrix`: one part of `parts` of the columns.

    code: `product_address()`. order: the address of int64 words

        out, bias, matrix, x    addresses
        count                   vectors of x and out, padded, one after the other
        step                    bytes from one vector's bias to the next's; 0 where they share one
        rows, active            addresses and how many: where rows is not 0, x is sparse (and count 1): x[i],
                                i < active, belongs to the input rows[i] (int32), and no other is read

    A DOT8 matrix takes no sparse x. out may be bias itself, which accumulates.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code, *given = arguments
        kind = ir.FunctionType(ir.VoidType(), [INDEX] * 3)
        builder.call(builder.inttoptr(code, kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen
