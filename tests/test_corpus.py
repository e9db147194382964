"""A folder of audio becomes codes in three parts, whatever the files are like; and is read only once."""

import fcntl
import os
import resource
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from sounds import BAD, RATE, tone

from streamer.models import corpus
from streamer.models.clips import read_clip
from streamer.models.corpus import Settings, audio_files, prepare
from streamer.models.errors import CorpusError
from streamer.models.quantisers import Quantiser
from streamer.models.splitting import PARTS

SETTINGS = Settings(RATE, Quantiser())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("STREAMER_CORPORA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Five files, of which the last validates and the last but one tests."""
    return write(tmp_path / "album", *(tone(1, hertz=100.0 * n) for n in range(1, 6)))


def write(folder: Path, *files: NDArray[np.float64]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, samples in enumerate(files):
        soundfile.write(folder / f"{number}.wav", samples, RATE, subtype="FLOAT")
    return folder


# --- a folder


def test_a_folder_is_searched_to_its_depths_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "disc 2" / "bonus").mkdir(parents=True)
    names = ["b.flac", "a.WAV", "disc 2/c.ogg", "disc 2/bonus/d.aiff", "e.m4a"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "cover.jpg").write_bytes(b"not audio, and not meant to be")
    assert [str(path.relative_to(tmp_path)) for path in audio_files(tmp_path)] == sorted(names)


def test_an_empty_folder_says_what_it_should_hold(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    with pytest.raises(CorpusError, match=r"album: holds no audio files \(\.wav, .*\.m4a.*\): name a folder"):
        prepare(tmp_path / "album", SETTINGS, pytest.fail)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"albums: there is no such folder"):
        prepare(tmp_path / "albums", SETTINGS, pytest.fail)


def test_bad_files_are_named_and_left_out(album: Path) -> None:
    for number, bad in enumerate(BAD):
        bad(album / f"1{number}.wav")
    told: list[str] = []
    made = prepare(album, SETTINGS, told.append)
    assert made.survey.files == 5
    assert made.survey.skipped == tuple(told)
    for line, (number, reason) in zip(told, enumerate(BAD.values()), strict=True):
        assert line.startswith(f"{album / f'1{number}.wav'}: ")
        assert reason.replace("holds no audio", "holds") in line  # one silent sample is only silence
        assert "\n" not in line
    for bad in album.glob("1?.wav"):
        bad.rmdir() if bad.is_dir() else bad.unlink()
    for name in PARTS:  # the half of a file that could be read leaves no trace
        np.testing.assert_array_equal(
            made.part(name).codes, prepare(album, SETTINGS, told.append).part(name).codes
        )


def test_where_no_file_can_be_used_the_first_reason_is_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "album", np.zeros(RATE), np.zeros(RATE))
    with pytest.raises(
        CorpusError, match=r"none of its 2 audio files can be used.*0\.wav: holds only silence"
    ):
        prepare(folder, SETTINGS, pytest.fail)


def test_only_a_silent_file_is_left_out_of_an_album(album: Path) -> None:
    soundfile.write(album / "9.wav", np.full(RATE, 0.3), RATE)
    told: list[str] = []
    assert prepare(album, SETTINGS, told.append).survey.files == 5
    assert told == [f"{album / '9.wav'}: holds only silence"]


# --- codes


def test_codes_are_those_of_whole_files_end_to_end(album: Path) -> None:
    made = prepare(album, Settings(RATE, Quantiser(preemphasis=0.85)), pytest.fail)
    assert made.quantiser.preemphasis == 0.85
    files = [made.quantiser.encode(read_clip(path, RATE)) for path in audio_files(album)]
    np.testing.assert_array_equal(made.training.codes, np.concatenate(files[:3]))
    np.testing.assert_array_equal(made.test.codes, files[3])
    np.testing.assert_array_equal(made.validation.codes, files[4])
    assert made.training.codes.dtype == np.uint8
    assert isinstance(made.training.codes, np.memmap)
    assert made.part("test") is made.test
    with pytest.raises(CorpusError, match="'tests' is unknown: choose training, validation, test"):
        made.part("tests")


def test_one_long_file_is_cut_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_BLOCK", 777)
    folder = write(tmp_path / "album", tone(2, hertz=333.0))
    made = prepare(folder, Settings(RATE, Quantiser(preemphasis=0.85)), pytest.fail)
    whole = made.quantiser.encode(read_clip(folder / "0.wav", RATE))
    pieces = np.array_split(whole, 8)
    np.testing.assert_array_equal(made.test.codes, pieces[3])
    np.testing.assert_array_equal(made.validation.codes, pieces[7])
    np.testing.assert_array_equal(made.training.codes, np.concatenate([*pieces[:3], *pieces[4:7]]))


