"""What a checkpoint does not say of its model: given, found in a config, or a default that is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamer.models.errors import CheckpointError
from streamer.models.quantisers import Kind

Value = TypeVar("Value")

DEFAULTED = "the program's default, for nothing says it"


@dataclass(frozen=True)
class Given:
    """What whoever imports says; None is not said."""

    rate: int | None = None
    """Hz."""
    quantiser: Kind | None = None
    dilations: tuple[int, ...] | None = None
    """One a layer, or those of one block, which is then repeated."""


NOTHING = Given()


@dataclass(frozen=True)
class Said:
    """What a program's own settings say; None is not said."""

    rate: Any = None
    quantiser: Kind | None = None
    preemphasis: float = 0.0
    scale: float = 1.0
    dilations: tuple[int, ...] | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec by that program's names for them, which the tensors must bear out."""


@dataclass(frozen=True)
class Settings:
    """All that the tensors do not say, settled."""

    rate: int
    quantiser: Kind
    preemphasis: float
    scale: float
    dilations: tuple[int, ...]
    """One a layer; none of a SampleRNN."""


class Options:
    """A program's own settings under its own names, from its config file or from its pickled module."""

    def __init__(self, program: str, values: Mapping[str, Any], source: str) -> None:
        self.program, self.source, self._values = program, source, values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def get(self, name: str) -> Any:
        """The value of an option; None where it is not said."""
        return self._values.get(name)

    def whole(self, name: str) -> int | None:
        """The value of an option that must be a whole number above 0."""
        value = self.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise self._wrong(name, "it must be a whole number above 0")
        return value

    def wholes(self, name: str) -> tuple[int, ...] | None:
        """The value of an option that must be a list of whole numbers above 0."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not all(type(v) is int and v > 0 for v in value):
            raise self._wrong(name, "it must be a list of whole numbers above 0")
        return tuple(value)

    def choice(self, name: str, words: Mapping[Any, Value]) -> Value | None:
        """What an option's value means; raise `CheckpointError` for one that cannot be imported."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, (str, bool, int)) or value not in words:
            raise self._wrong(name, f"only {' or '.join(str(word) for word in words)} can be imported")
        return words[value]

    def at_most(self, name: str, most: float) -> None:
        """Refuse an option whose value is a number above this, which switches on what cannot be imported."""
        value = self.get(name)
        if isinstance(value, (int, float)) and value > most:
            raise self._wrong(name, "it cannot be imported")

    def _wrong(self, name: str, why: str) -> CheckpointError:
        shown = repr(self.get(name))
        shown = shown if len(shown) <= 60 else shown[:60] + " ..."
        return CheckpointError(f"{self.program}'s option {name} is {shown} ({self.source}): {why}")


def repeated(dilations: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """Dilations, one a layer, from as many or from those of one block; raise `CheckpointError`."""
    if not dilations or layers % len(dilations):
        raise CheckpointError(
            f"{len(dilations)} dilations are given for {layers} layers: give one a layer, or those of a block"
        )
    return dilations * (layers // len(dilations))


def doubling(layers: int, block: int) -> tuple[int, ...]:
    """Dilations that double from 1 within each block of so many layers: 1, 2, 4, ..., 1, 2, 4, ..."""
    return tuple(2 ** (layer % block) for layer in range(layers))


def settle(
    given: Given,
    said: Said,
    usual: Given,
    *,
    quantisers: tuple[Kind, ...],
    layers: int,
    source: str,
    defaults: bool,
) -> tuple[Settings, tuple[str, ...]]:
    """Settle what the tensors do not say, and tell in words where each part of it comes from.

    usual: the program's own defaults, taken only where `defaults` says so. quantisers: all that the program
    knows; where it is one, nothing has to be said. layers: that need a dilation. source: the config's name.
    Raises `CheckpointError` naming the options to give.
    """
    sole = quantisers[0] if len(quantisers) == 1 else None
    rows: dict[str, tuple[Any, ...]] = {
        "rate": (given.rate, said.rate, None, usual.rate),
        "quantiser": (given.quantiser, said.quantiser, sole, usual.quantiser),
    }
    if said.dilations is not None and len(said.dilations) != layers:
        raise CheckpointError(
            f"{source} says {len(said.dilations)} dilations, it has {layers} layers: it is another model's, "
            "give the right one with --config"
        )
    if layers:
        asked = None if given.dilations is None else repeated(given.dilations, layers)
        rows["dilations"] = (asked, said.dilations, None, usual.dilations)
    usable = rows if defaults else {name: row[:-1] for name, row in rows.items()}
    places = {name: _first(row) for name, row in usable.items()}
    missing = {name: rows[name][-1] for name, place in places.items() if place is None}
    if missing:
        raise CheckpointError(_asking(missing, quantisers))
    values = {name: rows[name][place] for name, place in places.items() if place is not None}
    origins = ("as given", f"from {source}", "the only one that the program has", DEFAULTED)
    told = tuple(f"{name}: {_shown(values[name])}, {origins[place or 0]}" for name, place in places.items())
    emphasis = (0.0, 1.0) if given.quantiser else (said.preemphasis, said.scale)
    return Settings(values["rate"], values["quantiser"], *emphasis, values.get("dilations", ())), told


def _first(row: tuple[Any, ...]) -> int | None:
    return next((place for place, value in enumerate(row) if value is not None), None)


def _asking(missing: Mapping[str, Any], quantisers: tuple[Kind, ...]) -> str:
    words = []
    for name, usual in missing.items():
        others = [kind for kind in quantisers if kind != usual] if name == "quantiser" else []
        default = "no known default" if usual is None else f"default {_shown(usual)}"
        words.append(f"--{name} ({', or '.join([default, *others])})")
    remedy = "give them" if len(words) > 1 else "give it"
    if None not in missing.values():
        remedy += ", or take the program's defaults with --defaults"
    return f"neither it nor a config beside it says {' and '.join(words)}: {remedy}"


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    text = ",".join(map(str, value))
    return text if len(text) <= 60 else f"{text[:40]}... ({len(value)} layers)"
