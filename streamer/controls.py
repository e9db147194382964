"""THE table of controls: every live parameter of the instrument, its range, default and unit, once.

OSC, OSCQuery, MIDI, the command line, `docs/controls.md` and the patches all come from here or are checked
against it, and so do the OSC addresses beside the controls' (`COMMANDS`, `REPLIES`). A value reaches the
instrument only through `parse`, which accepts what performers' programs really send (any number type, numeric
strings), clamps numbers to the range, and refuses the rest with a one-line `ControlError` that changes
nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias

from streamer.models.errors import ControlError

PREFIX = "/streamer/"
DEFAULT_PORT = 7770
"""Where streamer listens for OSC, over UDP and TCP."""
MAX_TEXT = 256
"""Longest text (characters) that a string control takes."""

ControlType: TypeAlias = Literal["float", "int", "bool", "string", "trigger"]
Scope: TypeAlias = Literal["voice", "master"]
Place: TypeAlias = Literal["generator", "mixer", "engine"]
Curve: TypeAlias = Literal["linear", "cubic", "none"]
Value: TypeAlias = float | int | bool | str


@dataclass(frozen=True)
class Control:
    """One live parameter.

    Attributes:
        name: a Python identifier, the same in code, OSC and documentation.
        scope: each voice has its own, or there is one for all.
        place: who follows it. The generator and the mixer do so to the sample, along ramps and drifts too.
        type: what `parse` returns; a trigger is an event and has no value of its own.
        minimum: smallest value in `unit`; None for strings.
        maximum: greatest value in `unit`; None for strings.
        default: value at start; None where there is none (triggers, and the model, which `play` chooses).
        unit: of minimum, maximum and default; "" for a plain number.
        curve: how a fader's travel x in 0..1 should map to the range: minimum + (maximum - minimum) * x for
            "linear", with x**3 for "cubic" (fine steps near the minimum), "none" for no fader.
        description: one sentence for a performer.
    """

    name: str
    scope: Scope
    place: Place
    type: ControlType
    minimum: float | int | None
    maximum: float | int | None
    default: Value | None
    unit: str
    curve: Curve
    description: str

    @property
    def address(self) -> str:
        """The OSC address; for a voice's control, short for that of all voices."""
        return PREFIX + self.name

    def voice_address(self, voice: int | str) -> str:
        """The OSC address of one voice's, by number or name, or of all ("*")."""
        return f"{PREFIX}voice/{voice}/{self.name}"

    @property
    def is_continuous(self) -> bool:
        """Whether it can move to the sample: along ramps, envelopes and drifts."""
        return self.type == "float" and self.place != "engine"

    @property
    def is_slow(self) -> bool:
        """Whether a change takes a while and can still fail then: a voice is loaded, or begun anew."""
        return self.scope == "voice" and self.place == "engine"

    @property
    def expects(self) -> str:
        """What it takes, in words for errors and help: "a number from 0 to 2"."""
        match self.type:
            case "string":
                return f"a text of 1 to {MAX_TEXT} characters"
            case "bool":
                return "1 or 0"
            case "trigger":
                return "nothing, or 1"
            case "int":
                return f"a whole number from {self.minimum} to {self.maximum}"
            case _:
                return f"a number from {self.minimum:g} to {self.maximum:g}"


