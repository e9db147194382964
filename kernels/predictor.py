"""The adaptive linear predictor one sample at a time, as `streamer.models.predictor` defines it.

    hear(weights, state, position, codes)           take in a code for each voice at a position
    tell(weights, state, position)                  features (B, V) of what is forecast for a position
    join(weights, state, position, outputs, logits) a network's outputs (B, N) and that -> logits (B, Q)

All that `hear` computes is of the next position: a sum over the last `order` samples and, every `hop`, a
filter for the hop to come, which takes about as long as one sample of a small network. What it heard, its
filters and forecasts lie in rings by absolute position, so going back changes nothing of them. A model
without one has a predictor of order 0, which hears nothing and joins nothing; it is not to be asked to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.compiling import compiled, inner, inner_sum, part
from streamer.kernels.nonlinear import exp, log, tanh
from streamer.kernels.packing import Floats, flatten, zeros
from streamer.kernels.views import borrowed, span, tail
from streamer.models import predictor as defined
from streamer.models.predictor import FORECAST
from streamer.models.specs import FEATURES, PredictorSpec

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

_F = np.float32
_ZERO, _HALF, _ONE, _TWO, _FIVE = _F(0), _F(0.5), _F(1), _F(2), _F(5)
_FAST, _FAST_NEW = _F(defined.FAST), _F(1 - defined.FAST)
_SLOW, _SLOW_NEW = _F(defined.SLOW), _F(1 - defined.SLOW)
_FACTOR, _GROWTH, _EPSILON = _F(defined.FACTOR), _F(defined.GROWTH), _F(defined.EPSILON)
_WIDEST, _HATS, _QUIET = _F(defined.WIDEST), defined.HATS, defined.QUIET
LAGS = 4
"""Of the autocorrelation, taken together."""
_HALF_HATS = _F((defined.HATS - 1) / 2)


class PredictorWeights(NamedTuple):
    """What a predictor is, and what codes mean to it. Order 0 is none."""

    order: int
    hop: int
    correction: float
    floor: np.float32
    mu: np.float32
    companding: np.float32
    """1 / log(1 + mu)"""
    taper: Floats
    """(window,)"""
    shrink: Floats
    """(order,): what each coefficient is multiplied by, the oldest sample's first."""
    amplitudes: Floats
    """(Q,)"""
    edges: Floats
    """(Q + 1,)"""


class PredictorState(NamedTuple):
    """What a predictor has heard and said: rings by position, then scratch. B voices.

    (.., B, ..) says where each one's numbers are.
    """

    heard: Floats
    """(B, 2 N): a ring of N samples, twice, so that any N of them lie in a row."""
    filters: Floats
    """(M, B, order): a ring of filters, one a hop, the oldest sample's coefficient first."""
    forecasts: Floats
    """(P, B, FORECAST): a ring"""
    features: Floats
    """(B, V)"""
    tapered: Floats
    """(window + order + LAGS,), zeros behind the window"""
    correlation: Doubles
    """(order + LAGS,)"""
    forward: Doubles
    """(order,): coefficients, the newest sample's first"""
    backward: Doubles
    """(order,): the same, the oldest sample's first"""


def pack(spec: PredictorSpec | None, levels: int) -> PredictorWeights:
    """A predictor for codes of so many levels."""
    order = spec.order if spec else 0
    spec = spec or PredictorSpec()
    return PredictorWeights(
        order=order,
        hop=spec.hop,
        correction=float(spec.correction),
        floor=_F(spec.floor),
        mu=_F(levels - 1),
        companding=_F(1 / np.log(levels)),
        taper=flatten(defined.taper(spec)),
        shrink=flatten(float(spec.expansion) ** np.arange(order, 0, -1)),
        amplitudes=flatten(defined.amplitudes(levels)),
        edges=flatten(defined.edges(levels)),
    )


