"""The server's sockets: packets come from UDP and TCP, and go out to either, on one thread.

What has come is read first and played later, in small batches: the kernel's buffers stay empty through a
burst, even where the system gives them no more than a few hundred packets' room.
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
"""Packets that have been read and not yet played."""
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
        self._backlog: deque[tuple[bytes, Peer]] = deque()
        self._backlog_bytes = 0
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
        for key, _ in self._selector.select(0 if self._backlog else seconds):
            if isinstance(key.fileobj, Connection):
                self._receive_stream(key.fileobj)
            else:
                key.data()

    def take(self, count: int) -> Iterator[tuple[bytes, Peer]]:
        """Up to so many of the packets that came first, with their senders."""
        for _ in range(min(count, len(self._backlog))):
            packet, sender = self._backlog.popleft()
            self._backlog_bytes -= len(packet)
            yield packet, sender

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
        while self._has_room:
            came = self.udp.receive()
            if came is None:
                return
            self._keep(*came)

    def _receive_stream(self, connection: Connection) -> None:
        connection.flush()
        if not self._has_room:
            return
        try:
            for packet in connection.receive():
                self._keep(packet, connection)
        except UnreadablePacketError:
            self.unreadable += 1
            connection.is_open = False

    @property
    def _has_room(self) -> bool:
        return len(self._backlog) < MAX_BACKLOG and self._backlog_bytes < MAX_BACKLOG_BYTES

    def _keep(self, packet: bytes, sender: Peer) -> None:
        self.received += 1
        if not isinstance(sender, Connection) and self.is_own(sender):
            self.unreadable += 1  # forged, to have the server talk to itself
            return
        self._backlog.append((packet, sender))
        self._backlog_bytes += len(packet)

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
