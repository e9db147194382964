"""Train a model from a folder of audio, by a recipe, on the processor or one GPU.

A recipe is a TOML file with a title and the tables ``[model]`` (the fields of a spec and its architecture),
``[quantiser]``, ``[train]`` (the fields of `Plan`), ``[corpus]`` (its sample rate) and ``[source]``
(licence, attribution). A run folder holds ``best.safetensors`` and ``latest.safetensors`` (checkpoints that
play), ``resume.safetensors`` (all that the next start goes on from) and ``log.jsonl`` (one line an
evaluation).
"""

import json
import math
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from streamer.models import checkpoint
from streamer.models.baselines import linear_predictor_bits, unigram_bits
from streamer.models.checkpoint import Provenance
from streamer.models.corpus import Corpus, fitting_scale, quantise, read_folder
from streamer.models.errors import CorpusError, SpecError, StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.samplernn import SampleRnn, State
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec, spec_from_json
from streamer.models.wavenet import WaveNet

Model = WaveNet | SampleRnn


@dataclass(frozen=True)
class Plan:
    """How a model is trained; lengths are in samples of the model's rate."""

    steps: int
    batch: int = 16
    """Sequences a step."""
    length: int = 2048
    """Samples predicted in each sequence of a step; SampleRNN's back-propagation through time is cut
    there."""
    learning_rate: float = 1e-3
    """After a linear warm-up; it falls by a cosine to a twentieth at the last step."""
    warmup: int = 500
    """Steps."""
    decay: float = 0.999
    """Of the moving average of weights, which is what is evaluated and kept."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    evaluate_every: int = 1000
    """Steps."""
    evaluate_seconds: float = 20.0
    """Held-out audio used in each evaluation; the last one uses all of it."""
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """What to train, on codes of which quantiser, how, and what to say about it."""

    spec: Spec
    sample_rate: int
    preemphasis: float
    plan: Plan
    about: Provenance


def find_recipe(name: str) -> Path:
    """Path of a recipe: a TOML file, or a shipped one's name; raise `StreamerError` for none."""
    shipped = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise StreamerError(f"recipe {name!r} is unknown: choose {', '.join(shipped)}, or name a TOML file")
    return path


def find_device(name: str) -> torch.device:
    """The device to train on: cpu, cuda, or "auto"; raise `StreamerError` for what is not there."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if chosen not in ("cpu", "cuda") or (chosen == "cuda" and not torch.cuda.is_available()):
        raise StreamerError(
            f"device {name!r} cannot be used here: choose cpu{', cuda' * torch.cuda.is_available()}"
        )
    return torch.device(chosen)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raise `StreamerError` naming what is wrong in it."""
    try:
        tables = tomllib.loads(path.read_text())
        quantiser, source = tables.get("quantiser", {}), tables.get("source", {})
        return Recipe(
            spec=spec_from_json(tables["model"]),
            sample_rate=int(tables["corpus"]["sample_rate"]),
            preemphasis=float(quantiser.get("preemphasis", 0.0)),
            plan=Plan(**tables["train"]),
            about=Provenance(
                title=tables.get("title", path.stem),
                corpus=source.get("package", ""),
                licence=source.get("license", ""),
                attribution=source.get("attribution", ""),
                origin=f"streamer train, recipe {path.stem}",
            ),
        )
    except OSError as error:
        raise StreamerError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(f"{path}: not a recipe ({type(error).__name__}: {error})") from None


@dataclass
class Streams:
    """Where each sequence of a batch stands in the training codes, and the recurrent state it carries.

    SampleRNN's sequences walk on from step to step and start again from rest at a random place when the
    corpus ends; WaveNet's are drawn anew each time, since it carries nothing.
    """

    codes: Tensor
    generator: torch.Generator
    context: int
    length: int
    positions: Tensor
    state: State | None = None

    def next(self, model: Model) -> Tensor:
        """Codes (B, context + length) of the next step."""
        last = len(self.codes) - self.context - self.length
        fresh = (
            self.positions > last
            if isinstance(model, SampleRnn)
            else torch.ones_like(self.positions, dtype=torch.bool)
        )
        drawn = torch.randint(0, last + 1, self.positions.shape, generator=self.generator)
        self.positions = torch.where(fresh, drawn, self.positions)
        if isinstance(model, SampleRnn) and fresh.any():
            self._rest(model, fresh)
        window = torch.arange(self.context + self.length)
        batch = self.codes[self.positions[:, None] + window]
        self.positions = self.positions + self.length
        return batch

    def _rest(self, model: SampleRnn, fresh: Tensor) -> None:
        rest = model.initial_state(len(fresh))
        if self.state is None:
            self.state = rest
        pick = fresh.to(rest[0][0].device)[:, None]
        self.state = [
            [torch.where(pick, new, old) for new, old in zip(*layers, strict=True)]
            for layers in zip(rest, self.state, strict=True)
        ]


