"""Train a model from a folder of audio, by a recipe, on the processor or one GPU.

A recipe is a TOML file with a title and the tables ``[model]`` (the fields of a spec and its architecture),
``[quantiser]``, ``[train]`` (the fields of `Plan`), ``[corpus]`` (its sample rate) and ``[source]``
(licence, attribution). A run folder holds ``best.safetensors`` and ``latest.safetensors`` (checkpoints that
play), ``resume.safetensors`` (all that the next start goes on from) and ``log.jsonl`` (one line an
evaluation).
"""

import json
import math
import os
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from streamer.models import checkpoint
from streamer.models.baselines import linear_predictor_bits, unigram_bits
from streamer.models.checkpoint import SAMPLE_RATES_HZ, Provenance
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
    """Batches until the end. With more of them than before, a finished run goes on."""
    batch: int = 16
    """Sequences a step."""
    length: int = 2048
    """Samples predicted in each sequence of a step; SampleRNN's back-propagation through time is cut
    there."""
    learning_rate: float = 1e-3
    """After a linear warm-up; it falls by a cosine to a twentieth at the last step."""
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
    """Held-out audio that is measured, from its beginning: by every evaluation and by the simple
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


_WHOLE_NUMBERS = (
    ("steps", 1, 10**9),
    ("batch", 1, 2**16),
    ("length", 1, 2**24),
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


@dataclass(frozen=True)
class Recipe:
    """What to train, on codes of which quantiser, how, and what to say about it."""

    spec: Spec
    sample_rate: int
    """Hz."""
    preemphasis: float
    plan: Plan
    about: Provenance

    def __post_init__(self) -> None:
        """Check what the parts cannot check alone; raise `SpecError`."""
        spec, length = self.spec, self.plan.length
        low, high = SAMPLE_RATES_HZ
        if type(self.sample_rate) is not int or not low <= self.sample_rate <= high:
            raise SpecError(
                f"sample_rate is {self.sample_rate!r} Hz: it must be a whole number, {low} to {high}"
            )
        Quantiser(levels=spec.levels, preemphasis=self.preemphasis)
        if isinstance(spec, WaveNetSpec) and spec.condition:
            raise SpecError("a corpus has no condition to train on: leave it 0")
        if isinstance(spec, SampleRnnSpec) and length % spec.frames[0]:
            raise SpecError(
                f"length is {length}: it must be a multiple of the slowest frame, {spec.frames[0]}"
            )


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


_TABLES: dict[str, tuple[str, ...] | None] = {
    "source": ("package", "version", "sha256", "root", "files", "license", "attribution"),
    "corpus": ("sample_rate", "longest_silence", "file_seconds", "skip", "stems", "parts"),
    "quantiser": ("preemphasis",),
    "shipped": ("temperature",),
    "train": tuple(item.name for item in fields(Plan)),
    "model": None,
}
"""A recipe's tables and their keys; those of a model are its spec's. What scripts/fetch-corpus and
scripts/ship read is known here, too, or a slip of the pen could not be told from it."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raise `SpecError` naming the file and what is wrong in it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        title = tables.pop("title", path.stem)
        _check_keys(tables)
        source = tables.get("source", {})
        return Recipe(
            spec=spec_from_json(tables["model"]),
            sample_rate=tables["corpus"]["sample_rate"],
            preemphasis=tables.get("quantiser", {}).get("preemphasis", 0.0),
            plan=Plan(**tables["train"]),
            about=Provenance(
                title=title,
                corpus=source.get("package", ""),
                licence=source.get("license", ""),
                attribution=source.get("attribution", ""),
                origin=f"streamer train, recipe {path.stem}",
            ),
        )
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not a TOML file ({error})") from None
    except StreamerError as error:
        raise SpecError(f"{path}: {error}") from None


def _check_keys(tables: dict[str, Any]) -> None:
    for name, table in tables.items():
        if name not in _TABLES or not isinstance(table, dict):
            raise SpecError(f"{name!r} is no table of a recipe: there are {', '.join(_TABLES)}")
        known = _TABLES[name]
        foreign = [key for key in table if known is not None and key not in known]
        if foreign:
            raise SpecError(f"{foreign[0]!r} is no key of [{name}]: there are {', '.join(known or ())}")
    for name, key in (("model", "architecture"), ("corpus", "sample_rate"), ("train", "steps")):
        if key not in tables.get(name, {}):
            raise SpecError(f"[{name}] needs the key {key!r}")


