"""What another program's checkpoint holds, whichever program wrote it: arrays by name, and plain settings.

`read` tells a file's form by its content, never by its suffix, and hands it to that form's reader:

| form | reader |
|---|---|
| tensorflow-bundle | `tensorflow_bundle`: `.index` and `.data-00000-of-00001`, TensorFlow 1 and 2 |
| tensorflow-v1 | `tensorflow_v1`: the one file that TensorFlow wrote before its version 0.12 |
| torch | `torch_files`: the zip and the older stream; state dicts and whole pickled modules |
| theano-pickle | `numpy_pickles`: numpy arrays in plain containers, of Python 2 too |

A file comes from anywhere: nothing in it is run, no class of it is imported, sizes are checked before memory
is taken, and checksums are verified where the form has them. A file that fails is a `CheckpointError` of one
line.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from numpy.typing import NDArray

from streamer.models.container import MAX_FILE_BYTES, blaming, open_file, require
from streamer.models.errors import CheckpointError, StreamerError
from streamer.models.importing.flattening import Contents
from streamer.models.importing.leaves import Leaf
from streamer.models.importing.numpy_pickles import read_numpy_pickle
from streamer.models.importing.tables import is_table
from streamer.models.importing.tensorflow_bundle import prefix_of, read_bundle
from streamer.models.importing.tensorflow_v1 import is_v1, read_v1
from streamer.models.importing.torch_files import STREAM_START, ZIP_START, read_stream, read_zip

Form: TypeAlias = Literal["tensorflow-bundle", "tensorflow-v1", "torch", "theano-pickle"]
Shape: TypeAlias = tuple[int, ...]

_KNOWN = (
    "a TensorFlow checkpoint (PREFIX.index and PREFIX.data-00000-of-00001, or one file before 0.12), a file "
    "of torch.save, or a pickle of numpy arrays"
)
_POINTER = b"model_checkpoint_path"
_IS_POINTER = "this only says which checkpoint is the latest: give the prefix that stands in it"
_PICKLE_START = re.compile(rb"\x80[\x01-\x05]|\([dlci]|[}\]]|c[\w.]+\n[\w.]+\n")
_START_BYTES = 512


class Tensors(Mapping[str, "NDArray[Any]"]):
    """Arrays by name, each read from the file (and verified) whenever it is asked for: keep what you need.

    Every floating-point type becomes float32 (bfloat16 and half exactly, double rounded); whole numbers and
    booleans stay what they are. Asking may raise `CheckpointError`: the file is damaged there.
    """

    def __init__(self, shapes: Mapping[str, Shape], load: Callable[[str], NDArray[Any]]) -> None:
        self.shapes = shapes
        """Shape of each array, known without reading it."""
        self._load = load

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self.shapes:
            raise KeyError(name)
        return self._load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class Archive:
    """All that a checkpoint holds. Names are paths through it, joined by dots as PyTorch joins them.

    TensorFlow's names are the variables' own. What lies in containers is named by its keys and indices:
    `{"state_dict": {"first_conv.bias": b}, "global_step": 9}` gives the tensor `state_dict.first_conv.bias`
    and the attribute `global_step`. A pickled PyTorch module gives the names of its state dict:
    `{"model": module}` gives `model.start.weight`, a module alone `start.weight`.
    """

    path: Path
    """What was read; of a TensorFlow bundle the prefix of its `.index` and `.data` files."""
    form: Form
    tensors: Tensors
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, texts, booleans, and lists or tuples of these, one in another at most: `layers`, `dilations`,
    `global_step`, `filter_convs.0.kernel_size`. A file that is nothing but one has it under ""."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Class of each pickled object by its path, "" for the root: `{"": "wavenet_model.WaveNetModel",
    "start_conv": "torch.nn.modules.conv.Conv1d"}`. The classes were never imported."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Entries that hold no array of numbers, and what they hold: TensorFlow's `string`."""


