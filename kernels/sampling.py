"""Drawing a code from logits: temperature, top-k and top-p (nucleus sampling, Holtzman et al. 2020).

The order is that of the common libraries: temperature, then top-k, then top-p over what top-k has left.
Thresholds are found by bisection over the bit patterns of the floats, which order like whole numbers: at most
32 passes over the codes, each a loop of vectors, and exact. Codes that tie at a threshold are all kept; for
top-p a tie is two probabilities that are the same float32.

Logits may hold anything: NaN counts as -inf, several +inf share the probability evenly, and where all are
-inf all codes are equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from streamer.kernels import emit
from streamer.kernels.compiling import compiled, inner, inner_sum, intrinsic
from streamer.kernels.nonlinear import bits_float, exp, float_bits
from streamer.kernels.packing import LANES, Floats, padded, zeros
from streamer.kernels.views import span

_NOTHING = np.float32(-np.inf)
_ZERO, _ONE = np.float32(0), np.float32(1)
_SIGN_FLIP = 0x7FFFFFFF
_COOLEST, _HOTTEST = 1e-30, 1e30  # beyond, 1 / temperature would not be a finite float32


def new_scratch(levels: int) -> Floats:
    """Room for `sample` to work in: weights, and their running sums."""
    return zeros(2 * padded(levels))


@compiled
def sample(logits: Floats, scratch: Floats, temperature: float, top_k: int, top_p: float, u: float) -> int:
    """Draw a code from logits (Q,) with one random number u in [0, 1).

    temperature: 0 (or less, or NaN) takes the most probable code, the lowest of several. top_k: how many of
    the most probable codes may be drawn; 0 is all. top_p: only the smallest set of most probable codes whose
    probability reaches this; 1 is all. scratch: of `new_scratch`; overwritten.
    """
    levels = len(logits)
    weights, sums = span(scratch, 0, levels), span(scratch, len(scratch) // 2, levels)
    _copy_clean(weights, logits)
    largest = _largest(weights)
    if not temperature > 0.0:
        return _first(weights, largest)
    if 0 < top_k < levels:
        _keep_top_k(weights, top_k, largest)
    _weigh(weights, largest, min(max(temperature, _COOLEST), _HOTTEST))
    if top_p < 1.0:
        _keep_nucleus(weights, top_p)
    return _pick(weights, sums, u)


@inner
def _key(value: np.float32) -> np.int32:
    """A whole number that orders like the float: its bits, those below the sign flipped if it is set."""
    bits = float_bits(value)
    return np.int32(bits ^ ((bits >> 31) & _SIGN_FLIP))


@inner
def _value(key: np.int64 | np.int32) -> np.float32:
    """The float that has this key."""
    value: np.float32 = bits_float(np.int32(key ^ ((key >> 31) & _SIGN_FLIP)))
    return value


@inner
def _copy_clean(out: Floats, logits: Floats) -> None:
    """Copy logits, NaN as -inf."""
    for i in range(len(out)):
        x = logits[i]
        out[i] = x if x == x else _NOTHING


@inner
def _largest(values: Floats) -> np.float32:
    """The largest value, found among the keys: of floats, which might be NaN, LLVM makes no vectors here."""
    top = np.int64(_key(values[0]))
    for i in range(len(values)):
        top = max(top, np.int64(_key(values[i])))
    return _value(top)


@inner
def _first(values: Floats, wanted: np.float32) -> int:
    first = len(values)
    for i in range(len(values)):
        first = min(first, i if values[i] == wanted else len(values))
    return first % len(values)


@inner_sum
def _count_from(values: Floats, threshold: np.float32) -> np.float32:
    """How many values reach a threshold: as a float32, which is exact here and counts 16 at a time."""
    count = _ZERO
    for i in range(len(values)):
        count += _ONE if values[i] >= threshold else _ZERO
    return count


@inner_sum
def _count_up_to(values: Floats, threshold: np.float32) -> np.float32:
    """How many values do not exceed a threshold."""
    count = _ZERO
    for i in range(len(values)):
        count += _ONE if values[i] <= threshold else _ZERO
    return count


@inner
def _keep_top_k(logits: Floats, k: int, largest: np.float32) -> None:
    """Put -inf where a logit is below the k-th largest."""
    # All along: count(low) >= k > count(high).
    low, high = np.int64(_key(_NOTHING)), np.int64(_key(largest)) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        count = _count_from(logits, _value(middle))
        if count >= k:
            low = middle
        else:
            high = middle
        if count == k:
            break
    threshold = _value(low)
    for i in range(len(logits)):
        logits[i] = logits[i] if logits[i] >= threshold else _NOTHING


@inner
def _weigh(logits: Floats, largest: np.float32, temperature: float) -> None:
    """Turn logits into unnormalised probabilities in place, the largest being 1."""
    sharpness = np.float32(1.0 / temperature)
    for i in range(len(logits)):
        weight = exp((logits[i] - largest) * sharpness)
        logits[i] = _ONE if logits[i] == largest else weight  # inf - inf would be NaN


@inner_sum
def _mass_from(weights: Floats, threshold: np.float32) -> np.float32:
    """The sum of the weights that reach a threshold; in one order always, so never more for a higher one."""
    mass = _ZERO
    for i in range(len(weights)):
        mass += weights[i] if weights[i] >= threshold else _ZERO
    return mass


@inner
def _keep_nucleus(weights: Floats, top_p: float) -> None:
    """Put 0 where a weight lies outside the smallest set of largest weights that holds top_p of the mass."""
    wanted = top_p * _mass_from(weights, _ZERO)
    # All along: mass(low) reaches what is wanted, mass(high) does not.
    low, high = np.int64(0), np.int64(float_bits(_ONE)) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        mass = _mass_from(weights, bits_float(np.int32(middle)))
        if mass >= wanted and mass > 0.0:
            low = middle
        else:
            high = middle
    threshold = bits_float(np.int32(low))
    for i in range(len(weights)):
        weights[i] = weights[i] if weights[i] >= threshold else _ZERO


@intrinsic
def _running_sums(typing_context: Any, sums: Any, values: Any) -> Any:
    """Put the running sums of whole vectors of 16 values into sums, and return the last.

    Inside a vector, each lane adds the one 1, 2, 4 and 8 before it.
    """
    emit.check_arrays((sums, values), types.float32)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, source = (
            context.make_array(kind)(context, builder, array)
            for kind, array in zip(signature.args, arguments, strict=True)
        )
        places = [builder.bitcast(array.data, emit.BYTES_AT) for array in (out, source)]
        before = emit.variable(builder, emit.floats(0.0))
        with emit.loop(builder, builder.udiv(source.nitems, emit.INDEX(LANES))) as run:
            here = emit.times(builder, run.index, 4 * LANES)
            total = emit.load(builder, emit.at(builder, places[1], here))
            for step in (1, 2, 4, 8):
                total = builder.fadd(total, emit.shifted(builder, total, step))
            total = builder.fadd(total, builder.load(before))
            emit.store(builder, total, emit.at(builder, places[0], here))
            builder.store(
                emit.broadcast(builder, builder.extract_element(total, emit.WORD(LANES - 1))), before
            )
        return builder.extract_element(builder.load(before), emit.WORD(0))

    return types.float32(sums, values), codegen


@inner
def _pick(weights: Floats, sums: Floats, u: float) -> int:
    """The first code whose running sum exceeds u times the whole, of those that have a weight."""
    levels = len(weights)
    whole = _running_sums(sums, weights)
    for i in range(levels // LANES * LANES, levels):
        whole += weights[i]
        sums[i] = whole
    target = np.float32(u * whole)
    code = min(levels - 1, int(_count_up_to(sums, target)))
    # Rounding may stop at a neighbour without weight, or at the end.
    while code > 0 and weights[code] == _ZERO:
        code -= 1
    while code < levels - 1 and weights[code] == _ZERO:
        code += 1
    return code
