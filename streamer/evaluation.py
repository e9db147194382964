"""`streamer eval`: how well a model knows audio that it has not heard, and whether it can be left to play.

Bits a sample of the corpus's test part, teacher-forced through the compiled kernels at every precision,
beside what simpler predictors need; then minutes or hours at several temperatures, watched over.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from streamer import pictures, price, runs, solo
from streamer.console import ended_by_ctrl_c, progress_bar, say_aside, say_if_compiling
from streamer.models import checkpoint, library
from streamer.models.baselines import linear_predictor_bits, unigram_bits
from streamer.models.checkpoint import Checkpoint, PrecisionBits
from streamer.models.corpus import Corpus
from streamer.models.errors import StreamerError
from streamer.precision import price_words
from streamer.render import LONGEST_SECONDS
from streamer.voice import Voice
from streamer.watch import Findings, Watch, faults, listen, listen_to_corpus

MINUTES = 3.0
"""At each temperature, unless asked otherwise."""
AROUND = (-0.1, 0.0, 0.1)
"""Temperatures that are tried, from the one that the model recommends."""


@dataclass(frozen=True)
class Knowledge:
    """How surprised a model and simpler predictors are by one piece of audio; bits a sample."""

    seconds: float
    """Of audio: the corpus's test part."""
    precisions: PrecisionBits
    unigram: float
    """By how often each code occurs in what was trained on."""
    lpc32: float
    """By a linear predictor of order 32 that was fitted to it."""


@dataclass(frozen=True)
class Take:
    """A model that was left to play."""

    temperature: float
    realtime_factor: float
    findings: Findings
    faults: tuple[str, ...]
    """A line for each limit that does not hold."""


@dataclass(frozen=True)
class Evaluation:
    """What `streamer eval` finds."""

    model: str
    hash: str
    precision: str
    """At which it played."""
    seed: int
    recommended: float
    """The model's own temperature."""
    knowledge: Knowledge
    corpus: Findings
    takes: tuple[Take, ...]

    @property
    def judged(self) -> list[Take]:
        """Those that count: at the recommended temperature, or all where that was not among them."""
        return [take for take in self.takes if take.temperature == self.recommended] or list(self.takes)


def run(options: argparse.Namespace) -> Evaluation:
    """Evaluate as the arguments say, and draw what was found if they ask for it."""
    path = library.resolve(options.model, allow_path=True)
    name, model = path.stem, checkpoint.load(path)
    seconds = 60 * options.minutes
    if seconds > LONGEST_SECONDS:
        raise StreamerError(f"{options.minutes:g} minutes are too long: at most {LONGEST_SECONDS // 60}")
    if options.plot is not None:
        pictures.prepare(options.plot)
    corpus = price.corpus_of(options.folder, model, say_aside, runs.longest_silence(path))
    price.check_length(corpus.test.codes, model)
    say_if_compiling(model.spec.architecture, say_aside)
    with ended_by_ctrl_c():
        known = knowledge(name, model, corpus, lambda step: say_aside(f"Measuring {step} ..."))
        learned = listen_to_corpus(corpus, model.spec.cycle)
    takes, watches = [], {"corpus": learned}
    for temperature in options.temperatures or around(model.provenance.temperature):
        title = f"temperature {temperature:g}"
        with ended_by_ctrl_c():
            voice = solo.new_soloist(name, model, temperature, options.seed, options.precision)
        with progress_bar(title, seconds) as progress:
            take, watches[title] = watch_over(
                voice, temperature, seconds, learned, progress, model.spec.cycle
            )
        takes.append(take)
    if options.plot is not None:
        pictures.write(options.plot, pictures.stability(watches, model.sample_rate))
    return Evaluation(
        model=name,
        hash=model.hash,
        precision=voice.precision,
        seed=options.seed,
        recommended=model.provenance.temperature,
        knowledge=known,
        corpus=learned.findings(),
        takes=tuple(takes),
    )


def around(recommended: float) -> list[float]:
    """The temperatures to try where none are named: a model's own and its neighbours."""
    return [round(min(max(recommended + step, 0.0), 2.0), 3) for step in AROUND]


