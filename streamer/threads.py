"""How many threads multiply for a voice: as many as are asked for, or as its model needs here.

The number changes no bit of the sound, only the speed, and so it may depend on what is measured.
"""

from __future__ import annotations

import os
from typing import Protocol

from streamer.models.errors import StreamerError

COMFORTABLE = 1.3
"""Real-time factor below which other work on the machine soon costs dropouts."""
MOST_TRIED = 8
"""What is tried by itself; with more, meeting at every product costs what the smaller shares save."""
_TRIAL_SECONDS = 0.03


class Runner(Protocol):
    """What threads are settled for: a `Voice` that is warm and does not run."""

    def use(self, threads: int) -> None:
        """Multiply on so many threads from now on."""

    def trial(self, seconds: float) -> float:
        """The real-time factor, from so many seconds of work."""


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check(threads: int) -> int:
    """Return a number of threads that may be used; raise `StreamerError` for any other."""
    if not 1 <= threads <= cores():
        most = f"1 to {cores()}" if cores() > 1 else "1"
        raise StreamerError(f"{threads} threads are impossible here: choose auto or {most}, a core for each")
    return threads


def settle(runner: Runner, threads: int | None) -> None:
    """Use so many threads; None for one where that is comfortable, and else for what is fastest here."""
    if threads is not None:
        runner.use(check(threads))
        return
    factors = {1: runner.trial(_TRIAL_SECONDS)} if cores() > 1 else {1: COMFORTABLE}
    if factors[1] >= COMFORTABLE:
        return
    for more in range(2, min(cores(), MOST_TRIED) + 1):
        runner.use(more)
        factors[more] = runner.trial(_TRIAL_SECONDS)
    runner.use(max(factors, key=lambda number: factors[number]))