@dataclass
class Streams:
    """Where each sequence of a batch stands in the training codes, and the recurrent state it carries.

    SampleRNN's sequences walk on from step to step and start again from rest at a random place when the
    corpus ends; WaveNet's are drawn anew each time, since it carries nothing. Some start out of silence, or a
    model that has never heard any would never leave it.
    """

    codes: Tensor
    plan: Plan
    context: int
    """Samples before those that are predicted: the receptive field."""
    silence: int
    """The code of silence."""
    positions: Tensor
    generator: torch.Generator
    state: State | None = None
    passed: int = -1
    """How many times the corpus's length has been drawn; every time other codes are wrong."""
    given: Tensor = field(init=False)
    """The codes as a model is given them."""
    foretold: Tensor = field(init=False)
    """What its predictor forecasts before each of them (T, FORECAST); without one, (T, 0)."""

    def next(self, model: Model, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes of a step (B, context + length), the same as given to a model, and the forecasts of each."""
        self._give(model.spec, step)
        last = len(self.codes) - self.context - self.plan.length
        silent = torch.rand(self.positions.shape, generator=self.generator) < self.plan.from_silence
        drawn = torch.randint(0, last + 1, self.positions.shape, generator=self.generator)
        if isinstance(model, SampleRnn):
            silent |= self.positions > last
            self.positions = torch.where(silent, drawn, self.positions)
            if silent.any():
                self._rest(model, silent)
        else:
            self.positions = drawn
        window = torch.arange(self.context + self.plan.length)
        codes, given, foretold = (
            part[self.positions[:, None] + window] for part in (self.codes, self.given, self.foretold)
        )
        codes[silent, : self.context] = given[silent, : self.context] = self.silence
        for row in silent.nonzero().flatten():
            foretold[row] = forecasts_of(model.spec, given[row])
        self.positions = self.positions + self.plan.length
        return codes, given, foretold

    def _give(self, spec: Spec, step: int) -> None:
        """Draw errors anew whenever as much as the whole corpus has been drawn."""
        passed = step * self.plan.batch * self.plan.length // len(self.codes) if self.plan.noise else 0
        if passed == self.passed:
            return
        self.passed = passed
        self.given = with_errors(self.codes, self.plan, passed, spec.levels)
        self.foretold = forecasts_of(spec, self.given)

    def _rest(self, model: SampleRnn, fresh: Tensor) -> None:
        rest = model.initial_state(len(fresh))
        if self.state is None:
            self.state = rest
        pick = fresh.to(rest[0][0].device)[:, None]
        self.state = [
            [torch.where(pick, new, old) for new, old in zip(*layers, strict=True)]
            for layers in zip(rest, self.state, strict=True)
        ]


def with_errors(codes: Tensor, plan: Plan, passed: int, levels: int) -> Tensor:
    """Codes (T,) of which some are wrong by a little, as what a model plays on from is."""
    if not plan.noise:
        return codes
    generator = torch.Generator().manual_seed(plan.seed + passed)
    wrong = torch.rand(codes.shape, generator=generator) < plan.noise
    error = torch.randint(1, plan.noise_size + 1, codes.shape, generator=generator)
    sign = 2 * torch.randint(0, 2, codes.shape, generator=generator) - 1
    return (codes + wrong * error * sign).clamp(0, levels - 1)


def forecasts_of(spec: Spec, codes: Tensor) -> Tensor:
    """What the spec's predictor forecasts before each of codes (T,), from rest: (T, FORECAST), or (T, 0)."""
    if spec.predictor is None:
        return torch.zeros(len(codes), 0)
    from streamer.kernels.predictor import forecasts  # what runs live: models learn from the very numbers

    return torch.from_numpy(forecasts(spec.predictor, spec.levels, codes.numpy()))


def loss_of(
    model: Model,
    codes: Tensor,
    given: Tensor,
    foretold: Tensor,
    state: State | None,
    dtype: torch.dtype | None,
) -> tuple[Tensor, State | None]:
    """Mean cross-entropy (nats) of codes (B, context + T) after their context, and the state at their end.

    given: the same, as the model is given them. foretold: of each of those, by `forecasts_of`.
    """
    device = next(model.parameters()).device
    codes, given, spec = codes.to(device), given.to(device), model.spec
    forecasts = foretold.to(device) if spec.predictor else None
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        if isinstance(model, SampleRnn):
            logits, state = model(
                given, state, None if forecasts is None else forecasts[:, spec.receptive_field :]
            )
            state = [[layer.detach() for layer in tier] for tier in state]
        else:
            logits = model(
                given[:, :-1], None, None if forecasts is None else forecasts[:, 1:], from_rest=False
            )
    targets = codes[:, -logits.shape[1] :]
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()), state


@torch.no_grad()
def held_out_bits(model: Model, codes: Tensor, length: int) -> float:
    """Bits per sample of codes (T,) as one stream in full precision, from rest and the first context on."""
    context, foretold = model.spec.receptive_field, forecasts_of(model.spec, codes)
    total, count, state = 0.0, 0, None
    for start in range(0, len(codes) - context - length + 1, length):
        part = slice(start, start + context + length)
        loss, state = loss_of(model, codes[None, part], codes[None, part], foretold[None, part], state, None)
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
    """Held-out bits per sample of the best evaluation."""


