"""From another program's checkpoint to a model of ours: `understand`."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from streamer.models.checkpoint import Checkpoint, Provenance, Tensors
from streamer.models.container import open_file, require
from streamer.models.errors import CheckpointError, SpecError, StreamerError
from streamer.models.folders import files_in
from streamer.models.importing.archive import Archive, checkpoints_in, read
from streamer.models.importing.families import recognise
from streamer.models.importing.family import Family
from streamer.models.importing.settings import NOTHING, Given, Options, Said, Settings, settle
from streamer.models.importing.weights import Weights, listed
from streamer.models.quantisers import Quantiser
from streamer.models.specs import Spec, WaveNetSpec

MAX_CONFIG_BYTES = 2**20


@dataclass(frozen=True)
class Imported:
    """What was understood of a checkpoint: all that `streamer.models.checkpoint.save` asks for, and why."""

    path: Path
    family: Family
    spec: Spec
    quantiser: Quantiser
    sample_rate: int
    """Hz."""
    tensors: Tensors
    provenance: Provenance
    told: tuple[str, ...]
    """Where everything that the tensors do not say comes from, a line each."""
    used: tuple[str, ...]
    unused: Mapping[str, str]
    """Why each tensor that was not used plays no part."""

    def model(self) -> Checkpoint:
        """The model as it would be loaded, but for the hash, which belongs to a file.

        Raises `CheckpointError` for what no file could hold, such as a rate out of range.
        """
        tensors = {name: np.ascontiguousarray(self.tensors[name]) for name in self.spec.tensors()}
        header = self.spec, self.quantiser, self.sample_rate, 1, self.provenance, ""
        return Checkpoint(*header, tensors=tensors)


def understand(
    source: Path,
    family: str | None = None,
    given: Given = NOTHING,
    *,
    condition: int | ArrayLike | None = None,
    config: Path | None = None,
    defaults: bool = False,
    newest: bool = False,
) -> Imported:
    """Read a checkpoint of a program that need not be installed, and turn its model into ours.

    Args:
        source: a checkpoint, or a folder that holds one.
        family: the program, by its name in `FAMILIES`; recognised by the tensors if left out.
        given: what the checkpoint does not say.
        condition: an id or vector (C,) to be held for good, of a conditioned model, which then needs none.
        config: the program's own settings, if they do not lie beside the checkpoint.
        defaults: take the program's own defaults for what nothing says.
        newest: of several checkpoints in a folder, take the newest.

    Raises:
        CheckpointError: one line that names the source, and what to do.
    """
    path = _checkpoint(source, newest)
    with _blaming(path):
        archive = read(path)
        chosen, prefix = recognise(archive.tensors, family)
        weights = Weights(archive.tensors, prefix, chosen.title)
        layers = weights.count(chosen.layer) if chosen.layer else 0
        options = _options(archive, chosen, prefix, config)
        said = chosen.said(options, layers)
        settings, told = settle(
            given,
            said,
            chosen.usual(layers),
            quantisers=chosen.quantisers,
            layers=layers,
            source=options.source,
            defaults=defaults,
        )
        spec, tensors = _convert(chosen, weights, settings, said)
        _compare(options, said, spec)
        if condition is not None:
            spec, tensors = hold(spec, tensors, condition)
    quantiser = Quantiser(settings.quantiser, spec.levels, settings.preemphasis, settings.scale)
    return Imported(
        path=archive.path,
        family=chosen,
        spec=spec,
        quantiser=quantiser,
        sample_rate=settings.rate,
        tensors=tensors,
        provenance=_provenance(archive, chosen),
        told=told,
        used=weights.used,
        unused={
            **weights.unused,
            **{name: f"holds no numbers but {what}" for name, what in archive.unread.items()},
        },
    )


def hold(
    spec: Spec, tensors: dict[str, Any], condition: int | ArrayLike
) -> tuple[WaveNetSpec, dict[str, Any]]:
    """Fold a condition, an id or a vector (C,), into the gates' biases; raise `SpecError` where none fits."""
    if not isinstance(spec, WaveNetSpec) or not spec.condition:
        raise SpecError("this model takes no condition: leave it out")
    kept = dict(tensors)
    vector = _vector(spec, kept.pop("condition_embedding", None), condition)
    gates = np.einsum("c,lcg->lg", vector, kept.pop("condition_weight").astype(np.float64))
    kept["gate_bias"] = (kept.get("gate_bias", 0.0) + gates).astype(np.float32)
    return replace(spec, condition=0, condition_ids=0, gate_bias=True), kept


