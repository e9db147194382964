"""How fast models are trained here, beside the same networks written plainly: `streamer bench training`.

Both take whole training steps (loss, gradients, clipping, AdamW) on the same batches, turn by turn in every
round, so that what else the machine does falls on both alike; ours also keeps its moving average and the
recurrent state. Figures are medians of the rounds, ratios the median of the rounds' ratios.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch.nn import functional as F

from streamer.models.corpus import Corpus, Part
from streamer.models.samplernn import SampleRnn
from streamer.models.survey import Survey
from streamer.models.training.objective import mixed_precision
from streamer.models.training.parallel import World, find_device
from streamer.models.training.plain import PlainSampleRnn, PlainWaveNet
from streamer.models.training.recipe import Recipe, find_recipe, read_recipe
from streamer.models.training.run import Run, begin, take_step

RECIPES = ("laptop-16k", "voice-it")
"""One of each architecture."""
ROUNDS = 5
COLUMNS = (
    "model",
    "threads",
    "precision",
    "samples_per_s",
    "fp32_samples_per_s",
    "plain_samples_per_s",
    "ratio",
)


@dataclass(frozen=True)
class Speed:
    """What one model's training does; samples are those that are predicted."""

    model: str
    threads: int
    precision: str
    """Of products in training."""
    samples_per_s: float
    fp32_samples_per_s: float
    """Ours at the plain form's precision."""
    plain_samples_per_s: float
    """Conv1d over whole sequences, in fp32."""
    ratio: float
    """Ours to plain."""


def run(names: Sequence[str] = ()) -> list[Speed]:
    """Measure recipes by name, or `RECIPES`, where `streamer train` would train them."""
    device = find_device("auto")
    return [measure(name, device) for name in names or RECIPES]


def measure(name: str, device: torch.device, rounds: int = ROUNDS) -> Speed:
    """Train a recipe's model, without a predictor, on noise both ways.

    Raises `StreamerError` for an unknown or unusual one.
    """
    recipe = read_recipe(find_recipe(name))
    recipe = replace(recipe, spec=replace(recipe.spec, predictor=None))  # which the plain forms have not
    dtype = mixed_precision(device)
    ways = [_ours(recipe, device, dtype), _ours(recipe, device, None), _plain(recipe, device)]
    for way in ways:
        way()  # allocates, and lets the libraries choose
    speeds = np.array([[_speed(way, recipe) for way in ways] for _ in range(rounds)])
    ours, full, plain = (median(column) for column in speeds.T)
    return Speed(
        model=name,
        threads=torch.get_num_threads(),
        precision=str(dtype or torch.float32).removeprefix("torch."),
        samples_per_s=ours,
        fp32_samples_per_s=full,
        plain_samples_per_s=plain,
        ratio=median(speeds[:, 0] / speeds[:, 2]),
    )


def _speed(way: Callable[[], float], recipe: Recipe) -> float:
    began = perf_counter()
    way()
    return recipe.plan.batch * recipe.plan.length / (perf_counter() - began)


def _new_run(recipe: Recipe, device: torch.device) -> Run:
    codes = np.random.default_rng(0).integers(0, recipe.spec.levels, 2**20).astype(np.uint16)
    noise = Part(codes)
    corpus = Corpus("", recipe.sample_rate, recipe.settings.quantiser, Survey(0, 0, 0), noise, noise, noise)
    return begin(recipe, corpus, device, World())


def _ours(recipe: Recipe, device: torch.device, dtype: torch.dtype | None) -> Callable[[], float]:
    run = _new_run(recipe, device)
    return lambda: take_step(run, recipe.plan, World(), dtype)


def _plain(recipe: Recipe, device: torch.device) -> Callable[[], float]:
    run, length = _new_run(recipe, device), recipe.plan.length
    is_rnn = isinstance(run.model, SampleRnn)
    plain = (PlainSampleRnn(run.model) if isinstance(run.model, SampleRnn) else PlainWaveNet(run.model)).to(
        device
    )
    optimiser = torch.optim.AdamW(plain.parameters(), recipe.plan.learning_rate, weight_decay=0.0)

    def step() -> float:
        codes = run.streams.next(run.model).codes.to(device)
        logits = plain(codes if is_rnn else codes[:, :-1])[..., -length:]
        loss = F.cross_entropy(logits, codes[:, -length:])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(plain.parameters(), recipe.plan.clip)
        optimiser.step()
        return loss.item()

    return step


def as_json(found: Iterable[Speed]) -> str:
    """A JSON list with the fields of `Speed`."""
    return json.dumps([asdict(each) for each in found], indent=2)
