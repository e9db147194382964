"""The engine without a device: what its controls do to the sound, and what failures do not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from playing import MODEL_RATE, SPECS, save_model, save_models, tape_of, wait_for

from streamer.controls import Value
from streamer.engine import LEAD, Engine
from streamer.library import Library
from streamer.models.checkpoint import Checkpoint, PrecisionBits
from streamer.models.errors import ControlError, DeviceError
from streamer.models.specs import SampleRnnSpec
from streamer.playhead import FADE_SECONDS

FADE = round(FADE_SECONDS * MODEL_RATE)
BLOCK = 160
LARGE = SampleRnnSpec(frames=(8, 2), dim=256, rnn_layers=1, embedding=8)
"""So large that int8 is chosen where its price is small."""

Floats = NDArray[np.float32]


class Ear:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Value, str]] = []

    def changed(self, name: str, value: Value) -> None:
        self.told.append((name, value, ""))

    def failed(self, name: str, value: Value, error: str) -> None:
        self.told.append((name, value, error))

    def wait(self) -> tuple[str, Value, str]:
        """The next thing that it is told."""
        wait_for(lambda: bool(self.told), "an answer")
        return self.told.pop(0)


class Held:
    """Models that load when they are let, or fail as no file should."""

    def __init__(self, models: dict[str, Checkpoint]) -> None:
        self._models = models
        self.asked, self.released = threading.Event(), threading.Event()

    def load(self, name: str) -> Checkpoint:
        self.asked.set()
        assert self.released.wait(60)
        if name not in self._models:
            raise MemoryError("a fault that is no StreamerError")
        return self._models[name]

    def names(self) -> Sequence[str]:
        return [*self._models, "faulty"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Checkpoint]]:
    """A model folder with two models, a damaged one, and one whose rate leads nowhere."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMER_MODELS", str(folder))
        saved = save_models(folder)
        (folder / "torn.safetensors").write_bytes((folder / "wave.safetensors").read_bytes()[:-1])
        save_model(folder / "odd.safetensors", SPECS["wave"], rate=191_999)
        save_model(folder / "cheap.safetensors", LARGE, bits=PrecisionBits(5.0, int8=5.0))
        yield saved


@pytest.fixture
def start(models: dict[str, Checkpoint]) -> Iterator[Callable[..., tuple[Engine, Ear]]]:
    """Starts engines at the models' rate, and ends them."""
    engines = []

    def begin(name: str = "wave", **options: object) -> tuple[Engine, Ear]:
        engine = Engine(name, models[name], **{"models": Library(), "channels": 1, **options})  # type: ignore[arg-type]
        ear = Ear()
        engine.listen(ear)
        engine.start()
        engines.append(engine)
        return engine, ear

    yield begin
    for engine in engines:
        engine.close()


Start = Callable[..., "tuple[Engine, Ear]"]


