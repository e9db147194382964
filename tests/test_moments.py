"""What is kept of a run to be heard and seen: moments, TensorBoard, report; none changes the run."""

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tones import RATE, write_tones

from streamer import moments, report
from streamer.audition import Checkpoints
from streamer.cli import main
from streamer.cues import Cue
from streamer.engine import Engine
from streamer.models import checkpoint
from streamer.models.checkpoint import Provenance
from streamer.models.errors import CheckpointError, StreamerError
from streamer.models.specs import WaveNetSpec
from streamer.models.training.events import Event, Observer
from streamer.models.training.loop import train
from streamer.models.training.plan import Plan
from streamer.models.training.recipe import Recipe
from streamer.moments import Moment, Moments, moments_of
from streamer.tensorboard import TensorBoard
from streamer.training import all_of

SPEC = WaveNetSpec(dilations=(1, 2, 4, 8), residual=12, gate=12, skip=24, output=24, levels=32)
PLAN = Plan(steps=60, batch=4, length=64, learning_rate=1e-2, warmup=5, evaluate_every=20)
ALWAYS = 1e-9
"""Minutes between two moments, with patience for a block of each."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("corpus") / "tones", files=4)


def run(tones: Path, folder: Path, observe: Observer, steps: int = 60) -> Path:
    about = Provenance(title="Tones & <noise>", licence="CC0-1.0", attribution="Nobody", origin="a test")
    made = Recipe(SPEC, RATE, preemphasis=0.0, plan=replace(PLAN, steps=steps), about=about)
    return train(tones, made, folder, torch.device("cpu"), observe)


def silent(_: Event) -> None:
    """Observes nothing."""


def not_told(line: str) -> None:
    raise AssertionError(line)


@pytest.fixture(scope="module")
def watched(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was watched."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    run(tones, folder, all_of(Moments(ALWAYS, not_told), TensorBoard()))
    return folder


def test_every_moment_has_a_model_that_plays_its_sound_and_a_picture(watched: Path) -> None:
    kept = moments_of(watched)
    assert [moment.step for moment in kept] == [20, 40, 60]
    for moment in kept:
        assert checkpoint.load(moment.model).provenance.steps == moment.step
        sound, rate = soundfile.read(moment.sound)
        played, _ = moments.play(moment.model, len(sound) / rate, 60)
        assert rate == RATE
        np.testing.assert_allclose(sound, np.clip(played, -1, 1), atol=1e-4)
        assert moment.picture.read_bytes().startswith(b"\x89PNG")
    corpus, rate = soundfile.read(watched / "moments" / "corpus.flac")
    assert len(corpus) == RATE  # of four files of half a second, two are learned from
    assert np.abs(corpus).max() > 0.3


def test_the_run_is_the_same_as_if_nobody_had_listened(watched: Path, tones: Path, tmp_path: Path) -> None:
    run(tones, tmp_path / "run", silent)
    for name in ("best.safetensors", "latest.safetensors", "resume.safetensors"):
        if name == "resume.safetensors":  # it holds how long it took
            continue
        assert (tmp_path / "run" / name).read_bytes() == (watched / name).read_bytes()


def test_time_decides_when_a_moment_comes(tones: Path, tmp_path: Path) -> None:
    run(tones, tmp_path / "run", Moments(60.0, not_told))
    assert [moment.step for moment in moments_of(tmp_path / "run")] == [20]


def test_few_are_kept_and_they_are_spread_over_the_run(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "KEPT", 3)
    run(tones, tmp_path / "run", Moments(ALWAYS, not_told), steps=140)
    steps = [moment.step for moment in moments_of(tmp_path / "run")]
    assert steps[0] == 20
    assert steps[-1] == 140
    assert 60 <= steps[1] <= 100
    assert len(list((tmp_path / "run" / "moments").iterdir())) == 3 * 3 + 1


def test_a_sample_that_cannot_be_kept_stops_nothing(tones: Path, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "moments").write_text("in the way")
    best = run(tones, tmp_path / "run", Moments(ALWAYS, told.append))
    assert best.exists()
    assert len(told) == 4
    assert all(line.startswith("no sample of this moment: ") for line in told)


# --- TensorBoard --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")  # of TensorBoard's reader
def test_tensorboard_has_the_curves_and_the_sounds(watched: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(watched / "tensorboard"))
    found.Reload()
    bits = found.Scalars("bits/validation")
    assert [point.step for point in bits] == [20, 40, 60]
    about = checkpoint.read_header(watched / "latest.safetensors").provenance
    assert bits[-1].value == pytest.approx(about.bits_per_sample, abs=1e-4)
    assert {"bits/training", "learning rate"} <= set(found.Tags()["scalars"])
    assert [sound.step for sound in found.Audio("sample")] == [20, 40, 60]


# --- the report ---------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SECONDS", 12.0)


@pytest.mark.usefixtures("short")
def test_the_report_holds_everything_and_asks_for_nothing(
    watched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(watched)]) == 0
    assert capsys.readouterr().out == f"Written: {watched / 'report.html'}\n"
    page = (watched / "report.html").read_text()
    for words in ("Tones &amp; &lt;noise&gt;", "streamer play ", "streamer audition ", "CC0-1.0", "Nobody"):
        assert words in page
    assert checkpoint.read_header(watched / "best.safetensors").hash in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    sounds = re.findall(r"data:audio/flac;base64,([^\"]+)", page)
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(sounds) == 5  # the corpus, three moments, the best
    assert len(pictures) == 2 + 4
    assert (watched / "moments" / "step-0000020.flac").read_bytes() == base64.b64decode(sounds[1])


@pytest.mark.usefixtures("short")
def test_the_report_tells_what_is_wrong(watched: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(watched, tmp_path / "run")
    best = checkpoint.load(folder / "best.safetensors")
    best.tensors["output2_bias"][:] = -30
    best.tensors["output2_bias"][best.quantiser.silence] = 30
    checkpoint.save(
        folder / "best.safetensors",
        spec=best.spec,
        quantiser=best.quantiser,
        sample_rate=best.sample_rate,
        tensors=best.tensors,
        provenance=best.provenance,
    )
    assert "silent for 12.0 s: at most 5" in report.write(folder).read_text()


@pytest.mark.parametrize("missing", ["best.safetensors", "log.jsonl", "run.json", "moments/corpus.flac"])
def test_what_is_no_run_has_no_report(watched: Path, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(watched, tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(StreamerError, match=r"name the folder of a run|go on training|streamer models"):
        report.write(folder)


RECIPE = """\
title = "Mine"
[corpus]
sample_rate = 8000
[model]
architecture = "wavenet"
dilations = [1, 2, 4, 8]
residual = 8
gate = 8
skip = 16
output = 16
levels = 32
[train]
steps = 4
batch = 2
length = 64
evaluate_every = 2
"""


@pytest.mark.usefixtures("short")
def test_the_command_hears_itself_and_ends_with_a_report(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    where = ["--recipe", str(tmp_path / "mine.toml"), "--run", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", str(tones), *where, "--tensorboard"]) == 0
    assert f"What it has come to: {tmp_path / 'run' / 'report.html'}" in capsys.readouterr().out
    assert [moment.step for moment in moments_of(tmp_path / "run")] == [2]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert main(["train", str(tones), *where, "--sample-every", "-1"]) == 2
    assert "give minutes, or 0 for never" in capsys.readouterr().err


# --- audition -----------------------------------------------------------------------------------------------


def test_the_checkpoints_of_a_run_are_models_in_their_order(watched: Path) -> None:
    shelf = Checkpoints(watched)
    assert shelf.names() == ["step-0000020", "step-0000040", "step-0000060", "latest", "best"]
    assert shelf.load("step-0000040").provenance.steps == 40
    assert shelf.load("best") == checkpoint.load(watched / "best.safetensors")


@pytest.mark.parametrize("name", ["resume", "../run/best", "step-0000021", "corpus"])
def test_a_name_reaches_nothing_else(watched: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"is unknown: choose one of step-0000020"):
        Checkpoints(watched).load(name)


def test_a_folder_without_checkpoints_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audition", str(tmp_path)]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


def test_the_engine_switches_between_them(watched: Path) -> None:
    from playing import wait_for

    shelf = Checkpoints(watched)
    engine = Engine("best", shelf.load("best"), shelf, channels=1)
    engine.start()
    try:
        engine.perform([Cue(1, "model", "step-0000020")])
        wait_for(lambda: engine.get("model", 1) == "step-0000020", "another checkpoint")
    finally:
        assert engine.close()


def test_spare_moments_are_those_that_stand_closest(tmp_path: Path) -> None:
    kept = [Moment(step, tmp_path) for step in (1, 100, 110, *range(200, 1200, 100))]
    assert [moment.step for moment in moments._spare(kept)] == [110]
