"""Corpus recipes say all that law and repetition need; the script that follows them does what they say."""

import hashlib
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from streamer.models.errors import CorpusError
from streamer.models.silence import runs, silent_frames

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
FRAME = 320
FADE = 80
FREE = {"BSD-2-Clause", "MIT", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"}


def load_script() -> types.ModuleType:
    """Import scripts/fetch-corpus, which has no suffix for import to know it by."""
    loader = SourceFileLoader("fetch_corpus", str(ROOT / "scripts" / "fetch-corpus"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


script: Any = load_script()
RECIPES = [path for path in sorted(script.RECIPES.glob("*.toml")) if "[source]" in path.read_text()]


def tone(seconds: float, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def quiet(seconds: float) -> np.ndarray:
    return np.full(round(seconds * RATE), 1e-3, np.float32)  # -60 dBFS


# --- recipes


def test_the_shipped_recipes_are_found() -> None:
    assert {"metal", "techno", "voice-it", "voice-ru"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_pins_its_source_and_says_who_made_it(path: Path) -> None:
    recipe = script.read_recipe(path)
    assert re.fullmatch(r"[0-9a-f]{64}", recipe.source.sha256)
    assert re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", recipe.source.package)
    assert recipe.source.license in FREE
    assert len(recipe.source.attribution) > 20
    assert 8000 <= recipe.sample_rate <= 48000
    assert 0.05 <= recipe.longest_silence <= 1
    assert recipe.parts
    assert all(part.start >= 0 and (part.end is None or part.end > part.start) for part in recipe.parts)


def test_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(CorpusError, match=r"'kazoo'.*lead-guitar, metal, .*voice-it"):
        script.read_recipe(script.RECIPES / "kazoo.toml")


@pytest.mark.parametrize(("old", "new"), [("sha256", "sha255"), ("[[corpus.parts]]", "[[parts]]")])
def test_recipe_with_wrong_keys_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text((script.RECIPES / "techno.toml").read_text().replace(old, new))
    with pytest.raises(CorpusError, match=r"wrong\.toml is no corpus recipe"):
        script.read_recipe(path)


# --- silence


def test_inner_silence_is_shortened_to_the_longest_allowed() -> None:
    cut = script.cut_silences(np.concatenate([tone(1), quiet(1), tone(1)]), RATE, 0.25)
    assert len(cut) == RATE + RATE // 4 - FADE + RATE
    np.testing.assert_array_equal(cut[:RATE], tone(1))
    np.testing.assert_array_equal(cut[-RATE:], tone(1))
    np.testing.assert_allclose(cut[RATE:-RATE], 1e-3, rtol=1e-5)


def test_silence_within_the_limit_is_left_alone() -> None:
    audio = np.concatenate([tone(1), quiet(0.24), tone(1)])
    np.testing.assert_array_equal(script.cut_silences(audio, RATE, 0.25), audio)


@pytest.mark.parametrize("odd", [0, 7, FRAME - 1])
def test_silence_at_the_ends_is_cut_whole(odd: int) -> None:
    audio = np.concatenate([quiet(0.1), tone(1), quiet(0.1), quiet(0.02)[:odd]])
    np.testing.assert_array_equal(script.cut_silences(audio, RATE, 0.25), tone(1))


def test_nothing_is_left_of_silence() -> None:
    assert len(script.cut_silences(quiet(1.01), RATE, 0.25)) == 0


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 60)), max_size=6), st.integers(0, FRAME - 1))
def test_no_long_silence_survives_and_no_sound_is_lost(frames: list[tuple[int, int]], odd: int) -> None:
    stretches = [quiet(0.02)[:odd]] + [part for a, b in frames for part in (tone(a / 50), quiet(b / 50))]
    cut = script.cut_silences(np.concatenate(stretches), RATE, 0.25)
    longest = max((end - start for start, end in runs(silent_frames(cut, RATE))), default=0)
    # The cut moves the frames, and a frame that straddles an edge is sound: one more may now look silent.
    assert longest * FRAME <= 0.25 * RATE + FRAME
    kept, had = (int((np.abs(audio) > 0.01).sum()) for audio in (cut, np.concatenate(stretches)))
    assert abs(kept - had) <= 2 * len(frames)


# --- joining


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_a_join_of_equal_levels_shows_no_seam(lengths: list[int]) -> None:
    joined = script.join([np.full(length, 0.5, np.float32) for length in lengths], RATE)
    np.testing.assert_allclose(joined, 0.5, rtol=1e-6)
    filled = [length for length in lengths if length]
    if min(filled, default=0) >= 2 * FADE:
        assert len(joined) == sum(filled) - FADE * (len(filled) - 1)


def test_a_join_fades_from_one_level_to_the_other() -> None:
    joined = script.join([np.zeros(200, np.float32), np.ones(200, np.float32)], RATE)
    assert len(joined) == 400 - FADE
    assert np.all(np.diff(joined) >= 0)
    assert np.diff(joined).max() == pytest.approx(1 / FADE, rel=1e-4)


# --- from package to corpus


def test_g722_is_decoded_at_its_pitch_and_level(tmp_path: Path) -> None:
    path = tmp_path / "tone.g722"
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone(1) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    audio = script.read_audio(path, RATE)
    assert len(audio) == pytest.approx(RATE, abs=64)
    assert np.abs(np.fft.rfft(audio[:RATE])).argmax() == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_stereo_at_another_rate_becomes_mono_at_the_recipes(tmp_path: Path) -> None:
    left = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "x.wav", np.stack([left, np.zeros_like(left)], 1), 44100)
    audio = script.read_audio(tmp_path / "x.wav", RATE)
    assert len(audio) == RATE
    np.testing.assert_allclose(audio[1000:-1000], tone(1, level=0.25)[1000:-1000], atol=1e-3)


