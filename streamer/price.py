"""What lower precision costs a model: bits a sample of held-out audio, by the stepper that plays it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.precision import PRECISIONS, resolve
from streamer.models.checkpoint import Checkpoint, Header, PrecisionBits
from streamer.models.clips import read_clip
from streamer.models.corpus import LONGEST_SILENCE, Corpus, Settings, prepare
from streamer.models.errors import CorpusError
from streamer.voice import new_stepper

LEAST_SECONDS = 1.0
"""Of audio to measure: the same for every precision, so that little tells much about their differences."""
_BLOCK_LOGITS = 2**20
"""Logits held at once."""

Codes = NDArray[np.int64]


def held_out(
    paths: Sequence[Path],
    model: Header,
    skipped: Callable[[str], None],
    longest_silence: float = LONGEST_SILENCE,
) -> Codes:
    """Codes (T,) of audio files, and of the part of folders that training leaves for tests, for a model.

    skipped: told of every file in a folder that cannot be read. longest_silence: seconds that training left
    of one, see `streamer.runs`. Raises `CorpusError` for audio that will not do.
    """
    parts = list[Codes]()
    for path in paths:
        if path.is_dir():
            parts.append(corpus_of(path, model, skipped, longest_silence).test.codes.astype(np.int64))
        else:
            parts.append(model.quantiser.encode(read_clip(path, model.sample_rate)))
    codes = np.concatenate(parts)
    check_length(codes, model)
    return codes


def corpus_of(
    folder: Path, model: Header, skipped: Callable[[str], None], longest_silence: float = LONGEST_SILENCE
) -> Corpus:
    """A folder of audio as codes of a model's; raise `CorpusError` for audio that will not do."""
    settings = Settings(
        model.sample_rate, model.quantiser, longest_silence, fit_scale=False, cycle=model.spec.cycle
    )
    return prepare(folder, settings, skipped)


def check_length(codes: NDArray[Any], model: Header) -> None:
    """Raise `CorpusError` for codes (T,) too few to measure a model on."""
    needed = model.spec.receptive_field + round(LEAST_SECONDS * model.sample_rate)
    if len(codes) < needed:
        had, wanted = (count / model.sample_rate for count in (len(codes), needed))
        raise CorpusError(f"there are {had:.2f} s of audio: at least {wanted:.2f} are needed, add some")


def measure(name: str, model: Checkpoint, codes: Codes, tell: Callable[[str], None]) -> PrecisionBits:
    """Bits a sample of codes (T,) at every precision that this processor has; `tell` hears of each before.

    Raises `StreamerError` where the model cannot be played.
    """
    found = {}
    for precision in PRECISIONS:
        if resolve(precision) == precision:
            tell(precision)
            found[precision] = round(bits(name, model, codes, precision), 5)
    return PrecisionBits(**found)


def bits(name: str, model: Checkpoint, codes: Codes, precision: str) -> float:
    """Bits a sample of codes (T,), one stream from rest, behind a first context as when training measures."""
    stepper = new_stepper(name, model, precision)
    context, block = model.spec.receptive_field, max(1, _BLOCK_LOGITS // model.spec.levels)
    stepper.feed(codes[:context])
    total = 0.0
    for start in range(context, len(codes), block):
        part = codes[start : start + block]
        total += _nats(stepper.teacher_forced(part).astype(np.float64), part)
    return total / (len(codes) - context) / float(np.log(2))


def _nats(logits: NDArray[np.float64], codes: Codes) -> float:
    """Sum over T of the surprise at codes (T,), given logits (T, Q)."""
    logits -= logits.max(1, keepdims=True)
    chosen = logits[np.arange(len(codes)), codes]
    return float((np.log(np.exp(logits).sum(1)) - chosen).sum())
