"""The terminal view: what it draws of a real engine, and what its keys do to it."""

import io
import os
import pty
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from draws import write_model
from numpy.typing import NDArray
from rich.console import Console

from streamer.cues import Cue
from streamer.engine import Engine
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import CheckpointError, StreamerError
from streamer.models.specs import WaveNetSpec
from streamer.view import View, meter

RATE = 16000
SPEC = WaveNetSpec(dilations=(1, 2), residual=4, gate=4, skip=4, output=4, levels=16)


class Shelf:
    """Two models of the same kind, and one that is damaged."""

    def __init__(self, folder: Path) -> None:
        self.models = {
            name: write_model(folder / f"{name}.safetensors", SPEC) for name in ("first", "second")
        }

    def names(self) -> Sequence[str]:
        return [*self.models, "third"]

    def load(self, name: str) -> Checkpoint:
        if name in self.models:
            return self.models[name]
        raise CheckpointError("it is damaged: get a new copy")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    shelf = Shelf(tmp_path)
    engine = Engine("first", shelf.models["first"], shelf, rate=RATE, channels=1, values={"temperature": 1.0})
    engine.start()
    wait_for(lambda: is_there(engine, 1))
    yield engine
    assert engine.close()


class Desk:
    """A view on a console in memory, and what it was asked to do beside the engine."""

    def __init__(
        self, engine: Engine, sound: NDArray[np.float32] | None = None, size: tuple[int, int] = (100, 40)
    ) -> None:
        self.console = Console(record=True, width=size[0], height=size[1], file=io.StringIO())
        self.quits = 0
        source = None if sound is None else (sound, RATE)
        self.view = View(engine, self.console, lambda: source, self._quit)
        engine.listen(self.view)

    def _quit(self) -> None:
        self.quits += 1

    def text(self) -> str:
        return self.view.draw().plain

    def press(self, *keys: str) -> None:
        for key in keys:
            self.view.press(key)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_there(engine: Engine, voice: int) -> bool:
    """Whether a voice plays, and is not still being loaded."""
    with suppress(StreamerError):
        return bool(engine.voice_status(voice))
    return False


def test_it_shows_the_whole_the_voice_its_controls_and_the_keys(engine: Engine) -> None:
    text = Desk(engine).text()
    status = engine.voice_status(1)
    for part in (
        "volume 1.00",
        "lead ",
        "margin ",
        "buffer ",
        "real time",
        "underruns 0",
        "late 0",
        "1 of 1 play",
    ):
        assert part in text
    for part in (f"▸ 1 {status['name']}", "first fp32", "silent", "temperature 1 ", "freeze off", "loop 1 s"):
        assert part in text
    assert "q quit" in text


def test_what_is_drawn_is_what_is_printed(engine: Engine) -> None:
    tape = engine.voice(1).tape
    wait_for(lambda: tape.lead == tape.target)
    desk = Desk(engine)
    desk.console.print(desk.view.draw())
    assert desk.console.export_text().split() == desk.text().split()


def test_keys_move_the_controls_of_the_voice(engine: Engine) -> None:
    desk = Desk(engine)
    desk.press("up", "up", "down")
    assert engine.get("temperature", 1) == pytest.approx(1.05)
    desk.press("G")
    assert engine.get("gain", 1) > 1
    desk.press("g", "g")
    assert engine.get("gain", 1) < 1
    desk.press("f")
    assert engine.get("freeze", 1) is True
    desk.press("f")
    assert engine.get("freeze", 1) is False
    for _ in range(50):
        desk.press("up")
    assert engine.get("temperature", 1) == 2.0


def test_space_pauses_all_and_plays_all(engine: Engine) -> None:
    desk = Desk(engine)
    second = engine.add_voice("first")
    wait_for(lambda: is_there(engine, second))
    engine.perform([Cue(1, "play", False)])
    desk.press("space")  # one plays still
    assert [engine.get("play", voice) for voice in (1, second)] == [False, False]
    assert "paused" in desk.text()
    assert "0 of 2 play" in desk.text()
    desk.press("space")
    assert [engine.get("play", voice) for voice in (1, second)] == [True, True]
    assert "paused" not in desk.text()


