"""A run folder: what is kept of a run, so that a kill at any moment loses steps and never changes the result.

| file | holds |
|---|---|
| ``run.json`` | what is trained on what: recipe, quantiser, corpus and its survey, the baselines to beat |
| ``best.safetensors`` | the model with the fewest validation bits so far |
| ``latest.safetensors`` | the model of the last evaluation |
| ``resume.safetensors`` | all of `Run`: weights, averages, moments, positions, recurrent and random state |
| ``log.jsonl`` | one line an evaluation |

An evaluation writes the models, the log's line and then ``resume.safetensors``, each in one step. A run goes
on from the latter: what was written after it is made again, alike, and lines of the log beyond it are
dropped.
"""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from streamer.models import checkpoint
from streamer.models.baselines import linear_predictor_bits, unigram_bits
from streamer.models.checkpoint import Provenance
from streamer.models.container import write_atomically
from streamer.models.corpus import Corpus
from streamer.models.errors import SpecError, StreamerError
from streamer.models.quantisers import quantiser_to_json
from streamer.models.samplernn import SampleRnn, State
from streamer.models.specs import Spec, spec_from_json, spec_to_json
from streamer.models.splitting import PARTS
from streamer.models.training.events import Evaluated
from streamer.models.training.parallel import World
from streamer.models.training.recipe import Recipe
from streamer.models.training.run import Run, validated

BEST, LATEST, RESUME = "best.safetensors", "latest.safetensors", "resume.safetensors"
DESCRIPTION, LOG = "run.json", "log.jsonl"

_NUMBERS = ("step", "best", "stale", "rate_factor", "seconds")
"""Of a run, kept in the metadata of ``resume.safetensors``."""
_LEFT_BEHIND = re.compile(r"\.(best|latest|resume)\.safetensors\.\w+|\.run\.json\.\w+")
"""Half a file that a kill has left."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a run folder and keep other processes out of it; raise `StreamerError` where one is in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise StreamerError(f"{folder}: cannot be made a run folder ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StreamerError(f"{folder} is being trained in: wait, or choose another run folder") from None
        for path in folder.iterdir():
            if _LEFT_BEHIND.fullmatch(path.name):
                path.unlink()
        yield


def check_same(folder: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Raise `SpecError` where a folder's run is of another model or audio."""
    if not (folder / RESUME).exists():
        return
    before, now = read_description(folder), _description(recipe, corpus)
    if not _is_spec(_at(before, ("recipe", "spec")), recipe.spec):
        raise SpecError(_trained_with(folder, "another model"))
    for what, keys in (
        ("another sample rate", ("recipe", "sample_rate")),
        ("other audio, pre-emphasis or longest_silence", ("corpus", "key")),
        ("another batch", ("recipe", "plan", "batch")),
    ):
        if _at(before, keys) != _at(now, keys):
            raise SpecError(_trained_with(folder, what))


def _is_spec(described: Any, spec: Spec) -> bool:
    """Whether JSON says this spec; what an older run does not say is as it always was."""
    try:
        return spec_from_json(described) == spec
    except SpecError:
        return False


def _trained_with(folder: Path, what: str) -> str:
    return f"{folder} was trained with {what}: choose another run folder, or delete it"


