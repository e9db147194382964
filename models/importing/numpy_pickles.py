"""Pickles of numpy arrays in plain containers, as Theano's programs keep their weights; of Python 2, too.

numpy pickles an array as a call of `_reconstruct` and a state: version, shape, dtype, order and bytes. The
functions here take the same and make an array that cannot be larger than the bytes.
"""

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamer.models.container import require
from streamer.models.errors import StreamerError
from streamer.models.importing.leaves import Numbers, elements
from streamer.models.importing.pickles import (
    Built,
    Name,
    Vocabulary,
    briefly,
    entry_key,
    read_pickle,
    sequence,
)

_KINDS = "fiub"


class Dtype(Built):
    """A dtype that is being unpickled."""

    def __init__(self, kind: object, align: object = False, copy: object = False) -> None:
        sound = isinstance(kind, str) and kind[:1] in _KINDS and kind[1:] in ("1", "2", "4", "8")
        require(sound, f"its pickle has an array of {briefly(kind)}: only plain numbers can be read")
        self.numpy = np.dtype(str(kind))

    def build(self, state: Any) -> None:
        """Take the byte order; what else is in the state belongs to records."""
        _, order, subtype, names, fields = state[:5]
        plain = order in ("<", ">", "|", "=") and subtype is None and names is None and fields is None
        require(plain, "its pickle has an array of records: only plain numbers can be read")
        self.numpy = self.numpy.newbyteorder(order)


class Array(Built):
    """An array that is being unpickled, and then its content."""

    def __init__(self, kind: object, shape: object, typecode: object) -> None:
        require(kind == Name("numpy.ndarray"), "its pickle makes an array of another class than numpy's")
        self.shape: tuple[int, ...] = (0,)
        self.stored: NDArray[Any] = np.zeros(0, np.float32)

    def build(self, state: Any) -> None:
        """Take shape, dtype, order and bytes."""
        _, shape, dtype, fortran, content = state
        raw = _bytes(content)
        require(isinstance(dtype, Dtype) and isinstance(shape, tuple), "its pickle has a damaged array")
        itemsize = dtype.numpy.itemsize
        count = elements(shape, "an array", len(raw) // itemsize)
        require(count * itemsize == len(raw), f"its pickle has an array of {shape} in {len(raw)} bytes")
        self.shape = shape
        self.stored = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if fortran else "C")

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        return self.stored.nbytes

    def load(self) -> NDArray[Any]:
        """Return the content."""
        return Numbers(self.stored.dtype).convert(self.stored)


def _bytes(raw: object) -> bytes:
    """Return the bytes that Python 3 pickles as such and Python 2 as a text."""
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, bytes):
        raise StreamerError("its pickle has an array of objects: only plain numbers can be read")
    return raw


def _scalar(dtype: object, raw: object) -> object:
    require(isinstance(dtype, Dtype), "its pickle has a damaged number")
    assert isinstance(dtype, Dtype)
    return np.frombuffer(_bytes(raw), dtype.numpy, 1)[0].item()


def _encode(text: str, encoding: object) -> bytes:
    """Do what `_codecs.encode` does for Python 3's pickles of bytes in protocol 2."""
    require(encoding == "latin1", "its pickle encodes a text in another way than numpy does")
    return text.encode("latin1")


def _dictionary(*items: Any) -> dict[Any, Any]:
    """Make an OrderedDict or a defaultdict, of nothing, of pairs or of the class of its values."""
    pairs = items[-1] if items and not isinstance(items[-1], Name) else ()
    return {entry_key(key): value for key, value in sequence(pairs)}


FUNCTIONS: dict[str, Callable[..., object]] = {
    "_codecs.encode": _encode,
    "numpy.dtype": Dtype,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _dictionary,
    "__builtin__.set": lambda members=(): list(sequence(members)),
    "builtins.set": lambda members=(): list(sequence(members)),
    **{
        f"{core}.multiarray.{name}": function
        for core in ("numpy.core", "numpy._core")
        for name, function in (("_reconstruct", Array), ("scalar", _scalar))
    },
}
"""What stands for the functions that pickles of arrays and containers call."""

VALUES = frozenset({"numpy.ndarray", "__builtin__.dict", "builtins.dict"})


def read_numpy_pickle(file: BinaryIO) -> object:
    """Read a pickle of arrays in plain containers; raise `StreamerError` if it names anything else."""
    return read_pickle(file, Vocabulary(FUNCTIONS, VALUES))
