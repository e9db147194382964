"""A run in TensorBoard: bits, rates, and what it plays; it needs the extra ``tensorboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile as sf

from streamer.models.errors import StreamerError
from streamer.models.training.events import Evaluated, Event, Finished, Started
from streamer.moments import moments_of

FOLDER = "tensorboard"


class TensorBoard:
    """An observer of a run that writes events into the run's folder ``tensorboard``.

    It comes after `streamer.moments.Moments`, whose sounds it takes up.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise StreamerError("this needs TensorBoard: pip install 'streamer[tensorboard]'") from None
        self._open = SummaryWriter
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Write what an event says."""
        if isinstance(event, Started):  # what a killed process wrote beyond this step is made again
            self._writer = self._open(event.run_folder / FOLDER, purge_step=event.step + 1)
        elif isinstance(event, Evaluated):
            self._write(event)
        elif isinstance(event, Finished):
            self._writer.close()

    def _write(self, event: Evaluated) -> None:
        for name, value in (
            ("bits/validation", event.bits),
            ("bits/training", event.training_bits),
            ("learning rate", event.learning_rate),
        ):
            self._writer.add_scalar(name, value, event.step)
        for sound in _sounds(event.checkpoint.parent, event.step):
            samples, rate = sf.read(sound, dtype="float32")
            self._writer.add_audio("sample", samples[None], event.step, rate)
        self._writer.flush()


def _sounds(run: Path, step: int) -> list[Path]:
    return [moment.sound for moment in moments_of(run) if moment.step == step and moment.sound.exists()]
