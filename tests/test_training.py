"""Training learns, keeps what is best, goes on exactly where it stopped, and explains what it cannot do."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tones import RATE, write_tones

from streamer.models import checkpoint
from streamer.models.checkpoint import Provenance
from streamer.models.corpus import prepare
from streamer.models.errors import CorpusError, SpecError, StreamerError
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import ClockSpec, PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec
from streamer.models.training.events import Evaluated, Event, Finished, Observer, Retreated, Started, Stepped
from streamer.models.training.loop import train
from streamer.models.training.objective import held_out_bits
from streamer.models.training.plan import Plan
from streamer.models.training.recipe import Recipe
from streamer.models.wavenet import WaveNet

CPU = torch.device("cpu")
WAVENET = WaveNetSpec(dilations=(1, 2, 4, 8), residual=12, gate=12, skip=24, output=24, levels=32)
SAMPLERNN = SampleRnnSpec(frames=(8, 2), dim=24, rnn_layers=1, levels=32, embedding=8)
LSTM = SampleRnnSpec(
    frames=(8,), dim=16, rnn_layers=2, levels=32, cell="lstm-keras", embedding=8, learned_h0=True
)
PLAN = Plan(steps=60, batch=4, length=64, learning_rate=1e-2, warmup=5, evaluate_every=20)
BOTH = pytest.mark.parametrize("spec", [WAVENET, SAMPLERNN], ids=lambda spec: spec.architecture)
PREDICTOR = PredictorSpec(order=8, window=64, hop=16)
PREDICTED = [replace(spec, predictor=PREDICTOR) for spec in (WAVENET, SAMPLERNN)]
CLOCKED = replace(SAMPLERNN, clock=ClockSpec(cycle=96.5, harmonics=4))
ALL = pytest.mark.parametrize(
    "spec",
    [WAVENET, SAMPLERNN, LSTM, *PREDICTED, CLOCKED],
    ids=["wavenet", "gru", "lstm", "wavenet-lp", "gru-lp", "gru-clock"],
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums have one order only on one thread, and tiny products are quickest there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    return write_tones(tmp_path / "tones")


def recipe(spec: Spec, **plan: Any) -> Recipe:
    about = Provenance(title="Tones", licence="CC0-1.0", attribution="Nobody", origin="a test")
    return Recipe(spec, RATE, preemphasis=0.0, plan=replace(PLAN, **plan), about=about)


def silent(_: Event) -> None:
    """Observes nothing."""


def run(folder: Path, made: Recipe, out: Path, observe: Observer = silent) -> Path:
    return train(folder, made, out, CPU, observe)


def steps_of(told: list[Event]) -> list[int]:
    return [event.step for event in told if isinstance(event, Stepped)]


def found_in(told: list[Event]) -> list[Evaluated]:
    return [event for event in told if isinstance(event, Evaluated)]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") > 0 for line in lines)
    return lines


def stop_after(step: int) -> Observer:
    """What Ctrl-C does after a step."""

    def observe(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            raise KeyboardInterrupt

    return observe


def module_of(kept: checkpoint.Checkpoint) -> WaveNet | SampleRnn:
    """The torch model of a checkpoint."""
    kind: Any = WaveNet if isinstance(kept.spec, WaveNetSpec) else SampleRnn
    module: WaveNet | SampleRnn = kind(kept.spec, seed=1)
    names = {name.replace(".", "__"): torch.tensor(array) for name, array in kept.tensors.items()}
    module.load_state_dict(names)
    return module


# --- learning


@BOTH
def test_a_periodic_signal_is_learned_far_below_its_unigram(tones: Path, tmp_path: Path, spec: Spec) -> None:
    told: list[Event] = []
    about = checkpoint.load(run(tones, recipe(spec), tmp_path / "run", told.append)).provenance
    assert about.unigram_bits is not None
    assert about.unigram_bits > 3
    bits = [event.bits for event in told if isinstance(event, Stepped)]
    assert bits[0] == pytest.approx(5, abs=0.6)  # 32 codes, nothing known
    assert bits[-1] < about.unigram_bits / 2
    assert about.bits_per_sample is not None
    assert about.bits_per_sample < about.unigram_bits / 2


@BOTH
def test_what_cannot_be_predicted_is_not(tmp_path: Path, spec: Spec) -> None:
    """A model that were shown the code it predicts, or one that it has, would soon beat noise's entropy."""
    (tmp_path / "noise").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, RATE)
        soundfile.write(tmp_path / "noise" / f"{number}.wav", noise, RATE)
    about = checkpoint.load(run(tmp_path / "noise", recipe(spec), tmp_path / "run")).provenance
    assert about.unigram_bits is not None
    assert about.bits_per_sample is not None
    assert about.unigram_bits - 0.02 < about.bits_per_sample < about.unigram_bits + 0.5


