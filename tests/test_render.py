"""Files: exactly as long as asked for, faded, the same every time, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from playing import MODEL_RATE, SPECS, save_model, tape_of

from streamer.engine import Engine
from streamer.library import Library
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.playhead import FADE_SECONDS
from streamer.render import format_of, render

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
    engine = Engine("wave", model, Library(), rate=rate, channels=channels, controls={"seed": seed})
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
    fade = np.linspace(0, 1, FADE + 1)
    fade = fade * fade * (3 - 2 * fade)
    np.testing.assert_allclose(share[:FADE], fade[1:], atol=0.01)
    np.testing.assert_allclose(share[-FADE:], fade[-2::-1], atol=0.01)


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
