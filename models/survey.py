"""What a folder of audio turned out to hold: hours, rates, silence, clipping, DC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

FULL_SCALE = 0.999
"""From here on a sample counts as clipped."""
CLIPPED_SHARE = 1e-3
"""Of its samples: a file with more is named."""
DC_SHARE = 0.01
"""Of full scale: a file whose mean lies further from zero is named."""


@dataclass
class Finding:
    """One file, as it is decoded."""

    name: str
    rate: int = 1
    """Hz."""
    channels: int = 1
    frames: int = 0
    kept: int = 0
    """Samples at the corpus's rate that are trained on; the rest is left out."""
    clipped: int = 0
    """Samples at full scale, of all channels."""
    total: float = 0.0
    """Sum of all samples."""

    def hear(self, block: Samples) -> Samples:
        """Take a decoded block (frames, channels) into account, and return it."""
        self.frames += len(block)
        self.clipped += int((np.abs(block) >= FULL_SCALE).sum())
        self.total += float(block.sum(dtype=np.float64))
        return block

    def keep(self, samples: Samples) -> Samples:
        """Count samples that will be trained on, and return them."""
        self.kept += len(samples)
        return samples

    @property
    def seconds(self) -> float:
        """Length of the file."""
        return self.frames / self.rate

    @property
    def dc(self) -> float:
        """Mean of the file's samples, of full scale."""
        return self.total / max(1, self.frames * self.channels)

    @property
    def clipped_share(self) -> float:
        """Part of its samples that are at full scale."""
        return self.clipped / max(1, self.frames * self.channels)


@dataclass(frozen=True)
class Survey:
    """A folder, as it was found."""

    files: int
    """That can be read and hold sound."""
    seconds: float
    """Of all of them, as they are."""
    kept_seconds: float
    """Without what is left out: silence or, for a model with a clock, what is no whole cycle."""
    rates: dict[str, float] = field(default_factory=dict)
    """Seconds at each rate (Hz) and number of channels."""
    clipped: dict[str, float] = field(default_factory=dict)
    """Names of files with much clipping, and the part of their samples that is at full scale."""
    dc: dict[str, float] = field(default_factory=dict)
    """Names of files with an offset, and the offset of full scale."""
    skipped: tuple[str, ...] = ()
    """A line for each file that was left out."""

    def lines(self) -> list[str]:
        """What a musician should know before training, most important first."""
        kinds = ", ".join(f"{_clock(seconds)} {kind}" for kind, seconds in self.rates.items())
        cut = self.seconds - self.kept_seconds
        found = f"{self.files} files, {_clock(self.seconds)} ({kinds}); {_clock(cut)} is left out"
        worst = [
            _worst("clipped samples", self.clipped, "turn the recording down if you still can"),
            _worst("a DC offset", self.dc, "a high-pass filter at 20 Hz removes it"),
        ]
        return [found, *filter(None, worst)]


def summed(findings: Iterable[Finding], rate: int, skipped: Iterable[str]) -> Survey:
    """The survey of files that will be trained on at a rate (Hz)."""
    found = list(findings)
    rates: Counter[str] = Counter()
    for one in found:
        rates[f"at {one.rate} Hz, {_channels(one.channels)}"] += one.seconds  # type: ignore[assignment]
    return Survey(
        files=len(found),
        seconds=sum(one.seconds for one in found),
        kept_seconds=sum(one.kept for one in found) / rate,
        rates=dict(rates.most_common()),
        clipped={one.name: one.clipped_share for one in found if one.clipped_share > CLIPPED_SHARE},
        dc={one.name: one.dc for one in found if abs(one.dc) > DC_SHARE},
        skipped=tuple(skipped),
    )


def survey_from_json(data: dict[str, Any]) -> Survey:
    """Read what `dataclasses.asdict` made of a survey."""
    return Survey(**(data | {"skipped": tuple(data["skipped"])}))


def _worst(what: str, found: dict[str, float], remedy: str) -> str:
    if not found:
        return ""
    name = max(found, key=lambda key: abs(found[key]))
    return f"{len(found)} with {what}, {name!r} most, {found[name]:.2%}: {remedy}"


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
