"""OSC over TCP: packets framed by SLIP (OSC 1.1, RFC 1055), for clients that cannot hold up one another."""

from __future__ import annotations

import selectors
import socket

from pythonosc import slip

from streamer.osc_codec import MAX_DATAGRAM, UnreadablePacketError
from streamer.osc_udp import cannot_listen

MAX_UNSENT = 1 << 20
"""Bytes that may wait for a client that does not read; with more it is dropped."""

_MAX_FRAME = 2 * MAX_DATAGRAM  # every byte escaped
_CHUNK = 4096  # read at once: so much, and then it is others' turn


class Unframer:
    """Takes a stream of SLIP apart, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the packets that these bytes complete.

        Raises:
            UnreadablePacketError: one gets longer than any packet may be, or is not SLIP.
        """
        *ended, rest = data.split(slip.END)
        packets = []
        for piece in ended:
            self._grow(piece)
            if self._begun:
                packets.append(_unescaped(self._begun))
            self._begun.clear()
        self._grow(rest)
        return packets

    def _grow(self, piece: bytes) -> None:
        self._begun += piece
        if len(self._begun) > _MAX_FRAME:
            raise UnreadablePacketError("a frame that does not end")


def _unescaped(frame: bytearray) -> bytes:
    try:
        return slip.decode(slip.END + bytes(frame) + slip.END)
    except slip.ProtocolError:
        raise UnreadablePacketError("a frame with a byte that must be escaped") from None


class Connection:
    """One client.

    Args:
        link: connected; closed with this.

    Attributes:
        is_open: False when either side has ended it, or it was dropped; its owner then closes it.
    """

    def __init__(self, link: socket.socket) -> None:
        self.is_open = True
        self._socket = link
        self._unframer = Unframer()
        self._unsent = bytearray()
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def events(self) -> int:
        """What a selector should wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def close(self) -> None:
        """End it."""
        self.is_open = False
        self._socket.close()

    def receive(self) -> list[bytes]:
        """The packets that have come since the last call, of up to 4 KiB of stream.

        Raises:
            UnreadablePacketError: what comes is not SLIP; there is no way on from there.
        """
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.is_open = bool(data)
        return self._unframer.feed(data)

    def send(self, packet: bytes) -> None:
        """Send as much as the client takes now and keep the rest; a client that takes nothing is dropped."""
        if not self.is_open:
            return
        waits = bool(self._unsent)
        self._unsent += slip.encode(packet)
        if not waits:
            self.flush()
        if len(self._unsent) > MAX_UNSENT:
            self.is_open = False

    def flush(self) -> None:
        """Send more of what waits, if anything does."""
        if not self._unsent or not self.is_open:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self.is_open = False
            self._unsent.clear()
            return
        del self._unsent[:sent]


class Listener:
    """Where clients connect.

    Raises:
        StreamerError: the port is busy or cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Otherwise the port stays busy for a minute after a client has been served.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen()
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise cannot_listen(host, port, error) from error
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def close(self) -> None:
        """Free the port; connections stay."""
        self._socket.close()

    def accept(self) -> Connection | None:
        """The next client; None where there is none."""
        try:
            return Connection(self._socket.accept()[0])
        except OSError:  # none, or it has gone already, or the process has no more files to open
            return None