def loss_of(
    model: Model, codes: Tensor, state: State | None, dtype: torch.dtype | None
) -> tuple[Tensor, State | None]:
    """Mean cross-entropy (nats) of codes (B, context + T) after their context, and the state at their end."""
    device = next(model.parameters()).device
    codes = codes.to(device)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        if isinstance(model, SampleRnn):
            logits, state = model(codes, state)
            state = [[layer.detach() for layer in tier] for tier in state]
        else:
            logits = model(codes[:, :-1], from_rest=False)
    targets = codes[:, -logits.shape[1] :]
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()), state


@torch.no_grad()
def held_out_bits(model: Model, codes: Tensor, length: int) -> float:
    """Bits per sample of codes (T,) as one stream in full precision, from rest and the first context on."""
    context = model.spec.receptive_field
    total, count, state = 0.0, 0, None
    for start in range(0, len(codes) - context - length + 1, length):
        loss, state = loss_of(model, codes[None, start : start + context + length], state, None)
        total, count = total + loss.item(), count + 1
    return total / max(count, 1) / math.log(2)


@dataclass
class Run:
    """Everything that changes while a model is trained."""

    model: Model
    average: Model
    optimiser: torch.optim.AdamW
    streams: Streams
    step: int = 0
    best: float = math.inf
    log: list[dict[str, Any]] = field(default_factory=list)


