"""The engine without a device: what performers ask for is heard, and what fails leaves the sound alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray
from playing import (
    MODEL_RATE,
    SPECS,
    Answer,
    Audience,
    new_voice,
    save_model,
    save_models,
    silent,
    tape_of,
    wait_for,
)

from streamer.controls import Value
from streamer.cues import Cue
from streamer.engine import LIVE_INPUT, Engine
from streamer.library import Library
from streamer.mixer import FADE_SECONDS, Mixer
from streamer.models.checkpoint import Checkpoint, PrecisionBits
from streamer.models.errors import ControlError, DeviceError, StreamerError
from streamer.models.specs import SampleRnnSpec
from streamer.score import Event, FromHeard, Header, ScoreWriter, VoiceBegins, VoiceCue, read
from streamer.tape import splice

FADE = round(FADE_SECONDS * MODEL_RATE)
CALM = {"margin": 25.0, "lead": 0.3}
"""A margin within which Python can tell that a generator is not ready."""
LARGE = SampleRnnSpec(frames=(8, 2), dim=256, rnn_layers=1, embedding=8)
"""So large that int8 is chosen where its price is small."""

Floats = NDArray[np.float32]


class Ear:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, str, Value]] = []
        self.failures: list[tuple[int, str, Value, str]] = []
        self.voices = 0

    def changed(self, voice: int, control: str, value: Value) -> None:
        self.changes.append((voice, control, value))

    def voices_changed(self) -> None:
        self.voices += 1

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        self.failures.append((voice, control, value, error))


class Shelf:
    """Models that load when they are let, or fail as no file should; what stands on it may be exchanged."""

    def __init__(self, models: Mapping[str, Checkpoint]) -> None:
        self.models = dict(models)
        self.asked, self.released = threading.Event(), threading.Event()
        self.released.set()

    def load(self, name: str) -> Checkpoint:
        self.asked.set()
        assert self.released.wait(60)
        if name not in self.models:
            raise MemoryError("a fault that is no StreamerError")
        return self.models[name]

    def names(self) -> Sequence[str]:
        return [*self.models, "faulty"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Checkpoint]]:
    """A model folder with two models, a damaged one, one whose rate leads nowhere, and a large one."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMER_MODELS", str(folder))
        saved = save_models(folder)
        (folder / "torn.safetensors").write_bytes((folder / "wave.safetensors").read_bytes()[:-1])
        save_model(folder / "odd.safetensors", SPECS["wave"], rate=191_999)
        save_model(folder / "cheap.safetensors", LARGE, bits=PrecisionBits(5.0, int8=5.0))
        yield saved


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_BOOKMARKS", str(tmp_path / "bookmarks"))
    monkeypatch.setenv("STREAMER_SOUNDS", str(tmp_path))


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    """No thread outlives the test that began it."""
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


def new_engine(saved: Mapping[str, Checkpoint], name: str = "wave", **options: Any) -> Engine:
    """At the model's rate and on one channel, unless asked for otherwise."""
    wanted: dict[str, Any] = {"models": Library(), "channels": 1, "threads": 1, **options}
    return Engine(name, saved[name], **wanted)


class Stage:
    """An engine that is played, somebody who listens to it, and somebody who is told."""

    def __init__(self, engine: Engine, score: Path) -> None:
        self.engine, self.ear, self.audience, self._score = engine, Ear(), Audience(engine), score
        engine.listen(self.ear)
        engine.record(ScoreWriter(score, Header(engine.mixer.rate, 1, "now", "0"), silent))

    def __enter__(self) -> Stage:
        self.engine.start()
        self.audience.__enter__()
        wait_for(lambda: self.engine.mixer.meters(1).peak > 0, "the first sound")
        return self

    def __exit__(self, *_: object) -> None:
        self.audience.__exit__()
        self.engine.close()

    def slow(self, order: Callable[..., object], *arguments: Any) -> StreamerError | None:
        """Have something done that takes a while; why it failed, or None. Then it is heard."""
        answer = Answer()
        order(*arguments, told=answer)
        error = answer.wait()
        self.audience.hear(0.12)
        return error

    def change(self, control: str, value: Value) -> StreamerError | None:
        return self.slow(self.engine.perform, [Cue(1, control, value)])

    def leave(self) -> Floats:
        """All that was heard, once nobody listens any more: of one channel."""
        self.audience.__exit__()
        return self.audience.sound[:, 0]

    def events(self) -> tuple[Event, ...]:
        """The score, once nobody listens any more."""
        if self.audience.is_there:
            self.leave()
        self.engine.close()
        return read(self._score).events

    def begun(self) -> list[VoiceBegins]:
        """How each generator began."""
        return [event for event in self.events() if isinstance(event, VoiceBegins)]

    def assert_without_a_gap(self) -> None:
        """There was sound in every frame since the first, from tapes that were always ahead."""
        sound = self.leave()
        assert sound[np.flatnonzero(sound)[0] :].all()
        counters = self.engine.mixer.counters()
        assert (counters.underruns, counters.silent_frames, counters.bad_samples) == (0, 0, 0)


