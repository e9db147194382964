"""A corpus: a folder of audio as codes to learn from, to validate and to test with, mapped into memory.

Audio is decoded block by block, so that no corpus and no file in it is too long for memory. The result is
kept in the user's cache, under a key made of the audio's content and the settings: who asks again gets it at
once, and two who ask together make it once. ``STREAMER_CORPORA`` moves that cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from streamer.models import clips, survey
from streamer.models.errors import CorpusError
from streamer.models.quantisers import Quantiser, quantiser_from_json, quantiser_to_json
from streamer.models.silence import SilenceCutter
from streamer.models.splitting import PARTS, Stretch, split
from streamer.models.survey import Finding, Survey

FOLDER_VARIABLE = "STREAMER_CORPORA"
"""Environment variable that moves the cache of corpora."""
KEPT = 8
"""Corpora in the cache: those used last."""
LONGEST_SILENCE = 0.5
"""Seconds that are left of a longer silence, where a recipe says nothing else."""
QUIETEST = 1e-3
"""Least peak of a corpus, of full scale: -60 dBFS, where the audio's own 16 bits leave 33 levels."""

Samples = NDArray[np.float32]

_FORMAT = 1
"""Of the cache: what was written by another is made anew."""
_DESCRIPTION = "corpus.json"
_BLOCK = 2**20
"""Samples that are quantised at a time."""
_SHORT_OF_A_CYCLE = 2
"""Samples that rounding, of a cut or in resampling, may have taken from a file that is whole cycles."""
_MANTISSA = 11
"""Low bits of a float32 that a histogram of levels leaves out: its bins are 0.02 % wide."""


@dataclass(frozen=True)
class Settings:
    """What a folder of audio is made into."""

    sample_rate: int
    """Hz."""
    quantiser: Quantiser
    """Of a kind that does not stretch each clip to its own peak."""
    longest_silence: float = LONGEST_SILENCE
    """Seconds that are left of a longer silence."""
    fit_scale: bool = True
    """Whether the quantiser's scale is fitted to the corpus, or is to be kept."""
    cycle: float | None = None
    """Samples of a clock's cycle: of each file its whole cycles are taken, silence and all."""


@dataclass(frozen=True)
class Part:
    """Codes of whole stretches of audio end to end, and what else goes along with each of them."""

    codes: NDArray[Any]
    """(T,) of the least unsigned type that holds the levels; mapped into memory."""
    side: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Sequences (T, ...) by name that are cut at the same positions as the codes."""

    def __post_init__(self) -> None:
        """Raise `CorpusError` for a sequence of another length."""
        for name, values in self.side.items():
            if len(values) != len(self.codes):
                raise CorpusError(
                    f"side sequence {name!r} has {len(values)} rows for {len(self.codes)} codes"
                )


@dataclass(frozen=True)
class Corpus:
    """What a folder of audio became; its parts have no stretch of audio in common."""

    key: str
    """Names content and settings, in hexadecimal."""
    sample_rate: int
    """Hz."""
    quantiser: Quantiser
    survey: Survey
    training: Part
    validation: Part
    """Chooses the best model, and when to stop."""
    test: Part
    """For nothing but the figures that are told in the end."""

    def part(self, name: str) -> Part:
        """The part of this name: training, validation or test; raise `CorpusError` for another."""
        if name not in PARTS:
            raise CorpusError(f"part {name!r} is unknown: choose {', '.join(PARTS)}")
        part: Part = getattr(self, name)
        return part


def cache_folder() -> Path:
    """Where corpora are kept, whether it exists or not."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("streamer") / "corpora"


def audio_files(folder: Path) -> list[Path]:
    """All files below a folder that are named as audio, in order; raise `CorpusError` for no folder."""
    if not folder.is_dir():
        raise CorpusError(f"{folder}: there is no such folder of audio")
    known = (*clips.EXTENSIONS, *clips.MORE_EXTENSIONS)
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in known)


