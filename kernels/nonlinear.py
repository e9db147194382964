"""tanh, sigmoid, exp and log in single precision, as straight arithmetic that LLVM turns into vectors.

No branch, no table, no call: a loop over these runs 16 values at a time. NaN goes in and comes out;
infinities saturate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from streamer.kernels import emit
from streamer.kernels.compiling import compiled, inner, intrinsic
from streamer.kernels.packing import LANES, Floats

Places = NDArray[np.int32]

_F = np.float32
_ZERO, _HALF, _ONE = _F(0), _F(0.5), _F(1)

# A rational approximation of tanh, odd over even: Eigen's generic_fast_tanh_float, 13/6, a few ulp inside the
# clamp.
_TANH_LIMIT = _F(7.90531110763549805)
_A1, _A3, _A5, _A7 = (
    _F(4.89352455891786e-03),
    _F(6.37261928875436e-04),
    _F(1.48572235717979e-05),
    _F(5.12229709037114e-08),
)
_A9, _A11, _A13 = _F(-8.60467152213735e-11), _F(2.00018790482477e-13), _F(-2.76076847742355e-16)
_B0, _B2, _B4, _B6 = (
    _F(4.89352518554385e-03),
    _F(2.26843463243900e-03),
    _F(1.18534705686654e-04),
    _F(1.19825839466702e-06),
)

# exp(x) = 2^n * exp(r), |r| <= ln(2) / 2: the polynomial and the split ln(2) of Cephes' expf (Moshier).
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_E0, _E1, _E2 = _F(1.9875691500e-4), _F(1.3981999507e-3), _F(8.3334519073e-3)
_E3, _E4, _E5 = _F(4.1665795894e-2), _F(1.6666665459e-1), _F(5.0000001201e-1)
# Adding 1.5 * 2^23 rounds to the nearest whole number and leaves it in the low bits, with no conversion that
# NaN could upset.
_ROUNDER = _F(12582912.0)
_ROUNDER_BITS = 0x4B400000
_EXP_LOWEST, _EXP_HIGHEST = _F(-87.33), _F(89.0)  # beyond: 0 and infinity

# log(x) = n * ln(2) + log(1 + f), 1 + f from sqrt(1/2) to sqrt(2): the polynomial of Cephes' logf.
_LOG = tuple(
    map(
        _F,
        (
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
        ),
    )
)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = _LOG
_SQRT_HALF_BITS = 0x3F3504F3
_LEAST = _F(1.17549435e-38)


@intrinsic
def float_bits(typing_context: Any, value: Any) -> Any:
    """The bits of a float32, as int32."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def bits_float(typing_context: Any, bits: Any) -> Any:
    """The float32 that has these bits (int32)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


@inner
def _clamp(x: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """NaN fails both comparisons and so stays."""
    x = low if x < low else x
    return high if x > high else x


@inner
def _tanh_parts(x: np.float32) -> tuple[np.float32, np.float32]:
    """Numerator and denominator of tanh(x)."""
    x = _clamp(x, -_TANH_LIMIT, _TANH_LIMIT)
    y = x * x
    numerator = x * (((((((_A13 * y + _A11) * y + _A9) * y + _A7) * y + _A5) * y + _A3) * y) + _A1)
    return numerator, ((_B6 * y + _B4) * y + _B2) * y + _B0


@compiled
def tanh(x: np.float32) -> np.float32:
    """Hyperbolic tangent within 5e-7."""
    numerator, denominator = _tanh_parts(x)
    return numerator / denominator


@compiled
def sigmoid(x: np.float32) -> np.float32:
    """1 / (1 + exp(-x)) within 5e-7, by way of tanh: exact symmetry, no overflow."""
    return _HALF + _HALF * tanh(_HALF * x)


@compiled
def exp(x: np.float32) -> np.float32:
    """Exponential within 5e-7 of itself; 0 below -87.33, infinity from 88.73 on.

    Denormals are left out since processors take a hundred times longer over them.
    """
    clamped = _clamp(x, _EXP_LOWEST, _EXP_HIGHEST)
    rounded = clamped * _LOG2_E + _ROUNDER
    power = float_bits(rounded) - _ROUNDER_BITS
    whole = rounded - _ROUNDER
    r = (clamped - whole * _LN2_HIGH) - whole * _LN2_LOW
    series = (((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5) * r * r + r + _ONE
    # 2^power in two factors, neither of which overflows where the product does not.
    half = power >> 1
    first: np.float32 = bits_float(np.int32((half + 127) << 23))
    second: np.float32 = bits_float(np.int32((power - half + 127) << 23))
    return _ZERO if x < _EXP_LOWEST else series * first * second


@compiled
def log(x: np.float32) -> np.float32:
    """Natural logarithm of a finite number, within 2e-7 of itself or of 1; below 1.2e-38, that of 1.2e-38."""
    bits = float_bits(_LEAST if x < _LEAST else x) - _SQRT_HALF_BITS
    power = bits >> 23
    f: np.float32 = bits_float(np.int32((bits & 0x7FFFFF) + _SQRT_HALF_BITS)) - _ONE
    square = f * f
    series = (((((((_L0 * f + _L1) * f + _L2) * f + _L3) * f + _L4) * f + _L5) * f + _L6) * f + _L7) * f + _L8
    n = _F(np.int32(power))
    value = (f * square * series + n * _LN2_LOW - _HALF * square) + f + n * _LN2_HIGH
    return value if x == x else x


@compiled
def gate(out: Floats, pair: Floats) -> None:
    """Gated activation tanh(f) * sigmoid(g): out (D,), pair (2 D,) = [f, g]. One division serves both."""
    width = len(out)
    for i in range(width):
        f, f_under = _tanh_parts(pair[i])
        g, g_under = _tanh_parts(_HALF * pair[width + i])
        out[i] = _HALF * f * (g_under + g) / (f_under * g_under)


@compiled
def relu(x: Floats) -> None:
    """Put 0 where x (N,) is negative."""
    for i in range(len(x)):
        x[i] = _ZERO if x[i] < _ZERO else x[i]


@compiled
def relu_sparse(x: Floats, values: Floats, rows: Places) -> int:
    """`relu`, and list what is not 0 then: ``values[:count]`` at the places ``rows[:count]``; return count.

    x (N,), N a multiple of 16; values (N,), rows (N,) int32.
    """
    return int(_list_positive(x, values, rows))


def _emit_list(builder: Any, arrays: tuple[Any, ...], width: Any) -> Any:
    """16 numbers at a time, those that are kept moved together: AVX-512 has an instruction for it."""
    x, values, rows = arrays
    count = emit.variable(builder, emit.INDEX(0))
    lanes = ir.Constant(emit.WHOLES, list(range(LANES)))
    with emit.loop(builder, builder.udiv(width, emit.INDEX(LANES))) as run:
        place = emit.at(builder, x, emit.times(builder, run.index, 4 * LANES))
        numbers = emit.load(builder, place)
        negative = builder.fcmp_ordered("<", numbers, emit.floats(0.0))
        numbers = builder.select(negative, emit.floats(0.0), numbers)
        emit.store(builder, numbers, place)
        kept = builder.fcmp_unordered("!=", numbers, emit.floats(0.0))
        first = builder.trunc(emit.times(builder, run.index, LANES), emit.WORD)
        places = builder.add(emit.broadcast(builder, first), lanes)
        done = builder.load(count)
        for listed, into, name in ((numbers, values, "v16f32"), (places, rows, "v16i32")):
            pointer = emit.at(builder, into, emit.times(builder, done, 4))
            pointer = builder.bitcast(pointer, listed.type.element.as_pointer())
            emit.call(builder, f"llvm.masked.compressstore.{name}", ir.VoidType(), listed, pointer, kept)
        ones = builder.zext(builder.bitcast(kept, ir.IntType(LANES)), emit.INDEX)
        builder.store(builder.add(done, builder.ctpop(ones)), count)
    return builder.load(count)


@intrinsic
def _list_positive(typing_context: Any, x: Any, values: Any, rows: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, values, rows = (
            context.make_array(kind)(context, builder, array)
            for kind, array in zip(signature.args, arguments, strict=True)
        )
        starts = (builder.bitcast(array.data, emit.BYTES_AT) for array in (x, values, rows))
        return _emit_list(builder, tuple(starts), x.nitems)

    emit.check_arrays((x, values), types.float32)
    emit.check_arrays((rows,), types.int32)
    return types.int64(x, values, rows), codegen