Play = Callable[..., Stage]


@pytest.fixture
def on_stage(models: dict[str, Checkpoint], tmp_path: Path) -> Iterator[Play]:
    """Has engines played, calmly, and ends them."""
    stages = []

    def begin(name: str = "wave", **options: Any) -> Stage:
        values = {**CALM, **options.pop("values", {})}
        engine = new_engine(models, name, values=values, **options)
        stages.append(Stage(engine, tmp_path / f"score{len(stages)}.jsonl"))
        return stages[-1].__enter__()

    yield begin
    for stage in stages:
        if stage.audience.is_there:
            stage.audience.__exit__()
        stage.engine.close()


def hear(engine: Engine, frames: int, block: int = 160) -> Floats:
    """Play an engine that was not started: [frames]."""
    blocks = []
    for _ in range(frames // block):
        engine.fill()
        blocks.append(engine.mixer.render(block)[:, 0])
    return np.concatenate(blocks)


# --- how it begins ------------------------------------------------------------------------------------------


def test_it_plays_what_the_model_writes(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values={"seed": 4})
    sound = hear(engine, 8000)
    np.testing.assert_array_equal(sound[FADE:], tape_of(models["wave"], 0.5, seed=4)[FADE:])
    assert np.abs(sound[:10]).max() < 0.05
    assert engine.mixer.rate == MODEL_RATE


def test_every_channel_gets_the_same_at_the_rate_asked_for(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, "rnn", rate=44_100, channels=3)
    engine.fill()
    sound = engine.mixer.render(4410)
    assert sound.shape == (4410, 3)
    assert sound.any()
    np.testing.assert_array_equal(sound, np.repeat(sound[:, :1], 3, axis=1))


def test_controls_begin_with_the_tables_defaults_or_what_was_chosen(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values={"gain": 0.25, "seed": 3, "volume": 0.5, "temperature": 0.5})
    got = {name: engine.get(name) for name in ("temperature", "top_k", "seed", "gain", "volume", "model")}
    chosen = {"temperature": 0.5, "top_k": 0, "seed": 3, "gain": 0.25, "volume": 0.5, "model": "wave"}
    assert got == chosen
    assert engine.get("gain", 1) == 0.25
    tape = tape_of(models["wave"], 0.1, temperature=0.5, seed=3)
    np.testing.assert_array_equal(hear(engine, 1600)[FADE:], tape[FADE:] / 8)


def test_a_device_whose_rate_leads_nowhere_is_refused(models: dict[str, Checkpoint]) -> None:
    with pytest.raises(DeviceError, match="too odd"):
        new_engine(models, rate=191_999)


# --- what is done at once -----------------------------------------------------------------------------------


def test_a_generators_control_is_heard_beyond_the_margin(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values=CALM)
    before = hear(engine, 1600)
    engine.perform([Cue(1, "temperature", 0.25)])
    assert engine.get("temperature", 1) == 0.25
    sound = np.concatenate([before, hear(engine, 3200)])
    plain, margin = tape_of(models["wave"], 0.3), round(0.025 * MODEL_RATE)
    np.testing.assert_array_equal(sound[FADE : 1600 + margin], plain[FADE : 1600 + margin])
    assert (sound[1600 + margin :] != plain[1600 + margin :]).mean() > 0.5
    assert engine.status()["rewinds"] == 1


def test_ramps_envelopes_and_drifts_are_followed(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values=CALM)
    tape = tape_of(models["wave"], 1.0)
    hear(engine, 1600)
    engine.perform([Cue(1, "gain", 0.0, "ramp", 0.1)])
    np.testing.assert_allclose(hear(engine, 1600), tape[1600:3200] * (1 - np.arange(1600) / 1600), atol=1e-6)
    assert not hear(engine, 160).any()
    engine.perform([Cue(1, "gain", 1.0), Cue(1, "gain", 0.5, "ramp", 0.05, 0.02)])
    sound = hear(engine, 3200)
    np.testing.assert_allclose(sound[-160:], tape[6400:6560] / 2, atol=1e-6)
    assert engine.get("gain") == 0.5
    engine.perform([Cue(1, "gain", 0.3, "drift", 0.02)])
    shares = hear(engine, 1600) / tape[6560:8160]
    assert 0.2 - 1e-4 <= shares.min() < 0.4
    assert 0.6 < shares.max() <= 0.8 + 1e-4
    assert engine.get("gain") == 0.5


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Cue(2, "gain", 0.5), "no voice 2; there are 1"),
        (Cue(0, "gain", 0.5), "gain is a control of one voice"),
        (Cue(1, "volume", 0.5), "volume is a control of all voices"),
        (Cue(1, "colour", 0.5), "no control 'colour'"),
        (Cue(1, "top_k", 5, "ramp", 1.0), "top_k cannot move by itself"),
        (Cue(1, "freeze", True, "drift", 1.0), "freeze cannot move by itself"),
        (Cue(1, "reset", True, "ramp", 1.0), "reset cannot move by itself"),
        (Cue(0, "crossfade", 1.0, "ramp", 1.0), "crossfade cannot move by itself"),
        (Cue(1, "model", "flute"), "no model 'flute'; there are "),
        (Cue(1, "model", "../wave"), "no model"),
    ],
)
def test_one_bad_cue_of_three_and_nothing_changes(
    models: dict[str, Checkpoint], bad: Cue, reason: str
) -> None:
    engine, ear = new_engine(models), Ear()
    engine.listen(ear)
    sound = hear(engine, 1600)
    with pytest.raises(ControlError, match=reason):
        engine.perform([Cue(1, "temperature", 0.1), bad, Cue(0, "volume", 0.5)])
    assert (engine.get("temperature"), engine.get("volume"), engine.get("model")) == (1.0, 1.0, "wave")
    assert ear.changes == []
    assert engine.status()["cues"] == engine.status()["rewinds"] == 0
    sound = np.concatenate([sound, hear(engine, 3200)])
    np.testing.assert_array_equal(sound[FADE:], tape_of(models["wave"], 0.3)[FADE:])