def new_state(weights: PredictorWeights, voices: int, kept: int) -> PredictorState:
    """A state of rest. kept: of how many positions behind the furthest the forecasts are known."""
    kept = kept + 1 if weights.order else 0
    ring = len(weights.taper) + weights.hop + kept if weights.order else 0
    state = PredictorState(
        heard=zeros(2 * voices * ring),
        filters=zeros((kept // weights.hop + 2) * voices * weights.order),
        forecasts=zeros((kept + 1) * voices * FORECAST),
        features=zeros(voices * FEATURES),
        tapered=zeros(len(weights.taper) + weights.order + LAGS),
        correlation=np.zeros(weights.order + LAGS),
        forward=np.zeros(weights.order),
        backward=np.zeros(weights.order),
    )
    reset(state)
    return state


def reset(state: PredictorState) -> None:
    """Take a state back to rest: nothing was heard, and zero is forecast."""
    state.heard[:] = 0
    state.filters[:] = 0
    state.forecasts[:] = 0


def shapes(spec: PredictorSpec, position: int, voices: int) -> dict[str, tuple[int, ...]]:
    """Of what `take` gives at a position."""
    return {"heard": (spec.window + position % spec.hop, voices), "forecast": (voices, FORECAST)}


LIMITS = {"heard": 1.0, "forecast": 1e7}
"""How large numbers of `take` can be: a residual of full scale is 2 / floor at most."""


def take(spec: PredictorSpec, state: PredictorState, position: int) -> dict[str, Floats]:
    """The least from which another state goes on at a position whose forecast is kept."""
    rings, rows = _shaped(state)
    times = np.arange(position - spec.window - position % spec.hop, position)
    heard = rings[:, times % (rings.shape[1] // 2)]
    return {"heard": heard.T.copy(), "forecast": rows[position % len(rows)].copy()}


def restore(
    weights: PredictorWeights, state: PredictorState, position: int, memory: Mapping[str, Floats]
) -> None:
    """Bring a state of rest to where one was at a position, by what `take` gave there."""
    heard, (rings, rows) = memory["heard"], _shaped(state)
    ring = rings.shape[1] // 2
    times = np.arange(position - len(heard), position) % ring
    rings[:, times] = rings[:, times + ring] = heard.T
    rows[position % len(rows)] = memory["forecast"]
    for voice in range(len(rings)):
        _fit_here(weights, state, position - position % weights.hop, voice, len(rings))


def _shaped(state: PredictorState) -> tuple[Floats, Floats]:
    """The rings of what was heard (B, 2 N), and of forecasts (P, B, FORECAST)."""
    voices = state.features.size // FEATURES
    return state.heard.reshape(voices, -1), state.forecasts.reshape(-1, voices, FORECAST)


@compiled
def _fit_here(
    weights: PredictorWeights, state: PredictorState, position: int, voice: int, voices: int
) -> None:
    _fit(weights, state, position, voice, voices)


def forecasts(spec: PredictorSpec, levels: int, codes: NDArray[np.int64]) -> Floats:
    """What is forecast before each of codes (T,), from rest on: (T, FORECAST), the bits of when it plays."""
    weights, out = pack(spec, levels), zeros(len(codes) * FORECAST)
    _forecast_all(weights, new_state(weights, 1, 0), np.ascontiguousarray(codes, np.int64), out)
    return out.reshape(-1, FORECAST)


@compiled
def _forecast_all(weights: PredictorWeights, state: PredictorState, codes: Integers, out: Floats) -> None:
    weights, state, codes = borrowed(weights), borrowed(state), borrowed(codes)
    for position in range(len(codes)):
        row = _forecast(state, position, 0, 1)
        for i in range(FORECAST):
            out[position * FORECAST + i] = row[i]
        hear(weights, state, position, span(codes, position, 1))


@inner
def _forecast(state: PredictorState, position: int, voice: int, voices: int) -> Floats:
    """The forecast of a position: a view."""
    slot = position % (len(state.forecasts) // (voices * FORECAST))
    row: Floats = span(state.forecasts, (slot * voices + voice) * FORECAST, FORECAST)
    return row


@inner
def _filter(
    weights: PredictorWeights, state: PredictorState, position: int, voice: int, voices: int
) -> Floats:
    """The filter in whose hop a position is: a view."""
    slot = position // weights.hop % (len(state.filters) // (voices * weights.order))
    found: Floats = span(state.filters, (slot * voices + voice) * weights.order, weights.order)
    return found


@inner
def _heard(state: PredictorState, end: int, count: int, voice: int, voices: int) -> Floats:
    """The `count` samples before a position, in a row: a view."""
    ring = len(state.heard) // (2 * voices)
    samples: Floats = span(state.heard, voice * 2 * ring + (end - count) % ring, count)
    return samples


@inner
def _scale(weights: PredictorWeights, forecast: Floats, factor: np.float32) -> np.float32:
    return np.float32((_FACTOR * forecast[1] + weights.floor) * factor + _GROWTH * abs(forecast[0]))


@part
def hear(weights: PredictorWeights, state: PredictorState, position: int, codes: Integers) -> None:
    """Take in a code for each voice (B,) at a position, and forecast the next."""
    if weights.order == 0:
        return
    voices = len(codes)
    for voice in range(voices):
        _keep(state, position, weights.amplitudes[codes[voice]], voice, voices)
        if (position + 1) % weights.hop == 0:
            _fit(weights, state, position + 1, voice, voices)
        _predict(weights, state, position + 1, voice, voices)


@inner
def _keep(state: PredictorState, position: int, sample: np.float32, voice: int, voices: int) -> None:
    ring = len(state.heard) // (2 * voices)
    at = voice * 2 * ring + position % ring
    state.heard[at] = state.heard[at + ring] = sample


@inner
def _predict(
    weights: PredictorWeights, state: PredictorState, position: int, voice: int, voices: int
) -> None:
    """Forecast a position from all before it."""
    last, row = _forecast(state, position - 1, voice, voices), _forecast(state, position, voice, voices)
    samples = _heard(state, position, weights.order, voice, voices)
    error = samples[weights.order - 1] - last[0]
    total = _dot(_filter(weights, state, position, voice, voices), samples)
    row[0] = min(max(total, -_ONE), _ONE)
    row[1] = _FAST * last[1] + _FAST_NEW * abs(error)
    row[2] = _SLOW * last[2] + _SLOW_NEW * abs(error)
    row[3] = error / _scale(weights, last, _ONE)


@inner_sum
def _dot(a: Floats, b: Floats) -> np.float32:
    total = _ZERO
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@inner_sum
def _correlate(out: Doubles, samples: Floats, later: Floats) -> None:
    """Four sums at once: one alone waits for itself, and takes four times as long."""
    one, two, three = tail(later, 1), tail(later, 2), tail(later, 3)
    sum0 = sum1 = sum2 = sum3 = _ZERO
    for i in range(len(samples)):
        x = samples[i]
        sum0 += x * later[i]
        sum1 += x * one[i]
        sum2 += x * two[i]
        sum3 += x * three[i]
    out[0], out[1], out[2], out[3] = sum0, sum1, sum2, sum3


@part
def _fit(weights: PredictorWeights, state: PredictorState, position: int, voice: int, voices: int) -> None:
    """The filter for the hop that begins at a position."""
    window, tapered, order = len(weights.taper), state.tapered, weights.order
    samples = _heard(state, position, window, voice, voices)
    for i in range(window):
        tapered[i] = samples[i] * weights.taper[i]
    for lag in range(0, order + 1, LAGS):
        _correlate(tail(state.correlation, lag), span(tapered, 0, window), tail(tapered, lag))
    _solve(weights, state)
    found = _filter(weights, state, position, voice, voices)
    for i in range(order):
        found[i] = np.float32(state.backward[i]) * weights.shrink[i]


@inner
def _solve(weights: PredictorWeights, state: PredictorState) -> None:
    """Levinson and Durbin's recursion on the correlation: coefficients, oldest sample first, in `backward`.

    They are kept in both orders, so that every loop runs along its arrays; `backward` grows from its end.
    """
    r, forward, order = state.correlation, state.forward, weights.order
    error = r[0] * (1.0 + weights.correction) + _QUIET
    for i in range(order):
        backward = tail(state.backward, order - i)
        reflection = (r[i + 1] - _double_dot(backward, tail(r, 1))) / error
        _reflect(forward, backward, reflection)
        forward[i] = state.backward[order - 1 - i] = reflection
        error *= 1.0 - reflection * reflection


@inner_sum
def _double_dot(a: Doubles, b: Doubles) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@inner_sum
def _reflect(forward: Doubles, backward: Doubles, reflection: float) -> None:
    for i in range(len(backward)):
        x, y = forward[i], backward[i]
        forward[i], backward[i] = x - reflection * y, y - reflection * x


@inner
def _voices(state: PredictorState) -> int:
    return len(state.features) // FEATURES


@part
def tell(weights: PredictorWeights, state: PredictorState, position: int) -> Floats:
    """Features (B, V): what a network is told of each voice's forecast of a position."""
    voices = _voices(state)
    for voice in range(voices):
        row, out = _forecast(state, position, voice, voices), span(state.features, voice * FEATURES, FEATURES)
        size = log(_ONE + weights.mu * abs(row[0])) * weights.companding
        place = ((size if row[0] >= _ZERO else -size) + _ONE) * _HALF_HATS
        for i in range(_HATS):
            out[i] = max(_ZERO, _ONE - abs(place - np.float32(np.int32(i))))
        out[_HATS] = (log(row[1] + weights.floor) + _FIVE) * _HALF
        out[_HATS + 1] = (log(row[2] + weights.floor) + _FIVE) * _HALF
        out[_HATS + 2] = tanh(_HALF * row[3])
        out[_HATS + 3] = log(_ONE + abs(row[3]))
    return state.features


@part
def join(
    weights: PredictorWeights, state: PredictorState, position: int, outputs: Floats, logits: Floats
) -> None:
    """Logits (B, Q) from a network's outputs (B, at least Q + 2) and the forecasts that they adjust.

    Without a predictor they are the outputs.
    """
    voices, levels = _voices(state), len(weights.amplitudes)
    width = len(outputs) // voices
    for voice in range(voices):
        own, out = span(outputs, voice * width, width), span(logits, voice * levels, levels)
        if weights.order > 0:
            _join(weights, _forecast(state, position, voice, voices), own, out)
        else:
            for i in range(levels):
                out[i] = own[i]


@inner
def _join(weights: PredictorWeights, forecast: Floats, outputs: Floats, logits: Floats) -> None:
    """One voice's logits: its outputs, and how probable the adjusted logistic has each code."""
    levels = len(logits)
    width = min(max(outputs[levels + 1], -_WIDEST), _WIDEST)
    scale = _scale(weights, forecast, exp(width))
    prediction, sharpness = forecast[0] + scale * outputs[levels], _ONE / scale
    for i in range(levels):
        low, high = weights.edges[i], weights.edges[i + 1]
        # sigmoid(b) - sigmoid(a) as a product, which is exact far out, too.
        half = tanh(_HALF * sharpness * (high - low))
        below, above = exp((prediction - high) * sharpness), exp((low - prediction) * sharpness)
        mass = _TWO * half / ((_ONE + half) * ((_ONE + below) * (_ONE + above)))
        logits[i] = outputs[i] + log(mass + _EPSILON)