CONTROLS: tuple[Control, ...] = (
    Control(
        "temperature", "voice", "generator", "float", 0.0, 2.0, 1.0, "", "linear",
        "Randomness of each sample: 0 always takes the likeliest, 1 is as trained, more is wilder.",
    ),
    Control(
        "top_k", "voice", "generator", "int", 0, 65_536, 0, "codes", "cubic",
        "Choose among this many likeliest codes only; 0 is off.",
    ),
    Control(
        "top_p", "voice", "generator", "float", 0.0, 1.0, 1.0, "probability", "linear",
        "Choose among the likeliest codes that together reach this probability; 1 is off.",
    ),
    Control(
        "typical_p", "voice", "generator", "float", 0.0, 1.0, 1.0, "probability", "linear",
        "Choose among the codes of most typical surprise that together reach this probability; 1 is off.",
    ),
    Control(
        "repetition", "voice", "generator", "float", 0.0, 20.0, 0.0, "", "cubic",
        "Penalty on codes by their share of the last 1024 samples, against stuck loops; 0 is off.",
    ),
    Control(
        "centre", "voice", "generator", "float", 0.0, 20.0, 0.0, "", "cubic",
        "Pull towards silence: what the outermost codes lose in log-probability; 0 is off.",
    ),
    Control(
        "seed", "voice", "generator", "int", 0, 2**31 - 1, 0, "", "none",
        "Key of all randomness: the same seed and controls give the same sound after a reset.",
    ),
    # Linear amplitude, not decibels: 0 must be true silence, which is minus infinity in dB and no number that
    # OSC clients can send, and a fader of 0..1 (every touch surface's default) then just works.
    Control(
        "gain", "voice", "mixer", "float", 0.0, 2.0, 1.0, "amplitude", "cubic",
        "Loudness as a linear factor: 0 is silent, 1 as generated, 2 is +6 dB; changes are ramped.",
    ),
    Control(
        "pan", "voice", "mixer", "float", -1.0, 1.0, 0.0, "", "linear",
        "Place between the left (-1) and the right (1) channel, at equal power.",
    ),
    Control(
        "speed", "voice", "mixer", "float", 0.25, 4.0, 1.0, "times", "cubic",
        "Varispeed: how fast the tape runs past the play head, pitch and time together.",
    ),
    Control(
        "freeze", "voice", "mixer", "bool", 0, 1, False, "", "none",
        "1 holds the tape and plays what was just heard round and round; 0 goes on where it was held.",
    ),
    Control(
        "loop", "voice", "mixer", "float", 0.02, 60.0, 1.0, "s", "cubic",
        "Length of the region that a frozen voice plays round and round.",
    ),
    Control(
        "scrub", "voice", "mixer", "float", 0.0, 60.0, 0.0, "s", "linear",
        "How far back the frozen region ends; above 0 it freezes by itself.",
    ),
    Control(
        "reverse", "voice", "mixer", "bool", 0, 1, False, "", "none",
        "1 plays the frozen region backwards.",
    ),
    Control(
        "play", "voice", "mixer", "bool", 0, 1, True, "", "none",
        "1 plays, 0 pauses; the sound fades, the tape stops where it is, and goes on from there.",
    ),
    Control(
        "reset", "voice", "engine", "trigger", 0, 1, None, "", "none",
        "Start the model again from silence and the random numbers from position 0.",
    ),
    Control(
        "model", "voice", "engine", "string", None, None, None, "", "none",
        "Load this model by name from the model folder; confirmed when it plays.",
    ),
    Control(
        "volume", "master", "mixer", "float", 0.0, 2.0, 1.0, "amplitude", "cubic",
        "Loudness of all voices together, as a linear factor.",
    ),
    Control(
        "crossfade", "master", "engine", "float", 0.005, 30.0, 0.05, "s", "cubic",
        "How long a voice takes from one sound to another: a model, a bookmark, a reset.",
    ),
    Control(
        "lead", "master", "engine", "float", 0.05, 10.0, 2.0, "s", "cubic",
        "Sound written ahead of the play head: how long the machine may be busy without a dropout.",
    ),
    Control(
        "lead_most", "master", "engine", "float", 0.05, 10.0, 4.0, "s", "cubic",
        "How far the lead may grow by itself after underruns.",
    ),
    Control(
        "margin", "master", "engine", "float", 0.0, 1000.0, 0.0, "ms", "cubic",
        "Least part of the lead that a cue may not take back: the least delay of every answer.",
    ),
    Control(
        "margin_most", "master", "engine", "float", 5.0, 2000.0, 100.0, "ms", "cubic",
        "How far margin and runway may grow by themselves where the machine is busy.",
    ),
)  # fmt: skip

_BY_NAME = {control.name: control for control in CONTROLS}


@dataclass(frozen=True)
class Signature:
    """An OSC address beside those of single controls, and what goes with it.

    Attributes:
        path: what follows `PREFIX`; `<n>` is a voice's number, its name or `*`, `<control>` a control's name.
        arguments: their names in order; those in brackets may be left out, `...` repeats.
        description: one sentence for a performer.
        is_slow: it takes a while, and then ends in `done` or `fail`.
    """

    path: str
    arguments: str
    description: str
    is_slow: bool = False

    @property
    def address(self) -> str:
        """The OSC address, with its `<n>` and `<control>`."""
        return PREFIX + self.path


