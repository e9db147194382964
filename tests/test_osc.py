"""The OSC server, over real UDP sockets on loopback."""

import random
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from osc_rig import DEADLINE, Client, Memory, encode, tags_of
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from streamer import __version__
from streamer.controls import CONTROLS, Control
from streamer.models.errors import ControlError, StreamerError
from streamer.osc import COMMANDS, ERRORS_PER_SECOND, MAX_LISTENERS, MAX_WAITING, REPLIES, OscServer
from streamer.osc_codec import (
    MAX_ARGUMENTS,
    MAX_DEPTH,
    MAX_MESSAGES,
    UnreadablePacketError,
    read_packet,
    write_message,
)

SETTABLE = [control for control in CONTROLS if control.type in ("float", "int", "bool")]
settable = pytest.mark.parametrize("control", SETTABLE, ids=lambda control: control.name)


def bundle(*elements: bytes, timetag: bytes = b"\0\0\0\0\0\0\0\1") -> bytes:
    return b"#bundle\0" + timetag + b"".join(struct.pack(">i", len(each)) + each for each in elements)


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


@pytest.fixture
def other(server: OscServer) -> Iterator[Client]:
    each = Client(server.port)
    yield each
    each.close()


# --- controls ---------------------------------------------------------------------------------------------


@settable
@pytest.mark.parametrize("tag", "ifdhs")
def test_every_control_takes_every_type_of_number(
    client: Client, instrument: Memory, control: Control, tag: str
) -> None:
    value = {"s": "1", "f": 1.0, "d": 1.0}.get(tag, 1)
    assert client.ask(control.address, value, tags=tag) == (control.address, [1])
    assert instrument.values[control.name] == 1
    assert isinstance(
        instrument.values[control.name], {"float": float, "int": int, "bool": bool}[control.type]
    )


@settable
@pytest.mark.parametrize("flag", [True, False])
def test_every_control_takes_true_and_false(client: Client, control: Control, flag: bool) -> None:
    assert client.ask(control.address, flag) == (control.address, [int(flag)])


@settable
@pytest.mark.parametrize("far", [-1e9, 1e12])
def test_out_of_range_is_clamped_and_the_clamped_value_confirmed(
    client: Client, instrument: Memory, control: Control, far: float
) -> None:
    address, arguments = client.ask(control.address, far)
    limit = control.minimum if far < 0 else control.maximum
    assert (address, arguments) == (control.address, [limit])
    assert instrument.values[control.name] == limit


def test_confirmations_are_of_the_controls_type(client: Client) -> None:
    for address, tag in (("/streamer/temperature", "f"), ("/streamer/top_k", "i"), ("/streamer/play", "i")):
        client.send(address, 1.0)
        assert tags_of(client.hear_bytes()) == tag


@settable
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "loud", ""], ids=repr)
def test_what_is_no_number_changes_nothing(
    client: Client, instrument: Memory, control: Control, value: object
) -> None:
    before = dict(instrument.values)
    assert client.ask(control.address, value)[0] == "/streamer/error"
    assert client.settled() == []
    assert instrument.values == before


@pytest.mark.parametrize(
    ("arguments", "tags", "text"),
    [
        ((), None, "0 arguments"),
        ((0.5, 0.5), None, "2 arguments"),
        ((b"abcd",), None, "type tag 'b'"),
        ((None,), None, "type tag 'N'"),
        (((1, 2, 3, 4),), None, "type tag 'm'"),
        (([1.0],), None, "type tag '['"),
        ((1.0,) * (MAX_ARGUMENTS + 1), None, "17 arguments"),
    ],
)
def test_wrong_arguments_are_refused_in_words(
    client: Client, instrument: Memory, arguments: tuple[object, ...], tags: str | None, text: str
) -> None:
    client.send("/streamer/temperature", *arguments, tags=tags)
    address, (about, said) = client.hear()
    assert (address, about) == ("/streamer/error", "/streamer/temperature")
    assert text in str(said)
    assert instrument.values["temperature"] == 1.0


def test_an_unknown_address_is_refused_with_the_candidates(client: Client) -> None:
    client.send("/streamer/temprature", 1.0)
    text = client.refused()
    for address in [*(control.address for control in CONTROLS), *COMMANDS]:
        assert address in text


def test_a_trigger_fires_on_press_not_on_release(client: Client, instrument: Memory) -> None:
    for arguments in ((), (1,), (1.0,), (True,)):
        assert client.ask("/streamer/reset", *arguments) == ("/streamer/reset", [1])
    client.send("/streamer/reset", 0.0)
    client.send("/streamer/reset", False)
    assert client.settled() == []
    assert instrument.resets == 4


