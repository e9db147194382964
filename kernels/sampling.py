"""Drawing a code from logits, and what bends logits before that.

`sample` knows temperature, top-k, top-p (nucleus sampling, Holtzman et al. 2020) and typical-p (locally
typical sampling, Meister et al. 2022). The order is that of the common libraries (transformers, for one):
temperature, top-k, top-p over what top-k has left, typical-p over what top-p has left. `pull_to_centre` and
`penalise` change logits themselves.

Thresholds are found by bisection over the bit patterns of the floats, which order like whole numbers: at most
32 passes over the codes, each a loop of vectors, and exact. Codes that tie at a threshold are all kept; for
top-p a tie is two probabilities that are the same float32, for typical-p two distances.

Logits may hold anything: NaN counts as -inf, several +inf share the probability evenly, and where all are
-inf all codes are equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

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
    """Room for `sample` to work in: weights; distances from typical, then running sums."""
    return zeros(2 * padded(levels))


@compiled
def sample(
    logits: Floats,
    scratch: Floats,
    temperature: float,
    top_k: int,
    top_p: float,
    typical_p: float,
    u: float,
) -> int:
    """Draw a code from logits (Q,) with one random number u in [0, 1).

    temperature: 0 (or less, or NaN) takes the most probable code, the lowest of several. top_k: how many of
    the most probable codes may be drawn; 0 is all. top_p: only the smallest set of most probable codes whose
    probability reaches this; 1 is all. typical_p: only the smallest set that reaches this of codes whose
    information, -log p, is nearest to its mean, the entropy; 1 is all. scratch: of `new_scratch`;
    overwritten.
    """
    levels = len(logits)
    weights, sums = span(scratch, 0, levels), span(scratch, len(scratch) // 2, levels)
    _copy_clean(weights, logits)
    largest = _largest(weights)
    if not temperature > 0.0:
        return _first(weights, largest)
    if 0 < top_k < levels:
        _keep_top_k(weights, top_k, largest)
    sharpness = np.float32(1.0 / min(max(temperature, _COOLEST), _HOTTEST))
    _weigh(weights, largest, sharpness)
    if top_p < 1.0:
        _keep_nucleus(weights, top_p)
    if typical_p < 1.0:
        _measure(sums, weights, logits, largest, sharpness)
        _keep_typical(weights, sums, typical_p)
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
def _weigh(logits: Floats, largest: np.float32, sharpness: np.float32) -> None:
    """Turn logits into unnormalised probabilities in place, the largest being 1."""
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


@inner_sum
def _mean(values: Floats, weights: Floats) -> np.float32:
    """The mean of values by weight; those without weight may be anything."""
    total, whole = _ZERO, _ZERO
    for i in range(len(values)):
        total += weights[i] * values[i] if weights[i] > _ZERO else _ZERO
        whole += weights[i]
    return total / whole


@inner
def _measure(
    distances: Floats, weights: Floats, logits: Floats, largest: np.float32, sharpness: np.float32
) -> None:
    """How far each code's -log p is from the entropy; infinity for codes without weight.

    The sum of all weights is the same part of both and cancels: what is compared is the weights' logarithms.
    """
    for i in range(len(distances)):
        exponent = (logits[i] - largest) * sharpness
        distances[i] = _ZERO if weights[i] == _ONE else exponent  # inf - inf would be NaN
    mean = _mean(distances, weights)
    for i in range(len(distances)):
        distances[i] = abs(distances[i] - mean) if weights[i] > _ZERO else -_NOTHING


@inner_sum
def _mass_up_to(weights: Floats, distances: Floats, threshold: np.float32) -> np.float32:
    """The sum of the weights within a distance; in one order always, so never less for a longer one."""
    mass = _ZERO
    for i in range(len(weights)):
        mass += weights[i] if distances[i] <= threshold else _ZERO
    return mass


@inner
def _keep_typical(weights: Floats, distances: Floats, typical_p: float) -> None:
    """Put 0 where a code lies outside the smallest set of nearest codes that holds typical_p of the mass."""
    wanted = typical_p * _mass_up_to(weights, distances, -_NOTHING)
    # All along: mass(high) reaches what is wanted, mass(low) does not.
    low, high = np.int64(-1), np.int64(float_bits(-_NOTHING))
    while high - low > 1:
        middle = (low + high) >> 1
        mass = _mass_up_to(weights, distances, bits_float(np.int32(middle)))
        if mass >= wanted and mass > 0.0:
            high = middle
        else:
            low = middle
    threshold = bits_float(np.int32(high))
    for i in range(len(weights)):
        weights[i] = weights[i] if distances[i] <= threshold else _ZERO


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


@compiled
def pull_to_centre(logits: Floats, r: float) -> None:
    """Take r ((i - Q/2) / (Q/2))^2 from each logit of (Q,), in place.

    The outermost code loses r: what is far from silence becomes less probable.
    """
    strength, scale = np.float32(r), np.float32(2.0 / len(logits))
    for i in range(len(logits)):
        place = np.float32(np.int32(i)) * scale - _ONE
        logits[i] -= strength * (place * place)


@compiled
def penalise(logits: Floats, counts: NDArray[np.int32], window: int, strength: float) -> None:
    """Take strength counts / window from each logit of (Q,), in place.

    counts (Q,): how often each code came among the last `window`; what comes again and again becomes less
    probable.
    """
    share = np.float32(strength / window)
    for i in range(len(logits)):
        logits[i] -= share * np.float32(counts[i])
