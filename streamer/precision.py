"""At what precision a model plays: what is asked for, or the fastest whose measured price is small.

The price is in the model's file (`streamer price` measures it), the order of speed follows from the model's
size, and the processor says only whether it has dot products of bytes: so one model sounds the same on every
processor of a kind, however busy.
"""

from __future__ import annotations

from streamer.kernels.precision import CACHE_BYTES, PRECISIONS, resolve
from streamer.models.checkpoint import Header, PrecisionBits

AUTO = "auto"
SETTINGS = (AUTO, *PRECISIONS)
MOST_BITS = {"bf16": 0.01, "int8": 0.01, "int8dot": 0.03}
"""The most that a precision may cost for `AUTO` to take it, in bits a sample more than fp32."""

_WIDTHS = {"fp32": 4, "bf16": 2}


def choose(setting: str, model: Header, has_dot: bool) -> str:
    """The precision that a setting of `SETTINGS` comes to for a model.

    has_dot: whether the processor has what int8dot needs, see `has_dot_product`.
    """
    if setting != AUTO:
        return resolve(setting)
    fastest = _by_speed(model.spec.parameters)
    able = (precision for precision in fastest if has_dot or precision != "int8dot")
    return next(precision for precision in able if _is_cheap(precision, model.provenance.precision_bits))


def has_dot_product() -> bool:
    """Whether this processor has dot products of bytes: AVX-512 VNNI, or Arm's."""
    return resolve("int8dot") == "int8dot"


def price(precision: str, bits: PrecisionBits | None) -> float | None:
    """Bits a sample that a precision costs more than fp32; None where that has not been measured."""
    measured = getattr(bits, precision, None)
    return None if bits is None or measured is None else round(measured - bits.fp32, 6)


def price_words(precision: str, bits: PrecisionBits | None) -> str:
    """What a precision costs, to a reader."""
    cost = price(precision, bits)
    if precision == "fp32":
        return "the reference"
    return "its price is not measured" if cost is None else f"{cost:+.4f} bits a sample"


def hint(setting: str, model: Header) -> str:
    """How to give `AUTO` a choice where it has none; empty where it has one, or is not asked."""
    if setting != AUTO or model.provenance.precision_bits is not None:
        return ""
    return "What lower precision costs this model is unknown; to measure it: streamer price MODEL AUDIO"


def _is_cheap(precision: str, bits: PrecisionBits | None) -> bool:
    cost = price(precision, bits)
    return precision == "fp32" or (cost is not None and cost <= MOST_BITS[precision])


def _by_speed(weights: int) -> tuple[str, ...]:
    """Precisions for a model of so many weights, the fastest first.

    Dot products of bytes are fastest at any size. The others convert every weight as it is read, the narrower
    the more, which pays only for weights that come from beyond a core's own cache: of 0.24 M weights fp32 was
    a quarter faster than int8, of 2.9 M int8 was 2.7 times as fast as fp32.
    """
    near = [precision for precision, width in _WIDTHS.items() if width * weights <= CACHE_BYTES]
    far = [precision for precision in ("int8", "bf16", "fp32") if precision not in near]
    return ("int8dot", *near, *far)
