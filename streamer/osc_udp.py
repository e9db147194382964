"""The server's UDP socket: bursts are read whole, and it is known which receivers are not there any more."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeAlias

from streamer.models.errors import StreamerError
from streamer.osc_codec import MAX_DATAGRAM

Address: TypeAlias = tuple[str, int]

RECEIVE_BUFFER = 8 << 20
"""Bytes asked for: a burst of 5000 messages takes 4 MB in Linux, which counts its own records, too."""

# Of Linux, and missing from Python's socket module: force a buffer's size, count what overflows, and keep the
# network's answers that nobody listens on a port.
_SO_RCVBUFFORCE, _SO_RXQ_OVFL, _IP_RECVERR = 33, 40, 11
_IS_LINUX = sys.platform == "linux"


class UdpSocket:
    """A bound, non-blocking socket.

    Args:
        host: an IPv4 address of this machine, or "0.0.0.0" for all.
        port: 0 for any free one.

    Attributes:
        lost: datagrams for which the buffer had no room, as far as the system tells.
        unsent: datagrams that the network did not take.

    Raises:
        StreamerError: the port is busy or cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        self.lost = 0
        self.unsent = 0
        self._buffer = bytearray(MAX_DATAGRAM)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise cannot_listen(host, port, error) from error
        self._socket.setblocking(False)
        self._set_options()

    @property
    def port(self) -> int:
        """The port it is bound to."""
        port: int = self._socket.getsockname()[1]
        return port

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def close(self) -> None:
        """Free the port."""
        self._socket.close()

    def receive(self) -> tuple[bytes, Address] | None:
        """The next datagram and its sender; None where none is left."""
        while True:
            try:
                size, extras, _, sender = self._socket.recvmsg_into([self._buffer], 64)
            except BlockingIOError:
                return None
            except ConnectionError:  # an answer to something sent earlier; `refusals` tells to whom
                continue
            except OSError:  # closed
                return None
            for level, kind, data in extras:
                if _IS_LINUX and (level, kind) == (socket.SOL_SOCKET, _SO_RXQ_OVFL):
                    self.lost = struct.unpack("I", data)[0]
            return bytes(memoryview(self._buffer)[:size]), sender

    def send(self, packet: bytes, receiver: Address) -> None:
        """Send, or count: a full queue and a receiver that cannot be are its loss, never the loop's."""
        for _ in range(2):  # the first error may be the answer to something that another was sent
            try:
                self._socket.sendto(packet, receiver)
            except ConnectionError:
                continue
            except OSError:
                break
            return
        self.unsent += 1

    def refusals(self) -> Iterator[Address]:
        """Receivers of whom the network has said, since the last call, that nobody listens there."""
        while _IS_LINUX:
            try:
                _, _, _, receiver = self._socket.recvmsg(0, 0, socket.MSG_ERRQUEUE)
            except OSError:  # no more
                return
            if receiver:
                yield receiver

    def _set_options(self) -> None:
        if _IS_LINUX:
            for level, option in ((socket.SOL_SOCKET, _SO_RXQ_OVFL), (socket.IPPROTO_IP, _IP_RECVERR)):
                self._socket.setsockopt(level, option, 1)
        with suppress(OSError):  # systems that allow less give what they allow, or nothing
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if _IS_LINUX:
            with suppress(OSError):  # only for the privileged
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)


def cannot_listen(host: str, port: int, error: Exception) -> StreamerError:
    """What to raise where a port cannot be had."""
    return StreamerError(
        f"OSC cannot listen on port {port} of {host} ({getattr(error, 'strerror', None) or error}): "
        "choose another with --osc-port (0 takes any free one)"
    )
