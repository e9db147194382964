"""Whether a sound is stuck: it goes round in a loop, or holds one sound, as an ear would notice.

A fingerprint, every 64 ms, is the amplitude in bands of a quarter tone over 256 ms. A sound is compared with
itself some lag earlier by the normalised square difference of the fingerprints (McLeod and Wyvill 2005, there
of samples, for pitch): 1 where they are the same. It is stuck when that reaches `SAME` over as long as 8 s or
twice the lag, whichever is longer: when something has come three times, the same each time.

It finds repeats of up to 15 s, however short, and what holds one chord or noise for 9 s; also where they are
played with 10 dB of noise around them, 0.5 % out of time and 1 dB out of level. It does not take music that
people play for stuck: of 150 s each, a guitar's arpeggios reached 0.66, a metal band's riffs 0.89, a voice
0.49. What a sequencer repeats exactly is stuck for it, as it should be: compare with the corpus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamer.frames import Framer, Frames, Samples
from streamer.models.silence import runs

SAME = 0.95
"""From here on two stretches are the same; noise around it and a shift by half a hop leave 0.956."""
SHORTEST_LAG, LONGEST_LAG = 1.0, 15.0
"""Seconds; of what repeats faster, a multiple is found."""
LEAST_SECONDS = 8.0
"""That are compared at least."""
FRAME_SECONDS, HOP_SECONDS = 0.256, 0.064
_LOOK_SECONDS = 2.0
_LOWEST_HZ, _BANDS_AN_OCTAVE = 60.0, 24
_QUIET = 1e-3
"""Amplitude below which nothing is compared: -60 dBFS."""


@dataclass(frozen=True)
class Stuck:
    """A stretch in which a sound is stuck."""

    begin: float
    """Seconds from the beginning."""
    end: float
    period: float
    """Seconds after which it was found to repeat; 0 where it holds one sound."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end - self.begin


class LoopFinder:
    """Looks for loops in sound that goes by in blocks; it holds 45 s of fingerprints, and what it found.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int) -> None:
        self._length, self._hop = round(FRAME_SECONDS * rate), round(HOP_SECONDS * rate)
        self._rate = rate
        self._framer = Framer(self._length, self._hop)
        self._edges = _band_edges(rate, self._length)
        self._prints = np.zeros((0, len(self._edges)), np.float32)
        self._seen = 0
        self._lags = range(self._frames(SHORTEST_LAG), self._frames(LONGEST_LAG) + 1)
        self._kept = self._lags[-1] + self._compared(self._lags[-1])
        self._every = self._frames(_LOOK_SECONDS)
        self.found: list[Stuck] = []
        """Stretches, in order, that do not touch."""

    @property
    def longest(self) -> Stuck:
        """The longest stretch that was found; one of no length where there is none."""
        return max(self.found, key=lambda stuck: stuck.seconds, default=Stuck(0.0, 0.0, 0.0))

    def push(self, samples: Samples) -> None:
        """Listen to more samples (T,)."""
        new = self._fingerprints(self._framer.push(samples))
        while len(new):  # it looks at the same places however the sound was cut into blocks
            until = self._every - self._seen % self._every
            self._prints = np.concatenate([self._prints, new[:until]])[-self._kept :]
            self._seen += len(new[:until])
            new = new[until:]
            if self._seen % self._every == 0:
                self._look()

    def _fingerprints(self, frames: Frames) -> NDArray[np.float32]:
        """Amplitudes in bands (N, B) of frames (N, T): a sine's is its own, in its band."""
        power = np.abs(np.fft.rfft(frames * np.hanning(self._length))) ** 2
        amplitudes = np.sqrt(np.add.reduceat(power, self._edges, 1) * (32 / 3)) / self._length
        return amplitudes.astype(np.float32)

    def _look(self) -> None:
        lags = [lag for lag in self._lags if lag + self._compared(lag) <= len(self._prints)]
        sameness = np.array([self._sameness(lag) for lag in lags])
        if not lags or sameness.max() < SAME:
            return
        lag = lags[_first_peak(sameness >= SAME, sameness)]
        holds = np.median(sameness) >= SAME
        begin = self._seen - lag - self._compared(lag)
        self._note(
            Stuck(
                begin * self._hop / self._rate,
                ((self._seen - 1) * self._hop + self._length) / self._rate,
                0.0 if holds else lag * self._hop / self._rate,
            )
        )

    def _sameness(self, lag: int) -> float:
        """Of the newest fingerprints and those a lag before: 1 - their square difference by their energy."""
        count = self._compared(lag)
        now, before = self._prints[-count:].ravel(), self._prints[-count - lag : -lag].ravel()
        energy = np.dot(now, now) + np.dot(before, before) + 2 * count * _QUIET**2
        return float(2 * np.dot(now, before) / energy)

    def _note(self, stuck: Stuck) -> None:
        if self.found and stuck.begin <= self.found[-1].end:
            stuck = Stuck(min(self.found.pop().begin, stuck.begin), stuck.end, stuck.period)
        self.found.append(stuck)

    def _compared(self, lag: int) -> int:
        """How many fingerprints are compared with those a lag before them."""
        return max(self._frames(LEAST_SECONDS), 2 * lag)

    def _frames(self, seconds: float) -> int:
        return math.ceil(seconds * self._rate / self._hop)


def _first_peak(high: NDArray[np.bool_], values: Frames) -> int:
    """Where values (N,) are highest in the first stretch of those that are high."""
    begin, end = next(runs(high))
    return begin + int(np.argmax(values[begin:end]))


def _band_edges(rate: int, length: int) -> NDArray[np.int64]:
    """Where bands begin in the spectrum of a frame, in bins; low ones are a bin wide, the last has no end."""
    octaves = math.log2(rate / 2 / _LOWEST_HZ)
    hertz = _LOWEST_HZ * 2 ** (np.arange(round(octaves * _BANDS_AN_OCTAVE)) / _BANDS_AN_OCTAVE)
    return np.unique(np.ceil(hertz * length / rate).astype(np.int64))
