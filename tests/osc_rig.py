"""An instrument without sound, and a performer's program, to try the OSC server over real sockets."""

import random
import socket
import time
from collections.abc import Mapping

import numpy as np
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from streamer.controls import CONTROLS, Value
from streamer.models.errors import ControlError

DEADLINE = 5.0


class Memory:
    """An instrument that remembers what it was told and makes no sound; models take a while to load."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {control.name: control.default or 0 for control in CONTROLS}
        self.values["model"] = "rain"
        self.resets = 0
        self.broken = False

    def set(self, name: str, value: Value) -> Value | None:
        if self.broken:
            raise RuntimeError("a fault of the instrument")
        if name == "model":
            if value not in self.models():
                raise ControlError(f"no model {value}; there are {', '.join(self.models())}")
            return None
        if name == "reset":
            self.resets += 1
        self.values[name] = value
        return value

    def get(self, name: str) -> Value:
        return self.values[name]

    def status(self) -> Mapping[str, int | float | str]:
        return {
            "buffer_ms": np.float32(120.5),
            "realtime_factor": 3.5,
            "underruns": np.int64(3),
            "model": "rain",
            "device_rate": 48_000,
            "device_rate_measured": 47_999.5,
            "frames": 2**40,
        }

    def models(self) -> list[str]:
        return ["rain", "choir"]


class Client:
    """A performer's program: one socket, and what it hears."""

    def __init__(self, server_port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(DEADLINE)
        self._server = ("127.0.0.1", server_port)
        self.port: int = self._socket.getsockname()[1]

    def raw(self, packet: bytes) -> None:
        self._socket.sendto(packet, self._server)

    def send(self, address: str, *arguments: object, tags: str | None = None) -> None:
        self.raw(encode(address, *arguments, tags=tags))

    def hear_bytes(self) -> bytes:
        return self._socket.recv(65_535)

    def hear(self) -> tuple[str, list[object]]:
        """The next message, decoded by python-osc alone."""
        data = self.hear_bytes()
        message = OscMessage(data)
        assert set(tags_of(data)) <= set("ifs")
        return message.address, message.params

    def expect(self, address: str) -> list[object]:
        """The arguments of the next message of this address; others are skipped."""
        until = time.monotonic() + DEADLINE
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

    def settled(self) -> list[str]:
        """The addresses heard until all that was sent before has been played."""
        token = random.randrange(2**30)
        self.send("/streamer/sync", token)
        addresses = []
        while True:
            address, arguments = self.hear()
            if address == "/streamer/synced" and arguments == [token]:
                return addresses
            addresses.append(address)

    def close(self) -> None:
        self._socket.close()


def encode(address: str, *arguments: object, tags: str | None = None) -> bytes:
    builder = OscMessageBuilder(address)
    for place, argument in enumerate(arguments):
        builder.add_arg(argument, tags[place] if tags else None)
    return builder.build().dgram


def tags_of(packet: bytes) -> str:
    at = packet.index(b",")
    return packet[at + 1 : packet.index(b"\0", at)].decode()
