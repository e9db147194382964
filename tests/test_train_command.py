"""`streamer train` in processes of its own: killed, stopped, without room, several at once; what it says."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tones import write_tones

from streamer import cli, training
from streamer.models import checkpoint
from streamer.models.specs import SampleRnnSpec
from streamer.models.training.recipe import find_recipe, read_recipe

RECIPE = """\
title = "Mine"
[corpus]
sample_rate = 8000
[model]
architecture = "samplernn"
frames = [8, 2]
dim = 16
rnn_layers = 1
embedding = 8
levels = 32
[train]
length = 64
warmup = 5
{plan}
"""


@dataclass
class Command:
    """`streamer train` on a folder of tones, run anew as often as a test likes."""

    folder: Path
    run: str = "run"
    launcher: list[str] = field(default_factory=lambda: [sys.executable, "-m", "streamer"])

    @property
    def run_folder(self) -> Path:
        return self.folder / self.run

    @property
    def arguments(self) -> list[str]:
        options = f"--recipe {self.folder / 'tiny.toml'} --run {self.run_folder} --device cpu --threads 1"
        return ["train", str(self.folder / "tones"), *options.split(), "--sample-every", "0"]

    def write(self, **plan: Any) -> None:
        """Write the recipe."""
        lines = "\n".join(f"{key} = {value}" for key, value in ({"batch": 2} | plan).items())
        text = RECIPE.format(plan=lines)
        (self.folder / "tiny.toml").write_text(text)

    def start(self) -> "subprocess.Popen[str]":
        environment = os.environ | {"COLUMNS": "500", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        command, pipe = [*self.launcher, *self.arguments], subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def here(self) -> int:
        """Run to the end in this process, which has loaded torch already; exit code."""
        return cli.main(self.arguments)

    def log(self) -> list[dict[str, Any]]:
        """The lines of the log that are whole."""
        path = self.run_folder / "log.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def step(self) -> int:
        """The last step that was evaluated, or 0."""
        return max((int(line["step"]) for line in self.log()), default=0)

    def signal_past(self, step: int, number: int, delay: float = 0.0) -> tuple[int, str, str]:
        """Run past an evaluated step and for a while, send a signal; exit code, stdout, stderr."""
        with self.start() as process:
            deadline = time.monotonic() + 120
            while self.step() <= step and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(delay)
            process.send_signal(number)
            out, error = process.communicate(timeout=60)
        return process.returncode, out, error


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What the command asks for is for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    write_tones(tmp_path / "tones")
    return Command(tmp_path)


def results(made: Command) -> tuple[list[dict[str, Any]], list[bytes]]:
    """All that a run leaves, but for what a clock says."""
    log = [line for line in made.log() if line.pop("seconds")]
    return log, [(made.run_folder / f"{name}.safetensors").read_bytes() for name in ("best", "latest")]


# --- killed


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Kills fall anywhere in some steps, evaluations and writes: an evaluation comes every third step."""
    write_tones(tmp_path / "tones")
    whole, killed = Command(tmp_path, "whole"), Command(tmp_path, "killed")
    whole.write(steps=60, evaluate_every=3)
    assert whole.here() == 0
    dice = random.Random()  # a failure would show in whatever moment it is
    for _ in range(3):
        code, out, error = killed.signal_past(killed.step(), signal.SIGKILL, dice.uniform(0, 0.3))
        assert code == -signal.SIGKILL, (out, error)
    reached = killed.step()
    assert 0 < reached < 60
    assert killed.here() == 0
    assert results(killed) == results(whole)
    first, second = (load_file(made.run_folder / "resume.safetensors") for made in (whole, killed))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert {path.name for path in killed.run_folder.iterdir()} == {
        path.name for path in whole.run_folder.iterdir()
    }


