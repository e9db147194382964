"""What PyTorch puts into its pickles: tensors in storages that lie elsewhere in the file, and modules.

Each function takes what its namesake in `torch._utils` takes. A tensor is a view of a storage: an offset,
sizes and strides, all in elements.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from streamer.models.container import require
from streamer.models.importing.leaves import Numbers, elements, read_bytes
from streamer.models.importing.numpy_pickles import FUNCTIONS, VALUES
from streamer.models.importing.pickles import Built, Name, Vocabulary, briefly, read_pickle, sequence

_NUMBERS: dict[str, Numbers] = {
    "Float": Numbers(np.dtype("<f4")),
    "Double": Numbers(np.dtype("<f8")),
    "Half": Numbers(np.dtype("<f2")),
    "BFloat16": Numbers(np.dtype("<u2"), bfloat16=True),
    "Long": Numbers(np.dtype("<i8")),
    "Int": Numbers(np.dtype("<i4")),
    "Short": Numbers(np.dtype("<i2")),
    "Char": Numbers(np.dtype("i1")),
    "Byte": Numbers(np.dtype("u1")),
    "Bool": Numbers(np.dtype("?")),
}
_PLACES = ("torch", "torch.cuda")
_STORAGES = {f"{place}.{kind}Storage": numbers for place in _PLACES for kind, numbers in _NUMBERS.items()}
_TENSORS = {f"{place}.{kind}Tensor" for place in _PLACES for kind in _NUMBERS}
_DTYPES = (
    "float32 float64 float16 bfloat16 float double half int64 int32 int16 int8 uint8 long int short bool"
)

_LIBRARIES = {*sys.stdlib_module_names, "numpy", "__builtin__", "commands", "copy_reg", "cPickle", "popen2"}
"""Whose classes are no user's model: those of Python 3, and what Python 2 called otherwise."""


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file, or a part of one."""

    key: str
    numbers: Numbers
    count: int
    """Elements of the whole run."""
    offset: int = 0


@dataclass(frozen=True)
class Tensor(Built):
    """A view of a storage, whose place in the file may be known only after the pickle."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    path: Path
    places: dict[str, int]
    """Where in the file each storage begins, by its key."""

    def build(self, state: Any) -> None:
        """Take what PyTorch before 0.4 kept with a parameter, whether it is trained: nothing that matters."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of the numbers that it shows."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.storage.numbers.dtype.itemsize

    def load(self) -> NDArray[Any]:
        """Read what it shows of its storage."""
        if 0 in self.shape:
            return self.storage.numbers.convert(np.zeros(self.shape, self.storage.numbers.dtype))
        dtype = self.storage.numbers.dtype
        begin = self.places[self.storage.key] + self.offset * dtype.itemsize
        data = read_bytes(self.path, begin, (_last(self.shape, self.strides) + 1) * dtype.itemsize)
        strides = [stride * dtype.itemsize for stride in self.strides]
        return self.storage.numbers.convert(as_strided(np.frombuffer(data, dtype), self.shape, strides))


def _last(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the element, from a tensor's first, that is furthest in its storage."""
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class TorchPickles:
    """Reads the pickles of one file; `storages` is what they refer to, `places` is to be filled in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.storages: dict[str, Storage] = {}
        self.places: dict[str, int] = {}
        self.vocabulary = Vocabulary(
            FUNCTIONS | self._functions(),
            VALUES | _TENSORS | set(_STORAGES) | {f"torch.{name}" for name in _DTYPES.split()},
            _is_structure,
            self._persistent,
        )

    def read(self, file: BinaryIO) -> object:
        """Read the pickle that begins here; raise `StreamerError`."""
        return read_pickle(file, self.vocabulary)

    def _functions(self) -> dict[str, Callable[..., object]]:
        return {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch.nn.parameter.Parameter": _parameter,
            "torch.autograd.variable.Variable": _parameter,
            "torch.Size": sequence,
            "torch.device": lambda *names: None,
            "torch.nn.backends.thnn._get_thnn_function_backend": lambda: None,
        }

    def _persistent(self, described: Any) -> object:
        """Return a storage; or the class of a module, beside which PyTorch once kept its source text."""
        require(isinstance(described, tuple) and 2 <= len(described) <= 6, "its pickle has a damaged storage")
        kind, *parts = described
        if kind == "module":
            return parts[0]
        require(kind == "storage", f"its pickle refers to {briefly(kind)}, not to a storage")
        name, key, _, count, *view = parts
        known = isinstance(name, Name) and name.path in _STORAGES
        require(
            known,
            f"its numbers are in a {name.path if isinstance(name, Name) else briefly(name)}: not supported",
        )
        require(
            isinstance(key, str) and len(key) <= 64 and type(count) is int and 0 <= count < 2**48,
            "its pickle has a damaged storage",
        )
        whole = Storage(key, _STORAGES[name.path], count)
        same = self.storages.setdefault(key, whole) == whole
        require(same, f"its storage {key!r} has two types or sizes: get a new copy")
        return self._part(whole, view[0]) if view and view[0] is not None else whole

    def _part(self, whole: Storage, view: Any) -> Storage:
        """Return a part of a storage, as PyTorch before 0.4 could pickle it."""
        _, offset, size = view
        inside = type(offset) is int and type(size) is int and 0 <= offset <= offset + size <= whole.count
        require(inside, f"a part of its storage {whole.key!r} lies outside: get a new copy")
        return Storage(whole.key, whole.numbers, whole.count, offset)

    def _tensor(self, storage: Storage, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
        require(isinstance(storage, Storage), "its pickle has a tensor without a storage")
        shape, strides, first = sequence(size), sequence(stride), storage.offset + offset
        elements(shape, "a tensor", storage.count)
        numbers = all(type(number) is int and number >= 0 for number in (*strides, offset))
        require(numbers and len(strides) == len(shape), "its pickle has a tensor with damaged strides")
        inside = 0 in shape or first + _last(shape, strides) < storage.count
        require(inside, f"a tensor of {shape} lies outside of its storage of {storage.count}: get a new copy")
        return Tensor(storage, first, shape, strides, self.path, self.places)


def _parameter(tensor: object = None, *_: object) -> object:
    return tensor


def _is_structure(path: str) -> bool:
    """Whether a name may be a module's class: PyTorch's own, or of a program that it knows nothing of."""
    library = path.partition(".")[0]
    return path.startswith(("torch.nn.", "torch.optim.")) if library == "torch" else library not in _LIBRARIES
