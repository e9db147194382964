"""MIDI: what messages mean, and real virtual ports between a controller and the instrument."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jackrig import JackServer
from midi_rig import midi_output
from mido import Message

from streamer.controls import CONTROLS, find, parse
from streamer.cues import Cue
from streamer.midi import Midi, Told
from streamer.midi_map import Binding, Deed, Reader, Recall, Source, decode, deed, from_json, to_json
from streamer.models.errors import ControlError, StreamerError

DEADLINE = 20.0


def knob(number: int, value: int, channel: int = 1) -> Message:
    return Message("control_change", control=number, value=value, channel=channel - 1)


def key(note: int, velocity: int) -> Message:
    return Message("note_on", note=note, velocity=velocity)


def played(binding: Binding, *messages: Message) -> list[Deed]:
    """What messages do by one binding."""
    reader = Reader()
    deeds = []
    for message in messages:
        gesture = reader.read(message, {binding.source})
        if gesture is not None and gesture.source == binding.source:
            deeds.append(deed(binding, gesture))
    return [each for each in deeds if each is not None]


def values(binding: Binding, *messages: Message) -> list[object]:
    return [each.value for each in played(binding, *messages) if isinstance(each, Cue)]


# --- what messages mean -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "control", [each for each in CONTROLS if each.curve != "none"], ids=lambda each: each.name
)
def test_a_knob_travels_the_whole_range_and_is_always_in_it(control: Any) -> None:
    binding = Binding("control_change", 1, 7, int(control.scope == "voice"), control.name)
    travelled = values(binding, *(knob(7, value) for value in range(128)))
    assert travelled[0] == control.minimum
    assert travelled[-1] == control.maximum
    assert travelled == sorted(travelled)  # type: ignore[type-var]
    assert all(parse(control, each) == each for each in travelled)


def test_a_knob_follows_the_controls_curve() -> None:
    assert values(Binding("control_change", 1, 7, 1, "pan"), knob(7, 127), knob(7, 0)) == [1.0, -1.0]
    (half,) = values(Binding("control_change", 1, 7, 1, "gain"), knob(7, 64))
    assert half == pytest.approx(2 * (64 / 127) ** 3)


def test_a_fine_half_makes_fourteen_bits() -> None:
    pan = Binding("control_change", 1, 7, 1, "pan")
    coarse, fine, next_coarse = values(pan, knob(7, 64), knob(39, 5), knob(7, 65))
    assert coarse == pytest.approx(2 * 64 / 127 - 1)
    assert fine == pytest.approx(2 * (64 * 128 + 5) / 16383 - 1)
    assert next_coarse == pytest.approx(2 * 65 * 128 / 16383 - 1)
    assert values(pan, knob(7, 127), knob(39, 127))[-1] == 1.0


def test_a_bound_knob_is_nobodys_fine_half() -> None:
    pan = Binding("control_change", 1, 39, 1, "pan")
    assert values(pan, knob(7, 64), knob(39, 127)) == [1.0]


def test_other_knobs_channels_and_messages_do_nothing() -> None:
    pan = Binding("control_change", 2, 7, 1, "pan")
    others = [knob(7, 1), knob(8, 1, channel=2), Message("pitchwheel", pitch=3), Message("clock"), key(7, 9)]
    assert played(pan, *others) == []


def test_a_switch_follows_a_key_while_it_is_held_and_a_knob_by_halves() -> None:
    down_and_up = key(60, 3), Message("note_off", note=60), key(60, 100), key(60, 0)
    assert values(Binding("note", 1, 60, 1, "freeze"), *down_and_up) == [True, False, True, False]
    swept = (knob(7, value) for value in (0, 63, 64, 127, 63))
    assert values(Binding("control_change", 1, 7, 1, "freeze"), *swept) == [False, False, True, True, False]


def test_a_key_sets_a_number_by_its_velocity() -> None:
    assert values(Binding("note", 1, 60, 1, "temperature"), key(60, 127), key(60, 0)) == [2.0]


def test_a_button_fires_once_a_press() -> None:
    button = Binding("control_change", 1, 20, 1, "reset")
    assert values(button, knob(20, 127), knob(20, 0), knob(20, 127), knob(20, 0)) == [True, True]
    assert values(button, knob(20, 127), knob(20, 127)) == [True, True]  # one that sends no release
    assert values(button, *(knob(20, value) for value in range(128))) == [True]  # a knob that is turned up


def test_programs_and_keys_load_models_and_recall_bookmarks() -> None:
    program = Message("program_change", program=3)
    assert played(Binding("program_change", 1, 3, 2, "model", "choir"), program) == [Cue(2, "model", "choir")]
    dawn = Binding("note", 1, 36, 4, "bookmark", "dawn")
    assert played(dawn, key(36, 20), key(36, 0)) == [Recall(4, "dawn")]
    assert values(Binding("note", 1, 36, 1, "temperature", 0.9), key(36, 1)) == [0.9]


@given(st.binary(min_size=1, max_size=8))
def test_any_bytes_are_a_gesture_or_nothing(data: bytes) -> None:
    message = decode(data)
    gesture = message and Reader().read(message)
    assert gesture is None or 0 <= gesture.travel <= 1


# --- bindings and their file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("binding", "text"),
    [
        (("sysex", 1, 7, 1, "gain"), "a message is one of"),
        (("note", 0, 7, 1, "gain"), "channel"),
        (("note", 1, 128, 1, "gain"), "number"),
        (("note", 1, 7, 17, "gain"), "voice"),
        (("note", 1, 7, 0, "gain"), "voice"),
        (("note", 1, 7, 1, "volume"), "the master's"),
        (("note", 1, 7, 1, "loudness"), "no control"),
        (("note", 1, 7, 1, 5), "named by a text"),
        (("note", 1, 7, 1, "model"), "needs a value"),
        (("note", 1, 7, 1, "seed"), "needs a value"),
        (("program_change", 1, 7, 1, "gain"), "needs a value"),
        (("note", 1, 7, 1, "bookmark"), "its name"),
        (("note", 1, 7, 1, "gain", "loud"), "not 'loud'"),
        ((["note"], True, 7.0, 1, "gain"), "a message is one of"),
    ],
)
def test_what_cannot_be_bound_is_refused(binding: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ControlError, match=text):
        Binding(*binding)


def test_bindings_survive_their_file() -> None:
    bindings = (
        Binding("control_change", 1, 7, 1, "gain"),
        Binding("program_change", 16, 0, 16, "model", "techno"),
        Binding("note", 10, 36, 3, "bookmark", "l’aube"),
    )
    assert from_json(to_json(bindings)) == bindings
    assert from_json(to_json(())) == ()


def test_the_pages_example_is_a_file_of_bindings() -> None:
    page = (Path(__file__).parents[1] / "docs" / "midi.md").read_text(encoding="utf-8")
    example = page.partition("```json\n")[2].partition("```")[0]
    assert to_json(from_json(example)) == example


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "a list"),
        ("[" + "{}," * 2000 + "{}]", "at most"),
        ("[{}]", "binding 1: it takes message"),
        (
            '[{"message": "note", "channel": 1, "number": 1, "voice": 1, "control": "gain", "colour": 1}]',
            "it takes",
        ),
        (
            '[{"message": "note", "channel": 1, "number": 1, "voice": 1, "control": "gain", "value": NaN}]',
            "nan",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "midi.json"
    file.write_text(text)
    with pytest.raises(StreamerError, match=said) as refusal:
        Midi(Rig(), file)
    assert str(file) in str(refusal.value)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda each: st.lists(each))
)
def test_any_json_is_bindings_or_refused(value: object) -> None:
    row = dict(zip(("message", "channel", "number", "voice", "control"), [value] * 5, strict=True))
    for thing in (value, [row], [{**row, "message": "note", "channel": 1, "number": 1, "voice": 1}]):
        with suppress(StreamerError):
            assert all(isinstance(each, Binding) for each in from_json(json.dumps(thing)))


# --- ports ------------------------------------------------------------------------------------------------


class Rig:
    """An instrument that remembers what it was told, with two voices."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def perform(self, cues: Sequence[Cue], at: float | None = None, told: Told | None = None) -> None:
        if any(cue.voice > 2 for cue in cues):
            raise ControlError("no voice 3")
        self.heard += cues

    def recall_bookmark(self, name: str, voice: int, told: Told) -> None:
        self.heard.append((name, voice))
        told(StreamerError(f"no bookmark {name}"))