def test_all_who_listen_are_told_what_changes(models: dict[str, Checkpoint]) -> None:
    engine, ears, answer = new_engine(models), [Ear(), Ear()], Answer()
    for ear in ears:
        engine.listen(ear)
    drift = Cue(1, "pan", 0.5, "drift", 1.0)
    engine.perform([Cue(1, "gain", 0.5), drift, Cue(0, "volume", 0.25, "ramp", 3.0)], told=answer)
    assert answer.wait() is None
    for ear in ears:
        assert ear.changes == [(1, "gain", 0.5), (0, "volume", 0.25)]


def test_what_has_no_value_or_no_voice_cannot_be_asked_for(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models)
    for control, voice, reason in (("reset", 1, "has no value"), ("gain", 7, "no voice 7"), ("x", 0, "no c")):
        with pytest.raises(ControlError, match=reason):
            engine.get(control, voice)


# --- when ---------------------------------------------------------------------------------------------------


def test_a_cue_for_later_takes_effect_then_and_a_late_one_at_once(on_stage: Play) -> None:
    stage = on_stage()
    engine, frame = stage.engine, stage.engine.mixer.frame
    engine.perform([Cue(0, "volume", 0.0)], time.time() + 0.5)
    engine.perform([Cue(1, "gain", 0.5)], time.time() - 0.5)
    stage.audience.hear(0.8)
    sound = stage.leave()
    silent = np.flatnonzero(sound)[-1] - frame
    assert 0.4 * MODEL_RATE < silent < 0.7 * MODEL_RATE
    assert (engine.status()["late"], engine.status()["cues"]) == (1, 2)


def test_what_was_for_later_can_be_dropped(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values=CALM)
    hear(engine, 1600)
    now = time.time()
    engine.perform([Cue(0, "volume", 0.0), Cue(1, "seed", 9)], now + 0.2)
    engine.perform([Cue(1, "gain", 0.0, "ramp", 0.1)], now + 0.3)
    hear(engine, 160)
    engine.clear_schedule()
    sound = hear(engine, 16_000)
    np.testing.assert_array_equal(sound, tape_of(models["wave"], 1.11)[1760:17_760])


