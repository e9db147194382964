"""The OSC server and the real engine, without a device: what is asked for happens, or is refused in words."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from osc_rig import Client, at, encode
from playing import save_models

from streamer.engine import Engine
from streamer.library import Library
from streamer.osc import OscServer
from streamer.osc_instrument import Instrument

BLOCK = 256
RATE = 8000
PATIENCE = 120.0
"""Seconds; what has to be compiled first is slow."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that somebody listens to."""
    folder = tmp_path_factory.mktemp("performer")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODELS", "BOOKMARKS", "SOUNDS"):
            patch.setenv(f"STREAMER_{name}", str(folder / name.lower()))
        (folder / "models").mkdir()
        saved = save_models(folder / "models")
        made = Engine("wave", saved["wave"], Library(), channels=2)
        made.start()
        stopped = threading.Event()

        def hear() -> None:
            while not stopped.wait(BLOCK / RATE):
                made.mixer.render(BLOCK)

        listening = threading.Thread(target=hear)
        listening.start()
        yield made
        stopped.set()
        listening.join()
        assert made.close()


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    instrument: Instrument = engine
    with OscServer(instrument, port=0) as server, closing(Client(server.port, PATIENCE)) as each:
        yield each


def test_controls_are_set_moved_and_asked_for(client: Client, engine: Engine) -> None:
    assert client.ask("/streamer/gain", 0.5) == ("/streamer/gain", [0.5])
    assert client.ask("/streamer/voice/1/gain") == ("/streamer/voice/1/gain", [0.5])
    assert client.ask("/streamer/temperature/ramp", 0.25, 1)[0] == "/streamer/temperature/ramp"
    assert client.ask("/streamer/temperature") == ("/streamer/temperature", [0.25])
    assert client.ask("/streamer/pan/env", -1, 0.5, 1, 0.5, 0)[0] == "/streamer/pan/env"
    assert client.ask("/streamer/volume/drift", 0.1, 2)[0] == "/streamer/volume/drift"
    client.send("/streamer/set", "volume", 9, "speed", 0.5)
    heard = client.until_synced()
    assert heard[:2] == [("/streamer/volume", [2.0]), ("/streamer/speed", [0.5])]
    assert heard[2][1] == ["/streamer/set", "volume clamped to 2"]
    assert (engine.get("volume"), engine.get("speed", 1)) == (2.0, 0.5)


def test_voices_come_go_and_change_their_models(client: Client) -> None:
    client.send("/streamer/subscribe", 0, 0, "/streamer/voice*")
    client.settled()
    client.send("/streamer/voice/add", "wave", "low", "gain", 0.25)
    assert client.expect("/streamer/voices.reply") == [1, "voice1", 2, "low"]
    client.until_synced()
    client.send("/streamer/voice/low/model", "rnn")
    assert ("/streamer/voice/2/model", ["rnn"]) in client.until_synced()
    client.send("/streamer/voice/low/reset")
    assert ("/streamer/done", ["/streamer/voice/low/reset"]) in client.until_synced()
    client.send("/streamer/voice/low/remove")
    assert client.expect("/streamer/voices.reply") == [1, "voice1"]


def test_moments_are_kept_and_come_back(client: Client) -> None:
    client.send("/streamer/bookmark/save", "dawn")
    client.send("/streamer/sync", 1)
    assert client.hear() == ("/streamer/done", ["/streamer/bookmark/save", "dawn"])
    client.expect("/streamer/synced")
    client.send("/streamer/bookmarks")
    assert client.hear() == ("/streamer/bookmarks.reply", ["dawn"])
    client.expect("/streamer/bookmarks.done")
    client.send("/streamer/bookmark/recall", "dawn", "voice1")
    assert client.hear() == ("/streamer/done", ["/streamer/bookmark/recall", "dawn"])


@pytest.mark.parametrize(
    ("address", "argument"),
    [
        ("/streamer/model", "../models/wave"),
        ("/streamer/model", "models/wave.safetensors"),
        ("/streamer/voice/add", "/etc/passwd"),
        ("/streamer/bookmark/save", "../dusk"),
        ("/streamer/bookmark/save", ".dusk"),
        ("/streamer/bookmark/recall", "../bookmarks/dawn"),
        ("/streamer/voice/1/prime", "../../etc/passwd"),
        ("/streamer/voice/1/prime", "input"),
    ],
)
def test_names_lead_out_of_no_folder(client: Client, address: str, argument: str) -> None:
    client.send(address, argument)
    heard = dict(client.until_synced())
    assert heard["/streamer/fail"] == heard["/streamer/error"]
    about, reason = heard["/streamer/fail"]
    assert about == address
    assert reason


def test_a_timetag_is_kept_and_a_late_one_counted(client: Client) -> None:
    late = status_of(client)["late"]
    client.raw(at(time.time() - 1, encode("/streamer/pan", 0.5)))
    client.raw(at(time.time() + 0.3, encode("/streamer/pan", -0.5), encode("/streamer/gain", 0.1)))
    client.until_synced()
    assert status_of(client)["late"] == late + 1
    assert client.ask("/streamer/clearSched") == ("/streamer/done", ["/streamer/clearSched"])
    assert client.ask("/streamer/panic") == ("/streamer/done", ["/streamer/panic"])
    assert client.ask("/streamer/play", 1) == ("/streamer/play", [1])


def test_meters_of_the_whole_and_of_each_voice(client: Client) -> None:
    client.send("/streamer/subscribe", 0, 50, "*meters")
    for address in ("/streamer/meters", "/streamer/voice/1/meters"):
        assert len(client.expect(address)) == 5


def status_of(client: Client) -> dict[object, object]:
    client.send("/streamer/status")
    pairs = client.expect("/streamer/status.reply")
    return dict(zip(pairs[::2], pairs[1::2], strict=True))
