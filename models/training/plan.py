"""How a model is trained: the ``[train]`` table of a recipe."""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal, TypeAlias, get_args

from streamer.models.errors import SpecError

Schedule: TypeAlias = Literal["cosine", "plateau"]

LAST_SHARE = 0.05
"""Of the learning rate that is left at the end of a cosine."""
PLATEAU_FACTOR = 0.5
"""That a plateau takes the learning rate down by."""


@dataclass(frozen=True)
class Plan:
    """How a model is trained; lengths are in samples of the model's rate."""

    steps: int
    """Batches until the end. With more of them than before, a finished run goes on."""
    batch: int = 16
    """Sequences a step, of all processes together."""
    length: int = 2048
    """Samples predicted in each sequence of a step; SampleRNN's back-propagation through time is cut
    there."""
    learning_rate: float = 1e-3
    """After a linear warm-up."""
    schedule: Schedule = "cosine"
    """cosine: falls to a twentieth at the last step. plateau: halves where validation gets no better."""
    patience: int = 5
    """Evaluations without a new best before a plateau halves the learning rate."""
    stop_after: int = 0
    """Evaluations without a new best before the run ends early; 0 is never."""
    warmup: int = 500
    """Steps; 1 is none."""
    decay: float = 0.999
    """Of the moving average of weights, which is what is evaluated and kept."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    from_silence: float = 0.02
    """Share of sequences that start out of silence at a random place, as playing does."""
    noise: float = 0.0
    """Share of the codes a model is given that are wrong, as its own are when it plays; those that it is to
    predict are right."""
    noise_size: int = 4
    """Largest error of a wrong code, in codes."""
    evaluate_every: int = 1000
    """Steps between evaluations; what an interruption loses is what came after the last."""
    evaluate_seconds: float = 20.0
    """Validation audio that is measured, from its beginning: by every evaluation and by the simple
    predictors, so that their bits can be compared."""
    seed: int = 0
    """Of the first weights and of the order of the sequences."""

    def __post_init__(self) -> None:
        """Check every field; raise `SpecError` naming the first that cannot be followed."""
        for name, low, high in _WHOLE_NUMBERS:
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise SpecError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
        for name, least, most in _NUMBERS:
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= most:
                raise SpecError(f"{name} is {value!r}: it must be a number from {least:g} to {most:g}")
        if self.schedule not in get_args(Schedule):
            raise SpecError(f"schedule is {self.schedule!r}: it must be {' or '.join(get_args(Schedule))}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step by the schedule alone, before what plateaus and lost losses take off."""
        warm = min(1.0, (step + 1) / self.warmup)
        if self.schedule == "plateau":
            return self.learning_rate * warm
        progress = min(step / self.steps, 1.0)
        falling = LAST_SHARE + (1 - LAST_SHARE) * (1 + cos(pi * progress)) / 2
        return self.learning_rate * warm * falling


_WHOLE_NUMBERS = (
    ("steps", 1, 10**9),
    ("batch", 1, 2**16),
    ("length", 1, 2**24),
    ("patience", 1, 10**6),
    ("stop_after", 0, 10**6),
    ("warmup", 1, 10**9),
    ("noise_size", 1, 2**16),
    ("evaluate_every", 1, 10**9),
    ("seed", 0, 2**63 - 1),
)
_NUMBERS = (
    ("learning_rate", 1e-9, 1.0),
    ("decay", 0.0, 1.0),
    ("clip", 1e-6, 1e6),
    ("from_silence", 0.0, 1.0),
    ("noise", 0.0, 1.0),
    ("evaluate_seconds", 1e-3, 1e6),
)
