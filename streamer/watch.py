"""Watching over a model's sound for as long as it lasts: silence, clipping, DC, noise, loops.

What is found is compared with what the same detectors find in the corpus: a corpus that drones may be learned
from, and its model may drone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.ear import FRAME, Ear, Sound
from streamer.frames import Framer, LongestRun, Samples
from streamer.loops import LoopFinder
from streamer.models.corpus import Corpus
from streamer.models.silence import FRAME_SECONDS, SILENCE_DBFS, silent_frames
from streamer.rhythm import Rhythm

LONGEST_SILENCE = 5.0
"""Seconds."""
MOST_DC = 0.01
"""Of full scale, over any minute."""
LONGEST_NOISE = 1.0
"""Seconds of white noise; or twice the longest of the corpus."""
STUCK_FACTOR = 2.0
"""Times the corpus's longest loop that a loop may last; where the corpus has none, none may be."""
CORPUS_SECONDS = 600.0
"""Of a corpus, that a model is compared with."""
CLIP_SECONDS = 10.0
"""Of a sound's beginning, that are kept."""

_WHITE = 0.45
"""Flatness of white noise: 0.56 on average, in 2,048 samples hardly ever below 0.5."""
_DC_SECONDS = 60.0


@dataclass(frozen=True)
class Findings:
    """What was found in a sound; times in seconds."""

    seconds: float
    longest_silence: float
    clipped: int
    """Samples beyond full scale."""
    dc: float
    """Of full scale: the mean of the minute in which it is furthest from 0."""
    longest_noise: float
    """White, or nearly so."""
    longest_loop: float
    """How long it is stuck, in a loop or on one sound."""
    loop_begin: float
    loop_period: float
    """Of the longest; 0 where it holds one sound."""
    loop_share: float
    """Of the whole, all loops together."""
    in_time: float | None
    """Of the spectrum's changes, the share that the place in the clock's cycle explains; None without one."""
    sound: Sound


class Watch:
    """Listens to sound that goes by in blocks; it keeps its beginning, and else 0.5 MB an hour at 16 kHz.

    Args:
        rate: Hz.
        cycle: of the model's clock, in samples, if it has one.
    """

    def __init__(self, rate: int, cycle: float | None = None) -> None:
        self._rate, self._seen, self._clipped = rate, 0, 0
        self.clip = np.zeros(0, np.float32)
        """Its beginning, to be drawn and heard."""
        self.ear, self.loops = Ear(rate), LoopFinder(rate)
        self.rhythm = Rhythm(rate, cycle) if cycle else None
        self._quiet_frames = Framer(round(FRAME_SECONDS * rate), round(FRAME_SECONDS * rate))
        self._quiet, self._white = LongestRun(), LongestRun()
        self._dc = _Dc(round(_DC_SECONDS * rate))

    def push(self, samples: Samples) -> None:
        """Listen to more samples (T,)."""
        missing = round(CLIP_SECONDS * self._rate) - len(self.clip)
        self.clip = np.concatenate([self.clip, samples[: max(0, missing)]])
        self._seen += len(samples)
        self._clipped += int((np.abs(samples) > 1).sum())
        self._dc.push(samples)
        quiet = self._quiet_frames.push(samples)
        self._quiet.push(silent_frames(quiet.ravel().astype(np.float32), self._rate))
        level, flatness = self.ear.push(samples)
        self._white.push((level > SILENCE_DBFS) & (flatness > _WHITE))
        self.loops.push(samples)
        if self.rhythm:
            self.rhythm.push(samples)

    @property
    def seconds(self) -> float:
        """That were heard so far."""
        return self._seen / self._rate

    def findings(self) -> Findings:
        """All that was found so far."""
        seconds, longest = self.seconds, self.loops.longest
        stuck = sum(loop.seconds for loop in self.loops.found)
        return Findings(
            seconds=seconds,
            longest_silence=self._quiet.longest * FRAME_SECONDS,
            clipped=self._clipped,
            dc=self._dc.worst(),
            longest_noise=self._white.longest * FRAME / self._rate,
            longest_loop=longest.seconds,
            loop_begin=longest.begin,
            loop_period=longest.period,
            loop_share=stuck / seconds if seconds else 0.0,
            in_time=self.rhythm.in_time() if self.rhythm else None,
            sound=self.ear.sound(),
        )


class _Dc:
    """The mean of every whole stretch of some samples; of what is shorter, its own."""

    def __init__(self, length: int) -> None:
        self._length, self._count, self._total, self._worst = length, 0, 0.0, 0.0

    def push(self, samples: Samples) -> None:
        rest: NDArray[np.float32] = samples
        while rest.size:
            missing = self._length - self._count
            part, rest = rest[:missing], rest[missing:]
            self._count += part.size
            self._total += float(part.sum(dtype=np.float64))
            if self._count == self._length:
                self._worst = max(self._worst, self._total / self._length, key=abs)
                self._count, self._total = 0, 0.0

    def worst(self) -> float:
        """Of full scale, with its sign."""
        return self._worst or self._total / max(1, self._count)


def listen(
    rate: int,
    blocks: Iterable[Samples],
    progress: Callable[[float], None] = lambda _: None,
    cycle: float | None = None,
) -> Watch:
    """Hear blocks (T,) to their end. progress: told the seconds heard so far. cycle: see `Watch`."""
    watch = Watch(rate, cycle)
    for block in blocks:
        watch.push(block)
        progress(watch.seconds)
    return watch


def listen_to_corpus(corpus: Corpus, cycle: float | None = None) -> Watch:
    """Hear the first ten minutes of what a model learns from, as its codes have it. cycle: see `Watch`."""
    codes = corpus.training.codes[: round(CORPUS_SECONDS * corpus.sample_rate)]
    samples = corpus.quantiser.decode(codes).astype(np.float32)
    starts = range(0, len(samples), corpus.sample_rate)
    blocks = (samples[start : start + corpus.sample_rate] for start in starts)
    return listen(corpus.sample_rate, blocks, cycle=cycle)


def faults(found: Findings, corpus: Findings) -> list[str]:
    """What is wrong with a model's sound beside its corpus: a line for each limit that does not hold."""
    wrong = []
    if found.longest_silence > LONGEST_SILENCE:
        wrong.append(f"silent for {found.longest_silence:.1f} s: at most {LONGEST_SILENCE:g}")
    if found.clipped:
        wrong.append(f"{found.clipped} samples beyond full scale: none may be")
    if abs(found.dc) > MOST_DC:
        wrong.append(f"DC of {found.dc:+.1%} of full scale: at most {MOST_DC:.0%}")
    noise = max(LONGEST_NOISE, 2 * corpus.longest_noise)
    if found.longest_noise > noise:
        wrong.append(f"white noise for {found.longest_noise:.1f} s: at most {noise:.1f}")
    loop = STUCK_FACTOR * corpus.longest_loop
    if found.longest_loop > loop:
        how = f"a loop of {found.loop_period:.1f} s" if found.loop_period else "one sound"
        most = f"at most {loop:.0f}" if loop else "the corpus never is"
        wrong.append(
            f"stuck in {how} for {found.longest_loop:.0f} s from {found.loop_begin:.0f} s on: {most}"
        )
    return wrong
