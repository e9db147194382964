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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from streamer.models.errors import CheckpointError

Form: TypeAlias = Literal["tensorflow-bundle", "tensorflow-v1", "torch", "theano-pickle"]
Shape: TypeAlias = tuple[int, ...]


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
    `global_step`, `filter_convs.0.kernel_size`."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Class of each pickled object by its path, "" for the root: `{"": "wavenet_model.WaveNetModel",
    "start_conv": "torch.nn.modules.conv.Conv1d"}`. The classes were never imported."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Entries that hold no array of numbers, and what they hold: TensorFlow's `string`."""


def read(path: Path) -> Archive:
    """Read a checkpoint: a file, or of a TensorFlow bundle the prefix or one of its parts.

    Raises `CheckpointError` of one line if it is missing, damaged, hostile or of no form known here.
    """
    raise CheckpointError(f"{str(path)!r}: not a form that can be read yet")


def checkpoints_in(folder: Path) -> list[Path]:
    """Return what in this folder looks like a checkpoint, as `read` takes it, newest last.

    The order is that of the numbers in the names, for each of these programs counts its steps there; a file's
    date is lost when it is copied.
    """
    return []
