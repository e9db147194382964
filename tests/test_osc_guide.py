"""The performer's page on OSC: it explains everything, and everything on it works as written."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from osc_rig import Client, Memory
from pythonosc.tcp_client import SimpleTCPClient
from test_osc import Teacher

from streamer.controls import COMMANDS, CONTROLS, DEFAULT_PORT, REPLIES, Signature
from streamer.osc import OscServer

GUIDE = (Path(__file__).parent.parent / "docs" / "osc.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("signature", [*COMMANDS, *REPLIES], ids=lambda each: each.path)
def test_every_command_and_reply_is_explained(signature: Signature) -> None:
    path = signature.path.replace("voice/<n>/<control>/", "<control>/")
    pattern = path.replace("<n>", r"(<n>|\w+)").replace("<control>", r"(<control>|[a-z_]+)")
    assert re.search(rf"/streamer/{pattern}\b", GUIDE.replace("<control>`", "<control>/x`"))


def test_it_names_the_port_and_no_address_that_is_not() -> None:
    assert str(DEFAULT_PORT) in GUIDE
    templates = {each.address for each in (*COMMANDS, *REPLIES)}
    known = {re.sub(r"<n>", r"([\\w*-]+|<n>)", address) for address in templates}
    controls = "|".join(control.name for control in CONTROLS)
    known = {address.replace("<control>", rf"({controls}|<control>)") for address in known}
    known |= {rf"/streamer/({controls})/(normalized|ramp|env|drift)", "/streamer/temprature"}
    for address in {found.rstrip(";,") for found in re.findall(r"/streamer/[^\s`\"'?()\]]+", GUIDE)}:
        named = address.replace("top-k", "top_k")
        pattern_of_many = address.endswith("/*")
        assert pattern_of_many or any(re.fullmatch(each, named) for each in known), address


def test_every_message_in_its_tables_is_taken() -> None:
    """The first column of each row; where it says so, voice 2 is called low."""
    messages = re.findall(r"^\| `(/streamer/[^`]*)`", GUIDE, re.MULTILINE)
    assert len(messages) > 30
    instrument = Memory()
    instrument.add_voice("rain", "low")
    instrument.models = lambda: ["techno", "voice-it"]  # type: ignore[method-assign]
    messages.sort(key=lambda message: "/remove" in message)
    with OscServer(instrument, port=0, midi=Teacher()) as server, closing(Client(server.port)) as client:
        for message in messages:
            address, *words = message.replace(" 7400", f" {client.port}").split()
            client.send(address, *map(number_or_text, words))
            for heard, arguments in client.played():
                assert heard not in ("/streamer/error", "/streamer/fail"), (message, arguments)


def test_its_example_over_tcp_plays() -> None:
    assert 'SimpleTCPClient("127.0.0.1", 7770, mode="1.1")' in GUIDE
    with OscServer(Memory(), port=0) as server:
        client = SimpleTCPClient("127.0.0.1", server.port, mode="1.1")
        client.send_message("/streamer/voice/1/gain", 0.5)
        assert next(client.get_messages(5)).params == [0.5]
        client.close()


def number_or_text(word: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
