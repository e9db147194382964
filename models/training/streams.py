"""What a step sees: where each sequence of a batch stands in the corpus, and the state it carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.models.corpus import Part
from streamer.models.samplernn import SampleRnn, State
from streamer.models.training.forecasting import FORECASTS, forecasts_of
from streamer.models.training.plan import Plan
from streamer.models.wavenet import WaveNet

Model = WaveNet | SampleRnn


@dataclass(frozen=True)
class Batch:
    """Sequences of a step, context + length long: this process's rows (b) of all (B)."""

    codes: Tensor
    """(b, context + length) int64: what was played."""
    given: Tensor
    """The same as the model is given it: some codes are wrong where the plan says so."""
    side: Mapping[str, Tensor] = field(default_factory=dict)
    """(b, context + length, ...) of the part's side sequences, at the same positions."""
    positions: Tensor | None = None
    """(b,) where in the part that which is predicted begins; without them, at 0."""


@dataclass
class Streams:
    """Draws batches from a part of a corpus.

    SampleRNN's sequences walk on from step to step and start again from rest at a random place when the
    corpus ends; WaveNet's are drawn anew each time, since it carries nothing. Some start out of silence, or a
    model that has never heard any would never leave it.
    """

    part: Part
    plan: Plan
    context: int
    """Samples before those that are predicted: the receptive field."""
    levels: int
    rows: slice
    """Of the batch, those of this process; positions and random numbers are of all rows."""
    positions: Tensor = field(init=False)
    """(B,) int64: where each sequence begins next."""
    generator: torch.Generator = field(init=False)
    state: State | None = None
    """Of this process's rows."""

    def __post_init__(self) -> None:
        """Begin behind the corpus's end, so that the first batch is drawn."""
        self.positions = torch.full((self.plan.batch,), len(self.part.codes))
        self.generator = torch.Generator().manual_seed(self.plan.seed)

    @property
    def silence(self) -> int:
        """The code of silence: where the mu-law that we train on has it, and a SampleRNN its rest."""
        return self.levels // 2

    def next(self, model: Model) -> Batch:
        """The next step's batch."""
        span = self.context + self.plan.length
        last = len(self.part.codes) - span
        silent = torch.rand(self.positions.shape, generator=self.generator) < self.plan.from_silence
        drawn = torch.randint(0, last + 1, self.positions.shape, generator=self.generator)
        if isinstance(model, SampleRnn):
            silent |= self.positions > last
            starts = torch.where(silent, drawn, self.positions)
            if silent[self.rows].any():
                self._rest(model, silent[self.rows])
        else:
            starts = drawn
        self.positions = starts + self.plan.length
        own = starts[self.rows].tolist()
        codes = torch.from_numpy(_cut(self.part.codes, own, span).astype(np.int64))
        codes[silent[self.rows], : self.context] = self.silence
        side = {name: torch.from_numpy(_cut(values, own, span)) for name, values in self.part.side.items()}
        for row in silent[self.rows].nonzero().flatten().tolist() if FORECASTS in side else []:
            side[FORECASTS][row] = forecasts_of(model.spec, codes[row].numpy())
        return Batch(codes, self._with_errors(codes), side, starts[self.rows] + self.context)

    def _with_errors(self, codes: Tensor) -> Tensor:
        """Codes of which some are wrong by a little, as what a model plays on from is."""
        if not self.plan.noise:
            return codes
        shape, size = (self.plan.batch, codes.shape[1]), self.plan.noise_size
        wrong = torch.rand(shape, generator=self.generator) < self.plan.noise
        error = torch.randint(1, size + 1, shape, generator=self.generator)
        error *= 2 * torch.randint(0, 2, shape, generator=self.generator) - 1
        return (codes + (wrong * error)[self.rows]).clamp_(0, self.levels - 1)

    def _rest(self, model: SampleRnn, fresh: Tensor) -> None:
        rest = model.initial_state(len(fresh))
        if self.state is None:
            self.state = rest
        pick = fresh.to(rest[0][0].device)[:, None]
        self.state = [
            [torch.where(pick, new, old) for new, old in zip(*layers, strict=True)]
            for layers in zip(rest, self.state, strict=True)
        ]


def _cut(values: NDArray[Any], starts: list[int], span: int) -> NDArray[Any]:
    return np.stack([values[start : start + span] for start in starts])
