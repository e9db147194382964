"""What a controller's messages mean: knobs, keys and programs bound to controls and bookmarks.

Pure: messages in, deeds out, no port and no instrument. A knob (control change) sets a number by its travel
along the control's curve, in 14 bits where it sends them (MIDI 1.0: controller n + 32 is the fine half of n).
A key sets it by its velocity; a switch is on while the key is held. A binding with a value is a button: each
press sets that value, loads that model, recalls that bookmark. `docs/midi.md` is the performer's view.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from mido import Message

from streamer.controls import Value, find, normalized, parse, shown
from streamer.cues import Cue
from streamer.models.errors import ControlError, StreamerError
from streamer.strip import STRIPS

BOOKMARK = "bookmark"
"""What a binding may name besides the controls; its value is the bookmark's name."""
MAX_BINDINGS = 1024

Kind: TypeAlias = Literal["control_change", "note", "program_change"]

_TOP, _FINE_TOP = 127, 127 << 7 | 127
_PAIRED = 32  # controllers 0 to 31 have a fine half, 32 higher


@dataclass(frozen=True)
class Source:
    """One knob, key or program: the kind of its messages, its channel 1 to 16, its number 0 to 127."""

    kind: Kind
    channel: int
    number: int


@dataclass(frozen=True)
class Binding:
    """What one knob, key or program does.

    Attributes:
        message: what it sends. channel: 1 to 16. number: of the controller, note or program, 0 to 127.
        voice: 1 to 16; 0 for the controls of the master.
        control: a name of `streamer.controls.CONTROLS`, or `BOOKMARK`.
        value: what each press sets; None where the position of the knob or key says it.

    Raises:
        ControlError: this cannot be.
    """

    message: Kind
    channel: int
    number: int
    voice: int
    control: str
    value: Value | None = None

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        _require(self.message in kinds, f"a message is one of {', '.join(kinds)}", self.message)
        _require(_within(self.channel, 1, 16), "a channel is a number from 1 to 16", self.channel)
        _require(_within(self.number, 0, _TOP), f"a number is one from 0 to {_TOP}", self.number)
        _require(isinstance(self.control, str), "a control is named by a text", self.control)
        if self.control == BOOKMARK:
            _require(_within(self.voice, 1, STRIPS), f"a voice is a number from 1 to {STRIPS}", self.voice)
            _require(isinstance(self.value, str), "a bookmark's value is its name", self.value)
        else:
            self._check_control()

    def _check_control(self) -> None:
        control = find(self.control)
        object.__setattr__(self, "control", control.name)
        if control.scope == "master":
            _require(self.voice == 0, f"{control.name} is the master's: its voice is 0", self.voice)
        else:
            _require(_within(self.voice, 1, STRIPS), f"a voice is a number from 1 to {STRIPS}", self.voice)
        if self.value is not None:
            object.__setattr__(self, "value", parse(control, self.value))
        elif control.type not in ("bool", "trigger"):
            by_position = control.curve != "none" and self.message != "program_change"
            _require(by_position, f"{control.name} by {self.message} needs a value to set", None)

    @property
    def source(self) -> Source:
        """The knob, key or program."""
        return Source(self.message, self.channel, self.number)


@dataclass(frozen=True)
class Recall:
    """The wish to recall a bookmark into a voice."""

    voice: int
    bookmark: str


Deed: TypeAlias = Cue | Recall


@dataclass(frozen=True)
class Gesture:
    """A message, read.

    Attributes:
        source: the knob, key or program that moved.
        travel: how far, 0 to 1; a key's is its velocity.
        is_down: whether it is on: a key or program always is until it is let go, a knob in its upper half.
        is_press: whether it went down just now.
    """

    source: Source
    travel: float
    is_down: bool
    is_press: bool


class Reader:
    """Reads one stream of messages; remembers where each knob was, and which have a fine half."""

    def __init__(self) -> None:
        self._last: dict[Source, int] = {}
        self._fine: set[Source] = set()

    def read(self, message: Message, bound: Iterable[Source] = ()) -> Gesture | None:
        """What a message says; None for the kinds that are not used.

        bound: the knobs in use; a controller among them is never taken for another's fine half.
        """
        match message.type:
            case "control_change":
                knob = Source("control_change", message.channel + 1, message.control)
                return self._knob(knob, message.value, bound)
            case "note_on" | "note_off":
                down = message.type == "note_on" and message.velocity > 0
                travel = message.velocity / _TOP if down else 0.0
                return Gesture(Source("note", message.channel + 1, message.note), travel, down, down)
            case "program_change":
                return Gesture(
                    Source("program_change", message.channel + 1, message.program), 1.0, True, True
                )
        return None

    def _knob(self, source: Source, value: int, bound: Iterable[Source]) -> Gesture:
        coarse = Source(source.kind, source.channel, source.number - _PAIRED)
        if _PAIRED <= source.number < 2 * _PAIRED and coarse in self._last and source not in bound:
            self._fine.add(coarse)
            both = self._last[coarse] << 7 | value
            return Gesture(coarse, both / _FINE_TOP, self._last[coarse] > _TOP // 2, False)
        # Buttons that send only their press repeat the same value; a knob that is turned never does.
        last = self._last.get(source, 0)
        self._last[source] = value
        down = value > _TOP // 2
        travel = (value << 7) / _FINE_TOP if source in self._fine else value / _TOP
        return Gesture(source, travel, down, down and (last <= _TOP // 2 or last == value))


def decode(data: bytes) -> Message | None:
    """A port's bytes as a message; None where they are none."""
    try:
        return Message.from_bytes(data)
    except (ValueError, IndexError):  # the latter for a pitch bend that is cut short (mido 1.3.3)
        return None


def deed(binding: Binding, gesture: Gesture) -> Deed | None:
    """What a gesture of the binding's source does; None for a button's release, and a key's on a number."""
    if binding.control == BOOKMARK:
        return Recall(binding.voice, str(binding.value)) if gesture.is_press else None
    control = find(binding.control)
    if binding.value is not None or control.type == "trigger":
        value = True if binding.value is None else binding.value
        return Cue(binding.voice, control.name, value) if gesture.is_press else None
    if control.type == "bool":
        return Cue(binding.voice, control.name, gesture.is_down)
    if binding.message == "note" and not gesture.is_down:
        return None
    return Cue(binding.voice, control.name, normalized(control, gesture.travel))


def from_json(text: str) -> tuple[Binding, ...]:
    """Read a list of bindings, as `to_json` writes it.

    Raises:
        StreamerError: it is none, or one of them cannot be; the message says which.
    """
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StreamerError(f"it is not JSON: {error}") from None
    if not isinstance(rows, list) or len(rows) > MAX_BINDINGS:
        raise StreamerError(f"it must be a list of at most {MAX_BINDINGS} bindings")
    return tuple(_binding(number, row) for number, row in enumerate(rows, 1))


def to_json(bindings: Iterable[Binding]) -> str:
    """The bindings as a JSON list, a line each, for people to edit."""
    rows = [{key: value for key, value in asdict(each).items() if value is not None} for each in bindings]
    return "[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def _binding(number: int, row: object) -> Binding:
    names = {field.name for field in fields(Binding)}
    try:
        if not isinstance(row, Mapping) or not names - {"value"} <= row.keys() <= names:
            raise ControlError(f"it takes {', '.join(field.name for field in fields(Binding))}")
        return Binding(**row)
    except ControlError as error:
        raise StreamerError(f"binding {number}: {error}") from None


def _within(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ControlError(f"{rule}, not {shown(value)}")