def test_panic_is_silence_at_once_and_an_end_to_all_that_moves(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values=CALM)
    hear(engine, 1600)
    engine.perform([Cue(1, "gain", 0.2, "drift", 0.05), Cue(1, "temperature", 0.5, "drift", 0.05)])
    engine.perform([Cue(1, "play", True)], time.time() + 0.1)
    hear(engine, 800)
    engine.panic()
    assert not hear(engine, 3200)[round(0.02 * MODEL_RATE) :].any()
    assert (engine.get("play"), engine.status()["playing"]) == (False, 0)
    position = engine.voice(1).tape.play_head
    engine.perform([Cue(1, "play", True)])
    sound = hear(engine, 3200)
    np.testing.assert_array_equal(sound[FADE:], engine.voice(1).tape.read(position, 3200)[FADE:])


# --- what takes a while -------------------------------------------------------------------------------------


def test_a_reset_begins_the_same_sound_again(on_stage: Play, models: dict[str, Checkpoint]) -> None:
    stage = on_stage(values={"seed": 2})
    assert stage.change("reset", True) is None
    assert stage.ear.changes == [(1, "reset", True)]
    stage.assert_without_a_gap()
    tape = stage.engine.voice(1).tape
    sound, heard = stage.audience.sound[:, 0], tape.play_head
    np.testing.assert_array_equal(tape.read(0, heard), tape_of(models["wave"], heard / MODEL_RATE, seed=2))
    np.testing.assert_array_equal(sound[-800:], tape.read(heard - 800, 800))


def test_a_model_goes_on_from_what_was_heard_with_the_same_controls(on_stage: Play) -> None:
    stage = on_stage(values={"seed": 2, "temperature": 0.5})
    stage.audience.hear(0.3)
    heard = stage.engine.voice(1).tape
    assert stage.change("model", "rnn") is None
    stage.assert_without_a_gap()
    voice = stage.engine.voice(1)
    assert stage.ear.changes == [(1, "model", "rnn")]
    assert voice.name == stage.engine.get("model") == stage.engine.voice_status(1)["model"] == "rnn"
    assert (voice.values["seed"], voice.values["temperature"]) == (2, 0.5)
    begun = stage.begun()[1].begins
    assert isinstance(begun, FromHeard)
    first = max(0, begun.position - round(begun.seconds * MODEL_RATE))
    before = heard.read(first, begun.position - first)
    np.testing.assert_allclose(voice.tape.read(0, len(before)), before, atol=1e-4)
    last = voice.tape.play_head
    np.testing.assert_array_equal(stage.audience.sound[-800:, 0], voice.tape.read(last - 800, 800))


def test_two_quick_changes_end_with_the_second(on_stage: Play) -> None:
    stage, answers = on_stage(), [Answer(), Answer(), Answer()]
    for name, answer in zip(("rnn", "wave", "rnn"), answers, strict=True):
        stage.engine.perform([Cue(1, "model", name)], told=answer)
    assert [answer.wait() for answer in answers] == [None] * 3
    stage.audience.hear(0.2)
    assert stage.engine.voice(1).name == "rnn"
    stage.assert_without_a_gap()


def test_a_model_changes_without_a_gap_in_the_middle_of_a_gesture(on_stage: Play) -> None:
    stage, answers = on_stage(values={"lead": 2.0}), []
    engine = stage.engine
    engine.perform([Cue(1, "centre", 3.0, "drift", 0.1)])
    for turn in range(60):
        engine.perform([Cue(1, "temperature", 0.5 + turn / 100)])
        if turn % 20 == 10:
            answers.append(Answer())
            engine.perform([Cue(1, "model", ("rnn", "wave")[turn % 40 == 30])], told=answers[-1])
        stage.audience.hear(0.01)
    assert [answer.wait() for answer in answers] == [None] * 3
    stage.audience.hear(0.1)
    stage.assert_without_a_gap()


def test_a_tape_of_which_only_a_runway_is_left_is_heard_at_once(models: dict[str, Checkpoint]) -> None:
    voice, mixer = new_voice(models["wave"], 1.0), Mixer(MODEL_RATE, 1)
    voice.keep(1.0, 0.005, 0.010, 3.0)
    voice.fill()
    assert splice(voice.tape.buffer, 0, voice.tape.read(0, 160), 160)
    mixer.put(1, voice.tape, FADE_SECONDS)
    assert mixer.render(100)[1:].all()


