"""The server's sockets: packets come from UDP and TCP, and go out to either, on one thread.

Datagrams are read as they come and played later, in small batches: the kernel's buffers stay empty through a
burst. Streams are read a little at a time, when all that was read of them has been played, in turns with the
datagrams: their clients wait, and nobody waits for them.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from streamer.models.errors import StreamerError
from streamer.osc_codec import UnreadablePacketError
from streamer.osc_subscribers import Peer
from streamer.osc_tcp import Connection, Listener
from streamer.osc_udp import Address, UdpSocket

MAX_CONNECTIONS = 32
"""TCP clients at once; another is turned away."""
MAX_BACKLOG = 16_384
"""Datagrams that have been read and not yet played."""
MAX_BACKLOG_BYTES = 16 << 20
_TRIES = 16


class Transport:
    """UDP and TCP on one port number.

    Args:
        host: an IPv4 address of this machine, or "0.0.0.0" for all.
        port: 0 for any that is free for both.

    Attributes:
        udp: where datagrams come and go.
        received: packets.
        unreadable: streams that were ended since they are not OSC, and packets that were forged.
        refused: receivers of whom the network says that nobody listens; their owner takes them out.
        gone: connections that have ended; their owner takes them out.

    Raises:
        StreamerError: the port is busy or cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        self.udp, self._listener = _bind(host, port)
        self.port = self.udp.port
        self.received = 0
        self.unreadable = 0
        self.refused: deque[Address] = deque(maxlen=1024)
        self.gone: list[Connection] = []
        self._datagrams: deque[tuple[bytes, Address]] = deque()
        self._datagram_bytes = 0
        self._streamed: deque[tuple[bytes, Connection]] = deque()
        self._connections: list[Connection] = []
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.udp, selectors.EVENT_READ, self._receive_datagrams)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._drain_wake)

    def close(self) -> None:
        """Free the port and end all connections."""
        self._selector.close()
        for link in self._connections:
            link.close()
        for own in (self._wake_in, self._wake_out):
            own.close()
        self._listener.close()
        self.udp.close()

    def wake(self) -> None:
        """End `wait`; from any thread."""
        with suppress(OSError):  # full: it is awake already; closed: there is nobody to wake
            self._wake_out.send(b"\0")

    def wait(self, seconds: float | None) -> None:
        """Read what has come; where nothing has, and nothing waits in `take`, wait for it, or for `wake`."""
        self._tend()
        streams_are_due = not self._streamed
        for key, _ in self._selector.select(0 if self._datagrams or self._streamed else seconds):
            if not isinstance(key.fileobj, Connection):
                key.data()
            elif streams_are_due:
                self._receive_stream(key.fileobj)

    def take(self, count: int) -> Iterator[tuple[bytes, Peer]]:
        """The packets that came first, with their senders: up to so many datagrams, and as many streamed."""
        for _ in range(min(count, len(self._datagrams))):
            packet, address = self._datagrams.popleft()
            self._datagram_bytes -= len(packet)
            yield packet, address
        for _ in range(min(count, len(self._streamed))):
            yield self._streamed.popleft()

    def send(self, packet: bytes, receiver: Peer) -> None:
        """Send without waiting; what cannot be sent is the receiver's loss."""
        if isinstance(receiver, Connection):
            receiver.send(packet)
        else:
            self.udp.send(packet, receiver)

    def is_own(self, address: Address) -> bool:
        """Whether what is sent to this address comes back to us."""
        return address[1] == self.port and _is_local(address[0])

    def _receive_datagrams(self) -> None:
        self.refused.extend(self.udp.refusals())
        while len(self._datagrams) < MAX_BACKLOG and self._datagram_bytes < MAX_BACKLOG_BYTES:
            came = self.udp.receive()
            if came is None:
                return
            self._keep(*came)

    def _receive_stream(self, connection: Connection) -> None:
        connection.flush()
        try:
            packets = connection.receive()
            self.received += len(packets)
            self._streamed += [(packet, connection) for packet in packets]
        except UnreadablePacketError:
            self.unreadable += 1
            connection.is_open = False

    def _keep(self, packet: bytes, sender: Address) -> None:
        self.received += 1
        if self.is_own(sender):  # forged, to have the server talk to itself
            self.unreadable += 1
            return
        self._datagrams.append((packet, sender))
        self._datagram_bytes += len(packet)

    def _accept(self) -> None:
        connection = self._listener.accept()
        if connection is None:
            return
        if len(self._connections) == MAX_CONNECTIONS:
            connection.close()
            return
        self._connections.append(connection)
        self._selector.register(connection, connection.events)

    def _tend(self) -> None:
        """Close connections that have ended, and wait for those that can take more of what is unsent."""
        for connection in tuple(self._connections):
            if not connection.is_open:
                self._connections.remove(connection)
                self._selector.unregister(connection)
                connection.close()
                self.gone.append(connection)
            elif connection.events != self._selector.get_key(connection).events:
                self._selector.modify(connection, connection.events)

    def _drain_wake(self) -> None:
        self._wake_in.recv(4096)


def _bind(host: str, port: int) -> tuple[UdpSocket, Listener]:
    """Both sockets on one port; of any free ones, some may be taken for TCP alone."""
    for attempt in range(_TRIES):
        udp = UdpSocket(host, port)
        try:
            return udp, Listener(host, udp.port)
        except StreamerError:
            udp.close()
            if port or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _is_local(host: str) -> bool:
    """Whether an IPv4 address is one of this machine's: what is sent there leaves from there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError:
            return False
        local: str = probe.getsockname()[0]
        return host.startswith("127.") or local == host
