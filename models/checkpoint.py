"""Model files: safetensors with one JSON header that says all that the weights do not (docs/checkpoints.md).

A file comes from anywhere, so loading trusts nothing in it: sizes are checked against the file before memory
is taken, names, shapes and dtypes against the spec, weights for being finite, and all of it against a hash.
Nothing is unpickled, and a file that fails is a `CheckpointError` of one line.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer.models.container import (
    DTYPES,
    Place,
    blaming,
    canonical_json,
    open_file,
    read_tensor,
    write,
)
from streamer.models.container import SUFFIX as SUFFIX
from streamer.models.container import read_header as read_container
from streamer.models.errors import CheckpointError
from streamer.models.quantisers import Quantiser, quantiser_from_json, quantiser_to_json
from streamer.models.specs import Shapes, Spec, spec_from_json, spec_to_json

FORMAT_VERSION = 1
MAX_TEXT = 4096
SAMPLE_RATES_HZ = (1000, 192_000)

Tensors: TypeAlias = "Mapping[str, NDArray[np.float32]]"

_STORED_AS = ("F32", "F16")
_MISSING = "`streamer models` lists what there is"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckpointError(message)


def _require_number(name: str, value: object, high: float) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= high
    _require(ok, f"{name} is {value!r}: it must be a number from 0 to {high:g}")


@dataclass(frozen=True)
class PrecisionBits:
    """Cross-entropy of one held-out piece of audio at each precision, bits a sample; None is not measured.

    What a precision costs is its difference to fp32. `streamer price` measures it.
    """

    fp32: float
    bf16: float | None = None
    int8: float | None = None
    int8dot: float | None = None

    def __post_init__(self) -> None:
        """Check every field; raise `CheckpointError` naming the first that is wrong."""
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.name == "fp32":
                _require_number(f"precision_bits, {item.name},", value, 64)


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from and how good it is; texts are single printable lines, None is not measured."""

    title: str = ""
    corpus: str = ""
    """What it was trained on."""
    licence: str = ""
    """Licence of the corpus, which governs the weights: an SPDX name."""
    attribution: str = ""
    """Whom to credit, as the licence asks."""
    origin: str = ""
    """The program and recipe that trained it."""
    steps: int = 0
    """Training steps."""
    bits_per_sample: float | None = None
    """Cross-entropy of held-out audio, bits a sample."""
    unigram_bits: float | None = None
    """The same held-out audio under its codes' frequencies alone, bits a sample."""
    lpc32_bits: float | None = None
    """The same held-out audio under a linear predictor of order 32, bits a sample."""
    temperature: float = 1.0
    """Recommended temperature, 0 to 2."""
    precision_bits: PrecisionBits | None = None
    """What lower precision costs."""

    def __post_init__(self) -> None:
        """Check every field; raise `CheckpointError` naming the first that is wrong."""
        for name in ("title", "corpus", "licence", "attribution", "origin"):
            value = getattr(self, name)
            ok = isinstance(value, str) and value.isprintable() and len(value) <= MAX_TEXT
            _require(ok, f"{name} must be one line of printable text, at most {MAX_TEXT} characters")
        _require_number("steps", self.steps, 2**53)
        _require(isinstance(self.steps, int), f"steps is {self.steps!r}: it must be a whole number")
        for name in ("bits_per_sample", "unigram_bits", "lpc32_bits"):
            if getattr(self, name) is not None:
                _require_number(name, getattr(self, name), 64)
        _require_number("temperature", self.temperature, 2)
        ok = self.precision_bits is None or isinstance(self.precision_bits, PrecisionBits)
        _require(ok, f"precision_bits is {self.precision_bits!r}: it must be PrecisionBits, or None")


