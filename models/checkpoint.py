"""Model files: safetensors with one JSON header that says all that the weights do not (docs/checkpoints.md).

A file comes from anywhere, so loading trusts nothing in it: sizes are checked against the file before memory
is taken, names, shapes and dtypes against the spec, weights for being finite, and all of it against a hash.
Nothing is unpickled, and a file that fails is a `CheckpointError` of one line.
"""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, TypeAlias

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from streamer.models.errors import CheckpointError, StreamerError
from streamer.models.quantisers import Quantiser, quantiser_from_json, quantiser_to_json
from streamer.models.specs import Shapes, Spec, spec_from_json, spec_to_json

FORMAT_VERSION = 1
SUFFIX = ".safetensors"
METADATA_KEY = "streamer"
MAX_HEADER_BYTES = 2**20
MAX_FILE_BYTES = 2**32
MAX_TEXT = 4096
SAMPLE_RATES_HZ = (1000, 192_000)

Tensors: TypeAlias = "Mapping[str, NDArray[np.float32]]"

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_MAX_MESSAGE = 300


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
        dtype = _DTYPES["F16" if half else "F32"]
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
        _write(path, described, digest, stored)
    return checkpoint


def describe(path: str | Path, provenance: Provenance) -> Checkpoint:
    """Give a model file another provenance, in one step; its weights stay byte for byte.

    Returns what `load` will give. Raises `CheckpointError` when the file does not load or may not be written.
    """
    path = Path(os.path.realpath(path))  # a link goes on leading to the file
    with _blaming(path, "written"), _open(path, "r+b") as file:
        described, header, stored = _read_stored(file)
        described["provenance"] = asdict(provenance)
        kept = {name: array.astype(np.float32, copy=False) for name, array in stored.items()}
        renamed = replace(header, provenance=provenance, hash=content_hash(described, kept))
        _write(path, described, renamed.hash, stored)
        return _whole(renamed, kept)


def load(path: str | Path) -> Checkpoint:
    """Read a model file and check all of it; raise a `CheckpointError` that names the file and the fault."""
    path = Path(path)
    with _blaming(path, "read"), _open(path) as file:
        _, header, stored = _read_stored(file)
        return _whole(header, {name: array.astype(np.float32, copy=False) for name, array in stored.items()})


def read_header(path: str | Path) -> Header:
    """Read and check all but the weights, for listing models: cheap, and blind to damage in the weights."""
    path = Path(path)
    with _blaming(path, "read"), _open(path) as file:
        return _read_described(file)[1]


def canonical_json(value: object) -> str:
    """Write JSON the one way that is hashed: keys sorted, no spaces, ASCII only, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


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


# Reading: from the outside in, each layer checked before the next is looked at.


@dataclass(frozen=True)
class _Place:
    """Where in the file a tensor lies."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@contextmanager
def _blaming(path: Path, done: str) -> Iterator[None]:
    """Turn every failure inside into a `CheckpointError` of one line that starts with the file's name."""
    try:
        yield
    except StreamerError as error:
        message = str(error)
    except OSError as error:
        message = f"it cannot be {done}: {error.strerror or error}"
    except MemoryError:
        message = f"it cannot be {done}: there is not enough memory"
    else:
        return
    if len(message) > _MAX_MESSAGE:  # it quotes something long: what is allowed stands at its end
        message = f"{message[:200]} ... {message[-100:]}"
    raise CheckpointError(f"{str(path)!r}: {message}")