def test_a_bang_and_a_symbol_are_understood(client: Client, instrument: Memory) -> None:
    client.raw(b"/streamer/reset\0,I\0\0")
    assert client.hear() == ("/streamer/reset", [1])
    client.raw(b"/streamer/top_k\0,S\0\x0040\0\0")
    assert client.hear() == ("/streamer/top_k", [40])
    assert instrument.resets == 1


def test_a_message_without_type_tags(client: Client, instrument: Memory) -> None:
    client.raw(b"/streamer/reset\0")
    assert client.hear() == ("/streamer/reset", [1])
    client.raw(b"/streamer/gain\0\0" + struct.pack(">f", 0.5))
    assert "type tags" in client.refused()
    assert instrument.values["gain"] == 1.0


def test_a_cut_float_is_not_taken_for_zero(client: Client, server: OscServer, instrument: Memory) -> None:
    client.raw(encode("/streamer/gain", 0.5)[:-4])
    assert client.settled() == []
    assert instrument.values["gain"] == 1.0
    assert server.counters.unreadable == 1


# --- models, which take a while ---------------------------------------------------------------------------


def test_a_model_is_confirmed_when_it_has_loaded(client: Client, other: Client, server: OscServer) -> None:
    client.send("/streamer/model", "choir")
    client.send("/streamer/sync", 7)
    assert client.ask("/streamer/ping")[0] == "/streamer/pong"  # neither confirmed nor synced as yet
    server.changed("model", "choir")
    assert client.hear() == ("/streamer/model", ["choir"])
    assert client.hear() == ("/streamer/synced", [7])
    assert other.settled() == []


def test_a_model_that_cannot_be_loaded_is_an_error_to_who_asked(client: Client, server: OscServer) -> None:
    client.send("/streamer/model", "choir")
    assert client.ask("/streamer/ping")[0] == "/streamer/pong"
    server.failed("model", "choir", "choir.safetensors is cut short; copy it again")
    assert client.hear() == (
        "/streamer/error",
        ["/streamer/model", "choir.safetensors is cut short; copy it again"],
    )
    assert client.settled() == []


def test_a_later_model_is_still_waited_for(client: Client, other: Client, server: OscServer) -> None:
    client.send("/streamer/model", "choir")
    assert client.ask("/streamer/ping")[0] == "/streamer/pong"
    other.send("/streamer/model", "rain")
    assert other.ask("/streamer/ping")[0] == "/streamer/pong"
    server.changed("model", "choir")
    assert client.hear() == ("/streamer/model", ["choir"])
    server.changed("model", "rain")
    assert other.hear() == ("/streamer/model", ["rain"])
    assert client.settled() == []


def test_a_model_that_was_overtaken_ends_with_the_later_one(client: Client, server: OscServer) -> None:
    client.send("/streamer/model", "choir")
    client.send("/streamer/model", "rain")
    client.send("/streamer/sync", 7)
    assert client.ask("/streamer/ping")[0] == "/streamer/pong"
    server.changed("model", "rain")
    assert client.hear() == ("/streamer/model", ["rain"])
    assert client.hear() == ("/streamer/synced", [7])


def test_an_unknown_model_is_refused_at_once(client: Client) -> None:
    client.send("/streamer/model", "snow")
    assert client.refused() == "no model snow; there are rain, choir"
    client.send("/streamer/model", 3)
    assert "takes a text" in client.refused()


def test_waiting_requests_are_bounded(client: Client, server: OscServer) -> None:
    for _ in range(MAX_WAITING):
        client.send("/streamer/model", "choir")
    client.send("/streamer/model", "choir")
    assert f"{MAX_WAITING} changes of model are under way" in client.refused()
    assert client.ask("/streamer/gain", 0.5) == ("/streamer/gain", [0.5])
    for _ in range(MAX_WAITING):
        server.changed("model", "choir")
    assert client.settled() == ["/streamer/model"] * MAX_WAITING


def test_changed_names_a_control(server: OscServer) -> None:
    with pytest.raises(ControlError, match="no control 'tempo'"):
        server.changed("tempo", 1)


# --- bundles ----------------------------------------------------------------------------------------------


def test_a_bundle_is_played_at_once_whatever_its_time(client: Client) -> None:
    ahead = OscBundleBuilder(time.time() + 3600)
    builder = OscMessageBuilder("/streamer/gain")
    builder.add_arg(0.25)
    ahead.add_content(builder.build())
    client.raw(ahead.build().dgram)
    assert client.hear() == ("/streamer/gain", [0.25])


