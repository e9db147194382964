"""TensorFlow's checkpoints before 0.12, and of `Saver(write_version=V1)` after: one table of tensors' values.

The entry without a name is the list of tensors, with shapes and types; each other one is a slice of a tensor
and its values, as a TensorProto. tensorflow/core/util/saved_tensor_slice.proto, framework/tensor.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.models.container import require
from streamer.models.importing.leaves import Leaf, elements
from streamer.models.importing.protobuf import fields, message, number, read_varint, text
from streamer.models.importing.tables import entries
from streamer.models.importing.tensorflow_types import NUMBERS, read_shape, type_name

_META, _DATA = 1, 2
_FIXED_VALUES = {1: 5, 2: 6}  # DataType -> the field of a TensorProto with its values, packed
_VARINT_VALUES = {3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11}
_FIELDS = _FIXED_VALUES | _VARINT_VALUES

_NOTHING = memoryview(b"")
_SLICED = "is saved in slices, which is not supported: save it whole"
_MISCOUNTED = "has another number of values than its shape says: get a new copy"


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose values lie in the table."""

    name: str
    datatype: int
    shape: tuple[int, ...]
    values: memoryview = _NOTHING

    @property
    def stored_bytes(self) -> int:
        return len(self.values)

    def load(self) -> NDArray[Any]:
        """Read the values; the block that they lie in was verified."""
        numbers = NUMBERS[self.datatype]
        if self.datatype in _FIXED_VALUES:
            require(len(self.values) % numbers.dtype.itemsize == 0, f"{self.name!r} {_MISCOUNTED}")
            stored = np.frombuffer(self.values, numbers.dtype)
        else:
            stored = np.fromiter(_varints(self.values), np.uint64).astype(numbers.dtype)
        count = elements(self.shape, self.name, len(stored))
        require(count == len(stored), f"{self.name!r} {_MISCOUNTED}")
        return numbers.convert(stored.reshape(self.shape))


def is_v1(table: memoryview) -> bool:
    """Whether a table is of this format: its first value is a message, in a bundle's index a number."""
    for key, value in entries(table):
        return key == b"" and any(field == _META and not isinstance(v, int) for field, v in fields(value))
    return False


def read_v1(table: memoryview) -> tuple[dict[str, Leaf], dict[str, str]]:
    """Return the tensors by name, and what else there is and of which type; raise `StreamerError`."""
    listed: dict[str, _Tensor] = {}
    tensors: dict[str, Leaf] = {}
    for key, value in entries(table):
        for field, content in fields(value):
            if not key and field == _META:
                listed = {tensor.name: tensor for tensor in _read_list(message(content))}
            elif field == _DATA:
                tensor = _read_values(listed, message(content))
                require(tensor.name not in tensors, f"{tensor.name!r} {_SLICED}")
                tensors[tensor.name] = tensor
    others = {name: type_name(t.datatype) for name, t in listed.items() if t.datatype not in _FIELDS}
    lacking = sorted(set(listed) - set(tensors) - set(others))
    require(not lacking, f"the values of {lacking[:3]} are not in it: get a new copy")
    return {name: leaf for name, leaf in tensors.items() if name not in others}, others


def _read_list(meta: memoryview) -> Iterator[_Tensor]:
    """Read a SavedTensorSliceMeta."""
    for field, content in fields(meta):
        if field == 1:
            parts = list(fields(message(content)))
            name = "".join(text(value) for part, value in parts if part == 1)
            datatype = sum(number(value) for part, value in parts if part == 3)
            shapes = [read_shape(value, name) for part, value in parts if part == 2]
            require(sum(part == 4 for part, _ in parts) <= 1, f"{name!r} {_SLICED}")
            yield _Tensor(name, datatype, shapes[0] if shapes else ())


def _read_values(listed: dict[str, _Tensor], saved: memoryview) -> _Tensor:
    """Read a SavedSlice of a tensor that is listed."""
    parts = list(fields(saved))
    name = "".join(text(value) for part, value in parts if part == 1)
    require(name in listed, f"{name!r} has values but is not in its list of tensors: get a new copy")
    tensor = listed[name]
    for part, value in parts:
        whole = part != 2 or not any(len(message(extent)) for _, extent in fields(message(value)))
        require(whole, f"{name!r} {_SLICED}")
    wanted = _FIELDS.get(tensor.datatype)
    values = [
        v for part, proto in parts if part == 3 for field, v in fields(message(proto)) if field == wanted
    ]
    require(len(values) <= 1, f"{name!r} has its values in pieces: get a new copy")
    found = _Tensor(name, tensor.datatype, tensor.shape, message(values[0]) if values else _NOTHING)
    elements(found.shape, name, len(found.values))  # a number has at least one byte
    return found


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = read_varint(packed, at)
        yield value
