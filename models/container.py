"""The container of everything that streamer keeps: safetensors with one JSON header of ours.

A file comes from anywhere, so reading trusts nothing in it: sizes are checked against the file before memory
is taken, and JSON strictly. Nothing is unpickled. Writing is whole or not at all. What a file must hold is
for `checkpoint` and `streamer.bookmarks` to say.
"""

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from streamer.models.errors import StreamerError

SUFFIX = ".safetensors"
METADATA_KEY = "streamer"
MAX_HEADER_BYTES = 2**20
MAX_FILE_BYTES = 2**32
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
"""What safetensors calls the dtypes that we store."""

_MAX_MESSAGE = 300


@dataclass(frozen=True)
class Place:
    """Where in the file a tensor lies: its bytes from begin to end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def require(condition: bool, message: str) -> None:
    """Raise `StreamerError` unless the condition holds; `blaming` adds the file's name."""
    if not condition:
        raise StreamerError(message)


@contextmanager
def blaming(path: Path, done: str, kind: type[StreamerError]) -> Iterator[None]:
    """Turn every failure inside into an error of this kind: one line that starts with the file's name.

    done: what could not be done where the system refuses, "read" or "written".
    """
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
    raise kind(f"{str(path)!r}: {message}")


def open_file(path: Path, missing: str, how: Literal["rb", "r+b"] = "rb") -> BinaryIO:
    """Open a regular file, for a pipe or a device would block or never end; missing: what to do without."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise StreamerError(f"there is no such file, {missing}") from None
    except ValueError:
        raise StreamerError("this cannot be the name of a file") from None
    require(not stat.S_ISDIR(mode), "this is a folder: give the file in it")
    require(stat.S_ISREG(mode), "this is no ordinary file: give one")
    return path.open(how)


def read_header(
    file: BinaryIO, version: int, dtypes: tuple[str, ...], largest: int = MAX_FILE_BYTES
) -> tuple[dict[str, Any], dict[str, Place]]:
    """Read our JSON header and the checked place of every tensor.

    version: the newest that the caller reads. dtypes: those it takes. largest: bytes of the file.
    """
    metadata, places = _read_safetensors_header(file, dtypes, largest)
    foreign = f"it has no {METADATA_KEY!r} header: another program wrote it, and only ours can be loaded"
    require(isinstance(metadata, dict) and isinstance(metadata.get(METADATA_KEY), str), foreign)
    described = parse_json(metadata[METADATA_KEY], f"its {METADATA_KEY!r} header")
    check_version(described.get("version"), version)
    return described, places


def read_tensor(file: BinaryIO, name: str, place: Place) -> NDArray[Any]:
    """Read one tensor: a writable array that is nobody else's."""
    file.seek(place.begin)
    array: NDArray[Any] = np.fromfile(file, DTYPES[place.dtype], prod(place.shape))
    require(array.nbytes == place.end - place.begin, f"it is truncated in tensor {name!r}: get a new copy")
    return array.reshape(place.shape)


def write(path: Path, described: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a file, whole or not at all: beside the target, then moved there in one step."""
    metadata = {METADATA_KEY: canonical_json(described)}
    write_atomically(path, safetensors.numpy.save(dict(tensors), metadata))


def canonical_json(value: object) -> str:
    """Write JSON the one way that is hashed: keys sorted, no spaces, ASCII only, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse_json(text: str | bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly: no NaN or infinity, no key twice, no depth that exhausts the stack."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_finite_number, parse_float=_finite_number
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) else "it is nested too deeply"
        raise StreamerError(f"{what} is not sound JSON ({reason}): get a new copy") from None
    require(isinstance(value, dict), f"{what} is not a JSON object")
    return value  # type: ignore[no-any-return]


# From the outside in: each layer is checked before the next is looked at.


def _read_safetensors_header(
    file: BinaryIO, dtypes: tuple[str, ...], largest: int
) -> tuple[Any, dict[str, Place]]:
    """Read the container's own header: the metadata and the checked place of every tensor."""
    size = os.fstat(file.fileno()).st_size
    require(size <= largest, f"it has {size} bytes: at most {largest} can be loaded")
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] != b"{":
        _refuse_foreign(start)
    require(
        length <= MAX_HEADER_BYTES,
        f"its header claims {length} bytes: {MAX_HEADER_BYTES} is the most, this is no file of ours",
    )
    require(
        8 + length <= size, f"it is truncated to {size} bytes, its header alone has {length}: get a new copy"
    )
    text = (start[8:] + file.read(length - 1)).rstrip(b" ")
    require(text.endswith(b"}"), "its header does not end with a brace: it is damaged, get a new copy")
    entries = parse_json(text, "its header")
    metadata = entries.pop("__metadata__", None)
    places = {name: _parse_place(name, entry, 8 + length, dtypes) for name, entry in entries.items()}
    _check_layout(places, 8 + length, size)
    return metadata, places


def _refuse_foreign(start: bytes) -> NoReturn:
    if start.startswith(b"PK") or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        raise StreamerError("it is a pickle or a zip (PyTorch?), which may run code: it is never loaded")
    raise StreamerError(f"it is empty, damaged or not a {SUFFIX} file: get a new copy, or give another file")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def _finite_number(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _parse_place(name: str, entry: object, data: int, dtypes: tuple[str, ...]) -> Place:
    """Read one tensor's entry; data: the file offset of the first tensor."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        known = len(entry) == 3  # type: ignore[arg-type]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError, IndexError):
        raise StreamerError(f"its entry for tensor {name!r} is damaged: get a new copy") from None
    known = known and all(type(number) is int and 0 <= number <= MAX_FILE_BYTES for number in numbers)
    require(known, f"its entry for tensor {name!r} is damaged: get a new copy")
    allowed = isinstance(dtype, str) and dtype in dtypes
    require(allowed, f"tensor {name!r} is stored as {dtype!r}: it must be {' or '.join(dtypes)}")
    return Place(dtype, tuple(shape), data + begin, data + end)


def _check_layout(places: Mapping[str, Place], data: int, size: int) -> None:
    """Require that the tensors fill the file from data to size without a gap or an overlap."""
    reached = data
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        require(
            place.begin == reached, f"its tensor {name!r} overlaps another or leaves a gap: get a new copy"
        )
        length = prod(place.shape) * DTYPES[place.dtype].itemsize
        require(
            place.end - place.begin == length,
            f"its tensor {name!r} has a size that its shape does not fit: get a new copy",
        )
        reached = place.end
    require(reached <= size, f"it is truncated to {size} bytes, its tensors end at {reached}: get a new copy")
    require(reached == size, f"it has {size - reached} bytes too many at its end: get a new copy")


def check_version(version: object, newest: int) -> None:
    """Require a format version that this program reads."""
    ok = type(version) is int and version >= 1
    require(ok, f"its format version is {version!r}: it must be a whole number from 1")
    assert isinstance(version, int)
    newer = f"its format version is {version}, this program reads {newest}: update streamer"
    require(version <= newest, newer)


def write_atomically(path: Path, content: bytes) -> None:
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
