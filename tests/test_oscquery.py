"""OSCQuery, over real HTTP and WebSockets, of the instrument in memory."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from osc_rig import Memory
from pythonosc.osc_message import OscMessage
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from zeroconf import ServiceBrowser, ServiceStateChange, Zeroconf

from streamer.controls import CONTROLS, Control
from streamer.cues import Cue
from streamer.models.errors import StreamerError
from streamer.oscquery import MAX_CLIENTS, MAX_COMMAND, MAX_UNSENT, OscQueryServer, announcement

DEADLINE = 10.0
OSC_PORT = 7770
MARK = "here"


@pytest.fixture
def instrument() -> Memory:
    return Memory()


@pytest.fixture
def server(instrument: Memory) -> Iterator[OscQueryServer]:
    with OscQueryServer(instrument, OSC_PORT) as running:
        yield running


@pytest.fixture
def client(server: OscQueryServer) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.port}/") as connection:
        yield connection


def get(server: OscQueryServer, path: str) -> tuple[int, Any]:
    """The status and the JSON of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if body else None


def listen(client: ClientConnection, path: str, server: OscQueryServer) -> None:
    """Listen to a control, and wait until that and all commands before have been followed."""
    client.send(json.dumps({"COMMAND": "LISTEN", "DATA": path}))
    *_, voice, name = ("0" + path.removeprefix("/streamer").removeprefix("/voice")).split("/")
    deadline = time.monotonic() + DEADLINE
    while True:
        server.changed(int(voice), name, MARK)
        with suppress(TimeoutError):
            if next_message(client, 0.02) == (path, [MARK]):
                return
        assert time.monotonic() < deadline


def heard(client: ClientConnection) -> tuple[str, list[object]]:
    """The next change."""
    while (message := next_message(client, DEADLINE))[1] == [MARK]:
        pass
    return message


def next_message(client: ClientConnection, patience: float) -> tuple[str, list[object]]:
    packet = client.recv(patience)
    assert isinstance(packet, bytes)
    message = OscMessage(packet)
    return message.address, message.params


def told(client: ClientConnection) -> dict[str, str]:
    """The next that is told of paths."""
    while isinstance(text := client.recv(DEADLINE), bytes):
        pass
    command: dict[str, str] = json.loads(text)
    return command


# --- what is there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_every_control_is_described(server: OscQueryServer, instrument: Memory, control: Control) -> None:
    path = control.voice_address(1) if control.scope == "voice" else control.address
    status, node = get(server, path)
    assert status == 200
    assert (node["FULL_PATH"], node["DESCRIPTION"]) == (path, control.description)
    if control.type == "trigger":
        assert (node["TYPE"], node["ACCESS"], "VALUE" in node) == ("I", 2, False)
        return
    assert node["ACCESS"] == 3
    assert node["VALUE"] == [instrument.get(control.name)]
    assert node["TYPE"] == {"float": "f", "int": "i", "bool": "T", "string": "s"}[control.type]
    if control.type in ("float", "int"):
        assert node["RANGE"] == [{"MIN": control.minimum, "MAX": control.maximum}]
        assert node["CLIPMODE"] == ["both"]


def test_a_model_is_one_of_those_there_are(server: OscQueryServer) -> None:
    assert get(server, "/streamer/voice/1/model?RANGE") == (200, {"RANGE": [{"VALS": ["rain", "choir"]}]})


def test_the_whole_tree_is_one_answer(server: OscQueryServer) -> None:
    status, root = get(server, "/")
    assert (status, root["FULL_PATH"], root["ACCESS"]) == (200, "/", 0)
    streamer = root["CONTENTS"]["streamer"]
    voice = streamer["CONTENTS"]["voice"]["CONTENTS"]["1"]
    assert set(voice["CONTENTS"]) == {control.name for control in CONTROLS if control.scope == "voice"}
    assert voice["CONTENTS"]["gain"] == get(server, "/streamer/voice/1/gain")[1]
    assert (voice["DESCRIPTION"], streamer["CONTENTS"]["volume"]["UNIT"]) == ("first", ["gain.linear"])