@BOTH
def test_progress_is_told_after_every_step(tones: Path, tmp_path: Path, spec: Spec) -> None:
    told: list[Event] = []
    run(tones, recipe(spec, steps=25, evaluate_every=10), tmp_path / "run", told.append)
    steps = [event for event in told if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 26))
    assert {event.steps for event in steps} == {25}
    assert all(event.samples_per_second > 0 for event in steps)
    assert [event.step for event in found_in(told)] == [10, 20, 25]
    means = [np.mean([event.bits for event in steps[a:b]]) for a, b in ((0, 10), (10, 20), (20, 25))]
    np.testing.assert_allclose([event.training_bits for event in found_in(told)], means)
    first, last = told[0], told[-1]
    assert isinstance(first, Started)
    assert (first.step, first.run_folder, first.corpus.survey.files) == (0, tmp_path / "run", 3)
    assert last == Finished(25, early=False, best=tmp_path / "run" / "best.safetensors")


def test_the_checkpoint_that_an_observer_is_told_of_is_whole(tones: Path, tmp_path: Path) -> None:
    loaded: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, Evaluated):
            loaded.append(checkpoint.load(event.checkpoint).provenance.steps)

    run(tones, recipe(WAVENET), tmp_path / "run", observe)
    assert loaded == [20, 40, 60]


# --- what is kept


@BOTH
def test_a_run_folder_holds_what_is_best_what_is_latest_and_a_log(
    tones: Path, tmp_path: Path, spec: Spec
) -> None:
    best = run(tones, recipe(spec), tmp_path / "run")
    assert best == tmp_path / "run" / "best.safetensors"
    assert {path.name for path in best.parent.iterdir()} == {
        "run.json",
        "best.safetensors",
        "latest.safetensors",
        "resume.safetensors",
        "log.jsonl",
        ".lock",
    }
    log = log_of(best.parent)
    assert [entry["step"] for entry in log] == [20, 40, 60]
    bits = [entry["bits"] for entry in log]
    assert [entry["best"] for entry in log] == [min(bits[: n + 1]) for n in range(3)]
    latest, kept = (checkpoint.load(best.parent / f"{name}.safetensors") for name in ("latest", "best"))
    assert latest.provenance.steps == 60
    assert latest.provenance.bits_per_sample == round(bits[-1], 4)
    assert kept.provenance.steps == log[bits.index(min(bits))]["step"]
    assert kept.provenance.bits_per_sample == round(min(bits), 4)


