"""Training learns, keeps what is best, goes on exactly where it stopped, and explains what it cannot do."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from streamer import cli
from streamer.models import checkpoint, train
from streamer.models.checkpoint import Provenance
from streamer.models.corpus import Corpus, quantise, read_folder
from streamer.models.errors import CorpusError, SpecError, StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec
from streamer.models.train import Plan, Progress, Recipe, Streams
from streamer.models.wavenet import WaveNet

RATE = 8000
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
ALL = pytest.mark.parametrize(
    "spec", [WAVENET, SAMPLERNN, LSTM, *PREDICTED], ids=["wavenet", "gru", "lstm", "wavenet-lp", "gru-lp"]
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums have one order only on one thread, and tiny products are quickest there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_tones(folder: Path, files: int = 3, level: float = 0.5) -> Path:
    """A periodic corpus: half a second a file of a tone with its octave, 19.7 samples a period."""
    folder.mkdir(exist_ok=True)
    phase = 2 * np.pi * np.arange(RATE // 2) / 19.7
    for number in range(files):
        tone = np.sin(phase + number) + 0.5 * np.sin(2 * (phase + number))
        soundfile.write(folder / f"{number}.wav", level * tone / 1.5, RATE)
    return folder


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    return write_tones(tmp_path / "tones")


def recipe(spec: Spec, **plan: Any) -> Recipe:
    about = Provenance(title="Tones", licence="CC0-1.0", attribution="Nobody", origin="a test")
    return Recipe(spec, RATE, preemphasis=0.0, plan=replace(PLAN, **plan), about=about)


def refuse(message: str) -> None:
    pytest.fail(f"a good file was skipped: {message}")


def run(folder: Path, made: Recipe, out: Path, tell: Callable[[Progress], None] = lambda now: None) -> Path:
    return train.train(folder, made, out, CPU, tell, refuse)


def stop_after(step: int) -> Callable[[Progress], None]:
    """What Ctrl-C does after a step."""

    def tell(now: Progress) -> None:
        if now.step == step:
            raise KeyboardInterrupt

    return tell


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
    told: list[Progress] = []
    about = checkpoint.load(run(tones, recipe(spec), tmp_path / "run", told.append)).provenance
    assert about.unigram_bits is not None
    assert about.unigram_bits > 3
    assert told[0].bits == pytest.approx(5, abs=0.6)  # 32 codes, nothing known
    assert told[-1].bits < about.unigram_bits / 2
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
    told: list[Progress] = []
    run(tones, recipe(spec, steps=25, evaluate_every=10), tmp_path / "run", told.append)
    assert [now.step for now in told] == list(range(1, 26))
    assert [now.step for now in told if now.held_out is not None] == [10, 20, 25]
    assert {now.steps for now in told} == {25}
    assert all(now.samples_per_second > 0 for now in told)


# --- what is kept


@BOTH
def test_a_run_folder_holds_what_is_best_what_is_latest_and_a_log(
    tones: Path, tmp_path: Path, spec: Spec
) -> None:
    best = run(tones, recipe(spec), tmp_path / "run")
    assert best == tmp_path / "run" / "best.safetensors"
    assert {path.name for path in best.parent.iterdir()} == {
        "best.safetensors",
        "latest.safetensors",
        "resume.safetensors",
        "log.jsonl",
    }
    log = [json.loads(line) for line in (best.parent / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [20, 40, 60]
    bits = [entry["held_out_bits"] for entry in log]
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
        run(tones, worse, out, stop_after(41))
    assert (out / "best.safetensors").read_bytes() == before
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 41
    assert last["held_out_bits"] > last["best"]
    assert checkpoint.load(out / "latest.safetensors").provenance.steps == 41


@BOTH
def test_the_kept_model_loads_and_measures_what_it_says(tones: Path, tmp_path: Path, spec: Spec) -> None:
    kept = checkpoint.load(run(tones, recipe(spec), tmp_path / "run"))
    assert (kept.spec, kept.sample_rate) == (spec, RATE)
    held_out = quantise(read_folder(tones, RATE, refuse), kept.quantiser).held_out
    bits = train.held_out_bits(module_of(kept), torch.from_numpy(held_out), PLAN.length)
    assert kept.provenance.bits_per_sample == pytest.approx(bits, abs=1e-4)
    # However it is cut, it is one stream: longer chunks reach as far, less the last that is not whole.
    again = train.held_out_bits(module_of(kept), torch.from_numpy(held_out), 4 * PLAN.length)
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
    folder = write_tones(tmp_path / "tones")
    tone, _ = soundfile.read(folder / "2.wav")
    tone[RATE // 10 :] = np.random.default_rng(0).uniform(-0.5, 0.5, len(tone) - RATE // 10)
    soundfile.write(folder / "2.wav", tone, RATE)
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
    told: list[Progress] = []
    run(tones, made, tmp_path / "parts", told.append)
    assert told[0].step == 21  # step 20 was the last to be evaluated
    for name in ("best.safetensors", "latest.safetensors", "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    whole, parts = (load_file(tmp_path / name / "resume.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(name.startswith("optimiser.") for name in whole)
    assert isinstance(spec, WaveNetSpec) or "streams.state.0.0" in whole


def test_a_run_stopped_before_its_first_evaluation_starts_again(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tones, recipe(WAVENET), tmp_path / "run", stop_after(7))
    told: list[Progress] = []
    run(tones, recipe(WAVENET, steps=20), tmp_path / "run", told.append)
    assert told[0].step == 1


def test_a_finished_run_is_left_alone_until_its_recipe_asks_for_more(tones: Path, tmp_path: Path) -> None:
    made, told = recipe(WAVENET, steps=20), list[Progress]()
    best = run(tones, made, tmp_path / "run")
    before = best.read_bytes()
    assert run(tones, made, tmp_path / "run", told.append) == best
    assert not told
    assert best.read_bytes() == before
    run(tones, recipe(WAVENET, steps=22), tmp_path / "run", told.append)
    assert [now.step for now in told] == [21, 22]


def test_half_a_file_that_a_killed_run_left_is_never_read(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    (out / "resume.part").write_bytes((out / "resume.safetensors").read_bytes()[:1000])
    run(tones, recipe(WAVENET, steps=40), out)
    assert not (out / "resume.part").exists()


def test_a_save_that_fails_leaves_the_one_before(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    before = (out / "resume.safetensors").read_bytes()
    (out / "resume.part").mkdir()  # nothing can be written there
    with pytest.raises(StreamerError, match=r"resume\.part: cannot be written .*make room") as caught:
        run(tones, recipe(WAVENET, steps=40), out)
    assert "\n" not in str(caught.value)
    assert (out / "resume.safetensors").read_bytes() == before


def test_a_damaged_file_is_named(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    os.truncate(out / "resume.safetensors", 1000)
    with pytest.raises(
        StreamerError, match=r"resume\.safetensors: cannot be read .*delete it to start again"
    ):
        run(tones, recipe(WAVENET, steps=40), out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": replace(WAVENET, skip=16)}, "another model"),
        ({"spec": replace(WAVENET, residual_scale=0.5)}, "another model"),
        ({"sample_rate": 4000}, "another sample rate"),
        ({"preemphasis": 0.5}, "other audio or pre-emphasis"),
        ({"plan": replace(PLAN, batch=5)}, "batch 4"),
    ],
)
def test_a_run_folder_is_not_gone_on_with_by_another_recipe(
    tones: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    made = recipe(WAVENET, steps=20)
    run(tones, made, tmp_path / "run")
    with pytest.raises(SpecError, match=rf"trained with {message}.*another run folder"):
        run(tones, replace(made, **change), tmp_path / "run")


def test_a_run_folder_is_not_gone_on_with_on_other_audio(tones: Path, tmp_path: Path) -> None:
    run(tones, recipe(WAVENET, steps=20), tmp_path / "run")
    with pytest.raises(SpecError, match="trained with other audio"):
        run(write_tones(tmp_path / "louder", level=0.6), recipe(WAVENET, steps=20), tmp_path / "run")


def test_what_cannot_be_a_run_folder_is_named(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StreamerError, match=r"run: cannot be made a run folder"):
        run(tones, recipe(WAVENET), tmp_path / "run")


def test_a_loss_that_is_lost_ends_the_run_before_it_is_kept(tones: Path, tmp_path: Path) -> None:
    """Weights near the largest number overflow in the first products that are taken with them."""
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    saved = load_file(out / "resume.safetensors") | {"model.output2_weight": torch.full((24, 32), 1e38)}
    save_file(saved, out / "resume.safetensors", {"step": "20", "best": "9.0"})
    before = (out / "latest.safetensors").read_bytes()
    with pytest.raises(StreamerError, match=r"step 21 gives (nan|inf) bits a sample: lower learning_rate"):
        run(tones, recipe(WAVENET, steps=40), out)
    assert (out / "latest.safetensors").read_bytes() == before


def test_a_model_that_has_got_lost_ends_the_run_before_it_is_kept(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tones, recipe(WAVENET, steps=20), out)
    before = (out / "latest.safetensors").read_bytes()
    wild = recipe(WAVENET, steps=10**6, learning_rate=1.0, decay=0.0, evaluate_every=1)
    with pytest.raises(StreamerError, match=r"step 21 gives \d+\.\d bits a sample: lower learning_rate"):
        run(tones, wild, out)
    assert (out / "latest.safetensors").read_bytes() == before


# --- sequences


SILENCE = -1  # no place in the corpus


def walk(model: WaveNet | SampleRnn, batch: int, codes: int, from_silence: float = 0.0) -> Streams:
    """Streams of 16 samples over codes that are their own positions, as they stand at step 0."""
    plan = Plan(steps=1, batch=batch, length=16, from_silence=from_silence)
    places = torch.full((batch,), codes)
    generator = torch.Generator().manual_seed(0)
    return Streams(torch.arange(codes), plan, model.spec.receptive_field, SILENCE, places, generator)


def starts_of(batch: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First position of each sequence (B,), and whether it starts out of silence (B,).

    Everything else must be a stretch of the corpus.
    """
    silent = batch[:, 0] == SILENCE
    assert (batch[silent, :context] == SILENCE).all()
    starts = batch[:, -1:] - (batch.shape[1] - 1)
    assert torch.equal(batch[:, context:], (starts + torch.arange(batch.shape[1]))[:, context:])
    assert torch.equal(batch[~silent], (starts + torch.arange(batch.shape[1]))[~silent])
    return starts[:, 0], silent