def test_attributes_are_asked_for_one_by_one(server: OscQueryServer, instrument: Memory) -> None:
    instrument.perform([Cue(1, "gain", 0.25)])
    assert get(server, "/streamer/voice/1/gain?VALUE") == (200, {"VALUE": [0.25]})
    assert get(server, "/streamer/voice/1/reset?VALUE")[0] == 204
    assert get(server, "/streamer/voice/1/gain?COLOUR")[0] == 400


@pytest.mark.parametrize(
    "path", ["/streamer/voice/9/gain", "/streamer/gain/x", "/..", "/%2e%2e/etc", "/streamer//x"]
)
def test_what_is_not_there_is_not_found(server: OscQueryServer, path: str) -> None:
    assert get(server, path)[0] == 404


def test_host_info_names_the_ports_and_what_can_be_asked(server: OscQueryServer) -> None:
    status, info = get(server, "/?HOST_INFO")
    assert status == 200
    assert (info["NAME"], info["OSC_PORT"], info["WS_PORT"]) == ("streamer", OSC_PORT, server.port)
    assert info["OSC_TRANSPORT"] == "UDP"
    assert all(info["EXTENSIONS"][name] for name in ("VALUE", "RANGE", "CLIPMODE", "LISTEN", "PATH_ADDED"))


# --- what is pushed ---------------------------------------------------------------------------------------


def test_changes_come_to_those_who_listen(
    server: OscQueryServer, instrument: Memory, client: ClientConnection
) -> None:
    listen(client, "/streamer/voice/1/gain", server)
    listen(client, "/streamer/volume", server)
    instrument.perform([Cue(1, "pan", 0.5)])
    instrument.perform([Cue(1, "gain", 0.25)])
    assert heard(client) == ("/streamer/voice/1/gain", [0.25])
    client.send(json.dumps({"COMMAND": "IGNORE", "DATA": "/streamer/voice/1/gain"}))
    listen(client, "/streamer/lead", server)
    instrument.perform([Cue(1, "gain", 0.75)])
    instrument.perform([Cue(0, "volume", 0.5)])
    assert heard(client) == ("/streamer/volume", [0.5])


def test_a_flood_ends_with_the_last_value(
    server: OscQueryServer, instrument: Memory, client: ClientConnection
) -> None:
    listen(client, "/streamer/voice/1/top_k", server)
    for value in range(5000):
        instrument.perform([Cue(1, "top_k", value)])
    values = [heard(client)[1][0]]
    while values[-1] != 4999:
        values.append(heard(client)[1][0])
    assert values == sorted(values)  # type: ignore[type-var]


def test_voices_that_come_and_go_are_told(
    server: OscQueryServer, instrument: Memory, client: ClientConnection
) -> None:
    listen(client, "/streamer/volume", server)
    number = instrument.add_voice("choir", "second")
    assert told(client) == {"COMMAND": "PATH_ADDED", "DATA": f"/streamer/voice/{number}"}
    listen(client, f"/streamer/voice/{number}/gain", server)
    instrument.remove_voice(number)
    assert told(client) == {"COMMAND": "PATH_REMOVED", "DATA": f"/streamer/voice/{number}"}
    assert get(server, f"/streamer/voice/{number}")[0] == 404


# --- what must not stop it --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    ["", "{", "[]", "7", '{"COMMAND": "LISTEN"}', '{"COMMAND": "LISTEN", "DATA": 7}', "[" * 4000, b"\0\1"]
    + [json.dumps({"COMMAND": command, "DATA": "/nowhere"}) for command in ("LISTEN", "IGNORE", "DANCE")],
    ids=range(11),
)
def test_strange_commands_are_left_aside(
    server: OscQueryServer, instrument: Memory, client: ClientConnection, message: str | bytes
) -> None:
    client.send(message)
    listen(client, "/streamer/volume", server)
    instrument.perform([Cue(0, "volume", 0.5)])
    assert heard(client) == ("/streamer/volume", [0.5])


