"""A checkpoint's tensors while a family takes them by name: what was used, and what was left and why."""

import re
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer.models.errors import CheckpointError
from streamer.models.importing.archive import Tensors

Floats: TypeAlias = "NDArray[np.float32]"
Shape: TypeAlias = "tuple[int, ...]"

KERAS_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
"""Ends the name of every variable in TensorFlow 2's object checkpoints."""

_OF_TRAINING = re.compile(
    r"optimi[sz]er|(^|[/.])(Adam|AdamOptimizer|Momentum|RMSProp|Adagrad)(_\d+)?$|beta\d_power|_power$|"
    r"ExponentialMovingAverage|global_step|save_counter|metrics|learning_rate|(^|[/.])iter(ation)?$",
    re.IGNORECASE,
)
_MOST_LISTED = 4


def short_name(name: str) -> str:
    """A tensor's name without what a container adds behind it."""
    return name.removesuffix(KERAS_SUFFIX)


class Weights:
    """The network's tensors under their program's own names, without what containers put around these.

    Args:
        found: all that the checkpoint holds.
        prefix: what stands before the network's names: "model.", "state_dict.", or nothing.
        program: whose they are, for messages.
    """

    def __init__(self, found: Tensors, prefix: str, program: str) -> None:
        self._found, self._prefix, self._program = found, prefix, program
        self._full: dict[str, str] = {}
        self.unused: dict[str, str] = {}
        """Why each tensor that was not taken plays no part, by its full name."""
        for full in found:
            if _OF_TRAINING.search(full):
                self.unused[full] = "serves training only"
            elif full.startswith(prefix):
                self._full[short_name(full)[len(prefix) :]] = full
            else:
                self.unused[full] = "lies outside the network"
        self._taken: dict[str, None] = {}

    @property
    def used(self) -> tuple[str, ...]:
        """The full names of the tensors that were taken, in that order."""
        return tuple(self._taken)

    def __contains__(self, name: str) -> bool:
        return name in self._full

    def count(self, pattern: str) -> int:
        """How many numbers the group of a pattern has in the names that match it whole."""
        matches = (re.fullmatch(pattern, name) for name in self._full)
        return len({int(match[1]) for match in matches if match})

    def shape(self, name: str, axes: int) -> Shape:
        """The shape of a tensor; raise `CheckpointError` where it is missing or has other axes."""
        shape = self._found.shapes[self._known(name)]
        self._require_shape(name, shape, (None,) * axes)
        return shape

    def take(self, name: str, *shape: int | None) -> Floats:
        """Read a tensor of this shape (None: any size) and count it as used; raise `CheckpointError`."""
        full = self._known(name)
        self._require_shape(name, self._found.shapes[full], shape)
        self._taken[full] = None
        array = np.ascontiguousarray(self._found[full], np.float32)
        if not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name!r} holds weights that are not finite numbers")
        return array

    def leave(self, pattern: str, reason: str) -> None:
        """Say why the tensors whose names match a pattern whole play no part."""
        for name, full in self._full.items():
            if full not in self._taken and re.fullmatch(pattern, name):
                self.unused[full] = reason

    def finish(self) -> None:
        """Raise `CheckpointError` where tensors are left whose part nobody knows: logits would be wrong."""
        strange = [name for name, full in self._full.items() if full not in {**self._taken, **self.unused}]
        if strange:
            raise CheckpointError(
                f"it has tensors that are no part of {self._program}: {listed(strange)}; "
                "a variant of that program wrote it, which cannot be imported"
            )

    def _known(self, name: str) -> str:
        if name not in self._full:
            raise CheckpointError(f"tensor {self._prefix + name!r} of {self._program} is missing")
        return self._full[name]

    def _require_shape(self, name: str, shape: Shape, wanted: tuple[int | None, ...]) -> None:
        same = len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))
        if not same or 0 in shape:
            words = ", ".join("any" if size is None else str(size) for size in wanted)
            raise CheckpointError(f"tensor {name!r} has shape {shape}: {self._program} needs ({words})")


def listed(names: list[str]) -> str:
    """Some names between commas, cut short where there are many."""
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(map(repr, names[:_MOST_LISTED])) + more


def normalised(direction: NDArray[Any], scale: NDArray[Any], axes: int | tuple[int, ...]) -> Floats:
    """Fold weight normalisation (Salimans and Kingma 2016): scale * direction / |direction| over the axes.

    Neither Theano's programs nor PyTorch's add an epsilon. A direction of zero length stays zero.
    """
    wide = direction.astype(np.float64)
    length = np.sqrt((wide**2).sum(axes, keepdims=True))
    factor = np.divide(scale.astype(np.float64).reshape(length.shape), length, where=length > 0, out=length)
    return np.asarray(wide * factor, np.float32)


def torch_weight(weights: Weights, name: str, *shape: int | None) -> Floats:
    """A PyTorch module's weight; weight normalisation, by any of its three namings, is over axis 0."""
    for scale, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        if f"{name}.{scale}" in weights:
            v = weights.take(f"{name}.{direction}", *shape)
            g = weights.take(f"{name}.{scale}", len(v), *(1,) * (len(shape) - 1))
            return normalised(v, g, tuple(range(1, v.ndim)))
    return weights.take(f"{name}.weight", *shape)
