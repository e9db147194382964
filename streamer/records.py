"""Records: frozen dataclasses of plain values that check themselves, and are written as JSON and read back.

What a field may hold follows from its type:

    str                     printable, at most 256 characters
    int                     whole, 0 to 2**62
    float                   finite
    Literal                 one of those
    Mapping[str, Value]     at most 100 values of controls by their names
    any other               an object of that class
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from streamer.controls import MAX_TEXT, Value, shown
from streamer.models.errors import StreamerError

MAX_WHOLE = 2**62
MAX_VALUES = 100

AnyRecord = TypeVar("AnyRecord", bound="Record")


class Record:
    """Base of the dataclasses that check themselves."""

    def __post_init__(self) -> None:
        """Check every field; raise `StreamerError` naming the first that is wrong, and what it must be."""
        for name, kind in _kinds(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if not _fits(kind, value):
                raise StreamerError(f"{name} is {shown(value)}: it must be {_words(kind)}")


def from_json(kind: type[AnyRecord], data: object, **made: object) -> AnyRecord:
    """The record that a JSON object describes: it has nothing but the fields, without those `made` here.

    Raises:
        StreamerError: it has others, or one is wrong.
    """
    known = {field.name for field in fields(kind)} - set(made)  # type: ignore[arg-type]
    if not isinstance(data, dict) or set(data) != known:
        found = ", ".join(sorted(data)) if isinstance(data, dict) else "no JSON object"
        raise StreamerError(f"it must have {', '.join(sorted(known))}, and has {shown(found)}")
    return kind(**data, **made)


@cache
def _kinds(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _fits(kind: Any, value: object) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value <= MAX_WHOLE
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if kind == Mapping[str, Value]:
        return _are_values(value)
    return isinstance(value, kind if isinstance(kind, UnionType) else origin or kind)


def _are_values(value: object) -> bool:
    if not isinstance(value, Mapping) or len(value) > MAX_VALUES:
        return False
    kinds: dict[type, Any] = {bool: object, int: int, float: float, str: str}
    return all(_fits(str, key) and _fits(kinds.get(type(item), Mapping), item) for key, item in value.items())


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if kind == Mapping[str, Value]:
        return f"at most {MAX_VALUES} values of controls by their names"
    words = {
        int: f"a whole number from 0 to {MAX_WHOLE}",
        float: "a finite number",
        str: f"printable text of at most {MAX_TEXT} characters",
    }
    return words.get(kind, f"of the kind {kind}")
