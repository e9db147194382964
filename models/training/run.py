"""A run: everything that changes while a model is trained, and one step of it."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from streamer.models.corpus import Corpus
from streamer.models.errors import CorpusError
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import WaveNetSpec
from streamer.models.training.objective import LOG2, held_out_bits, loss_of
from streamer.models.training.parallel import World
from streamer.models.training.plan import PLATEAU_FACTOR, Plan
from streamer.models.training.recipe import Recipe
from streamer.models.training.streams import Model, Streams
from streamer.models.wavenet import WaveNet

MOST_BITS = 64.0
"""Bits per sample of a model that is worth keeping; knowing nothing of 65,536 levels costs 16."""


@dataclass
class Run:
    """Everything that changes; `streamer.models.training.folder` keeps all of it."""

    model: Model
    average: Model
    optimiser: torch.optim.AdamW
    streams: Streams
    step: int = 0
    best: float = math.inf
    """Validation bits per sample of the best evaluation."""
    stale: int = 0
    """Evaluations since that one."""
    rate_factor: float = 1.0
    """Of the plan's learning rate: what plateaus and lost losses have left of it."""
    seconds: float = 0.0
    """That it has been trained for."""
    batch_bits: list[float] = field(default_factory=list)
    """Bits per sample of each batch since the last evaluation."""


def begin(recipe: Recipe, corpus: Corpus, device: torch.device, world: World) -> Run:
    """A run at step 0."""
    spec, plan = recipe.spec, recipe.plan
    kind = WaveNet if isinstance(spec, WaveNetSpec) else SampleRnn
    model, average = (kind(spec, plan.seed).to(device) for _ in range(2))  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(model.parameters(), plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    streams = Streams(corpus.training, plan, spec.receptive_field, spec.levels, world.rows(plan.batch))
    return Run(model, average, optimiser, streams)


def validated(recipe: Recipe, corpus: Corpus) -> int:
    """Codes of the validation part that are measured."""
    return min(len(corpus.validation.codes), round(recipe.plan.evaluate_seconds * recipe.sample_rate))


def check_lengths(recipe: Recipe, corpus: Corpus) -> None:
    """Raise `CorpusError` for too little audio, with how much is needed."""
    needed, rate = recipe.spec.receptive_field + recipe.plan.length, recipe.sample_rate
    for name, had in (("training", len(corpus.training.codes)), ("validation", validated(recipe, corpus))):
        if had < needed:
            raise CorpusError(
                f"the {name} part has {had / rate:.2f} s of audio, a sequence of this model needs "
                f"{needed / rate:.2f} s (receptive field and length): add audio, or change length or "
                "evaluate_seconds"
            )


def take_step(run: Run, plan: Plan, world: World, dtype: torch.dtype | None) -> float:
    """Train on one batch and return its loss, bits per sample; NaN or infinity where it is lost."""
    for group in run.optimiser.param_groups:
        group["lr"] = plan.rate_at(run.step) * run.rate_factor
    loss, run.streams.state = loss_of(run.model, run.streams.next(run.model), run.streams.state, dtype)
    run.optimiser.zero_grad()
    torch.autograd.backward(loss)
    loss = loss.detach()
    parameters = list(run.model.parameters())
    world.average([loss, *(_gradient(parameter) for parameter in parameters)])
    torch.nn.utils.clip_grad_norm_(parameters, plan.clip)
    run.optimiser.step()
    run.step += 1
    # The average starts as the plain mean, or the first weights would weigh for thousands of steps.
    average = get_ema_multi_avg_fn(min(plan.decay, run.step / (run.step + 10)))  # type: ignore[no-untyped-call]
    average(list(run.average.parameters()), parameters, run.step)
    bits = loss.item() / LOG2
    run.batch_bits.append(bits)
    return bits


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    """A parameter's gradient, which is zero where a sequence never reached it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def evaluate(run: Run, recipe: Recipe, corpus: Corpus, world: World) -> float:
    """Bits per sample of the validation part under the average, as the first process finds them."""
    bits = math.nan
    if world.first:
        codes = corpus.validation.codes[: validated(recipe, corpus)]
        bits = held_out_bits(run.average, codes, recipe.plan.length)
    return world.of_first(bits, next(run.average.parameters()).device)


def judge(run: Run, bits: float, plan: Plan) -> None:
    """Take an evaluation's bits per sample into account: for what is best, and for the plateau's rate."""
    run.stale = 0 if bits < run.best else run.stale + 1
    run.best = min(bits, run.best)
    if plan.schedule == "plateau" and run.stale and run.stale % plan.patience == 0:
        run.rate_factor *= PLATEAU_FACTOR


def over(run: Run, plan: Plan) -> bool:
    """Whether no step is left, or validation has not got better for as long as the plan bears with."""
    return run.step >= plan.steps or 0 < plan.stop_after <= run.stale