def start(recipe: Recipe, corpus: Corpus, device: torch.device) -> Run:
    """A run at step 0."""
    spec, plan = recipe.spec, recipe.plan
    kind = WaveNet if isinstance(spec, WaveNetSpec) else SampleRnn
    model, average = (kind(spec, plan.seed).to(device) for _ in range(2))  # type: ignore[arg-type]
    _check_lengths(spec, plan, corpus)
    optimiser = torch.optim.AdamW(model.parameters(), plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    streams = Streams(
        torch.from_numpy(corpus.training),
        torch.Generator().manual_seed(plan.seed),
        spec.receptive_field,
        plan.length,
        torch.full((plan.batch,), len(corpus.training)),
    )
    return Run(model, average, optimiser, streams)


def _check_lengths(spec: Spec, plan: Plan, corpus: Corpus) -> None:
    if isinstance(spec, SampleRnnSpec) and plan.length % spec.frames[0]:
        raise SpecError(f"length {plan.length} must be a multiple of the slowest frame, {spec.frames[0]}")
    needed = spec.receptive_field + plan.length
    for name in ("training", "held_out"):
        if len(getattr(corpus, name)) <= needed:
            raise CorpusError(f"the {name} audio is shorter than one sequence of {needed} samples; add files")


def rate_at(plan: Plan, step: int) -> float:
    """Learning rate of a step: a linear warm-up, then a cosine from one to a twentieth of the plan's rate."""
    progress = min(step / plan.steps, 1.0)
    cosine = 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2
    return plan.learning_rate * min(1.0, (step + 1) / plan.warmup) * cosine


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """The type that products are taken in: bfloat16 where the device is quicker at it, else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else None


def one_step(run: Run, plan: Plan, dtype: torch.dtype | None) -> Tensor:
    """Train on one batch and return its loss (nats)."""
    for group in run.optimiser.param_groups:
        group["lr"] = rate_at(plan, run.step)
    codes = run.streams.next(run.model)
    loss, run.streams.state = loss_of(run.model, codes, run.streams.state, dtype)
    run.optimiser.zero_grad()
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), plan.clip)
    run.optimiser.step()
    run.step += 1
    # The average starts as the plain mean, or the first weights would weigh for thousands of steps.
    keep = min(plan.decay, run.step / (run.step + 10))
    with torch.no_grad():
        for mean, weight in zip(run.average.parameters(), run.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)
    return loss.detach()


def save_run(run: Run, folder: Path) -> None:
    """Write what `resume` needs, in one step."""
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    names = [name for name, _ in run.model.named_parameters()]
    for index, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{names[index]}.{key}": value for key, value in moments.items()}
    tensors["streams.positions"] = run.streams.positions
    tensors["streams.generator"] = run.streams.generator.get_state()
    for tier, layers in enumerate(run.streams.state or []):
        tensors |= {f"streams.state.{tier}.{layer}": value for layer, value in enumerate(layers)}
    metadata = {"step": str(run.step), "best": repr(run.best)}
    part = folder / "resume.part"
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, part, metadata
    )
    part.replace(folder / "resume.safetensors")


def resume(run: Run, folder: Path) -> None:
    """Go on from what `save_run` wrote, where there is something."""
    path = folder / "resume.safetensors"
    if not path.exists():
        return
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    run.step, run.best = int(metadata["step"]), float(metadata["best"])
    for part, module in (("model", run.model), ("average", run.average)):
        module.load_state_dict({name: tensors[f"{part}.{name}"] for name, _ in module.named_parameters()})
    state = run.optimiser.state_dict()
    for index, (name, _) in enumerate(run.model.named_parameters()):
        keys = [key for key in tensors if key.startswith(f"optimiser.{name}.")]
        state["state"][index] = {key.rsplit(".", 1)[1]: tensors[key] for key in keys}
    run.optimiser.load_state_dict(state)
    run.streams.positions = tensors["streams.positions"]
    run.streams.generator.set_state(tensors["streams.generator"])
    run.streams.state = _carried(tensors, run.model)


def _carried(tensors: dict[str, Tensor], model: Model) -> State | None:
    if not isinstance(model, SampleRnn) or "streams.state.0.0" not in tensors:
        return None
    device, spec = model.embedding.device, model.spec
    tiers, layers = range(spec.tiers), range(spec.rnn_layers)
    return [[tensors[f"streams.state.{tier}.{layer}"].to(device) for layer in layers] for tier in tiers]


@dataclass(frozen=True)
class Progress:
    """What is told after every step."""

    step: int
    steps: int
    bits: float
    """Bits per sample of the last batch."""
    samples_per_second: float
    held_out: float | None
    """Bits per sample of held-out audio, where it has just been measured."""


def train(
    folder: Path,
    recipe: Recipe,
    run_folder: Path,
    device: torch.device,
    tell: Callable[[Progress], None],
    skipped: Callable[[str], None],
) -> Path:
    """Train on the audio below `folder`, going on where `run_folder` stopped; return the best model."""
    plan = recipe.plan
    clips = read_folder(folder, recipe.sample_rate, skipped)
    scale = fitting_scale(clips, recipe.preemphasis)
    quantiser = Quantiser(levels=recipe.spec.levels, preemphasis=recipe.preemphasis, scale=scale)
    corpus = quantise(clips, quantiser)
    run = start(recipe, corpus, device)
    run_folder.mkdir(parents=True, exist_ok=True)
    resume(run, run_folder)
    about = with_baselines(recipe.about, folder, corpus, quantiser)
    dtype = mixed_precision(device)
    held_out = torch.from_numpy(corpus.held_out)
    seconds = time.monotonic()
    for loss in _steps(run, plan, dtype):
        bits = None
        if run.step % plan.evaluate_every == 0 or run.step == plan.steps:
            some = held_out[: int(plan.evaluate_seconds * recipe.sample_rate)]
            bits = held_out_bits(run.average, held_out if run.step == plan.steps else some, plan.length)
            _keep(run, recipe, quantiser, about, bits, run_folder)
        elapsed, seconds = time.monotonic() - seconds, time.monotonic()
        speed = plan.batch * plan.length / elapsed
        tell(Progress(run.step, plan.steps, loss.item() / math.log(2), speed, bits))
    return run_folder / "best.safetensors"


def _steps(run: Run, plan: Plan, dtype: torch.dtype | None) -> Iterator[Tensor]:
    while run.step < plan.steps:
        yield one_step(run, plan, dtype)


def with_baselines(about: Provenance, folder: Path, corpus: Corpus, quantiser: Quantiser) -> Provenance:
    """Provenance with what is known before training: the corpus, and the bits that must be beaten."""
    values = {item.name: getattr(about, item.name) for item in fields(about)}
    values["corpus"] = about.corpus or folder.name
    values["unigram_bits"] = round(unigram_bits(corpus.training, corpus.held_out, quantiser.levels), 4)
    values["lpc32_bits"] = round(linear_predictor_bits(corpus.training, corpus.held_out, quantiser), 4)
    return Provenance(**values)


def _keep(
    run: Run, recipe: Recipe, quantiser: Quantiser, about: Provenance, bits: float, folder: Path
) -> None:
    """Write the checkpoints and the log of one evaluation."""
    better, run.best = bits < run.best, min(bits, run.best)
    values = {item.name: getattr(about, item.name) for item in fields(about)}
    values |= {"steps": run.step, "bits_per_sample": round(bits, 4)}
    weights: dict[str, np.ndarray[Any, Any]] = {
        name.replace("__", "."): value.detach().cpu().numpy()
        for name, value in run.average.named_parameters()
    }
    for name in ("latest", "best") if better else ("latest",):
        checkpoint.save(
            folder / f"{name}.safetensors",
            spec=recipe.spec,
            quantiser=quantiser,
            sample_rate=recipe.sample_rate,
            tensors=weights,
            provenance=Provenance(**values),
        )
    save_run(run, folder)
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": run.step, "held_out_bits": bits, "best": run.best}) + "\n")