def test_samplernns_sequences_walk_on_and_start_from_rest_at_the_corpuss_end() -> None:
    model = SampleRnn(replace(SAMPLERNN, levels=256))
    streams = walk(model, batch=5, codes=100)
    before, restarts = torch.full((5,), 100), 0
    for _ in range(20):
        starts, silent = starts_of(streams.next(model, 0)[0], context=8)
        ended = before + 16 > 100 - 24
        assert torch.equal(silent, ended)
        assert torch.equal(starts[~ended], before[~ended] + 16)
        assert streams.state is not None
        for layers in streams.state:
            for state in layers:
                assert torch.equal(state, torch.where(ended[:, None], torch.zeros(()), torch.ones(5, 24)))
        streams.state = [[torch.ones(5, 24) for _ in layers] for layers in streams.state]
        before, restarts = starts, restarts + int(ended.sum())
    assert 10 < restarts < 95


def test_some_of_samplernns_sequences_start_from_rest_before_the_end() -> None:
    model = SampleRnn(replace(SAMPLERNN, levels=256))
    streams = walk(model, batch=200, codes=100_000, from_silence=0.25)
    streams.next(model, 0)
    assert streams.state is not None
    streams.state = [[torch.ones(200, 24) for _ in layers] for layers in streams.state]
    _, silent = starts_of(streams.next(model, 0)[0], context=8)
    assert 30 < int(silent.sum()) < 70
    assert torch.equal(
        streams.state[1][0], torch.where(silent[:, None], torch.zeros(()), torch.ones(200, 24))
    )