def test_bundles_in_bundles_are_played_in_order(client: Client) -> None:
    inner = bundle(encode("/streamer/top_k", 2), encode("/streamer/top_k", 3))
    client.raw(bundle(encode("/streamer/top_k", 1), inner, encode("/streamer/top_k", 4)))
    assert [client.hear() for _ in range(4)] == [("/streamer/top_k", [each]) for each in (1, 2, 3, 4)]


def test_a_refused_message_leaves_the_rest_of_its_bundle(client: Client) -> None:
    client.raw(bundle(encode("/streamer/gain", "loud"), encode("/streamer/gain", 0.5)))
    assert "gain takes a number from 0 to 2, not 'loud'" in client.refused()
    assert client.hear() == ("/streamer/gain", [0.5])


@pytest.mark.parametrize("size", [-4, -(2**31), 0, 2**31 - 1, 1000])
def test_a_damaged_bundle_changes_nothing(
    client: Client, server: OscServer, instrument: Memory, size: int
) -> None:
    good = bundle(encode("/streamer/gain", 0.5))
    client.raw(good + struct.pack(">i", size) + encode("/streamer/gain", 0.5))
    assert client.settled() == []
    assert instrument.values["gain"] == 1.0
    assert server.counters.unreadable == 1


def test_bundles_are_bounded_in_depth_and_length() -> None:
    ping = encode("/streamer/ping")
    nested = ping
    for _ in range(MAX_DEPTH):
        nested = bundle(nested)
    assert len(read_packet(nested)) == 1
    assert len(read_packet(bundle(*[ping] * MAX_MESSAGES))) == MAX_MESSAGES
    for too_much in (bundle(nested), bundle(*[ping] * (MAX_MESSAGES + 1))):
        with pytest.raises(UnreadablePacketError):
            read_packet(too_much)


# --- listeners --------------------------------------------------------------------------------------------


def test_a_listener_hears_every_value_then_every_change(client: Client, other: Client) -> None:
    client.send("/streamer/listen")
    assert client.hear() == ("/streamer/listening", [client.port])
    told = {client.hear()[0] for _ in range(len(CONTROLS) - 1)}
    assert told == {control.address for control in CONTROLS if control.type != "trigger"}
    other.send("/streamer/temperature", 5)
    assert client.expect("/streamer/temperature") == [2.0]
    assert other.hear() == ("/streamer/temperature", [2.0])


def test_a_registered_port_gets_the_replies(client: Client, other: Client) -> None:
    client.send("/streamer/listen", float(other.port))  # Pure Data sends only floats
    assert other.expect("/streamer/listening") == [other.port]
    client.send("/streamer/ping")
    assert other.expect("/streamer/pong") == [__version__]
    client.send("/streamer/gain", "loud")
    assert other.expect("/streamer/error")[0] == "/streamer/gain"
    client.send("/streamer/unlisten")
    assert other.expect("/streamer/listening") == [0]
    assert client.ask("/streamer/ping") == ("/streamer/pong", [__version__])


def test_listen_zero_ends_it(client: Client) -> None:
    client.send("/streamer/listen")
    assert client.expect("/streamer/listening") == [client.port]
    client.send("/streamer/listen", 0)
    assert client.expect("/streamer/listening") == [0]
    assert client.settled() == []


def test_a_change_from_elsewhere_is_told_to_listeners(client: Client, server: OscServer) -> None:
    client.send("/streamer/listen")
    client.settled()
    server.changed("gain", np.float32(0.125))
    assert client.expect("/streamer/gain") == [0.125]


@pytest.mark.parametrize("port", [-1, 65_536, 1e30, float("nan"), "seven"])
def test_an_impossible_port_is_refused(client: Client, port: object) -> None:
    client.send("/streamer/listen", port)
    assert "a port is a number from 1 to 65535" in client.refused()


def test_the_server_does_not_listen_to_itself(client: Client, server: OscServer) -> None:
    client.send("/streamer/listen", server.port)
    assert "streamer's own" in client.refused()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
