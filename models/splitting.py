"""Which audio is learned from, which validates and which tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

PARTS = ("training", "validation", "test")

EVERY = 8
"""Of so many files, in order of name, one validates and one tests."""
LARGEST_SHARE = 1 / 4
"""Of all audio: the split would hang on a file that is longer, so it is cut first."""


@dataclass(frozen=True)
class Stretch:
    """Samples begin..end of a corpus, end to end, that lie in one file."""

    file_begin: int
    begin: int
    end: int


def split(files: Sequence[Stretch], cycle: float = 1) -> dict[str, list[Stretch]]:
    """Share files, in order of name, between `PARTS`.

    Of every eight, the fourth tests and the eighth validates; of fewer than eight, the last but one and the
    last. A file that is longer than a quarter of all audio counts as several, each at most an eighth of it,
    or a cycle: files of whole cycles are cut where one begins.
    """
    total = sum(file.end - file.begin for file in files)
    stretches = [piece for file in files for piece in _cut(file, total, cycle)]
    shared: dict[str, list[Stretch]] = {name: [] for name in PARTS}
    for number, stretch in enumerate(stretches):
        shared[_part(number, len(stretches))].append(stretch)
    return shared


def _part(number: int, count: int) -> str:
    if count < EVERY:
        return {count - 1: "validation", count - 2: "test"}.get(number, "training")
    return {EVERY - 1: "validation", EVERY // 2 - 1: "test"}.get(number % EVERY, "training")


def _cut(file: Stretch, total: int, cycle: float) -> list[Stretch]:
    length = file.end - file.begin
    if length <= LARGEST_SHARE * total:
        return [file]
    cycles = round(length / cycle)
    pieces = min(ceil(length * EVERY / total), cycles)
    firsts = [cycles * number // pieces for number in range(pieces)]
    edges = [file.begin, *(file.begin + round(first * cycle) for first in firsts[1:]), file.end]
    return [Stretch(file.file_begin, *pair) for pair in pairwise(edges)]
