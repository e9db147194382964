"""The benchmark's structure, and that its engines play the same model; speed itself is never asserted."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from streamer import bench
from streamer.bench import SHAPES, Row
from streamer.kernels.stepper import Stepper
from streamer.models import checkpoint
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.torch_stepper import Generator, cached, uncached

TINY: dict[str, Spec] = {
    "wavenet": WaveNetSpec((1, 2, 4, 8), residual=12, gate=20, skip=18, output=33, levels=50),
    "samplernn": SampleRnnSpec((12, 4), dim=20, rnn_layers=2, levels=50, embedding=8, cell="gru-keras"),
}
ENGINES = ["kernels", "torch-cached", "torch-uncached"]

each_architecture = pytest.mark.parametrize("architecture", list(TINY))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny WaveNet's file."""
    path = tmp_path / f"tiny{checkpoint.SUFFIX}"
    tensors = bench.random_weights(TINY["wavenet"])
    checkpoint.save(
        path,
        spec=TINY["wavenet"],
        quantiser=Quantiser(levels=50),
        sample_rate=8000,
        tensors=tensors,
        provenance=checkpoint.Provenance(),
    )
    return str(path)


def measure(model: str) -> tuple[list[Row], list[str]]:
    told: list[str] = []
    return bench.run([model], told.append, rounds=3, turn_seconds=0.005), told


@each_architecture
def test_engines_take_the_same_most_probable_codes(architecture: str) -> None:
    spec, count = TINY[architecture], 300
    tensors = bench.random_weights(spec, seed=1)
    first = spec.levels // 2
    stepper = Stepper(spec, tensors)
    stepper.feed([first])
    codes = stepper.generate(count, temperature=0.0)
    assert len(set(codes.tolist())) > 5
    np.testing.assert_array_equal(Generator(cached(spec, tensors), first).generate(count, 0.0), codes)
    np.testing.assert_array_equal(Generator(uncached(spec, tensors, []), first).generate(count, 0.0), codes)


def test_every_engine_has_its_row(model: str) -> None:
    rows, told = measure(model)
    assert [row.engine for row in rows] == ENGINES
    assert told == [f"measuring {model} ..."]
    for row in rows:
        assert (row.model, row.precision, row.threads, row.voices) == (model, "fp32", 1, 1)
        assert row.samples_per_s > 0
        assert row.spread >= 0
        assert row.realtime == pytest.approx(row.samples_per_s / 16_000)
        assert row.weight_bytes > 0
        assert row.state_bytes > 0
    assert rows[1].ratio_to_cached == 1
    assert rows[2].ratio_to_uncached == 1


def test_figures_are_medians_of_rounds() -> None:
    contenders = [bench.Contender(engine, lambda count: None, 1, 8, 16) for engine in ENGINES]
    speeds = np.array([[100.0, 20.0, 1.0], [300.0, 10.0, 1.0], [200.0, 40.0, 2.0]])
    kernels, through_cache, _ = bench.summarise("m", contenders, speeds)
    assert (kernels.samples_per_s, kernels.spread) == (200.0, 0.5)
    assert (kernels.ratio_to_cached, kernels.ratio_to_uncached) == (5.0, 100.0)
    assert through_cache.ratio_to_uncached == 20.0


def test_json_and_table_hold_all_rows(model: str) -> None:
    rows, _ = measure(model)
    assert json.loads(bench.as_json(rows)) == [asdict(row) for row in rows]
    lines = bench.as_table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split("|")[2].strip() for line in lines[2:]] == ENGINES


def test_without_torch_the_kernels_are_measured_all_the_same(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    rows, told = measure(model)
    assert [(row.engine, row.ratio_to_cached, row.ratio_to_uncached) for row in rows] == [
        ("kernels", None, None)
    ]
    assert "pip install 'streamer[train]'" in told[0]
    assert "kernels" in bench.as_table(rows)


def test_unknown_model_is_an_error_before_anything_is_measured(model: str) -> None:
    told: list[str] = []
    with pytest.raises(StreamerError, match="nowhere"):
        bench.run([model, "nowhere"], told.append)
    assert told == []


def test_shapes_are_those_of_the_systems_they_are_named_for() -> None:
    nv, ibab, prism = (SHAPES[name] for name in ("wavenet-nv", "wavenet-ibab", "samplernn-prism-512"))
    assert nv.receptive_field == 2047
    # ibab's own 1 515 968 weights hold a residual product that nothing reads and a skip bias for every layer.
    assert (ibab.receptive_field, ibab.parameters) == (5117, 1_515_968 - (32 * 32 + 32) - 49 * 512)
    assert prism.slots == (4, 16)


def test_default_is_something_small_and_all_large_shapes() -> None:
    names = bench.default_names()
    large = {"wavenet-nv", "wavenet-ibab", "samplernn-prism-512"}
    assert large < set(names)