def start(recipe: Recipe, corpus: Corpus, device: torch.device) -> Run:
    """A run at step 0."""
    spec, plan = recipe.spec, recipe.plan
    kind = WaveNet if isinstance(spec, WaveNetSpec) else SampleRnn
    model, average = (kind(spec, plan.seed).to(device) for _ in range(2))  # type: ignore[arg-type]
    _check_lengths(spec.receptive_field + plan.length, corpus)
    optimiser = torch.optim.AdamW(model.parameters(), plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    streams = Streams(
        torch.from_numpy(corpus.training),
        plan,
        spec.receptive_field,
        spec.levels // 2,  # the mu-law that we train on has its silence there, as a SampleRNN has its rest
        torch.full((plan.batch,), len(corpus.training)),
        torch.Generator().manual_seed(plan.seed),
    )
    return Run(model, average, optimiser, streams)


def _check_lengths(needed: int, corpus: Corpus) -> None:
    for name, codes in (("training", corpus.training), ("measured held-out", corpus.held_out)):
        if len(codes) < needed:
            raise CorpusError(
                f"the {name} audio has {len(codes)} samples, one sequence {needed}: add audio, "
                "or change length or evaluate_seconds"
            )


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
    batch = run.streams.next(run.model, run.step)
    loss, run.streams.state = loss_of(run.model, *batch, run.streams.state, dtype)
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
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    part = folder / "resume.part"
    try:
        save_file(copies, part, metadata)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        # Whoever kills a run while it writes, or pulls the plug, leaves the file of the evaluation before.
        part.replace(folder / "resume.safetensors")
    except (OSError, SafetensorError) as error:
        raise StreamerError(f"{part}: cannot be written ({error}); make room and start again") from None


def resume(run: Run, folder: Path) -> None:
    """Go on from what `save_run` wrote, where there is something; raise `StreamerError` if it is damaged."""
    path = folder / "resume.safetensors"
    if not path.exists():
        return
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (OSError, SafetensorError) as error:
        raise StreamerError(f"{path}: cannot be read ({error}); delete it to start again") from None
    batch = len(tensors["streams.positions"])
    if batch != len(run.streams.positions):
        raise SpecError(f"{folder} was trained with batch {batch}: keep that, or choose another run folder")
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
    """Train on the audio below `folder`, going on where `run_folder` stopped; return the best model.

    tell: called after every step. skipped: told of every audio file that cannot be read. Raises
    `StreamerError` for audio, a recipe or a run folder that will not do, and when the loss is lost.
    """
    plan = recipe.plan
    clips = read_folder(folder, recipe.sample_rate, skipped)
    scale = fitting_scale(clips, recipe.preemphasis)
    quantiser = Quantiser(levels=recipe.spec.levels, preemphasis=recipe.preemphasis, scale=scale)
    corpus = quantise(clips, quantiser)
    corpus = replace(corpus, held_out=corpus.held_out[: round(plan.evaluate_seconds * recipe.sample_rate)])
    run = start(recipe, corpus, device)
    _claim(run_folder, recipe, quantiser)
    resume(run, run_folder)
    about = with_baselines(recipe.about, folder, corpus, quantiser)
    dtype, held_out = mixed_precision(device), torch.from_numpy(corpus.held_out)
    while run.step < plan.steps:
        began = time.monotonic()
        loss = one_step(run, plan, dtype).item()
        speed = plan.batch * plan.length / (time.monotonic() - began)
        _require_sense(run.step, loss / math.log(2), math.inf)
        bits = None
        if run.step % plan.evaluate_every == 0 or run.step == plan.steps:
            bits = held_out_bits(run.average, held_out, plan.length)
            _require_sense(run.step, bits, _MOST_BITS)
            _keep(run, recipe, quantiser, about, bits, run_folder)
        tell(Progress(run.step, plan.steps, loss / math.log(2), speed, bits))
    return run_folder / "best.safetensors"


_MOST_BITS = 64.0
"""Held-out bits per sample of a model that is worth keeping; knowing nothing of 65,536 levels costs 16."""


def _require_sense(step: int, bits: float, most: float) -> None:
    if not math.isfinite(bits) or bits > most:
        raise StreamerError(
            f"step {step} gives {bits:.1f} bits a sample: lower learning_rate in the recipe and start again"
        )


def _claim(folder: Path, recipe: Recipe, quantiser: Quantiser) -> None:
    """Make the run's folder, or make sure that the run in it is of the same model and audio."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StreamerError(f"{folder}: cannot be made a run folder ({error.strerror})") from None
    if not (folder / "resume.safetensors").exists():
        return
    before = checkpoint.read_header(folder / "latest.safetensors")
    for what, same in (
        ("another model", before.spec == recipe.spec),
        ("another sample rate", before.sample_rate == recipe.sample_rate),
        ("other audio or pre-emphasis", before.quantiser == quantiser),
    ):
        if not same:
            raise SpecError(f"{folder} was trained with {what}: choose another run folder, or delete it")


def with_baselines(about: Provenance, folder: Path, corpus: Corpus, quantiser: Quantiser) -> Provenance:
    """Provenance with what is known before training: the corpus, and the bits that must be beaten."""
    values = {item.name: getattr(about, item.name) for item in fields(about)}
    values["corpus"] = about.corpus or folder.resolve().name
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
