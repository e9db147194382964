"""Priming: sound becomes the codes that training would make of it, and names stay in the folder of sounds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from draws import write_model
from numpy.typing import NDArray

from streamer import priming
from streamer.models.checkpoint import Checkpoint
from streamer.models.clips import read_clip
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import WaveNetSpec
from streamer.priming import find_sound, read_sound, sounds, to_codes

RATE = 16000
QUANTISERS = [
    Quantiser("mulaw", 64, preemphasis=0.9, scale=2.0),
    Quantiser("linear-prism", 64),
    Quantiser("mulaw-mehri", 64),
]


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    count = round(seconds * rate)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def model(folder: Path, quantiser: Quantiser) -> Checkpoint:
    spec = WaveNetSpec(dilations=(1, 2), residual=4, gate=4, skip=4, output=4, levels=64)
    return write_model(folder / "m.safetensors", spec, quantiser=quantiser, sample_rate=RATE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMER_SOUNDS", str(tmp_path / "sounds"))
    (tmp_path / "sounds").mkdir()
    return tmp_path / "sounds"


@pytest.mark.parametrize("quantiser", QUANTISERS, ids=lambda quantiser: quantiser.kind)
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_codes_are_those_that_training_makes_of_the_file(
    quantiser: Quantiser, rate: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1, rate), rate, subtype="FLOAT")
    taught = quantiser.encode(read_clip(path, RATE))
    header = model(tmp_path, quantiser)
    codes = to_codes(read_sound(path, RATE, 60), RATE, header)
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes, taught)
    np.testing.assert_array_equal(to_codes(read_sound(path, rate, 60), rate, header), taught)


@pytest.mark.parametrize("ending", ["wav", "flac", "aiff"])
def test_a_sound_is_its_last_seconds_mono(ending: str, tmp_path: Path) -> None:
    left, right = noise(3), noise(3, seed=1)
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.stack([left, right], axis=1), RATE)
    samples = read_sound(path, RATE, 0.5)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, (left + right)[-RATE // 2 :] / 2, atol=1e-4)


@pytest.mark.parametrize("ending", ["ogg", "opus", "mp3"])
def test_compressed_sounds_are_read(ending: str, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * 48000) / 48000)
    soundfile.write(
        tmp_path / f"a.{ending}",
        tone,
        48000,
        format={"opus": "OGG"}.get(ending),
        subtype={"opus": "OPUS"}.get(ending),
    )
    samples = read_sound(tmp_path / f"a.{ending}", RATE, 1.5)
    assert len(samples) == pytest.approx(1.5 * RATE, abs=2)
    assert np.abs(np.fft.rfft(samples[-RATE:])).argmax() == 440


def test_a_long_sound_of_many_channels_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priming, "_BLOCK", 1000)
    channels = np.stack([noise(0.5, seed=seed) for seed in range(7)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav", RATE, 60), channels.mean(axis=1))


@pytest.mark.parametrize("seconds", [0, -1, 60.1, float("nan"), float("inf")])
def test_too_little_and_too_much_is_refused(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(StreamerError, match="choose more than 0, at most 60"):
        read_sound(tmp_path / "a.wav", RATE, seconds)


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for content, rate, what in (
        (np.zeros(0), RATE, "holds no audio"),
        (np.full(9, np.nan), RATE, "not finite"),
        (np.zeros(9), 500, "its rate is 500 Hz: it must be 1000 to 192000"),
        (np.zeros(9), 500_000, "its rate is 500000 Hz"),
    ):
        soundfile.write(path, content, rate, subtype="FLOAT")
        with pytest.raises(StreamerError, match=rf"a\.wav: .*{what}"):
            read_sound(path, RATE, 1)
    path.write_bytes(b"RIFF, but not really")
    for damaged in (path, tmp_path / "none.wav", tmp_path):
        with pytest.raises(StreamerError, match="cannot be read as audio") as caught:
            read_sound(damaged, RATE, 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(StreamerError, match="to prime with holds no audio"):
        to_codes(np.zeros(0, np.float32), RATE, model(tmp_path, QUANTISERS[0]))


def test_names_find_the_sounds_of_the_folder_and_nothing_else(folder: Path) -> None:
    soundfile.write(folder / "choir.wav", noise(0.1), RATE)
    soundfile.write(folder / "Bells.FLAC", noise(0.1), RATE)
    soundfile.write(folder.parent / "secret.wav", noise(0.1), RATE)
    (folder / "notes.txt").write_text("")
    (folder / "out.wav").symlink_to(folder.parent / "secret.wav")
    assert sounds() == ["Bells.FLAC", "choir.wav"]
    assert find_sound("choir.wav") == folder / "choir.wav"
    for name in ("", "choir", "../secret.wav", "out.wav", "notes.txt", str(folder / "choir.wav")):
        with pytest.raises(StreamerError, match=r"is unknown: choose one of Bells\.FLAC, choir\.wav"):
            find_sound(name)


def test_without_sounds_the_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StreamerError, match=f"there are none in {folder}"):
        find_sound("a.wav")
    monkeypatch.delenv("STREAMER_SOUNDS")
    assert priming.sounds_folder().parts[-2:] == ("streamer", "sounds")
