"""Training, from a folder of audio to the best checkpoint: on a processor, on a GPU, or on many of either."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from streamer.models.checkpoint import Provenance
from streamer.models.corpus import Corpus, prepare
from streamer.models.errors import StreamerError
from streamer.models.training import folder as kept
from streamer.models.training.events import (
    Evaluated,
    Event,
    Finished,
    Observer,
    Retreated,
    Skipped,
    Started,
    Stepped,
)
from streamer.models.training.objective import mixed_precision
from streamer.models.training.parallel import World, joined
from streamer.models.training.recipe import Recipe
from streamer.models.training.run import (
    MOST_BITS,
    Run,
    begin,
    check_lengths,
    evaluate,
    judge,
    over,
    take_step,
)

RETREATS = 3
"""From one evaluation, before a run whose loss is lost gives up."""
RETREAT_FACTOR = 0.5
"""That each of them takes the learning rate down by."""


def train(audio: Path, recipe: Recipe, run_folder: Path, device: torch.device, observe: Observer) -> Path:
    """Train on the audio below a folder, going on where `run_folder` stopped; return the best model.

    Every process of a torchrun calls it alike; they need one run folder that all of them see. observe: told
    of what happens, in the first process. Raises `StreamerError` for audio, a recipe or a run folder that
    will not do, and when the loss stays lost.
    """
    skipped: list[str] = []
    corpus = prepare(audio, recipe.settings, skipped.append)
    check_lengths(recipe, corpus)
    with joined(device) as world, kept.claimed(run_folder) if world.first else nullcontext():
        about = recipe.about
        if world.first:
            for reason in skipped:
                observe(Skipped(reason))
            kept.check_same(run_folder, recipe, corpus)
            about = kept.with_baselines(about, audio, corpus, recipe)
            kept.describe(run_folder, recipe, corpus, about)
        world.of_first(0.0, device)  # nobody reads the folder before it has been checked
        _Training(recipe, corpus, run_folder, device, world, observe, about).go_on()
    return run_folder / kept.BEST


@dataclass
class _Training:
    """One process's part in a run."""

    recipe: Recipe
    corpus: Corpus
    folder: Path
    device: torch.device
    world: World
    observe: Observer
    about: Provenance
    retreats: int = 0
    """Since the last evaluation."""

    def go_on(self) -> None:
        """Make all steps that are left."""
        plan, dtype = self.recipe.plan, mixed_precision(self.device)
        run = self._restored()
        self._tell(Started(self.recipe, self.corpus, self.folder, run.step))
        if run.step == 0:
            kept.save(run, self.folder, self.world)  # whether there is room shows now, not after an hour
        while not over(run, plan):
            began = time.monotonic()
            bits = take_step(run, plan, self.world, dtype)
            seconds = time.monotonic() - began
            run.seconds += seconds
            if not math.isfinite(bits):
                run = self._retreated(run, bits)
                continue
            self._tell(Stepped(run.step, plan.steps, bits, plan.batch * plan.length / seconds))
            if run.step % plan.evaluate_every == 0 or run.step == plan.steps:
                run = self._evaluated(run)
        self._tell(Finished(run.step, run.step < plan.steps, self.folder / kept.BEST))

    def _tell(self, event: Event) -> None:
        if self.world.first:
            self.observe(event)

    def _restored(self) -> Run:
        run = begin(self.recipe, self.corpus, self.device, self.world)
        kept.restore(run, self.folder)
        if self.world.first:
            kept.trim_log(self.folder, run.step)
        return run

    def _evaluated(self, run: Run) -> Run:
        """Measure a run and keep it, or go back if it has got lost."""
        bits = evaluate(run, self.recipe, self.corpus, self.world)
        if not bits <= MOST_BITS:
            return self._retreated(run, bits)
        judge(run, bits, self.recipe.plan)
        found = self._event(run, bits)
        if self.world.first:
            kept.keep_models(self.folder, run, self.recipe, self.corpus, self.about, bits)
            kept.append_log(self.folder, found)
        kept.save(run, self.folder, self.world)
        self.retreats, run.batch_bits = 0, []
        self._tell(found)
        return run

    def _event(self, run: Run, bits: float) -> Evaluated:
        return Evaluated(
            step=run.step,
            bits=bits,
            best=run.best,
            training_bits=fmean(run.batch_bits),
            learning_rate=self.recipe.plan.rate_at(run.step) * run.rate_factor,
            seconds=run.seconds,
            checkpoint=self.folder / kept.LATEST,
        )

    def _retreated(self, lost: Run, bits: float) -> Run:
        """Go back to the last evaluation with a lower learning rate; raise `StreamerError` if that fails."""
        if self.retreats == RETREATS:
            raise StreamerError(
                f"step {lost.step} gives {bits:.1f} bits a sample, after {RETREATS} returns to the last "
                "evaluation with ever lower learning rates: lower learning_rate in the recipe and start again"
            )
        self.retreats += 1
        run = self._restored()
        run.rate_factor *= RETREAT_FACTOR**self.retreats
        self._tell(Retreated(lost.step, run.step, run.rate_factor))
        return run