def hear(engine: Engine, frames: int) -> Floats:
    """Plays on like a device that gives the generator all the time that it wants."""
    blocks = []
    for _ in range(frames // BLOCK):
        wait_for(lambda: engine.voice.tape.lead >= engine.voice.tape.target // 2, "half a lead")
        blocks.append(engine.play_head.render(BLOCK)[:, 0])
    return np.concatenate(blocks)


def after_fade(sound: Floats) -> Floats:
    """What follows the silence and the fade at the beginning."""
    return sound[np.flatnonzero(sound)[0] + FADE :]


def assert_begins(sound: Floats, tape: Floats) -> None:
    """The sound is a tape's from its beginning, behind a fade."""
    heard = after_fade(sound)
    assert len(heard) > FADE
    np.testing.assert_array_equal(heard, tape[FADE : FADE + len(heard)])


# --- how it begins ------------------------------------------------------------------------------------------


def test_it_plays_what_the_model_writes(start: Start, models: dict[str, Checkpoint]) -> None:
    engine, _ = start(controls={"seed": 4})
    sound = hear(engine, MODEL_RATE // 2)
    assert_begins(sound, tape_of(models["wave"], 1.0, seed=4))
    assert engine.play_head.rate == MODEL_RATE
    assert engine.voice.tape.target == round(LEAD * MODEL_RATE)


def test_every_channel_gets_the_same_at_the_rate_asked_for(models: dict[str, Checkpoint]) -> None:
    engine = Engine("rnn", models["rnn"], Library(), rate=44_100, channels=3)
    engine.voice.fill()
    sound = engine.play_head.render(4410)
    assert sound.shape == (4410, 3)
    assert sound.any()
    np.testing.assert_array_equal(sound, np.repeat(sound[:, :1], 3, axis=1))


def test_the_controls_begin_with_the_models_advice_and_the_tables_defaults(tmp_path: Path) -> None:
    model = save_model(tmp_path / "cool.safetensors", SPECS["rnn"], temperature=0.5)
    engine = Engine("cool", model, Library(), controls={"gain": 0.25, "seed": 3})
    got = {
        name: engine.get(name) for name in ("temperature", "top_k", "top_p", "seed", "gain", "play", "model")
    }
    assert got == {
        "temperature": 0.5, "top_k": 0, "top_p": 1.0, "seed": 3, "gain": 0.25, "play": True, "model": "cool",
    }  # fmt: skip
    engine.voice.fill()
    quiet = engine.play_head.render(2 * FADE)[FADE:, 0]
    np.testing.assert_array_equal(quiet, tape_of(model, 0.1, temperature=0.5, seed=3)[FADE : 2 * FADE] / 4)


def test_a_device_whose_rate_leads_nowhere_is_refused(models: dict[str, Checkpoint]) -> None:
    with pytest.raises(DeviceError, match="too odd"):
        Engine("wave", models["wave"], Library(), rate=191_999)


# --- what is done at once -----------------------------------------------------------------------------------


def test_live_controls_reach_the_voice(start: Start, models: dict[str, Checkpoint]) -> None:
    engine, ear = start(lead=0.1)
    wait_for(lambda: engine.voice.tape.lead == engine.voice.tape.target, "a full lead")
    wanted = {"temperature": 0.5, "top_k": 9, "top_p": 0.75, "seed": 11}
    for name, value in wanted.items():
        assert engine.set(name, value) == value
        assert engine.get(name) == value
    sound = hear(engine, MODEL_RATE // 2)
    before = tape_of(models["wave"], 0.5)[FADE:]
    heard = after_fade(sound)
    lead = engine.voice.tape.target - FADE
    np.testing.assert_array_equal(heard[:lead], before[:lead])
    assert not np.array_equal(heard[lead:], before[lead : len(heard)])
    engine.set("reset", True)
    assert ear.wait() == ("reset", True, "")
    hear(engine, 10 * FADE)
    assert engine.voice.tape.read(0, 1000).tolist() == tape_of(models["wave"], 0.1, **wanted)[:1000].tolist()


def test_gain_and_play_reach_the_play_head(start: Start, models: dict[str, Checkpoint]) -> None:
    engine, _ = start()
    hear(engine, 4 * FADE)
    assert engine.set("gain", 0.5) == 0.5
    assert engine.set("play", False) is False
    assert not hear(engine, 4 * FADE)[FADE:].any()
    assert engine.status()["playing"] == 0
    position = engine.voice.tape.play_head
    assert engine.set("play", True) is True
    sound = hear(engine, 4 * FADE)
    np.testing.assert_array_equal(sound[FADE:], tape_of(models["wave"], 1.0)[position:][FADE : 4 * FADE] / 2)


@pytest.mark.parametrize(("name", "value"), [("volume", 1.0), ("model", "flute"), ("model", "../wave")])
def test_what_does_not_exist_is_refused_and_changes_nothing(start: Start, name: str, value: Value) -> None:
    engine, _ = start()
    with pytest.raises(ControlError, match="no "):
        engine.set(name, value)
    assert engine.get("model") == "wave"


# --- what takes a while -------------------------------------------------------------------------------------


def test_a_reset_begins_the_same_sound_again(start: Start, models: dict[str, Checkpoint]) -> None:
    engine, ear = start(controls={"seed": 2})
    tape = tape_of(models["wave"], 1.0, seed=2)
    assert_begins(hear(engine, 3200), tape)
    assert engine.set("reset", True) is None
    assert ear.wait() == ("reset", True, "")
    engine.play_head.render(FADE - 1)  # what played before fades out
    assert_begins(hear(engine, 3200), tape)


def test_a_model_follows_with_the_same_controls(start: Start, models: dict[str, Checkpoint]) -> None:
    engine, ear = start(controls={"seed": 2, "temperature": 0.5})
    other = Ear()
    engine.listen(other)
    hear(engine, 3200)
    assert engine.set("model", "rnn") is None
    assert ear.wait() == other.wait() == ("model", "rnn", "")
    engine.play_head.render(FADE - 1)
    assert_begins(hear(engine, 3200), tape_of(models["rnn"], 1.0, seed=2, temperature=0.5))
    assert engine.get("model") == engine.status()["model"] == "rnn"


def test_a_model_that_follows_has_a_precision_of_its_own_unless_one_is_asked_for(start: Start) -> None:
    for asked, expected in (("auto", ["fp32", "int8", "fp32"]), ("bf16", ["bf16"] * 3)):
        engine, ear = start(precision=asked)
        found = [engine.voice.precision]
        for name in ("cheap", "rnn"):
            engine.set("model", name)
            assert ear.wait() == ("model", name, "")
            found.append(str(engine.status()["precision"]))
        assert found == expected


def test_the_threads_that_help_go_with_their_voice(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.threads.cores", lambda: 3)
    engine, ear = start(threads=3)
    running = threading.active_count()
    for name, value in (("model", "rnn"), ("reset", True), ("model", "wave")):
        engine.set(name, value)
        assert ear.wait() == (name, value, "")
        wait_for(lambda: threading.active_count() == running, "the end of the voice before")
    assert engine.close()
    assert not [thread for thread in threading.enumerate() if "helper" in thread.name]


@pytest.mark.parametrize(("name", "reason"), [("torn", "truncated"), ("odd", "too odd")])
def test_a_model_that_fails_leaves_the_sound_and_nothing_behind(
    start: Start, models: dict[str, Checkpoint], name: str, reason: str
) -> None:
    engine, ear = start(rate=48_000 if name == "odd" else None)
    threads = threading.active_count()
    before = hear(engine, 3200)
    engine.set("model", name)
    what, value, error = ear.wait()
    assert (what, value) == ("model", name)
    assert reason in error
    assert "\n" not in error
    sound = after_fade(np.concatenate([before, hear(engine, 3200)]))
    assert sound.all()
    if engine.play_head.rate == MODEL_RATE:
        np.testing.assert_array_equal(sound, tape_of(models["wave"], 1.0)[FADE : FADE + len(sound)])
    assert engine.get("model") == "wave"
    assert threading.active_count() == threads


def test_a_fault_while_loading_ends_neither_the_sound_nor_the_loader(
    start: Start, models: dict[str, Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    held = Held(models)
    held.released.set()
    engine, ear = start(models=held)
    engine.set("model", "faulty")
    assert ear.wait() == ("model", "faulty", "a fault that is no StreamerError")
    assert "faulty" in caplog.text
    engine.set("model", "rnn")
    assert ear.wait() == ("model", "rnn", "")


def test_controls_changed_while_a_model_loads_are_its_own(
    start: Start, models: dict[str, Checkpoint]
) -> None:
    held = Held(models)
    engine, ear = start(models=held)
    engine.set("model", "rnn")
    assert held.asked.wait(60)
    engine.set("seed", 8)
    held.released.set()
    assert ear.wait() == ("model", "rnn", "")
    hear(engine, 4 * FADE)
    np.testing.assert_array_equal(engine.voice.tape.read(0, 1000), tape_of(models["rnn"], 0.1, seed=8)[:1000])


def test_it_ends_while_a_model_loads_and_says_that_it_does(
    start: Start, models: dict[str, Checkpoint]
) -> None:
    held = Held(models)
    engine, ear = start(models=held)
    engine.set("model", "rnn")
    assert held.asked.wait(60)
    assert not engine.close()
    held.released.set()
    assert ear.wait() == ("model", "rnn", "")
    assert engine.close()


def test_no_control_waits_for_a_compiler(models: dict[str, Checkpoint]) -> None:
    script = """
import threading
from numba.core.compiler_lock import global_compiler_lock
from streamer.engine import Engine
from streamer.library import Library, open_model

engine = Engine(*open_model("wave"), Library())
engine.start()

def perform():
    engine.status()
    for name in ("temperature", "top_k", "top_p", "seed", "gain", "play"):
        engine.set(name, 1)
    engine.play_head.fade_out()
    engine.play_head.wait_silent(0)
    engine.close()
    print("done", flush=True)

performer = threading.Thread(target=perform, daemon=True)
with global_compiler_lock:  # as while a model of another architecture loads
    performer.start()
    performer.join(10)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_status_says_what_is_played(start: Start) -> None:
    engine, _ = start("rnn")
    hear(engine, 3200)
    wait_for(lambda: engine.voice.tape.lead == engine.voice.tape.target, "a full lead")
    status = engine.status()
    assert float(status.pop("realtime_factor")) > 0
    assert status == {
        "model": "rnn", "playing": 1, "buffer_ms": 400.0, "underruns": 0, "device_rate": MODEL_RATE,
        "device_rate_measured": 0.0, "device_underflows": 0, "precision": "fp32", "threads": 1,
    }  # fmt: skip
