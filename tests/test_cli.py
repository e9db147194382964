"""The command line: what each command prints, and how each ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray
from playing import (
    MODEL_RATE,
    PATIENCE,
    SPECS,
    WITHOUT_TRAINING,
    new_voice,
    save_model,
    save_models,
    tape_of,
    wait_for,
)

from streamer import __version__, controls
from streamer.cli import main
from streamer.controls import CONTROLS
from streamer.cues import Cue
from streamer.engine import Engine
from streamer.library import Library
from streamer.mixer import FADE_SECONDS
from streamer.models.checkpoint import Checkpoint, PrecisionBits
from streamer.models.specs import SampleRnnSpec
from streamer.performing import RENDERED_SECONDS
from streamer.precision import has_dot_product
from streamer.score import Header, ScoreWriter

COMMANDS = (
    *("play", "render", "models", "controls", "devices", "doctor", "train"),
    *("price", "bench", "import", "logits", "export"),
)
FADE = round(FADE_SECONDS * MODEL_RATE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Checkpoint]]:
    """The performer's model folder: two models and a damaged one; nothing is left to be compiled."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMER_MODELS", str(folder))
        saved = save_models(folder)
        for model in saved.values():
            new_voice(model, 0.1).warm()
        (folder / "torn.safetensors").write_bytes((folder / "wave.safetensors").read_bytes()[:-1])
        yield saved


