"""What an unpickled value holds, by name: arrays, settings and classes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from streamer.models.container import require
from streamer.models.importing.leaves import Leaf
from streamer.models.importing.pickles import Structure

MAX_DEPTH = 64
MAX_NAME = 1024
MAX_VISITED = 250_000
MAX_SHARING = 4
"""Bytes of arrays by all their names, against bytes of the file: tied weights have two names."""

_SETTINGS = (bool, int, float, str, type(None))
_MEMBERS = ("_parameters", "_buffers", "_modules")
"""Where a PyTorch module keeps what its state dict names."""


@dataclass
class Contents:
    """What was found, by its path, whose parts are joined by dots.

    What is shared is found under each of its names, so that a small file could hold more than there are
    atoms: what is visited is counted.
    """

    file_bytes: int
    tensors: dict[str, Leaf] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    _visited: int = 0
    _stored: int = 0

    def visit(self, value: object, name: str = "", depth: int = 0) -> None:
        """Name everything in a value; raise `StreamerError` if it is too much for a file of this size."""
        self._count(1)
        require(depth <= MAX_DEPTH, f"its pickle is nested deeper than {MAX_DEPTH}: no checkpoint is")
        require(len(name) <= MAX_NAME, f"its pickle has a name of more than {MAX_NAME} characters")
        if self._is_setting(value, 2):
            if value is not None:
                _keep(self.attributes, name, value)
        elif isinstance(value, Leaf):
            self._keep_array(name, value)
        else:
            if isinstance(value, Structure):
                self._count(len(value.attributes))
                _keep(self.modules, name, value.kind)
            for key, member in _members(value):
                self.visit(member, f"{name}.{key}" if name else str(key), depth + 1)

    def _count(self, more: int) -> None:
        self._visited += more
        enough = self._visited <= MAX_VISITED
        require(enough, f"its pickle holds more than {MAX_VISITED} things: no checkpoint does")

    def _keep_array(self, name: str, leaf: Leaf) -> None:
        self._stored += leaf.stored_bytes
        most = MAX_SHARING * self.file_bytes
        require(self._stored <= most, f"its arrays would have more than {most} bytes, the file is too small")
        _keep(self.tensors, name, leaf)

    def _is_setting(self, value: object, nested: int) -> bool:
        if isinstance(value, _SETTINGS):
            return True
        if nested == 0 or not isinstance(value, list | tuple):
            return False
        self._count(len(value))
        return all(self._is_setting(member, nested - 1) for member in value)


def _keep(found: dict[str, Any], name: str, value: object) -> None:
    require(name not in found, f"its pickle has two entries of the name {name!r}: get a new copy")
    found[name] = value


def _members(value: object) -> Iterable[tuple[object, object]]:
    """Return what a container holds, by name; of an object, not what its class keeps for itself."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple):
        return enumerate(value)
    if not isinstance(value, Structure):
        return ()
    attributes = value.attributes
    members = [member for key in _MEMBERS for member in _members(attributes.get(key))]
    return members + [(key, member) for key, member in attributes.items() if not key.startswith("_")]