def prepare(folder: Path, settings: Settings, skipped: Callable[[str], None]) -> Corpus:
    """Make every audio file below a folder into a corpus, or find what an earlier call made of it.

    skipped: told of every file that cannot be used. Raises `CorpusError` where there is nothing to train on,
    or no room to keep it.
    """
    if settings.quantiser.stretches:
        raise CorpusError(
            f"quantiser {settings.quantiser.kind!r} needs whole clips: choose mulaw or linear-prism"
        )
    paths = audio_files(folder)
    cache = cache_folder()
    try:
        key = _key(folder, paths, settings)
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f"{key}.lock"):
            if not (cache / key / _DESCRIPTION).is_file():
                _make(folder, paths, settings, cache, key)
            made = _open(cache / key, key, settings.sample_rate)
        _forget_oldest(cache, key)
    except OSError as error:
        remedy = f"make room, or name another folder in {FOLDER_VARIABLE}"
        raise CorpusError(
            f"{cache}: the corpus cannot be kept there ({error.strerror or error}); {remedy}"
        ) from None
    for line in made.survey.skipped:
        skipped(line)
    return made


def _open(folder: Path, key: str, rate: int) -> Corpus:
    described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    os.utime(folder)  # it was used just now
    parts = {name: Part(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in PARTS}
    return Corpus(
        key,
        rate,
        quantiser_from_json(described["quantiser"]),
        survey.survey_from_json(described["survey"]),
        **parts,
    )


def _key(folder: Path, paths: list[Path], settings: Settings) -> str:
    described = {name: value for name, value in asdict(settings).items() if value is not None}
    described["format"] = _FORMAT
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for path in paths:
        digest.update(b"\n" + os.fsencode(path.relative_to(folder)) + b"\n")
        digest.update(_digest(path))
    return digest.hexdigest()[:32]


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:  # decoding will name it
        return str(error.strerror).encode()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time make a corpus; the system takes the lock from one that dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_oldest(cache: Path, key: str) -> None:
    """Keep the `KEPT` corpora that were used last; who still reads another goes on reading it."""
    found = [path for path in cache.iterdir() if path.is_dir() and path.name != key]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".lock").unlink(missing_ok=True)


# --- making one ---------------------------------------------------------------------------------------------


def _make(folder: Path, paths: list[Path], settings: Settings, cache: Path, key: str) -> None:
    """Write a corpus under another name and move it into place, whole or not at all."""
    making = cache / f".{key}.{secrets.token_hex(4)}"
    making.mkdir()
    try:
        stretches, found = _gather(folder, paths, settings, making / "samples")
        samples = np.memmap(making / "samples", np.float32, "r")
        quantiser = settings.quantiser
        if settings.fit_scale:
            quantiser = replace(quantiser, scale=fitting_scale(samples, stretches, quantiser.preemphasis))
        for name, part in _split(stretches, settings).items():
            _write_codes(making / f"{name}.npy", samples, part, quantiser)
        (making / "samples").unlink()
        described = {"quantiser": quantiser_to_json(quantiser), "survey": asdict(found)}
        (making / _DESCRIPTION).write_text(json.dumps(described, indent=2), encoding="utf-8")
        shutil.rmtree(cache / key, ignore_errors=True)
        making.replace(cache / key)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _split(stretches: list[Stretch], settings: Settings) -> dict[str, list[Stretch]]:
    parts = split(stretches, settings.cycle or 1)
    if not all(parts.values()):
        needed = len(PARTS) * (settings.cycle or 1) / settings.sample_rate
        raise CorpusError(
            f"there is less than a cycle of the model's clock for each of {', '.join(PARTS)}: "
            f"add audio, at least {needed:.2f} s of whole cycles are needed"
        )
    return parts


def _gather(
    folder: Path, paths: list[Path], settings: Settings, scratch: Path
) -> tuple[list[Stretch], Survey]:
    """Decode all files, end to end, into float32 samples at the corpus's rate; where each of them lies."""
    stretches: list[Stretch] = []
    findings: list[Finding] = []
    skipped: list[str] = []
    with scratch.open("wb") as out:
        for path in paths:
            begin, finding = out.tell() // 4, Finding(str(path.relative_to(folder)))
            try:
                for samples in _decode(path, settings, finding):
                    out.write(samples.astype("<f4", copy=False).data)
                if settings.cycle:
                    finding.kept = _whole_cycles(finding.kept, settings)
                    out.seek(4 * (begin + finding.kept))
                    out.truncate()
            except CorpusError as error:
                skipped.append(f"{path}: {error}")
                out.seek(4 * begin)
                out.truncate()
                continue
            findings.append(finding)
            stretches.append(Stretch(begin, begin, begin + finding.kept))
    if not stretches:
        raise CorpusError(_nothing(folder, paths, skipped))
    return stretches, survey.summed(findings, settings.sample_rate, skipped)