def knowledge(name: str, model: Checkpoint, corpus: Corpus, tell: Callable[[str], None]) -> Knowledge:
    """Measure bits on a corpus's test part; `tell` hears of each precision before."""
    learned, test = corpus.training.codes, corpus.test.codes.astype(np.int64)
    return Knowledge(
        seconds=len(test) / model.sample_rate,
        precisions=price.measure(name, model, test, tell),
        unigram=unigram_bits(learned, test, model.spec.levels),
        lpc32=linear_predictor_bits(learned, test, model.quantiser),
    )


def watch_over(
    voice: Voice,
    temperature: float,
    seconds: float,
    learned: Watch,
    progress: Callable[[float], None],
    cycle: float | None = None,
) -> tuple[Take, Watch]:
    """Let a voice play for so long, and compare it with what it has learned. cycle: of its model's clock."""
    began = time.perf_counter()
    watch = listen(voice.tape.rate, solo.blocks(voice, seconds), progress, cycle)
    factor = seconds / (time.perf_counter() - began)
    found = watch.findings()
    return Take(temperature, round(factor, 2), found, tuple(faults(found, learned.findings()))), watch


# --- to read ------------------------------------------------------------------------------------------------

BITS_COLUMNS = ("predictor", "bits a sample", "against fp32")
SOUND_COLUMNS = ("sound", "level dB", "spread dB", "centroid Hz", "flatness", "pitched", "in time")
WATCHED_COLUMNS = ("longest, or worst", "silent s", "clipped", "DC", "noise s", "stuck s", "x real time")


def bits_rows(found: Evaluation) -> list[dict[str, str]]:
    """A row for each precision, then for each simpler predictor."""
    known = found.knowledge
    measured = {name: bits for name, bits in asdict(known.precisions).items() if bits is not None}
    rows = [(f"{found.model}, {n}", b, price_words(n, known.precisions)) for n, b in measured.items()]
    rows += [("linear, order 32", known.lpc32, ""), ("codes' frequencies", known.unigram, "")]
    return [dict(zip(BITS_COLUMNS, (name, f"{bits:.4f}", words), strict=True)) for name, bits, words in rows]


def sound_rows(found: Evaluation) -> list[dict[str, str]]:
    """What an ear would say of the corpus, then of each temperature."""
    return [
        _row(
            SOUND_COLUMNS,
            *(name, f"{sound.level_dbfs:.1f}", f"{sound.level_spread_db:.1f}"),
            *(f"{sound.centroid_hz:.0f}", f"{sound.flatness:.4f}", f"{sound.pitchedness:.2f}"),
            "" if beat is None else f"{beat:.2f}",
        )
        for name, sound, beat in ((name, each.sound, each.in_time) for name, each, _ in _all(found))
    ]


def watched_rows(found: Evaluation) -> list[dict[str, str]]:
    """What was watched over, of the corpus, then of each temperature."""
    return [
        _row(
            WATCHED_COLUMNS,
            *(name, f"{seen.longest_silence:.1f}", str(seen.clipped), f"{seen.dc:+.2%}"),
            *(f"{seen.longest_noise:.1f}", f"{seen.longest_loop:.0f}", factor),
        )
        for name, seen, factor in _all(found)
    ]


def _row(columns: tuple[str, ...], *cells: str) -> dict[str, str]:
    return dict(zip(columns, cells, strict=True))


def _all(found: Evaluation) -> list[tuple[str, Findings, str]]:
    takes = [
        (f"temperature {take.temperature:g}", take.findings, f"{take.realtime_factor:.1f}")
        for take in found.takes
    ]
    return [("corpus", found.corpus, ""), *takes]


def verdict(found: Evaluation) -> list[str]:
    """What does not hold, a line each; or that all does."""
    lines = [f"Temperature {take.temperature:g}: {line}." for take in found.takes for line in take.faults]
    if not any(take.faults for take in found.judged):
        held = ", ".join(f"{take.temperature:g}" for take in found.judged)
        minutes = found.judged[0].findings.seconds / 60
        lines.append(f"All limits hold over {minutes:.3g} minutes at temperature {held}.")
    return lines
