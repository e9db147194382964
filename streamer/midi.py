"""MIDI in: knobs, keys and programs play the instrument, bound to it by a file or by being moved.

Every input port whose name fits is opened, and again after its device was pulled out; a port of our own takes
what other programs send. The system's MIDI threads only put bytes into a queue: one thread of ours gives
them their meaning (`streamer.midi_map`), so neither it nor a device can hold up the sound. Needs the extra
`midi`: mido for the messages, python-rtmidi for the ports.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import platformdirs

from streamer.controls import Value, find
from streamer.cues import Cue
from streamer.models.errors import ControlError, DeviceError, StreamerError

try:
    import rtmidi

    from streamer.midi_map import (
        BOOKMARK,
        MAX_BINDINGS,
        Binding,
        Gesture,
        Reader,
        Recall,
        decode,
        deed,
        from_json,
        to_json,
    )
except ImportError as error:
    raise StreamerError('MIDI needs two more packages: pip install "streamer[midi]"') from error

NAME = "streamer"
"""Of our client and of our own port."""
LOOK_SECONDS = 1.0
"""How often ports that came or went are looked for."""
_WAITING = 4096  # messages; far more than a device sends while the queue's thread is held up

Told: TypeAlias = Callable[[StreamerError | None], None]
_log = logging.getLogger(__name__)


class Played(Protocol):
    """What MIDI needs of the instrument. Every call is quick."""

    def perform(self, cues: Sequence[Cue], at: float | None = None, told: Told | None = None) -> None:
        """Take cues, all at one moment; `told` hears when a slow one has ended, and how."""

    def recall_bookmark(self, name: str, voice: int, told: Told) -> None:
        """Bring a bookmark back into a voice."""


@dataclass(frozen=True)
class _Lesson:
    """A control that waits for the knob to be moved."""

    voice: int
    control: str
    value: Value | None
    told: Told


def bindings_file() -> Path:
    """The file of bindings in the user's configuration folder, whether it exists or not."""
    return platformdirs.user_config_path("streamer") / "midi.json"