COMMANDS: tuple[Signature, ...] = (
    Signature("<control>", "[value]", "Set a control, a voice's in all voices; without a value, ask for it."),
    Signature("voice/<n>/<control>", "[value]", "Set a control of one voice; without a value, ask for it."),
    Signature("voice/<n>/<control>/normalized", "[x]", "The same by a fader's travel, 0 to 1."),
    Signature("voice/<n>/<control>/ramp", "value seconds", "Move there in a straight line."),
    Signature(
        "voice/<n>/<control>/env", "value seconds value ...",
        "Set, then move from break-point to break-point.",
    ),
    Signature(
        "voice/<n>/<control>/drift", "depth [period]",
        "Wander within the depth, about once a period (s); depth 0 ends it.",
    ),
    Signature("set", "control value ...", "Set several controls at one moment: all of them, or none."),
    Signature("voice/<n>/set", "control value ...", "The same in one voice."),
    Signature(
        "voice/add", "model [name] [control value ...]",
        "Add a voice; voice/added tells its number at once, done when it sounds.", is_slow=True,
    ),
    Signature("voice/<n>/remove", "", "Fade a voice out and remove it."),
    Signature(
        "voice/<n>/prime", "source [seconds]",
        "Have it go on from a file in the sounds folder, or from \"input\", what the microphone heard.",
        is_slow=True,
    ),
    Signature("voice/<n>/continue", "", "Have it take up from where scrub points to.", is_slow=True),
    Signature("voices", "", "List the voices."),
    Signature("bookmark/save", "name [voice]", "Keep this moment of a voice.", is_slow=True),
    Signature("bookmark/recall", "name [voice]", "Go on from a bookmark.", is_slow=True),
    Signature("bookmarks", "", "List the bookmarks."),
    Signature("models", "", "List the models."),
    Signature("controls", "", "List the controls, with range, default and unit."),
    Signature("status", "[voice]", "What a performer watches, of all or of one voice."),
    Signature(
        "subscribe", "[port] [rate] [pattern]",
        "Send every change, and meters at this rate (Hz), to this port; 0 is the port this comes from.",
    ),
    Signature("unsubscribe", "", "End that."),
    Signature("listen", "[port]", "Subscribe at the usual rate; port 0 ends it."),
    Signature("unlisten", "", "End that."),
    Signature("sync", "id", "Answer when all that was asked for before is done."),
    Signature("clearSched", "", "Drop every change that lies in the future; also as /clearSched."),
    Signature("panic", "", "Silence at once, gestures and schedules cleared; play 1 resumes."),
    Signature(
        "midi/learn", "voice control [value]",
        "Bind a control to the MIDI knob, key or program that moves next; voice 0 is the master.",
        is_slow=True,
    ),
    Signature("midi/forget", "voice control", "Unbind a control.", is_slow=True),
    Signature("dump", "on", "1 prints every message received on streamer's terminal; 0 ends that."),
    Signature("ping", "", "Ask whether streamer is there."),
    Signature("version", "", "Ask which version it is."),
)  # fmt: skip
"""What the server understands."""

REPLIES: tuple[Signature, ...] = (
    Signature("<control>", "value", "A value taken or asked for; of a voice's control, the first voice's."),
    Signature("voice/<n>/<control>", "value", "The same, of one voice."),
    Signature("error", "address text", "What was refused, or taken otherwise than asked for, and why."),
    Signature("done", "address argument ...", "Something slow has ended well."),
    Signature("fail", "address text", "Something slow has failed, and why; nothing has changed."),
    Signature("voice/added", "number name", "A voice has been added and is getting ready."),
    Signature("voices.reply", "number name ...", "The voices; also to subscribers, when one comes or goes."),
    Signature("models.reply", "name", "A model."),
    Signature("models.done", "count", "That were all."),
    Signature("bookmarks.reply", "name", "A bookmark."),
    Signature("bookmarks.done", "count", "That were all."),
    Signature(
        "controls.reply", "name address type min max default unit description scope",
        "A control; empty text for what it does not have.",
    ),
    Signature("controls.done", "count", "That were all."),
    Signature("status.reply", "key value ...", "Also to subscribers, four times a second."),
    Signature("voice/<n>/status.reply", "key value ...", "The same of one voice."),
    Signature(
        "meters", "peak rms buffer_ms realtime_factor underruns",
        "To subscribers: what is heard; the least buffer and speed among the voices.",
    ),
    Signature(
        "voice/<n>/meters", "peak rms buffer_ms realtime_factor underruns",
        "To subscribers: the same of one voice.",
    ),
    Signature("listening", "port", "Where subscribed messages go now; 0 for nowhere."),
    Signature("synced", "id", "All that was asked for before sync is done."),
    Signature("pong", "version", "streamer is there."),
    Signature("version.reply", "version", "Which version it is."),
)  # fmt: skip
"""What the server sends."""


def find(key: str) -> Control:
    """Return the control with this name or OSC address; a dash counts as an underscore (`top-k`).

    Raises:
        ControlError: there is none; the message lists all names.
    """
    control = _BY_NAME.get(key.removeprefix(PREFIX).replace("-", "_"))
    if control is None:
        raise ControlError(f"no control {shown(key)}; the controls are {', '.join(_BY_NAME)}")
    return control


def parse(control: Control, value: object) -> Value:
    """Turn what a client sent into a value that the control may take.

    Numbers may come as int, float, bool or numeric string; out of range they are clamped, for an int they are
    rounded, and for a bool or trigger one half and more is true. A trigger returns False for a button's
    release, which callers ignore.

    Raises:
        ControlError: the wrong type, not a finite number, an empty, long or unprintable text.
    """
    if control.type == "string":
        return _text(control, value)
    number = _number(control, value)
    if control.type in ("bool", "trigger"):
        return number >= 0.5
    low, high = _range(control)
    clamped = min(max(number, low), high)
    return round(clamped) if control.type == "int" else float(clamped)


