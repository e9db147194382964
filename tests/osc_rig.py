"""An instrument without sound, and performers' programs over UDP and TCP, to try the OSC server with."""

import random
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence

from pythonosc import slip
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from streamer.controls import CONTROLS, Value, find
from streamer.cues import Cue
from streamer.models.errors import ControlError
from streamer.osc_instrument import Listener, Status, Told

DEADLINE = 5.0


class Memory:
    """An instrument that remembers what it was told and makes no sound.

    What is slow waits in `under_way` until `finish` or `fail` ends it, oldest first. `values` are by voice,
    those of the master under 0.
    """

    def __init__(self) -> None:
        self.values: dict[int, dict[str, Value]] = {0: _defaults("master")}
        self.names: dict[int, str] = {}
        self.performed: list[tuple[tuple[Cue, ...], float | None]] = []
        self.calls: list[tuple[object, ...]] = []
        self.under_way: deque[tuple[Told | None, Sequence[Cue]]] = deque()
        self.broken = False
        self._listeners: list[Listener] = []
        self._put_voice("rain", "first", {})

    @property
    def first(self) -> dict[str, Value]:
        """The first voice's values."""
        return self.values[min(self.names)]

    def perform(self, cues: Sequence[Cue], at: float | None = None, told: Told | None = None) -> None:
        if self.broken:
            raise RuntimeError("a fault of the instrument")
        for cue in cues:
            self._check(cue)
        self.performed.append((tuple(cues), at))
        slow = [cue for cue in cues if find(cue.control).is_slow]
        for cue in cues:
            if cue not in slow and cue.action != "drift":
                self._take(cue)
        if slow:
            self.under_way.append((told, slow))

    def finish(self) -> None:
        """End well what has been under way for longest."""
        told, cues = self.under_way.popleft()
        for cue in cues:
            self._take(cue)
        if told:
            told(None)

    def fail(self, reason: str) -> None:
        """End badly what has been under way for longest."""
        told, cues = self.under_way.popleft()
        for cue in cues:
            for listener in self._listeners:
                listener.failed(cue.voice, cue.control, cue.value, reason)
        if told:
            told(ControlError(reason))

    def get(self, control: str, voice: int = 0) -> Value:
        scope = find(control).scope
        return self.values[0 if scope == "master" else voice or min(self.names)][control]

    def voices(self) -> Mapping[int, str]:
        return dict(self.names)

    def add_voice(
        self, model: str, name: str = "", values: Mapping[str, Value] | None = None, told: Told | None = None
    ) -> int:
        number = self._put_voice(model, name, values or {})
        self.under_way.append((told, ()))
        self._tell_voices()
        return number

    def remove_voice(self, number: int) -> None:
        del self.names[number], self.values[number]
        self._tell_voices()

    def models(self) -> list[str]:
        return ["rain", "choir"]

    def bookmarks(self) -> list[str]:
        return ["dawn"]

    def save_bookmark(self, name: str, voice: int, told: Told) -> None:
        self._begin("save", name, voice, told)

    def recall_bookmark(self, name: str, voice: int, told: Told) -> None:
        if name not in self.bookmarks():
            raise ControlError(f"no bookmark {name}; there are dawn")
        self._begin("recall", name, voice, told)

    def prime(self, voice: int, source: str, seconds: float, told: Told) -> None:
        self._begin("prime", voice, source, seconds, told)

    def continue_from_here(self, voice: int, told: Told) -> None:
        self._begin("continue", voice, told)

    def clear_schedule(self) -> None:
        self.calls.append(("clear",))

    def panic(self) -> None:
        self.calls.append(("panic",))

    def status(self) -> Status:
        meters = {"peak": 0.5, "rms": 0.25, "buffer_ms": 120.5, "realtime_factor": 3.5, "underruns": 3}
        return {**meters, "device_rate": 48_000, "device_rate_measured": 47_999.5, "frames": 2**40}

    def voice_status(self, voice: int) -> Status:
        return {"number": voice, "name": self.names[voice], **self.status(), "peak": 0.125 * voice}

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def change(self, voice: int, control: str, value: Value) -> None:
        """Change a control from elsewhere than OSC."""
        self.values[voice][control] = value
        for listener in self._listeners:
            listener.changed(voice, control, value)

    def _check(self, cue: Cue) -> None:
        if cue.voice not in self.values:
            raise ControlError(f"no voice {cue.voice}")
        if cue.control == "model" and cue.value not in self.models():
            raise ControlError(f"no model {cue.value}; there are {', '.join(self.models())}")

    def _take(self, cue: Cue) -> None:
        self.change(cue.voice, cue.control, cue.value)

    def _put_voice(self, model: str, name: str, values: Mapping[str, Value]) -> int:
        number = max(self.names, default=0) + 1
        self.names[number] = name or f"voice-{number}"
        self.values[number] = _defaults("voice") | dict(values) | {"model": model}
        return number

    def _tell_voices(self) -> None:
        for listener in self._listeners:
            listener.voices_changed()

    def _begin(self, *call: object) -> None:
        self.calls.append(call[:-1])
        self.under_way.append((call[-1], ()))  # type: ignore[arg-type]


