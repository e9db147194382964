"""Pictures hold what was measured; drawing opens no window and needs nothing but matplotlib."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_rows import ROW, TORCH

from streamer import depth, plots
from streamer.bench import Effort
from streamer.depth import Cost
from streamer.models.errors import StreamerError

COSTS = [
    Cost(layers, engine, seconds * layers)
    for engine, seconds in {"kernels": 1e-6, "torch-cached": 1e-4, "torch-uncached": 1e-3}.items()
    for layers in (4, 5, 6)
]


def check(folder: Path, stem: str, *words: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [f"{stem}.png", f"{stem}.svg"]
    assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    drawn = (folder / f"{stem}.svg").read_text()
    for word in words:  # text is drawn as shapes, and said in comments
        assert f"<!-- {word} -->" in drawn


def test_realtime_is_drawn_by_size(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, threads=1), TORCH, replace(ROW, model="large", parameters=10**8)]
    plots.draw_realtime(rows, tmp_path)
    check(tmp_path, "realtime-by-size", "kernels int8", "torch-cached", "m", "large", "real time")


def test_cost_is_drawn_by_depth(tmp_path: Path) -> None:
    plots.draw_depth(COSTS, tmp_path)
    engines = ("kernels", "torch-cached", "torch-uncached")
    check(tmp_path, "cost-by-depth", *engines, "in proportion to L", "in proportion to 2^L")


def test_kernels_alone_are_drawn_too(tmp_path: Path) -> None:
    plots.draw_depth(COSTS[:3], tmp_path)
    check(tmp_path, "cost-by-depth", "kernels")


def test_every_engine_is_measured_at_every_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "DEPTHS", (2, 3))
    told: list[str] = []
    costs = depth.measure(told.append, Effort(2, 0.001))
    engines = ("kernels", "torch-cached", "torch-cached-script", "torch-uncached")
    assert [(cost.layers, cost.engine) for cost in costs] == [(n, e) for n in (2, 3) for e in engines]
    assert all(cost.seconds > 0 for cost in costs)
    assert told == ["measuring 2 layers ...", "measuring 3 layers ..."]


def test_depths_double_what_a_sample_depends_on() -> None:
    assert [depth.spec_of(layers).receptive_field for layers in depth.DEPTHS] == [2**n for n in range(4, 12)]


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StreamerError, match=r"pip install 'streamer\[plot\]'"):
        plots.prepare(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    plots.prepare(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(StreamerError, match="file cannot hold plots"):
        plots.prepare(tmp_path / "file")
