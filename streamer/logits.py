"""`streamer logits`: what a model says of each of the codes that it is given, from its first state on."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamer.console import say
from streamer.kernels.stepper import Stepper
from streamer.library import open_model
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.numbers import codes_from, condition_from
from streamer.precision import choose, has_dot_product

_BLOCK_LOGITS = 2**22
"""Logits computed between two writes."""


def run(options: argparse.Namespace) -> int:
    """Write the logits that the command line asks for."""
    name, model = open_model(options.model)
    codes = codes_from(options.codes)
    write(
        options.out,
        model,
        codes,
        history=None if options.history is None else codes_from(options.history),
        condition=None if options.condition is None else condition_from(options.condition),
        precision=choose(options.precision, model, has_dot_product()),
    )
    say(f"{options.out}: row k of {len(codes)} is what {name} says of code k before it sees it.")
    return 0


def write(
    path: Path,
    model: Checkpoint,
    codes: NDArray[np.int64],
    *,
    history: NDArray[np.int64] | None = None,
    condition: int | ArrayLike | None = None,
    precision: str = "fp32",
) -> None:
    """Write logits (T, Q) for codes (T,) to a .npy file, whole or not at all.

    Row k is what the model says of codes[k] before it sees it. history: codes that lie before codes[0], as
    `Stepper.precede` takes them. condition: for models that take one. Raises `StreamerError`.
    """
    if not len(codes):
        raise StreamerError("there are no codes: give at least one")
    stepper = Stepper(model.spec, model.tensors, condition, precision=precision)
    try:
        if history is not None:
            stepper.precede(history)
        block = max(1, _BLOCK_LOGITS // model.spec.levels)
        with _whole(path, (len(codes), model.spec.levels)) as rows:
            for start in range(0, len(codes), block):
                part = codes[start : start + block]
                rows[start : start + len(part)] = stepper.teacher_forced(part)
    except ValueError as error:  # codes that the model does not have
        raise StreamerError(str(error)) from None


@contextmanager
def _whole(path: Path, shape: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    """An array that appears under its name when all of it is there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        rows = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        yield rows
        rows.flush()
        os.replace(temporary, path)
    except OSError as error:
        raise StreamerError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)
