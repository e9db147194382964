"""Where an OSC message goes: addresses to controls and commands, and voices by number, name or `*`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from streamer.controls import COMMANDS, CONTROLS, PREFIX, Control, shown
from streamer.models.errors import ControlError

MAX_ADDRESS = 255
"""Characters of an address."""
VERBS = ("", "normalized", "ramp", "env", "drift")
"""What can follow a control."""

_VOICE = "voice/<n>/"
_CONTROLS = {control.name: control for control in CONTROLS}
_COMMANDS = {command.path: command for command in COMMANDS if "<control>" not in command.path}


@dataclass(frozen=True)
class Route:
    """An address taken apart.

    Attributes:
        voice: a number or name as sent, "*" for all, or "" where none is said.
        control: which is set, moved or asked for; None for a command.
        verb: one of `VERBS`, or a command's path in `COMMANDS`.
    """

    voice: str
    control: Control | None
    verb: str


class UnknownAddressError(ControlError):
    """An address of nothing; as text, with the nearest ones, which are looked for only when they are read."""

    def __str__(self) -> str:
        address = str(self.args[0])
        nearest = _nearest(address)
        if nearest:
            return f"unknown address {shown(address)}; did you mean {' or '.join(nearest)}?"
        return f"unknown address {shown(address)}; {PREFIX}controls lists what there is"


@lru_cache(maxsize=1024)
def read_address(address: str) -> Route:
    """Take an address apart; a dash counts as an underscore (`top-k`), except in a voice's name.

    Raises:
        ControlError: it leads nowhere.
    """
    if address == "/clearSched":  # as SuperCollider's server has it
        address = PREFIX + "clearSched"
    path = address.removeprefix(PREFIX)
    if path == address:
        raise UnknownAddressError(address)
    voice = ""
    if path.startswith("voice/") and path.count("/") > 1:
        _, voice, path = path.split("/", 2)
    name, _, verb = path.replace("-", "_").partition("/")
    control = _CONTROLS.get(name)
    if control is not None and verb in VERBS and not path.endswith("/"):
        if control.scope == "master" and voice:
            raise ControlError(f"{name} is no voice's own; send {control.address}")
        return Route(voice, control, verb)
    command = (_VOICE if voice else "") + path
    if command in _COMMANDS:
        return Route(voice, None, command)
    raise UnknownAddressError(address)


def is_slow(address: str) -> bool:
    """Whether what is asked for there takes a while, and then ends in `done` or `fail`."""
    try:
        route = read_address(address[:MAX_ADDRESS])
    except ControlError:
        return False
    return _COMMANDS[route.verb].is_slow if route.control is None else route.control.is_slow


def choose_voices(said: str, voices: Mapping[int, str]) -> Sequence[int]:
    """The numbers of the voices that an address or argument means, of those there are.

    Args:
        said: a number, a name, or "*" or "" for all.
        voices: names by number.

    Raises:
        ControlError: there is none, with a list of those there are.
    """
    if said in ("", "*"):
        found = list(voices)
    else:
        found = [number for number, name in voices.items() if said in (str(number), name)]
    if not found:
        listed = ", ".join(f"{number} ({name})" for number, name in voices.items())
        there = f"there are {listed}" if voices else f"add one with {PREFIX}voice/add"
        raise ControlError(f"no voice {shown(said) if said else 'to play'}; {there}")
    return found


def _nearest(address: str) -> list[str]:
    """Up to three known addresses that look like this one."""
    path = address[:MAX_ADDRESS].removeprefix(PREFIX).strip("/")
    head = ""
    if path.startswith("voice/") and path.count("/") > 1:
        _, voice, path = path.split("/", 2)
        head = f"voice/{voice}/"
    known = [control.name for control in CONTROLS if control.scope == "voice" or not head]
    known += [path.removeprefix(_VOICE) for path in _COMMANDS if path.startswith(_VOICE) == bool(head)]
    return [PREFIX + head + name for name in difflib.get_close_matches(path, sorted(known), cutoff=0.6)]