def test_packets_that_claim_to_be_the_servers_own_are_dropped(client: Client, server: OscServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as twin:
        twin.bind(("127.0.0.2", server.port))
        twin.sendto(encode("/streamer/gain", 0.5), ("127.0.0.1", server.port))
    assert client.ask("/streamer/get", "gain") == ("/streamer/gain", [1.0])
    assert server.counters.unreadable == 1


def test_replies_are_never_answered(client: Client) -> None:
    for address in REPLIES:
        client.send(address, "hello")
    assert client.settled() == []


def test_listeners_are_bounded_and_the_quietest_goes(server: OscServer) -> None:
    with ExitStack() as stack:
        first, second, *others = clients = [Client(server.port) for _ in range(MAX_LISTENERS + 1)]
        for each in clients:
            stack.callback(each.close)
        for each in clients[:-1]:
            each.send("/streamer/listen")
            each.settled()
        first.send("/streamer/ping")
        first.expect("/streamer/pong")
        others[-1].send("/streamer/listen")
        assert "/streamer/listening" in others[-1].settled()
        assert second.expect("/streamer/listening") == [0]
        others[-1].send("/streamer/gain", 0.5)
        for each in (first, *others):
            assert each.expect("/streamer/gain") == [0.5]


def test_opening_a_patch_again_takes_no_second_place(server: OscServer, client: Client) -> None:
    for _ in range(3):
        again = Client(server.port)
        again.send("/streamer/listen", client.port)
        assert client.expect("/streamer/listening") == [client.port]
        again.close()
    client.send("/streamer/status")
    pairs = client.expect("/streamer/status.reply")
    assert dict(zip(pairs[::2], pairs[1::2], strict=True))["osc_listeners"] == 1


# --- commands ---------------------------------------------------------------------------------------------


def test_status_is_flat_keys_and_values_of_common_types(client: Client) -> None:
    address, arguments = client.ask("/streamer/status")
    assert address == "/streamer/status.reply"
    pairs = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert pairs["buffer_ms"] == 120.5
    assert pairs["underruns"] == 3
    assert pairs["frames"] == 2.0**40
    assert pairs["model"] == "rain"
    assert pairs["osc_unreadable"] == pairs["osc_refused"] == pairs["osc_listeners"] == 0


def test_status_comes_to_listeners_by_itself(client: Client) -> None:
    client.send("/streamer/listen")
    client.expect("/streamer/status.reply")
    began = time.monotonic()
    for _ in range(4):
        client.expect("/streamer/status.reply")
    assert 0.5 < time.monotonic() - began < DEADLINE


def test_get_asks_for_one_control(client: Client, other: Client) -> None:
    other.send("/streamer/listen")
    other.settled()
    assert client.ask("/streamer/get", "gain") == ("/streamer/gain", [1.0])
    assert client.ask("/streamer/get", "/streamer/top-k") == ("/streamer/top_k", [0])
    assert client.ask("/streamer/get", "model") == ("/streamer/model", ["rain"])
    assert "/streamer/gain" not in other.settled()
    for wrong in ("reset", "tempo", 3):
        client.send("/streamer/get", wrong)
        assert client.refused()


def test_models_and_controls_are_listed(client: Client) -> None:
    client.send("/streamer/models")
    assert [client.hear() for _ in range(3)] == [
        ("/streamer/models.reply", ["rain"]),
        ("/streamer/models.reply", ["choir"]),
        ("/streamer/models.done", [2]),
    ]
    client.send("/streamer/controls")
    rows = [client.hear()[1] for _ in CONTROLS]
    assert [row[1] for row in rows] == [control.address for control in CONTROLS]
    assert rows[3] == ["gain", "/streamer/gain", "float", 0.0, 2.0, 1.0, "amplitude", CONTROLS[3].description]
    assert client.hear() == ("/streamer/controls.done", [len(CONTROLS)])


@pytest.mark.parametrize("identity", [7, 0.5, "here"])
def test_sync_returns_what_it_was_given(client: Client, identity: object) -> None:
    assert client.ask("/streamer/sync", identity) == ("/streamer/synced", [identity])


def test_waiting_syncs_are_bounded(client: Client, server: OscServer) -> None:
    client.send("/streamer/model", "choir")
    for each in range(MAX_WAITING + 1):
        client.send("/streamer/sync", each)
    assert "too many syncs" in client.refused()
    server.changed("model", "choir")
    assert client.hear() == ("/streamer/model", ["choir"])
    assert [client.hear()[1] for _ in range(MAX_WAITING)] == [[each] for each in range(MAX_WAITING)]


@pytest.mark.parametrize("name", ["unlisten", "status", "models", "controls", "ping"])
def test_commands_without_arguments_refuse_them(client: Client, name: str) -> None:
    client.send(f"/streamer/{name}", 1)
    assert "takes no arguments" in client.refused()


@pytest.mark.parametrize("address", sorted(COMMANDS))
def test_every_command_is_known(client: Client, address: str) -> None:
    _, arguments = client.ask(address)
    assert not any("unknown address" in str(argument) for argument in arguments)


def test_addresses_do_not_clash() -> None:
    addresses = [*(control.address for control in CONTROLS), *COMMANDS, *REPLIES]
    assert len(addresses) == len(set(addresses))


# --- what must not stop it --------------------------------------------------------------------------------


def hostile_packets(chance: random.Random, count: int) -> Iterator[bytes]:
    """Random bytes; valid packets that are cut, have bytes flipped or put in; wrong and unknown types."""
    valid = [encode(control.address, 1.0) for control in CONTROLS]
    valid += [encode(address, "x" * 40, 3) for address in COMMANDS]
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
        # In step with the server, so that it is the server that drops them and not the socket. A fuzzed
        # model or sync may be waiting, so it is a ping that is awaited, by someone else.
        client.send("/streamer/ping")
        client.expect("/streamer/pong")
    assert server.counters.received > 20_000
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


@settings(max_examples=500, deadline=None)
@given(
    packet=st.binary(max_size=300).map(lambda tail: b"/streamer/gain\0\0" + tail) | st.binary(max_size=300)
)
@example(b"#bundle\0" + bytes(8) + struct.pack(">i", -4))  # on which python-osc never ends
@example(b"/a\0\0,bs\0" + struct.pack(">i", -12))  # which sends python-osc backwards
def test_any_bytes_are_messages_or_unreadable(packet: bytes) -> None:
    try:
        messages = read_packet(packet)
    except UnreadablePacketError:
        return
    for message in messages:
        assert message.address.startswith("/")
        assert not (message.fault and message.arguments)


@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False) | st.integers() | st.booleans() | st.text(), max_size=8
    )
)
def test_what_is_written_is_read_by_python_osc_as_common_types(values: list[object]) -> None:
    packet = write_message("/streamer/status.reply", *values)
    assert set(tags_of(packet)) <= set("ifs")
    assert len(OscMessage(packet).params) == len(values)
    assert len(packet) % 4 == 0


