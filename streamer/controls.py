"""THE table of controls: every live parameter of the instrument, its range, default and unit, once.

OSC, the command line, `docs/controls.md`, and the patches all come from `CONTROLS` or are checked against
it. A value reaches the instrument only through `parse`, which accepts what performers' programs really send
(any number type, numeric strings), clamps numbers to the range, and refuses the rest with a one-line
`ControlError` that changes nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias

from streamer.models.errors import ControlError

PREFIX = "/streamer/"
MAX_TEXT = 256
"""Longest text (characters) that a string control takes."""

ControlType: TypeAlias = Literal["float", "int", "bool", "string", "trigger"]
Curve: TypeAlias = Literal["linear", "cubic", "none"]
Value: TypeAlias = float | int | bool | str


@dataclass(frozen=True)
class Control:
    """One live parameter.

    Attributes:
        name: a Python identifier, the same in code, OSC and documentation.
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
    type: ControlType
    minimum: float | int | None
    maximum: float | int | None
    default: Value | None
    unit: str
    curve: Curve
    description: str

    @property
    def address(self) -> str:
        """The OSC address, also of the confirmation."""
        return PREFIX + self.name

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
        "temperature", "float", 0.0, 2.0, 1.0, "", "linear",
        "Randomness of each sample: 0 always takes the likeliest, 1 is as trained, more is wilder.",
    ),
    Control(
        "top_k", "int", 0, 65_536, 0, "codes", "cubic",
        "Choose among this many likeliest codes only; 0 is off.",
    ),
    Control(
        "top_p", "float", 0.0, 1.0, 1.0, "probability", "linear",
        "Choose among the likeliest codes that together reach this probability; 1 is off.",
    ),
    # Linear amplitude, not decibels: 0 must be true silence, which is minus infinity in dB and no number that
    # OSC clients can send, and a fader of 0..1 (every touch surface's default) then just works.
    Control(
        "gain", "float", 0.0, 2.0, 1.0, "amplitude", "cubic",
        "Loudness as a linear factor: 0 is silent, 1 as generated, 2 is +6 dB; changes are ramped.",
    ),
    Control(
        "play", "bool", 0, 1, True, "", "none",
        "1 plays, 0 pauses; the sound fades, the tape stops where it is, and goes on from there.",
    ),
    Control(
        "seed", "int", 0, 2**31 - 1, 0, "", "none",
        "Key of all randomness: the same seed and controls give the same sound after a reset.",
    ),
    Control(
        "reset", "trigger", 0, 1, None, "", "none",
        "Start the model again from silence and the random numbers from position 0.",
    ),
    Control(
        "model", "string", None, None, None, "", "none",
        "Load this model by name from the model folder; confirmed when it plays.",
    ),
)  # fmt: skip

_BY_NAME = {control.name: control for control in CONTROLS}


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
    assert control.minimum is not None
    assert control.maximum is not None
    clamped = min(max(number, control.minimum), control.maximum)
    return round(clamped) if control.type == "int" else float(clamped)


def shown(value: object) -> str:
    """A received value as short, printable ASCII, safe to put into a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_json() -> str:
    """The table as a JSON list of objects; `min`, `max` and `default` are null where there is none."""
    rows = [
        {
            "name": control.name,
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


def as_markdown() -> str:
    """The whole of `docs/controls.md`."""
    head = (
        "# Controls\n\n"
        "Generated from `streamer/controls.py`; do not edit. How to send them: [osc.md](osc.md).\n\n"
        "| name | OSC address | type | range | default | unit | what it does |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(_markdown_row(control) for control in CONTROLS)


def _markdown_row(control: Control) -> str:
    limits = "" if control.minimum is None else f"{_cell(control.minimum)}..{_cell(control.maximum)}"
    cells = (
        f"`{control.name}`",
        f"`{control.address}`",
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
