"""The OSC server: performers' programs set controls, and hear what was taken.

UDP on its own thread and its own socket loop. Everything received is bounded, checked and either played,
refused with `/streamer/error`, or counted and dropped; nothing stops the loop. Replies are plain messages of
ints, floats and strings to the sender's port, or to the port that the sender registered with
`/streamer/listen`. After scsynth's `/notify`, `/status`, `/sync`, and RNBO's listeners. `docs/osc.md` is the
performer's view.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol, TypeAlias

from streamer import __version__
from streamer.controls import CONTROLS, PREFIX, Control, Value, find, parse, shown
from streamer.models.errors import ControlError, StreamerError
from streamer.osc_codec import (
    MAX_DATAGRAM,
    Argument,
    Message,
    UnreadablePacketError,
    read_packet,
    write_message,
)

DEFAULT_PORT = 7770
STATUS_PERIOD = 0.25
"""Seconds between the status messages to listeners."""
MAX_LISTENERS = 16
MAX_WAITING = 64
"""Changes of one control that may be under way, and syncs that may wait for them."""
ERRORS_PER_SECOND = 20
"""Error replies in all; more are only counted."""

COMMANDS = frozenset(
    PREFIX + name for name in ("listen", "unlisten", "get", "status", "models", "controls", "ping", "sync")
)
"""What the server understands besides the controls' addresses."""
REPLIES = frozenset(
    PREFIX + name
    for name in (
        "listening",
        "status.reply",
        "models.reply",
        "models.done",
        "controls.reply",
        "controls.done",
        "pong",
        "synced",
        "error",
    )
)
"""What the server sends besides the controls' addresses; it never answers these, lest two servers loop."""

Address: TypeAlias = tuple[str, int]

_BATCH = 64  # datagrams read before the loop looks at its other work
_log = logging.getLogger(__name__)


class Instrument(Protocol):
    """What the server needs of the instrument. Every call is quick; calls come from the server's thread."""

    def set(self, name: str, value: Value) -> Value | None:
        """Set a control to a value that `parse` returned, and return the value taken.

        None means that it takes a while (a model loads); `OscServer.changed` or `OscServer.failed`, called
        with the same value, then says how it ended; it may be left out where a later change overtook it.
        Raises `ControlError` if the value cannot be taken; nothing has changed then.
        """

    def get(self, name: str) -> Value:
        """Return a control's value. Triggers are never asked."""

    def status(self) -> Mapping[str, int | float | str]:
        """Return what a performer watches, in the order to be shown.

        At least buffer_ms, realtime_factor, underruns, model, device_rate and device_rate_measured (Hz).
        """

    def models(self) -> Sequence[str]:
        """Return the names that the control `model` takes."""


@dataclass
class Counters:
    """Packets and messages since the start.

    Attributes:
        received: datagrams.
        unreadable: datagrams dropped since they were not OSC, damaged or too large.
        refused: messages that changed nothing and were answered with an error, if not too many.
        unsent: replies that the network did not take.
    """

    received: int = 0
    unreadable: int = 0
    refused: int = 0
    unsent: int = 0


@dataclass(frozen=True)
class _Outcome:
    """How a change ended that did not end within `Instrument.set`."""

    control: Control
    value: Value
    error: str = ""


@dataclass(frozen=True)
class _Request:
    """A change under way, and who waits for it."""

    control: Control
    value: Value
    reply_to: Address