def _at(described: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        described = described.get(key) if isinstance(described, dict) else None
    return described


def read_description(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says; raise `StreamerError` where it cannot be read."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if isinstance(described, dict):
            return described
    except (OSError, ValueError):
        pass
    raise StreamerError(
        f"{folder}: its {DESCRIPTION} cannot be read; choose another run folder, or delete it"
    )


def describe(folder: Path, recipe: Recipe, corpus: Corpus, about: Provenance) -> None:
    """Write ``run.json``."""
    baselines = {"unigram_bits": about.unigram_bits, "lpc32_bits": about.lpc32_bits}
    _write_text(folder / DESCRIPTION, json.dumps(_description(recipe, corpus) | baselines, indent=2) + "\n")


def _description(recipe: Recipe, corpus: Corpus) -> dict[str, Any]:
    described: dict[str, Any] = {
        "recipe": {
            "title": recipe.about.title,
            "spec": spec_to_json(recipe.spec),
            "sample_rate": recipe.sample_rate,
            "longest_silence": recipe.longest_silence,
            "plan": asdict(recipe.plan),
        },
        "quantiser": quantiser_to_json(corpus.quantiser),
        "corpus": {
            "key": corpus.key,
            "samples": {name: len(corpus.part(name).codes) for name in PARTS},
            "survey": asdict(corpus.survey),
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(described))  # as it will be read: tuples are lists
    return plain


def with_baselines(about: Provenance, folder: Path, corpus: Corpus, recipe: Recipe) -> Provenance:
    """Provenance with what is known before training: the corpus, and the bits that must be beaten."""
    learned, held_out = corpus.training.codes, corpus.validation.codes[: validated(recipe, corpus)]
    return replace(
        about,
        corpus=about.corpus or folder.resolve().name,
        unigram_bits=round(unigram_bits(learned, held_out, recipe.spec.levels), 4),
        lpc32_bits=round(linear_predictor_bits(learned, held_out, corpus.quantiser), 4),
    )


# --- an evaluation ------------------------------------------------------------------------------------------


def keep_models(
    folder: Path, run: Run, recipe: Recipe, corpus: Corpus, about: Provenance, bits: float
) -> None:
    """Write the model that was just measured, twice if it is the best."""
    weights = {
        name.replace("__", "."): value.detach().cpu().numpy()
        for name, value in run.average.named_parameters()
    }
    for name in (LATEST,) if run.stale else (BEST, LATEST):
        checkpoint.save(
            folder / name,
            spec=recipe.spec,
            quantiser=corpus.quantiser,
            sample_rate=recipe.sample_rate,
            tensors=weights,
            provenance=replace(about, steps=run.step, bits_per_sample=round(bits, 4)),
        )


def append_log(folder: Path, found: Evaluated) -> None:
    """Add a line to the log: all of the event but where the model is."""
    path, line = folder / LOG, asdict(found)
    del line["checkpoint"]
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    except OSError as error:
        raise _no_room(path, error) from None


def trim_log(folder: Path, step: int) -> None:
    """Drop the log's lines beyond a step, and the half of one that a kill has left."""
    path = folder / LOG
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            _write_text(path, "".join(kept))


def _write_text(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise _no_room(path, error) from None


def _no_room(path: Path, error: Exception) -> StreamerError:
    return StreamerError(f"{path}: cannot be written ({error}); make room and start again")


# --- going on -----------------------------------------------------------------------------------------------


def save(run: Run, folder: Path, world: World) -> None:
    """Write what `restore` needs, in one step; all processes call it, and the first writes."""
    carried = [[world.gather(layer) for layer in layers] for layers in run.streams.state or []]
    if not world.first:
        return
    tensors = _tensors(run) | {
        f"streams.state.{tier}.{layer}": value
        for tier, layers in enumerate(carried)
        for layer, value in enumerate(layers)
    }
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {name: repr(getattr(run, name)) for name in _NUMBERS}
    try:
        write_atomically(folder / RESUME, to_bytes(copies, metadata))
    except OSError as error:
        raise _no_room(folder / RESUME, error) from None


def _tensors(run: Run) -> dict[str, Tensor]:
    """All but the recurrent state."""
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    names = [name for name, _ in run.model.named_parameters()]
    for index, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{names[index]}.{key}": value for key, value in moments.items()}
    tensors["streams.positions"] = run.streams.positions
    tensors["streams.generator"] = run.streams.generator.get_state()
    return tensors


def restore(run: Run, folder: Path) -> None:
    """Go on from what `save` wrote, where there is something; raise `StreamerError` if it is damaged."""
    path = folder / RESUME
    if not path.exists():
        return
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        run.step, run.stale = (int(metadata[name]) for name in ("step", "stale"))
        run.best, run.rate_factor, run.seconds = (
            float(metadata[name]) for name in ("best", "rate_factor", "seconds")
        )
        _restore_tensors(run, tensors)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise StreamerError(f"{path}: cannot be read ({error}); delete it to start again") from None


def _restore_tensors(run: Run, tensors: dict[str, Tensor]) -> None:
    for part, module in (("model", run.model), ("average", run.average)):
        module.load_state_dict({name: tensors[f"{part}.{name}"] for name, _ in module.named_parameters()})
    state = run.optimiser.state_dict()
    for index, (name, _) in enumerate(run.model.named_parameters()):
        keys = [key for key in tensors if key.startswith(f"optimiser.{name}.")]
        if keys:  # before the first step there are none
            state["state"][index] = {key.rsplit(".", 1)[1]: tensors[key] for key in keys}
    run.optimiser.load_state_dict(state)
    run.streams.positions = tensors["streams.positions"]
    run.streams.generator.set_state(tensors["streams.generator"])
    run.streams.state = _carried(tensors, run)


def _carried(tensors: dict[str, Tensor], run: Run) -> State | None:
    model, rows = run.model, run.streams.rows
    if not isinstance(model, SampleRnn) or "streams.state.0.0" not in tensors:
        return None
    device, spec = model.embedding.device, model.spec
    tiers, layers = range(spec.tiers), range(spec.rnn_layers)
    return [[tensors[f"streams.state.{tier}.{layer}"][rows].to(device) for layer in layers] for tier in tiers]
