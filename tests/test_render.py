"""Files: exactly as long as asked for, faded, the same every time, and never a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray
from playing import MODEL_RATE, SPECS, save_model, tape_of

from streamer.cues import Cue
from streamer.engine import Engine
from streamer.library import Library
from streamer.mixer import FADE_SECONDS
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.render import format_of, render, render_score
from streamer.replay import Replay
from streamer.score import Header, ScoreWriter, read

FADE = round(FADE_SECONDS * MODEL_RATE)
STEP = 2.0**-23
"""Of 24 bits."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_model(tmp_path_factory.mktemp("models") / "wave.safetensors", SPECS["wave"])


def rendered(
    model: Checkpoint, path: Path, seconds: float, rate: int | None = None, channels: int = 1, seed: int = 0
) -> list[float]:
    """Renders to a file; what was said about the progress."""
    engine = Engine("wave", model, Library(), rate=rate, channels=channels, values={"seed": seed})
    told: list[float] = []
    render(engine, path, seconds, told.append)
    return told


@pytest.mark.parametrize("ending", [".wav", ".flac", ".WAV"])
def test_the_same_seed_gives_the_same_bytes(model: Checkpoint, tmp_path: Path, ending: str) -> None:
    first, second, other = (tmp_path / f"{name}{ending}" for name in ("first", "second", "other"))
    rendered(model, first, 0.5, seed=3)
    rendered(model, second, 0.5, seed=3)
    rendered(model, other, 0.5, seed=4)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_it_is_what_the_model_writes_in_24_bits(model: Checkpoint, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"sound{ending}"
    rendered(model, path, 0.5, seed=3)
    info = sf.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (MODEL_RATE, 1, "PCM_24")
    sound, _ = sf.read(path)
    tape = tape_of(model, 0.5, seed=3)
    np.testing.assert_allclose(sound[FADE:-FADE], tape[FADE:-FADE], atol=STEP)


def test_it_fades_in_and_out(model: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    rendered(model, path, 0.5)
    share = sf.read(path)[0] / tape_of(model, 0.5)
    x = np.linspace(0, 1, FADE + 1)
    np.testing.assert_allclose(share[:FADE], np.sin(np.pi / 2 * x[:-1]), atol=0.01)
    np.testing.assert_allclose(share[-FADE:], (x * x * (3 - 2 * x))[-2::-1], atol=0.01)


@pytest.mark.parametrize("seconds", [1e-9, 0.001, 0.0123, 0.1, 0.3333, 1.0])
@pytest.mark.parametrize(("rate", "channels"), [(None, 1), (44_100, 2)])
def test_it_is_as_long_as_asked_for(
    model: Checkpoint, tmp_path: Path, seconds: float, rate: int | None, channels: int
) -> None:
    path = tmp_path / "sound.wav"
    told = rendered(model, path, seconds, rate, channels)
    info = sf.info(path)
    assert info.frames == round(seconds * info.samplerate)
    assert (info.samplerate, info.channels) == (rate or MODEL_RATE, channels)
    assert told == sorted(told)
    assert not told or told[-1] == pytest.approx(seconds, abs=0.5 / info.samplerate)


@pytest.mark.parametrize(("ending", "subtype"), [(".wav", "FLOAT"), (".flac", "PCM_24")])
def test_a_score_becomes_the_very_samples_that_were_heard(
    model: Checkpoint, tmp_path: Path, ending: str, subtype: str
) -> None:
    heard, score = recorded(model, tmp_path / "score")
    path, told = tmp_path / f"again{ending}", list[float]()
    render_score(Replay(read(score), Shelf(model)), path, told.append)
    info = sf.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (MODEL_RATE, 2, subtype)
    sound, _ = sf.read(path, dtype="float32")
    np.testing.assert_allclose(sound, heard, atol=0 if subtype == "FLOAT" else STEP, rtol=0)
    assert told[-1] == pytest.approx(len(heard) / MODEL_RATE)


class Shelf:
    """One model."""

    def __init__(self, model: Checkpoint) -> None:
        self._model = model

    def load(self, name: str) -> Checkpoint:
        return self._model

    def names(self) -> Sequence[str]:
        return ["wave"]


def recorded(model: Checkpoint, path: Path) -> tuple[NDArray[np.float32], Path]:
    """A second of a voice that moves, in the end louder than there is room: what is heard, and its score."""
    engine = Engine("wave", model, Shelf(model), channels=2)
    engine.record(ScoreWriter(path, Header(MODEL_RATE, 2, "now", "test"), print))
    blocks = []
    for block in range(20):
        if block == 5:
            engine.perform([Cue(1, "temperature", 0.5, "ramp", 0.2), Cue(1, "pan", -0.5, "ramp", 0.3)])
        if block == 10:
            engine.perform([Cue(1, "gain", 2.0), Cue(1, "speed", 1.5, "ramp", 0.1)])
        engine.fill()
        blocks.append(engine.mixer.render(MODEL_RATE // 20))
    assert engine.close()
    return np.concatenate(blocks), path


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("sound.mp3", "end the name in .wav or .flac"),
        ("sound", "end the name in .wav or .flac"),
        ("missing/sound.wav", "make it first"),
        ("folder.wav", "cannot be written"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(
    model: Checkpoint, tmp_path: Path, name: str, remedy: str
) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(StreamerError) as caught:
        rendered(model, tmp_path / name, 0.1)
    assert remedy in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plain_name_is_a_file_in_this_folder() -> None:
    assert format_of(Path("sound.flac")) == "FLAC"
