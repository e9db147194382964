"""The programs whose models can be imported, and which of them wrote a checkpoint."""

from collections.abc import Iterable

from streamer.models.errors import CheckpointError
from streamer.models.importing.deepsound import DEEPSOUND
from streamer.models.importing.family import Family
from streamer.models.importing.ibab import IBAB
from streamer.models.importing.keskival import KESKIVAL
from streamer.models.importing.mehri import DADABOTS, MEHRI
from streamer.models.importing.nvwavenet import NV_WAVENET
from streamer.models.importing.prism import PRISM
from streamer.models.importing.r9y9 import R9Y9
from streamer.models.importing.vincentherrmann import VINCENTHERRMANN
from streamer.models.importing.weights import short_name

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        PRISM,
        MEHRI,
        DADABOTS,  # after MEHRI, whose parameters it shares: told apart by --family alone
        DEEPSOUND,
        IBAB,
        KESKIVAL,
        NV_WAVENET,
        VINCENTHERRMANN,
        R9Y9,
    )
}


def recognise(names: Iterable[str], chosen: str | None) -> tuple[Family, str]:
    """The family of a checkpoint with these tensors, and what stands before its network's names.

    chosen: the family's name, where whoever imports says it. Raises `CheckpointError` saying what was looked
    for.
    """
    there = {short_name(name) for name in names}
    candidates = list(FAMILIES.values()) if chosen is None else [_chosen(chosen)]
    for family in candidates:
        prefix = _prefix(family, there)
        if prefix is not None:
            return family, prefix
    looked = "; ".join(f"{family.name}: {family.marks[0]}" for family in candidates if family != DADABOTS)
    raise CheckpointError(f"no known program wrote its {len(there)} tensors; looked for {looked}")


def _chosen(name: str) -> Family:
    if name not in FAMILIES:
        raise CheckpointError(f"family {name!r} is unknown: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _prefix(family: Family, names: set[str]) -> str | None:
    """The shortest prefix under which all of a family's marks are there, or None."""
    first = family.marks[0]
    prefixes = (name.removesuffix(first) for name in names if name.endswith(first))
    apart = (prefix for prefix in prefixes if prefix == "" or prefix[-1] in "./")
    whole = (prefix for prefix in apart if all(prefix + mark in names for mark in family.marks))
    return min(whole, key=len, default=None)