def test_controls_changed_while_a_model_loads_are_its_own(
    on_stage: Play, models: dict[str, Checkpoint]
) -> None:
    shelf, answer = Shelf(models), Answer()
    stage = on_stage(models=shelf)
    shelf.released.clear()
    stage.engine.perform([Cue(1, "model", "rnn")], told=answer)
    assert shelf.asked.wait(60)
    stage.engine.perform([Cue(1, "seed", 8), Cue(1, "repetition", 2.0, "drift", 0.5)])
    shelf.released.set()
    assert answer.wait() is None
    stage.audience.hear(0.1)
    wait_for(lambda: stage.engine.voice(1).cues.is_empty, "all cues taken")
    assert stage.begun()[1].values["seed"] == 8
    drifts = [event for event in stage.events() if isinstance(event, VoiceCue) and event.kind == "drift"]
    assert {(event.lane, event.instance) for event in drifts} == {("repetition", 1), ("repetition", 2)}


@pytest.mark.parametrize(("name", "reason"), [("torn", "truncated"), ("odd", "too odd")])
def test_a_model_that_fails_leaves_the_sound_and_nothing_behind(
    on_stage: Play, models: dict[str, Checkpoint], name: str, reason: str
) -> None:
    stage = on_stage(rate=48_000 if name == "odd" else None)
    stage.audience.hear(0.1)
    threads = threading.active_count()
    error = stage.change("model", name)
    assert reason in str(error)
    assert "\n" not in str(error)
    assert stage.ear.failures == [(1, "model", name, str(error))]
    assert stage.engine.get("model") == stage.engine.voice(1).name == "wave"
    assert threading.active_count() == threads
    stage.assert_without_a_gap()
    tape = stage.engine.voice(1).tape
    heard = tape.play_head
    np.testing.assert_array_equal(tape.read(0, heard), tape_of(models["wave"], heard / MODEL_RATE))


