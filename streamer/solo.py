"""A model that plays alone, into no device: its own samples, before gain and limiter, as fast as it can."""

from __future__ import annotations

from collections.abc import Iterator

from streamer.frames import Samples
from streamer.kernels.atomics import store
from streamer.models.checkpoint import Checkpoint
from streamer.precision import AUTO
from streamer.tape import PLAY_HEAD
from streamer.voice import Voice

BLOCK_SECONDS = 0.25


def new_soloist(
    name: str, model: Checkpoint, temperature: float, seed: int = 0, precision: str = AUTO
) -> Voice:
    """The first voice of `streamer render`, compiled; raise `StreamerError` for what none can play."""
    values = {"temperature": temperature, "seed": seed}
    voice = Voice(name, model, values, BLOCK_SECONDS, number=1, precision=precision)
    voice.warm()
    return voice


def blocks(voice: Voice, seconds: float) -> Iterator[Samples]:
    """The first samples that a voice writes, in blocks (T,) of up to a quarter of a second."""
    tape, left = voice.tape, round(seconds * voice.tape.rate)
    while left > 0:
        voice.fill()
        here = tape.play_head
        block = tape.read(here, min(tape.lead, left))
        store(tape.buffer, PLAY_HEAD, here + len(block))
        left -= len(block)
        yield block