def test_samplernn_restarts_from_its_learned_state() -> None:
    model = SampleRnn(replace(LSTM, levels=256))
    learned = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    model.load_state_dict({"tier0__h0": learned}, strict=False)
    streams = walk(model, batch=3, codes=100)
    streams.next(model, 0)
    assert streams.state is not None
    assert torch.equal(streams.state[0][1], learned[1].expand(3, -1))


def test_wavenets_sequences_are_drawn_anew_over_the_whole_corpus() -> None:
    model = WaveNet(replace(WAVENET, levels=256))
    streams = walk(model, batch=8, codes=40)
    drawn = [starts_of(streams.next(model, 0)[0], context=16) for _ in range(30)]
    assert set(torch.cat([starts for starts, _ in drawn]).tolist()) == set(range(40 - 16 - 16 + 1))
    assert not any(silent.any() for _, silent in drawn)
    assert streams.state is None


def test_some_of_wavenets_sequences_start_out_of_silence() -> None:
    model = WaveNet(replace(WAVENET, levels=256))
    _, silent = starts_of(walk(model, batch=200, codes=1000, from_silence=0.25).next(model, 0)[0], context=16)
    assert 30 < int(silent.sum()) < 70


def test_wrong_codes_are_given_but_not_predicted_and_others_are_wrong_at_every_pass() -> None:
    codes = torch.full((1000,), 128)
    plan = Plan(steps=1, batch=10, length=100, noise=0.5, noise_size=3, from_silence=0.0)
    model = SampleRnn(replace(SAMPLERNN, levels=256))
    streams = Streams(codes, plan, 8, 128, torch.full((10,), 1000), torch.Generator().manual_seed(0))
    passes = []
    for step in range(3):
        right, given, _ = streams.next(model, step)
        assert (right == 128).all()
        assert 0.4 < float((given != 128).double().mean()) < 0.6
        assert set(given.unique().tolist()) == {125, 126, 127, 128, 129, 130, 131}
        passes.append(streams.given)
    assert not torch.equal(passes[0], passes[1])