def test_arrows_choose_the_voice_that_keys_move(engine: Engine) -> None:
    desk = Desk(engine)
    second = engine.add_voice("first", "choir")
    assert " 2 " in desk.text()  # also while it is loaded
    wait_for(lambda: is_there(engine, second))
    before = float(engine.get("temperature", second))
    desk.press("right", "up")
    assert engine.get("temperature", 1) == 1.0
    assert engine.get("temperature", second) == pytest.approx(before + 0.05)
    assert "▸ 2 choir" in desk.text()
    desk.press("right")
    assert "▸ 1 " in desk.text()
    desk.press("left")
    assert "▸ 2 choir" in desk.text()
    engine.remove_voice(second)
    wait_for(lambda: second not in engine.voices())
    desk.press("up")  # who is left is chosen
    assert engine.get("temperature", 1) == pytest.approx(1.05)
    assert "▸ 1 " in desk.text()


def test_without_a_voice_it_says_so(engine: Engine) -> None:
    desk = Desk(engine)
    engine.remove_voice(1)
    wait_for(lambda: not engine.voices())
    desk.press("up", "space", "left", "m", "f")
    assert "there is no voice: add one first" in desk.text()


def test_the_next_model_is_loaded_and_a_failure_is_shown(engine: Engine) -> None:
    desk = Desk(engine)
    desk.press("m")
    wait_for(lambda: "voice 1 model second" in desk.text())
    assert engine.get("model", 1) == "second"
    desk.press("m")
    wait_for(lambda: "voice 1 model third: it is damaged: get a new copy" in desk.text())
    assert engine.get("model", 1) == "second"
    desk.press("M")
    wait_for(lambda: engine.get("model", 1) == "first")


def test_panic_quit_and_hints(engine: Engine) -> None:
    desk = Desk(engine)
    desk.press("p")
    assert engine.get("play", 1) is False
    desk.press("q")
    assert desk.quits == 1
    desk.press("?")
    assert "q quit" not in desk.text()
    desk.press("?", "x", "\x1b", "home")
    assert "q quit" in desk.text()


def test_changes_by_others_are_shown_and_of_a_gesture_the_last(engine: Engine) -> None:
    desk = Desk(engine)
    for step in range(100):
        engine.perform([Cue(1, "gain", step / 100)])
    engine.perform([Cue(0, "volume", 0.25)])
    text = desk.text()
    assert "voice 1 gain 0.99" in text
    assert "voice 1 gain 0.98" not in text
    assert "  volume 0.25" in text
    desk.view.note("the recording of the score has stopped", "red")
    assert "the recording of the score has stopped" in desk.text()


def test_the_spectrum_has_a_peak_where_the_sound_has(engine: Engine) -> None:
    sine = np.sin(2 * np.pi * 1000 * np.arange(800) / RATE).astype(np.float32)
    quiet, loud = Desk(engine).text(), Desk(engine, sine).text()
    assert "█" not in quiet
    columns = {line.index("█") for line in loud.splitlines() if "█" in line}
    # 1000 Hz among 100 columns from 40 to 8000 Hz
    assert min(columns) <= 100 * np.log(1000 / 40) / np.log(8000 / 40) <= max(columns) + 6


@pytest.mark.parametrize("size", [(100, 40), (80, 24), (40, 12), (20, 5), (1, 1)])
def test_it_fits_any_terminal(engine: Engine, size: tuple[int, int]) -> None:
    desk = Desk(engine, np.ones(800, np.float32), size)
    assert len(desk.text().splitlines()) <= size[1]


@pytest.mark.parametrize(
    ("peak", "rms", "words", "style"),
    [
        (0.0, 0.0, "silent", "green"),
        (0.1, 0.05, "-20.0 dB", "green"),
        (0.5, 0.3, "-6.0 dB", "yellow"),
        (1.0, 0.7, "0.0 dB", "red"),
        (4.0, 2.0, "12.0 dB", "red"),
    ],
)
def test_a_meter_is_as_long_as_the_sound_is_loud(peak: float, rms: float, words: str, style: str) -> None:
    drawn = meter(peak, rms)
    assert words in drawn.plain
    assert len(drawn.plain) == len(meter(0, 0).plain)
    assert drawn.spans[0].style == style
    assert ("│" in drawn.plain) == (peak > 0)
    assert meter(1, rms).plain.count("█") <= meter(1, 2 * rms).plain.count("█")


def test_the_screen_is_given_back_whatever_happens(engine: Engine) -> None:
    keyboard, screen = pty.openpty()
    file = os.fdopen(screen, "w")
    console = Console(file=file, force_terminal=True, width=80, height=24)

    def read_to(mark: bytes) -> bytes:
        shown = b""
        while mark not in shown:
            shown += os.read(keyboard, 65536)
        return shown

    def play() -> None:
        with View(engine, console, lambda: None, lambda: None):
            assert b"\x1b[?1049h" in read_to(b"temperature")  # another screen
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play()
    file.close()
    read_to(b"\x1b[?1049l")  # the one as it was before
    os.close(keyboard)
