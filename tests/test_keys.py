"""Keys of a terminal: each is told at once, by name, and the terminal is afterwards as it was."""

import os
import pty
import queue
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest

from streamer.keys import Keys, keys_in


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The keyboard's end and the program's end of a terminal."""
    keyboard, screen = pty.openpty()
    yield keyboard, screen
    os.close(screen)
    os.close(keyboard)


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("", []),
        ("q", ["q"]),
        (" gG?", ["space", "g", "G", "?"]),
        ("\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        ("\x1bOA\x1bOD", ["up", "left"]),
        ("\x1b[1;5Cq", ["right", "q"]),
        ("\x1bq", ["\x1b", "q"]),
        ("ä\n", ["ä", "\n"]),
    ],
)
def test_keys_have_names(sent: str, keys: list[str]) -> None:
    assert keys_in(sent) == (keys, "")


@pytest.mark.parametrize("key", ["\x1b[A", "\x1bOB", "\x1b[1;5C"])
def test_a_key_that_comes_in_parts_is_one_key(key: str) -> None:
    for cut in range(1, len(key)):
        keys, rest = keys_in("x" + key[:cut])
        assert (keys, rest) == (["x"], key[:cut])
        assert keys_in(rest + key[cut:]) == keys_in(key)


def test_keys_are_told_at_once_and_not_shown(terminal: tuple[int, int]) -> None:
    keyboard, screen = terminal
    before = termios.tcgetattr(screen)
    pressed: queue.Queue[str] = queue.Queue()
    with Keys(screen, pressed.put):
        os.write(keyboard, b"q\x1b[A ")  # and no Enter
        assert [pressed.get(timeout=20) for _ in range(3)] == ["q", "up", "space"]
        modes = termios.tcgetattr(screen)[3]
        assert not modes & (termios.ICANON | termios.ECHO)
        assert modes & termios.ISIG  # Ctrl-C goes on interrupting
    assert termios.tcgetattr(screen) == before


def test_the_terminal_is_as_it_was_after_an_error(terminal: tuple[int, int]) -> None:
    _, screen = terminal
    before = termios.tcgetattr(screen)
    with pytest.raises(ZeroDivisionError), Keys(screen, print):
        _ = 1 / 0
    assert termios.tcgetattr(screen) == before


def test_the_terminal_is_as_it_was_after_a_program_that_did_not_mind(terminal: tuple[int, int]) -> None:
    _, screen = terminal
    before = termios.tcgetattr(screen)
    program = """
import sys, termios
from streamer.keys import Keys
Keys(0, print).__enter__()
print(bool(termios.tcgetattr(0)[3] & termios.ICANON))
sys.exit(3)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, stdin=screen, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "False\n", "")
    assert termios.tcgetattr(screen) == before


def test_a_terminal_that_is_closed_ends_the_reading() -> None:
    keyboard, screen = pty.openpty()
    keys = Keys(screen, print)
    with keys:
        os.close(keyboard)
        keys._thread.join(20)
        assert not keys._thread.is_alive()
    os.close(screen)
