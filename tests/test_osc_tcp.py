"""The OSC server over TCP, with python-osc's SLIP on the other side."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest
from osc_rig import DEADLINE, Client, Memory, TcpClient, at, encode
from pythonosc.slip import encode as frame

from streamer import __version__
from streamer.cues import Cue
from streamer.models.errors import StreamerError
from streamer.osc import OscServer
from streamer.osc_codec import MAX_DATAGRAM
from streamer.osc_transport import MAX_CONNECTIONS


@pytest.fixture
def instrument() -> Memory:
    return Memory()


@pytest.fixture
def server(instrument: Memory) -> Iterator[OscServer]:
    with OscServer(instrument, port=0) as running:
        yield running


@pytest.fixture
def client(server: OscServer) -> Iterator[TcpClient]:
    each = TcpClient(server.port)
    yield each
    each.close()


def wait_for_listeners(client: Client, count: int) -> None:
    until = time.monotonic() + DEADLINE
    while listeners(client) != count:
        assert time.monotonic() < until, f"there are not {count} listeners"


def listeners(client: Client) -> int:
    client.send("/streamer/status")
    pairs = client.expect("/streamer/status.reply")
    return int(dict(zip(pairs[::2], pairs[1::2], strict=True))["osc_listeners"])


def test_replies_come_on_the_connection(client: TcpClient, instrument: Memory) -> None:
    assert client.ask("/streamer/ping") == ("/streamer/pong", [__version__])
    assert client.ask("/streamer/gain", 0.5) == ("/streamer/gain", [0.5])
    client.send("/streamer/gain", "loud")
    assert "gain takes a number" in client.refused()
    moment = round(time.time()) + 5.0
    client.raw(at(moment, encode("/streamer/pan", 1)))
    assert client.hear() == ("/streamer/pan", [1.0])
    assert instrument.performed[-1] == ((Cue(1, "pan", 1.0),), moment)


def test_packets_come_in_any_pieces(client: TcpClient) -> None:
    stream = frame(encode("/streamer/top_k", 0xC0)) + frame(encode("/streamer/seed", 0xDB))
    for place in range(len(stream)):
        client.raw_stream(stream[place : place + 1])
    assert [client.hear() for _ in range(2)] == [("/streamer/top_k", [192]), ("/streamer/seed", [219])]
    client.raw_stream(stream * 1000)
    heard = client.until_synced()
    assert {(address, *values) for address, values in heard} == {
        ("/streamer/top_k", 192),
        ("/streamer/seed", 219),
    }


def test_a_subscription_is_the_connections(client: TcpClient, server: OscServer) -> None:
    udp = Client(server.port)
    client.send("/streamer/subscribe", 9, 50)  # no port is needed, and none is used
    assert client.hear() == ("/streamer/listening", [0])
    assert client.expect("/streamer/meters")
    udp.send("/streamer/voice/1/gain", 0.25)
    assert client.expect("/streamer/voice/1/gain") == [0.25]
    wait_for_listeners(udp, 1)
    client.close()
    wait_for_listeners(udp, 0)
    udp.close()


@pytest.mark.parametrize(
    "stream", [b"x" * (2 * MAX_DATAGRAM + 1), b"\xc0/a\xdbb\xc0"], ids=["endless", "not SLIP"]
)
def test_a_stream_that_is_no_osc_is_ended_and_counted(server: OscServer, stream: bytes) -> None:
    bad, good = TcpClient(server.port), TcpClient(server.port)
    bad.raw_stream(stream)
    with pytest.raises((EOFError, ConnectionError)):
        bad.hear()
    good.send("/streamer/status")
    pairs = good.expect("/streamer/status.reply")
    assert dict(zip(pairs[::2], pairs[1::2], strict=True))["osc_unreadable"] == 1
    bad.close()
    good.close()


def test_packets_that_are_no_osc_are_counted_and_the_stream_goes_on(
    client: TcpClient, server: OscServer
) -> None:
    client.raw(b"hello")
    client.raw_stream(b"\xc0\xc0\xc0")
    assert client.ask("/streamer/ping") == ("/streamer/pong", [__version__])
    assert server.counters.unreadable == 1


def test_connections_are_bounded(server: OscServer) -> None:
    clients = [TcpClient(server.port) for _ in range(MAX_CONNECTIONS)]
    for each in clients:
        assert each.ask("/streamer/ping")[0] == "/streamer/pong"
    extra = TcpClient(server.port)
    with pytest.raises((EOFError, ConnectionError)):
        extra.hear()
    clients.pop().close()
    until = time.monotonic() + DEADLINE
    while True:  # until the server has seen that there is room
        assert time.monotonic() < until
        again = TcpClient(server.port)
        try:
            assert again.ask("/streamer/ping")[0] == "/streamer/pong"
        except (EOFError, ConnectionError):
            again.close()
        else:
            break
    for each in (*clients, extra, again):
        each.close()


def test_a_client_that_does_not_read_is_dropped_and_holds_up_nobody(server: OscServer) -> None:
    slow, other = TcpClient(server.port), Client(server.port)
    slow.send("/streamer/subscribe", 0, 0)
    slow.expect("/streamer/listening")
    with pytest.raises(ConnectionError):
        flood(slow, other)
    wait_for_listeners(other, 0)
    slow.close()
    other.close()


def flood(slow: Client, other: Client) -> None:
    """Have one send without reading until it is cut off, while another is answered."""
    until = time.monotonic() + 8 * DEADLINE
    while time.monotonic() < until:
        slow.send("/streamer/controls")
        assert other.ask("/streamer/ping")[0] == "/streamer/pong"


def test_a_connection_that_is_reset_does_no_harm(server: OscServer, client: TcpClient) -> None:
    for _ in range(20):
        link = socket.create_connection(("127.0.0.1", server.port))
        link.sendall(frame(encode("/streamer/controls")))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.close()
    assert client.ask("/streamer/ping") == ("/streamer/pong", [__version__])


def test_a_port_that_is_busy_for_tcp_alone_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StreamerError, match=rf"OSC cannot listen on port {port}.*--osc-port"):
            OscServer(Memory(), port=port)
