"""The rows that `streamer bench` gives: as a table, as JSON and back, and beside those of another day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeAlias

from streamer.models.errors import StreamerError

TOLERANCE = 0.1
"""The part of its speed that a row may lose before it counts as slower."""

Key: TypeAlias = "tuple[str, str, str, int, int]"


@dataclass(frozen=True)
class Row:
    """What one engine did with one model. Figures are medians of the rounds, ratios of the rounds' ratios."""

    model: str
    engine: str
    """kernels, torch-cached, torch-cached-script or torch-uncached"""
    precision: str
    threads: int
    voices: int
    parameters: int
    """Weights of the model."""
    samples_per_s: float
    """Of each voice."""
    spread: float
    """Half the way from the slowest round to the fastest, as a part of the median."""
    realtime: float
    """Seconds of sound at 16 kHz in a second of work, of each voice."""
    weight_bytes: int
    """Bytes of weights that a sample reads on average; voices share one reading."""
    gb_per_s: float
    """Those bytes times the samples a second, in 10^9 bytes."""
    roofline_share: float | None
    """The least time that this machine could need, measured in the same round, over the time taken; None for
    torch."""
    state_bytes: int
    """What changes from sample to sample, of all voices, scratch space included."""
    ratio_to_cached: float | None
    """Speed beside torch-cached's; None where that was not measured."""
    ratio_to_uncached: float | None
    ratio_to_reference: float
    """Samples in one pass of the fixed loop, which ran next to it on as many threads."""

    @property
    def key(self) -> Key:
        """What tells it from every other row of a run."""
        return self.model, self.engine, self.precision, self.threads, self.voices


# --- to read ------------------------------------------------------------------------------------------------

_HEADS = (
    *("model", "engine", "precision"),
    *("threads", "voices", "samples/s", "±", "x real time", "bytes a sample", "GB/s", "roofline"),
    *("state", "x cached", "x uncached"),
)
_WORDS = 3
"""Columns that are words: the rest are numbers, and aligned so."""


def as_table(rows: Iterable[Row]) -> str:
    """A Markdown table that is also aligned for the eye."""
    cells = [_HEADS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if i < _WORDS else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(_line(row, widths) for row in (cells[0], rule, *cells[1:]))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = list(zip(cells, widths, strict=True))
    aligned = [cell.ljust(width) for cell, width in pairs[:_WORDS]]
    aligned += [cell.rjust(width) for cell, width in pairs[_WORDS:]]
    return f"| {' | '.join(aligned)} |"


def _cells(row: Row) -> tuple[str, ...]:
    ratios = (row.ratio_to_cached, row.ratio_to_uncached)
    return (
        row.model,
        row.engine,
        row.precision,
        str(row.threads),
        str(row.voices),
        f"{row.samples_per_s:,.0f}" if row.samples_per_s >= 100 else f"{row.samples_per_s:.1f}",
        f"{row.spread:.0%}",
        f"{row.realtime:.2g}" if row.realtime < 1 else f"{row.realtime:.2f}",
        f"{row.weight_bytes / 2**20:.2f} MiB",
        f"{row.gb_per_s:.1f}",
        "" if row.roofline_share is None else f"{row.roofline_share:.0%}",
        f"{row.state_bytes / 2**10:,.0f} KiB",
        *("" if ratio is None else f"{ratio:.3g}" for ratio in ratios),
    )


# --- to keep ------------------------------------------------------------------------------------------------


def as_json(rows: Iterable[Row]) -> str:
    """A JSON list of rows, with the fields of `Row`."""
    return json.dumps([asdict(row) for row in rows], indent=2)


def read_json(path: Path) -> list[Row]:
    """Read what `as_json` gave; raises `StreamerError` where the file holds anything else."""
    names = [field.name for field in fields(Row)]
    try:
        return [Row(**{name: found[name] for name in names}) for found in json.loads(path.read_text("utf-8"))]
    except OSError as error:
        raise StreamerError(
            f"{path} cannot be read ({error.strerror}): name a file of bench --json"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise StreamerError(f"{path} holds no rows: make it with streamer bench --json > FILE") from None


# --- to compare ---------------------------------------------------------------------------------------------


def slower(rows: Iterable[Row], before: Iterable[Row]) -> dict[Key, float]:
    """The part of its speed that each row has left which lost more than `TOLERANCE` since before.

    Speeds are those beside the fixed loop. Rows that only one side has are left out; raises `StreamerError`
    where no row is on both.
    """
    old = {row.key: row.ratio_to_reference for row in before}
    left = {row.key: row.ratio_to_reference / old[row.key] for row in rows if row.key in old}
    if not left:
        raise StreamerError("no row is in the baseline too: measure the same models, or make it anew")
    return {key: part for key, part in left.items() if part < 1 - TOLERANCE}


def as_words(lost: Mapping[Key, float]) -> list[str]:
    """A line for each row that `slower` found."""
    return [
        f"slower: {model}, {engine}, {precision}, threads {threads}, voices {voices} has {part:.0%} "
        "of the baseline's speed beside the fixed loop"
        for (model, engine, precision, threads, voices), part in lost.items()
    ]
