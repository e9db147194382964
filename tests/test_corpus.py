"""A folder of audio becomes codes to learn from and codes held out, whatever the files are like."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from streamer.models.corpus import Clip, fitting_scale, quantise, read_clip, read_folder, split
from streamer.models.errors import CorpusError
from streamer.models.quantisers import Quantiser

RATE = 16000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> NDArray[np.float64]:
    wave: NDArray[np.float64] = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return wave


def refuse(message: str) -> None:
    pytest.fail(f"a good file was skipped: {message}")


def clip(samples: NDArray[np.float64], name: str = "a.wav") -> Clip:
    return Clip(name, samples.astype(np.float32))


# --- one file


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_a_tone_keeps_its_pitch_length_and_level_at_the_corpuss_rate(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, rate), rate)
    samples = read_clip(tmp_path / "a.wav", RATE)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(RATE, abs=2)
    spectrum = np.abs(np.fft.rfft(samples[:RATE], RATE))  # bins of 1 Hz
    assert spectrum.argmax() == 440
    np.testing.assert_allclose(samples[1000:15000], tone(1)[1000:15000], atol=2e-3)


def test_audio_at_the_corpuss_rate_is_left_as_it_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_clip(tmp_path / "a.wav", RATE), noise)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([tone(1), np.zeros(RATE)], axis=1), RATE)
    np.testing.assert_allclose(read_clip(tmp_path / "a.flac", RATE), tone(1, level=0.25), atol=1e-4)


def test_what_is_above_the_new_rates_half_is_removed_not_folded_down(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, 44100, hertz=10000), 44100)
    assert np.abs(read_clip(tmp_path / "a.wav", RATE)[1000:-1000]).max() < 1e-3


def write_broken(path: Path) -> None:
    path.write_bytes(b"RIFF, but not really")


def write_cut_off(path: Path) -> None:
    soundfile.write(path, tone(1), RATE)
    path.write_bytes(path.read_bytes()[:20])


def write_empty(path: Path) -> None:
    path.touch()


def write_no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), RATE)


def write_too_short_to_resample(path: Path) -> None:
    soundfile.write(path, np.zeros(1), 192_000)


def write_infinite(path: Path) -> None:
    soundfile.write(path, np.where(np.arange(RATE) == 99, np.inf, tone(1)), RATE, subtype="FLOAT")


def write_not_a_number(path: Path) -> None:
    soundfile.write(path, np.where(np.arange(RATE) == 99, np.nan, tone(1)), RATE, subtype="FLOAT")


def write_folder(path: Path) -> None:
    path.mkdir()


BAD = {
    write_broken: "cannot be read as audio",
    write_cut_off: "cannot be read as audio",
    write_empty: "cannot be read as audio",
    write_folder: "cannot be read as audio",
    write_no_samples: "holds no audio",
    write_too_short_to_resample: "holds no audio",
    write_infinite: "not finite",
    write_not_a_number: "not finite",
}


@pytest.mark.parametrize(("write", "reason"), BAD.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_file_that_will_not_do_is_named_and_skipped(tmp_path: Path, write: object, reason: str) -> None:
    for name in ("a.wav", "z.wav"):
        soundfile.write(tmp_path / name, tone(1), RATE)
    write(tmp_path / "bad.wav")  # type: ignore[operator]
    told: list[str] = []
    assert [one.name for one in read_folder(tmp_path, RATE, told.append)] == ["a.wav", "z.wav"]
    (line,) = told
    assert line.startswith(str(tmp_path / "bad.wav"))
    assert reason in line
    assert "\n" not in line


# --- a folder


def test_a_folder_is_searched_to_its_depths_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "disc 2" / "bonus").mkdir(parents=True)
    names = ["b.flac", "a.WAV", "disc 2/c.ogg", "disc 2/bonus/d.aiff"]
    for name in names:
        soundfile.write(tmp_path / name, tone(1), RATE)
    (tmp_path / "cover.jpg").write_bytes(b"not audio, and not meant to be")
    assert [one.name for one in read_folder(tmp_path, RATE, refuse)] == sorted(names)


@pytest.mark.parametrize("files", [0, 1])
def test_training_needs_two_files(tmp_path: Path, files: int) -> None:
    for number in range(files):
        soundfile.write(tmp_path / f"{number}.wav", tone(1), RATE)
    with pytest.raises(CorpusError, match=rf"{files} readable audio files .*\.mp3.* at least two"):
        read_folder(tmp_path, RATE, refuse)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"albums: there is no such folder"):
        read_folder(tmp_path / "albums", RATE, refuse)


@pytest.mark.parametrize(
    ("files", "held_out"), [(2, [1]), (3, [2]), (7, [6]), (8, [7]), (9, [7]), (15, [7]), (16, [7, 15])]
)
def test_every_eighth_file_is_held_out_or_the_last_of_fewer(files: int, held_out: list[int]) -> None:
    clips = [clip(np.zeros(1), str(number)) for number in range(files)]
    training, kept = split(clips)
    assert [int(one.name) for one in kept] == held_out
    assert [int(one.name) for one in training] == [n for n in range(files) if n not in held_out]


# --- scale and codes


def test_the_scale_brings_the_peak_to_just_below_full_scale() -> None:
    assert fitting_scale([clip(tone(1, level=0.25)), clip(tone(1, level=0.1))], 0.0) == pytest.approx(
        0.95 / 0.25, rel=1e-3
    )


def test_one_click_in_a_corpus_does_not_turn_all_of_it_down() -> None:
    samples = tone(4, level=0.25)
    samples[777] = 1.0
    assert fitting_scale([clip(samples)], 0.0) == pytest.approx(0.95 / 0.25, rel=1e-3)


def test_the_scale_is_that_of_the_preemphasised_signal() -> None:
    # The gain of 1 - 0.85 / z at 440 of 16,000 Hz.
    gain = abs(1 - 0.85 * np.exp(-2j * np.pi * 440 / RATE))
    scale = fitting_scale([clip(tone(1, level=0.5))], 0.85)
    assert scale == pytest.approx(0.95 / (0.5 * gain), rel=1e-3)
    codes = Quantiser(preemphasis=0.85, scale=scale).encode(tone(1, level=0.5))
    assert codes.min() > 0
    assert codes.max() < 255


@pytest.mark.parametrize("level", [0.0, 5e-4])
def test_audio_that_cannot_be_heard_is_refused(level: float) -> None:
    with pytest.raises(CorpusError, match=r"peaks at .* of full scale: choose some that can be heard"):
        fitting_scale([clip(tone(1, level=level))], 0.0)


def test_codes_are_those_of_whole_files_end_to_end() -> None:
    quantiser = Quantiser(levels=256, preemphasis=0.85)
    clips = [clip(tone(0.1, hertz=100.0 * n), str(n)) for n in (1, 2, 3)]
    corpus = quantise(clips, quantiser)
    first, second, last = (quantiser.encode(one.samples) for one in clips)
    np.testing.assert_array_equal(corpus.training, np.concatenate([first, second]))
    np.testing.assert_array_equal(corpus.held_out, last)
    assert corpus.training.dtype == corpus.held_out.dtype == np.int64


def test_a_stretching_quantiser_sees_each_file_alone() -> None:
    quantiser = Quantiser(kind="linear-mehri")
    corpus = quantise([clip(tone(0.1, level=level)) for level in (0.1, 0.9, 0.5)], quantiser)
    quiet, loud = np.split(corpus.training, 2)
    np.testing.assert_allclose(quiet, loud, atol=1)
