"""TensorFlow's checkpoints since 0.12, of TensorFlow 1's `Saver` and TensorFlow 2's objects alike: a bundle.

`PREFIX.index` is a table (`tables`) of one entry a tensor; `PREFIX.data-00000-of-00001` and so on hold their
bytes. tensorflow/core/protobuf/tensor_bundle.proto and core/util/tensor_bundle.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.models.container import open_file, require
from streamer.models.importing.crc32c import masked_crc32c
from streamer.models.importing.leaves import Leaf, elements, read_bytes
from streamer.models.importing.protobuf import Value, fields, number
from streamer.models.importing.tables import entries
from streamer.models.importing.tensorflow_types import NUMBERS, read_shape, type_name

MAX_INDEX_BYTES = 2**26

_SUFFIX = re.compile(r"\.(index|data-\d{5}-of-\d{5})$")
_BOTH = "a TensorFlow checkpoint is PREFIX.index and PREFIX.data-00000-of-00001 together"


def prefix_of(path: Path) -> Path:
    """Return the prefix of a bundle from the path of one of its parts, or from itself."""
    return path.with_name(_SUFFIX.sub("", path.name))


@dataclass(frozen=True)
class _Entry:
    """One tensor's place: a BundleEntryProto."""

    name: str
    datatype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A tensor in a data file."""

    entry: _Entry
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    @property
    def stored_bytes(self) -> int:
        return self.entry.size

    def load(self) -> NDArray[Any]:
        """Read it and verify its checksum."""
        entry = self.entry
        data = read_bytes(self.path, entry.offset, entry.size)
        sound = masked_crc32c(data) == entry.crc
        require(sound, f"{entry.name!r} does not have the checksum that was stored with it: get a new copy")
        numbers = NUMBERS[entry.datatype]
        return numbers.convert(np.frombuffer(data, numbers.dtype).reshape(entry.shape))


def read_bundle(prefix: Path) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Return the tensors by name, and what else there is and of which type; raise `StreamerError`."""
    table = memoryview(_read_index(prefix))
    shards = 0
    tensors: dict[str, Leaf] = {}
    others: dict[str, str] = {}
    left: dict[int, int] = {}
    for key, value in entries(table):
        if not key:
            shards = _read_header(value)
            continue
        require(shards > 0, "its index does not begin with a header: get a new copy")
        entry = _read_entry(key, value)
        data = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{shards:05d}")
        file_bytes = _size_of(data)
        _check_place(entry, file_bytes)
        left[entry.shard] = left.get(entry.shard, file_bytes) - entry.size
        require(left[entry.shard] >= 0, "its tensors have more bytes than its data file: they overlap")
        if entry.datatype in NUMBERS:
            _check_size(entry)
            tensors[entry.name] = _Tensor(entry, data)
        else:
            others[entry.name] = type_name(entry.datatype)
    return tensors, others


def _read_index(prefix: Path) -> bytes:
    path = prefix.with_name(f"{prefix.name}.index")
    with open_file(path, f"{path.name!r}: {_BOTH}") as file:
        size = os.fstat(file.fileno()).st_size
        require(size <= MAX_INDEX_BYTES, f"its index has {size} bytes: at most {MAX_INDEX_BYTES} can be read")
        return file.read()


def _size_of(data: Path) -> int:
    with open_file(data, f"{data.name!r}: {_BOTH}") as file:
        return os.fstat(file.fileno()).st_size


def _read_header(value: memoryview) -> int:
    """Read a BundleHeaderProto; return the number of data files."""
    shards = 0
    for field, content in fields(value):
        if field == 1:
            shards = number(content)
        require(field != 2 or number(content) == 0, "its numbers are big-endian, which cannot be read")
    require(0 < shards <= 99_999, f"its header tells of {shards} data files: get a new copy")
    return shards


def _read_entry(key: bytes, value: memoryview) -> _Entry:
    name = key.decode("utf-8", "replace")
    readers: dict[int, tuple[str, Callable[[Value], Any]]] = {
        1: ("datatype", number),
        2: ("shape", lambda content: read_shape(content, name)),
        3: ("shard", number),
        4: ("offset", number),
        5: ("size", number),
        6: ("crc", number),
    }
    found: dict[str, Any] = {}
    for field, content in fields(value):
        require(field != 7, f"{name!r} is partitioned into slices, which is not supported: save it whole")
        if field in readers:
            part, convert = readers[field]
            found[part] = convert(content)
    return _Entry(name, **found)


def _check_place(entry: _Entry, file_bytes: int) -> None:
    end = entry.offset + entry.size
    require(
        end <= file_bytes,
        f"its data file is truncated to {file_bytes} bytes, {entry.name!r} ends at {end}: get a new copy",
    )


def _check_size(entry: _Entry) -> None:
    itemsize = NUMBERS[entry.datatype].dtype.itemsize
    count = elements(entry.shape, entry.name, entry.size // itemsize)
    require(
        count * itemsize == entry.size,
        f"{entry.name!r} has {entry.size} bytes, its shape {entry.shape} another number: get a new copy",
    )