@dataclass(frozen=True)
class Header:
    """All of a checkpoint but its weights."""

    spec: Spec
    quantiser: Quantiser
    sample_rate: int
    """Hz."""
    channels: int
    provenance: Provenance
    hash: str
    """SHA-256 of the rest and the weights, in hexadecimal: names the content, whatever the file is called."""

    def __post_init__(self) -> None:
        """Check what the parts cannot check alone; raise `CheckpointError`."""
        low, high = SAMPLE_RATES_HZ
        ok = type(self.sample_rate) is int and low <= self.sample_rate <= high
        _require(ok, f"sample_rate is {self.sample_rate!r} Hz: it must be a whole number, {low} to {high}")
        ok = type(self.channels) is int and self.channels == 1
        _require(ok, f"channels is {self.channels!r}: only 1 can be played")
        levels, expected = self.quantiser.levels, self.spec.levels
        _require(
            levels == expected, f"the quantiser has {levels} levels, the spec {expected}: make them equal"
        )
        kind = self.quantiser.kind
        ok = self.spec.predictor is None or kind == "mulaw"
        _require(ok, f"the quantiser is {kind}, the spec has a predictor: it needs mulaw")


@dataclass(frozen=True)
class Checkpoint(Header):
    """A model, whole. Two are equal when their headers are: the hash covers the weights."""

    tensors: Tensors = field(compare=False, repr=False)
    """Weights by the names of ``spec.tensors()``, in that order: float32, writable, nobody else's."""


def save(
    path: str | Path,
    *,
    spec: Spec,
    quantiser: Quantiser,
    sample_rate: int,
    tensors: Mapping[str, NDArray[Any]],
    provenance: Provenance,
    half: bool = False,
) -> Checkpoint:
    """Write a model file, whole or not at all, and return what `load` will give.

    tensors: the weights that ``spec.tensors()`` names, of any real dtype. half: store float16, which halves
    the file; the weights returned, and the hash, are those after rounding. An existing file is replaced in
    one step. Raises `CheckpointError` when something does not fit or the file cannot be written.
    """
    path = Path(path)
    with _blaming(path, "written"):
        _require_names(set(tensors), spec.tensors())
        _require_shapes({name: np.shape(array) for name, array in tensors.items()}, spec.tensors())
        dtype = DTYPES["F16" if half else "F32"]
        with np.errstate(over="ignore"):  # what overflows is infinite, which the next line but one reports
            stored = {name: np.ascontiguousarray(tensors[name], dtype) for name in spec.tensors()}
        kept = {name: array.astype(np.float32) for name, array in stored.items()}
        _require_finite(kept)
        described = {
            "version": FORMAT_VERSION,
            "spec": spec_to_json(spec),
            "quantiser": quantiser_to_json(quantiser),
            "sample_rate": sample_rate,
            "channels": 1,
            "provenance": asdict(provenance),
        }
        digest = content_hash(described, kept)
        checkpoint = Checkpoint(spec, quantiser, sample_rate, 1, provenance, digest, kept)
        write(path, {**described, "hash": digest}, stored)
    return checkpoint


def describe(path: str | Path, provenance: Provenance) -> Checkpoint:
    """Give a model file another provenance, in one step; its weights stay byte for byte.

    Returns what `load` will give. Raises `CheckpointError` when the file does not load or may not be written.
    """
    path = Path(os.path.realpath(path))  # a link goes on leading to the file
    with _blaming(path, "written"), open_file(path, _MISSING, "r+b") as file:
        described, header, stored = _read_stored(file)
        described["provenance"] = asdict(provenance)
        kept = {name: array.astype(np.float32, copy=False) for name, array in stored.items()}
        renamed = replace(header, provenance=provenance, hash=content_hash(described, kept))
        write(path, {**described, "hash": renamed.hash}, stored)
        return _whole(renamed, kept)


def load(path: str | Path) -> Checkpoint:
    """Read a model file and check all of it; raise a `CheckpointError` that names the file and the fault."""
    path = Path(path)
    with _blaming(path, "read"), open_file(path, _MISSING) as file:
        _, header, stored = _read_stored(file)
        return _whole(header, {name: array.astype(np.float32, copy=False) for name, array in stored.items()})


def read_header(path: str | Path) -> Header:
    """Read and check all but the weights, for listing models: cheap, and blind to damage in the weights."""
    path = Path(path)
    with _blaming(path, "read"), open_file(path, _MISSING) as file:
        return _read_described(file)[1]