def test_ctrl_c_is_no_error_and_the_same_command_goes_on(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    (command.folder / "tones" / "broken.wav").write_bytes(b"not audio")
    command.write(steps=10**6, evaluate_every=1)
    code, out, error = command.signal_past(3, signal.SIGINT)
    assert code == 130, error
    assert error.strip() == ""
    assert re.search(r"tiny will play here: \d+\.\d times as fast as real time", out)
    folders = f"{command.folder / 'tones'} into {command.run_folder}"
    assert f"Training tiny on {folders}; Ctrl-C stops, the same command resumes." in out
    assert re.search(r"left out: .*broken\.wav: cannot be read as audio", out)
    assert "found 3 files, 1.5 s (1.5 s at 8000 Hz, mono); 0.0 s is left out" in out
    assert re.search(r"step 1: \d\.\d{4} bits a sample on held-out audio, the best so far", out)

    stopped = command.step()
    command.write(steps=stopped + 25, evaluate_every=10)
    assert command.here() == 0
    assert command.step() == stopped + 25
    best = command.run_folder / "best.safetensors"
    said = capfd.readouterr().out
    assert f"The best model so far is {best}; hear it with: streamer play {best}" in said
    assert "will play here" not in said  # it was said when the run began
    assert checkpoint.load(best).provenance.origin == "streamer train, recipe tiny"


# --- no room


def test_a_full_disk_while_a_checkpoint_is_written_leaves_the_last_good_one(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    """Files may not grow beyond what is enough for a model, but not for all that a run needs."""
    command.write(steps=20, evaluate_every=10)
    assert command.here() == 0
    before = (command.run_folder / "resume.safetensors").read_bytes()
    capfd.readouterr()
    command.write(steps=40, evaluate_every=10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1000, limits[1]))
    try:
        assert command.here() == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capfd.readouterr().err
    assert re.fullmatch(r"streamer: .*resume\.safetensors: cannot be written \(.*\); make room .*\n", error)
    assert (command.run_folder / "resume.safetensors").read_bytes() == before
    for name in ("best", "latest"):
        checkpoint.load(command.run_folder / f"{name}.safetensors")
    assert not list(command.run_folder.glob(".*.safetensors.*"))
    assert command.here() == 0  # there is room again
    assert [line["step"] for line in command.log()] == [10, 20, 30, 40]


# --- several processes


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    write_tones(tmp_path / "tones")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one = Command(tmp_path, "one")
    two = Command(tmp_path, "two", [*torchrun, "-m", "--", "streamer"])
    one.write(steps=30, evaluate_every=5, batch=4, noise=0.01, learning_rate=0.01)
    assert one.here() == 0
    with two.start() as process:
        out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert out.count("The best model so far is") == 1
    for key in ("bits", "training_bits"):
        curves = [[line[key] for line in made.log()] for made in (one, two)]
        assert len(curves[0]) == 6
        np.testing.assert_allclose(*curves, rtol=0.01)
    states = [load_file(made.run_folder / "resume.safetensors") for made in (one, two)]
    shapes = [{name: array.shape for name, array in state.items()} for state in states]
    assert shapes[0] == shapes[1]
    for name in ("streams.positions", "streams.generator"):
        assert np.array_equal(states[0][name], states[1][name])

    one.run = "two"  # what two began, one goes on with
    one.write(steps=35, evaluate_every=5, batch=4, noise=0.01, learning_rate=0.01)
    assert one.here() == 0
    assert one.step() == 35


# --- arguments


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"--recipe": "kazoo"}, r"recipe 'kazoo' is unknown: choose .*laptop-16k, lead-guitar"),
        ({"--device": "abacus"}, r"device 'abacus' cannot be used here: choose cpu"),
        ({"FOLDER": "nowhere"}, r"nowhere: there is no such folder"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    command: Command, capfd: pytest.CaptureFixture[str], wrong: dict[str, str], message: str
) -> None:
    command.write(steps=1, evaluate_every=1)
    arguments = command.arguments
    for name, value in wrong.items():
        arguments[1 if name == "FOLDER" else arguments.index(name) + 1] = value
    assert cli.main(arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith("streamer: ")
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not command.run_folder.exists()


def test_a_preset_and_a_recipe_at_once_are_refused(
    command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command.arguments, "--for", "laptop-16k"])
    assert "not allowed with" in capfd.readouterr().err


def test_without_a_recipe_a_folder_is_trained_for_a_laptop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is too short for that says so, before a run folder is made."""
    monkeypatch.chdir(tmp_path)
    write_tones(tmp_path / "album", files=1)  # of which a twelfth of a second validates
    assert cli.main(["train", "album"]) == 2
    said = capfd.readouterr()
    assert "Training laptop-16k on album into runs/album-laptop-16k; Ctrl-C stops" in said.out
    assert re.search(r"the validation part has 0\.06 s of audio, .* needs 0\.08 s", said.err)
    assert not (tmp_path / "runs").exists()


# --- whether it will play


def test_a_model_that_is_too_slow_is_warned_of_with_figures() -> None:
    path = find_recipe("laptop-16k")
    recipe = read_recipe(path)
    wide = SampleRnnSpec(frames=(64, 16), dim=512, rnn_layers=1, embedding=8)
    said = training.check_real_time("wide", replace(recipe, spec=wide, sample_rate=192_000))
    assert re.search(
        r"^Warning: wide will not play .*: 0\.\d\d times .*, 0\.\d\d at the lowest; choose", said
    )
