"""`streamer import`: another program's checkpoint becomes a model of ours, or is only looked at."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from streamer.console import ended_by_ctrl_c, say, say_if_compiling
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.models.importing.importer import Imported, printable, understand
from streamer.models.importing.settings import Given
from streamer.models.specs import spec_to_json
from streamer.numbers import condition_from


def run(options: argparse.Namespace) -> int:
    """Import a checkpoint, or with --dry-run say what would become of it."""
    out = None if options.dry_run else _target(options.out, options.source)
    imported = understand(
        options.source,
        options.family,
        Given(options.rate, options.quantiser, options.dilations),
        condition=None if options.condition is None else condition_from(options.condition),
        config=options.config,
        defaults=options.defaults,
        newest=options.newest,
    )
    model = imported.model()
    if out is None:
        more = chain(tensors_told(imported), _speed(str(options.out or imported.path.name), model))
    else:
        _save(out, model)
        more = chain([f"{out} is written; hear it with: streamer play {out}"])
    for line in chain(described(imported), more):
        say(line)
    return 0


def _target(out: Path | None, source: Path) -> Path:
    """Where the model goes; checked before anything is read, which may take long."""
    if out is None:
        raise StreamerError("name the file to write, or look only, with --dry-run")
    if out.suffix != checkpoint.SUFFIX:
        raise StreamerError(f"{out}: end the name of the model in {checkpoint.SUFFIX}")
    if not out.absolute().parent.is_dir():
        raise StreamerError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    if out.resolve() == source.resolve():
        raise StreamerError(f"{out}: is the source itself; give the model another name")
    return out


def _save(out: Path, model: Checkpoint) -> None:
    checkpoint.save(
        out,
        spec=model.spec,
        quantiser=model.quantiser,
        sample_rate=model.sample_rate,
        tensors=model.tensors,
        provenance=model.provenance,
    )


# --- words --------------------------------------------------------------------------------------------------


def described(imported: Imported) -> Iterator[str]:
    """What was understood, a line each."""
    spec, family = imported.spec, imported.family
    fields = {name: value for name, value in spec_to_json(spec).items() if name != "architecture"}
    words = (f"{name} {_value(value)}" for name, value in fields.items() if value not in (0, False, None))
    yield f"{imported.path}: {family.title} ({family.home})"
    yield f"{spec.architecture}: {', '.join(words)}; {spec.parameters:,} weights"
    yield from imported.told
    emphasis = f"pre-emphasis {imported.quantiser.preemphasis:g}, scale {imported.quantiser.scale:g}"
    if emphasis != "pre-emphasis 0, scale 1":
        yield emphasis


def _value(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def tensors_told(imported: Imported) -> Iterator[str]:
    """Every tensor of the checkpoint: whether it is used, and why it is not."""
    yield f"{len(imported.used)} tensors used:"
    yield from (f"  {printable(name)}" for name in imported.used)
    yield f"{len(imported.unused)} not used:"
    yield from (f"  {printable(name)}: it {reason}" for name, reason in sorted(imported.unused.items()))


def _speed(name: str, model: Checkpoint) -> Iterator[str]:
    """Whether it will run in real time here, measured as `streamer doctor` does."""
    from streamer import doctor

    say_if_compiling(model.spec.architecture)
    with ended_by_ctrl_c():
        found = dict(doctor.examine(name, model).findings())
    yield f"speed: {found['speed']}"
    yield found["verdict"]
