"""The commands: what each address beside the controls' has the instrument do, and what it answers.

Those that concern the server itself (subscriptions, sync, dump) are in `streamer.osc`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from streamer import __version__
from streamer.controls import COMMANDS, CONTROLS, MAX_TEXT, PREFIX, Value, find, parse, shown
from streamer.models.errors import ControlError
from streamer.osc_addresses import choose_voices
from streamer.osc_changes import parse_pairs, quantity
from streamer.osc_codec import MAX_ARGUMENTS, Argument
from streamer.osc_instrument import Instrument, Midi, Told

MAX_VOICE_NAME = 32
PRIME_SECONDS = 10.0
"""Sound from which a voice goes on, where nothing else is said."""
MAX_PRIME_SECONDS = 60.0

_NOT_IN_NAMES = set(" #*,/?[]{}\"'\\")  # the first nine mean something in OSC addresses


class Slow(Protocol):
    """Begins something slow, for which its sender is told how it ended."""

    def __call__(self, action: Callable[[Told], None], *done: object) -> None:
        """Call `action`, with whom to tell; `done` are the arguments of the reply."""


@dataclass(frozen=True)
class Call:
    """A command, and the means to answer it.

    Attributes:
        instrument: what is played.
        midi: what binds MIDI controllers; None without MIDI.
        address: as sent.
        voice: of the address, a number, a name or "*"; "" where the command is for no voice.
        arguments: what came with it.
        reply: sends an address and values to the sender.
        slow: begins something slow for the sender.
    """

    instrument: Instrument
    midi: Midi | None
    address: str
    voice: str
    arguments: Sequence[Argument]
    reply: Callable[..., None]
    slow: Slow


def check_count(path: str, arguments: Sequence[Argument]) -> None:
    """Raise `ControlError` where a command of `COMMANDS` has too few arguments, or too many."""
    usage = _USAGE[path]
    least = len(re.sub(r"\[.*?\]|\.\.\.", "", usage).split())
    most = MAX_ARGUMENTS if "..." in usage else len(usage.split())
    if not least <= len(arguments) <= most:
        raise ControlError(f"it takes {usage or 'no arguments'}, not {len(arguments)} arguments")


def voices_reply(instrument: Instrument) -> tuple[object, ...]:
    """The message that lists the voices."""
    return f"{PREFIX}voices.reply", *(word for pair in instrument.voices().items() for word in pair)


def voice_word(argument: Argument) -> str:
    """A voice as its number or name; Pure Data sends numbers as floats."""
    return f"{argument:.0f}" if isinstance(argument, float) and argument.is_integer() else str(argument)


def _add_voice(call: Call) -> None:
    model = _text(call.arguments[0], "a model")
    words = call.arguments[1:]
    name, pairs = (_voice_name(words[0]), words[1:]) if len(words) % 2 else ("", words)
    controls: dict[str, Value] = {}
    for control, _, value in parse_pairs(pairs):
        if control.scope != "voice" or control.place == "engine":
            raise ControlError(f"a voice does not begin with {control.name}; set it later")
        controls[control.name] = value

    def add(told: Told) -> None:
        number = call.instrument.add_voice(model, name, controls, told)
        call.reply(f"{PREFIX}voice/added", number, call.instrument.voices()[number])

    call.slow(add, *call.arguments)


def _remove_voice(call: Call) -> None:
    for number in _voices(call):
        call.instrument.remove_voice(number)
    _done(call)


def _prime(call: Call) -> None:
    source = _text(call.arguments[0], "a sound")
    seconds = quantity((*call.arguments, PRIME_SECONDS)[1], "the time to take", 0.01, MAX_PRIME_SECONDS)
    for number in _voices(call):
        call.slow(partial(call.instrument.prime, number, source, seconds), source)


def _continue(call: Call) -> None:
    for number in _voices(call):
        call.slow(partial(call.instrument.continue_from_here, number))


def _save_bookmark(call: Call) -> None:
    name, voice = _text(call.arguments[0], "a bookmark"), _chosen_voice(call)
    call.slow(partial(call.instrument.save_bookmark, name, voice), name)


def _recall_bookmark(call: Call) -> None:
    name, voice = _text(call.arguments[0], "a bookmark"), _chosen_voice(call)
    call.slow(partial(call.instrument.recall_bookmark, name, voice), name)


def _list_voices(call: Call) -> None:
    call.reply(*voices_reply(call.instrument))


def _list_models(call: Call) -> None:
    _list(call, "models", [(name,) for name in call.instrument.models()])


def _list_bookmarks(call: Call) -> None:
    _list(call, "bookmarks", [(name,) for name in call.instrument.bookmarks()])


def _list_controls(call: Call) -> None:
    rows = []
    for control in CONTROLS:
        numbers = (control.minimum, control.maximum, control.default)
        limits = ("" if number is None else number for number in numbers)
        words = (control.unit, control.description, control.scope)
        rows.append((control.name, control.address, control.type, *limits, *words))
    _list(call, "controls", rows)


def _clear_schedule(call: Call) -> None:
    call.instrument.clear_schedule()
    _done(call)


def _panic(call: Call) -> None:
    call.instrument.panic()
    _done(call)


def _learn(call: Call) -> None:
    midi, voice, name = _midi(call), _learnt_voice(call), str(call.arguments[1])
    value = _learnt_value(name, call.arguments[2]) if call.arguments[2:] else None
    call.slow(partial(midi.learn, voice, name, value), *call.arguments)


def _forget(call: Call) -> None:
    midi, voice, name = _midi(call), _learnt_voice(call), str(call.arguments[1])
    call.slow(partial(midi.forget, voice, name), *call.arguments)


def _ping(call: Call) -> None:
    call.reply(f"{PREFIX}pong", __version__)


def _version(call: Call) -> None:
    call.reply(f"{PREFIX}version.reply", __version__)


def _done(call: Call, *arguments: object) -> None:
    call.reply(f"{PREFIX}done", call.address, *arguments)


def _list(call: Call, what: str, rows: Sequence[tuple[object, ...]]) -> None:
    for row in rows:
        call.reply(f"{PREFIX}{what}.reply", *row)
    call.reply(f"{PREFIX}{what}.done", len(rows))


def _voices(call: Call) -> Sequence[int]:
    return choose_voices(call.voice, call.instrument.voices())


def _chosen_voice(call: Call) -> int:
    """The voice that the second argument means; without one, the first."""
    said = voice_word(call.arguments[1]) if call.arguments[1:] else ""
    return choose_voices(said, call.instrument.voices())[0]


def _learnt_voice(call: Call) -> int:
    """The voice that the first argument means; 0 is the master."""
    said = voice_word(call.arguments[0])
    return 0 if said == "0" else choose_voices(said, call.instrument.voices())[0]


def _learnt_value(name: str, argument: Argument) -> Value:
    """What a key sets: a control's value, or the name of a bookmark."""
    known = any(control.name == name for control in CONTROLS)
    return parse(find(name), argument) if known else _text(argument, "a value")


