"""The OSC server, over real UDP sockets on loopback."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np
import pytest
from osc_rig import DEADLINE, Client, Memory, at, bundle, encode, tags_of

from streamer import __version__
from streamer.controls import COMMANDS, CONTROLS, REPLIES, Control, Signature, find, to_normalized
from streamer.cues import Cue
from streamer.models.errors import StreamerError
from streamer.osc import ERRORS_PER_SECOND, MAX_AHEAD, MAX_WAITING, OscServer
from streamer.osc_codec import MAX_ARGUMENTS
from streamer.osc_subscribers import MAX_SUBSCRIBERS

SETTABLE = [control for control in CONTROLS if control.type in ("float", "int", "bool")]
VALUED = [control for control in CONTROLS if control.type != "trigger"]
settable = pytest.mark.parametrize("control", SETTABLE, ids=lambda control: control.name)


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


def has(instrument: Memory, control: Control) -> object:
    return instrument.get(control.name)


# --- controls ---------------------------------------------------------------------------------------------


@settable
@pytest.mark.parametrize("tag", "ifdhs")
def test_every_control_takes_every_type_of_number(
    client: Client, instrument: Memory, control: Control, tag: str
) -> None:
    number = max(1, control.minimum)
    value = {"s": str(int(number)), "f": float(number), "d": float(number)}.get(tag, int(number))
    assert client.ask(control.address, value, tags=tag) == (control.address, [number])
    assert has(instrument, control) == number
    assert isinstance(has(instrument, control), {"float": float, "int": int, "bool": bool}[control.type])


@settable
@pytest.mark.parametrize("flag", [True, False])
def test_every_control_takes_true_and_false(client: Client, control: Control, flag: bool) -> None:
    taken = max(int(flag), control.minimum)
    address, (value,) = client.ask(control.address, flag)
    assert (address, value) == (control.address, pytest.approx(taken))


@settable
@pytest.mark.parametrize("far", [-1e9, 1e12])
def test_out_of_range_is_clamped_and_told(
    client: Client, instrument: Memory, control: Control, far: float
) -> None:
    limit = control.minimum if far < 0 else control.maximum
    client.send(control.address, far)
    heard = client.until_synced()
    assert heard[0] == (control.address, [pytest.approx(limit)])
    assert has(instrument, control) == limit
    if control.type == "bool":
        assert len(heard) == 1
    else:
        ((address, (about, text)),) = heard[1:]
        assert (address, about) == ("/streamer/error", control.address)
        assert text == f"{control.name} clamped to {limit:g}"


def test_confirmations_are_of_the_controls_type(client: Client) -> None:
    for address, tag in (("/streamer/temperature", "f"), ("/streamer/top_k", "i"), ("/streamer/play", "i")):
        client.send(address, 1.0)
        assert tags_of(client.hear_bytes()) == tag


@settable
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "loud", ""], ids=repr)
def test_what_is_no_number_changes_nothing(
    client: Client, instrument: Memory, control: Control, value: object
) -> None:
    assert client.ask(control.address, value)[0] == "/streamer/error"
    assert client.settled() == []
    assert instrument.performed == []


@pytest.mark.parametrize(
    ("arguments", "tags", "text"),
    [
        ((0.5, 0.5), None, "2 arguments"),
        ((b"abcd",), None, "type tag 'b'"),
        ((None,), None, "type tag 'N'"),
        (((1, 2, 3, 4),), None, "type tag 'm'"),
        (([1.0],), None, "type tag '['"),
        ((1.0,) * (MAX_ARGUMENTS + 1), None, "65 arguments"),
    ],
)
def test_wrong_arguments_are_refused_in_words(
    client: Client, instrument: Memory, arguments: tuple[object, ...], tags: str | None, text: str
) -> None:
    client.send("/streamer/temperature", *arguments, tags=tags)
    address, (about, said) = client.hear()
    assert (address, about) == ("/streamer/error", "/streamer/temperature")
    assert text in str(said)
    assert instrument.performed == []


@pytest.mark.parametrize(
    ("address", "nearest"),
    [
        ("/streamer/temprature", "/streamer/temperature"),
        ("/gain", "/streamer/gain"),
        ("/streamer/voice/1/tempratur", "/streamer/voice/1/temperature"),
        ("/streamer/voice/1/volume", "/streamer/volume"),
        ("/streamer/bookmark/sav", "/streamer/bookmark/save"),
        ("/streamer/voice/1/gain/ramps", "/streamer/voice/1/gain"),
        ("/streamer/" + "x" * 300, "/streamer/controls"),
    ],
)
def test_an_unknown_address_is_refused_with_the_nearest(client: Client, address: str, nearest: str) -> None:
    client.send(address, 1.0)
    text = client.refused()
    assert nearest in text
    assert len(text) < 250


def test_a_trigger_fires_on_press_not_on_release(client: Client, instrument: Memory) -> None:
    for arguments in ((), (1,), (1.0,), (True,)):
        client.send("/streamer/reset", *arguments)
        client.played()
        instrument.finish()
        assert client.until_synced() == [
            ("/streamer/reset", [1]),
            ("/streamer/done", ["/streamer/reset", *arguments]),
        ]
    client.send("/streamer/reset", 0.0)
    client.send("/streamer/reset", False)
    assert client.settled() == []
    assert len(instrument.performed) == 4


def test_a_bang_and_a_symbol_are_understood(client: Client, instrument: Memory) -> None:
    client.raw(b"/streamer/reset\0,I\0\0")
    client.raw(b"/streamer/top_k\0,S\0\x0040\0\0")
    assert client.hear() == ("/streamer/top_k", [40])
    assert instrument.performed[0] == ((Cue(1, "reset", True),), None)


def test_a_message_without_type_tags(client: Client, instrument: Memory) -> None:
    client.raw(b"/streamer/gain\0\0")
    assert client.hear() == ("/streamer/gain", [1.0])
    client.raw(b"/streamer/gain\0\0" + b"\x3f\0\0\0")
    assert "type tags" in client.refused()
    assert instrument.performed == []


def test_a_cut_float_is_not_taken_for_zero(client: Client, server: OscServer, instrument: Memory) -> None:
    client.raw(encode("/streamer/gain", 0.5)[:-4])
    assert client.settled() == []
    assert instrument.performed == []
    assert server.counters.unreadable == 1


def test_a_control_is_asked_for_without_a_value(client: Client, other: Client, instrument: Memory) -> None:
    other.send("/streamer/listen")
    other.settled()
    assert client.ask("/streamer/gain") == ("/streamer/gain", [1.0])
    assert client.ask("/streamer/top-k") == ("/streamer/top_k", [0])
    assert client.ask("/streamer/volume") == ("/streamer/volume", [1.0])
    assert client.ask("/streamer/voice/1/model") == ("/streamer/voice/1/model", ["rain"])
    assert client.ask("/streamer/speed/normalized") == (
        "/streamer/speed/normalized",
        [pytest.approx(to_normalized(find("speed"), 1.0))],
    )
    instrument.add_voice("choir")
    client.send("/streamer/voice/*/pan")
    assert client.hear() == ("/streamer/voice/1/pan", [0.0])
    assert client.hear() == ("/streamer/voice/2/pan", [0.0])
    assert not {"/streamer/gain", "/streamer/pan"} & set(other.settled()[1:])


@settable
def test_every_control_is_set_by_a_faders_travel(
    client: Client, instrument: Memory, control: Control
) -> None:
    address = f"{control.address}/normalized"
    assert client.ask(address, 1) == (address, [1.0])
    assert has(instrument, control) == control.maximum
    client.send(address, -3)
    heard = client.until_synced()
    assert heard[0] == (address, [0.0])
    assert heard[1][0] == "/streamer/error"
    assert has(instrument, control) == control.minimum


# --- voices -----------------------------------------------------------------------------------------------


def test_a_voice_is_played_by_number_by_name_and_with_all(client: Client, instrument: Memory) -> None:
    instrument.add_voice("choir", "high-1")
    assert client.ask("/streamer/voice/2/gain", 0.5) == ("/streamer/voice/2/gain", [0.5])
    assert client.ask("/streamer/voice/high-1/top-k", 7) == ("/streamer/voice/2/top_k", [7])
    assert client.ask("/streamer/voice/*/pan", -1) == ("/streamer/pan", [-1.0])
    assert client.ask("/streamer/speed", 2) == ("/streamer/speed", [2.0])
    assert [cues for cues, _ in instrument.performed] == [
        (Cue(2, "gain", 0.5),),
        (Cue(2, "top_k", 7),),
        (Cue(1, "pan", -1.0), Cue(2, "pan", -1.0)),
        (Cue(1, "speed", 2.0), Cue(2, "speed", 2.0)),
    ]


@pytest.mark.parametrize("voice", ["2", "0", "01", "low", "-1", "1.0", "[12]", "9" * 200])
def test_a_wrong_voice_is_refused_with_those_there_are(
    client: Client, instrument: Memory, voice: str
) -> None:
    client.send(f"/streamer/voice/{voice}/gain", 0.5)
    assert client.refused().endswith("; there are 1 (first)")
    client.send(f"/streamer/voice/{voice}/remove")
    assert client.refused().endswith("; there are 1 (first)")
    assert instrument.performed == []


def test_with_no_voice_the_error_says_how_to_add_one(client: Client) -> None:
    client.send("/streamer/voice/1/remove")
    assert client.hear() == ("/streamer/done", ["/streamer/voice/1/remove"])
    client.send("/streamer/gain", 0.5)
    assert "/streamer/voice/add" in client.refused()
    assert client.ask("/streamer/volume", 0.5) == ("/streamer/volume", [0.5])


def test_a_voice_is_added_with_name_and_controls(client: Client, instrument: Memory) -> None:
    assert client.ask("/streamer/voice/add", "choir") == ("/streamer/voice/added", [2, "voice-2"])
    assert client.ask("/streamer/voice/add", "choir", "low", "gain", 9, "seed", "3") == (
        "/streamer/voice/added",
        [3, "low"],
    )
    assert client.ask("/streamer/voice/add", "rain", "pan", 0.5) == ("/streamer/voice/added", [4, "voice-4"])
    assert (instrument.values[3]["gain"], instrument.values[3]["seed"]) == (2.0, 3)
    assert instrument.values[4]["pan"] == 0.5
    instrument.finish()
    assert client.hear() == ("/streamer/done", ["/streamer/voice/add", "choir"])
    client.send("/streamer/voices")
    assert client.hear() == ("/streamer/voices.reply", [1, "first", 2, "voice-2", 3, "low", 4, "voice-4"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("choir", "2"),
        ("choir", "a b"),
        ("choir", "a/b"),
        ("choir", "*"),
        ("choir", "x" * 33),
        ("choir", 2),
        ("choir", "low", "gain"),
        ("choir", "tempo", 1),
        ("choir", "gain", "loud"),
        ("choir", "volume", 1),
        ("choir", "model", "rain"),
        (3,),
        (),
    ],
)
def test_a_voice_that_cannot_be_is_not_added(
    client: Client, instrument: Memory, arguments: tuple[object, ...]
) -> None:
    client.send("/streamer/voice/add", *arguments)
    assert client.refused()
    assert client.hear()[0] == "/streamer/fail"
    assert list(instrument.names) == [1]


# --- several at once, and motion --------------------------------------------------------------------------


def test_pairs_are_set_at_one_moment_or_not_at_all(client: Client, instrument: Memory) -> None:
    instrument.add_voice("choir")
    client.send("/streamer/voice/2/set", "gain", 0.5, "top-k", 40, "freeze", True)
    assert [client.hear() for _ in range(3)] == [
        ("/streamer/voice/2/gain", [0.5]),
        ("/streamer/voice/2/top_k", [40]),
        ("/streamer/voice/2/freeze", [1]),
    ]
    client.send("/streamer/set", "pan", 0.25, "volume", 0.5)
    assert [client.hear() for _ in range(2)] == [("/streamer/pan", [0.25]), ("/streamer/volume", [0.5])]
    assert [cues for cues, _ in instrument.performed] == [
        (Cue(2, "gain", 0.5), Cue(2, "top_k", 40), Cue(2, "freeze", True)),
        (Cue(1, "pan", 0.25), Cue(2, "pan", 0.25), Cue(0, "volume", 0.5)),
    ]


@pytest.mark.parametrize(
    ("address", "arguments", "text"),
    [
        ("/streamer/voice/1/set", ("gain", 0.5, "top_k", "many"), "top_k takes a whole number"),
        ("/streamer/voice/1/set", ("gain", 0.5, "tempo", 1), "no control 'tempo'"),
        ("/streamer/voice/1/set", ("gain", 0.5, "volume", 1), "send /streamer/volume"),
        ("/streamer/voice/1/set", ("gain", 0.5, "pan"), "pairs"),
        ("/streamer/set", (), "pairs"),
    ],
)
def test_one_bad_pair_and_nothing_changes(
    client: Client, instrument: Memory, address: str, arguments: tuple[object, ...], text: str
) -> None:
    client.send(address, *arguments)
    assert text in client.refused()
    assert client.settled() == []
    assert instrument.performed == []


def test_a_pair_out_of_range_is_clamped_and_told(client: Client) -> None:
    client.send("/streamer/set", "gain", 3, "pan", 0, "temperature", -1)
    assert client.until_synced()[3:] == [
        ("/streamer/error", ["/streamer/set", "gain clamped to 2, temperature clamped to 0"])
    ]


def test_a_ramp_an_envelope_and_a_drift_become_cues(client: Client, instrument: Memory) -> None:
    assert client.ask("/streamer/temperature/ramp", 0.5, 4) == ("/streamer/temperature/ramp", [0.5, 4.0])
    client.send("/streamer/voice/1/gain/env", 0, 0.5, 1, 2, 0.25)
    assert client.hear() == ("/streamer/voice/1/gain/env", [0.0, 0.5, 1.0, 2.0, 0.25])
    assert client.ask("/streamer/volume/drift", 0.25, 8) == ("/streamer/volume/drift", [0.25, 8.0])
    assert client.ask("/streamer/pan/drift", 0) == ("/streamer/pan/drift", [0.0, 10.0])
    assert client.ask("/streamer/pan/ramp", 1, 0) == ("/streamer/pan/ramp", [1.0, 0.0])
    assert [cues for cues, _ in instrument.performed] == [
        (Cue(1, "temperature", 0.5, "ramp", 4.0),),
        (
            Cue(1, "gain", 0.0),
            Cue(1, "gain", 1.0, "ramp", 0.5),
            Cue(1, "gain", 0.25, "ramp", 2.0, after=0.5),
        ),
        (Cue(0, "volume", 0.25, "drift", 8.0),),
        (Cue(1, "pan", 0.0, "drift", 10.0),),
        (Cue(1, "pan", 1.0),),
    ]


@pytest.mark.parametrize(
    ("address", "arguments", "text"),
    [
        ("top_k/ramp", (40, 1), "top_k does not glide"),
        ("freeze/env", (0, 1, 1), "freeze does not glide"),
        ("lead/drift", (0.1, 1), "lead does not glide"),
        ("gain/ramp", (1,), "a value and seconds"),
        ("gain/ramp", (1, -1), "a ramp's time is a number from 0 to 3600, not -1"),
        ("gain/ramp", (1, float("nan")), "a ramp's time"),
        ("gain/ramp", ("loud", 1), "gain takes a number"),
        ("gain/ramp", (), "a value and seconds"),
        ("gain/env", (1, 1), "value, seconds, value"),
        ("gain/env", (0, 3000, 1, 3000, 0), "whole time"),
        ("gain/drift", (3, 1), "gain's depth is a number from 0 to 2"),
        ("gain/drift", (1, 0), "a drift's period"),
        ("gain/drift", (), "a depth and a period"),
        ("gain/set", (1, 0), "unknown address"),
    ],
)
def test_a_motion_that_cannot_be_is_refused(
    client: Client, instrument: Memory, address: str, arguments: tuple[object, ...], text: str
) -> None:
    client.send(f"/streamer/{address}", *arguments)
    assert text in client.refused()
    assert client.settled() == []
    assert instrument.performed == []


# --- what takes a while -----------------------------------------------------------------------------------


def test_a_model_is_confirmed_when_it_has_loaded(client: Client, other: Client, instrument: Memory) -> None:
    client.send("/streamer/model", "choir")
    client.send("/streamer/sync", 7)
    assert client.played() == []  # neither confirmed nor synced as yet
    instrument.finish()
    assert [client.hear() for _ in range(3)] == [
        ("/streamer/model", ["choir"]),
        ("/streamer/done", ["/streamer/model", "choir"]),
        ("/streamer/synced", [7]),
    ]
    assert other.settled() == []


def test_a_model_that_cannot_be_loaded_is_told_to_who_asked(client: Client, instrument: Memory) -> None:
    client.send("/streamer/model", "choir")
    client.played()
    instrument.fail("choir.safetensors is cut short; copy it again")
    said = ["/streamer/model", "choir.safetensors is cut short; copy it again"]
    assert client.until_synced() == [("/streamer/fail", said), ("/streamer/error", said)]


def test_subscribers_hear_of_a_failed_model_once(client: Client, other: Client, instrument: Memory) -> None:
    for each in (client, other):
        each.send("/streamer/subscribe", 0, 0)
        each.settled()
    client.send("/streamer/model", "choir")
    client.played()
    instrument.fail("it is cut short")
    error = ("/streamer/error", ["/streamer/voice/1/model", "it is cut short"])
    assert other.until_synced() == [error]
    assert client.until_synced() == [error, ("/streamer/fail", ["/streamer/model", "it is cut short"])]


def test_an_unknown_model_is_refused_at_once(client: Client) -> None:
    for wrong, text in (("snow", "no model snow; there are rain, choir"), (3, "takes a text")):
        client.send("/streamer/model", wrong)
        assert text in client.refused()
        assert client.hear()[0] == "/streamer/fail"


def test_sync_waits_only_for_what_was_asked_for_before(client: Client, instrument: Memory) -> None:
    client.send("/streamer/model", "choir")
    client.send("/streamer/sync", 1)
    client.send("/streamer/voice/1/continue")
    client.send("/streamer/sync", 2)
    assert client.played() == []
    instrument.finish()
    assert client.expect("/streamer/synced") == [1]
    assert client.played() == []
    instrument.finish()
    assert client.expect("/streamer/done") == ["/streamer/voice/1/continue"]
    assert client.expect("/streamer/synced") == [2]


@pytest.mark.parametrize(
    ("address", "arguments", "call"),
    [
        ("bookmark/save", ("dusk",), ("save", "dusk", 1)),
        ("bookmark/save", ("dusk", "high"), ("save", "dusk", 2)),
        ("bookmark/recall", ("dawn", 2.0), ("recall", "dawn", 2)),
        ("voice/high/prime", ("wind.wav",), ("prime", 2, "wind.wav", 10.0)),
        ("voice/2/prime", ("input", 3), ("prime", 2, "input", 3.0)),
        ("voice/1/continue", (), ("continue", 1)),
    ],
)
def test_slow_commands_end_in_done_or_fail(
    client: Client,
    instrument: Memory,
    address: str,
    arguments: tuple[object, ...],
    call: tuple[object, ...],
) -> None:
    instrument.add_voice("choir", "high")
    instrument.finish()
    client.send(f"/streamer/{address}", *arguments)
    assert client.played() == []
    assert instrument.calls == [call]
    instrument.finish()
    reply, (about, *_) = client.hear()
    assert (reply, about) == ("/streamer/done", f"/streamer/{address}")
    client.send(f"/streamer/{address}", *arguments)
    client.played()
    instrument.fail("the disk is full")
    said = [f"/streamer/{address}", "the disk is full"]
    assert client.until_synced() == [("/streamer/fail", said), ("/streamer/error", said)]


@pytest.mark.parametrize(
    ("address", "arguments"),
    [
        ("bookmark/save", ()),
        ("bookmark/save", (3,)),
        ("bookmark/save", ("two\nlines",)),
        ("bookmark/save", ("dusk", 9)),
        ("bookmark/recall", ("noon",)),
        ("voice/1/prime", ("wind.wav", -1)),
        ("voice/1/prime", ("wind.wav", 1, 1)),
        ("midi/learn", (1, "gain")),
    ],
)
def test_slow_commands_that_cannot_be_fail_at_once(
    client: Client, instrument: Memory, address: str, arguments: tuple[object, ...]
) -> None:
    client.send(f"/streamer/{address}", *arguments)
    text = client.refused()
    assert client.hear() == ("/streamer/fail", [f"/streamer/{address}", text])
    assert client.settled() == []
    assert instrument.calls == []


def test_slow_changes_are_bounded(client: Client, instrument: Memory) -> None:
    for _ in range(MAX_WAITING + 1):
        client.send("/streamer/model", "choir")
    assert f"{MAX_WAITING} slow changes are under way" in client.refused()
    assert client.hear()[0] == "/streamer/fail"
    assert client.ask("/streamer/gain", 0.5) == ("/streamer/gain", [0.5])
    for _ in range(MAX_WAITING):
        instrument.finish()
    assert client.settled() == ["/streamer/model", "/streamer/done"] * MAX_WAITING


def test_waiting_syncs_are_bounded(client: Client, instrument: Memory) -> None:
    client.send("/streamer/model", "choir")
    for each in range(MAX_WAITING + 1):
        client.send("/streamer/sync", each)
    assert "too many syncs" in client.refused()
    instrument.finish()
    client.expect("/streamer/done")
    assert [client.hear()[1] for _ in range(MAX_WAITING)] == [[each] for each in range(MAX_WAITING)]


class Teacher:
    """Remembers what it was asked to bind, and has bound it at once."""

    def __init__(self) -> None:
        self.lessons: list[tuple[object, ...]] = []

    def learn(self, voice: int, control: str, value: object, told: object) -> None:
        self.lessons.append((voice, control, value))
        told(None)  # type: ignore[operator]

    def forget(self, voice: int, control: str, told: object) -> None:
        self.learn(voice, control, "forgotten", told)


def test_midi_is_taught_by_message() -> None:
    teacher = Teacher()
    with OscServer(Memory(), port=0, midi=teacher) as server:
        client = Client(server.port)
        for arguments in ((1, "gain"), ("first", "freeze", 1.0), (0, "volume"), (1.0, "bookmark", "dawn")):
            assert client.ask("/streamer/midi/learn", *arguments)[0] == "/streamer/done"
        assert client.ask("/streamer/midi/forget", 1, "gain")[0] == "/streamer/done"
        client.close()
    assert teacher.lessons == [
        (1, "gain", None),
        (1, "freeze", True),
        (0, "volume", None),
        (1, "bookmark", "dawn"),
        (1, "gain", "forgotten"),
    ]


# --- bundles and times ------------------------------------------------------------------------------------


def test_a_bundle_is_one_moment(client: Client, instrument: Memory) -> None:
    inner = bundle(encode("/streamer/pan", 0.5), encode("/streamer/gain/ramp", 0, 1))
    client.raw(bundle(encode("/streamer/gain", 0.5), inner, encode("/streamer/top_k", 4)))
    client.until_synced()
    cues = (Cue(1, "gain", 0.5), Cue(1, "pan", 0.5), Cue(1, "gain", 0.0, "ramp", 1.0), Cue(1, "top_k", 4))
    assert instrument.performed == [(cues, None)]


def test_a_timetag_is_passed_on_and_nobody_waits_for_it(client: Client, instrument: Memory) -> None:
    moment = time.time() + MAX_AHEAD - 5
    client.raw(at(moment, encode("/streamer/gain", 0.25), encode("/streamer/pan", 1)))
    assert [client.hear() for _ in range(2)] == [("/streamer/gain", [0.25]), ("/streamer/pan", [1.0])]
    ((cues, when),) = instrument.performed
    assert cues == (Cue(1, "gain", 0.25), Cue(1, "pan", 1.0))
    assert when == pytest.approx(moment, abs=1e-6, rel=0)


def test_each_moment_of_a_packet_is_played_at_its_own(client: Client, instrument: Memory) -> None:
    soon, later = (round(time.time()) + ahead for ahead in (10.0, 20.0))
    client.raw(
        at(
            soon,
            encode("/streamer/gain", 1),
            at(later, encode("/streamer/gain", 2)),
            encode("/streamer/pan", 1),
        )
    )
    client.raw(at(1000.0, encode("/streamer/gain", 0)))  # late: the instrument plays and counts it
    client.until_synced()
    assert instrument.performed == [
        ((Cue(1, "gain", 1.0), Cue(1, "pan", 1.0)), soon),
        ((Cue(1, "gain", 2.0),), later),
        ((Cue(1, "gain", 0.0),), 1000.0),
    ]


def test_a_time_too_far_ahead_is_refused(client: Client, instrument: Memory) -> None:
    client.raw(at(time.time() + 3600, encode("/streamer/gain", 0.25), encode("/streamer/ping")))
    assert "3600 s ahead; 60 s are the most" in client.refused()
    assert client.hear() == ("/streamer/pong", [__version__])  # commands are done at once
    assert instrument.performed == []


def test_a_model_can_be_timed(client: Client, instrument: Memory) -> None:
    moment = round(time.time()) + 5.0
    client.raw(at(moment, encode("/streamer/model", "choir")))
    client.played()
    assert instrument.performed == [((Cue(1, "model", "choir"),), moment)]


def test_a_refused_message_leaves_the_rest_of_its_bundle(client: Client) -> None:
    client.raw(bundle(encode("/streamer/gain", "loud"), encode("/streamer/gain", 0.5)))
    assert "gain takes a number from 0 to 2, not 'loud'" in client.refused()
    assert client.hear() == ("/streamer/gain", [0.5])


def test_what_the_instrument_refuses_leaves_the_rest_of_its_moment(
    client: Client, instrument: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    del instrument.values[0]["volume"]  # such as a control that cannot be had just now
    check = instrument._check

    def strict(cue: Cue) -> None:
        check(cue)
        if cue.control not in instrument.values[cue.voice]:
            raise StreamerError("not now")

    monkeypatch.setattr(instrument, "_check", strict)
    messages = (encode("/streamer/gain", 0.5), encode("/streamer/volume", 1), encode("/streamer/pan", 1))
    client.raw(bundle(*messages))
    assert client.until_synced() == [
        ("/streamer/gain", [0.5]),
        ("/streamer/error", ["/streamer/volume", "not now"]),
        ("/streamer/pan", [1.0]),
    ]


@pytest.mark.parametrize("size", [-4, -(2**31), 0, 2**31 - 1, 1000])
def test_a_damaged_bundle_changes_nothing(
    client: Client, server: OscServer, instrument: Memory, size: int
) -> None:
    good = bundle(encode("/streamer/gain", 0.5))
    client.raw(good + size.to_bytes(4, "big", signed=True) + encode("/streamer/gain", 0.5))
    assert client.settled() == []
    assert instrument.performed == []
    assert server.counters.unreadable == 1


@pytest.mark.parametrize("address", ["/streamer/clearSched", "/clearSched"])
def test_the_schedule_is_cleared(client: Client, instrument: Memory, address: str) -> None:
    assert client.ask(address) == ("/streamer/done", [address])
    assert instrument.calls == [("clear",)]


# --- subscribers ------------------------------------------------------------------------------------------


def test_a_listener_hears_every_value_then_every_change(client: Client, other: Client) -> None:
    client.send("/streamer/listen")
    assert client.hear() == ("/streamer/listening", [client.port])
    assert client.hear() == ("/streamer/voices.reply", [1, "first"])
    voice = [each for each in VALUED if each.scope == "voice"]
    expected = {each.address for each in VALUED} | {each.voice_address(1) for each in voice}
    assert {client.hear()[0] for _ in range(len(VALUED) + len(voice))} == expected
    other.send("/streamer/temperature", 5)
    assert client.expect("/streamer/voice/1/temperature") == [2.0]
    assert client.expect("/streamer/temperature") == [2.0]
    assert other.hear() == ("/streamer/temperature", [2.0])


def test_a_subscriber_is_told_of_its_own_changes_once(client: Client, instrument: Memory) -> None:
    instrument.add_voice("choir")
    client.send("/streamer/subscribe", client.port, 0)
    client.settled()
    client.send("/streamer/gain", 0.5)
    client.send("/streamer/voice/2/pan", 1)
    assert sorted(client.until_synced()) == [
        ("/streamer/gain", [0.5]),
        ("/streamer/voice/1/gain", [0.5]),
        ("/streamer/voice/2/gain", [0.5]),
        ("/streamer/voice/2/pan", [1.0]),
    ]


def test_a_change_from_elsewhere_is_told(client: Client, instrument: Memory) -> None:
    client.send("/streamer/subscribe", 0, 0, "/streamer/voice/*")
    client.settled()
    instrument.change(1, "gain", np.float32(0.125))
    assert client.hear() == ("/streamer/voice/1/gain", [0.125])


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("*", {"/streamer/gain", "/streamer/voice/1/gain", "/streamer/volume"}),
        ("/streamer/voice/*", {"/streamer/voice/1/gain"}),
        ("/streamer/[gv]*", {"/streamer/gain", "/streamer/voice/1/gain", "/streamer/volume"}),
        ("/streamer/volume", {"/streamer/volume"}),
        ("nothing", set()),
    ],
)
def test_a_pattern_chooses_what_is_heard(
    client: Client, other: Client, pattern: str, heard: set[str]
) -> None:
    client.send("/streamer/subscribe", 0, 0, pattern)
    client.settled()
    other.send("/streamer/set", "gain", 0.5, "volume", 0.5)
    other.settled()
    assert set(client.settled()) == heard


def test_meters_come_at_the_rate_that_was_asked_for(client: Client) -> None:
    client.send("/streamer/subscribe", 0.0, 50.0, "*meters")
    client.expect("/streamer/meters")
    began = time.monotonic()
    for _ in range(20):
        assert client.expect("/streamer/meters") == [0.5, 0.25, 120.5, 3.5, 3]
        assert client.expect("/streamer/voice/1/meters") == [0.125, 0.25, 120.5, 3.5, 3]
    assert 0.3 < time.monotonic() - began < DEADLINE


def test_status_comes_to_listeners_four_times_a_second(client: Client) -> None:
    client.send("/streamer/listen")
    client.expect("/streamer/status.reply")
    began = time.monotonic()
    for _ in range(4):
        client.expect("/streamer/status.reply")
    assert 0.5 < time.monotonic() - began < DEADLINE


@pytest.mark.parametrize(
    "arguments", [(0, -1), (0, 101), (0, "often"), (0, 1, "x" * 300), (-1,), (65_536,), (0, 1, "*", 1)]
)
def test_a_subscription_that_cannot_be_is_refused(client: Client, arguments: tuple[object, ...]) -> None:
    client.send("/streamer/subscribe", *arguments)
    assert client.refused()
    assert client.settled() == []


def test_subscribers_hear_of_voices_that_come_and_go(client: Client, other: Client) -> None:
    client.send("/streamer/subscribe", 0, 0)
    client.settled()
    other.send("/streamer/voice/add", "choir", "high", "gain", 0.5)
    assert client.expect("/streamer/voices.reply") == [1, "first", 2, "high"]
    assert client.expect("/streamer/voice/2/gain") == [0.5]
    other.expect("/streamer/voice/added")
    other.send("/streamer/voice/first/remove")
    assert client.expect("/streamer/voices.reply") == [2, "high"]
    assert client.expect("/streamer/gain") == [0.5]  # the short address is the first voice's


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


@pytest.mark.parametrize("ending", [("listen", 0), ("unlisten",), ("unsubscribe",)])
def test_a_subscription_ends(client: Client, ending: tuple[object, ...]) -> None:
    client.send("/streamer/listen")
    assert client.expect("/streamer/listening") == [client.port]
    client.send(f"/streamer/{ending[0]}", *ending[1:])
    assert client.expect("/streamer/listening") == [0]
    assert client.settled() == []


@pytest.mark.parametrize("port", [-1, 65_536, 1e30, float("nan"), "seven"])
def test_an_impossible_port_is_refused(client: Client, port: object) -> None:
    client.send("/streamer/listen", port)
    assert "a port is a number from 0 to 65535" in client.refused()


def test_the_server_does_not_listen_to_itself(client: Client, server: OscServer) -> None:
    client.send("/streamer/listen", server.port)
    assert "streamer's own" in client.refused()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on loopback")
def test_packets_that_claim_to_be_the_servers_own_are_dropped(client: Client, server: OscServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as twin:
        twin.bind(("127.0.0.2", server.port))
        twin.sendto(encode("/streamer/gain", 0.5), ("127.0.0.1", server.port))
    assert client.ask("/streamer/gain") == ("/streamer/gain", [1.0])
    assert status_of(client)["osc_unreadable"] == 1


def test_replies_are_never_answered(client: Client) -> None:
    for reply in REPLIES:
        if "<" not in reply.path:
            client.send(reply.address, "hello")
    assert client.settled() == []


def test_subscribers_are_bounded_and_the_quietest_goes(server: OscServer) -> None:
    with ExitStack() as stack:
        first, second, *others = clients = [Client(server.port) for _ in range(MAX_SUBSCRIBERS + 1)]
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
    assert status_of(client)["osc_listeners"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of ports that nobody listens on")
def test_a_subscriber_that_has_gone_is_dropped_and_others_miss_nothing(
    server: OscServer, client: Client, instrument: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.osc_subscribers.PATIENCE", 0.3)
    client.send("/streamer/subscribe", 0, 0, "*gain")
    client.settled()
    gone = Client(server.port)
    gone.send("/streamer/subscribe", 0, 100)
    gone.expect("/streamer/meters")
    gone.close()
    until = time.monotonic() + DEADLINE
    for number in range(100_000):
        assert time.monotonic() < until, "it was not dropped"
        value = number % 1000 / 1000
        instrument.change(1, "gain", value)
        assert client.expect("/streamer/voice/1/gain") == [pytest.approx(value)]
        if number % 50 == 0 and status_of(client)["osc_listeners"] == 1:
            break
    assert status_of(client)["osc_unsent"] == 0


# --- commands ---------------------------------------------------------------------------------------------


def status_of(client: Client) -> dict[object, object]:
    client.send("/streamer/status")
    pairs = client.expect("/streamer/status.reply")
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_status_is_flat_keys_and_values_of_common_types(client: Client) -> None:
    pairs = status_of(client)
    assert pairs["buffer_ms"] == 120.5
    assert pairs["underruns"] == 3
    assert pairs["frames"] == 2.0**40
    assert pairs["osc_unreadable"] == pairs["osc_refused"] == pairs["osc_listeners"] == pairs["osc_lost"] == 0


def test_the_status_of_one_voice(client: Client) -> None:
    for said in (1, 1.0, "1", "first", "*"):
        address, pairs = client.ask("/streamer/status", said)
        assert address == "/streamer/voice/1/status.reply"
        assert pairs[:4] == ["number", 1, "name", "first"]
    client.send("/streamer/status", 2)
    assert "no voice '2'" in client.refused()


def test_models_bookmarks_and_controls_are_listed(client: Client) -> None:
    client.send("/streamer/models")
    assert [client.hear() for _ in range(3)] == [
        ("/streamer/models.reply", ["rain"]),
        ("/streamer/models.reply", ["choir"]),
        ("/streamer/models.done", [2]),
    ]
    client.send("/streamer/bookmarks")
    assert [client.hear() for _ in range(2)] == [
        ("/streamer/bookmarks.reply", ["dawn"]),
        ("/streamer/bookmarks.done", [1]),
    ]
    client.send("/streamer/controls")
    rows = [client.hear()[1] for _ in CONTROLS]
    assert [row[1] for row in rows] == [control.address for control in CONTROLS]
    row = rows[CONTROLS.index(find("gain"))]
    description = find("gain").description
    assert row == ["gain", "/streamer/gain", "float", 0.0, 2.0, 1.0, "amplitude", description, "voice"]
    assert client.hear() == ("/streamer/controls.done", [len(CONTROLS)])


def test_panic_ping_and_version(client: Client, instrument: Memory) -> None:
    assert client.ask("/streamer/panic") == ("/streamer/done", ["/streamer/panic"])
    assert instrument.calls == [("panic",)]
    assert client.ask("/streamer/ping") == ("/streamer/pong", [__version__])
    assert client.ask("/streamer/version") == ("/streamer/version.reply", [__version__])


@pytest.mark.parametrize("identity", [7, 0.5, "here"])
def test_sync_returns_what_it_was_given(client: Client, identity: object) -> None:
    assert client.ask("/streamer/sync", identity) == ("/streamer/synced", [identity])


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS if not each.arguments], ids=lambda each: each.path
)
def test_commands_without_arguments_refuse_them(client: Client, command: Signature) -> None:
    client.send(command.address.replace("<n>", "1"), 1)
    assert "takes no arguments" in client.refused()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each.path)
def test_every_command_is_known(client: Client, command: Signature) -> None:
    address = command.address.replace("<n>", "1").replace("<control>", "gain")
    client.send(address)
    assert "unknown address" not in str(client.played())


def test_dump_prints_what_is_received_until_it_is_ended(instrument: Memory) -> None:
    lines: list[str] = []
    with OscServer(instrument, port=0, tell=lines.append) as server:
        client = Client(server.port)
        assert client.ask("/streamer/dump", 1) == ("/streamer/done", ["/streamer/dump", 1])
        client.raw(at(1000.25, encode("/streamer/gain", 0.5)))
        client.send("/streamer/x\n", "y\n" * 100)
        client.until_synced()
        client.send("/streamer/dump", 0)
        client.send("/streamer/pan", 0)
        client.until_synced()
        client.close()
    assert lines[0] == f"OSC from 127.0.0.1:{client.port} @1000.250000: /streamer/gain 0.5"
    assert lines[1].startswith(f"OSC from 127.0.0.1:{client.port}: /streamer/x\\n 'y\\n")
    assert all("\n" not in line and len(line) < 200 for line in lines)
    assert "/streamer/dump 0" in lines[-1]


def test_a_terminal_that_has_gone_stops_nothing(instrument: Memory) -> None:
    def complain(line: str) -> None:
        raise BrokenPipeError(line)

    with OscServer(instrument, port=0, tell=complain) as server, closing(Client(server.port)) as client:
        client.send("/streamer/dump", 1)
        client.until_synced()
        assert client.ask("/streamer/gain", 0.5) == ("/streamer/gain", [0.5])


def test_a_dump_is_bounded(instrument: Memory) -> None:
    lines: list[str] = []
    with OscServer(instrument, port=0, tell=lines.append) as server:
        client = Client(server.port)
        client.send("/streamer/dump", 1)
        began = time.monotonic()
        for _ in range(1000):
            client.send("/streamer/gain", 0.5)
        client.until_synced()
        client.close()
    assert 1 <= len(lines) <= 60 * (2 + time.monotonic() - began)


# --- what must not stop it --------------------------------------------------------------------------------


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


def test_close_ends_the_thread_frees_the_port_and_may_be_repeated(instrument: Memory) -> None:
    server = OscServer(instrument, port=0)
    server.start()
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 1
    assert all(thread.name != "streamer-osc" for thread in threading.enumerate())
    server.close()
    instrument.change(1, "gain", 0.5)  # a late loader has nobody to tell
    with OscServer(instrument, port=server.port) as again:
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
