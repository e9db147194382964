"""What must neither stop the OSC server nor cost it memory: damaged packets, huge ones, and bursts."""

import random
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from osc_rig import Client, Memory, TcpClient, bundle, encode

from streamer import __version__
from streamer.controls import COMMANDS, CONTROLS
from streamer.osc import OscServer
from streamer.osc_udp import RECEIVE_BUFFER, UdpSocket


@pytest.fixture
def instrument() -> Memory:
    return Memory()


@pytest.fixture
def server(instrument: Memory) -> Iterator[OscServer]:
    with OscServer(instrument, port=0) as running:
        yield running


@pytest.fixture
def client(server: OscServer) -> Iterator[Client]:
    each = Client(server.port)
    yield each
    each.close()


def hostile_packets(chance: random.Random, count: int) -> Iterator[bytes]:
    """Random bytes; valid packets that are cut, have bytes flipped or put in; wrong and unknown types."""
    valid = [encode(control.address, 1.0) for control in CONTROLS]
    valid += [encode(each.address.replace("<n>", "1"), "x" * 40, 3) for each in COMMANDS]
    valid += [bundle(*valid), bundle(bundle(*valid), valid[0])]
    for _ in range(count):
        packet = bytearray(chance.choice(valid))
        match chance.randrange(5):
            case 0:
                packet = bytearray(chance.randbytes(chance.randrange(200)))
            case 1:
                del packet[chance.randrange(len(packet)) :]
            case 2:
                for _ in range(chance.randrange(1, 8)):
                    packet[chance.randrange(len(packet))] = chance.randrange(256)
            case 3:
                tags = "".join(chance.choices("ifsbhdTFNISrmtc[]", k=chance.randrange(40)))
                packet = bytearray(
                    padded(b"/streamer/gain") + padded(b"," + tags.encode()) + chance.randbytes(64)
                )
            case _:
                packet[4:4] = chance.randbytes(4 * chance.randrange(8))
        yield bytes(packet)


def padded(text: bytes) -> bytes:
    return text + b"\0" * (4 - len(text) % 4)


def peak_memory() -> int:
    """Bytes that this process has ever had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_twenty_thousand_bad_packets_leave_it_serving(client: Client, server: OscServer) -> None:
    bad = Client(server.port)
    chance = random.Random(1)
    before = peak_memory()
    for _ in range(400):
        for packet in hostile_packets(chance, 50):
            bad.raw(packet)
        # In step with the server, so that it is the server that drops them and not the socket.
        client.send("/streamer/ping")
        client.expect("/streamer/pong")
    assert server.counters.unreadable > 5_000
    assert server.counters.refused > 1_000
    assert peak_memory() - before < 32 << 20
    bad.close()


def test_ten_thousand_huge_packets_leave_it_serving(client: Client, server: OscServer) -> None:
    chance = random.Random(2)
    noise = chance.randbytes(60_000)
    huge = [
        noise,
        padded(b"/streamer/gain") + padded(b"," + b"f" * 59_000),
        padded(b"/streamer/model") + padded(b",s") + padded(b"x" * 60_000),
        padded(b"/" + b"a" * 60_000),
        bundle(*[b"/a\0\0,\0\0\0"] * 4_000),
        b"#bundle\0" + b"\0" * 60_000,
        bundle(noise[:40_000], noise[:10_000]),
    ]
    before = peak_memory()
    for number in range(10_000):
        client.raw(huge[number % len(huge)])
        if number % 2:
            assert client.ask("/streamer/ping") == ("/streamer/pong", [__version__])
    assert server.counters.unreadable == 10_000
    assert peak_memory() - before < 32 << 20


@pytest.fixture(params=[Client, TcpClient], ids=["UDP", "TCP"])
def bursting(server: OscServer, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client that can send thousands of messages at once."""
    if request.param is Client and not has_room():
        pytest.skip("the system gives a UDP socket too little room: sysctl net.core.rmem_max=8388608")
    with closing(request.param(server.port)) as each:
        yield each


def has_room() -> bool:
    with closing(UdpSocket("127.0.0.1", 0)) as udp:
        return udp._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= RECEIVE_BUFFER


def test_a_burst_is_taken_whole_and_its_last_values_win(bursting: Client, instrument: Memory) -> None:
    names = ["temperature", "gain", "pan", "centre"]
    for number in range(5000):
        bursting.send(f"/streamer/{names[number % 4]}", number / 5000)
    bursting.until_synced()
    last = [(4996 + place) / 5000 for place in range(4)]
    assert [instrument.first[name] for name in names] == pytest.approx(last)
    bursting.send("/streamer/status")
    pairs = bursting.expect("/streamer/status.reply")
    assert dict(zip(pairs[::2], pairs[1::2], strict=True))["osc_lost"] == 0


def test_what_cannot_be_merged_is_played_one_by_one_in_order(bursting: Client, instrument: Memory) -> None:
    sent = [number / 2000 for number in range(2000)]
    for value in sent:
        bursting.send("/streamer/temperature/ramp", value, 1.0)
    confirmed = [values[0] for _, values in bursting.until_synced()]
    assert [cue.value for cues, _ in instrument.performed for cue in cues] == pytest.approx(sent)
    assert confirmed == pytest.approx(sent)
