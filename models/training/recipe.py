"""A recipe: what to train, on what, and how, in a TOML file.

It has a title and the tables ``[model]`` (the fields of a spec and its architecture), ``[quantiser]``,
``[train]`` (the fields of `Plan`), ``[corpus]`` (its sample rate, how silence is cut) and ``[source]``
(licence, attribution). A preset is a shipped recipe for a class of machines: it has no source, since
anybody's audio goes with it.
"""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from streamer.models.checkpoint import SAMPLE_RATES_HZ, Provenance
from streamer.models.corpus import LONGEST_SILENCE, Settings
from streamer.models.errors import SpecError, StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec, spec_from_json
from streamer.models.training.plan import Plan

FOLDER = Path(__file__).parents[1] / "recipes"
LONGEST_SILENCES = (0.04, 60.0)
"""Seconds that a silence may be allowed."""


@dataclass(frozen=True)
class Recipe:
    """What to train, on codes of which quantiser, how, and what to say about it."""

    spec: Spec
    sample_rate: int
    """Hz."""
    preemphasis: float
    plan: Plan
    about: Provenance
    longest_silence: float = LONGEST_SILENCE
    """Seconds that are left of a longer silence."""

    def __post_init__(self) -> None:
        """Check what the parts cannot check alone; raise `SpecError`."""
        spec, length = self.spec, self.plan.length
        low, high = SAMPLE_RATES_HZ
        if type(self.sample_rate) is not int or not low <= self.sample_rate <= high:
            raise SpecError(
                f"sample_rate is {self.sample_rate!r} Hz: it must be a whole number, {low} to {high}"
            )
        least, most = LONGEST_SILENCES
        if type(self.longest_silence) not in (int, float) or not least <= self.longest_silence <= most:
            raise SpecError(
                f"longest_silence is {self.longest_silence!r} s: it must be a number from {least} to {most}"
            )
        Quantiser(levels=spec.levels, preemphasis=self.preemphasis)
        if isinstance(spec, WaveNetSpec) and spec.condition:
            raise SpecError("a corpus has no condition to train on: leave it 0")
        if spec.predictor and self.plan.noise:
            raise SpecError("noise must be 0 beside a predictor, whose forecasts would tell the right codes")
        if isinstance(spec, SampleRnnSpec) and length % spec.frames[0]:
            raise SpecError(
                f"length is {length}: it must be a multiple of the slowest frame, {spec.frames[0]}"
            )

    @property
    def settings(self) -> Settings:
        """What a folder of audio is made into for it."""
        quantiser = Quantiser(levels=self.spec.levels, preemphasis=self.preemphasis)
        return Settings(self.sample_rate, quantiser, self.longest_silence, cycle=self.spec.cycle)


def shipped() -> dict[str, Path]:
    """The recipes that come with streamer, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find_recipe(name: str) -> Path:
    """Path of a recipe: a TOML file, or a shipped one's name; raise `StreamerError` for none."""
    path = shipped().get(name, Path(name))
    if not path.is_file():
        raise StreamerError(f"recipe {name!r} is unknown: choose {', '.join(shipped())}, or name a TOML file")
    return path


_TABLES: dict[str, tuple[str, ...] | None] = {
    "source": ("package", "version", "sha256", "root", "files", "license", "attribution"),
    "corpus": ("sample_rate", "longest_silence", "file_seconds", "skip", "stems", "parts", "peak"),
    "quantiser": ("preemphasis",),
    "train": tuple(item.name for item in fields(Plan)),
    "shipped": ("temperature", "weights"),
    "model": None,
}
"""A recipe's tables and their keys; those of a model are its spec's. What scripts/fetch-corpus reads is known
here, too, or a slip of the pen could not be told from it."""


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
            longest_silence=tables["corpus"].get("longest_silence", LONGEST_SILENCE),
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
