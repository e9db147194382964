"""How far ahead to write, and how near a cue may come: both follow from how the machine does.

The lead costs nothing but memory, since cues take it back; it is what the performer asked for, and grows
after dropouts. The *margin* is what every answer waits for at least: what the device takes at once, and the
time in which the generator prepares the answer. The *runway* is how much it prepares before that takes the
place of what was written: enough to play while the generator may be late. A machine that stalls makes the
runway longer, which costs an answer only the time in which that much more is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FADE_SECONDS = 0.0025
"""Of sound that must be left when the device comes, or the play head begins to fade out."""
_LEAST_SECONDS = 0.0005  # for a generator that has never been late
_LATENESS = 1.25  # times what was seen
_FIRST_GROWTH = 0.002
_FORGOTTEN = 0.02  # of the growth after dropouts, each second
_FASTEST, _SLOWEST = 3.0, 1.1  # times real time, of refilling
_SHARE = 0.65  # of all cores' time for that


@dataclass(frozen=True)
class Limits:
    """What the performer allows, in seconds."""

    lead: float
    lead_most: float
    margin: float
    margin_most: float


def margin_for(block: float, answer: float) -> float:
    """The margin (s) for a device's block and the time in which an answer is prepared, in seconds."""
    return block + answer + _LEAST_SECONDS


def runway_for(block: float, lateness: float) -> float:
    """The runway (s) for a device's block and how late a generator may be, in seconds."""
    return block + FADE_SECONDS + _LEAST_SECONDS + _LATENESS * lateness


class Pacing:
    """Lead, margin and runway in seconds, fitted again and again.

    Attributes:
        lead: what is written ahead of the play head.
        margin: what of it no cue takes back.
        runway: what is prepared before it takes the place of what a cue makes void.
        refill: how many times as fast as it is played each lead is refilled at most, once it is comfortable.
    """

    def __init__(self, limits: Limits) -> None:
        self.lead = min(limits.lead, limits.lead_most)
        self.margin = limits.margin
        self.runway = runway_for(0.0, 0.0)
        self.refill = _FASTEST
        self._longer, self._wider, self._underruns = 1.0, 0.0, 0

    def fit(
        self, limits: Limits, block: float, lateness: float, answer: float, underruns: int, elapsed: float
    ) -> None:
        """Fit all anew.

        block: seconds of sound that the device takes at once. lateness: how late a generator was lately, and
        answer: how long one took to prepare an answer, in seconds. underruns: so far. elapsed: seconds since
        the last time.
        """
        keep = max(0.0, 1.0 - _FORGOTTEN * elapsed)
        self._wider *= keep
        if underruns > self._underruns:
            self._wider = max(_FIRST_GROWTH, 2 * self._wider)
            self._longer *= 1.5
        self._underruns = underruns
        self._longer = min(self._longer, max(1.0, limits.lead_most / limits.lead))
        self._wider = min(self._wider, limits.margin_most)
        most = max(limits.margin, limits.margin_most)
        self.runway = min(runway_for(block, lateness) + self._wider, most)
        self.margin = min(max(limits.margin, margin_for(block, answer)), most)
        self.lead = min(limits.lead * self._longer, limits.lead_most)

    def share(self, factors: Sequence[float], cores: int) -> None:
        """Fit the refilling to what all generators take of the processor.

        Real-time threads that took all of its time would keep everybody else from theirs, and Linux then
        stops them all for 50 ms in a second, the sound server too (`sched_rt_runtime_us`).

        factors: of each generator, the seconds of sound that it writes in a second of work; 0 if not known.
        """
        load = sum(1.0 / factor for factor in factors if factor)
        self.refill = min(_FASTEST, max(_SLOWEST, _SHARE * cores / load)) if load else _FASTEST
