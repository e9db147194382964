"""What a message that sets or moves controls asks for: checked, clamped, and turned into cues."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from streamer.controls import Control, Value, find, is_clamped, normalized, parse, shown, to_normalized
from streamer.cues import Cue
from streamer.models.errors import ControlError
from streamer.osc_addresses import Route, choose_voices
from streamer.osc_codec import Argument

MAX_SECONDS = 3600.0
"""Longest ramp, envelope, or period of a drift."""
DRIFT_SECONDS = 10.0
"""Period of a drift for which none is said."""

Voices = Mapping[int, str]
"""Names by number."""
Echo = tuple[object, ...]
"""A reply: address and values."""


@dataclass(frozen=True)
class Change:
    """What to ask of the instrument, all of it at one moment.

    Attributes:
        cues: none where a button was let go.
        echoes: what confirms it.
        clamped: what was clamped and to what, in words; "" where nothing was.
        replaces: of changes with the same, at the same moment, only the last matters; None for others.
        is_plain: controls are simply set, so that subscribers hear of it from the instrument.
    """

    cues: tuple[Cue, ...]
    echoes: tuple[Echo, ...]
    clamped: str = ""
    replaces: Hashable = None
    is_plain: bool = True

    @property
    def is_slow(self) -> bool:
        """Whether any of it takes a while."""
        return any(find(cue.control).is_slow for cue in self.cues)


def read_change(route: Route, arguments: Sequence[Argument], voices: Voices) -> Change:
    """Read a message to a control, or to its ramp, envelope or drift.

    Raises:
        ControlError: what it says cannot be done; the message says what can.
    """
    assert route.control is not None
    numbers, address = _place(route, voices)
    if route.verb in _MOVES:
        if not route.control.is_continuous:
            raise ControlError(f"{route.control.name} does not glide; set it")
        return _MOVES[route.verb](route.control, numbers, address, arguments)
    return _read_set(route, numbers, address, arguments)


def read_pairs(voice: str, arguments: Sequence[Argument], voices: Voices) -> Change:
    """Read control value control value ...: all of them, or none.

    Args:
        voice: of the address; "" for all, and then controls of the whole may be among them.
        arguments: the pairs.
        voices: those there are.

    Raises:
        ControlError: any of them cannot be done.
    """
    if not arguments:
        raise ControlError("it takes pairs of a control and a value")
    cues: list[Cue] = []
    echoes: list[Echo] = []
    clamped = []
    for control, asked, value in parse_pairs(arguments):
        if control.scope == "master" and voice:
            raise ControlError(f"{control.name} is no voice's own; send {control.address}")
        numbers, address = _place(Route(voice, control, ""), voices)
        if control.type != "trigger" or value:
            cues += [Cue(number, control.name, value) for number in numbers]
            echoes.append((address, value))
        clamped.append(_clamped(control, asked, value))
    return Change(tuple(cues), tuple(echoes), ", ".join(filter(None, clamped)))


def parse_pairs(arguments: Sequence[Argument]) -> list[tuple[Control, Argument, Value]]:
    """Each pair's control, what was asked for, and the value that can be had; raise `ControlError`."""
    if len(arguments) % 2:
        raise ControlError(f"it takes pairs of a control and a value, not {len(arguments)} words")
    pairs = [(find(str(name)), asked) for name, asked in zip(arguments[::2], arguments[1::2], strict=True)]
    return [(control, asked, parse(control, asked)) for control, asked in pairs]


def value_echo(route: Route, voice: int, value: Value) -> Echo:
    """The reply to who asks for a control's value, or for its place on a fader.

    voice: the number of one that was chosen from many; 0 where the address names none.
    """
    control = route.control
    assert control is not None
    address = control.voice_address(voice) if voice else control.address
    if route.verb == "normalized":
        return f"{address}/normalized", to_normalized(control, value)
    return address, value


def only(arguments: Sequence[Argument], expected: str) -> Argument:
    """The only argument; `ControlError` where there is none, or more."""
    if len(arguments) != 1:
        raise ControlError(f"it takes {expected}, not {len(arguments)} arguments")
    return arguments[0]


