"""A score rendered again is what was heard, bit for bit; and its stems are that, voice by voice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from playing import MODEL_RATE, Answer, Audience, save_models, silent, wait_for

from streamer.controls import CONTROLS, Control, Value
from streamer.cues import Cue
from streamer.engine import Engine
from streamer.library import Library
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.replay import Replay
from streamer.score import Header, ScoreWriter, VoiceCue, read

RATE = 48_000
CALM = {"margin": 25.0, "lead": 0.3}
"""A margin within which Python can tell that a generator is not ready."""

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Checkpoint]]:
    folder = tmp_path_factory.mktemp("performer")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("models", "bookmarks", "sounds"):
            (folder / name).mkdir()
            patch.setenv(f"STREAMER_{name.upper()}", str(folder / name))
        noise = np.random.default_rng(0).uniform(-0.3, 0.3, 8000)
        sf.write(folder / "sounds" / "noise.wav", noise, 22_050)
        yield save_models(folder / "models")


def recorded(
    model: Checkpoint, path: Path, rate: int = RATE, channels: int = 2, values: Mapping[str, Value] = CALM
) -> Engine:
    """An engine that writes a score."""
    engine = Engine("wave", model, Library(), rate=rate, channels=channels, values=values, threads=1)
    engine.record(ScoreWriter(path, Header(rate, channels, "now", "0"), silent))
    return engine


def replayed(path: Path, strip: int | None = None) -> Floats:
    replay = Replay(read(path), Library(), strip)
    sound = np.concatenate(list(replay.blocks()))
    assert len(sound) == replay.frames
    return sound


def assert_replayed(path: Path, heard: Floats) -> None:
    sound = replayed(path)
    differing = np.flatnonzero((sound != heard).any(axis=1)) if sound.shape == heard.shape else [-1]
    assert len(differing) == 0, f"{sound.shape} {heard.shape}: from {differing[0]} on"


# --- without threads: any cues at any time ------------------------------------------------------------------


def value_of(row: Control, x: float) -> Value:
    """The value at a fader's travel of x."""
    assert row.minimum is not None
    assert row.maximum is not None
    number = row.minimum + (min(row.maximum, 2_000) - row.minimum) * x
    return {"int": round, "bool": round, "float": float}[row.type](number)


def cue_of(voice: int, row: Control, action: Any, x: float, seconds: float, after: float) -> Cue:
    if not row.is_continuous:
        return Cue(voice, row.name, bool(x > 0.5) if row.type == "bool" else value_of(row, x))
    return Cue(voice, row.name, value_of(row, x), action, seconds, after)


