"""What commands say to whoever types them, and how they end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(line: str) -> None:
    """Say a line on standard output, at once."""
    print(line, flush=True)


def say_aside(line: str) -> None:
    """Say a line on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def say_if_compiling(architecture: str, tell: Callable[[str], None] = say) -> bool:
    """Say that an architecture's kernels will be compiled, where they have not been; whether to be kept."""
    from streamer.kernels import cache

    if cache.compiled_already(f"voice-{architecture}"):
        return False
    kept = cache.usable_folder() is not None
    often = "once" if kept else "at every start, for nothing can be kept"
    tell(f"Compiling the {architecture} kernels for this machine; {often}, about 20 s ...")
    return kept


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """While kernels may be compiled, Ctrl-C ends the process at once: LLVM swallows a KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress_bar(what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar on standard error, where that is a terminal; what it gives is told the seconds that are done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=seconds)
        yield lambda done: bar.update(task, completed=done)
