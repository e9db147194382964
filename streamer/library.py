"""The models that the engine can be asked for by name: those shipped, and those in the performer's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamer.models import checkpoint, library
from streamer.models.checkpoint import Checkpoint

DEFAULT_MODEL = "techno"


class Library:
    """The engine's `Models`; a name can come from the network, so it never leaves the model folders.

    Args:
        given: models by name that the command line named by their files; they hide others of those names.
    """

    def __init__(self, given: Mapping[str, Checkpoint] | None = None) -> None:
        self._given = dict(given or {})

    def load(self, name: str) -> Checkpoint:
        """Read a model; raise `CheckpointError` where it is unknown or cannot be read."""
        if name in self._given:
            return self._given[name]
        return checkpoint.load(library.resolve(name, allow_path=False))

    def names(self) -> Sequence[str]:
        """The names of all models, sorted."""
        return sorted({*library.names(), *self._given})


def open_model(name_or_path: str) -> tuple[str, Checkpoint]:
    """Read what the command line names: a model's name, or a path to its file. Raises `CheckpointError`."""
    path = library.resolve(name_or_path, allow_path=True)
    return path.name.removesuffix(checkpoint.SUFFIX), checkpoint.load(path)