def _whole_cycles(samples: int, settings: Settings) -> int:
    """Samples of a file's whole cycles; raise `CorpusError` if it has none."""
    assert settings.cycle
    cycles = math.floor((samples + _SHORT_OF_A_CYCLE) / settings.cycle)
    if not cycles:
        had, needed = (count / settings.sample_rate for count in (samples, settings.cycle))
        raise CorpusError(f"has {had:.2f} s: a cycle of the model's clock is {needed:.2f} s")
    return min(samples, round(cycles * settings.cycle))


def _nothing(folder: Path, paths: list[Path], skipped: list[str]) -> str:
    if not paths:
        known = ", ".join((*clips.EXTENSIONS, *clips.MORE_EXTENSIONS))
        return f"{folder}: holds no audio files ({known}): name a folder that does"
    return f"{folder}: none of its {len(paths)} audio files can be used, the first because: {skipped[0]}"


def _decode(path: Path, settings: Settings, finding: Finding) -> Iterator[Samples]:
    """Yield a file's samples without its silences; raise `CorpusError` for one that cannot be used.

    It is a generator so that what goes wrong with the samples elsewhere is not taken for a bad file.
    """
    cutter = SilenceCutter(settings.sample_rate, settings.longest_silence)
    with clips.opened(path) as file:
        finding.rate, finding.channels = file.rate, file.channels
        heard = (clips.mono(finding.hear(block)) for block in file.blocks)
        for block in clips.resampled(heard, file.rate, settings.sample_rate):
            yield finding.keep(block if settings.cycle else cutter.push(block))
    yield finding.keep(cutter.finish())
    if not finding.kept:
        raise CorpusError("holds only silence" if finding.frames else "holds no audio")


def fitting_scale(samples: Samples, stretches: list[Stretch], preemphasis: float) -> float:
    """Scale that brings all but one in 20,000 pre-emphasised samples within 0.95 of full scale.

    Raises `CorpusError` for audio so quiet that no quantiser could be scaled to it.
    """
    counts = np.zeros(2 ** (32 - 1 - _MANTISSA), np.int64)
    unscaled = Quantiser(preemphasis=preemphasis)
    for stretch in stretches:
        for emphasised in _blocks(samples, stretch, unscaled.emphasise):
            bits = np.abs(emphasised).astype(np.float32).view(np.uint32)
            counts += np.bincount(bits >> _MANTISSA, minlength=len(counts))
    bin_of_loudest = int(np.searchsorted(np.cumsum(counts), 0.99995 * counts.sum()))
    loudest = float(np.array([(bin_of_loudest + 1) << _MANTISSA], np.uint32).view(np.float32)[0])
    if loudest < QUIETEST:
        raise CorpusError(f"the audio peaks at {loudest:g} of full scale: choose some that can be heard")
    return round(0.95 / loudest, 4)


def _write_codes(path: Path, samples: Samples, part: list[Stretch], quantiser: Quantiser) -> None:
    """Write an NPY file block by block, and not through memory, where a full disk would kill the process."""
    kind = np.dtype(np.uint8 if quantiser.levels <= 256 else np.uint16)
    length = sum(stretch.end - stretch.begin for stretch in part)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (length,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for stretch in part:
            for block in _blocks(samples, stretch, quantiser.encode):
                file.write(block.astype(kind).data)


def _blocks(
    samples: Samples, stretch: Stretch, apply: Callable[[Samples], NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    """Apply what looks one sample back, as pre-emphasis does, block by block, as if to the whole file."""
    for begin in range(stretch.begin, stretch.end, _BLOCK):
        before = 1 if begin > stretch.file_begin else 0
        yield apply(samples[begin - before : min(begin + _BLOCK, stretch.end)])[before:]
