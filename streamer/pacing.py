"""How far ahead to write, and how near a cue may come: both follow from how the machine does.

The lead costs nothing but memory, since cues take it back; it is what the performer asked for, and grows
after dropouts. The margin is what every answer waits for at least, so it is as small as can be: what the
device takes at once, the end that an underrun's fade would need, and the time that a generator may be late.
"""

from __future__ import annotations

from dataclasses import dataclass

FADE_SECONDS = 0.0025
"""Of sound that must be left when the device comes, or the play head begins to fade out."""
_LEAST_SECONDS = 0.0005  # for a generator that has never been late
_LATENESS = 1.25  # times what was seen
_FIRST_GROWTH = 0.002
_FORGOTTEN = 0.02  # of the growth after dropouts, each second


@dataclass(frozen=True)
class Limits:
    """What the performer allows, in seconds."""

    lead: float
    lead_most: float
    margin: float
    margin_most: float


def margin_for(block: float, lateness: float) -> float:
    """The margin (s) that a device and a generator need: its block, and how late the other is, in seconds."""
    return block + FADE_SECONDS + _LEAST_SECONDS + _LATENESS * lateness


class Pacing:
    """Lead and margin in seconds, fitted again and again.

    Attributes:
        lead: what is written ahead of the play head.
        margin: what of it no cue takes back.
    """

    def __init__(self, limits: Limits) -> None:
        self.lead = min(limits.lead, limits.lead_most)
        self.margin = limits.margin
        self._longer, self._wider, self._underruns = 1.0, 0.0, 0

    def fit(self, limits: Limits, block: float, lateness: float, underruns: int, elapsed: float) -> None:
        """Fit both anew.

        block: seconds of sound that the device takes at once. lateness: how late a generator was lately, in
        seconds. underruns: so far. elapsed: seconds since the last time.
        """
        keep = max(0.0, 1.0 - _FORGOTTEN * elapsed)
        self._wider *= keep
        if underruns > self._underruns:
            self._wider = max(_FIRST_GROWTH, 2 * self._wider)
            self._longer *= 1.5
        self._underruns = underruns
        self._longer = min(self._longer, max(1.0, limits.lead_most / limits.lead))
        self._wider = min(self._wider, limits.margin_most)
        needed = margin_for(block, lateness) + self._wider
        self.margin = min(max(limits.margin, needed), max(limits.margin, limits.margin_most))
        self.lead = min(limits.lead * self._longer, limits.lead_most)