class Controller:
    """A device with one output port that anyone may connect to."""

    def __init__(self) -> None:
        self.plug_in()

    def plug_in(self) -> None:
        self._port = midi_output("performer")

    def send(self, message: Message) -> None:
        self._port.send_message(message.bytes())

    def pull_out(self) -> None:
        self._port.close_port()
        self._port.delete()


@pytest.fixture
def instrument() -> Rig:
    return Rig()


@pytest.fixture
def midi(jack_server: JackServer, tmp_path: Path, instrument: Rig, monkeypatch: Any) -> Iterator[Midi]:
    """MIDI on the system's own service where it has one, and else on the private JACK server's."""
    for name in ("JACK_DEFAULT_SERVER", "JACK_NO_START_SERVER"):
        monkeypatch.setenv(name, jack_server.environment[name])
    with Midi(instrument, tmp_path / "config" / "midi.json", ports="Performer") as running:
        yield running


@pytest.fixture
def controller(midi: Midi) -> Iterator[Controller]:
    device = Controller()
    until(lambda: bool(midi.ports))
    yield device
    device.pull_out()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Ears:
    """Hears how a lesson ends."""

    def __init__(self) -> None:
        self.told: list[StreamerError | None] = []

    def __call__(self, error: StreamerError | None) -> None:
        self.told.append(error)

    def wait(self) -> StreamerError | None:
        until(lambda: bool(self.told))
        return self.told[0]