def test_what_gets_worse_is_latest_but_not_best(tones: Path, tmp_path: Path) -> None:
    out, made = tmp_path / "run", recipe(WAVENET, steps=40)
    run(tones, made, out)
    before = (out / "best.safetensors").read_bytes()
    # A rate at which one step is a leap, and an average that is the last weights.
    worse = recipe(WAVENET, steps=10**6, learning_rate=0.1, decay=0.0, evaluate_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(tones, worse, out, stop_after(42))
    assert (out / "best.safetensors").read_bytes() == before
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 41
    assert last["bits"] > last["best"]
    assert checkpoint.load(out / "latest.safetensors").provenance.steps == 41


@BOTH
def test_the_kept_model_loads_and_measures_what_it_says(tones: Path, tmp_path: Path, spec: Spec) -> None:
    kept = checkpoint.load(run(tones, recipe(spec), tmp_path / "run"))
    assert (kept.spec, kept.sample_rate) == (spec, RATE)
    validation = prepare(tones, recipe(spec).settings, pytest.fail).validation.codes
    bits = held_out_bits(module_of(kept), validation, PLAN.length)
    assert kept.provenance.bits_per_sample == pytest.approx(bits, abs=1e-4)
    # However it is cut, it is one stream: longer chunks reach as far, less the last that is not whole.
    again = held_out_bits(module_of(kept), validation, 4 * PLAN.length)
    assert again == pytest.approx(bits, abs=0.02)


def test_provenance_says_where_a_model_comes_from(tones: Path, tmp_path: Path) -> None:
    about = checkpoint.load(run(tones, recipe(WAVENET, steps=20), tmp_path / "run")).provenance
    assert (about.title, about.licence, about.attribution) == ("Tones", "CC0-1.0", "Nobody")
    assert about.corpus == "tones"  # the folder's name, where the recipe names no source
    assert about.steps == 20
    assert about.lpc32_bits is not None
    assert about.unigram_bits is not None
    assert about.lpc32_bits < about.unigram_bits


def test_the_corpus_is_named_after_its_folder_from_inside_it(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tones)
    best = run(Path(), recipe(WAVENET, steps=1), tmp_path / "run")
    assert checkpoint.read_header(best).provenance.corpus == "tones"


def test_only_the_held_out_audio_that_was_asked_for_is_measured(tmp_path: Path) -> None:
    """Noise after the first tenth of a second of the held-out file costs nothing when it is not measured."""
    folder = write_tones(tmp_path / "tones", files=5)
    tone, _ = soundfile.read(folder / "4.wav")
    tone[RATE // 10 :] = np.random.default_rng(0).uniform(-0.5, 0.5, len(tone) - RATE // 10)
    soundfile.write(folder / "4.wav", tone, RATE)
    part, whole = (
        checkpoint.load(run(folder, made, tmp_path / made.about.title)).provenance
        for made in (
            replace(recipe(WAVENET, evaluate_seconds=0.1), about=Provenance(title="part")),
            replace(recipe(WAVENET), about=Provenance(title="whole")),
        )
    )
    for name in ("bits_per_sample", "lpc32_bits"):
        assert getattr(part, name) < getattr(whole, name) - 1, name


# --- going on


@ALL
def test_a_stopped_run_ends_as_one_that_was_never_stopped(tones: Path, tmp_path: Path, spec: Spec) -> None:
    made = recipe(spec)
    run(tones, made, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tones, made, tmp_path / "parts", stop_after(33))
    told: list[Event] = []
    run(tones, made, tmp_path / "parts", told.append)
    assert steps_of(told)[0] == 21  # step 20 was the last to be evaluated
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    for name in ("best.safetensors", "latest.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    whole, parts = (load_file(tmp_path / name / "resume.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(name.startswith("optimiser.") for name in whole)
    assert isinstance(spec, WaveNetSpec) or "streams.state.0.0" in whole


def test_a_run_stopped_before_its_first_evaluation_starts_again(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tones, recipe(WAVENET), tmp_path / "run", stop_after(7))
    told: list[Event] = []
    run(tones, recipe(WAVENET, steps=20), tmp_path / "run", told.append)
    assert steps_of(told)[0] == 1


def test_a_finished_run_is_left_alone_until_its_recipe_asks_for_more(tones: Path, tmp_path: Path) -> None:
    made, told = recipe(WAVENET, steps=20), list[Event]()
    best = run(tones, made, tmp_path / "run")
    before = best.read_bytes()
    assert run(tones, made, tmp_path / "run", told.append) == best
    assert not steps_of(told)
    assert best.read_bytes() == before
    run(tones, recipe(WAVENET, steps=22), tmp_path / "run", told.append)
    assert steps_of(told) == [21, 22]


def test_half_files_that_a_killed_run_left_are_removed(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    names = {path.name for path in out.iterdir()}
    for name in ("best.safetensors", "latest.safetensors", "resume.safetensors", "run.json"):
        (out / f".{name}.0a1b2c3d").write_bytes(b"half a file")
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 40, "bi')
    run(tones, recipe(WAVENET, steps=40), out)
    assert {path.name for path in out.iterdir()} == names
    assert [line["step"] for line in log_of(out)] == [20, 40]


def test_a_save_that_fails_leaves_the_one_before(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    before = (out / "resume.safetensors").read_bytes()
    # What has been written is complete, whatever comes of the next: a folder cannot be replaced by a file.
    shutil.move(out / "resume.safetensors", tmp_path / "aside")
    (out / "resume.safetensors").mkdir()
    with pytest.raises(StreamerError, match=r"resume\.safetensors: cannot be") as caught:
        run(tones, recipe(WAVENET, steps=40), out)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "aside").read_bytes() == before
    assert not list(out.glob(".*.safetensors.*"))


@pytest.mark.parametrize("name", ["resume.safetensors", "run.json"])
def test_a_damaged_file_is_named(tones: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    os.truncate(out / name, 100)
    with pytest.raises(StreamerError, match=rf"{name}.* cannot be read.*delete it"):
        run(tones, recipe(WAVENET, steps=40), out)


def test_a_run_folder_is_trained_in_once_at_a_time(tones: Path, tmp_path: Path) -> None:
    def again(event: Event) -> None:
        if isinstance(event, Started):
            run(tones, recipe(WAVENET), tmp_path / "run")

    with pytest.raises(StreamerError, match="is being trained in: wait"):
        run(tones, recipe(WAVENET), tmp_path / "run", again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": replace(WAVENET, skip=16)}, "another model"),
        ({"spec": replace(WAVENET, residual_scale=0.5)}, "another model"),
        ({"sample_rate": 4000}, "another sample rate"),
        ({"preemphasis": 0.5}, "other audio, pre-emphasis or longest_silence"),
        ({"longest_silence": 1.0}, "other audio, pre-emphasis or longest_silence"),
        ({"plan": replace(PLAN, batch=5)}, "another batch"),
    ],
)
def test_a_run_folder_is_not_gone_on_with_by_another_recipe(
    tones: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    made = recipe(WAVENET, steps=20)
    run(tones, made, tmp_path / "run")
    with pytest.raises(SpecError, match=rf"trained with {message}.*another run folder"):
        run(tones, replace(made, **change), tmp_path / "run")


def test_a_run_that_is_older_than_a_field_of_the_spec_goes_on(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(SAMPLERNN, steps=20), out)
    described = json.loads((out / "run.json").read_text())
    del described["recipe"]["spec"]["clock"]
    (out / "run.json").write_text(json.dumps(described))
    run(tones, recipe(SAMPLERNN, steps=40), out)
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [20, 40]


def test_a_run_folder_is_not_gone_on_with_on_other_audio(tones: Path, tmp_path: Path) -> None:
    run(tones, recipe(WAVENET, steps=20), tmp_path / "run")
    with pytest.raises(SpecError, match="trained with other audio"):
        run(write_tones(tmp_path / "louder", level=0.6), recipe(WAVENET, steps=20), tmp_path / "run")


def test_what_cannot_be_a_run_folder_is_named(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StreamerError, match=r"run: cannot be made a run folder"):
        run(tones, recipe(WAVENET), tmp_path / "run")


# --- a loss that is lost


def spoil(out: Path, step: int) -> None:
    """Give a run weights near the largest number, which overflow in the first products with them."""
    metadata = {"step": str(step), "best": "9.0", "stale": "0", "rate_factor": "1.0", "seconds": "1.0"}
    saved = load_file(out / "resume.safetensors") | {"model.output2_weight": torch.full((24, 32), 1e38)}
    save_file(saved, out / "resume.safetensors", metadata)


def test_a_loss_that_stays_lost_ends_the_run_before_it_is_kept(tones: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", list[Event]()
    run(tones, recipe(WAVENET, steps=20), out)
    spoil(out, step=20)
    before = (out / "latest.safetensors").read_bytes()
    with pytest.raises(StreamerError, match=r"step 21 gives (nan|inf) bits .* 3 returns .*: lower learning"):
        run(tones, recipe(WAVENET, steps=40), out, told.append)
    assert (out / "latest.safetensors").read_bytes() == before
    assert told[1:] == [Retreated(21, back_to=20, rate_factor=factor) for factor in (0.5, 0.25, 0.125)]


def test_a_run_that_has_got_lost_goes_back_and_goes_on_more_slowly(tones: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", list[Event]()
    run(tones, recipe(WAVENET, steps=20), out)
    # A step as long as the weights overshoots by a thousand bits; an eighth of it, once they are clear of the
    # beginning, does not.
    wild = recipe(WAVENET, steps=24, learning_rate=1.0, decay=0.0, schedule="plateau", evaluate_every=1)
    run(tones, wild, out, told.append)
    retreats = [event for event in told if isinstance(event, Retreated)]
    assert retreats
    assert retreats[0] == Retreated(21, back_to=20, rate_factor=0.5)
    assert log_of(out)[-1]["step"] == 24
    assert log_of(out)[-1]["learning_rate"] == retreats[-1].rate_factor
    assert all(line["bits"] < 64 for line in log_of(out))


# --- when to stop


def test_a_run_stops_early_where_validation_gets_no_better(tones: Path, tmp_path: Path) -> None:
    """At a rate so high that steps leap about, with an average that is the last weights."""
    made = recipe(WAVENET, steps=10**6, learning_rate=0.1, decay=0.0, evaluate_every=2, stop_after=3)
    told, again = list[Event](), list[Event]()
    run(tones, made, tmp_path / "run", told.append)
    bits = [line["bits"] for line in log_of(tmp_path / "run")]
    assert isinstance(told[-1], Finished)
    assert told[-1].early
    assert bits.index(min(bits)) == len(bits) - 1 - 3
    run(tones, made, tmp_path / "run", again.append)
    assert not steps_of(again)
    assert again[-1] == told[-1]


def test_a_plateau_halves_the_rate(tones: Path, tmp_path: Path) -> None:
    made = recipe(
        WAVENET,
        steps=24,
        learning_rate=0.1,
        decay=0.0,
        schedule="plateau",
        patience=2,
        evaluate_every=1,
        warmup=1,
    )
    run(tones, made, tmp_path / "run")
    best, stale, rate = np.inf, 0, 0.1
    for line in log_of(tmp_path / "run"):
        stale = 0 if line["bits"] < best else stale + 1
        best = min(best, line["bits"])
        rate /= 2 if stale and stale % 2 == 0 else 1
        assert line["learning_rate"] == pytest.approx(rate)
    assert rate < 0.1


# --- too little audio


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("training", {"length": 10000}),
        ("validation", {"length": 4000}),
        ("validation", {"evaluate_seconds": 0.009}),
    ],
)
def test_audio_shorter_than_a_sequence_is_refused_with_what_is_needed(
    tones: Path, tmp_path: Path, name: str, plan: dict[str, Any]
) -> None:
    needed = (plan.get("length", PLAN.length) + WAVENET.receptive_field) / RATE
    with pytest.raises(
        CorpusError, match=rf"the {name} part has .* s of audio, .* needs {needed:.2f} s .*: add"
    ):
        run(tones, recipe(WAVENET, **plan), tmp_path / "run")
    assert not (tmp_path / "run").exists()