def is_clamped(control: Control, asked: object, taken: Value) -> bool:
    """Whether `parse` took another number than was asked for, since that is out of range."""
    if control.type not in ("float", "int"):
        return False
    low, high = _range(control)
    return taken in (low, high) and not low <= _number(control, asked) <= high


def normalized(control: Control, travel: object) -> Value:
    """The value at a fader's travel, 0 to 1 and clamped to that, by the control's curve.

    Without a curve it is linear, and one half and more is on.

    Raises:
        ControlError: not a finite number, or the control takes texts.
    """
    low, high = _range(control)
    x = min(max(_number(control, travel), 0.0), 1.0)
    return parse(control, low + (high - low) * (x**3 if control.curve == "cubic" else x))


def to_normalized(control: Control, value: Value) -> float:
    """Where a fader stands, 0 to 1, at a value as `parse` returns it: the inverse of `normalized`.

    Raises:
        ControlError: the control takes texts.
    """
    low, high = _range(control)
    x = (float(value) - low) / (high - low)
    return math.cbrt(x) if control.curve == "cubic" else x


def shown(value: object) -> str:
    """A received value as short, printable ASCII, safe to put into a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_json() -> str:
    """The table as a JSON list of objects; `min`, `max` and `default` are null where there is none."""
    rows = [
        {
            "name": control.name,
            "scope": control.scope,
            "address": control.address,
            "type": control.type,
            "min": control.minimum,
            "max": control.maximum,
            "default": control.default,
            "unit": control.unit,
            "curve": control.curve,
            "description": control.description,
        }
        for control in CONTROLS
    ]
    return json.dumps(rows, indent=2)


_PAGE = """\
# Controls and messages

Generated from `streamer/controls.py`; do not edit. How to use them: [osc.md](osc.md).

## Controls of a voice
`/streamer/voice/<n>/<name>` is one voice's, by number or name, and `/streamer/<name>` that of all voices.

{voice}
## Controls of the whole
`/streamer/<name>`.

{master}
## Commands
`<n>` is a voice's number, its name, or `*` for all; `<control>` is the name of a control. `.../normalized`,
`.../ramp`, `.../env` and `.../drift` follow `/streamer/<control>` as well. Those marked *slow* end in
`/streamer/done` or `/streamer/fail`. Arguments in brackets may be left out.

{commands}
## What comes back
{replies}"""


def as_markdown() -> str:
    """The whole of `docs/controls.md`."""
    return _PAGE.format(
        voice=_controls_table("voice"),
        master=_controls_table("master"),
        commands=_signatures_table(COMMANDS),
        replies=_signatures_table(REPLIES),
    )


def _controls_table(scope: Scope) -> str:
    head = "| name | type | range | default | unit | what it does |\n|---|---|---|---|---|---|\n"
    return head + "".join(_control_row(control) for control in CONTROLS if control.scope == scope)


def _signatures_table(signatures: tuple[Signature, ...]) -> str:
    head = "| address | arguments | what it does |\n|---|---|---|\n"
    return head + "".join(_signature_row(signature) for signature in signatures)


def _signature_row(signature: Signature) -> str:
    slow = " *Slow.*" if signature.is_slow else ""
    return f"| `{signature.address}` | {signature.arguments} | {signature.description}{slow} |\n"


def _control_row(control: Control) -> str:
    limits = "" if control.minimum is None else f"{_cell(control.minimum)}..{_cell(control.maximum)}"
    cells = (
        f"`{control.name}`",
        control.type,
        limits,
        _cell(control.default),
        control.unit,
        control.description,
    )
    return f"| {' | '.join(cells)} |\n"


def _cell(value: Value | None) -> str:
    """A limit or default as a performer writes it: 2 for 2.0, 1 for True."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(int(value) if isinstance(value, bool) else value)


def _range(control: Control) -> tuple[float, float]:
    if control.minimum is None or control.maximum is None:
        raise ControlError(f"{control.name} takes {control.expects}, and has no range")
    return control.minimum, control.maximum


def _text(control: Control, value: object) -> str:
    if isinstance(value, str) and 1 <= len(value) <= MAX_TEXT and value.isprintable():
        return value
    raise ControlError(f"{control.name} takes {control.expects}, not {shown(value)}")


def _number(control: Control, value: object) -> float:
    """The finite number that a value stands for."""
    if isinstance(value, Real | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise ControlError(f"{control.name} takes {control.expects}, not {shown(value)}")