def test_a_fault_while_loading_ends_neither_the_sound_nor_the_loader(
    on_stage: Play, models: dict[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    stage = on_stage(models=Shelf(models))
    assert "a fault that is no StreamerError" in str(stage.change("model", "faulty"))
    assert "an order failed" in caplog.text
    assert stage.engine.get("model") == "wave"
    assert stage.change("model", "rnn") is None
    stage.assert_without_a_gap()


def test_each_model_has_a_precision_of_its_own_unless_one_is_asked_for(on_stage: Play) -> None:
    for asked, expected in (("auto", ["fp32", "int8", "fp32"]), ("bf16", ["bf16"] * 3)):
        stage = on_stage(precision=asked)
        found = [stage.engine.voice_status(1)["precision"]]
        for name in ("cheap", "rnn"):
            assert stage.change("model", name) is None
            found.append(stage.engine.voice_status(1)["precision"])
        assert found == expected
        stage.__exit__()


def test_the_threads_that_help_go_with_their_voice(on_stage: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.threads.cores", lambda: 3)
    stage = on_stage(threads=3)
    running = threading.active_count()
    for control, value in (("model", "rnn"), ("reset", True), ("model", "wave")):
        assert stage.change(control, value) is None
        wait_for(lambda: threading.active_count() == running, "the end of the voice before")


# --- bookmarks, priming, the tape ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("voice", [1, 2])
def test_any_voice_goes_on_from_a_bookmark_exactly(
    on_stage: Play, models: dict[str, Checkpoint], name: str, voice: int
) -> None:
    stage = on_stage(name, values={"seed": 6, "temperature": 0.7})
    engine = stage.engine
    assert stage.slow(engine.save_bookmark, "dawn", 1) is None
    assert engine.bookmarks() == ["dawn"]
    assert stage.change("model", "wave") is None
    assert stage.slow(engine.add_voice, "rnn") is None
    engine.perform([Cue(number, "seed", 1) for number in (1, 2)])
    assert stage.slow(engine.recall_bookmark, "dawn", voice) is None
    assert (engine.get("model", voice), engine.get("seed", voice)) == (name, 6)
    assert {(voice, "model", name), (voice, "seed", 6)} <= set(stage.ear.changes)
    stage.assert_without_a_gap()
    tape = engine.voice(voice).tape
    first, last = tape.oldest, tape.play_head
    expected = tape_of(models[name], last / MODEL_RATE, seed=6, temperature=0.7)[first:]
    np.testing.assert_array_equal(tape.read(first, last - first), expected)
    assert last - first > 1000


def test_a_bookmark_of_a_model_that_has_changed_since_is_refused(
    on_stage: Play, models: dict[str, Checkpoint]
) -> None:
    shelf = Shelf(models)
    stage = on_stage(models=shelf)
    assert stage.slow(stage.engine.save_bookmark, "dawn", 1) is None
    assert stage.change("model", "rnn") is None
    voice = stage.engine.voice(1)
    shelf.models["wave"] = models["rnn"]
    for name, reason in (("dawn", "dawn: was made with another wave"), ("dusk", "'dusk' is unknown")):
        assert reason in str(stage.slow(stage.engine.recall_bookmark, name, 1))
        assert stage.engine.voice(1) is voice
    assert "cannot be called" in str(stage.slow(stage.engine.save_bookmark, "../dawn", 1))
    stage.assert_without_a_gap()


class Microphone:
    """Hears a tone."""

    def last(self, seconds: float) -> tuple[Floats, int]:
        return np.float32(0.2 * np.sin(np.arange(seconds * 22_050) / 9)), 22_050


@pytest.mark.parametrize("source", ["tone.wav", LIVE_INPUT])
def test_a_voice_goes_on_from_a_sound(on_stage: Play, tmp_path: Path, source: str) -> None:
    tone, rate = Microphone().last(0.5)
    sf.write(tmp_path / "tone.wav", tone, rate, "FLOAT")
    stage = on_stage(live_input=Microphone())
    assert stage.slow(stage.engine.prime, 1, source, 0.5) is None
    stage.assert_without_a_gap()
    voice = stage.engine.voice(1)
    primed = voice.tape.read(0, MODEL_RATE // 2)
    assert voice.tape.oldest == 0
    expected = 0.2 * np.sin(np.arange(MODEL_RATE // 2) * 22_050 / MODEL_RATE / 9)
    assert np.corrcoef(primed[100:-100], expected[100:-100])[0, 1] > 0.95
    last = voice.tape.play_head
    np.testing.assert_array_equal(stage.audience.sound[-800:, 0], voice.tape.read(last - 800, 800))


def test_a_sound_that_is_not_there_changes_nothing(on_stage: Play) -> None:
    stage = on_stage()
    voice = stage.engine.voice(1)
    for source, reason in (("../tone.wav", "is unknown"), (LIVE_INPUT, "start streamer with --input")):
        assert reason in str(stage.slow(stage.engine.prime, 1, source, 0.5))
    assert stage.engine.voice(1) is voice
    stage.assert_without_a_gap()


def test_a_generator_takes_up_from_where_the_tape_was_scrubbed_to(
    on_stage: Play, models: dict[str, Checkpoint]
) -> None:
    stage = on_stage("rnn")
    engine = stage.engine
    stage.audience.hear(0.5)
    engine.perform([Cue(1, "freeze", True), Cue(1, "scrub", 0.3), Cue(1, "loop", 0.1)])
    stage.audience.hear(0.2)
    held = engine.voice(1).tape.play_head
    for _ in range(2):  # each time it goes on otherwise
        assert stage.slow(engine.continue_from_here, 1) is None
    assert (engine.get("freeze"), engine.get("scrub")) == (False, 0.0)
    assert (1, "freeze", False) in stage.ear.changes
    stage.assert_without_a_gap()
    tape, first = engine.voice(1).tape, held - round(0.3 * MODEL_RATE)
    before = tape_of(models["rnn"], first / MODEL_RATE + 0.1)
    np.testing.assert_array_equal(tape.read(0, first), before[:first])
    assert engine.voice(1).take == 2
    again = tape.read(first, 500)
    assert not np.array_equal(again, before[first : first + 500])


# --- voices -------------------------------------------------------------------------------------------------


def test_sixteen_voices_are_heard_and_no_more(on_stage: Play) -> None:
    stage = on_stage("rnn", values={"gain": 0.05})
    engine, answers = stage.engine, [Answer() for _ in range(15)]
    numbers = [engine.add_voice("rnn", told=answer) for answer in answers]
    assert numbers == list(range(2, 17))
    with pytest.raises(ControlError, match="16 voices already: remove one"):
        engine.add_voice("rnn")
    assert [answer.wait() for answer in answers] == [None] * 15
    stage.audience.hear(0.3)
    assert all(engine.mixer.meters(number).peak > 0 for number in engine.voices())
    engine.remove_voice(5)
    assert 5 not in engine.voices()
    assert engine.add_voice("rnn", "late", {"pan": 1.0}) == 5
    assert (engine.voices()[5], engine.get("pan", 5)) == ("late", 1.0)
    assert engine.status()["voices"] == 16
    assert stage.ear.voices >= 15
    stage.assert_without_a_gap()


@pytest.mark.parametrize("name", ["voice1", "7", "a b", "a/b", "a*", "x" * 41, "tab\t", "[a]"])
def test_odd_names_and_those_taken_are_refused(models: dict[str, Checkpoint], name: str) -> None:
    engine = new_engine(models)
    with pytest.raises(ControlError, match=r"a voice cannot be called .*: choose another name"):
        engine.add_voice("rnn", name)
    with pytest.raises(ControlError, match="no model 'flute'"):
        engine.add_voice("flute", "bob")
    assert engine.voices() == {1: "voice1"}


def test_voices_of_one_model_and_seed_differ(on_stage: Play, models: dict[str, Checkpoint]) -> None:
    stage = on_stage("rnn")
    assert stage.slow(stage.engine.add_voice, "rnn") is None
    stage.assert_without_a_gap()
    for number in (1, 2):
        tape = stage.engine.voice(number).tape
        expected = tape_of(models["rnn"], 0.2, number=number)
        np.testing.assert_array_equal(tape.read(0, 1000), expected[:1000])


def test_a_voice_that_is_removed_fades_and_ends(on_stage: Play) -> None:
    stage = on_stage()
    engine = stage.engine
    assert stage.slow(engine.add_voice, "rnn", "bob") is None
    threads, voice = threading.active_count(), engine.voice(2)
    engine.remove_voice(2)
    for ask in (engine.voice_status, engine.remove_voice, engine.voice, engine.continue_from_here):
        with pytest.raises(ControlError, match="no voice 2"):
            ask(2)
    wait_for(lambda: threading.active_count() == threads - 1, "the end of its thread")
    assert not engine.mixer.reads(voice.tape)
    engine.remove_voice(1)
    stage.audience.hear(0.2)
    assert engine.status()["voices"] == 0
    assert not stage.leave()[-800:].any()


def test_a_voice_may_go_while_its_model_loads(on_stage: Play, models: dict[str, Checkpoint]) -> None:
    shelf = Shelf(models)
    stage = on_stage(models=shelf)
    for order in ("add", "change"):
        shelf.released.clear()
        shelf.asked.clear()
        if order == "change":
            shelf.released.set()
            assert stage.slow(stage.engine.add_voice, "rnn", "bob") is None
            shelf.released.clear()
            shelf.asked.clear()
        threads, answer = threading.active_count(), Answer()
        if order == "add":
            assert stage.engine.add_voice("rnn", "bob", told=answer) == 2
            with pytest.raises(ControlError, match="bob is not there yet"):
                stage.engine.voice_status(2)
        else:
            stage.engine.perform([Cue(2, "model", "wave")], told=answer)
        assert shelf.asked.wait(60)
        stage.engine.remove_voice(2)
        shelf.released.set()
        answer.wait()
        assert list(stage.engine.voices()) == [1]
        wait_for(lambda n=threads: threading.active_count() <= n, "the end of the shadow")  # type: ignore[misc]
    stage.assert_without_a_gap()


def test_a_voice_whose_model_fails_is_none(on_stage: Play) -> None:
    stage = on_stage()
    assert "truncated" in str(stage.slow(stage.engine.add_voice, "torn", "bob"))
    assert stage.engine.voices() == {1: "voice1"}
    assert stage.engine.add_voice("rnn", "bob") == 2


# --- lead and margin ----------------------------------------------------------------------------------------


def test_lead_and_margin_are_live_and_follow_the_speed(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models)
    engine.perform([Cue(0, "lead", 0.2), Cue(0, "margin", 30.0)])
    engine.tend()
    tape = engine.voice(1).tape
    assert (tape.target, tape.margin) == (3200, 480)
    assert (engine.status()["lead_ms"], engine.status()["margin_ms"]) == (200.0, 30.0)
    engine.perform([Cue(1, "speed", 2.0)])
    engine.tend()
    assert tape.margin == 960
    engine.perform([Cue(1, "speed", 0.5), Cue(0, "lead", 9.0)])
    engine.tend()
    assert tape.margin == 480
    assert tape.target == round(engine.voice(1).longest_lead * MODEL_RATE)


def test_an_underrun_lengthens_runway_and_lead(models: dict[str, Checkpoint]) -> None:
    engine = new_engine(models, values={"lead": 0.1})
    engine.fill()
    before = engine.voice(1).tape.runway
    engine.mixer.render(3200)
    engine.tend()
    assert engine.status()["underruns"] == 1
    assert engine.status()["lead_ms"] == 150.0
    assert engine.voice(1).tape.runway >= before + 0.002 * MODEL_RATE


def test_a_gesture_leaves_every_voice_its_runway(on_stage: Play) -> None:
    stage = on_stage("rnn", values={"lead": 2.0})
    engine, leads = stage.engine, []
    for turn in range(50):
        engine.perform([Cue(1, "temperature", 0.5 + turn / 100), Cue(1, "gain", 0.5)])
        stage.audience.hear(0.01)
        leads.append(engine.voice(1).tape.lead_ms)
    assert int(engine.status()["rewinds"]) > 25
    assert min(leads) > 1000 * FADE_SECONDS / 4  # of which a fade at an underrun is made
    stage.assert_without_a_gap()


# --- what is watched, and the end ---------------------------------------------------------------------------


def test_status_says_what_is_played(on_stage: Play) -> None:
    stage = on_stage("rnn")
    engine = stage.engine
    stage.audience.hear(0.2)
    stage.leave()
    engine.tend()
    tape = engine.voice(1).tape
    wait_for(lambda: tape.lead == tape.target, "a full lead")
    status, own = engine.status(), engine.voice_status(1)
    for each in (status, own):
        assert float(each.pop("realtime_factor")) > 0
        assert 0 < float(each.pop("rms")) <= float(each.pop("peak")) <= 1
    assert float(status.pop("device_rate_measured")) > 0
    assert status == {
        "voices": 1, "playing": 1, "volume": 1.0, "buffer_ms": 300.0, "lead_ms": 300.0, "margin_ms": 25.0,
        "underruns": 0, "cues": 0, "late": 0, "refused": 0, "rewinds": 0, "device_rate": MODEL_RATE,
        "device_underflows": 0,
    }  # fmt: skip
    assert own == {
        "number": 1, "name": "voice1", "model": "rnn", "playing": 1, "buffer_ms": 300.0, "underruns": 0,
        "precision": "fp32", "threads": 1, "position_s": round(tape.play_head / MODEL_RATE, 3),
    }  # fmt: skip
    assert engine.models() == Library().names()


def test_it_ends_while_a_model_loads_and_says_that_it_does(
    on_stage: Play, models: dict[str, Checkpoint]
) -> None:
    shelf, answer = Shelf(models), Answer()
    stage = on_stage(models=shelf)
    shelf.released.clear()
    stage.engine.perform([Cue(1, "model", "rnn")], told=answer)
    assert shelf.asked.wait(60)
    stage.leave()
    assert not stage.engine.close()
    shelf.released.set()
    assert answer.wait() is None
    wait_for(stage.engine.close, "the end")


def test_no_control_waits_for_a_compiler(models: dict[str, Checkpoint]) -> None:
    script = """
import threading
from numba.core.compiler_lock import global_compiler_lock
from streamer.controls import CONTROLS
from streamer.cues import Cue
from streamer.engine import Engine
from streamer.library import Library, open_model

engine = Engine(*open_model("wave"), Library())
engine.start()
while not engine.mixer.position_at(1, 0) and not engine.mixer.render(100).any():
    pass

def perform():
    engine.status()
    engine.voice_status(1)
    for row in CONTROLS:
        if not row.is_slow:
            engine.perform([Cue(int(row.scope == "voice"), row.name, row.default)])
    engine.perform([Cue(1, "gain", 0.5, "ramp", 1.0), Cue(1, "centre", 0.5, "drift", 1.0)])
    engine.clear_schedule()
    engine.panic()
    engine.mixer.fade_out()
    engine.mixer.wait_silent(0)
    engine.remove_voice(1)
    engine.close()
    print("done", flush=True)

performer = threading.Thread(target=perform, daemon=True)
with global_compiler_lock:  # as while a model of another architecture loads
    performer.start()
    performer.join(10)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