def test_another_rate_is_resampled_as_a_clip_is(tmp_path: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.stack([tone(9, 44100), tone(9, 44100)], axis=1), 44100)
    made = prepare(folder, SETTINGS, pytest.fail)
    whole = made.quantiser.encode(read_clip(folder / "a.wav", RATE))
    codes = made.test.codes.astype(int)
    assert np.abs(codes - np.array_split(whole, 8)[3]).max() <= 1


def test_silence_is_cut_at_the_ends_and_shortened_inside(tmp_path: Path) -> None:
    hush = np.zeros(2 * RATE)
    folder = write(tmp_path / "album", np.concatenate([hush, tone(1), hush, tone(1), hush]))
    made = prepare(folder, replace(SETTINGS, longest_silence=0.25), pytest.fail)
    assert made.survey.seconds == 8
    assert made.survey.kept_seconds == pytest.approx(2.25, abs=0.01)
    assert sum(len(made.part(name).codes) for name in PARTS) == round(made.survey.kept_seconds * RATE)


@pytest.mark.parametrize(("levels", "kind"), [(256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_codes_take_as_little_room_as_they_can(album: Path, levels: int, kind: type) -> None:
    made = prepare(album, Settings(RATE, Quantiser(kind="linear-prism", levels=levels)), pytest.fail)
    assert made.training.codes.dtype == kind
    np.testing.assert_array_equal(made.test.codes, made.quantiser.encode(read_clip(album / "3.wav", RATE)))


def test_of_a_clocked_corpus_whole_cycles_are_kept_silence_and_all(tmp_path: Path) -> None:
    """So that the clock, which counts on from file to file, says the same of the same place in each."""
    cycle = 0.3 * RATE + 0.25
    exact, long, short = (round(n * cycle) for n in (4, 3.5, 0.9))
    bars = [
        np.resize(np.r_[tone(0.2), np.zeros(round(0.1 * RATE))], n) for n in (exact, exact - 1, long, short)
    ]
    made: list[str] = []
    found = prepare(write(tmp_path / "loops", *bars), replace(SETTINGS, cycle=cycle), made.append)
    assert made == [
        f"{tmp_path / 'loops' / '3.wav'}: has {0.9 * 0.3:.2f} s: a cycle of the model's clock is 0.30 s"
    ]
    lengths = np.array([len(found.part(name).codes) for name in PARTS])
    assert sum(lengths) == exact + exact - 1 + round(3 * cycle)
    assert (np.abs(lengths - np.round(lengths / cycle) * cycle) <= 2).all()


def test_a_clocked_corpus_needs_a_cycle_for_each_part(tmp_path: Path) -> None:
    folder = write(tmp_path / "loops", tone(0.7), tone(0.1))
    with pytest.raises(CorpusError, match=r"at least 0\.90 s of whole cycles are needed"):
        prepare(folder, replace(SETTINGS, cycle=0.3 * RATE), lambda line: None)


def test_a_quantiser_that_stretches_each_clip_is_refused(album: Path) -> None:
    with pytest.raises(CorpusError, match="'linear-mehri' needs whole clips: choose"):
        prepare(album, Settings(RATE, Quantiser(kind="linear-mehri")), pytest.fail)


# --- scale


def scale_of(folder: Path, preemphasis: float = 0.0) -> float:
    return prepare(folder, Settings(RATE, Quantiser(preemphasis=preemphasis)), pytest.fail).quantiser.scale


def test_the_scale_brings_the_peak_to_just_below_full_scale(tmp_path: Path) -> None:
    folder = write(tmp_path / "album", tone(1, level=0.25), tone(1, level=0.1))
    assert scale_of(folder) == pytest.approx(0.95 / 0.25, rel=1e-3)


def test_one_click_in_a_corpus_does_not_turn_all_of_it_down(tmp_path: Path) -> None:
    samples = tone(4, level=0.25)
    samples[777] = 1.0
    assert scale_of(write(tmp_path / "album", samples)) == pytest.approx(0.95 / 0.25, rel=1e-3)


def test_the_scale_is_that_of_the_preemphasised_signal(tmp_path: Path) -> None:
    # The gain of 1 - 0.85 / z at 440 of 16,000 Hz.
    gain = abs(1 - 0.85 * np.exp(-2j * np.pi * 440 / RATE))
    scale = scale_of(write(tmp_path / "album", tone(1, level=0.5)), 0.85)
    assert scale == pytest.approx(0.95 / (0.5 * gain), rel=1e-3)
    codes = Quantiser(preemphasis=0.85, scale=scale).encode(tone(1, level=0.5))
    assert codes.min() > 0
    assert codes.max() < 255


def test_a_scale_that_is_given_is_kept(album: Path) -> None:
    settings = Settings(RATE, Quantiser(scale=0.5), fit_scale=False)
    assert prepare(album, settings, pytest.fail).quantiser == Quantiser(scale=0.5)


def test_audio_that_cannot_be_heard_is_refused(tmp_path: Path) -> None:
    """It is quiet where the model hears it: after pre-emphasis."""
    folder = write(tmp_path / "album", tone(4, hertz=60.0, level=0.006))
    with pytest.raises(CorpusError, match=r"peaks at .* of full scale: choose some that can be heard"):
        prepare(folder, Settings(RATE, Quantiser(preemphasis=0.99)), pytest.fail)


# --- the cache


def test_the_same_audio_is_read_once_wherever_it_lies(album: Path, tmp_path: Path, cache: Path) -> None:
    made = prepare(album, SETTINGS, pytest.fail)
    moved = album.rename(tmp_path / "moved")
    before = (cache / made.key / "training.npy").stat()
    assert prepare(moved, SETTINGS, pytest.fail).key == made.key
    assert (cache / made.key / "training.npy").stat() == before


def test_what_is_cached_tells_what_was_found_again(album: Path) -> None:
    (album / "broken.wav").touch()
    first, second = list[str](), list[str]()
    made = prepare(album, SETTINGS, first.append)
    again = prepare(album, SETTINGS, second.append)
    assert first == second != []
    assert made.survey == again.survey
    assert made.quantiser == again.quantiser


@pytest.mark.parametrize("what", ["content", "name", "rate", "quantiser", "silence", "cycle"])
def test_anything_that_matters_makes_another_corpus(album: Path, what: str) -> None:
    before, settings = prepare(album, SETTINGS, pytest.fail).key, SETTINGS
    match what:
        case "content":
            soundfile.write(album / "0.wav", tone(1, hertz=101.0), RATE)
        case "name":
            (album / "0.wav").rename(album / "00.wav")
        case "rate":
            settings = replace(settings, sample_rate=8000)
        case "quantiser":
            settings = replace(settings, quantiser=Quantiser(preemphasis=0.5))
        case "silence":
            settings = replace(settings, longest_silence=0.1)
        case "cycle":
            settings = replace(settings, cycle=0.1 * RATE)
    assert prepare(album, settings, pytest.fail).key != before


def test_only_the_corpora_that_were_used_last_are_kept(album: Path, cache: Path) -> None:
    keys = []
    for number in range(corpus.KEPT + 2):
        settings = Settings(RATE, Quantiser(scale=1.0 + number), fit_scale=False)
        keys.append(prepare(album, settings, pytest.fail).key)
        os.utime(cache / keys[-1], (number, number))
    prepare(
        album, Settings(RATE, Quantiser(scale=3.0), fit_scale=False), pytest.fail
    )  # the third, used again
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {keys[2], *keys[-(corpus.KEPT - 1) :]}


def test_half_a_corpus_that_a_killed_process_left_is_made_anew(album: Path, cache: Path) -> None:
    made = prepare(album, SETTINGS, pytest.fail)
    (cache / made.key / "corpus.json").unlink()
    again = prepare(album, SETTINGS, pytest.fail)
    np.testing.assert_array_equal(made.test.codes, again.test.codes)


def test_two_who_ask_together_make_it_once(album: Path, cache: Path) -> None:
    """The second waits for whoever holds the lock, and then finds it made."""
    made = prepare(album, SETTINGS, pytest.fail)
    found: list[str] = []
    with (cache / f"{made.key}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = threading.Thread(target=lambda: found.append(prepare(album, SETTINGS, pytest.fail).key))
        other.start()
        other.join(timeout=0.2)
        assert not found
    other.join(timeout=30)
    assert found == [made.key]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(album: Path, cache: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # of the 320,000 bytes that are needed
    try:
        with pytest.raises(
            CorpusError, match=r"cache: the corpus cannot be kept there .*make room.*CORPORA"
        ) as caught:
            prepare(album, SETTINGS, pytest.fail)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.iterdir() if path.is_dir()]


_MEASURE = """
import resource, sys
from pathlib import Path
from streamer.models.corpus import Settings, prepare
from streamer.models.quantisers import Quantiser
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = prepare(Path(sys.argv[1]), Settings(16000, Quantiser(preemphasis=0.85)), print)
print(made.survey.seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_one_file_a_thousand_times_longer_than_the_rest_takes_no_more_memory(tmp_path: Path) -> None:
    """Twenty minutes of noise among seconds: 77 MB at the corpus's rate, 154 MB as they are decoded."""
    folder = write(tmp_path / "album", *(tone(1.2, hertz=100.0 * n) for n in range(1, 6)))
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    with soundfile.SoundFile(folder / "2.wav", "w", 32000, 1, subtype="PCM_16") as file:
        for _ in range(1200):
            file.write(noise)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, folder], capture_output=True, text=True, check=True
    )
    seconds, mebibytes = map(float, done.stdout.split())
    assert seconds == pytest.approx(1204.8)
    assert mebibytes < 150  # what is mapped and was just written counts, too, while there is memory for it
