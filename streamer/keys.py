"""Keys of the terminal, one at a time and without Enter, read in a thread of their own.

    with Keys(sys.stdin.fileno(), press):        press("up"), press("q"), press("space"), ...
        ...

The terminal is as it was again when the block is left, and at the latest when the program ends.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import termios
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_COMING = re.compile(r"\x1b([\[O][0-9;]*)?")
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|\x1b(?:[\[O][0-9;]*)?\Z|.", re.DOTALL)
"""The whole sequence of a special key, one that is still coming, or any other character."""


class Keys:
    """Calls `press` with each key, by name ("up", "down", "left", "right", "space") or as its character.

    Ctrl-C goes on interrupting.

    Args:
        terminal: the file descriptor of a terminal.
        press: called in the reading thread; must not raise.
    """

    def __init__(self, terminal: int, press: Callable[[str], None]) -> None:
        self._terminal, self._press = terminal, press
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._read, name="streamer-keys", daemon=True)

    def __enter__(self) -> Keys:
        self._before = termios.tcgetattr(self._terminal)
        atexit.register(self._restore)
        tty.setcbreak(self._terminal)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._stopped)
        self._restore()
        atexit.unregister(self._restore)

    def _restore(self) -> None:
        with suppress(termios.error):  # the terminal's window was closed
            termios.tcsetattr(self._terminal, termios.TCSANOW, self._before)

    def _read(self) -> None:
        rest = ""
        while True:
            ready, _, _ = select.select([self._terminal, self._stopped], [], [])
            if self._stopped in ready:
                return
            try:
                sent = os.read(self._terminal, 64)
            except OSError:  # the terminal's window was closed
                return
            if not sent:
                return
            keys, rest = keys_in(rest + sent.decode(errors="replace"))
            for key in keys:
                self._press(key)


def keys_in(text: str) -> tuple[list[str], str]:
    """The keys that a terminal has sent, and the beginning of one that is still coming."""
    parts = _KEY.findall(text)
    rest = parts.pop() if parts and _COMING.fullmatch(parts[-1]) else ""
    return [_name(part) for part in parts], rest


def _name(part: str) -> str:
    if part == " ":
        return "space"
    return _ARROWS.get(part[-1], part) if part[0] == "\x1b" else part
