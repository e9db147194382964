"""An adaptive linear predictor: what it says before each code, slowly and obviously, in numpy.

Codes are heard as amplitudes (mu-law decoded, -1 to 1). Every `hop` samples a filter is fitted to the last
`window` of them by the autocorrelation method: a taper, Levinson and Durbin's recursion on a little added
white noise, bandwidth expansion. Before each code it forecasts

    prediction      the sum of the filter's products with the samples before, at most full scale
    fast, slow      means of the absolute errors so far, over about 33 and 1024 samples
    residual        the last error, in scales of then

of which row t is known before code t. The scale of a forecast is `FACTOR` times the fast mean, a floor, and a
part of the prediction, since mu-law's steps grow with the amplitude. How probable each code then is follows
from a logistic of that scale around the prediction, which `EPSILON` keeps above nothing.

What runs live, and before training, is `streamer.kernels.predictor`; it must equal this.
"""

import numpy as np
from numpy.typing import NDArray

from streamer.models.quantisers import Quantiser
from streamer.models.specs import PredictorSpec

FORECAST = 4
"""Numbers of a forecast: prediction, fast, slow, residual."""
FAST, SLOW = 0.97, 1 - 2**-10
"""What the means keep from sample to sample."""
FACTOR, GROWTH = 0.72, 0.004
"""The scale's part of the fast mean, and of the prediction."""
CONSTANTS = (FAST, SLOW, FACTOR, GROWTH)
"""All on which forecasts hang beside their spec."""
EPSILON = 1e-8
"""Added to every code's probability."""
HATS = 12
"""Features that say where the prediction is: the rest of `FEATURES` say how large errors are."""
WIDEST = 8.0
"""Most that a network adds to the logarithm of the scale, or takes from it."""
_FALL = 16
"""A taper falls over this part of its window, at the end that is heard last."""
QUIET = 1e-9
"""Added to the power of a window, which may be silence."""

Amplitudes = NDArray[np.float64]


def amplitudes(levels: int) -> Amplitudes:
    """What each code (Q,) is heard as."""
    return Quantiser(levels=levels).table()


def edges(levels: int) -> Amplitudes:
    """Where the amplitudes of each code begin and end: (Q + 1,), the outermost far beyond full scale."""
    mu = levels - 1
    companded = (2 * np.arange(1, levels) - 1) / mu - 1
    inside = np.sign(companded) * ((1.0 + mu) ** np.abs(companded) - 1) / mu
    return np.concatenate([[-1e6], inside, [1e6]])


def taper(spec: PredictorSpec) -> Amplitudes:
    """Weights (window,) of what was heard, oldest first: half a cosine up, and a short one down."""
    fall = max(1, spec.window // _FALL)
    rise = spec.window - fall
    return np.concatenate([np.hanning(2 * rise)[:rise], np.hanning(2 * fall)[fall:]])


def fit(spec: PredictorSpec, heard: Amplitudes) -> Amplitudes:
    """The filter (order,), newest sample first, for what follows a window of samples (window,)."""
    tapered = heard * taper(spec)
    r = np.array([tapered[k:] @ tapered[: spec.window - k] for k in range(spec.order + 1)])
    error = r[0] * (1 + spec.correction) + QUIET
    a = np.zeros(spec.order)
    for i in range(spec.order):
        reflection = (r[i + 1] - a[:i] @ r[i:0:-1]) / error
        a[:i] -= reflection * a[:i][::-1]
        a[i] = reflection
        error *= 1 - reflection**2
    return a * spec.expansion ** np.arange(1, spec.order + 1)


def scale(spec: PredictorSpec, prediction: float, fast: float) -> float:
    """Of the logistic around a prediction, in amplitude."""
    return FACTOR * fast + spec.floor + GROWTH * abs(prediction)


def forecasts(spec: PredictorSpec, levels: int, codes: NDArray[np.integer]) -> NDArray[np.float64]:  # type: ignore[type-arg]
    """What is forecast before each of codes (T,), from silence on: (T, FORECAST)."""
    heard = np.concatenate([np.zeros(spec.window), amplitudes(levels)[codes]])
    rows = np.zeros((len(codes), FORECAST))
    filter_ = np.zeros(spec.order)
    for t in range(1, len(codes)):
        before = heard[t : t + spec.window]
        if t % spec.hop == 0:
            filter_ = fit(spec, before)
        prediction, fast, slow, _ = rows[t - 1]
        error = before[-1] - prediction
        rows[t] = (
            np.clip(filter_ @ before[: -spec.order - 1 : -1], -1, 1),
            FAST * fast + (1 - FAST) * abs(error),
            SLOW * slow + (1 - SLOW) * abs(error),
            error / scale(spec, prediction, fast),
        )
    return rows
