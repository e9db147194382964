"""The instrument as a whole: a voice, the controls, and the play head that is heard.

An `Engine` is played by whoever asks its play head for sound: a device (`streamer.audio`) or a file
(`streamer.render`). It knows nothing of OSC, screens or files; the command line connects those.

    engine = Engine("lead-guitar", checkpoint, rate=48_000, channels=2)
    engine.start()
    engine.set("temperature", 0.9)
    engine.close()

What takes a while, a model or a reset, happens on a worker thread beside the sounding voice: a new voice is
made, warmed and filled, and the play head swaps to its tape with a short fade. A failure leaves the sound as
it was.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

from streamer import threads as thread_counts
from streamer.controls import CONTROLS, Value
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import ControlError, StreamerError
from streamer.playhead import PlayHead
from streamer.precision import AUTO
from streamer.voice import LIVE, Voice

_log = logging.getLogger(__name__)

LEAD = 0.4
"""Seconds written ahead unless asked otherwise: enough without real-time rights; see `streamer doctor`."""
_LONGEST_GOODBYE = 0.2
"""Seconds that a model may go on loading while everything ends."""
_LONGEST_FILL = 10.0
"""Seconds that a new voice may take for its first lead before it is swapped in all the same."""


class Models(Protocol):
    """Where models come from, by name."""

    def load(self, name: str) -> Checkpoint:
        """Read a model; raise `StreamerError` where it cannot be read."""

    def names(self) -> Sequence[str]:
        """What can be loaded."""


class Listener(Protocol):
    """Who is told how a change ended that `Engine.set` could not finish at once."""

    def changed(self, name: str, value: Value) -> None:
        """The control now has this value."""

    def failed(self, name: str, value: Value, error: str) -> None:
        """The control could not take this value and kept its own."""


class Engine:
    """A voice on the play head, and the controls of both.

    Args:
        name, checkpoint: the first model. models: where later ones come from. rate: of the device or file,
        in Hz; None for the model's own, which then passes bit for bit. channels: of the device or file; each
        gets the same. lead: seconds that are written ahead of the play head. controls: values that differ
        from the table's defaults; each must have passed `streamer.controls.parse`. precision: of
        `streamer.precision.SETTINGS`, for every model. threads: how many multiply; None for what each model
        needs here, see `streamer.threads`.

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
        lead: float = LEAD,
        controls: dict[str, Value] | None = None,
        precision: str = AUTO,
        threads: int | None = None,
    ) -> None:
        self.lead = lead
        self.precision = precision
        self._threads = None if threads is None else thread_counts.check(threads)
        self._models = models
        self._listeners: list[Listener] = []
        self._values: dict[str, Value] = {c.name: c.default for c in CONTROLS if c.default is not None}
        self._values |= {"temperature": checkpoint.provenance.temperature, **(controls or {}), "model": name}
        self._voice = self._new_voice(name, checkpoint)
        self.play_head = PlayHead(self._voice.tape, rate or checkpoint.sample_rate, channels)
        self.play_head.gain = float(self._values["gain"])
        self.play_head.playing = bool(self._values["play"])
        self._warm()
        self._jobs: queue.SimpleQueue[tuple[str, Value] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="streamer-loader", daemon=True)

    def start(self) -> None:
        """Begin to write the tape; the play head follows as soon as somebody asks it for sound."""
        self._voice.start()
        self._worker.start()

    def close(self) -> bool:
        """Stop writing. What plays the play head must have stopped before.

        Returns:
            False where a model is still loading: it goes on until the process ends.
        """
        if self._worker.is_alive():
            self._jobs.put(None)
            self._worker.join(_LONGEST_GOODBYE)
        self._voice.close()
        return not self._worker.is_alive()

    def listen(self, listener: Listener) -> None:
        """Tell this listener, too, how slow changes end."""
        self._listeners.append(listener)

    @property
    def voice(self) -> Voice:
        """The voice that sounds, or is about to."""
        return self._voice

    def set(self, name: str, value: Value) -> Value | None:
        """Change a control to a value from `parse` and return it; None where listeners hear of it later.

        Raises:
            ControlError: there is no such control.
        """
        if name in ("model", "reset"):
            if name == "model" and value not in self._models.names():
                raise ControlError(f"no model {value!r}; there are {', '.join(self._models.names())}")
            self._jobs.put((name, value))
            return None
        if name not in self._values:
            raise ControlError(f"no control {name!r}")
        self._values[name] = value  # before the voice, so that a voice that takes over meanwhile has it too
        if name in LIVE:
            self._voice.set(name, float(value))
        elif name == "gain":
            self.play_head.gain = float(value)
        elif name == "play":
            self.play_head.playing = bool(value)
        return value

    def get(self, name: str) -> Value:
        """The value of a control that has one."""
        return self._values[name]

    def models(self) -> Sequence[str]:
        """Names that the control `model` takes."""
        return self._models.names()

    def status(self) -> dict[str, int | float | str]:
        """What a performer watches."""
        counters, voice = self.play_head.counters(), self._voice
        return {
            "model": voice.name,
            "playing": int(self.play_head.playing),
            "buffer_ms": round(voice.tape.lead_ms, 1),
            "realtime_factor": round(voice.realtime_factor, 2),
            "precision": voice.precision,
            "threads": voice.threads,
            "underruns": counters.underruns,
            "device_rate": self.play_head.rate,
            "device_rate_measured": round(counters.measured_rate or 0.0, 2),
            "device_underflows": counters.device_underflows,
        }

    def _warm(self) -> None:
        """Compile, or load from disk, what control threads call: a model that loads may hold the compiler."""
        self.status()
        self.play_head.wait_silent(0)

    def _new_voice(self, name: str, checkpoint: Checkpoint) -> Voice:
        live = {control: float(self._values[control]) for control in LIVE}
        voice = Voice(name, checkpoint, live, self.lead, precision=self.precision)
        voice.warm()
        thread_counts.settle(voice, self._threads)
        return voice

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            name, value = job
            try:
                self._replace_voice(str(value) if name == "model" else None)
            except Exception as error:  # whatever it was, the voice before sounds on
                if not isinstance(error, StreamerError):
                    _log.exception("%s %r failed", name, value)
                for listener in self._listeners:
                    listener.failed(name, value, str(error))
            else:
                for listener in self._listeners:
                    listener.changed(name, value)

    def _replace_voice(self, model: str | None) -> None:
        """Swap to a new voice of another model, or of the same one from its beginning."""
        before = self._voice
        checkpoint = before.checkpoint if model is None else self._models.load(model)
        after = self._new_voice(model or before.name, checkpoint)
        after.start()
        after.wait_ready(_LONGEST_FILL)
        try:
            self.play_head.swap(after.tape)
        except StreamerError:  # no way leads from its rate to the device's
            after.close()
            raise
        self._voice = after
        self._values["model"] = after.name
        for control in LIVE:  # what changed meanwhile went to the voice before
            after.set(control, float(self._values[control]))
        before.close()