def test_stems_are_added_up_as_far_as_the_shortest_goes(tmp_path: Path) -> None:
    for name, seconds, level in (("a", 1.0, 0.5), ("b", 0.5, 0.25)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds, level=level), RATE, subtype="FLOAT")
    mix = script.read_mix(tmp_path / "a.wav", ("b.wav",), RATE)
    np.testing.assert_allclose(mix, tone(0.5, level=0.75), atol=1e-6)


def test_a_stem_that_is_not_there_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.1), RATE)
    with pytest.raises(CorpusError, match=r"no 'b\.wav' beside 'a\.wav'"):
        script.read_mix(tmp_path / "a.wav", ("b.wav",), RATE)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recipe for a package built here, already in the folder where downloads are kept."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is only on Debian and its kin")
    tree = tmp_path / "tree"
    for folder in ("DEBIAN", "usr/share/doc/tones", "audio/beeps"):
        (tree / folder).mkdir(parents=True)
    control = (
        "Package: tones\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: tones\n"
    )
    (tree / "DEBIAN/control").write_text(control)
    (tree / "usr/share/doc/tones/copyright").write_text("Copyright A. Tuner\n")
    for name, seconds in {"a": 3.0, "b": 2.0, "beeps/c": 1.0}.items():
        soundfile.write(tree / f"audio/{name}.wav", tone(seconds), RATE)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "CORPORA", tmp_path / "corpora")
    monkeypatch.setattr(script, "RECIPES", tmp_path)
    package = tmp_path / "corpora/packages/tones_1_all.deb"
    package.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--build", tree, package], check=True, capture_output=True)
    source = {"package": "tones", "version": "1", "root": "audio", "files": "**/*.wav", "license": "MIT"}
    source |= {"attribution": "Tones by A. Tuner", "sha256": hashlib.sha256(package.read_bytes()).hexdigest()}
    text = "[source]\n" + "".join(f'{key} = "{value}"\n' for key, value in source.items())
    text += '[corpus]\nsample_rate = 16000\nlongest_silence = 0.2\nfile_seconds = 1.0\nskip = ["beeps/*"]\n'
    text += '[[corpus.parts]]\nfile = "a.wav"\nstart = 0.5\nend = 2.5\n'
    (tmp_path / "tones.toml").write_text(text)
    return script.read_recipe(tmp_path / "tones.toml")


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(("everything", "seconds"), [(False, 2.0), (True, 3.0 + 2.0 + 0.1 - 2 * FADE / RATE)])
def test_a_package_becomes_files_of_equal_length(tmp_path: Path, everything: bool, seconds: float) -> None:
    script.fetch("tones", everything)
    folder = tmp_path / "corpora" / ("tones-all" if everything else "tones")
    files = [soundfile.read(path) for path in sorted(folder.glob("*.flac"))]
    assert {rate for _, rate in files} == {RATE}
    assert len(files) == round(seconds)
    whole = np.concatenate([samples for samples, _ in files])
    assert len(whole) == pytest.approx(seconds * RATE, abs=1)
    assert np.abs(whole).max() == pytest.approx(0.5, abs=1e-3)
    attribution = (folder / "ATTRIBUTION.txt").read_text()
    assert all(words in attribution for words in ("Tones by A. Tuner", "MIT", "Copyright A. Tuner"))


def test_a_package_that_is_not_the_pinned_one_is_refused(recipe: Any) -> None:
    with pytest.raises(CorpusError, match="delete it and try again"):
        script.fetch_package(replace(recipe.source, sha256="0" * 64), script.CORPORA / "packages")


def test_a_part_that_is_not_in_the_package_is_named(recipe: Any, tmp_path: Path) -> None:
    wrong = replace(recipe, parts=(script.Part("z.wav"),))
    with pytest.raises(CorpusError, match=r"tones has no 'z\.wav'"):
        list(script.selection(wrong, tmp_path / "tree/audio", False))


def test_a_package_that_cannot_be_downloaded_says_where_to_put_it(tmp_path: Path) -> None:
    source = script.read_recipe(script.RECIPES / "voice-it.toml").source
    missing = replace(source, package="no-such-package-of-streamer")
    with pytest.raises(CorpusError, match=r"no-such-package-of-streamer_.*_all\.deb from a Debian mirror"):
        script.fetch_package(missing, tmp_path)


def test_the_command_line_prints_an_error_as_one_line() -> None:
    command = [sys.executable, ROOT / "scripts" / "fetch-corpus", "kazoo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("fetch-corpus: no corpus recipe is called 'kazoo'")
    assert done.stderr.count("\n") == 1