class OscServer:
    """Serves an instrument over UDP.

    The socket is bound when the object is made, so that a busy port is known at once; `start` begins to
    serve. Also a context manager that starts and closes.

    Args:
        instrument: what is played.
        port: 1..65535, or 0 for any free one; `port` then tells which.
        host: address to listen on; loopback by default, "0.0.0.0" for the whole network.

    Raises:
        StreamerError: the port is busy or cannot be had.
    """

    def __init__(self, instrument: Instrument, port: int = DEFAULT_PORT, host: str = "127.0.0.1") -> None:
        self.counters = Counters()
        self._instrument = instrument
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._buffer = bytearray(MAX_DATAGRAM)
        # From a sender to where it wants to hear replies; those heard from last are last.
        self._listeners: dict[Address, Address] = {}
        self._requests: list[_Request] = []
        self._syncs: deque[tuple[Argument, Address]] = deque(maxlen=MAX_WAITING)
        self._outcomes: deque[_Outcome] = deque(maxlen=4 * MAX_WAITING)
        self._errors = _Allowance(ERRORS_PER_SECOND)
        self._next_status = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="streamer-osc", daemon=True)
        self._commands: dict[str, Callable[[Sequence[Argument], Address], None]] = {
            PREFIX + "listen": self._listen,
            PREFIX + "unlisten": self._unlisten,
            PREFIX + "get": self._get,
            PREFIX + "status": self._status,
            PREFIX + "models": self._models,
            PREFIX + "controls": self._controls,
            PREFIX + "ping": self._ping,
            PREFIX + "sync": self._sync,
        }

    def start(self) -> None:
        """Begin to serve, on a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port, within a second; may be called twice."""
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)
        for each in (self._socket, self._wake_in, self._wake_out):
            each.close()

    def __enter__(self) -> OscServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def changed(self, name: str, value: Value) -> None:
        """Tell everyone of a change that `Instrument.set` did not return; from any thread.

        For a model that has been loaded, and for changes that came from elsewhere than OSC.
        """
        self._report(_Outcome(find(name), value))

    def failed(self, name: str, value: Value, error: str) -> None:
        """Tell everyone that a change to `value` which took a while has failed; from any thread."""
        self._report(_Outcome(find(name), value, error))

    # --- the loop -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ, self._receive)
            selector.register(self._wake_in, selectors.EVENT_READ, self._drain_wake)
            while not self._closing:
                for key, _ in selector.select(self._patience()):
                    key.data()
                self._settle()
                self._publish_status()

    def _patience(self) -> float | None:
        """Seconds until the next status message is due; None while nobody listens."""
        return max(0.0, self._next_status - time.monotonic()) if self._listeners else None

    def _wake(self) -> None:
        with suppress(OSError):  # full: the loop is awake already; closed: there is nobody to tell
            self._wake_out.send(b"\0")

    def _drain_wake(self) -> None:
        self._wake_in.recv(4096)

    def _receive(self) -> None:
        for _ in range(_BATCH):
            try:
                size, sender = self._socket.recvfrom_into(self._buffer)
            except OSError:  # nothing left; or some systems' note that an earlier reply found no one
                return
            self.counters.received += 1
            self._play_packet(bytes(memoryview(self._buffer)[:size]), sender)

    def _play_packet(self, packet: bytes, sender: Address) -> None:
        """Play all messages of a packet, or none if any part of it is damaged."""
        try:
            if self._is_own(sender):
                raise UnreadablePacketError("a forged packet, which would have the server talk to itself")
            messages = read_packet(packet)
        except UnreadablePacketError:
            self.counters.unreadable += 1
            return
        if sender in self._listeners:
            self._listeners[sender] = self._listeners.pop(sender)
        for message in messages:
            self._guard(message.address, sender, partial(self._play, message, sender))

    def _guard(self, address: str, sender: Address | None, action: Callable[[], None]) -> None:
        """Do something that may fail; what it raises becomes an error reply and never ends the loop."""
        try:
            action()
        except StreamerError as error:
            self._refuse(address, str(error), sender)
        except Exception:  # a fault of ours or of the instrument: the sound and the other clients go on
            if self._errors.take():
                _log.exception("fault while handling %s", shown(address))
            self._refuse(address, "an internal fault, see streamer's terminal", sender)

    def _play(self, message: Message, sender: Address) -> None:
        if message.address in REPLIES:
            return
        if message.fault:
            raise ControlError(message.fault)
        command = self._commands.get(message.address)
        if command is not None:
            command(message.arguments, sender)
        else:
            self._set(_control_at(message.address), message.arguments, sender)

    # --- controls -----------------------------------------------------------------------------------------

    def _set(self, control: Control, arguments: Sequence[Argument], sender: Address) -> None:
        if control.type == "trigger" and not arguments:
            arguments = (True,)
        value = parse(control, _only(arguments, control.expects))
        if control.type == "trigger" and not value:
            return  # a button that is let go
        if sum(request.control is control for request in self._requests) == MAX_WAITING:
            raise ControlError(f"{MAX_WAITING} changes of {control.name} are under way; wait for them to end")
        taken = self._instrument.set(control.name, value)
        if taken is None:
            self._requests.append(_Request(control, value, self._reply_address(sender)))
        else:
            self._broadcast(write_message(control.address, taken), {self._reply_address(sender)})

    def _report(self, outcome: _Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake()

    def _settle(self) -> None:
        """Pass on what `changed` and `failed` told, and answer the syncs that waited for it."""
        while self._outcomes:
            outcome = self._outcomes.popleft()
            address = outcome.control.address
            if outcome.error:
                packet = write_message(PREFIX + "error", address, outcome.error)
            else:
                packet = write_message(address, outcome.value)
            self._broadcast(packet, {request.reply_to for request in self._finish(outcome)})
        while self._syncs and not self._requests:
            identity, reply_to = self._syncs.popleft()
            self._send(write_message(PREFIX + "synced", identity), reply_to)

    def _finish(self, outcome: _Outcome) -> list[_Request]:
        """Take out the request that an outcome ends, and earlier ones of that control that it overtook."""
        control = outcome.control
        for place, request in enumerate(self._requests):
            if request.control is control and request.value == outcome.value:
                until, after = self._requests[: place + 1], self._requests[place + 1 :]
                self._requests = [each for each in until if each.control is not control] + after
                return [each for each in until if each.control is control]
        return []

    # --- commands -----------------------------------------------------------------------------------------

    def _listen(self, arguments: Sequence[Argument], sender: Address) -> None:
        port = _port(_only(arguments, "a port")) if arguments else sender[1]
        if port == 0:
            return self._unlisten((), sender)
        target = (sender[0], port)
        if self._is_own(target):
            raise ControlError(f"port {port} is streamer's own; let the client receive on another")
        # One entry a target, so that a patch that is opened again and again does not fill the table; where it
        # is full, the one that has been quiet for longest goes.
        self._listeners = {key: value for key, value in self._listeners.items() if value != target}
        self._listeners.pop(sender, None)
        while len(self._listeners) >= MAX_LISTENERS:
            quietest = self._listeners.pop(next(iter(self._listeners)))
            self._send(write_message(PREFIX + "listening", 0), quietest)
        self._listeners[sender] = target
        self._send(write_message(PREFIX + "listening", port), target)
        for control in CONTROLS:
            if control.type != "trigger":
                self._send(write_message(control.address, self._instrument.get(control.name)), target)

    def _unlisten(self, arguments: Sequence[Argument], sender: Address) -> None:
        _none(arguments)
        target = self._listeners.pop(sender, sender)
        self._send(write_message(PREFIX + "listening", 0), target)

    def _get(self, arguments: Sequence[Argument], sender: Address) -> None:
        control = find(str(_only(arguments, "a control's name")))
        if control.type == "trigger":
            raise ControlError(f"{control.name} is a trigger and has no value")
        self._reply(sender, control.address, self._instrument.get(control.name))

    def _status(self, arguments: Sequence[Argument], sender: Address) -> None:
        _none(arguments)
        self._send(self._status_message(), self._reply_address(sender))

    def _models(self, arguments: Sequence[Argument], sender: Address) -> None:
        _none(arguments)
        names = self._instrument.models()
        for name in names:
            self._reply(sender, PREFIX + "models.reply", name)
        self._reply(sender, PREFIX + "models.done", len(names))

    def _controls(self, arguments: Sequence[Argument], sender: Address) -> None:
        _none(arguments)
        for control in CONTROLS:
            numbers = (control.minimum, control.maximum, control.default)
            limits = ("" if number is None else number for number in numbers)
            row = (control.name, control.address, control.type, *limits, control.unit, control.description)
            self._reply(sender, PREFIX + "controls.reply", *row)
        self._reply(sender, PREFIX + "controls.done", len(CONTROLS))

    def _ping(self, arguments: Sequence[Argument], sender: Address) -> None:
        _none(arguments)
        self._reply(sender, PREFIX + "pong", __version__)

    def _sync(self, arguments: Sequence[Argument], sender: Address) -> None:
        if len(self._syncs) == MAX_WAITING:
            raise ControlError("too many syncs wait already")
        self._syncs.append((_only(arguments, "a number or text to return"), self._reply_address(sender)))

    # --- replies ------------------------------------------------------------------------------------------

    def _status_message(self) -> bytes:
        pairs = {
            **self._instrument.status(),
            "osc_listeners": len(self._listeners),
            "osc_unreadable": self.counters.unreadable,
            "osc_refused": self.counters.refused,
        }
        return write_message(PREFIX + "status.reply", *(item for pair in pairs.items() for item in pair))

    def _publish_status(self) -> None:
        now = time.monotonic()
        if self._listeners and now >= self._next_status:
            self._next_status = now + STATUS_PERIOD
            self._guard(PREFIX + "status", None, lambda: self._broadcast(self._status_message(), ()))

    def _refuse(self, address: str, text: str, sender: Address | None) -> None:
        self.counters.refused += 1
        if sender is not None and self._errors.take():
            self._reply(sender, PREFIX + "error", address[:80], text)

    def _reply(self, sender: Address, address: str, *arguments: object) -> None:
        self._send(write_message(address, *arguments), self._reply_address(sender))

    def _reply_address(self, sender: Address) -> Address:
        return self._listeners.get(sender, sender)

    def _broadcast(self, packet: bytes, others: Iterable[Address]) -> None:
        for target in {*self._listeners.values(), *others}:
            self._send(packet, target)

    def _send(self, packet: bytes, target: Address) -> None:
        try:
            self._socket.sendto(packet, target)
        except OSError:  # its queue is full, or nobody can be there: the client's loss, never the loop's
            self.counters.unsent += 1

    def _is_own(self, address: Address) -> bool:
        return address[1] == self.port and _is_local(address[0])


class _Allowance:
    """So many a second, saved up for one second at most."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _bind(host: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # Room for a burst of knobs; systems that allow less give what they allow.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind((host, port))
    except (OSError, OverflowError) as error:
        server.close()
        raise StreamerError(
            f"OSC cannot listen on port {port} of {host} ({getattr(error, 'strerror', None) or error}): "
            "choose another with --osc-port (0 takes any free one)"
        ) from error
    server.setblocking(False)
    return server


def _is_local(host: str) -> bool:
    """Whether an IPv4 address is one of this machine's: what is sent there leaves from there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError:
            return False
        local: str = probe.getsockname()[0]
        return host.startswith("127.") or local == host


def _control_at(address: str) -> Control:
    try:
        return find(address)
    except ControlError:
        known = sorted({control.address for control in CONTROLS} | COMMANDS)
        raise ControlError(f"unknown address {shown(address)}; known are {', '.join(known)}") from None


def _only(arguments: Sequence[Argument], expected: str) -> Argument:
    if len(arguments) != 1:
        raise ControlError(f"it takes {expected}, not {len(arguments)} arguments")
    return arguments[0]


def _none(arguments: Sequence[Argument]) -> None:
    if arguments:
        raise ControlError(f"it takes no arguments, not {len(arguments)}")


def _port(argument: Argument) -> int:
    try:
        port = int(float(argument))
    except (ValueError, OverflowError):
        port = -1
    if not 0 <= port <= 65_535:
        raise ControlError(f"a port is a number from 1 to 65535, or 0 to end, not {shown(argument)}")
    return port
