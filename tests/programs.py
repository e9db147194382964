"""Performers' own programs, headless, for tests: started, listened to, and ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import pytest

PATIENCE = 60.0
"""Seconds that anything may take before a test fails: a player may have to compile its kernels."""


def find_program(name: str, package: str) -> str:
    """Where a program is; without it the test is skipped, but fails in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


class Program:
    """A process with a home of its own, and all that it prints. It is killed where the block ends.

    Args:
        command: with its arguments. home: a folder for what it keeps, and for the transcript.
        environment: in which it runs; this one's by default.
    """

    def __init__(self, command: list[str], home: Path, environment: Mapping[str, str] = os.environ) -> None:
        places = dict.fromkeys(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"], str(home))
        quiet = {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1"}
        self._command, self._environment = command, {**environment, **places, **quiet}
        self._log = home / "transcript.txt"

    def __enter__(self) -> Program:
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        """All that it has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_said(self, text: str) -> str:
        """Wait until it has printed this; return all that it printed."""
        self.wait_for(lambda: text in self.said, repr(text))
        return self.said

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something has happened, which a program that has ended cannot bring about."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            over = self.process.poll() is not None or time.monotonic() > deadline
            assert not over or condition(), f"{self._command[0]}: {what} did not happen:\n{self.said[-3000:]}"
            time.sleep(0.02)