def content_hash(described: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 in hexadecimal of the header without its hash and of every tensor.

    That is the canonical JSON of the header, then for each tensor by sorted name the canonical JSON of
    ``[name, shape]`` and its values as little-endian float32 in C order; a line feed ends every JSON text.
    """
    digest = hashlib.sha256(canonical_json(described).encode() + b"\n")
    for name in sorted(tensors):
        digest.update(canonical_json([name, list(tensors[name].shape)]).encode() + b"\n")
        digest.update(np.ascontiguousarray(tensors[name], "<f4").data)
    return digest.hexdigest()


def _blaming(path: Path, done: str) -> AbstractContextManager[None]:
    return blaming(path, done, CheckpointError)


def _read_described(file: BinaryIO) -> tuple[dict[str, Any], Header, dict[str, Place]]:
    """Read the header as JSON without its hash, as checked objects, and where each tensor lies."""
    described, places = read_container(file, FORMAT_VERSION, _STORED_AS)
    expected = {"version", "spec", "quantiser", "sample_rate", "channels", "provenance", "hash"}
    wrong = sorted(expected ^ set(described))
    _require(not wrong, f"its header lacks, or should not have: {', '.join(map(repr, wrong))}")
    header = Header(
        spec_from_json(described["spec"]),
        quantiser_from_json(described["quantiser"]),
        described["sample_rate"],
        described["channels"],
        _provenance_from_json(described["provenance"]),
        described.pop("hash"),
    )
    _require_names(set(places), header.spec.tensors())
    _require_shapes({name: place.shape for name, place in places.items()}, header.spec.tensors())
    return described, header, places


def _provenance_from_json(data: object) -> Provenance:
    known = _known_fields(data, Provenance, "provenance")
    bits = known.get("precision_bits")
    if bits is not None:
        _require(isinstance(bits, dict) and "fp32" in bits, "its precision_bits are no JSON object with fp32")
        known["precision_bits"] = PrecisionBits(**_known_fields(bits, PrecisionBits, "precision_bits"))
    return Provenance(**known)


def _known_fields(data: object, kind: type, name: str) -> dict[str, Any]:
    """A copy of a JSON object that holds nothing but fields of a dataclass."""
    _require(isinstance(data, dict), f"its {name} is not a JSON object")
    assert isinstance(data, dict)
    foreign = sorted(set(data) - {f.name for f in fields(kind)})
    _require(not foreign, f"its {name} has unknown fields {', '.join(map(repr, foreign))}: update streamer")
    return dict(data)


def _read_stored(file: BinaryIO) -> tuple[dict[str, Any], Header, dict[str, NDArray[Any]]]:
    """Read and check a whole file: the header as JSON without its hash, as objects, the tensors as stored."""
    described, header, places = _read_described(file)
    stored = {name: read_tensor(file, name, places[name]) for name in header.spec.tensors()}
    _require_finite(stored)
    same = content_hash(described, stored) == header.hash
    _require(same, "its content does not match its hash: it is damaged or was edited, get a new copy")
    return described, header, stored


def _whole(header: Header, tensors: Tensors) -> Checkpoint:
    return Checkpoint(**{f.name: getattr(header, f.name) for f in fields(Header)}, tensors=tensors)


def _require_names(names: set[str], shapes: Shapes) -> None:
    for what, wrong in (("missing", set(shapes) - names), ("not part of the spec", names - set(shapes))):
        _require(not wrong, f"tensors {what}: {', '.join(map(repr, sorted(wrong)))}")


def _require_shapes(found: Mapping[str, tuple[int, ...]], shapes: Shapes) -> None:
    for name, shape in shapes.items():
        _require(found[name] == shape, f"tensor {name!r} has shape {found[name]}: the spec needs {shape}")


def _require_finite(tensors: Mapping[str, NDArray[Any]]) -> None:
    for name, array in tensors.items():
        finite = bool(np.isfinite(array).all())
        _require(
            finite, f"tensor {name!r} holds weights that are not finite numbers: train or convert it anew"
        )