def _defaults(scope: str) -> dict[str, Value]:
    return {each.name: each.default for each in CONTROLS if each.scope == scope and each.default is not None}


class Client:
    """A performer's program: what it sends, and what it hears."""

    port: int

    def __init__(self, server_port: int, patience: float = DEADLINE) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(patience)
        self._server = ("127.0.0.1", server_port)
        self.port = self._socket.getsockname()[1]

    def raw(self, packet: bytes) -> None:
        self._socket.sendto(packet, self._server)

    def hear_bytes(self) -> bytes:
        return self._socket.recv(65_535)

    def send(self, address: str, *arguments: object, tags: str | None = None) -> None:
        self.raw(encode(address, *arguments, tags=tags))

    def hear(self) -> tuple[str, list[object]]:
        """The next message, decoded by python-osc alone."""
        data = self.hear_bytes()
        message = OscMessage(data)
        assert set(tags_of(data)) <= set("ifs")
        return message.address, message.params

    def expect(self, address: str) -> list[object]:
        """The arguments of the next message of this address; others are skipped."""
        until = time.monotonic() + (self._socket.gettimeout() or 0)
        while time.monotonic() < until:
            heard, arguments = self.hear()
            if heard == address:
                return arguments
        raise AssertionError(f"{address} was not heard")

    def ask(self, address: str, *arguments: object, tags: str | None = None) -> tuple[str, list[object]]:
        self.send(address, *arguments, tags=tags)
        return self.hear()

    def refused(self) -> str:
        """The text of the error that comes next."""
        address, arguments = self.hear()
        assert address == "/streamer/error"
        assert len(arguments) == 2
        return str(arguments[1])

    def until_synced(self) -> list[tuple[str, list[object]]]:
        """What is heard until all that was sent before has been done."""
        token = random.randrange(2**30)
        self.send("/streamer/sync", token)
        heard = []
        while True:
            address, arguments = self.hear()
            if address == "/streamer/synced" and arguments == [token]:
                return heard
            heard.append((address, arguments))

    def settled(self) -> list[str]:
        """The addresses of that."""
        return [address for address, _ in self.until_synced()]

    def played(self) -> list[tuple[str, list[object]]]:
        """What is heard until all that was sent before has been begun."""
        self.send("/streamer/ping")
        heard = []
        while (message := self.hear())[0] != "/streamer/pong":
            heard.append(message)
        return heard

    def close(self) -> None:
        self._socket.close()


class TcpClient(Client):
    """The same over TCP; the framing is python-osc's."""

    def __init__(self, server_port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server_port), timeout=DEADLINE)
        self.port = self._socket.getsockname()[1]
        self._read = b""
        self._packets: deque[bytes] = deque()

    def raw(self, packet: bytes) -> None:
        self.raw_stream(slip.encode(packet))

    def raw_stream(self, data: bytes) -> None:
        self._socket.sendall(data)

    def hear_bytes(self) -> bytes:
        while not self._packets:
            data = self._socket.recv(65_536)
            if not data:
                raise EOFError
            *frames, self._read = (self._read + data).split(slip.END)
            self._packets += [slip.decode(slip.END + frame + slip.END) for frame in frames if frame]
        return self._packets.popleft()


def encode(address: str, *arguments: object, tags: str | None = None) -> bytes:
    builder = OscMessageBuilder(address)
    for place, argument in enumerate(arguments):
        builder.add_arg(argument, tags[place] if tags else None)
    return builder.build().dgram


def bundle(*elements: bytes, timetag: bytes = b"\0\0\0\0\0\0\0\1") -> bytes:
    return b"#bundle\0" + timetag + b"".join(struct.pack(">i", len(each)) + each for each in elements)


def at(moment: float, *elements: bytes) -> bytes:
    """A bundle for a Unix time."""
    seconds, fraction = divmod(moment, 1)
    tag = struct.pack(">II", int(seconds) + 2_208_988_800, int(fraction * 2**32))
    return bundle(*elements, timetag=tag)


def tags_of(packet: bytes) -> str:
    at = packet.index(b",")
    return packet[at + 1 : packet.index(b"\0", at)].decode()
