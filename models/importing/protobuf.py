"""Protocol Buffers' wire format, as much as TensorFlow's checkpoints need: a message's fields in order.

https://protobuf.dev/programming-guides/encoding: a field is a key (number and wire type) and a value, a
varint, four or eight bytes, or a length and that many bytes.
"""

from collections.abc import Iterator
from typing import TypeAlias

from streamer.models.container import require

Value: TypeAlias = "int | memoryview"

MAX_FIELDS = 100_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned number of at most 64 bits, seven bits a byte; return it and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        require(at < len(data), "a number in it is cut off: get a new copy")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    require(False, "a number in it has more than 64 bits: get a new copy")
    raise AssertionError


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield the number and value of each field; numbers are unsigned, fixed ones their little-endian bits."""
    at = count = 0
    while at < len(message):
        count += 1
        require(
            count <= MAX_FIELDS, f"a message in it has more than {MAX_FIELDS} fields: no checkpoint's has"
        )
        key, at = read_varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            value: Value
            value, at = read_varint(message, at)
        else:
            known = wire == _BYTES or wire in _FIXED_BYTES
            require(
                known, f"a field in it has wire type {wire}, which TensorFlow never writes: get a new copy"
            )
            length, at = read_varint(message, at) if wire == _BYTES else (_FIXED_BYTES[wire], at)
            require(length <= len(message) - at, "a field in it is cut off: get a new copy")
            value = message[at : at + length]
            value = value if wire == _BYTES else int.from_bytes(value, "little")
            at += length
        yield key >> 3, value


def number(value: Value) -> int:
    """Return a field that must be a number."""
    require(isinstance(value, int), "a field in it is no number: get a new copy")
    assert isinstance(value, int)
    return value


def message(value: Value) -> memoryview:
    """Return a field that must be a message, a text or packed numbers."""
    require(isinstance(value, memoryview), "a field in it is no message: get a new copy")
    assert isinstance(value, memoryview)
    return value


def text(value: Value) -> str:
    """Return a field that must be a text."""
    return bytes(message(value)).decode("utf-8", "replace")
