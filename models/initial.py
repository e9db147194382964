"""First weights. Codes are amplitudes, so neighbouring codes start out alike."""

from math import pi, sqrt

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Uniform weights that keep the variance of unit-variance inputs."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * sqrt(3 / fan_in)


def smooth(levels: int, width: int, generator: torch.Generator) -> Tensor:
    """Unit-variance features (Q, width), each a cosine across the codes.

    The random Fourier features of Rahimi and Recht (2007), with frequencies spread evenly in octaves.
    """
    position = torch.linspace(-1, 1, levels)[:, None]
    octaves = torch.log2(torch.tensor(max(levels / 6, 2.0)))
    frequency = 2 ** (torch.rand(width, generator=generator) * octaves - 1)
    phase = torch.rand(width, generator=generator) * 2 * pi
    return sqrt(2) * torch.cos(pi * frequency * position + phase)
