"""A score rendered again: the same voices, cues and crossfades at the same places, without a device.

On the same machine the sound is bit for bit what was heard, unless there were dropouts, which are not
repeated; and it comes as fast as the machine allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamer import beginnings
from streamer.cues import CLEAR, SIZE, Entry
from streamer.generator import LANES
from streamer.lanes import DRIFT, RAMP, SET
from streamer.mixer import Mixer, lane
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.score import (
    FromBookmark,
    FromCodes,
    FromHeard,
    FromInstance,
    MixerCue,
    Score,
    VoiceBegins,
    VoiceCue,
    VoiceEnds,
)
from streamer.voice import Start, Voice

BLOCK_SECONDS = 0.1
"""What is rendered at once."""
_LEAD_SECONDS = 1.0
_TAIL_SECONDS = 10.0  # that a score which was cut off goes on after its last event
_KINDS = {"set": SET, "ramp": RAMP, "drift": DRIFT, "clear": CLEAR}
_Event = TypeVar("_Event")


class Models(Protocol):
    """Where models come from, by name."""

    def load(self, name: str) -> Checkpoint:
        """Read a model; raise `StreamerError` where it cannot be read."""


class _Queue(Generic[_Event]):
    """Events in the order in which they came, each with its place."""

    def __init__(self, events: Sequence[_Event], places: Sequence[int]) -> None:
        self._events = deque(events)
        # One for later that came before one for now is due with it: where the last is that must follow.
        self._due = deque(reversed(list(accumulate(reversed(places), min))))

    def due(self, until: int) -> list[_Event]:
        """Take out all up to the last that lies before `until`."""
        found = []
        while self._due and self._due[0] < until:
            self._due.popleft()
            found.append(self._events.popleft())
        return found


class Replay:
    """A performance played again from its score.

    Args:
        score: as read.
        models: where its models are.
        strip: the only voice to be played, for a stem; None for all.
    """

    def __init__(self, score: Score, models: Models, strip: int | None = None) -> None:
        self._score, self._models = score, models
        self.mixer = Mixer(score.header.rate, score.header.channels)
        on_stage = [
            event
            for event in score.events
            if not isinstance(event, VoiceCue) and (strip is None or event.strip in (0, strip))
        ]
        self._events = _Queue(on_stage, [event.frame for event in on_stage])
        cues: dict[int, list[VoiceCue]] = {}
        for event in score.events:
            if isinstance(event, VoiceCue):
                cues.setdefault(event.instance, []).append(event)
        self._cues = {instance: _Queue(own, [cue.position for cue in own]) for instance, own in cues.items()}
        self._voices: dict[int, Voice] = {}
        self.frames = _length(score)
        """Of the whole performance."""

    def voice(self, instance: int) -> Voice:
        """A generator that is heard now; raise `StreamerError` where it is not there."""
        if instance not in self._voices:
            raise StreamerError(f"{self._score.path}: a voice goes on from one that has gone: it is damaged")
        return self._voices[instance]

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The performance, block by block: float32 [frames, channels]."""
        block, done = round(BLOCK_SECONDS * self.mixer.rate), 0
        while done < self.frames:
            count = min(block, self.frames - done)
            self._prepare(done + count)
            yield self.mixer.render(count)
            done += count
        for voice in self._voices.values():
            voice.close()

    def _prepare(self, until: int) -> None:
        """Have all there that takes effect before a frame."""
        self._write()
        for event in self._events.due(until):
            if isinstance(event, MixerCue):
                self._change_lane(event)
            elif isinstance(event, VoiceEnds):
                self.mixer.take(event.strip, event.fade_frames / self.mixer.rate, event.frame)
            else:
                self._begin(event)
            self.mixer.render(0)  # takes it
            self.mixer.cues.reap()

    def _write(self) -> None:
        """Have every voice that is heard write its lead, and follow its cues."""
        for instance, voice in list(self._voices.items()):
            if not self.mixer.reads(voice.tape):
                voice.close()
                del self._voices[instance]
                continue
            self._fill(instance, voice)

    def _fill(self, instance: int, voice: Voice) -> None:
        cues = self._cues.get(instance, _Queue([], []))
        due = [_voice_entry(cue) for cue in cues.due(voice.tape.play_head + voice.tape.target)]
        for first in range(0, len(due), SIZE):
            voice.cues.push(due[first : first + SIZE])
            voice.fill()
            voice.cues.reap()
        voice.fill()

    def _begin(self, event: VoiceBegins) -> None:
        checkpoint = self._models.load(event.model)
        if checkpoint.hash != event.hash:
            raise StreamerError(
                f"{self._score.path}: was played with another {event.model}, whose file has changed since"
            )
        voice = Voice(
            event.model,
            checkpoint,
            {control: float(event.values[control]) for control in LANES},
            _LEAD_SECONDS,
            number=event.number,
            start=replace(self._start(event, checkpoint), take=event.take),
            precision=event.precision,
            sibling=next((v for v in self._voices.values() if v.checkpoint.hash == event.hash), None),
        )
        if voice.precision != event.precision:
            raise StreamerError(
                f"{self._score.path}: was played at {event.precision}, which this processor cannot"
            )
        self._voices[event.instance] = voice
        self._fill(event.instance, voice)
        self.mixer.put(event.strip, voice.tape, event.fade_frames / self.mixer.rate, event.frame)

    def _start(self, event: VoiceBegins, checkpoint: Checkpoint) -> Start:
        match event.begins:
            case FromHeard(instance, position, seconds):
                return beginnings.from_heard(self.voice(instance), position, seconds, checkpoint)
            case FromInstance(instance, position):
                return beginnings.from_voice(self.voice(instance), position, event.take)
            case FromCodes(file):
                return beginnings.from_codes(self._score.codes(file), checkpoint)
            case FromBookmark(file):
                return beginnings.from_moment(self._score.moment(file))
            case _:
                return Start()

    def _change_lane(self, cue: MixerCue) -> None:
        number = 0 if cue.kind == "clear" else lane(cue.strip, cue.lane)
        self.mixer.cues.push([Entry(number, _KINDS[cue.kind], cue.target, cue.length, cue.frame)])


def _voice_entry(cue: VoiceCue) -> Entry:
    return Entry(LANES[cue.lane], _KINDS[cue.kind], cue.target, cue.length, cue.position)


def _length(score: Score) -> int:
    """Frames of the whole."""
    if score.end is not None:
        return score.end
    last = max((event.frame for event in score.events if not isinstance(event, VoiceCue)), default=0)
    return last + round(_TAIL_SECONDS * score.header.rate)