def learnt(midi: Midi, controller: Controller, message: Message, *what: Any) -> None:
    """Have a control learnt by a message; whether the lesson has begun shows only once it has ended."""
    ears = Ears()
    midi.learn(*what, told=ears)
    deadline = time.monotonic() + DEADLINE
    while not ears.told:
        assert time.monotonic() < deadline
        controller.send(message)
        time.sleep(0.05)
    assert ears.wait() is None


def test_a_knob_learnt_plays_and_is_kept(
    midi: Midi, controller: Controller, instrument: Rig, tmp_path: Path
) -> None:
    learnt(midi, controller, knob(7, 0), 1, "gain")
    learnt(midi, controller, key(36, 100), 2, "bookmark", "dawn")
    assert [each.source for each in midi.bindings] == [Source("control_change", 1, 7), Source("note", 1, 36)]
    assert from_json((tmp_path / "config" / "midi.json").read_text()) == midi.bindings
    controller.send(knob(7, 127))
    until(lambda: instrument.heard[-1] == Cue(1, "gain", find("gain").maximum or 0))
    controller.send(key(36, 1))
    until(lambda: instrument.heard[-1] == ("dawn", 2))
    learnt(midi, controller, knob(8, 1), 1, "gain")  # instead of the other knob
    assert {each.source for each in midi.bindings} == {Source("note", 1, 36), Source("control_change", 1, 8)}
    forgotten = Ears()
    midi.forget(1, "gain", told=forgotten)
    assert forgotten.wait() is None
    assert from_json((tmp_path / "config" / "midi.json").read_text()) == midi.bindings
    assert [each.control for each in midi.bindings] == ["bookmark"]


def test_a_device_that_was_pulled_out_plays_again(
    midi: Midi, controller: Controller, instrument: Rig
) -> None:
    learnt(midi, controller, knob(7, 1), 1, "pan")
    controller.pull_out()
    until(lambda: not midi.ports)
    controller.plug_in()
    until(lambda: bool(midi.ports))
    instrument.heard.clear()
    controller.send(knob(7, 127))
    until(lambda: instrument.heard == [Cue(1, "pan", 1.0)])


def test_errors_are_said_once_and_end_nothing(
    midi: Midi, controller: Controller, instrument: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    learnt(midi, controller, knob(7, 1), 3, "pan")
    for value in range(20):
        controller.send(knob(7, value))
    learnt(midi, controller, knob(8, 1), 2, "pan")
    until(lambda: bool(instrument.heard))
    assert caplog.text.count("no voice 3") == 1


def test_a_lesson_that_cannot_be_saved_or_is_overtaken_says_so(
    midi: Midi, controller: Controller, tmp_path: Path
) -> None:
    first, second = Ears(), Ears()
    midi.learn(1, "gain", told=first)
    midi.learn(1, "pan", told=second)
    assert "pan" in str(first.wait())
    (tmp_path / "config").write_text("a file where the folder should be")
    controller.send(knob(7, 1))
    assert "cannot be saved" in str(second.wait())
    assert [each.control for each in midi.bindings] == ["pan"]
    with pytest.raises(ControlError, match="no control 'loudness'"):
        midi.learn(1, "loudness")


def test_a_file_kept_from_last_time_is_used(
    jack_server: JackServer, tmp_path: Path, instrument: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JACK_DEFAULT_SERVER", "JACK_NO_START_SERVER"):
        monkeypatch.setenv(name, jack_server.environment[name])
    file = tmp_path / "midi.json"
    file.write_text(to_json([Binding("control_change", 1, 7, 1, "pan")]))
    with Midi(instrument, file, ports="performer") as midi:
        device = Controller()
        until(lambda: bool(midi.ports))
        device.send(knob(7, 0))
        until(lambda: instrument.heard == [Cue(1, "pan", -1.0)])
        device.pull_out()
    midi.close()
