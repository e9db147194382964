"""Pictures of sound and of training, as PNG files; they need matplotlib (the extra ``plot``)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.ear import FRAME
from streamer.frames import Samples
from streamer.models.errors import StreamerError

if TYPE_CHECKING:
    from streamer.watch import Watch

_MOST_POINTS = 1000
"""Of a curve over time: an hour has a hundred times as many frames as a picture has columns."""


def need_matplotlib() -> None:
    """Raise `StreamerError` where nothing can be drawn: before minutes of work."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise StreamerError("plots need matplotlib: pip install 'streamer[plot]'") from None


def prepare(path: Path) -> None:
    """Raise `StreamerError` where no picture can be written: before minutes of work."""
    need_matplotlib()
    if path.suffix.lower() != ".png":
        raise StreamerError(f"{path}: cannot draw this kind of file; end the name in .png")
    if not path.absolute().parent.is_dir():
        raise StreamerError(f"{path}: there is no folder {path.absolute().parent}; make it first")


def spectrograms(clips: Mapping[str, Samples], rate: int) -> bytes:
    """Clips (T,) by their titles, one above the other, as a PNG."""
    figure, rows = _figure(12, 2.4 * len(clips), len(clips))
    for (axes,), (title, clip) in zip(rows, clips.items(), strict=True):
        _draw_spectrogram(axes, title, clip, rate)
    rows[-1][0].set_xlabel("s")
    return _png(figure)


def stability(watches: Mapping[str, Watch], rate: int) -> bytes:
    """What was watched, by its title: how it begins, and its level all along with what it was stuck in."""
    figure, rows = _figure(14, 2.4 * len(watches), len(watches), 2)
    for (left, right), (title, watch) in zip(rows, watches.items(), strict=True):
        _draw_spectrogram(left, title, watch.clip, rate)
        _draw_levels(right, watch, rate)
    rows[-1][0].set_xlabel("s")
    rows[-1][1].set_xlabel("min")
    return _png(figure)


def against_corpus(corpus: Watch, model: Watch, rate: int) -> bytes:
    """Mean spectrum, and how often each level comes, of a corpus and a model."""
    figure, ((spectrum, levels),) = _figure(12, 3.2, 1, 2)
    hertz = np.fft.rfftfreq(FRAME, 1 / rate)
    for watch, name, colour in ((corpus, "corpus", "0.5"), (model, "model", "#2171b5")):
        spectrum.plot(hertz[1:], watch.ear.spectrum_db[1:], color=colour, label=name)
        heard = watch.ear.levels_dbfs
        weights = np.full(len(heard), 1 / max(1, len(heard)))
        levels.hist(heard, np.arange(-70, 2, 2), weights=weights, histtype="step", color=colour, label=name)
    spectrum.set(xscale="log", xlim=(40, rate / 2), xlabel="Hz", ylabel="dB", title="mean spectrum")
    levels.set(xlabel="dBFS, of 2,048 samples", ylabel="share of frames", title="level")
    spectrum.legend()
    return _png(figure)


def curves(log: Sequence[Mapping[str, float]], baselines: Mapping[str, float], samples_a_step: int) -> bytes:
    """Bits a sample over steps and minutes, the learning rate and the speed, from a run's log.

    baselines: bits a sample by what needs them, to be beaten.
    """
    figure, ((by_step, by_time), (rate, speed)) = _figure(12, 6.4, 2, 2)
    for axes, key, unit in ((by_step, "step", 1), (by_time, "seconds", 60)):
        places = [line[key] / unit for line in log]
        axes.plot(places, [line["training_bits"] for line in log], color="0.6", label="training")
        axes.plot(places, [line["bits"] for line in log], color="#2171b5", label="validation")
        for (name, bits), style in zip(baselines.items(), (":", "--"), strict=True):
            axes.axhline(bits, color="#d95f0e", linestyle=style, linewidth=1, label=name)
        axes.set_ylabel("bits a sample")
    steps = np.array([line["step"] for line in log])
    rate.plot(steps, [line["learning_rate"] for line in log], color="#2171b5")
    taken = np.diff([line["seconds"] for line in log], prepend=0.0)
    made = np.diff(steps, prepend=0) * samples_a_step
    speed.plot(steps, made / np.maximum(taken, 1e-9) / 1000, color="#2171b5")
    by_step.set_xlabel("steps")
    by_time.set_xlabel("minutes")
    rate.set(xlabel="steps", ylabel="learning rate", yscale="log")
    speed.set(xlabel="steps", ylabel="thousand samples a second", ylim=(0, None))
    by_step.legend()
    return _png(figure)


def write(path: Path, picture: bytes) -> None:
    """Write a picture; raise `StreamerError` where that fails."""
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise StreamerError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def _draw_spectrogram(axes: Any, title: str, clip: Samples, rate: int) -> None:
    hush = np.random.default_rng(0).normal(0, 1e-7, len(clip))  # silence has no logarithm
    if len(clip) >= 512:
        axes.specgram(clip + hush, NFFT=512, Fs=rate, noverlap=384, vmin=-130, vmax=-30, cmap="magma")
    axes.set_title(title, loc="left")
    axes.set_ylabel("Hz")


def _draw_levels(axes: Any, watch: Watch, rate: int) -> None:
    levels = watch.ear.levels_dbfs
    step = max(1, -(-len(levels) // _MOST_POINTS))
    starts = np.arange(0, len(levels), step)
    minutes = starts * FRAME / rate / 60
    if len(levels):
        low, high = np.minimum.reduceat(levels, starts), np.maximum.reduceat(levels, starts)
        axes.fill_between(minutes, low, high, color="#2171b5", alpha=0.5, linewidth=0)
        axes.plot(minutes, high, color="#2171b5", linewidth=0.7)
    for loop in watch.loops.found:
        axes.axvspan(loop.begin / 60, loop.end / 60, color="#d95f0e", alpha=0.3)
    axes.set(ylim=(-80, 0), ylabel="dBFS", xlim=(0, watch.seconds / 60 or 1))


def _figure(width: float, height: float, rows: int, columns: int = 1) -> tuple[Any, Any]:
    """Without pyplot, so without a display and without a change to what the caller draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80)
    return out.getvalue()