def test_errors_are_rate_limited_and_counted(client: Client, server: OscServer) -> None:
    for _ in range(10):
        for _ in range(20):
            client.send("/nowhere")
        client.send("/streamer/sync", 1)
    heard = 0
    synced = 0
    began = time.monotonic()
    while synced < 10:
        address, _ = client.hear()
        heard += address == "/streamer/error"
        synced += address == "/streamer/synced"
    assert server.counters.refused == 200
    assert 1 <= heard <= ERRORS_PER_SECOND * (2 + time.monotonic() - began)


def test_a_fault_of_the_instrument_is_an_error_reply(
    client: Client, instrument: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    instrument.broken = True
    client.send("/streamer/gain", 0.5)
    assert "internal fault" in client.refused()
    assert "a fault of the instrument" in caplog.text
    instrument.broken = False
    assert client.ask("/streamer/gain", 0.5) == ("/streamer/gain", [0.5])


# --- life -------------------------------------------------------------------------------------------------


def test_a_busy_port_is_one_line_that_names_the_way_out(server: OscServer) -> None:
    with pytest.raises(StreamerError) as refusal:
        OscServer(Memory(), port=server.port)
    text = str(refusal.value)
    assert str(server.port) in text
    assert "--osc-port" in text
    assert "\n" not in text


@pytest.mark.parametrize(("port", "host"), [(70_000, "127.0.0.1"), (-1, "127.0.0.1"), (0, "192.0.2.1")])
def test_an_impossible_address_is_one_line(port: int, host: str) -> None:
    with pytest.raises(StreamerError, match="OSC cannot listen"):
        OscServer(Memory(), port=port, host=host)


def test_close_ends_the_thread_frees_the_port_and_may_be_repeated() -> None:
    server = OscServer(Memory(), port=0)
    server.start()
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 1
    assert all(thread.name != "streamer-osc" for thread in threading.enumerate())
    server.close()
    server.changed("gain", 0.5)  # a late loader has nobody to tell
    with OscServer(Memory(), port=server.port) as again:
        assert again.port == server.port


def test_it_is_reachable_on_loopback_alone(server: OscServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(DEADLINE)
        with pytest.raises(OSError, match=r"refused|assign|unreachable|timed out"):
            _ping(stranger, ("127.0.0.2", server.port))


def _ping(client: socket.socket, server: tuple[str, int]) -> bytes:
    client.connect(server)
    client.send(encode("/streamer/ping"))
    return client.recv(1000)
