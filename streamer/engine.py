"""The instrument as a whole: up to sixteen voices on a mixer, and the controls of all.

An `Engine` is played by whoever asks its mixer for sound: a device (`streamer.audio`) or a file
(`streamer.render`). It knows nothing of OSC or screens; the command line connects those.

    engine = Engine("techno", checkpoint, models, rate=48_000, channels=2)
    engine.start()
    engine.perform([Cue(1, "temperature", 0.9)])
    engine.close()

What takes a while, a model, a bookmark, priming, happens on a worker thread beside what sounds: a *shadow*
generator is made, primed and filled, and the mixer crossfades to its tape. A failure leaves the sound as it
was. `tend`, twenty times a second, collects what took effect where, and fits lead and margin to the machine.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer import beginnings, bookmarks, controls, priming
from streamer import threads as thread_counts
from streamer.bookmarks import Moment
from streamer.controls import CONTROLS, Control, Value
from streamer.cues import ASAP, Cue
from streamer.deck import Deck
from streamer.generator import LANES
from streamer.kernels.atomics import clock_ns
from streamer.mixer import FADE_SECONDS, Mixer
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import ControlError, StreamerError
from streamer.pacing import Limits, Pacing
from streamer.precision import AUTO
from streamer.score import (
    Beginning,
    FromBookmark,
    FromCodes,
    FromHeard,
    FromInstance,
    FromSilence,
    ScoreWriter,
)
from streamer.stage import MASTER, Part, Stage
from streamer.voice import Start, Voice
from streamer.warming import compile_beside

_log = logging.getLogger(__name__)

LIVE_INPUT = "input"
"""The source of `Engine.prime` that is no file."""
BOOKMARK_SECONDS = 10.0
"""Of sound before the moment that a bookmark keeps."""
_TEND_SECONDS = 0.05
_LONGEST_GOODBYE = 0.2  # that a model may go on loading while everything ends
_LONGEST_FILL = 10.0  # that a new voice may take for its first sound before it is heard all the same
_READY_SECONDS = 0.1  # of sound that a generator has written before it is heard

Told: TypeAlias = Callable[[StreamerError | None], None]
"""Called once, on any thread, when something slow has ended: with None, or with why it failed."""


class Models(Protocol):
    """Where models come from, by name."""

    def load(self, name: str) -> Checkpoint:
        """Read a model; raise `StreamerError` where it cannot be read."""

    def names(self) -> Sequence[str]:
        """What can be loaded."""


class LiveInput(Protocol):
    """A sound that comes in."""

    def last(self, seconds: float) -> tuple[NDArray[np.float32], int]:
        """What was heard last, and its rate in Hz; raise `StreamerError` where nothing was."""


class Listener(Protocol):
    """Who is told what changes, whoever changed it; on any thread."""

    def changed(self, voice: int, control: str, value: Value) -> None:
        """The control now has this value, or moves to it; voice 0 is the master."""

    def voices_changed(self) -> None:
        """A voice has come or gone."""

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        """The control could not take this value and kept its own."""


class Engine:
    """Voices, their controls, and the mixer on which they are heard.

    Args:
        name, checkpoint: the first voice's model. models: where later ones come from. rate: of the device or
        file, in Hz; None for the model's own, which then passes bit for bit. channels: of the device or file.
        values: of controls that differ from the table's defaults; each must have passed
        `streamer.controls.parse`. precision: of `streamer.precision.SETTINGS`, for every model. threads: how
        many multiply; None for what each model needs here, see `streamer.threads`. live_input: what `prime`
        calls "input".

    Raises:
        StreamerError: the model cannot be played at that rate or at all, or there are not so many cores.
    """

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        models: Models,
        *,
        rate: int | None = None,
        channels: int = 2,
        values: Mapping[str, Value] | None = None,
        precision: str = AUTO,
        threads: int | None = None,
        live_input: LiveInput | None = None,
    ) -> None:
        self.precision = precision
        self.mixer = Mixer(rate or checkpoint.sample_rate, channels)
        self.stage = Stage(self.mixer)
        self._threads = None if threads is None else thread_counts.check(threads)
        self._models = models
        self._live_input = live_input
        self._listeners: list[Listener] = []
        self._chosen = dict(values or {})
        self._master = {row.name: self._first_value(row) for row in CONTROLS if row.scope == "master"}
        self._pacing = Pacing(self._limits())
        self._cues, self._late = 0, 0
        self._tended = time.monotonic()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="streamer-loader", daemon=True)
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="streamer-keeper", daemon=True)
        self.stage.set_strip(MASTER, self._master)
        own = {"temperature": self._chosen.get("temperature", checkpoint.provenance.temperature)}
        self._first = self.stage.add("", self._first_values(name, own))
        self._opening: Voice | None = self._new_voice(self._first, name, checkpoint, Start())
        self._first.voice = self._opening
        Deck(self._opening.tape, self.mixer.rate)  # refuses now a device whose rate leads nowhere
        self.tend()  # this and the next compile what control threads call: a model that loads may hold
        self.status()  # the compiler, and who tends holds the lock

    # --- life -----------------------------------------------------------------------------------------------

    def record(self, writer: ScoreWriter) -> None:
        """Write a score of all that happens; before anything is played."""
        self.stage.score = writer

    def listen(self, listener: Listener) -> None:
        """Tell this listener, too, what changes."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Begin to write the tapes; the mixer plays them as soon as somebody asks it for sound."""
        self._first.ready.start()
        self._jobs.put(self._open)
        self._worker.start()
        self._keeper.start()

    def fill(self) -> None:
        """Take the cues and fill every lead, on this thread; instead of `start`, for a file."""
        for voice in self.stage.everybody():
            voice.fill()
        self._open()
        self.tend()

    def close(self) -> bool:
        """Stop writing. What plays the mixer must have stopped before.

        Returns:
            False where a model is still loading: it goes on until the process ends.
        """
        self._ending.set()
        if self._worker.is_alive():
            self._jobs.put(None)
            self._worker.join(_LONGEST_GOODBYE)
        if self._keeper.is_alive():
            self._keeper.join()
        self.tend()
        if self.stage.score is not None:
            self.stage.score.close(self.mixer.frame)
        for voice in self.stage.everybody():
            voice.close()
        return not self._worker.is_alive()

    def tend(self) -> None:
        """Write the score, let go of what is heard no more, and fit lead and margin."""
        now = time.monotonic()
        with self.stage.lock:
            self.stage.collect()
            gone = self.stage.gone()
            self._fit_pace(now - self._tended)
        self._tended = now
        for voice in gone:
            voice.close()

    # --- what performers do ---------------------------------------------------------------------------------

    def perform(self, cues: Sequence[Cue], at: float | None = None, told: Told | None = None) -> None:
        """Have cues take effect, all at one moment.

        at: Unix time in seconds; None is now, and what is past plays now and is counted. told: of the end of
        the slow ones among them, a model or a reset; at once where there are none.

        Raises:
            ControlError: there is no such voice or control, or it cannot move so; nothing has changed then.
        """
        with self.stage.lock:
            rows = [self._row(cue) for cue in cues]
            frame = self._frame_at(at)
            self._cues += len(cues)
            pairs = list(zip(cues, rows, strict=True))
            self.stage.push([cue for cue, row in pairs if row.place != "engine"], frame)
            self._master |= {cue.control: cue.value for cue in cues if cue.voice == MASTER}
        slow = [cue for cue, row in pairs if row.place == "engine" and row.scope == "voice"]
        for cue in cues:
            if cue not in slow and cue.action != "drift":
                self._tell_changed(cue.voice, cue.control, cue.value)
        if slow:
            self._order(partial(self._replace, slow, frame), told)
        elif told is not None:
            told(None)

    def get(self, control: str, voice: int = MASTER) -> Value:
        """The value that a control has or moves to; of a voice's control and no voice, the first voice's."""
        row = controls.find(control)
        if row.scope == "master":
            return self._master[row.name]
        values = self.stage.part(voice or min(self.stage.parts, default=1)).values
        if row.name not in values:
            raise ControlError(f"{row.name} has no value")
        return values[row.name]

    def voices(self) -> dict[int, str]:
        """The voices' names by number."""
        return {number: part.name for number, part in sorted(self.stage.parts.items())}

    def models(self) -> Sequence[str]:
        """Names that the control `model` takes."""
        return self._models.names()

    def bookmarks(self) -> Sequence[str]:
        """Names that can be recalled."""
        return bookmarks.names(bookmarks.bookmarks_folder())

    def add_voice(
        self, model: str, name: str = "", values: Mapping[str, Value] | None = None, told: Told | None = None
    ) -> int:
        """Load another voice and fade it in; return its number at once.

        Raises:
            ControlError: there is no such model, no room, or another voice of that name.
        """
        self._check_model(model)
        with self.stage.lock:
            part = self.stage.add(name, self._first_values(model, values or {}))
        self._order(partial(self._bring_in, part, model, "temperature" in (values or {})), told)
        self._tell_voices()
        return part.number

    def remove_voice(self, number: int) -> None:
        """Fade a voice out and end it."""
        with self.stage.lock:
            self.stage.leave(self.stage.part(number), self._fade())
        self._tell_voices()

    def prime(self, voice: int, source: str, seconds: float, told: Told | None = None) -> None:
        """Have a voice go on from the last seconds of a sound: a file in the folder, or `LIVE_INPUT`."""
        self._order(partial(self._prime, self.stage.part(voice), source, seconds), told)

    def continue_from_here(self, voice: int, told: Told | None = None) -> None:
        """Have the generator take up from the moment that is heard, however far back it was scrubbed to."""
        self._order(partial(self._continue, self.stage.part(voice)), told)

    def save_bookmark(self, name: str, voice: int, told: Told | None = None) -> None:
        """Keep this moment of a voice under a name."""
        self._order(partial(self._save, self.stage.part(voice), name), told)

    def recall_bookmark(self, name: str, voice: int, told: Told | None = None) -> None:
        """Have a voice go on from a bookmark, with the model and the controls that it had there."""
        self._order(partial(self._recall, self.stage.part(voice), name), told)

    def clear_schedule(self) -> None:
        """Drop all cues that lie in the future."""
        with self.stage.lock:
            self.stage.clear()

    def panic(self) -> None:
        """Silence, and an end to all that moves or is to come; the control `play` lets the voices go on."""
        self.clear_schedule()
        drifts = [drift for part in self.stage.parts.values() for drift in part.drifts.values()]
        stills = [Cue(each.voice, each.control, 0.0, "drift", each.seconds) for each in drifts]
        self.perform([*(Cue(number, "play", False) for number in self.voices()), *stills])

    # --- what they watch ------------------------------------------------------------------------------------

    def status(self) -> dict[str, int | float | str]:
        """What a performer watches of the whole."""
        counters, meter, voices = self.mixer.counters(), self.mixer.meters(None), self.stage.voices
        return {
            "voices": len(self.stage.parts),
            "playing": sum(bool(part.values["play"]) for part in list(self.stage.parts.values())),
            "volume": self._master["volume"],
            "peak": round(meter.peak, 4),
            "rms": round(meter.rms, 4),
            "buffer_ms": round(min((voice.tape.lead_ms for voice in voices), default=0.0), 1),
            "lead_ms": round(1000 * self._pacing.lead, 1),
            "margin_ms": round(1000 * self._pacing.margin, 2),
            "realtime_factor": round(min((voice.realtime_factor for voice in voices), default=0.0), 2),
            "underruns": counters.underruns,
            "cues": self._cues,
            "late": self._late,
            "refused": self.stage.refused,
            "rewinds": self.stage.rewinds,
            "device_rate": self.mixer.rate,
            "device_rate_measured": round(counters.measured_rate or 0.0, 2),
            "device_underflows": counters.device_underflows,
        }

    def voice_status(self, voice: int) -> dict[str, int | float | str]:
        """What a performer watches of one voice."""
        part, meter = self.stage.part(voice), self.mixer.meters(voice)
        played = part.ready
        return {
            "number": part.number,
            "name": part.name,
            "model": played.name,
            "playing": int(bool(part.values["play"])),
            "peak": round(meter.peak, 4),
            "rms": round(meter.rms, 4),
            "buffer_ms": round(played.tape.lead_ms, 1),
            "realtime_factor": round(played.realtime_factor, 2),
            "underruns": self.mixer.strip_counters(voice).underruns,
            "precision": played.precision,
            "threads": played.threads,
            "position_s": round(played.tape.play_head / played.tape.rate, 3),
        }

    def voice(self, number: int) -> Voice:
        """The generator that a voice is heard from; raise `ControlError` where there is none."""
        return self.stage.part(number).ready

    # --- cues -----------------------------------------------------------------------------------------------

    def _row(self, cue: Cue) -> Control:
        """The table's row of a cue's control, if it can be played."""
        row = controls.find(cue.control)
        if (row.scope == "master") != (cue.voice == MASTER):
            raise ControlError(f"{row.name} is a control of {'all voices' if cue.voice else 'one voice'}")
        if cue.voice != MASTER:
            self.stage.part(cue.voice)
        if cue.action != "set" and not row.is_continuous:
            raise ControlError(f"{row.name} cannot move by itself: set it")
        if row.name == "model":
            self._check_model(str(cue.value))
        return row

    def _frame_at(self, at: float | None) -> int:
        """The frame that is played at a Unix time; `ASAP` where that has passed."""
        if at is None:
            return ASAP
        away = at - time.time()
        if away < 0:
            self._late += 1
            return ASAP
        return self.mixer.frame_at(clock_ns() + round(1e9 * away))

    def _check_model(self, name: str) -> None:
        if name not in self._models.names():
            raise ControlError(f"no model {name!r}; there are {', '.join(self._models.names())}")

    # --- on the worker --------------------------------------------------------------------------------------

    def _order(self, job: Callable[[], None], told: Told | None) -> None:
        """Have the worker do something, and tell how it ended."""

        def run() -> None:
            error: StreamerError | None = None
            try:
                job()
            except StreamerError as problem:
                error = problem
            except Exception as problem:  # whatever it was, what sounded before sounds on
                _log.exception("an order failed")
                error = StreamerError(str(problem) or type(problem).__name__)
            if told is not None:
                told(error)

        self._jobs.put(run)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _open(self) -> None:
        """Let the first voice be heard, once it has written its first sound."""
        voice, self._opening = self._opening, None
        if voice is None:
            return
        voice.wait_ready(_LONGEST_FILL, _READY_SECONDS)
        with self.stage.lock:
            self._first.voice = None
            self.stage.enter(self._first, voice, FromSilence(), FADE_SECONDS)

    def _bring_in(self, part: Part, model: str, keeps_temperature: bool) -> None:
        """Give a new part its generator."""
        try:
            checkpoint = self._models.load(model)
            if not keeps_temperature and "temperature" not in self._chosen:
                part.values["temperature"] = checkpoint.provenance.temperature
            self._swap(part, self._new_voice(part, model, checkpoint, Start()), FromSilence())
        except BaseException:
            with self.stage.lock:
                self.stage.parts.pop(part.number, None)
            self._tell_voices()
            raise
        self._tell_voices()

    def _replace(self, cues: Sequence[Cue], frame: int) -> None:
        """Change models and reset, each as asked for."""
        failure: StreamerError | None = None
        for cue in cues:
            try:
                part = self.stage.part(cue.voice)
                (self._change_model if cue.control == "model" else self._reset)(part, cue, frame)
            except StreamerError as error:
                failure = error
                for listener in self._listeners:
                    listener.failed(cue.voice, cue.control, cue.value, str(error))
            else:
                self._tell_changed(cue.voice, cue.control, cue.value)
        if failure is not None:
            raise failure

    def _reset(self, part: Part, cue: Cue, frame: int) -> None:
        before = part.ready
        self._swap(part, self._new_voice(part, before.name, before.checkpoint, Start()), FromSilence(), frame)

    def _change_model(self, part: Part, cue: Cue, frame: int) -> None:
        """Another model goes on from what was just heard."""
        checkpoint = self._models.load(str(cue.value))
        source, instance = part.ready, part.instance
        ready = self._new_voice(part, str(cue.value), checkpoint, Start())  # so that nothing is left to load
        position = source.tape.play_head
        start = beginnings.from_heard(source, position, beginnings.HEARD_SECONDS, checkpoint)
        voice = self._new_voice(part, str(cue.value), checkpoint, start, ready)
        ready.close()
        self._swap(part, voice, FromHeard(instance, position, beginnings.HEARD_SECONDS), frame)

    def _prime(self, part: Part, source: str, seconds: float) -> None:
        before = part.ready
        if source != LIVE_INPUT:
            rate = before.checkpoint.sample_rate
            sound = priming.read_sound(priming.find_sound(source), rate, seconds)
        elif self._live_input is None:
            raise StreamerError("there is no live input: start streamer with --input")
        else:
            sound, rate = self._live_input.last(seconds)
        codes = priming.to_codes(sound, rate, before.checkpoint)
        start = beginnings.from_codes(codes, before.checkpoint)
        voice = self._new_voice(part, before.name, before.checkpoint, start)
        self._swap(part, voice, FromCodes(self.stage.score.attach_codes(codes) if self.stage.score else ""))

    def _continue(self, part: Part) -> None:
        before, instance = part.ready, part.instance
        back = round(float(part.values["scrub"]) * before.tape.rate)
        position = max(before.tape.oldest, before.tape.play_head - back)
        start = beginnings.from_voice(before, position, before.take + 1)
        voice = self._new_voice(part, before.name, before.checkpoint, start)
        thaw = [Cue(part.number, "freeze", False), Cue(part.number, "scrub", 0.0)]
        self._swap(part, voice, FromInstance(instance, position), also=thaw)
        for cue in thaw:
            self._tell_changed(cue.voice, cue.control, cue.value)

    def _save(self, part: Part, name: str) -> None:
        voice = part.ready
        shot = voice.snapshot(BOOKMARK_SECONDS)
        moment = Moment(
            model=voice.name,
            hash=voice.checkpoint.hash,
            memory=shot.memory,
            tail=shot.tail,
            rate=voice.tape.rate,
            values={control: part.values[control] for control in LANES},
            position=shot.position,
            take=voice.take,
            number=voice.number,
        )
        bookmarks.save(bookmarks.bookmarks_folder(), name, moment)

    def _recall(self, part: Part, name: str) -> None:
        moment = bookmarks.load(bookmarks.bookmarks_folder(), name)
        before = part.ready
        checkpoint = before.checkpoint if moment.model == before.name else self._models.load(moment.model)
        if checkpoint.hash != moment.hash:
            raise StreamerError(f"{name}: was made with another {moment.model}, whose file has changed since")
        values = {**part.values, **{control: moment.values[control] for control in LANES}}
        start = beginnings.from_moment(moment)
        voice = self._new_voice(part, moment.model, checkpoint, start, values=values, number=moment.number)
        score, before_values = self.stage.score, part.values
        part.values = values
        try:
            self._swap(part, voice, FromBookmark(score.attach_moment(moment) if score else ""))
        except BaseException:
            part.values = before_values
            raise
        for control in ("model", *LANES):
            self._tell_changed(part.number, control, part.values[control])

    def _new_voice(
        self,
        part: Part,
        model: str,
        checkpoint: Checkpoint,
        start: Start,
        sibling: Voice | None = None,
        values: Mapping[str, Value] | None = None,
        number: int | None = None,
    ) -> Voice:
        """A generator at rest, warm, for a part; with its values and number unless others are given."""
        if sibling is None:
            same = (voice for voice in self.stage.voices if voice.checkpoint.hash == checkpoint.hash)
            sibling = next(same, None)
        voice = Voice(
            model,
            checkpoint,
            {control: float((values or part.values)[control]) for control in LANES},
            self._pacing.lead,
            longest_lead=max(float(self._master["lead_most"]), self._pacing.lead),
            number=part.number if number is None else number,
            start=start,
            precision=self.precision,
            sibling=sibling,
        )
        if self._worker.is_alive():  # others play on, and their controls with them
            compile_beside(checkpoint.spec.architecture)
        voice.warm()
        if sibling is None:
            thread_counts.settle(voice, self._threads)
        else:
            voice.use(sibling.threads)
        self._keep_ahead(voice, part)
        return voice

    def _swap(
        self, part: Part, voice: Voice, begins: Beginning, frame: int = ASAP, also: Sequence[Cue] = ()
    ) -> None:
        """Let a shadow be heard in place of what a part was heard from, or as its first."""
        if self._worker.is_alive():
            voice.start()
        else:
            voice.fill()
        voice.wait_ready(_LONGEST_FILL, _READY_SECONDS)
        entered = False
        try:
            with self.stage.lock:
                if self.stage.parts.get(part.number) is part:  # else it was removed meanwhile
                    self.stage.enter(part, voice, begins, self._fade(), frame, also)
                    self._catch_up(part, voice)
                    entered = True
        finally:
            if not entered:
                voice.close()

    def _catch_up(self, part: Part, voice: Voice) -> None:
        """Have a generator follow what changed while it was made, and what wanders."""
        changed = [name for name in LANES if float(part.values[name]) != voice.values[name]]
        cues = [Cue(part.number, name, part.values[name]) for name in changed]
        self.stage.push([*cues, *(d for d in part.drifts.values() if d.control in LANES)], ASAP)

    # --- values, pace and news ------------------------------------------------------------------------------

    def _first_value(self, row: Control) -> Value:
        assert row.default is not None
        return self._chosen.get(row.name, row.default)

    def _first_values(self, model: str, values: Mapping[str, Value]) -> dict[str, Value]:
        own = (row for row in CONTROLS if row.scope == "voice" and row.default is not None)
        return {**{row.name: self._first_value(row) for row in own}, **values, "model": model}

    def _fade(self) -> float:
        return float(self._master["crossfade"])

    def _limits(self) -> Limits:
        lead, most, margin, margin_most = (
            float(self._master[name]) for name in ("lead", "lead_most", "margin", "margin_most")
        )
        return Limits(lead, max(lead, most), margin / 1000, margin_most / 1000)

    def _fit_pace(self, elapsed: float) -> None:
        voices, block = self.stage.everybody(), self.mixer.block / self.mixer.rate
        lateness = max((voice.jitter for voice in voices), default=0.0)
        answer = max((voice.answer for voice in voices), default=0.0)
        self._pacing.fit(self._limits(), block, lateness, answer, self.mixer.counters().underruns, elapsed)
        self._pacing.share([voice.realtime_factor for voice in voices], thread_counts.cores())
        parts = {part.voice: part for part in self.stage.parts.values()}
        for voice in voices:
            self._keep_ahead(voice, parts.get(voice))

    def _keep_ahead(self, voice: Voice, part: Part | None) -> None:
        """Fit a generator to the pace; at a higher speed more of its tape passes in the same time."""
        speed, pacing = max(1.0, float(part.values["speed"])) if part else 1.0, self._pacing
        voice.keep(pacing.lead, speed * pacing.margin, speed * pacing.runway, speed * pacing.refill)

    def _keep(self) -> None:
        while not self._ending.wait(_TEND_SECONDS):
            try:
                self.tend()
            except Exception:
                _log.exception("tending failed")

    def _tell_changed(self, voice: int, control: str, value: Value) -> None:
        for listener in self._listeners:
            listener.changed(voice, control, value)

    def _tell_voices(self) -> None:
        for listener in self._listeners:
            listener.voices_changed()