def _open(path: Path, how: Literal["rb", "r+b"] = "rb") -> BinaryIO:
    """Open a regular file; a pipe or a device would block or never end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CheckpointError("there is no such file, `streamer models` lists what there is") from None
    except ValueError:
        raise CheckpointError("this cannot be the name of a file") from None
    _require(not stat.S_ISDIR(mode), f"this is a folder: give the {SUFFIX} file in it")
    _require(stat.S_ISREG(mode), f"this is no ordinary file: give a {SUFFIX} file")
    return path.open(how)


def _read_described(file: BinaryIO) -> tuple[dict[str, Any], Header, dict[str, _Place]]:
    """Read the header as JSON without its hash, as checked objects, and where each tensor lies."""
    metadata, places = _read_safetensors_header(file)
    foreign = f"it has no {METADATA_KEY!r} header: another program wrote it, and only ours can be loaded"
    _require(isinstance(metadata, dict) and isinstance(metadata.get(METADATA_KEY), str), foreign)
    described = _parse_json(metadata[METADATA_KEY], f"its {METADATA_KEY!r} header")
    _check_version(described.get("version"))
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


def _read_safetensors_header(file: BinaryIO) -> tuple[Any, dict[str, _Place]]:
    """Read the container's own header: the metadata and the checked place of every tensor."""
    size = os.fstat(file.fileno()).st_size
    _require(size <= MAX_FILE_BYTES, f"it has {size} bytes: at most {MAX_FILE_BYTES} can be loaded")
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{":
        _refuse_foreign(start)
    _require(
        length <= MAX_HEADER_BYTES,
        f"its header claims {length} bytes: {MAX_HEADER_BYTES} is the most, this is no model of ours",
    )
    _require(
        8 + length <= size, f"it is truncated to {size} bytes, its header alone has {length}: get a new copy"
    )
    text = (start[8:] + file.read(length - 1)).rstrip(b" ")
    _require(text.endswith(b"}"), "its header does not end with a brace: it is damaged, get a new copy")
    entries = _parse_json(text, "its header")
    metadata = entries.pop("__metadata__", None)
    places = {name: _parse_place(name, entry, 8 + length) for name, entry in entries.items()}
    _check_layout(places, 8 + length, size)
    return metadata, places


def _refuse_foreign(start: bytes) -> NoReturn:
    if start.startswith(b"PK") or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        raise CheckpointError("it is a pickle or a zip (PyTorch?), which may run code: it is never loaded")
    raise CheckpointError(
        f"it is empty, damaged or not a {SUFFIX} file: get a new copy, or give another file"
    )


def _parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly: no NaN or infinity, no key twice, no depth that exhausts the stack."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_finite_number, parse_float=_finite_number
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) else "it is nested too deeply"
        raise CheckpointError(f"{what} is not sound JSON ({reason}): get a new copy") from None
    _require(isinstance(value, dict), f"{what} is not a JSON object")
    return value  # type: ignore[no-any-return]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def _finite_number(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _parse_place(name: str, entry: object, data: int) -> _Place:
    """Read one tensor's entry; data: the file offset of the first weight."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        known = len(entry) == 3  # type: ignore[arg-type]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError, IndexError):
        raise CheckpointError(f"its entry for tensor {name!r} is damaged: get a new copy") from None
    known = known and all(type(number) is int and 0 <= number <= MAX_FILE_BYTES for number in numbers)
    _require(known, f"its entry for tensor {name!r} is damaged: get a new copy")
    allowed = isinstance(dtype, str) and dtype in _DTYPES
    _require(allowed, f"tensor {name!r} is stored as {dtype!r}: it must be {' or '.join(_DTYPES)}")
    return _Place(dtype, tuple(shape), data + begin, data + end)


def _check_layout(places: Mapping[str, _Place], data: int, size: int) -> None:
    """Require that the tensors fill the file from data to size without a gap or an overlap."""
    reached = data
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        _require(
            place.begin == reached, f"its tensor {name!r} overlaps another or leaves a gap: get a new copy"
        )
        length = prod(place.shape) * _DTYPES[place.dtype].itemsize
        _require(
            place.end - place.begin == length,
            f"its tensor {name!r} has a size that its shape does not fit: get a new copy",
        )
        reached = place.end
    _require(
        reached <= size, f"it is truncated to {size} bytes, its weights end at {reached}: get a new copy"
    )
    _require(reached == size, f"it has {size - reached} bytes too many at its end: get a new copy")


def _check_version(version: object) -> None:
    ok = type(version) is int and version >= 1
    _require(ok, f"its format version is {version!r}: it must be a whole number from 1")
    assert isinstance(version, int)
    newer = f"its format version is {version}, this program reads {FORMAT_VERSION}: update streamer"
    _require(version <= FORMAT_VERSION, newer)


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
    stored = {name: _read_tensor(file, name, places[name]) for name in header.spec.tensors()}
    _require_finite(stored)
    same = content_hash(described, stored) == header.hash
    _require(same, "its content does not match its hash: it is damaged or was edited, get a new copy")
    return described, header, stored


def _whole(header: Header, tensors: Tensors) -> Checkpoint:
    return Checkpoint(**{f.name: getattr(header, f.name) for f in fields(Header)}, tensors=tensors)


def _read_tensor(file: BinaryIO, name: str, place: _Place) -> NDArray[Any]:
    file.seek(place.begin)
    array: NDArray[Any] = np.fromfile(file, _DTYPES[place.dtype], prod(place.shape))
    _require(array.nbytes == place.end - place.begin, f"it is truncated in tensor {name!r}: get a new copy")
    return array.reshape(place.shape)


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


def _write(path: Path, described: Mapping[str, Any], digest: str, stored: Mapping[str, NDArray[Any]]) -> None:
    metadata = {METADATA_KEY: canonical_json({**described, "hash": digest})}
    _write_atomically(path, safetensors.numpy.save(dict(stored), metadata))


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside the target and move it there, so that no reader ever sees half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    # The name, too, must survive a power cut, and it lives in the folder.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
