"""OSC packets to messages and back, with a bound on everything that a packet can ask for.

python-osc reads the values and builds the messages. Its packets and bundles are not used (1.10): `OscBundle`
never ends on an element of negative size and recurses as deep as a packet tells it to; `OscMessage` shifts
the arguments behind a type that it does not know, and a blob of negative size sends it backwards.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.parsing import osc_types

MAX_DATAGRAM = 65_535
"""Bytes; no UDP datagram is longer."""
MAX_MESSAGE = 4096
"""Bytes of one received message."""
MAX_ARGUMENTS = 64
MAX_DEPTH = 8
"""Bundles inside bundles."""
MAX_MESSAGES = 256
"""Messages in one packet."""
MAX_STRING = 1024
"""Characters of a string that is sent; longer ones are cut."""

Argument: TypeAlias = int | float | bool | str

_BUNDLE = b"#bundle\0"
_BUNDLE_HEAD = 16  # the tag, and eight bytes of time
_NTP_TO_UNIX = 2_208_988_800  # seconds from 1900 to 1970
_FLOAT32_MAX = 3.4028234e38
_READERS: dict[str, Callable[[bytes, int], tuple[Any, int]]] = {
    "i": osc_types.get_int,
    "f": osc_types.get_float,
    "d": osc_types.get_double,
    "h": osc_types.get_int64,
    "s": osc_types.get_string,
    "S": osc_types.get_string,
}
_CONSTANTS = {"T": True, "F": False, "I": True}  # "I" is a bang


class UnreadablePacketError(ValueError):
    """Bytes that are not OSC, or more of it than is accepted: none of the packet is to be played."""


@dataclass(frozen=True)
class Message:
    """One OSC message.

    Attributes:
        address: as sent; starts with "/".
        arguments: its numbers, bools (T, F, and I as True) and strings.
        time: Unix time (s) of its bundle's timetag; None for at once.
        fault: why the arguments cannot be read though the address can; "" if they could.
    """

    address: str
    arguments: tuple[Argument, ...]
    time: float | None = None
    fault: str = ""


def read_packet(packet: bytes) -> list[Message]:
    """Return a packet's messages in order; bundles are flattened, each message has its own bundle's time.

    Where a bundle's time is earlier than that of the one around it, which OSC forbids, the later holds.

    Raises:
        UnreadablePacketError: a part of it is damaged or too much.
    """
    try:
        return [_read_message(data, time) for data, time in _split(packet, None, depth=0)]
    except (osc_types.ParseError, UnicodeDecodeError) as error:
        raise UnreadablePacketError(str(error)) from error


def write_message(address: str, *arguments: object) -> bytes:
    """Build one message with the type tags i, f and s alone, which every client understands.

    Bools go as 1 and 0, whole numbers over 31 bits as f, numbers that are not finite as strings, numpy
    scalars as what they hold, and anything else as its text.
    """
    builder = OscMessageBuilder(address)
    for argument in arguments:
        value, tag = _plain(argument)
        builder.add_arg(value, tag)
    return builder.build().dgram


def _split(packet: bytes, time: float | None, depth: int) -> list[tuple[bytes, float | None]]:
    """The messages of a packet, still encoded, and when each is to be played."""
    if not packet.startswith(_BUNDLE):
        return [(packet, time)]
    if len(packet) < _BUNDLE_HEAD or depth == MAX_DEPTH:
        raise UnreadablePacketError("a bundle is cut short or nested too deep")
    time = _later(time, _unix_time(packet[len(_BUNDLE) : _BUNDLE_HEAD]))
    messages: list[tuple[bytes, float | None]] = []
    at = _BUNDLE_HEAD
    while at < len(packet):
        # Read as unsigned: a negative size is one of gigabytes, and refused as such.
        size = int.from_bytes(packet[at : at + 4], "big")
        at += 4
        if size > len(packet) - at:
            raise UnreadablePacketError("a bundle's element is longer than the bundle")
        messages += _split(packet[at : at + size], time, depth + 1)
        at += size
        if len(messages) > MAX_MESSAGES:
            raise UnreadablePacketError("too many messages in one bundle")
    return messages


def _unix_time(timetag: bytes) -> float | None:
    """An NTP timetag as Unix time, exact to the microsecond; None for OSC's "at once"."""
    seconds, fraction = struct.unpack(">II", timetag)
    if seconds == 0:  # with a fraction of 1, "at once"; with 0, what some send for it
        return None
    era = 0 if seconds >= 2**31 else 2**32  # the count begins anew in 2036
    return float(seconds + era - _NTP_TO_UNIX + fraction / 2**32)


def _later(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _read_message(data: bytes, time: float | None) -> Message:
    if not data.startswith(b"/") or len(data) % 4 or len(data) > MAX_MESSAGE:
        raise UnreadablePacketError("not an OSC message, or a very long one")
    address, at = osc_types.get_string(data, 0)
    if at == len(data):  # old senders leave out even the empty list of types
        return Message(address, (), time)
    if data[at : at + 1] != b",":
        return Message(address, (), time, "it has no type tags; let the client send OSC 1.0")
    tags, at = osc_types.get_string(data, at)
    fault = _fault(tags[1:])
    if fault:
        return Message(address, (), time, fault)
    return Message(address, _read_arguments(tags[1:], data, at), time)


def _fault(tags: str) -> str:
    odd = [tag for tag in tags if tag not in _READERS and tag not in _CONSTANTS]
    if odd:
        return f"type tag {odd[0]!a} is not accepted; send i, f, d, h, s, T or F"
    if len(tags) > MAX_ARGUMENTS:
        return f"it has {len(tags)} arguments; {MAX_ARGUMENTS} are the most"
    return ""


def _read_arguments(tags: str, data: bytes, at: int) -> tuple[Argument, ...]:
    arguments: list[Argument] = []
    for tag in tags:
        if tag in _CONSTANTS:
            arguments.append(_CONSTANTS[tag])
        else:
            value, at = _READERS[tag](data, at)
            arguments.append(value)
    # python-osc fills a missing float up with zeros, for one old sender; a cut packet must not set anything.
    if at > len(data):
        raise UnreadablePacketError("arguments cut short")
    return tuple(arguments)


def _plain(value: Any) -> tuple[int | float | str, str]:
    """A value as one of OSC's three common types, with its type tag."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return int(value), "i"
    if isinstance(value, int | float) and abs(value) <= _FLOAT32_MAX:  # false for nan
        return float(value), "f"
    text = str(value).replace("\0", "")[:MAX_STRING]
    return text.encode("utf-8", "replace").decode(), "s"
