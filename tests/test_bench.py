"""The benchmark's structure, and that its engines play the same model; speed itself is never asserted."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_rows import ROW

from streamer import bench, contenders, depth
from streamer.bench import Effort, Measured
from streamer.cli import main
from streamer.contenders import Contender, Ways
from streamer.kernels.stepper import PRECISIONS, Stepper
from streamer.models import checkpoint
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.roofline import Roofline
from streamer.rows import Row, as_json
from streamer.shapes import SHAPES, random_weights
from streamer.torch_stepper import Generator, cached, uncached

TINY: dict[str, Spec] = {
    "wavenet": WaveNetSpec((1, 2, 4, 8), residual=12, gate=20, skip=18, output=33, levels=50),
    "samplernn": SampleRnnSpec((12, 4), dim=20, rnn_layers=2, levels=50, embedding=8, cell="gru-keras"),
}
TORCH = ["torch-cached", "torch-cached-script", "torch-uncached"]
EFFORT = Effort(3, 0.002)
PLAIN = Ways(("fp32",), (1,), (1,))

each_architecture = pytest.mark.parametrize("architecture", list(TINY))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny WaveNet's file."""
    path = tmp_path / f"tiny{checkpoint.SUFFIX}"
    checkpoint.save(
        path,
        spec=TINY["wavenet"],
        quantiser=Quantiser(levels=50),
        sample_rate=8000,
        tensors=random_weights(TINY["wavenet"]),
        provenance=checkpoint.Provenance(),
    )
    return str(path)


def measure(model: str, ways: Ways = PLAIN) -> tuple[list[Row], list[str]]:
    told: list[str] = []
    return bench.run([model], told.append, EFFORT, ways), told


@each_architecture
def test_engines_take_the_same_most_probable_codes(architecture: str) -> None:
    spec, count = TINY[architecture], 300
    tensors = random_weights(spec, seed=1)
    first = spec.levels // 2
    stepper = Stepper(spec, tensors)
    stepper.feed([first])
    codes = stepper.generate(count, temperature=0.0)
    assert len(set(codes.tolist())) > 5
    for other in (
        cached(spec, tensors),
        cached(spec, tensors, scripted=True),
        uncached(spec, tensors, []),
    ):
        np.testing.assert_array_equal(Generator(other, first).generate(count, 0.0), codes)


def test_every_engine_has_its_row(model: str) -> None:
    rows, told = measure(model)
    assert [row.engine for row in rows] == ["kernels", *TORCH]
    assert told[-1] == f"measuring {model} ..."
    for row in rows:
        assert (row.model, row.precision, row.threads, row.voices) == (model, "fp32", 1, 1)
        assert row.parameters == TINY["wavenet"].parameters
        assert row.samples_per_s > 0
        assert row.spread >= 0
        assert row.realtime == pytest.approx(row.samples_per_s / 16_000)
        assert row.gb_per_s == pytest.approx(row.weight_bytes * row.samples_per_s / 1e9)
        assert row.state_bytes > 0
        assert row.ratio_to_reference > 0
        assert (row.roofline_share is None) == (row.engine != "kernels")
    assert rows[1].ratio_to_cached == 1
    assert rows[3].ratio_to_uncached == 1


