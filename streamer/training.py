"""`streamer train`: measures whether the model will play, trains it, and shows how far it is on a bar."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from streamer import doctor, report, shapes
from streamer.console import ended_by_ctrl_c, say, say_if_compiling
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.training.plan import Plan
from streamer.models.training.recipe import Recipe, find_recipe, read_recipe
from streamer.moments import Moments
from streamer.tensorboard import TensorBoard
from streamer.threads import COMFORTABLE

if TYPE_CHECKING:  # loads torch
    from streamer.models.training.events import Event, Observer

CHECK_SECONDS = 1.0
"""That a model is stepped for to learn whether it will play."""


def run(options: argparse.Namespace) -> int:
    """Train as the arguments say."""
    require_torch()
    import torch

    from streamer.models.training import events, loop, parallel

    path = find_recipe(options.recipe or options.preset)
    recipe = read_recipe(path)
    run_folder = options.run_folder or Path("runs") / _run_name(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = parallel.find_device(options.device)
    listeners = observers(options)
    if _is_first():
        words = "Ctrl-C stops, the same command resumes."
        say(f"Training {path.stem} on {options.folder} into {run_folder}; {words}")

    def check(event: Event) -> None:
        if isinstance(event, events.Started) and event.step == 0:
            say(check_real_time(path.stem, recipe))

    with bar(recipe.plan) as shown:
        observe = all_of(shown, check, *listeners)
        best = loop.train(options.folder, recipe, run_folder, device, observe)
    if _is_first():
        say(f"The best model so far is {best}; hear it with: streamer play {best}")
    if _is_first() and options.sample_every:
        say(f"What it has come to: {report.write(run_folder)}")
    return 0


def observers(options: argparse.Namespace) -> list[Observer]:
    """Who listens to a run as the arguments say; raise `StreamerError` where something is not installed."""
    if not 0 <= options.sample_every < 1e6:
        raise StreamerError(f"--sample-every is {options.sample_every:g}: give minutes, or 0 for never")
    found: list[Observer] = []
    if options.sample_every:
        found.append(Moments(options.sample_every, say))
    if options.tensorboard:
        found.append(TensorBoard())
    return found


def all_of(*observers: Observer) -> Observer:
    """One observer that tells several, in order."""

    def observe(event: Event) -> None:
        for tell in observers:
            tell(event)

    return observe


def _is_first() -> bool:
    """Whether this is the one of torchrun's processes that tells what happens."""
    return os.environ.get("RANK", "0") == "0"


def require_torch() -> None:
    """Raise `StreamerError` where torch, which playing does not need, is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise StreamerError("training needs torch: pip install 'streamer[train]'") from None


def _run_name(options: argparse.Namespace) -> str:
    """A recipe names its own audio; a preset goes with anybody's."""
    if options.recipe:
        return find_recipe(options.recipe).stem
    return f"{options.folder.resolve().name}-{options.preset}"


# --- whether it will play -----------------------------------------------------------------------------------


def check_real_time(name: str, recipe: Recipe) -> str:
    """Step a model of a recipe's shape, with random weights, and say whether this machine will keep up."""
    factor = _factor(name, recipe, "fp32")
    if factor >= COMFORTABLE:
        return f"{name} will play here: {factor:.1f} times as fast as real time."
    lower = _factor(name, recipe, "int8dot")
    found = f"{factor:.2f} times as fast as real time at full precision, {lower:.2f} at the lowest"
    if lower >= COMFORTABLE:
        return f"{name} will play here once streamer price has measured lower precisions: {found}."
    remedy = "choose a smaller preset, or play it on a faster machine"
    return f"Warning: {name} will not play in real time here: {found}; {remedy}."


def _factor(name: str, recipe: Recipe, precision: str) -> float:
    """Seconds of sound in a second of work, on one thread."""
    weights = shapes.random_weights(recipe.spec)
    quantiser = Quantiser(levels=recipe.spec.levels, preemphasis=recipe.preemphasis)
    model = Checkpoint(recipe.spec, quantiser, recipe.sample_rate, 1, recipe.about, "", weights)
    say_if_compiling(recipe.spec.architecture)
    with ended_by_ctrl_c():
        return doctor.examine(name, model, CHECK_SECONDS, precision, 1).sustained


# --- what is seen -------------------------------------------------------------------------------------------


@contextmanager
def bar(plan: Plan) -> Iterator[Observer]:
    """A progress bar, as an observer of a run; it says a line above the bar for all but a step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from streamer.models.training.events import Started, Stepped

    text = TextColumn("{task.completed}/{task.total} {task.description}")
    shown = Progress(BarColumn(), text, TimeRemainingColumn())
    task = shown.add_task("", total=plan.steps)

    def observe(event: Event) -> None:
        if isinstance(event, Stepped):
            shown.start()  # not before: what else is said until then needs no bar
            told = f"{event.bits:.3f} bits a sample, {event.samples_per_second:,.0f} samples/s"
            shown.update(task, completed=event.step, description=told)
        elif isinstance(event, Started):
            shown.reset(task, completed=event.step)
        for line in lines(event):  # a file's name may look like markup
            shown.console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        yield observe
    finally:
        shown.stop()


def lines(event: Event) -> list[str]:
    """What a musician is told of an event."""
    from streamer.models.training import events

    match event:
        case events.Skipped():
            return [f"left out: {event.reason}"]
        case events.Started():
            return [f"found {event.corpus.survey.lines()[0]}", *event.corpus.survey.lines()[1:]]
        case events.Evaluated():
            best = ", the best so far" if event.bits == event.best else ""
            return [f"step {event.step}: {event.bits:.4f} bits a sample on held-out audio{best}"]
        case events.Retreated():
            return [
                f"step {event.step}: the loss was lost; back to step {event.back_to} "
                f"with {event.rate_factor:g} of the learning rate"
            ]
        case events.Finished():
            return ["stopped early: held-out audio is not getting better"] if event.early else []
    return []