class Midi:
    """Plays an instrument from MIDI until it is closed.

    Args:
        instrument: what is played.
        file: where the bindings are kept; read now, written when they change. None: the user's own.
        ports: part of the names of the ports to open; "" opens all.

    Attributes:
        ports: the names of the ports that are open now.
        bindings: what is bound.
        dropped: messages lost because the instrument was held up.

    Raises:
        DeviceError: this machine has no MIDI.
        StreamerError: the file is there and cannot be read.
    """

    def __init__(self, instrument: Played, file: Path | None = None, ports: str = "") -> None:
        self.bindings = _read(file or bindings_file())
        self.ports: tuple[str, ...] = ()
        self.dropped = 0
        self._instrument = instrument
        self._file = file or bindings_file()
        self._wanted = ports.casefold()
        self._queue: queue.Queue[bytes | Callable[[], None]] = queue.Queue(_WAITING)
        self._reader = Reader()
        self._lesson: _Lesson | None = None
        self._complaint = ""
        self._own = _open_api()
        self._own.set_callback(self._hear)
        self._own.open_virtual_port(NAME)
        self._open: dict[str, rtmidi.MidiIn] = {}
        self._next_look = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="streamer-midi", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all ports; may be called twice."""
        self._closing = True
        self._thread.join()

    def __enter__(self) -> Midi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def learn(
        self, voice: int, control: str, value: Value | None = None, told: Told = lambda _: None
    ) -> None:
        """Bind a control to the knob, key or program that moves next, instead of what moved it so far.

        Args:
            voice: 1 to 16, or 0 for the master's.
            control: a control's name, or `midi_map.BOOKMARK`.
            value: for a button that sets this value, model or bookmark; None follows the knob.
            told: hears None once it is bound and saved, or why it is not.

        Raises:
            ControlError: there is no such control, voice or value.
        """
        Binding("note", 1, 0, voice, control, value)
        self._ask(lambda: self._begin(_Lesson(voice, control, value, told)))

    def forget(self, voice: int, control: str, told: Told = lambda _: None) -> None:
        """Unbind a control, and stop waiting for a knob; `told` hears None once that is saved, or why not.

        Raises:
            ControlError: there is no such control.
        """
        name = control if control == BOOKMARK else find(control).name
        self._ask(lambda: self._forget(voice, name, told))

    def _ask(self, action: Callable[[], None]) -> None:
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            raise ControlError("the instrument is held up; try again when it answers") from None

    # --- the system's threads -----------------------------------------------------------------------------

    def _hear(self, event: tuple[list[int], float], _: object) -> None:
        try:
            self._queue.put_nowait(bytes(event[0]))
        except queue.Full:
            self.dropped += 1

    # --- our thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                self._look()
                self._take()
            except Exception:  # a fault of ours or of the instrument's: the next message may do better
                _log.exception("fault while playing MIDI")
        for port in (*self._open.values(), self._own):
            _close(port)

    def _take(self) -> None:
        try:
            got = self._queue.get(timeout=0.1)
        except queue.Empty:
            return
        if callable(got):
            got()
            return
        message = decode(got)
        gesture = message and self._reader.read(message, {binding.source for binding in self.bindings})
        if gesture is None:
            return
        if self._lesson is not None:
            self._bind(self._lesson, gesture)
        for binding in self.bindings:
            if binding.source == gesture.source:
                self._play(binding, gesture)

    def _play(self, binding: Binding, gesture: Gesture) -> None:
        try:
            match deed(binding, gesture):
                case Cue() as cue:
                    self._instrument.perform((cue,), told=self._told)
                case Recall(voice, bookmark):
                    self._instrument.recall_bookmark(bookmark, voice, self._told)
        except StreamerError as error:
            self._told(error)

    def _told(self, error: StreamerError | None) -> None:
        """Say what went wrong, once: a knob that moves says the same many times a second."""
        text = str(error or "")
        if text and text != self._complaint:
            _log.warning("MIDI: %s", text)
        self._complaint = text

    # --- bindings -----------------------------------------------------------------------------------------

    def _begin(self, lesson: _Lesson) -> None:
        if self._lesson is not None:
            self._lesson.told(ControlError(f"another control is being learnt now: {lesson.control}"))
        self._lesson = lesson

    def _bind(self, lesson: _Lesson, gesture: Gesture) -> None:
        knob = gesture.source
        if knob.kind == "note" and not gesture.is_down:
            return  # the key that was held when learning began
        try:
            binding = Binding(
                knob.kind, knob.channel, knob.number, lesson.voice, lesson.control, lesson.value
            )
        except ControlError as error:
            return self._told(error)  # this one does not do; another may still be moved
        self._lesson = None
        others = (each for each in self.bindings if not _replaces(binding, each))
        self._keep((*others, binding), lesson.told)

    def _forget(self, voice: int, control: str, told: Told) -> None:
        self._lesson = None
        self._keep(
            tuple(each for each in self.bindings if (each.voice, each.control) != (voice, control)), told
        )

    def _keep(self, bindings: tuple[Binding, ...], told: Told) -> None:
        """Use bindings from now on, and save them."""
        if len(bindings) > MAX_BINDINGS:
            return told(ControlError(f"{MAX_BINDINGS} bindings are the most; forget some"))
        self.bindings = bindings
        try:
            _write(self._file, to_json(bindings))
        except OSError as error:
            return told(
                StreamerError(f"MIDI bindings hold, but cannot be saved in {self._file}: {error.strerror}")
            )
        told(None)

    # --- ports --------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Open ports that came, close those that went."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        names = [name for name in self._own.get_ports() if self._wanted in name.casefold()]
        for name in self._open.keys() - set(names):
            _close(self._open.pop(name))
            _log.warning("MIDI: %s is gone", name)
        for name in names:
            if name not in self._open:
                self._try_port(name)
        self.ports = tuple(self._open)

    def _try_port(self, name: str) -> None:
        port = rtmidi.MidiIn(self._own.get_current_api(), name=NAME)
        port.set_callback(self._hear)
        try:
            port.open_port(port.get_ports().index(name), "in")
        except (rtmidi.RtMidiError, ValueError) as error:  # taken by another program, or gone again
            _close(port)
            return self._told(DeviceError(f"{name} cannot be opened: {error}"))
        self._open[name] = port
        _log.info("MIDI: listening to %s", name)


def _open_api() -> Any:
    """A client of the first of the system's MIDI services that answers."""
    for api in rtmidi.get_compiled_api():
        try:
            return rtmidi.MidiIn(api, name=NAME)
        except rtmidi.RtMidiError:
            continue
    raise DeviceError("this machine has no MIDI: load ALSA's sequencer (modprobe snd-seq), or start JACK")


def _close(port: Any) -> None:
    port.cancel_callback()
    port.close_port()
    port.delete()


def _replaces(new: Binding, old: Binding) -> bool:
    """Whether both do the same, or one key would set one control to two values."""
    same_control = (new.voice, new.control) == (old.voice, old.control)
    return same_control and (new.value == old.value or new.source == old.source)


def _read(file: Path) -> tuple[Binding, ...]:
    try:
        return from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, StreamerError) as error:
        raise StreamerError(f"{file}: {error}; correct it, or move it away and learn anew") from error


def _write(file: Path, text: str) -> None:
    """Replace a file whole, so that a full disk leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, file)
