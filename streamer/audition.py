"""`streamer audition`: a run played, checkpoint by checkpoint: the fewest bits may not be the best sound."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamer import performing
from streamer.console import say
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import CheckpointError
from streamer.models.folders import choose
from streamer.moments import moments_of
from streamer.runs import BEST, LATEST


class Checkpoints:
    """The engine's `Models`: the moments of a run by their steps, then its latest and its best model.

    It looks anew each time, so a run that still goes on can be auditioned as it learns.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def names(self) -> Sequence[str]:
        """The names of all checkpoints, in the order in which they came about."""
        return list(self._found())

    def path(self, name: str) -> Path:
        """The file of a name; raise `CheckpointError` for one that there is not."""
        nothing = f"there are none in {self._run}, name the folder of a run"
        return choose(name, self._found(), "checkpoint", nothing, CheckpointError)

    def load(self, name: str) -> Checkpoint:
        """Read a checkpoint; raise `CheckpointError` where it is unknown or cannot be read."""
        return checkpoint.load(self.path(name))

    def _found(self) -> dict[str, Path]:
        found = {moment.model.stem: moment.model for moment in moments_of(self._run)}
        whole = [path for name in (LATEST, BEST) if (path := self._run / name).is_file()]
        return found | {path.stem: path for path in whole}


def run(options: argparse.Namespace) -> int:
    """Play a run's best model, and switch to others as the arguments and the performer say."""
    models = Checkpoints(options.run_folder)
    options.model = str(models.path(Path(BEST).stem))
    say(f"Checkpoints: {', '.join(models.names())}. m and M, or /streamer/model NAME over OSC, switch.")
    return performing.play(options, models)
