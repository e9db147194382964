"""Quantisers: how each system turns samples into codes and back. No two agree, not even on silence.

| kind | system | encode | decode |
|---|---|---|---|
| mulaw | PRiSM, ibab, nv-wavenet, ours | mu = Q-1, round to nearest | s = 2 q / mu - 1 |
| mulaw-floor | r9y9/wavenet_vocoder | mu = Q-1, floor | s = 2 q / mu - 1 |
| mulaw-mehri | sampleRNN_ICLR2017, Dadabots | stretched to [-1, 1], mu = Q-1, floor | s = 2 (q - Q/2) / Q |
| mulaw-vincent | vincentherrmann/pytorch-wavenet | mu = Q, bins of linspace(-1, 1, Q) | s = 2 q / Q - 1 |
| linear-prism | PRiSM | (x+1)/2 (Q - 1e-5) + 5e-6, floor | q / (Q/2) - 1 |
| linear-mehri | sampleRNN_ICLR2017 | stretched to [0, 1], (Q - 1e-5) + 5e-6, floor | q / (Q/2) - 1 |
| linear-deepsound | deepsound | stretched to [0, 1], (Q - 1e-2) + 5e-3, floor | q / (Q/2) - 1 |
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.models.errors import SpecError
from streamer.models.specs import MAX_LEVELS

Kind: TypeAlias = Literal[
    "mulaw", "mulaw-floor", "mulaw-mehri", "mulaw-vincent", "linear-prism", "linear-mehri", "linear-deepsound"
]
Samples: TypeAlias = "NDArray[np.float64]"
Codes: TypeAlias = "NDArray[np.int64]"

_LINEAR_EPSILON = {"linear-prism": 1e-5, "linear-mehri": 1e-5, "linear-deepsound": 1e-2}
_STRETCHING = {"mulaw-mehri", "linear-mehri", "linear-deepsound"}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Quantiser:
    """Turns samples in -1..1 into codes 0..levels-1 and back, with optional pre-emphasis around both.

    With pre-emphasis ``a``, codes are those of ``scale * (x[t] - a x[t-1])``, and decoding undoes it with
    the one-pole filter ``x[t] = v[t] / scale + a x[t-1]``: quantisation noise then falls with frequency as
    most music does.
    """

    kind: Kind = "mulaw"
    levels: int = 256
    preemphasis: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check every field; raise `SpecError` naming the first that is wrong."""
        if self.kind not in get_args(Kind):
            raise SpecError(
                f"quantiser {self.kind!r} is unknown: it must be one of {', '.join(get_args(Kind))}"
            )
        if type(self.levels) is not int or not 2 <= self.levels <= MAX_LEVELS:
            raise SpecError(
                f"quantiser levels is {self.levels!r}: it must be a whole number from 2 to {MAX_LEVELS}"
            )
        if not _is_number(self.preemphasis) or not 0 <= self.preemphasis < 1:
            raise SpecError(f"preemphasis is {self.preemphasis!r}: it must be a number from 0 to below 1")
        if not _is_number(self.scale) or not 0 < self.scale <= 1000:
            raise SpecError(f"quantiser scale is {self.scale!r}: it must be a number above 0, at most 1000")

    @property
    def stretches(self) -> bool:
        """Whether each clip is first brought to its own peak, so that it has to be seen whole."""
        return self.kind in _STRETCHING

    @property
    def mu(self) -> int:
        """The companding constant of the mu-law kinds."""
        return self.levels if self.kind == "mulaw-vincent" else self.levels - 1

    def encode(self, samples: ArrayLike) -> Codes:
        """Quantise a whole clip: samples (T,) in -1..1, clipped beyond -> codes (T,)."""
        clip = self.emphasise(samples)
        return _encode_mulaw(clip, self) if self.kind.startswith("mulaw") else _encode_linear(clip, self)

    def decode(self, codes: ArrayLike) -> Samples:
        """Turn a clip's codes (T,) back into samples (T,), pre-emphasis undone from a state of rest."""
        out: Samples = self.table()[np.asarray(codes)] / self.scale
        last = 0.0
        if self.preemphasis:
            for t, value in enumerate(out):
                out[t] = last = value + self.preemphasis * last
        return out

    def table(self) -> Samples:
        """Amplitude of each code (Q,), as the quantiser sees it: before scale and pre-emphasis are undone."""
        codes = np.arange(self.levels, dtype=np.float64)
        if self.kind.startswith("linear"):
            return codes / (self.levels / 2) - 1
        if self.kind == "mulaw-mehri":
            companded = 2 * (codes - self.levels // 2) / self.levels
        else:
            companded = 2 * codes / (self.levels if self.kind == "mulaw-vincent" else self.levels - 1) - 1
        return np.sign(companded) * ((1.0 + self.mu) ** np.abs(companded) - 1) / self.mu

    @property
    def silence(self) -> int:
        """The code nearest to zero amplitude; of two as near, the one that zero is encoded as."""
        distance = np.abs(self.table())
        zero = int(self.encode([0.0])[0])
        as_near = np.isclose(distance[zero], distance.min(), rtol=1e-9, atol=0)
        return zero if as_near else int(distance.argmin())

    def emphasise(self, samples: ArrayLike) -> Samples:
        """Apply pre-emphasis and scale to a clip (T,), from a state of rest."""
        clip = np.asarray(samples, np.float64)
        if self.preemphasis:
            clip = clip - self.preemphasis * np.concatenate([np.zeros(1), clip[:-1]])
        return clip * self.scale


def _unit(clip: Samples, quantiser: Quantiser) -> Samples:
    """Bring a clip to 0..1: by clipping -1..1, or, stretching, from its lowest to its highest."""
    if not quantiser.stretches:
        return (np.clip(clip, -1, 1) + 1) / 2
    if quantiser.kind == "linear-deepsound":
        clip = clip.astype(np.float32)  # as deepsound computes: where steps meet, rounding decides
    lowest, span = (clip.min(), np.ptp(clip)) if clip.size else (0.0, 0.0)
    return (clip - lowest) / span if span else np.full_like(clip, 0.5)


def _encode_mulaw(clip: Samples, quantiser: Quantiser) -> Codes:
    amplitude = 2 * _unit(clip, quantiser) - 1
    companded = np.sign(amplitude) * np.log1p(quantiser.mu * np.abs(amplitude)) / np.log1p(quantiser.mu)
    if quantiser.kind == "mulaw-vincent":
        bins: Codes = np.digitize(companded, np.linspace(-1, 1, quantiser.levels)) - 1
        return bins
    nearest = 0.5 if quantiser.kind == "mulaw" else 0.0
    codes: Codes = ((companded + 1) / 2 * (quantiser.levels - 1) + nearest).astype(np.int64)
    return codes


def _encode_linear(clip: Samples, quantiser: Quantiser) -> Codes:
    epsilon = _LINEAR_EPSILON[quantiser.kind]
    codes: Codes = (_unit(clip, quantiser) * (quantiser.levels - epsilon) + epsilon / 2).astype(np.int64)
    return codes


def quantiser_to_json(quantiser: Quantiser) -> dict[str, Any]:
    """Return the quantiser as plain JSON values."""
    return asdict(quantiser)


def quantiser_from_json(data: object) -> Quantiser:
    """Read what `quantiser_to_json` wrote; raise `SpecError` on anything else."""
    if not isinstance(data, dict) or set(data) != {field.name for field in fields(Quantiser)}:
        raise SpecError("the quantiser must be a JSON object with kind, levels, preemphasis and scale")
    return Quantiser(**data)
