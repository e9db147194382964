"""A recipe says what is trained on what, its mistakes are told in a line, the guide explains every key."""

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from streamer.models.checkpoint import Provenance
from streamer.models.errors import SpecError, StreamerError
from streamer.models.specs import PredictorSpec, SampleRnnSpec, WaveNetSpec
from streamer.models.training.plan import Plan
from streamer.models.training.presets import PRESETS
from streamer.models.training.recipe import Recipe, find_recipe, read_recipe, shipped

# --- recipes

SHIPPED = sorted(shipped().values())
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
    made = read_recipe(find_recipe(path.stem))
    assert made.about.title
    if path.stem not in PRESETS:
        assert made.about.licence
        assert made.about.attribution
    assert made.spec.parameters < 10_000_000
    assert made.plan.evaluate_every < made.plan.steps


def test_a_recipe_says_what_is_trained_on_what(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(WRITTEN)
    made = read_recipe(find_recipe(str(tmp_path / "mine.toml")))
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
    (
        "sample_rate = 8000",
        "sample_rate = 8000\nlongest_silence = 0",
        "longest_silence is 0 s: .* 0.04 to 60",
    ),
    ("batch = 2", 'schedule = "linear"', "schedule is 'linear': it must be cosine or plateau"),
    ("batch = 2", "patience = 0", "patience is 0: .* from 1"),
    ("batch = 2", "stop_after = -1", "stop_after is -1: .* from 0"),
    ("batch = 2", "noise = 1.5", "noise is 1.5: .* from 0 to 1"),
    ("batch = 2", "noise_size = 0", "noise_size is 0: .* from 1"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new or f"no {old}" for old, new, _ in WRONG])
def test_what_is_wrong_in_a_recipe_is_said_in_one_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert WRITTEN.count(old) == 1
    path = tmp_path / "wrong.toml"
    path.write_text(WRITTEN.replace(old, new))
    with pytest.raises(StreamerError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_noise_beside_a_predictor_is_refused() -> None:
    spec = SampleRnnSpec(frames=(8, 2), dim=4, rnn_layers=1, embedding=2, predictor=PredictorSpec())
    with pytest.raises(SpecError, match="noise must be 0 beside a predictor"):
        Recipe(spec, 8000, 0.0, Plan(steps=1, length=64, noise=0.1), Provenance())


def test_a_conditioned_wavenet_cannot_be_trained_on_a_corpus() -> None:
    spec = WaveNetSpec(dilations=(1, 2), residual=4, gate=4, skip=4, output=4, condition=4, condition_ids=2)
    with pytest.raises(SpecError, match="no condition"):
        Recipe(spec, 8000, 0.0, Plan(steps=1), Provenance())


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_recipe_that_is_no_text_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StreamerError, match=r"wrong\.toml: (cannot be read|not a TOML file)"):
        read_recipe(path)


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth() -> None:
    plan = Plan(steps=1000, learning_rate=1e-3, warmup=100)
    rates = [plan.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[49] == pytest.approx(5e-4, rel=0.01)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates[-1] == pytest.approx(5e-5, rel=0.01)
    peak = rates.index(max(rates))
    assert peak == pytest.approx(100, abs=3)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_plateaus_rate_stays_after_the_warm_up() -> None:
    plan = Plan(steps=1000, learning_rate=1e-3, warmup=100, schedule="plateau")
    assert plan.rate_at(49) == pytest.approx(5e-4)
    assert {plan.rate_at(step) for step in range(100, 1000)} == {1e-3}


def test_every_preset_is_a_shipped_recipe_that_anybodys_audio_goes_with() -> None:
    for name in PRESETS:
        made = read_recipe(find_recipe(name))
        assert made.sample_rate == {"16k": 16_000, "44k": 44_100}[name.split("-")[1]]
        assert (made.about.corpus, made.about.licence, made.about.attribution) == ("", "", "")


# --- the guide

GUIDE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_guides_recipe_can_be_followed(tmp_path: Path) -> None:
    text = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert text is not None
    (tmp_path / "album.toml").write_text(text[1])
    made = read_recipe(tmp_path / "album.toml")
    assert made.about.licence == "CC-BY-4.0"


@pytest.mark.parametrize("kind", [WaveNetSpec, SampleRnnSpec, Plan])
def test_the_guide_explains_every_key_with_its_default(kind: Any) -> None:
    for item in fields(kind):
        rows = re.findall(rf"^\|[^|]*`{item.name}`[^|]*\| *([^|]*?) *\|", GUIDE, re.MULTILINE)
        default = "needed" if item.default is MISSING else item.default
        shown = f"{default:g}" if type(default) is float else str(default).lower()
        assert shown in [row.strip("`") for row in rows], item.name
