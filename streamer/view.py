"""The terminal view: what a performer watches, fifteen times a second, and keys for what is changed most.

    with View(engine, console, spectrum_source, quit) as view, Keys(sys.stdin.fileno(), view.press):
        ...

Everything is asked of the engine, so what others change is seen as well: OSC, MIDI.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.text import Text

from streamer import controls
from streamer.controls import CONTROLS, Control, Value
from streamer.cues import Cue
from streamer.models.errors import StreamerError
from streamer.spectrum import FLOOR_DB, spectrum_db

if TYPE_CHECKING:
    from streamer.engine import Engine

FRAMES_A_SECOND = 15
SPECTRUM_SECONDS = 0.05
"""How much of the sound the spectrum is taken of."""

_HINTS = (
    ("space", "play or pause all"),
    ("← →", "choose a voice"),
    ("↑ ↓", "temperature"),
    ("g G", "less or more gain"),
    ("f", "freeze"),
    ("r", "reset"),
    ("m M", "next or last model"),
    ("p", "panic"),
    ("q", "quit"),
    ("?", "hide or show the keys"),
)
_STEP = 1 / 40  # of a fader's travel, for one stroke of a key: 0.05 of temperature
_QUIETEST_DB = -60.0  # of a meter
_LOUD_DB, _LOUDEST_DB = -12.0, -3.0  # where it turns yellow, and red
_METER_CELLS = 24
_USUAL_RATE = 48_000  # Hz, of a spectrum of nothing
_LOG_LINES = 6
_SPECTRUM_LINES = 3, 8  # at least, at most
_NUMBERS = ("float", "int", "bool")  # types of controls that are shown
_CELL = 24  # columns of a control's name and value
_ACROSS = " ▏▎▍▌▋▊▉█"
_UP = np.array(list(" ▁▂▃▄▅▆▇█"))

Status: TypeAlias = Mapping[str, Any]


class View:
    """What is drawn, and what keys do; a listener of the engine, for the last cues and errors.

    Args:
        engine: what is played.
        console: where it is drawn, from `with` to the end of the block.
        spectrum_source: gives the last `SPECTRUM_SECONDS` of the sound, float32 [samples], and its rate;
            None while there is none.
        quit: called when the performer has had enough.
    """

    def __init__(
        self,
        engine: Engine,
        console: Console,
        spectrum_source: Callable[[], tuple[NDArray[np.float32], int] | None],
        quit: Callable[[], None],
    ) -> None:
        self._engine, self._console, self._spectrum_source = engine, console, spectrum_source
        self._chosen, self._hints = 0, True
        self._log: deque[tuple[object, str, str]] = deque(maxlen=_LOG_LINES)  # what it is about, text, style
        self._lock = threading.Lock()  # of the log: others than the drawing thread write it
        self._actions: dict[str, Callable[[], None]] = {
            "space": self._play_or_pause,
            "left": partial(self._choose, -1),
            "right": partial(self._choose, 1),
            "up": partial(self._nudge, "temperature", _STEP),
            "down": partial(self._nudge, "temperature", -_STEP),
            "g": partial(self._nudge, "gain", -_STEP),
            "G": partial(self._nudge, "gain", _STEP),
            "f": self._freeze,
            "r": lambda: self._set("reset", True),
            "m": partial(self._turn_to_model, 1),
            "M": partial(self._turn_to_model, -1),
            "p": engine.panic,
            "q": quit,
            "?": self._hide_or_show,
        }
        self._live = Live(
            get_renderable=self.draw, console=console, refresh_per_second=FRAMES_A_SECOND, screen=True
        )

    def __enter__(self) -> View:
        self._engine.listen(self)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    # As a listener; on any thread.

    def changed(self, voice: int, control: str, value: Value) -> None:
        """Note what was changed; of a gesture, the last value only."""
        self._note((voice, control), f"{_whose(voice)}{control} {_value(value)}", "")

    def voices_changed(self) -> None:
        """Nothing to note: voices are asked for with every frame."""

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        """Note what went wrong."""
        self._note(error, f"{_whose(voice)}{control} {_value(value)}: {error}", "red")

    def note(self, text: str, style: str = "") -> None:
        """Show a line among the last cues and errors."""
        self._note(text, text, style)

    # Keys; on the thread that reads them.

    def press(self, key: str) -> None:
        """Do what a key of `streamer.keys` stands for; others do nothing."""
        action = self._actions.get(key)
        if action is None:
            return
        try:
            action()
        except StreamerError as error:
            self.note(str(error), "red")

    def _play_or_pause(self) -> None:
        voices = list(self._engine.voices())
        plays = any(self._engine.get("play", voice) for voice in voices)
        self._engine.perform([Cue(voice, "play", not plays) for voice in voices])

    def _choose(self, step: int) -> None:
        voices = list(self._engine.voices())
        self._chosen = voices[(voices.index(self._voice()) + step) % len(voices)]

    def _nudge(self, name: str, step: float) -> None:
        control, voice = controls.find(name), self._voice()
        travel = controls.to_normalized(control, self._engine.get(name, voice)) + step
        self._set(name, controls.normalized(control, travel))

    def _freeze(self) -> None:
        self._set("freeze", not self._engine.get("freeze", self._voice()))

    def _turn_to_model(self, step: int) -> None:
        models = list(self._engine.models())
        now = self._engine.get("model", self._voice())
        self._set("model", models[(models.index(now) + step) % len(models)] if now in models else models[0])

    def _hide_or_show(self) -> None:
        self._hints = not self._hints

    def _set(self, control: str, value: Value) -> None:
        self._engine.perform([Cue(self._voice(), control, value)])

    def _voice(self) -> int:
        """The voice that was chosen, or where it is gone the next one."""
        voices = list(self._engine.voices())
        if not voices:
            raise StreamerError("there is no voice: add one first")
        return next((voice for voice in voices if voice >= self._chosen), voices[-1])

    def _note(self, about: object, text: str, style: str) -> None:
        line = about, f"{time.strftime('%H:%M:%S')}  {text}", style
        with self._lock:
            if self._log and self._log[-1][0] == about:
                self._log.pop()
            self._log.append(line)

    # Drawing; on the thread of `Live`.

    def draw(self) -> Text:
        """The whole screen, a line each; as many as there is room for."""
        width, height = self._console.size
        status = self._engine.status()
        lines = [*_of_the_whole(status), Text(), *self._of_voices(), *self._of_log()]
        if self._hints:
            lines += [Text(), *_of_hints(width)]
        fewest, most = _SPECTRUM_LINES
        room = min(height - len(lines) - 1, most)
        if room >= fewest:
            lines[2:2] = [Text(), *self._of_spectrum(width, room)]
        return Text("\n", no_wrap=True, overflow="crop").join(lines[:height])

    def _of_spectrum(self, width: int, height: int) -> list[Text]:
        samples, rate = self._spectrum_source() or (np.zeros(0, np.float32), _USUAL_RATE)
        levels = spectrum_db(samples, rate, width) / -FLOOR_DB + 1  # 0 to 1
        below = np.arange(height - 1, -1, -1)[:, None]  # lines below each line
        eighths = np.clip(np.round(levels * 8 * height) - 8 * below, 0, 8).astype(int)
        return [Text("".join(line), "cyan") for line in _UP[eighths]]

    def _of_voices(self) -> list[Text]:
        try:
            chosen = self._voice()
            lines = [self._of_voice(number, number == chosen) for number in self._engine.voices()]
            return [*lines, Text(), *self._of_controls(chosen), Text()]
        except StreamerError as none:
            return [Text(str(none)), Text()]

    def _of_voice(self, number: int, chosen: bool) -> Text:
        try:
            return _of_voice(self._engine.voice_status(number), chosen)
        except StreamerError as absent:  # it is being loaded, or has gone since a moment
            return Text(f"{_mark(number, chosen)}{absent}", "dim")

    def _of_controls(self, voice: int) -> list[Text]:
        shown = [control for control in CONTROLS if control.scope == "voice" and control.type in _NUMBERS]
        cells = [_of_control(control, self._engine.get(control.name, voice)) for control in shown]
        return _in_columns(cells, self._console.width)

    def _of_log(self) -> list[Text]:
        with self._lock:
            return [Text(text, style) for _, text, style in self._log]


def _of_the_whole(status: Status) -> list[Text]:
    times = f"lead {status['lead_ms']:.0f} ms  margin {status['margin_ms']:.1f} ms  "
    times += f"buffer {status['buffer_ms']:.0f} ms  {status['realtime_factor']:.1f} x real time  "
    counts = "  ".join(f"{name} {status[name]}" for name in ("underruns", "late", "cues", "rewinds"))
    device = f"{status['device_rate']} Hz ({status['device_rate_measured']:.1f} measured)"
    state = f"{status['playing']} of {status['voices']} play"
    sound = meter(status["peak"], status["rms"])
    return [
        Text.assemble(f"volume {status['volume']:.2f}  ", sound, f"  {state}  {device}"),
        Text(times + counts),
    ]


def _of_voice(status: Status, chosen: bool) -> Text:
    name = f"{_mark(status['number'], chosen)}{status['name'][:12]:12} "
    state = (
        f"{status['buffer_ms']:6.0f} ms {status['realtime_factor']:5.1f} x  {status['underruns']} underruns  "
    )
    model = f"{status['model']} {status['precision']} at {status['position_s']:.1f} s"
    paused = "" if status["playing"] else "  paused"
    sound = meter(status["peak"], status["rms"])
    return Text.assemble((name, "bold" if chosen else ""), sound, state, model, (paused, "yellow"))


def _mark(number: int, chosen: bool) -> str:
    return f"{'▸' if chosen else ' '}{number:2} "


def _of_control(control: Control, value: Value) -> Text:
    shown = f"{_value(value)} {control.unit}" if control.unit in ("s", "ms") else _value(value)
    return Text(f"{control.name} {shown}", "" if value == control.default else "bold")


def _of_hints(width: int) -> list[Text]:
    return _in_columns([Text.assemble((key, "bold"), f" {what}") for key, what in _HINTS], width)


def _in_columns(cells: list[Text], width: int) -> list[Text]:
    """Lines with as many cells each as fit."""
    for cell in cells:
        cell.truncate(_CELL - 1, pad=True)
    count = max(1, width // _CELL)
    return [Text(" ").join(cells[first : first + count]) for first in range(0, len(cells), count)]


def meter(peak: float, rms: float) -> Text:
    """Peak and RMS, linear, as a bar up to the RMS with a mark at the peak, and the peak in dB."""
    peak_db, rms_db = _db(peak), _db(rms)
    filled = round(_height(rms_db) * _METER_CELLS * 8)
    bar = _ACROSS[8] * (filled // 8) + _ACROSS[filled % 8]
    cells = list(f"{bar:{_METER_CELLS}}"[:_METER_CELLS])
    if peak_db > _QUIETEST_DB:
        cells[min(int(_height(peak_db) * _METER_CELLS), _METER_CELLS - 1)] = "│"
    style = "red" if peak_db > _LOUDEST_DB else "yellow" if peak_db > _LOUD_DB else "green"
    words = f"{peak_db:6.1f} dB" if peak_db > _QUIETEST_DB else "   silent"
    return Text.assemble(("".join(cells), style), words)


def _db(level: float) -> float:
    return 20 * math.log10(level) if level > 0 else -math.inf


def _height(db: float) -> float:
    """Where on a meter a level stands, 0 to 1."""
    return min(max(1 - db / _QUIETEST_DB, 0.0), 1.0)


def _whose(voice: int) -> str:
    return f"voice {voice} " if voice else ""


def _value(value: Value) -> str:
    """A value as performers write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