def test_kernels_have_a_row_for_every_way_that_is_asked_for(model: str) -> None:
    rows, _ = measure(model, Ways(("fp32", "int8"), (1, 2), (1, 3)))
    found = [(row.precision, row.threads, row.voices) for row in rows if row.engine == "kernels"]
    pairs = [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert found == [(precision, *pair) for precision in ("fp32", "int8") for pair in pairs]
    assert all(row.roofline_share and row.roofline_share > 0 for row in rows if row.engine == "kernels")


def test_a_precision_that_the_processor_lacks_has_no_row_of_its_own() -> None:
    spec = TINY["wavenet"]
    tensors = random_weights(spec)
    with_all = list(contenders.kernels(spec, tensors, Ways()))
    resolved = [Stepper(spec, tensors, precision=precision).precision for precision in PRECISIONS]
    expected = [asked for asked, got in zip(PRECISIONS, resolved, strict=True) if asked == got]
    assert [contender.precision for contender in with_all] == expected


def test_threads_are_tried_only_where_a_core_cannot_keep_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = contenders.core_cache_bytes()
    assert cache >= 2**15
    assert contenders.useful_threads(cache) == [1]
    monkeypatch.setattr(contenders, "usable_cores", lambda: 6)
    assert contenders.useful_threads(cache + 1) == [1, 2, 4, 6]
    monkeypatch.setattr(contenders, "usable_cores", lambda: 1)
    assert contenders.useful_threads(cache + 1) == [1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
def test_usable_cores_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert contenders.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert contenders.usable_cores() == len(allowed)


def test_shipped_models_are_measured_with_several_voices_too() -> None:
    assert bench.ways_for("voice-it", Ways()).voices == (1, 8)
    assert bench.ways_for("wavenet-nv", Ways()).voices == (1,)
    assert bench.ways_for("voice-it", Ways(voices=(2,))).voices == (2,)


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(StreamerError, match="fp64"):
        Ways(("fp32", "fp64"))


def of(engine: str, roofline: Roofline | None = None) -> Contender:
    return Contender(engine, lambda count: None, 1, 8, 16, roofline=roofline)


def test_figures_are_medians_of_rounds() -> None:
    entered = [of("kernels", Roofline(TINY["wavenet"], "fp32", 8)), of("torch-cached"), of("torch-uncached")]
    measured = Measured(
        speeds=np.array([[100.0, 20.0, 1.0], [300.0, 10.0, 1.0], [200.0, 40.0, np.nan]]),
        least_seconds=np.array([[0.005, np.nan, np.nan], [0.003, np.nan, np.nan], [0.002, np.nan, np.nan]]),
        references=np.array([[50.0, 10.0, 10.0], [100.0, 10.0, 10.0], [25.0, 10.0, np.nan]]),
    )
    kernels, through_cache, without = bench.summarise("m", 7, entered, measured)
    assert (kernels.model, kernels.parameters) == ("m", 7)
    assert (kernels.samples_per_s, kernels.spread, kernels.gb_per_s) == (200.0, 0.5, 1.6e-6)
    assert (kernels.ratio_to_cached, kernels.ratio_to_uncached) == (5.0, 200.0)
    assert kernels.roofline_share == pytest.approx(0.5)
    assert kernels.ratio_to_reference == 3.0
    assert through_cache.ratio_to_uncached == 15.0
    assert (without.samples_per_s, without.roofline_share) == (1.0, None)


def test_a_slow_engine_takes_part_in_its_first_rounds_only() -> None:
    counts = {"kernels": 0, "torch-uncached": 0}

    def generate(engine: str) -> Callable[[int], None]:
        def count(samples: int) -> None:
            counts[engine] += samples

        return count

    entered = [
        replace(of("kernels"), generate=generate("kernels")),
        replace(of("torch-uncached"), generate=generate("torch-uncached"), rounds=1),
    ]
    measured = bench.measure(entered, EFFORT)
    assert np.isfinite(measured.speeds).tolist() == [[True, True], [True, False], [True, False]]
    assert np.isfinite(measured.references).tolist() == np.isfinite(measured.speeds).tolist()
    assert counts["kernels"] > 3


def test_what_was_started_is_ended(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Stepper] = []
    close = Stepper.close
    monkeypatch.setattr(Stepper, "close", lambda stepper: (closed.append(stepper), close(stepper))[1])
    measure(model, Ways(("fp32",), (1, 2), (1,)))
    assert len(closed) == 2


def test_without_torch_the_kernels_are_measured_all_the_same(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    rows, told = measure(model)
    assert [(row.engine, row.ratio_to_cached, row.ratio_to_uncached) for row in rows] == [
        ("kernels", None, None)
    ]
    assert "pip install 'streamer[train]'" in told[0]


def test_without_torchscript_the_rest_is_measured(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: object) -> None:
        raise RuntimeError("TorchScript has gone\nfor good")

    monkeypatch.setattr(torch.jit, "script", refuse)
    rows, told = measure(model)
    assert [row.engine for row in rows] == ["kernels", "torch-cached", "torch-uncached"]
    assert told[-1].endswith("it is left out: TorchScript has gone")


def test_a_row_is_slower_only_if_it_is_so_again() -> None:
    rows = [replace(ROW, model=model) for model in ("a", "b", "c")]
    asked: list[str] = []

    def scaled(*factors: float) -> list[Row]:
        return [
            replace(row, ratio_to_reference=row.ratio_to_reference * factor)
            for row, factor in zip(rows, factors, strict=True)
        ]

    def measure_again(names: Sequence[str]) -> list[Row]:
        asked.extend(names)
        return scaled(0.7, 1.0, 0.5)[:2]

    lost = bench.slower_twice(scaled(0.6, 0.8, 1.0), rows, measure_again)
    assert asked == ["a", "b"]
    assert lost == {rows[0].key: pytest.approx(0.7)}
    assert bench.slower_twice(rows, rows, measure_again) == {}
    assert asked == ["a", "b"]


def test_unknown_model_is_an_error_before_anything_is_measured(model: str) -> None:
    told: list[str] = []
    with pytest.raises(StreamerError, match="nowhere"):
        bench.run([model, "nowhere"], told.append)
    assert told == []


def test_default_is_what_ships_and_all_shapes() -> None:
    assert bench.default_names() == ["metal", "techno", "voice-it", "voice-ru", *SHAPES]


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds too short to mean anything."""
    monkeypatch.setattr(bench, "QUICK", EFFORT)


def command(*arguments: str) -> int:
    return main(["bench", *arguments, "--quick", "--precision", "fp32", "--threads", "1", "--voices", "1,2"])


@pytest.mark.usefixtures("quick")
def test_command_prints_json_with_every_field(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(model, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["voices"] for row in rows] == [1, 2, 1, 1, 1]
    assert all(list(row) == list(Row.__annotations__) for row in rows)


@pytest.mark.usefixtures("quick")
def test_command_fails_where_a_row_is_slower_than_the_baseline(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(model, "--json") == 0
    rows = [Row(**row) for row in json.loads(capsys.readouterr().out)]
    baseline = tmp_path / "baseline.json"
    for factor, code in ((1e-6, 0), (1e6, 1)):
        before = [replace(row, ratio_to_reference=row.ratio_to_reference * factor) for row in rows]
        baseline.write_text(as_json(before))
        assert command(model, "--baseline", str(baseline)) == code
        slower = [line for line in capsys.readouterr().err.splitlines() if line.startswith("slower: ")]
        assert len(slower) == code * len(rows)


@pytest.mark.usefixtures("quick")
def test_command_draws_both_plots(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "DEPTHS", (2, 3))
    assert command(model, "--plot", str(tmp_path / "plots")) == 0
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {
        f"{stem}.{ending}" for stem in ("cost-by-depth", "realtime-by-size") for ending in ("png", "svg")
    }


@pytest.mark.parametrize("arguments", [("--precision", "fp64"), ("--baseline", "nowhere.json")])
def test_command_refuses_what_it_cannot_do(
    arguments: tuple[str, str], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", model, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert arguments[1] in error