def _midi(call: Call) -> Midi:
    if call.midi is None:
        raise ControlError("MIDI is not open; start streamer with --midi")
    return call.midi


def _text(argument: Argument, what: str) -> str:
    if isinstance(argument, str) and 1 <= len(argument) <= MAX_TEXT and argument.isprintable():
        return argument
    raise ControlError(f"{what} is a text of 1 to {MAX_TEXT} characters, not {shown(argument)}")


def _voice_name(argument: Argument) -> str:
    """A name that can be a part of an address, and is no number."""
    name = _text(argument, "a voice's name")
    sendable = name.isascii() and _NOT_IN_NAMES.isdisjoint(name)
    if len(name) > MAX_VOICE_NAME or name.isdigit() or not sendable:
        raise ControlError(
            f"a voice's name has at most {MAX_VOICE_NAME} letters and digits, no spaces, "
            f"and is no number, unlike {shown(name)}"
        )
    return name


_USAGE = {command.path: command.arguments for command in COMMANDS}
HANDLERS: Mapping[str, Callable[[Call], None]] = {
    "voice/add": _add_voice,
    "voice/<n>/remove": _remove_voice,
    "voice/<n>/prime": _prime,
    "voice/<n>/continue": _continue,
    "voices": _list_voices,
    "bookmark/save": _save_bookmark,
    "bookmark/recall": _recall_bookmark,
    "bookmarks": _list_bookmarks,
    "models": _list_models,
    "controls": _list_controls,
    "clearSched": _clear_schedule,
    "panic": _panic,
    "midi/learn": _learn,
    "midi/forget": _forget,
    "ping": _ping,
    "version": _version,
}
"""By path; the arguments are as many as `check_count` allows."""