followed = [row for row in CONTROLS if row.scope == "voice" and row.place != "engine"]
cues = st.builds(
    cue_of,
    st.just(1),
    st.sampled_from(followed),
    st.sampled_from(["set", "ramp", "drift"]),
    st.floats(0, 1, width=16),
    st.floats(0.001, 0.5),
    st.sampled_from([0.0, 0.0, 0.01, 0.2]),
)
moments = st.tuples(
    st.lists(cues, max_size=3), st.one_of(st.none(), st.floats(-0.1, 0.5)), st.integers(1, 1500)
)
"""Cues, how many seconds from now they are for, and how many frames are rendered then."""


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(performance=st.lists(st.one_of(moments, st.sampled_from(["clear", "panic"])), min_size=1, max_size=20))
@example(
    [
        ([Cue(1, "speed", 4.0, "ramp", 0.02)], None, 1500),
        ([Cue(1, "seed", 7), Cue(1, "top_k", 2)], 0.01, 1500),
    ]
)
@example([([Cue(1, "scrub", 0.02), Cue(1, "loop", 0.03)], None, 1500), ([Cue(1, "scrub", 0.0)], 0.01, 1500)])
def test_any_performance_is_rendered_again(
    models: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory, performance: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("score") / "performance.jsonl"
    engine, heard = recorded(models["wave"], path), []
    for moment in performance:
        engine.fill()
        if moment == "clear":
            engine.clear_schedule()
        elif moment == "panic":
            engine.panic()
        else:
            together, away, frames = moment
            engine.perform(together, None if away is None else time.time() + away)
            engine.fill()
            heard.append(engine.mixer.render(frames))
    engine.fill()
    heard.append(engine.mixer.render(100))
    engine.close()
    assert engine.status()["refused"] == engine.status()["underruns"] == 0
    assert_replayed(path, np.concatenate(heard))


def test_what_the_first_voice_is_told_before_it_is_heard_is_in_the_score(
    models: dict[str, Checkpoint], tmp_path: Path
) -> None:
    path = tmp_path / "early.jsonl"
    engine = recorded(models["wave"], path)
    engine.voice(1).fill()
    engine.perform([Cue(1, "temperature", 0.3)])
    engine.voice(1).fill()
    engine.tend()  # as the keeper does while the voice is made ready
    engine.fill()
    sound = engine.mixer.render(6000)
    engine.close()
    assert [event.instance for event in read(path).events if isinstance(event, VoiceCue)] == [1]
    assert_replayed(path, sound)


# --- on a stage ---------------------------------------------------------------------------------------------


class Performer:
    """Plays on an engine that somebody listens to; slow things are waited for."""

    def __init__(self, engine: Engine, audience: Audience) -> None:
        self.engine, self.audience = engine, audience
        self.random = np.random.default_rng(1)

    def gesture(self, voice: int, count: int) -> None:
        """A hundred cues a second, and some for later, or too late."""
        for turn in range(count):
            self.engine.perform([Cue(voice, "temperature", self.random.uniform(0.3, 1.3))])
            if turn % 5 == 0:
                later = time.time() + self.random.uniform(-0.1, 1.0)
                ramp = Cue(voice, "gain", self.random.uniform(0.2, 0.6), "ramp", 0.1)
                self.engine.perform([ramp, Cue(voice, "top_p", 0.2, "drift", 0.3)], later)
            self.audience.hear(0.01)

    def set(self, voice: int, seconds: float = 0.15, **values: Value) -> None:
        self.engine.perform([Cue(voice, name, value) for name, value in values.items()])
        self.audience.hear(seconds)

    def slow(self, order: Callable[..., object], *arguments: Any) -> None:
        """Have something done that takes a while, and listen to it."""
        answer = Answer()
        order(*arguments, told=answer)
        assert answer.wait() is None
        self.audience.hear(0.15)


def perform(engine: Engine, performer: Performer) -> None:
    """All that a performer can do."""
    performer.gesture(1, 20)
    performer.slow(engine.add_voice, "rnn", "bob", {"gain": 0.3})
    performer.set(2, pan=0.7, repetition=9.0, typical_p=0.6, centre=2.0)
    engine.perform([Cue(1, "speed", 1.5, "ramp", 0.1), Cue(1, "speed", 0.5, "ramp", 0.2, after=0.2)])
    performer.gesture(2, 20)
    performer.slow(engine.perform, [Cue(1, "model", "rnn")])
    engine.clear_schedule()
    performer.set(1, freeze=True, loop=0.05, speed=1.0)
    performer.set(1, reverse=True, scrub=0.2)
    performer.slow(engine.continue_from_here, 1)
    performer.slow(engine.save_bookmark, "dawn", 1)
    performer.gesture(1, 10)
    performer.slow(engine.recall_bookmark, "dawn", 1)
    performer.slow(engine.recall_bookmark, "dawn", 2)
    performer.slow(engine.prime, 2, "noise.wav", 0.2)
    engine.perform([Cue(0, "volume", 0.5, "ramp", 0.1), Cue(0, "crossfade", 0.2)])
    performer.slow(engine.perform, [Cue(1, "reset", True), Cue(2, "model", "wave")], time.time() + 0.1)
    performer.slow(engine.add_voice, "wave", "carol", {"gain": 0.2, "seed": 5})
    engine.remove_voice(2)
    performer.gesture(3, 10)
    engine.panic()
    performer.audience.hear(0.1)
    performer.set(1, play=True)


def test_a_whole_performance_is_rendered_again_whole_and_in_stems(
    models: dict[str, Checkpoint], tmp_path: Path
) -> None:
    path = tmp_path / "performance.jsonl"
    engine = recorded(models["wave"], path, values={**CALM, "gain": 0.4})
    engine.start()
    with Audience(engine) as audience:
        perform(engine, Performer(engine, audience))
    wait_for(lambda: engine.mixer.cues.is_empty, "all cues taken")
    status = engine.status()
    assert engine.close()
    assert status["refused"] == status["underruns"] == 0
    assert int(status["rewinds"]) > 0
    assert int(status["late"]) > 0
    assert_replayed(path, audience.sound)
    assert np.abs(audience.sound).max() < 1  # else the limiter would not do to the stems what it did to all
    stems = [replayed(path, strip) for strip in (1, 2, 3)]
    assert all(stem.any() for stem in stems)
    np.testing.assert_allclose(sum(stems), audience.sound, atol=1e-6)


# --- what a score may be ------------------------------------------------------------------------------------


@pytest.fixture
def score(models: dict[str, Checkpoint], tmp_path: Path) -> tuple[Path, Floats]:
    """A short score, and what it sounds like."""
    path = tmp_path / "short.jsonl"
    engine = recorded(models["wave"], path, MODEL_RATE, 1)
    engine.fill()
    engine.perform([Cue(1, "temperature", 0.5)])
    engine.fill()
    sound = engine.mixer.render(4000)
    engine.close()
    return path, sound


def test_a_score_that_was_cut_off_is_rendered_as_far_as_it_goes_and_a_while_longer(
    score: tuple[Path, Floats],
) -> None:
    path, sound = score
    lines = path.read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "end"
    path.write_text("\n".join([*lines[:-1], lines[-1][:10]]))
    again = replayed(path)
    np.testing.assert_array_equal(again[: len(sound)], sound)
    assert again[len(sound) :].all()
    assert len(again) >= 5 * MODEL_RATE


def test_a_model_that_has_changed_since_is_refused(
    score: tuple[Path, Floats], models: dict[str, Checkpoint]
) -> None:
    class Others(Library):
        def load(self, name: str) -> Checkpoint:
            return models["rnn"]

    with pytest.raises(StreamerError, match=r"short\.jsonl: was played with another wave"):
        list(Replay(read(score[0]), Others()).blocks())


@pytest.mark.parametrize(
    ("begins", "reason"),
    [
        (
            {"kind": "continue", "instance": 9, "position": 5},
            r"short\.jsonl: a voice goes on from one that has",
        ),
        ({"kind": "codes", "file": "gone"}, "'gone' is unknown"),
        ({"kind": "bookmark", "file": "../gone"}, "'../gone' is unknown"),
    ],
)
def test_a_voice_whose_beginning_is_not_there_is_refused(
    score: tuple[Path, Floats], begins: dict[str, Any], reason: str
) -> None:
    path, _ = score
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first = next(line for line in lines if line["event"] == "voice_begins")
    later = {**first, "instance": 9, "frame": 3000}
    first["begins"] = begins
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:-1], later, lines[-1]]))
    with pytest.raises(StreamerError, match=reason):
        replayed(path)