def read(path: Path) -> Archive:
    """Read a checkpoint: a file, or of a TensorFlow bundle the prefix or one of its parts.

    Raises `CheckpointError` of one line if it is missing, damaged, hostile or of no form known here.
    """
    with blaming(path, "read", CheckpointError):
        return _read_bundle(prefix_of(path)) if _is_bundle(path) else _read_file(path)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return what in this folder looks like a checkpoint, as `read` takes it, newest last.

    The order is that of the numbers in the names, for each of these programs counts its steps there; a file's
    date is lost when it is copied. Raises `CheckpointError` if there is no such folder.
    """
    with blaming(folder, "read", CheckpointError):
        found = {prefix_of(path) if _is_part(path) else path for path in folder.iterdir() if _may_be(path)}
        return sorted(found, key=_age)


def _age(path: Path) -> list[tuple[int, str]]:
    """Sort texts as texts and the numbers in them as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _is_part(path: Path) -> bool:
    return prefix_of(path) != path


def _may_be(path: Path) -> bool:
    """Whether a file is named as a part of a bundle, or begins or ends as another checkpoint does."""
    if _is_part(path) or not path.is_file():
        return _is_part(path)
    with open_file(path, "it was there before") as file:
        return _reader(file) is not None


def _is_bundle(path: Path) -> bool:
    """Whether this is a part of a bundle, or what its parts' names begin with, even if one is missing."""
    parts = (path.with_name(f"{path.name}{end}") for end in (".index", ".data-00000-of-00001"))
    return _is_part(path) or (not path.exists() and any(part.exists() for part in parts))


def _read_bundle(prefix: Path) -> Archive:
    leaves, others = read_bundle(prefix)
    return Archive(prefix, "tensorflow-bundle", _tensors(prefix, leaves), unread=others)


def _read_file(path: Path) -> Archive:
    with open_file(path, f"give {_KNOWN}") as file:
        size = os.fstat(file.fileno()).st_size
        require(size <= MAX_FILE_BYTES, f"it has {size} bytes: at most {MAX_FILE_BYTES} can be read")
        reader = _reader(file)
        if reader is None:
            pointer = file.read(len(_POINTER)) == _POINTER
            raise StreamerError(_IS_POINTER if pointer else f"it is none that can be read: give {_KNOWN}")
        return reader(file, path)


def _reader(file: BinaryIO) -> Callable[[BinaryIO, Path], Archive] | None:
    """Return what reads a file that begins or ends like this one; the file stands at its begin again."""
    start = file.read(_START_BYTES)
    file.seek(max(0, file.seek(0, os.SEEK_END) - _START_BYTES))
    ending = file.read()
    file.seek(0)
    if is_table(ending):
        return _read_table
    if start.startswith(ZIP_START) and b"/data.pkl" in start:  # its first member; numpy writes zips, too
        return lambda file, path: _unpickled(path, "torch", read_zip(file, path), file)
    if start.startswith(STREAM_START):
        return lambda file, path: _unpickled(path, "torch", read_stream(file, path), file)
    if _PICKLE_START.match(start):
        return lambda file, path: _unpickled(path, "theano-pickle", read_numpy_pickle(file), file)
    return None


def _read_table(file: BinaryIO, path: Path) -> Archive:
    table = memoryview(file.read())
    require(is_v1(table), "it is the index of a TensorFlow checkpoint, whose name must end in .index")
    leaves, others = read_v1(table)
    return Archive(path, "tensorflow-v1", _tensors(path, leaves), unread=others)


def _unpickled(path: Path, form: Form, value: object, file: BinaryIO) -> Archive:
    contents = Contents(os.fstat(file.fileno()).st_size)
    contents.visit(value)
    return Archive(path, form, _tensors(path, contents.tensors), contents.attributes, contents.modules)


def _tensors(path: Path, leaves: Mapping[str, Leaf]) -> Tensors:
    def load(name: str) -> NDArray[Any]:
        with blaming(path, "read", CheckpointError):
            return leaves[name].load()

    return Tensors({name: leaf.shape for name, leaf in leaves.items()}, load)