def quantity(argument: Argument, name: str, low: float, high: float) -> float:
    """A number within limits; `ControlError` for any other argument."""
    try:
        number = float(argument)
    except (ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise ControlError(f"{name} is a number from {low:g} to {high:g}, not {shown(argument)}")
    return number


def _place(route: Route, voices: Voices) -> tuple[Sequence[int], str]:
    """The voices that a message is for, and the address of its confirmation."""
    assert route.control is not None
    if route.control.scope == "master":
        return (0,), route.control.address
    numbers = choose_voices(route.voice, voices)
    if route.voice in ("", "*"):
        return numbers, route.control.address
    return numbers, route.control.voice_address(numbers[0])


def _read_set(route: Route, numbers: Sequence[int], address: str, arguments: Sequence[Argument]) -> Change:
    control = route.control
    assert control is not None
    if control.type == "trigger" and not arguments:
        arguments = (True,)
    if route.verb == "normalized":
        asked = only(arguments, "a number from 0 to 1")
        value = normalized(control, asked)
        echo: Echo = (f"{address}/normalized", to_normalized(control, value))
        clamped = "" if 0 <= float(asked) <= 1 else f"{control.name} clamped to {value:g}"
    else:
        asked = only(arguments, control.expects)
        value = parse(control, asked)
        echo = (address, value)
        clamped = _clamped(control, asked, value)
    if control.type == "trigger" and not value:
        return Change((), ())
    cues = tuple(Cue(number, control.name, value) for number in numbers)
    replaces = None if control.is_slow else (control.name, *numbers)
    return Change(cues, (echo,), clamped, replaces, is_plain=not route.verb)


def _read_ramp(
    control: Control, numbers: Sequence[int], address: str, arguments: Sequence[Argument]
) -> Change:
    if len(arguments) != 2:
        raise ControlError(f"it takes a value and seconds, not {len(arguments)} arguments")
    value = parse(control, arguments[0])
    seconds = quantity(arguments[1], "a ramp's time", 0.0, MAX_SECONDS)
    cues = tuple(_ramp(number, control, value, seconds) for number in numbers)
    echo: Echo = (f"{address}/ramp", value, seconds)
    return Change(cues, (echo,), _clamped(control, arguments[0], value), is_plain=False)


def _read_envelope(
    control: Control, numbers: Sequence[int], address: str, arguments: Sequence[Argument]
) -> Change:
    if len(arguments) < 3 or len(arguments) % 2 == 0:
        raise ControlError(f"it takes value, seconds, value, seconds, ..., value, not {len(arguments)} words")
    asked = arguments[::2]
    first, *values = (parse(control, each) for each in asked)
    times = [quantity(each, "an envelope's time", 0.0, MAX_SECONDS) for each in arguments[1::2]]
    starts = list(accumulate(times, initial=0.0))
    quantity(starts[-1], "an envelope's whole time", 0.0, MAX_SECONDS)
    cues: list[Cue] = []
    for number in numbers:
        cues.append(Cue(number, control.name, first))
        for start, value, seconds in zip(starts, values, times, strict=False):
            cues.append(_ramp(number, control, value, seconds, start))
    points = [point for pair in zip(times, values, strict=True) for point in pair]
    clamped = (_clamped(control, one, value) for one, value in zip(asked, (first, *values), strict=True))
    echo: Echo = (f"{address}/env", first, *points)
    return Change(tuple(cues), (echo,), ", ".join(filter(None, clamped)), is_plain=False)


def _read_drift(
    control: Control, numbers: Sequence[int], address: str, arguments: Sequence[Argument]
) -> Change:
    if len(arguments) not in (1, 2):
        raise ControlError(f"it takes a depth and a period, not {len(arguments)} arguments")
    assert control.minimum is not None
    assert control.maximum is not None
    depth = quantity(arguments[0], f"{control.name}'s depth", 0.0, control.maximum - control.minimum)
    period = quantity((*arguments, DRIFT_SECONDS)[1], "a drift's period", 0.01, MAX_SECONDS)
    cues = tuple(Cue(number, control.name, depth, "drift", period) for number in numbers)
    return Change(cues, ((f"{address}/drift", depth, period),), is_plain=False)


def _ramp(number: int, control: Control, value: Value, seconds: float, after: float = 0.0) -> Cue:
    """A ramp; in no time it is a step."""
    return Cue(number, control.name, value, "ramp" if seconds else "set", seconds, after)


def _clamped(control: Control, asked: Argument, value: Value) -> str:
    return f"{control.name} clamped to {value:g}" if is_clamped(control, asked, value) else ""


_MOVES: Mapping[str, Callable[[Control, Sequence[int], str, Sequence[Argument]], Change]] = {
    "ramp": _read_ramp,
    "env": _read_envelope,
    "drift": _read_drift,
}
