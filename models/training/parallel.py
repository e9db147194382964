"""Several processes, on one machine or many, that torchrun has started: each takes some rows of every batch.

All of them draw the whole batch's random numbers, hold equal weights, and add up their gradients in one
exchange a step; so a run is the same, within rounding, whatever their number, and may go on with another
number.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from streamer.models.errors import SpecError, StreamerError

_PATIENCE = timedelta(hours=1)
"""For the slowest process, which may still be reading audio where the others have it in their cache."""


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and tells."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """The rows of a batch that this process takes; raise `SpecError` where they cannot be shared out."""
        if batch % self.size:
            raise SpecError(f"batch is {batch}: it must be a multiple of the {self.size} processes")
        own = batch // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, in place, by their mean over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(
            tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(mean.view_as(tensor))

    def of_first(self, value: float, device: torch.device) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, 0)
        return float(shared.item())

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes (B, ...), in the order of the batch."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun has started this process in; a world of one without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def find_device(name: str) -> torch.device:
    """The device to train on: cpu, cuda (this process's share of the GPUs), or "auto".

    Raises `StreamerError` for what is not there.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if chosen not in ("cpu", "cuda") or (chosen == "cuda" and not torch.cuda.is_available()):
        raise StreamerError(
            f"device {name!r} cannot be used here: choose cpu{', cuda' * torch.cuda.is_available()}"
        )
    if chosen == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