def test_a_command_that_is_too_long_ends_only_its_client(
    server: OscQueryServer, client: ClientConnection
) -> None:
    client.send("x" * (MAX_COMMAND + 1))
    with pytest.raises(ConnectionClosed):
        client.recv(DEADLINE)
    assert get(server, "/?HOST_INFO")[0] == 200


@pytest.mark.parametrize(
    "data", [b"\0\1\2\n\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"G" * 100_000]
)
def test_what_is_no_request_ends_only_its_connection(server: OscQueryServer, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as stranger:
        stranger.sendall(data)
        answer = b""
        with suppress(ConnectionResetError):
            stranger.shutdown(socket.SHUT_WR)
            while piece := stranger.recv(65_536):
                answer += piece
        assert b" 200 " not in answer
    assert get(server, "/?HOST_INFO")[0] == 200


def test_connections_are_bounded(server: OscQueryServer) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE))
        extra = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), DEADLINE))
        with suppress(ConnectionResetError):
            assert extra.recv(1) == b""
    deadline = time.monotonic() + DEADLINE
    while True:  # as soon as they have gone there is room again
        try:
            assert get(server, "/?HOST_INFO")[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            assert time.monotonic() < deadline


def test_a_client_that_does_not_read_is_dropped(
    server: OscQueryServer, instrument: Memory, client: ClientConnection
) -> None:
    deaf = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b"101" in deaf.recv(12)
    deaf.sendall(masked(b'{"COMMAND": "LISTEN", "DATA": "/streamer/voice/1/model"}'))
    listen(client, "/streamer/voice/1/model", server)
    text = "x" * 1000
    for _ in range(4 * MAX_UNSENT // len(text)):
        server.changed(1, "model", text)
        assert heard(client) == ("/streamer/voice/1/model", [text])  # so that the next does not replace it
    with deaf, suppress(ConnectionResetError):
        while deaf.recv(65_536):  # what had been on its way; then it ends, where otherwise it would wait
            pass
    assert get(server, "/?HOST_INFO")[0] == 200


def masked(text: bytes) -> bytes:
    """A WebSocket frame of a client, its mask nought."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


# --- life -------------------------------------------------------------------------------------------------


def test_a_busy_port_is_one_line_that_names_the_way_out(server: OscQueryServer) -> None:
    with pytest.raises(StreamerError, match=rf"port {server.port} .*--oscquery-port"):
        OscQueryServer(Memory(), OSC_PORT, port=server.port)


def test_close_frees_the_port_and_may_be_repeated(instrument: Memory) -> None:
    server = OscQueryServer(instrument, OSC_PORT)
    server.close()
    with OscQueryServer(instrument, OSC_PORT, port=server.port) as again:
        assert get(again, "/?HOST_INFO")[0] == 200
    again.close()
    instrument.perform([Cue(0, "volume", 0.5)])  # a late change has nobody to be told to


def test_the_announcement_is_found(server: OscQueryServer) -> None:
    found: dict[str, int | None] = {}

    def note(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        info = zeroconf.get_service_info(service_type, name)
        found[service_type] = info.port if info else None

    with announcement("127.0.0.1", server.port, OSC_PORT):
        zeroconf = Zeroconf(interfaces=["127.0.0.1"])
        browser = ServiceBrowser(zeroconf, ["_oscjson._tcp.local.", "_osc._udp.local."], handlers=[note])
        deadline = time.monotonic() + DEADLINE
        while len(found) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        browser.cancel()
        zeroconf.close()
    assert found == {"_oscjson._tcp.local.": server.port, "_osc._udp.local.": OSC_PORT}