@pytest.fixture(scope="module")
def no_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which PortAudio finds nothing, whatever the machine has."""
    if sys.platform == "darwin":
        pytest.skip("a Mac's own device cannot be hidden")
    config = tmp_path_factory.mktemp("alsa") / "alsa.conf"
    config.write_text("pcm.none { type hw card 99 }\n")  # PortAudio aborts where no name is defined at all
    server = {"JACK_DEFAULT_SERVER": "streamer-none", "JACK_NO_START_SERVER": "1"}
    return {**os.environ, **server, "ALSA_CONFIG_PATH": str(config)}


def run(
    folder: Path, *arguments: str, source: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`streamer` in a process of its own, in a folder that it may write to, after some Python."""
    script = f"import sys\n{source}\nfrom streamer.cli import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that succeeds prints."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that fails."""
    assert main([str(argument) for argument in arguments]) == 2
    out, line = capsys.readouterr()
    assert out == ""
    assert line.startswith("streamer: ")
    assert line.count("\n") == 1
    return line


# --- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert re.search(rf"Example: streamer {command}\b", capsys.readouterr().out)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "Example: streamer play" in text
    assert all(re.search(rf"^ +{command} ", text, re.MULTILINE) for command in COMMANDS)


def test_the_example_of_every_command_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        example = re.search(r"Example: streamer (.*)", capsys.readouterr().out)
        assert example is not None
        with pytest.raises(SystemExit) as ended:
            main([*example[1].split(), "--help"])
        assert ended.value.code == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"streamer {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["render"],
        ["render", "a.wav", "--seconds", "0"],
        ["render", "a.wav", "--seconds", "nan"],
        ["render", "a.wav", "--temperature", "hot"],
        ["play", "--rate", "-48000"],
        ["play", "--lead", "soon"],
        ["play", "--voices", "0"],
        ["play", "--voices", "17"],
        ["play", "--voices", "two"],
        ["play", "--oscquery-port", "any"],
        ["play", "--precision", "int4"],
        ["render", "a.wav", "--threads", "0"],
        ["doctor", "--threads", "1000000"],
        ["render", "a.wav", "--threads", "many"],
        ["price", "wave"],
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


# --- lists --------------------------------------------------------------------------------------------------


def test_models_are_listed_and_a_damaged_one_is_named(
    models: dict[str, Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--json"]) == 0
    out, complaint = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)}
    assert {"wave", "rnn"} <= set(rows)
    row = rows["wave"]
    assert row["precision_bits"] is None
    assert rows["techno"]["precision_bits"]["fp32"] == pytest.approx(6.702, abs=0.001)
    assert row["architecture"] == "wavenet"
    assert row["sample_rate"] == MODEL_RATE
    assert row["license"] == "CC0-1.0"
    assert row["bits_per_sample"] is None
    assert row["parameters"] == models["wave"].spec.parameters
    assert "torn" not in rows
    assert complaint.count("\n") == 1
    assert "torn.safetensors" in complaint


def test_models_are_a_table_to_read(
    models: dict[str, Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(capsys, "models").splitlines()
    assert lines[0].split()[:3] == ["name", "architecture", "sample_rate"]
    assert any(line.split()[:3] == ["rnn", "samplernn", "16000"] for line in lines)


def test_controls_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "controls", "--json").strip() == controls.as_json()
    text = told(capsys, "controls")
    assert all(control.address in text for control in CONTROLS)


def test_no_device_is_said(tmp_path: Path, no_device: dict[str, str]) -> None:
    done = run(tmp_path, "devices", env=no_device)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "There is no sound device: connect one, or start JACK.\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "streamer", "controls", "--json"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, env=buffered, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# --- render -------------------------------------------------------------------------------------------------


def test_render_writes_what_the_model_gives(
    models: dict[str, Checkpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.flac"
    text = told(capsys, "render", path, "--model", "rnn", "--seconds", "0.5", "--seed", "6", "--gain", "0.5")
    assert re.fullmatch(
        r"What lower precision costs this model is unknown; to measure it: streamer price MODEL AUDIO\n"
        r".*out\.flac: 0\.5 s of rnn \(samplernn, .*; fp32, 1 thread\), "
        r"written at [\d.]+ times real time\.\n",
        text,
    )
    sound, _ = sf.read(path)
    assert len(sound) == MODEL_RATE // 2
    expected = tape_of(models["rnn"], 0.5, seed=6) / 2
    np.testing.assert_allclose(sound[FADE:-FADE], expected[FADE:-FADE], atol=2.0**-23)


def test_precision_changes_the_sound_the_same_way_every_time(
    models: dict[str, Checkpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{name}.wav" for name in ("fp32", "first", "second")]
    for path, precision in zip(files, ("fp32", "int8", "int8"), strict=True):
        text = told(capsys, "render", path, "--model", "rnn", "--seconds", "0.3", "--precision", precision)
        assert f"; {precision}, 1 thread)" in text
        assert "streamer price" not in text
    exact, first, second = (path.read_bytes() for path in files)
    assert first == second != exact


def test_threads_change_nothing_in_a_file(
    models: dict[str, Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("streamer.threads.cores", lambda: 2)
    spec = SampleRnnSpec(frames=(8, 2), dim=160, rnn_layers=1, embedding=8)  # wide enough to be shared
    model = tmp_path / "wide.safetensors"
    save_model(model, spec)
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    for path, count in ((one, "1"), (two, "2")):
        text = told(capsys, "render", path, "--model", model, "--seconds", "0.3", "--threads", count)
        assert f"fp32, {count} thread" in text
    assert one.read_bytes() == two.read_bytes()
    assert not [thread for thread in threading.enumerate() if "helper" in thread.name]


def test_a_price_that_is_small_has_its_precision_chosen(
    models: dict[str, Checkpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "cheap.safetensors"
    save_model(model, SPECS["rnn"], bits=PrecisionBits(5.0, int8dot=5.03))
    text = told(capsys, "render", tmp_path / "a.wav", "--model", model, "--seconds", "0.1")
    assert f"; {'int8dot' if has_dot_product() else 'fp32'}, 1 thread)" in text
    assert "streamer price" not in text


def test_a_score_is_rendered_whole_or_voice_by_voice(
    models: dict[str, Checkpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard, score = perform(models["wave"], tmp_path / "evening.score"), tmp_path / "evening.score"
    told(capsys, "render", tmp_path / "whole.wav", "--score", score)
    whole, rate = sf.read(tmp_path / "whole.wav", dtype="float32")
    assert rate == MODEL_RATE
    np.testing.assert_array_equal(whole, heard)
    text = told(capsys, "render", tmp_path / "part.wav", "--score", score, "--stems")
    stems = [sf.read(tmp_path / f"part-voice{number}.wav", dtype="float32")[0] for number in (1, 2)]
    assert re.search(rf"part-voice1\.wav: {len(heard) / rate:.1f} s of \S+evening\.score\.\n", text)
    assert all(stem.any() for stem in stems)
    np.testing.assert_allclose(sum(stems), heard, atol=1e-6)


def perform(model: Checkpoint, score: Path) -> NDArray[np.float32]:
    """Record the score of two voices, one after the other begun; what was heard."""
    engine = Engine("wave", model, Library(), channels=2)
    engine.record(ScoreWriter(score, Header(MODEL_RATE, 2, "now", __version__), print))
    engine.start()
    wait_written(engine, 1)
    heard = [engine.mixer.render(800)]
    engine.perform([Cue(1, "temperature", 0.5), Cue(1, "gain", 0.25), Cue(1, "pan", -1.0)])
    assert engine.add_voice("rnn", values={"gain": 0.25, "pan": 1.0}) == 2
    wait_written(engine, 2)
    heard.append(engine.mixer.render(8000))
    assert engine.close()
    return np.concatenate(heard)


def wait_written(engine: Engine, count: int) -> None:
    """Wait until so many voices have written a second ahead."""

    def written() -> bool:
        leads = [voice.tape.lead for voice in engine.stage.voices]
        return len(leads) == count and min(leads) > MODEL_RATE

    wait_for(written, f"{count} voices")


@pytest.mark.parametrize(
    ("wild", "tame"),
    [
        (["--temperature", "77"], ["--temperature", "2"]),
        (["--gain", "-3"], ["--gain", "0"]),
        (["--top-k", "2.6"], ["--top-k", "3"]),
        (["--top-p", "1.5"], []),
    ],
)
def test_options_are_clamped_like_the_controls_they_are(
    models: dict[str, Checkpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wild: list[str],
    tame: list[str],
) -> None:
    first, second = tmp_path / "first.wav", tmp_path / "second.wav"
    told(capsys, "render", first, "--model", "wave", "--seconds", "0.1", *wild)
    told(capsys, "render", second, "--model", "wave", "--seconds", "0.1", *tame)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["render", "out.mp3", "--model", "wave"], ".wav or .flac"),
        (["render", "none/out.wav", "--model", "wave"], "make it first"),
        (["render", "out.wav", "--model", "flute"], "wave"),
        (["render", "out.wav", "--model", "torn"], "truncated"),
        (["render", "out.wav", "--model", "none.safetensors"], "no such file"),
        (["render", "out.wav", "--model", "wave", "--seconds", "1e8"], "at most 86400"),
        (["play", "flute"], "wave"),
        (["render", "out.wav", "--score", "none.score"], "no such file"),
        (["render", "out.mp3", "--score", "none.score"], ".wav or .flac"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    models: dict[str, Checkpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    remedy: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert remedy in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_without_a_traceback(models: dict[str, Checkpoint], tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    command = [sys.executable, "-m", "streamer", "render", str(path), "--model", "wave", "--seconds", "80000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: path.exists() and path.stat().st_size > 100_000, "the beginning of a file")
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert complaint.strip() == ""


def test_ctrl_c_while_kernels_are_compiled_is_not_lost(models: dict[str, Checkpoint], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamer", "render", str(tmp_path / "a.wav"), "--model", "wave"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            wait_for(lambda: len(list(tmp_path.rglob("*.nbc"))) > 5, "the beginning of compiling")
            process.send_signal(signal.SIGINT)
            said, complaint = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, complaint.strip()) == (130, "")
    assert said.startswith("Compiling the wavenet kernels")
    assert said.count("\n") == 1


# --- machines that lack something ---------------------------------------------------------------------------


def test_without_a_device_play_says_so_and_writes_a_file(
    models: dict[str, Checkpoint], tmp_path: Path, no_device: dict[str, str]
) -> None:
    done = run(tmp_path, "play", "wave", "--seed", "2", source=WITHOUT_TRAINING, env=no_device)
    assert (done.returncode, done.stderr) == (0, "")
    explanation, instead, _, result = done.stdout.splitlines()
    assert "no sound device" in explanation
    assert all(way in explanation for way in ("--device", "--list-devices", "JACK"))
    assert "streamer-wave.wav" in instead
    assert "streamer-wave.wav" in result
    sound, rate = sf.read(tmp_path / "streamer-wave.wav")
    assert len(sound) == RENDERED_SECONDS * rate
    expected = tape_of(models["wave"], RENDERED_SECONDS, seed=2)
    np.testing.assert_allclose(sound[FADE:-FADE], expected[FADE:-FADE], atol=2.0**-23)


def test_a_device_that_was_asked_for_is_not_replaced_by_a_file(
    models: dict[str, Checkpoint], tmp_path: Path, no_device: dict[str, str]
) -> None:
    done = run(tmp_path, "play", "wave", "--device", "usb", env=no_device)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("streamer: no sound device")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_rendering_needs_nothing_that_trains_and_opens_no_device(
    models: dict[str, Checkpoint], tmp_path: Path
) -> None:
    source = (
        f"{WITHOUT_TRAINING}\nimport atexit\natexit.register(lambda: print('sounddevice' in sys.modules))\n"
    )
    done = run(tmp_path, "render", "out.wav", "--model", "rnn", "--seconds", "0.1", source=source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "False"


def test_the_command_line_itself_compiles_nothing(tmp_path: Path) -> None:
    source = (
        "import atexit\n"
        "atexit.register(lambda: print(sorted({'numba', 'torch', 'sounddevice'} & set(sys.modules))))\n"
    )
    done = run(tmp_path, "controls", "--json", source=source)
    assert done.stdout.splitlines()[-1] == "[]"


def test_training_without_torch_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'streamer[train]'" in refused(capsys, "train", tmp_path, "--recipe", "any")


def test_where_nothing_can_be_kept_compiling_is_not_said_to_be_done_once(
    models: dict[str, Checkpoint], tmp_path: Path
) -> None:
    (tmp_path / "no folder").touch()
    command = [sys.executable, "-m", "streamer", "render", str(tmp_path / "a.wav"), "--model", "wave"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "no folder")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
        finally:
            process.kill()
    assert "at every start, for nothing can be kept" in said