@pytest.mark.parametrize("predictor", [None, PredictorSpec(order=4, window=32, hop=8)])
def test_a_predictor_hears_the_wrong_codes_too(predictor: PredictorSpec | None) -> None:
    codes = torch.randint(100, 156, (1000,), generator=torch.Generator().manual_seed(1))
    spec = replace(SAMPLERNN, levels=256, predictor=predictor)
    plan = Plan(steps=1, batch=1, length=16, noise=1.0, from_silence=0.0)
    streams = Streams(codes, plan, 8, 128, torch.zeros(1, dtype=torch.long), torch.Generator())
    streams.next(SampleRnn(spec), 0)
    assert torch.equal(streams.foretold, train.forecasts_of(spec, streams.given))


@pytest.mark.parametrize("levels", [32, 255, 256])
@BOTH
def test_the_silence_that_sequences_start_from_is_the_quantisers(spec: Spec, levels: int) -> None:
    codes = np.zeros(1000, np.int64)
    streams = train.start(recipe(replace(spec, levels=levels)), Corpus(codes, codes), CPU).streams
    assert streams.silence == Quantiser(levels=levels).silence


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("training", {"length": 8000}),
        ("measured held-out", {"length": 4000}),
        ("measured held-out", {"evaluate_seconds": 0.009}),
    ],
)
def test_audio_shorter_than_a_sequence_is_refused(
    tones: Path, tmp_path: Path, name: str, plan: dict[str, Any]
) -> None:
    needed = plan.get("length", PLAN.length) + WAVENET.receptive_field
    with pytest.raises(CorpusError, match=rf"the {name} audio has \d+ samples, one sequence {needed}: add"):
        run(tones, recipe(WAVENET, **plan), tmp_path / "run")


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    plan = Plan(steps=1000, learning_rate=1e-3, warmup=100)
    rates = [train.rate_at(plan, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[49] == pytest.approx(5e-4, rel=0.01)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates[-1] == pytest.approx(5e-5, rel=0.01)
    peak = rates.index(max(rates))
    assert peak == pytest.approx(100, abs=3)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


# --- recipes

SHIPPED = sorted((Path(train.__file__).parent / "recipes").glob("*.toml"))
WRITTEN = """\
title = "Mine"
[source]
license = "CC0-1.0"
[corpus]
sample_rate = 8000
[quantiser]
preemphasis = 0.5
[model]
architecture = "samplernn"
frames = [8, 2]
dim = 16
rnn_layers = 1
embedding = 8
levels = 32
[train]
steps = 60
length = 64
batch = 2
"""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_reads_and_can_be_started(path: Path) -> None:
    made = train.read_recipe(train.find_recipe(path.stem))
    assert made.about.title
    assert made.about.licence
    assert made.about.attribution
    assert made.spec.parameters < 10_000_000
    assert made.plan.evaluate_every < made.plan.steps


def test_a_recipe_says_what_is_trained_on_what(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(WRITTEN)
    made = train.read_recipe(train.find_recipe(str(tmp_path / "mine.toml")))
    assert made.spec == SampleRnnSpec(frames=(8, 2), dim=16, rnn_layers=1, levels=32, embedding=8)
    assert made.plan == Plan(steps=60, length=64, batch=2)
    assert (made.sample_rate, made.preemphasis) == (8000, 0.5)
    assert made.about == Provenance(
        title="Mine", licence="CC0-1.0", origin="streamer train, recipe mine", corpus=""
    )


WRONG = [
    ("[train]", "[trian]", "'trian' is no table"),
    ("[source]", "[sources]", "'sources' is no table"),
    ('title = "Mine"', "title = 3", "title must be one line"),
    ('title = "Mine"', "train = 3", "not a TOML file"),
    ('title = "Mine"', "titel = 'Mine'", "'titel' is no table"),
    ("steps = 60", "", r"\[train\] needs the key 'steps'"),
    ("sample_rate = 8000", "", r"\[corpus\] needs the key 'sample_rate'"),
    ('architecture = "samplernn"', "", r"\[model\] needs the key 'architecture'"),
    ('architecture = "samplernn"', 'architecture = "transformer"', "architecture 'transformer' is unknown"),
    ("batch = 2", "bacth = 2", r"'bacth' is no key of \[train\]: .*batch"),
    ("preemphasis", "emphasis", r"'emphasis' is no key of \[quantiser\]: there are preemphasis"),
    ("license", "licence", r"'licence' is no key of \[source\]: .*license"),
    ('license = "CC0-1.0"', "license = 0", "licence must be one line"),
    ("rnn_layers", "layers", "unknown fields: 'layers'"),
    ("sample_rate = 8000", "sample_rate = 8000.5", "sample_rate is 8000.5"),
    ("sample_rate = 8000", "sample_rate = 12", "sample_rate is 12 Hz: .* 1000 to 192000"),
    ("sample_rate = 8000", 'sample_rate = "CD"', "sample_rate is 'CD'"),
    ("preemphasis = 0.5", "preemphasis = 1.0", "preemphasis is 1.0: .* below 1"),
    ("preemphasis = 0.5", 'preemphasis = "0.5"', "preemphasis is '0.5'"),
    ("steps = 60", "steps = 0", "steps is 0: .* from 1"),
    ("steps = 60", "steps = 1e4", "steps is 10000.0: it must be a whole number"),
    ("steps = 60", "steps = true", "steps is True: it must be a whole number"),
    ("batch = 2", 'batch = "2"', "batch is '2': it must be a whole number"),
    ("batch = 2", "warmup = 0", "warmup is 0: .* from 1"),
    ("batch = 2", "evaluate_every = 0", "evaluate_every is 0: .* from 1"),
    ("batch = 2", "learning_rate = nan", "learning_rate is nan: it must be a number"),
    ("batch = 2", "learning_rate = -1", "learning_rate is -1: it must be a number"),
    ("batch = 2", 'decay = "slow"', "decay is 'slow': it must be a number from 0 to 1"),
    ("length = 64", "length = 60", "length is 60: it must be a multiple of the slowest frame, 8"),
    ("frames = [8, 2]", "frames = [8, 3]", "each must be a multiple of the next"),
    ("frames = [8, 2]", "frames = 8", "frames must be a tuple"),
    ("dim = 16", "dim = 0", "dim is 0"),
    ("dim = 16", "", "the spec is incomplete: .*'dim'"),
    ("levels = 32", "levels = 1", "levels is 1"),
    ("levels = 32", "side = 4", "unknown fields: 'side'"),
    ("[corpus]", "[corpus", "not a TOML file"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new or f"no {old}" for old, new, _ in WRONG])
def test_what_is_wrong_in_a_recipe_is_said_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert WRITTEN.count(old) == 1
    path = tmp_path / "wrong.toml"
    path.write_text(WRITTEN.replace(old, new))
    with pytest.raises(StreamerError, match=message) as caught:
        train.read_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_conditioned_wavenet_cannot_be_trained_on_a_corpus() -> None:
    with pytest.raises(SpecError, match="no condition"):
        recipe(replace(WAVENET, condition=4, condition_ids=2))


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_recipe_that_is_no_text_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StreamerError, match=r"wrong\.toml: (cannot be read|not a TOML file)"):
        train.read_recipe(path)


# --- the guide

GUIDE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_guides_recipe_can_be_followed(tmp_path: Path) -> None:
    text = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert text is not None
    (tmp_path / "album.toml").write_text(text[1])
    made = train.read_recipe(tmp_path / "album.toml")
    assert made.about.licence == "CC-BY-4.0"


@pytest.mark.parametrize("kind", [WaveNetSpec, SampleRnnSpec, Plan])
def test_the_guide_explains_every_key_with_its_default(kind: Any) -> None:
    for item in fields(kind):
        rows = re.findall(rf"^\|[^|]*`{item.name}`[^|]*\| *([^|]*?) *\|", GUIDE, re.MULTILINE)
        default = "needed" if item.default is MISSING else item.default
        shown = f"{default:g}" if type(default) is float else str(default).lower()
        assert shown in [row.strip("`") for row in rows], item.name


# --- the command


@dataclass
class Command:
    """`streamer train` on a folder of tones, run anew as often as a test likes."""

    folder: Path

    @property
    def arguments(self) -> list[str]:
        run, made = self.folder / "run", self.folder / "tiny.toml"
        options = f"--recipe {made} --run {run} --device cpu --threads 1".split()
        return ["train", str(self.folder / "tones"), *options]

    def write(self, steps: int, every: int) -> None:
        """Write the recipe."""
        text = WRITTEN.replace("steps = 60", f"steps = {steps}\nevaluate_every = {every}")
        (self.folder / "tiny.toml").write_text(text)

    def start(self) -> "subprocess.Popen[str]":
        environment = os.environ | {"COLUMNS": "500"}
        command = [sys.executable, "-m", "streamer", *self.arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def step(self) -> int:
        """The last step that was evaluated, or 0."""
        log = self.folder / "run" / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def signal_past(self, step: int, number: int) -> tuple[int, str, str]:
        """Run until a step has been evaluated, send a signal; exit code, stdout, stderr."""
        with self.start() as process:
            deadline = time.monotonic() + 60
            while self.step() <= step and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(number)
            out, error = process.communicate(timeout=30)
        return process.returncode, out, error


def test_the_command_outlives_kill_and_ctrl_c_and_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tones(tmp_path / "tones")
    (tmp_path / "tones" / "broken.wav").write_bytes(b"not audio")
    command = Command(tmp_path)

    command.write(steps=10**6, every=1)  # it is nearly always writing when it is killed
    code, _, error = command.signal_past(3, signal.SIGKILL)
    assert (code, error) == (-signal.SIGKILL, "")
    killed = command.step()
    assert killed > 3
    for name in ("best", "latest"):
        checkpoint.load(tmp_path / "run" / f"{name}.safetensors")

    code, out, error = command.signal_past(killed + 2, signal.SIGINT)
    assert code == 130, error
    assert error.strip() == ""
    assert f"Training tiny on {tmp_path / 'tones'} into {tmp_path / 'run'}; Ctrl-C stops" in out
    assert re.search(r"broken\.wav: cannot be read as audio", out)
    first = re.search(r"step (\d+): \d\.\d{4} bits a sample on held-out audio", out)
    assert first is not None
    assert killed < int(first[1]) <= killed + 2  # a kill may fall between the file and the line in the log

    stopped = command.step()
    command.write(steps=stopped + 25, every=10)
    assert cli.main(command.arguments) == 0
    assert command.step() == stopped + 25
    best = tmp_path / "run" / "best.safetensors"
    assert f"The best model so far is {best}; hear it with: streamer play {best}" in capfd.readouterr().out
    assert checkpoint.load(best).provenance.origin == "streamer train, recipe tiny"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"--recipe": "kazoo"}, r"recipe 'kazoo' is unknown: choose lead-guitar, metal, voice-it"),
        ({"--device": "abacus"}, r"device 'abacus' cannot be used here: choose cpu"),
        ({"FOLDER": "nowhere"}, r"nowhere: there is no such folder"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: dict[str, str], message: str
) -> None:
    command = Command(write_tones(tmp_path / "tones").parent)
    command.write(steps=1, every=1)
    arguments = command.arguments
    for name, value in wrong.items():
        arguments[1 if name == "FOLDER" else arguments.index(name) + 1] = value
    assert cli.main(arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith("streamer: ")
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
