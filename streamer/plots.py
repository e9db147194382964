"""Pictures of what `streamer bench` measured, each as PNG and SVG; they need matplotlib.

realtime-by-size    the real-time factor of every model against its weights; 1 is as fast as it sounds
cost-by-depth       what a sample costs against the depth of a WaveNet's dilations
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.models.errors import StreamerError
from streamer.pictures import need_matplotlib
from streamer.rows import Row

if TYPE_CHECKING:
    from streamer.depth import Cost

_COLOURS = {
    "kernels fp32": "#08306b",
    "kernels bf16": "#2171b5",
    "kernels int8": "#4eb3d3",
    "kernels int8dot": "#2ca25f",
    "torch-cached": "#d95f0e",
    "torch-cached-script": "#fe9929",
    "torch-uncached": "#969696",
}
"""In the legend's order."""


def prepare(folder: Path) -> None:
    """Make the folder; raise `StreamerError` where nothing can be drawn: before minutes of measuring."""
    need_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StreamerError(f"{folder} cannot hold plots ({error.strerror}): name another folder") from None


def draw_realtime(rows: Sequence[Row], folder: Path) -> None:
    """Write realtime-by-size.png and .svg. One point a model, engine and precision: the best of its rows."""
    from matplotlib.ticker import NullFormatter

    figure, axes = _new_axes()
    best = _best(rows)
    for series, points in best.items():
        sizes, factors = zip(*sorted(points.values()), strict=True)
        style = "o" if series.startswith("kernels") else "s"
        axes.plot(sizes, factors, style, color=_COLOURS[series], label=series, markersize=6)
    axes.axhline(1, color="black", linewidth=1, linestyle="--", label="real time")
    for model, size in {row.model: row.parameters for row in rows}.items():
        axes.axvline(size, color="0.92", linewidth=1, zorder=0)
        place = {"xy": (size, 1), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(model, xytext=(0, 4), rotation=45, fontsize=8, **place)
    axes.set(xscale="log", yscale="log", xlabel="million weights")
    axes.xaxis.set_major_formatter(lambda weights, _: f"{weights / 1e6:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda factor, _: f"{factor:g}")
    axes.set_ylabel("seconds of sound at 16 kHz in a second of work")
    _finish(figure, axes, folder / "realtime-by-size")


def _best(rows: Iterable[Row]) -> dict[str, dict[str, tuple[int, float]]]:
    """By series, in the legend's order, and by model: weights, and the real-time factor of one voice."""
    found: dict[str, dict[str, tuple[int, float]]] = {series: {} for series in _COLOURS}
    for row in rows:
        points = found[_series(row)]
        points[row.model] = max(points.get(row.model, (0, 0.0)), (row.parameters, row.realtime))
    return {series: points for series, points in found.items() if points}


def _series(row: Row) -> str:
    return f"kernels {row.precision}" if row.engine == "kernels" else row.engine


def draw_depth(costs: Sequence[Cost], folder: Path) -> None:
    """Write cost-by-depth.png and .svg, with what O(L) and O(2^L) would be from each end."""
    figure, axes = _new_axes()
    for engine in dict.fromkeys(cost.engine for cost in costs):
        points = [(cost.layers, cost.seconds) for cost in costs if cost.engine == engine]
        layers, seconds = map(np.array, zip(*points, strict=True))
        colour = _COLOURS["kernels fp32" if engine == "kernels" else engine]
        axes.plot(2.0**layers, 1e6 * seconds, "o-", color=colour, label=engine)
        if engine in ("kernels", "torch-uncached"):
            growth, name = (layers, "L") if engine == "kernels" else (2.0**layers, "2^L")
            guide = 1e6 * seconds[-1] * growth / growth[-1]
            axes.plot(2.0**layers, guide, ":", color=colour, label=f"in proportion to {name}")
    axes.set_xscale("log", base=2)
    axes.set(yscale="log", xlabel="codes that a sample depends on: 2^L for L layers of doubling dilations")
    axes.set_ylabel("microseconds a sample")
    _finish(figure, axes, folder / "cost-by-depth")


def _new_axes() -> tuple[Any, Any]:
    """Without pyplot, so without a display and without a change to what the caller draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(which="major", axis="y", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", fontsize=8)
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=120)
