"""The stage: who plays on which strip of the mixer, and how cues reach them.

A performer's voice, a `Part`, keeps its number, name and values while the generator that it is heard from is
replaced. The one before stays until the crossfade is over. Those who play decide where cues take effect;
`collect` gathers that for the score.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from streamer import controls
from streamer.controls import Value
from streamer.cues import ASAP, CLEAR, REFUSED, Cue, CueQueue, Entry, Taken
from streamer.deck import STRIP_LANES
from streamer.generator import LANES
from streamer.lanes import DRIFT, RAMP, SET
from streamer.mixer import STRIPS, Mixer, lane
from streamer.models.errors import ControlError
from streamer.score import Beginning, CueKind, MixerCue, ScoreWriter, VoiceBegins, VoiceCue, VoiceEnds
from streamer.voice import Voice

MASTER = 0
"""The voice that stands for all together, and its strip."""
SMOOTH_SECONDS = 0.010
"""What a set of a continuous control of the mixer takes, against clicks."""
_JUMPING = ("loop", "scrub")  # the mixer fades to where they lead, by itself
_KINDS: dict[int, CueKind] = {SET: "set", RAMP: "ramp", DRIFT: "drift", CLEAR: "clear"}
_VOICE_LANES = {number: name for name, number in LANES.items()}
_MIXER_LANES = {lane(MASTER, "volume"): (MASTER, "volume")} | {
    lane(strip, name): (strip, name) for strip in range(1, STRIPS + 1) for name in STRIP_LANES
}


@dataclass(eq=False)
class Part:
    """A performer's voice.

    Attributes:
        number: of its strip, 1 to 16.
        name: what performers call it.
        values: what its controls have, or move to.
        drifts: those that wander, by control.
        voice: the generator that it is heard from; None until its model is there.
        instance: the generator's number in the score.
    """

    number: int
    name: str
    values: dict[str, Value]
    drifts: dict[str, Cue] = field(default_factory=dict)
    voice: Voice | None = None
    instance: int = 0

    @property
    def ready(self) -> Voice:
        """The generator; raise `ControlError` where there is none yet."""
        if self.voice is None:
            raise ControlError(f"{self.name} is not there yet: its model is being loaded")
        return self.voice


class Stage:
    """Parts on a mixer's strips. Its methods are for control threads that hold `lock`."""

    def __init__(self, mixer: Mixer) -> None:
        self.mixer = mixer
        self.lock = threading.RLock()
        self.parts: dict[int, Part] = {}
        self.score: ScoreWriter | None = None
        self.refused = 0
        """Cues that found no room."""
        self._leaving: list[tuple[int, Voice]] = []  # generators that may still be heard, by instance
        self._instances = 0
        self._rewinds = 0  # of those that have gone
        self._awaited: dict[int, VoiceBegins | VoiceEnds] = {}  # by the serial of a deck's cue

    def part(self, number: int) -> Part:
        """A voice by number; raise `ControlError` where there is none."""
        if number not in self.parts:
            there = ", ".join(map(str, sorted(self.parts))) or "none"
            raise ControlError(f"there is no voice {number}; there are {there}")
        return self.parts[number]

    @property
    def voices(self) -> list[Voice]:
        """The generators that parts are heard from."""
        return [part.voice for part in self.parts.values() if part.voice is not None]

    def add(self, name: str, values: Mapping[str, Value]) -> Part:
        """A new part on the lowest free strip, without a generator yet; `ControlError` where it cannot be."""
        free = [number for number in range(1, STRIPS + 1) if number not in self.parts]
        if not free:
            raise ControlError(f"there are {STRIPS} voices already: remove one first")
        name = name or f"voice{free[0]}"
        odd = name.isdigit() or not name.isprintable() or set(name) & set(" #*,/?[]{}") or len(name) > 40
        if odd or name in (part.name for part in self.parts.values()):
            raise ControlError(f"a voice cannot be called {controls.shown(name)}: choose another name")
        part = self.parts[free[0]] = Part(free[0], name, dict(values))
        self.set_strip(part.number, values)
        return part

    def set_strip(self, strip: int, values: Mapping[str, Value]) -> None:
        """Put a strip's lanes to these values, without ramps."""
        rows = [row for row in map(controls.find, values) if row.place == "mixer"]
        self.mixer.cues.push([Entry(lane(strip, row.name), SET, float(values[row.name])) for row in rows])

    def enter(
        self,
        part: Part,
        voice: Voice,
        begins: Beginning,
        fade: float,
        at: int = ASAP,
        also: Sequence[Cue] = (),
    ) -> None:
        """Crossfade to a generator that has written its first sound, in `fade` seconds from a frame on.

        also: cues of the mixer that take effect at the same frame.
        """
        for cue in also:
            self._note(cue)
        entries = [entry for cue in also for _, entry in self._entries(cue, at)]
        serial = self.mixer.put(part.number, voice.tape, fade, at, entries)
        if part.voice is not None:
            self._leaving.append((part.instance, part.voice))
        self._instances += 1
        part.voice, part.instance = voice, self._instances
        part.values["model"] = voice.name
        self._awaited[serial] = VoiceBegins(
            frame=0,
            strip=part.number,
            instance=part.instance,
            model=voice.name,
            hash=voice.checkpoint.hash,
            precision=voice.precision,
            number=voice.number,
            take=voice.take,
            values=voice.values,
            begins=begins,
            fade_frames=round(fade * self.mixer.rate),
        )

    def leave(self, part: Part, fade: float) -> None:
        """Fade a part out and let it go."""
        del self.parts[part.number]
        if part.voice is not None:
            serial = self.mixer.take(part.number, fade)
            self._leaving.append((part.instance, part.voice))
            self._awaited[serial] = VoiceEnds(0, part.number, round(fade * self.mixer.rate))

    def gone(self) -> list[Voice]:
        """The generators that are heard no more since the last time: to be closed."""
        gone = [each for each in self._leaving if not self.mixer.reads(each[1].tape)]
        self._leaving = [each for each in self._leaving if each not in gone]
        self._rewinds += sum(voice.rewinds for _, voice in gone)
        return [voice for _, voice in gone]

    @property
    def rewinds(self) -> int:
        """How often cues have taken back what was written."""
        return self._rewinds + sum(voice.rewinds for voice in self.everybody())

    def everybody(self) -> list[Voice]:
        """All generators, those that leave too."""
        return [*self.voices, *(voice for _, voice in self._leaving)]

    # --- cues -----------------------------------------------------------------------------------------------

    def push(self, cues: Sequence[Cue], frame: int) -> None:
        """Hand cues to those who follow them, each one's all at once, and remember the values.

        cues: of the generator or the mixer, and checked. frame: `ASAP`, or where the moment is.
        """
        if frame == ASAP and any(cue.after for cue in cues):
            frame = self.soon()
        batches: dict[CueQueue, list[Entry]] = {}
        for cue in cues:
            self._note(cue)
            for follower, entry in self._entries(cue, frame):
                batches.setdefault(follower, []).append(entry)
        for follower, entries in batches.items():
            follower.push(entries)

    def clear(self) -> None:
        """Have everybody drop the cues that lie in the future."""
        for follower in [self.mixer.cues, *(voice.cues for voice in self.everybody())]:
            follower.push([Entry(0, CLEAR, 0.0)])

    def soon(self) -> int:
        """A frame for what must happen together, so late that all hear of it before."""
        margin = max((voice.tape.margin / voice.tape.rate for voice in self.voices), default=0.0)
        return self.mixer.frame + 4 * max(self.mixer.block, 64) + round(2 * margin * self.mixer.rate)

    def _note(self, cue: Cue) -> None:
        if cue.voice == MASTER:
            return
        part = self.parts[cue.voice]
        if cue.action != "drift":
            part.values[cue.control] = cue.value
            return
        part.drifts.pop(cue.control, None)
        if cue.value:
            part.drifts[cue.control] = cue

    def _entries(self, cue: Cue, frame: int) -> Iterator[tuple[CueQueue, Entry]]:
        """A cue as its follower takes it; none where there is no generator yet."""
        row, mixer = controls.find(cue.control), self.mixer
        if row.place == "mixer":
            at = frame if frame == ASAP else frame + round(cue.after * mixer.rate)
            smooth = SMOOTH_SECONDS if row.is_continuous and row.name not in _JUMPING else 0.0
            yield mixer.cues, _entry(lane(cue.voice, row.name), cue, mixer.rate, at, smooth)
        elif (voice := self.parts[cue.voice].voice) is not None:
            at, rate = frame, voice.tape.rate
            if frame != ASAP:
                at = mixer.position_at(cue.voice, frame) + round(cue.after * rate)
            yield voice.cues, _entry(LANES[row.name], cue, rate, at, 0.0)

    # --- the score ------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Gather what has taken effect where, and write it into the score."""
        for taken in self.mixer.cues.reap():
            self._write_mixers(taken)
        # The first voice may have taken cues before it has entered; they wait for its number.
        entered = [part for part in self.parts.values() if part.voice is not None and part.instance > 0]
        playing = [(part.instance, part.ready) for part in entered]
        for instance, voice in [*playing, *self._leaving]:
            for taken in voice.cues.reap():
                self._write_voices(instance, taken)

    def _write_mixers(self, taken: Taken) -> None:
        entry, at = taken.entry, taken.at
        event = self._awaited.pop(taken.serial, None)
        if at == REFUSED:
            self.refused += 1
        elif self.score is None:
            return
        elif event is not None:
            self.score.log(_at_frame(event, at))
        elif entry.kind in _KINDS:
            strip, name = _MIXER_LANES[entry.lane]
            self.score.log(MixerCue(at, strip, name, _KINDS[entry.kind], entry.target, entry.length))

    def _write_voices(self, instance: int, taken: Taken) -> None:
        entry, at = taken.entry, taken.at
        if at == REFUSED:
            self.refused += 1
        elif self.score is not None:
            name = _VOICE_LANES[entry.lane]
            self.score.log(VoiceCue(instance, at, name, _KINDS[entry.kind], entry.target, entry.length))


def _at_frame(event: VoiceBegins | VoiceEnds, frame: int) -> VoiceBegins | VoiceEnds:
    return replace(event, frame=frame)


def _entry(lane: int, cue: Cue, rate: int, at: int, smooth: float) -> Entry:
    """A cue on a lane; what is set takes `smooth` seconds."""
    seconds = cue.seconds if cue.action != "set" else smooth
    kind = {"set": RAMP if smooth else SET, "ramp": RAMP, "drift": DRIFT}[cue.action]
    return Entry(lane, kind, float(cue.value), round(seconds * rate), at)
