"""What a sample costs as a WaveNet's dilations grow: with cached state O(L), without it O(2^L).

With L layers whose dilations double, a sample depends on 2^L codes. Queues of past activations leave one
column of L layers to compute (Paine et al. 2016); without them the whole triangle is computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamer import bench, contenders
from streamer.bench import Effort
from streamer.contenders import Tell, Ways
from streamer.models.specs import WaveNetSpec
from streamer.shapes import random_weights

DEPTHS = range(4, 12)


@dataclass(frozen=True)
class Cost:
    """Of one engine at one depth."""

    layers: int
    engine: str
    seconds: float
    """A sample, the median of the rounds."""


def spec_of(layers: int) -> WaveNetSpec:
    """A WaveNet of the shipped one's widths, its dilations 1, 2, 4, ..."""
    return WaveNetSpec(tuple(2**i for i in range(layers)), residual=32, gate=32, skip=128, output=128)


def measure(tell: Tell, effort: Effort) -> list[Cost]:
    """Every engine at all `DEPTHS`, in fp32; without torch only the kernels."""
    costs = []
    for layers in DEPTHS:
        tell(f"measuring {layers} layers ...")
        spec = spec_of(layers)
        tensors = random_weights(spec)
        entered = list(contenders.kernels(spec, tensors, Ways(("fp32",), (1,), (1,))))
        if bench.has_torch():
            entered += contenders.torch_engines(spec, tensors, tell)
        medians = np.nanmedian(bench.measure(entered, effort).speeds, 0)
        costs += [
            Cost(layers, contender.engine, float(1 / speed))
            for contender, speed in zip(entered, medians, strict=True)
        ]
    return costs