def _vector(spec: WaveNetSpec, table: Any, condition: int | ArrayLike) -> Any:
    if spec.condition_ids:
        if not isinstance(condition, int) or not 0 <= condition < spec.condition_ids:
            raise SpecError(
                f"condition is {condition!r}: it must be a whole number, 0 to {spec.condition_ids - 1}"
            )
        return table[condition].astype(np.float64)
    vector = np.asarray(condition, np.float64)
    if vector.shape != (spec.condition,) or not np.isfinite(vector).all():
        raise SpecError(f"the condition has shape {vector.shape}: it must be {spec.condition} finite numbers")
    return vector


# --- finding ------------------------------------------------------------------------------------------------


def _checkpoint(source: Path, newest: bool) -> Path:
    """The checkpoint that is meant: the source itself, or in a folder the only one, or the newest."""
    if not source.is_dir():
        return source
    found = checkpoints_in(source)
    if not found:
        raise CheckpointError(f"{str(source)!r}: there is no checkpoint in this folder: give one")
    if len(found) > 1 and not newest:
        names = listed([path.name for path in found])
        raise CheckpointError(f"{str(source)!r}: holds {names}: give one of them, or --newest")
    return found[-1]


def _options(archive: Archive, family: Family, prefix: str, config: Path | None) -> Options:
    """What the program's own settings are, by the file's attributes and by the config beside it."""
    inside = {
        name.removeprefix(prefix): value
        for name, value in archive.attributes.items()
        if name.startswith(prefix)
    }
    path = _config_beside(archive.path, family) if config is None else config
    if config is not None and not family.configs:
        raise CheckpointError(f"{family.title} has no config file that is known: leave out --config")
    if path is None:
        return Options(family.title, inside, "the checkpoint itself")
    return Options(family.title, {**_read_config(path, family), **inside}, path.name)


def _config_beside(path: Path, family: Family) -> Path | None:
    """The family's config beside a checkpoint, or in the folder above, where some programs keep it."""
    folder = path.absolute().parent
    for place in (folder, folder.parent):
        for pattern in family.configs:
            found = [file for file in files_in(place, ".json", ".txt") if fnmatch(file.name, pattern)]
            if len(found) > 1:
                names = listed([file.name for file in found])
                raise CheckpointError(f"beside it lie {names}: say which is its config with --config")
            if found:
                return found[0]
    return None


def _read_config(path: Path, family: Family) -> Mapping[str, Any]:
    with _blaming(path):
        with open_file(path, "give the config of the checkpoint") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        require(len(content) <= MAX_CONFIG_BYTES, f"it has over {MAX_CONFIG_BYTES} bytes: this is no config")
        return family.read_config(content.decode("utf-8", "replace"))


# --- understanding ------------------------------------------------------------------------------------------


def _convert(family: Family, weights: Weights, settings: Settings, said: Said) -> tuple[Spec, dict[str, Any]]:
    """The spec and its tensors; what our specs cannot say is refused by the program's own word for it."""
    try:
        spec, tensors = family.convert(weights, settings)
    except SpecError as error:
        words = {field: option for option, (field, _) in said.expected.items()}
        option = words.get(str(error).split(" ", 1)[0])
        raise CheckpointError(
            f"its option {option} cannot be imported: {error}" if option else str(error)
        ) from None
    weights.finish()
    return spec, tensors


def _compare(options: Options, said: Said, spec: Spec) -> None:
    """Refuse a config that the tensors contradict: it belongs to another model."""
    for option, (name, value) in said.expected.items():
        found = getattr(spec, name)
        if value is not None and value != found:
            raise CheckpointError(
                f"{options.source} says {option} {options.get(option)!r}, its tensors {found!r}: "
                "it is another model's, give the right one with --config"
            )


def _provenance(archive: Archive, family: Family) -> Provenance:
    digests = ", ".join(f"{_printable(path.name)} SHA-256 {_sha256(path)}" for path in _files(archive))
    origin = f"{family.title} ({family.home}), imported from {_printable(archive.path.name)}: {digests}"
    return Provenance(title=f"{_printable(archive.path.name)}, of {family.title}", origin=origin)


def _files(archive: Archive) -> list[Path]:
    """The files that hold the weights: of a bundle those with the data."""
    if archive.form != "tensorflow-bundle":
        return [archive.path]
    folder, name = archive.path.parent, archive.path.name
    return sorted(path for path in folder.iterdir() if path.name.startswith(f"{name}.data-"))


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Have every failure inside name the file, unless it names it already."""
    try:
        yield
    except (StreamerError, OSError) as error:
        message = str(error)
        raise CheckpointError(message if str(path) in message else f"{str(path)!r}: {message}") from None
