"""What observers of a run are told: a progress bar, a log, whoever draws or renders along the way.

An observer is any function of an event. It is called by the first process alone, between two steps, and
nothing that it does changes the model; the checkpoints that an event names are whole files by then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from streamer.models.corpus import Corpus
from streamer.models.training.recipe import Recipe


@dataclass(frozen=True)
class Skipped:
    """A file of the corpus cannot be used."""

    reason: str


@dataclass(frozen=True)
class Started:
    """Everything is ready for the first step of this process."""

    recipe: Recipe
    corpus: Corpus
    run_folder: Path
    step: int
    """Steps that an earlier process made: 0 for a new run."""


@dataclass(frozen=True)
class Stepped:
    """A step was made."""

    step: int
    steps: int
    bits: float
    """Bits per sample of its batch."""
    samples_per_second: float
    """Of all processes together."""


@dataclass(frozen=True)
class Evaluated:
    """The validation part was measured and the checkpoints were written."""

    step: int
    bits: float
    """Bits per sample of the validation part."""
    best: float
    """The least so far."""
    training_bits: float
    """Mean bits per sample of the batches since the evaluation before."""
    learning_rate: float
    seconds: float
    """That the run has trained for, in all processes that went on with it."""
    checkpoint: Path
    """The model as it was measured."""


@dataclass(frozen=True)
class Retreated:
    """The loss was lost: the run went back to its last evaluation, with a lower learning rate."""

    step: int
    """Where it was lost."""
    back_to: int
    rate_factor: float
    """Of the plan's learning rate, from now on."""


@dataclass(frozen=True)
class Finished:
    """No step is left to make."""

    step: int
    early: bool
    """Whether it is because validation had stopped getting better."""
    best: Path
    """The best model."""


Event: TypeAlias = Skipped | Started | Stepped | Evaluated | Retreated | Finished
Observer: TypeAlias = Callable[[Event], None]
