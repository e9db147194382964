"""The whole instrument over a real sound server: what is heard is what the model wrote, whatever happens."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile as sf
from jackrig import JackServer, Recorder
from midi_rig import midi_output
from numpy.typing import NDArray
from osc_rig import at, encode
from playing import (
    MODEL_RATE,
    PATIENCE,
    Player,
    new_voice,
    save_models,
    sound_of,
    tape_of,
    wait_for,
    wait_heard,
)

from streamer.cues import Entry
from streamer.engine import Engine
from streamer.generator import LANES
from streamer.lanes import SET
from streamer.library import Library
from streamer.mixer import FADE_SECONDS, Mixer, compiled_callback
from streamer.models.checkpoint import Checkpoint

SEED = 5
FADE = round(FADE_SECONDS * MODEL_RATE)
CROSSFADE = round(0.05 * MODEL_RATE)
Floats = NDArray[np.float32]


@dataclass
class Stage:
    """A sound server, a model folder, and a folder for what is recorded."""

    server: JackServer
    models: Path
    scratch: Path

    @contextmanager
    def perform(
        self, model: str, *options: str, script: str = "", channels: int = 1
    ) -> Iterator[tuple[Player, Recorder]]:
        """`streamer play` into a recorder; both end with the block."""
        arguments = [model, "--device", "recorder", "--seed", str(SEED), *options]
        with (
            Recorder(self.server, self.scratch, channels=channels) as recorder,
            Player(self.scratch, self.models, self.server, arguments, script) as player,
        ):
            yield player, recorder

    def fail(self, *arguments: str) -> str:
        """`streamer play` that does not get as far as playing: what it complains about."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "streamer", "play", *arguments],
            env={**self.server.environment, "STREAMER_MODELS": str(self.models)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        return done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Checkpoint]:
    """What is in the model folder, besides a damaged file; compiled, so that no performer waits for that."""
    saved = save_models(folder)
    whole = (folder / "wave.safetensors").read_bytes()
    (folder / "torn.safetensors").write_bytes(whole[:-1000])
    for model in saved.values():
        new_voice(model, 1.0).warm()
    Mixer(MODEL_RATE, 1)
    compiled_callback()
    return saved


@pytest.fixture
def stage(
    request: pytest.FixtureRequest,
    jack_server: JackServer,
    tmp_path: Path,
    folder: Path,
    models: dict[str, Checkpoint],
) -> Iterator[Stage]:
    """A stage at the models' rate, where samples pass bit for bit, or at the rate that a test asks for."""
    jack_server.stop()
    with JackServer(tmp_path, getattr(request, "param", MODEL_RATE)) as server:
        yield Stage(server, folder, tmp_path)


def find(sound: Floats, piece: Floats) -> int:
    """Where a piece lies in a sound, bit for bit; -1 where it does not."""
    for start in np.flatnonzero(sound[: len(sound) - len(piece) + 1] == piece[0]):
        if np.array_equal(sound[start : start + len(piece)], piece):
            return int(start)
    return -1


def assert_follows(recorder: Recorder, sound: Floats, tape: Floats, fades: int, gain: float = 1.0) -> None:
    """No sample is skipped or repeated: frame by frame the sound is the tape's, faded so many times at most.

    Where the server lost blocks on the way to the recorder, what is left must still be pieces of the tape in
    their order.
    """
    assert len(sound) > 4 * FADE
    if recorder.xruns:
        assert_pieces(sound, tape)
        return
    share = sound / tape[: len(sound)]
    assert share.min() > 0
    assert share.max() <= gain
    assert np.count_nonzero(share != gain) <= fades * FADE


def assert_pieces(sound: Floats, tape: Floats) -> None:
    """What is heard are pieces of the tape in their order."""
    pieces = [sound[first : first + FADE] for first in range(0, len(sound) - FADE, FADE)]
    places = [place for piece in pieces if (place := find(tape, piece)) >= 0]
    assert places == sorted(places)
    assert len(places) > len(pieces) / 2


def written(model: Checkpoint, frames: int, **controls: float) -> Floats:
    """What is heard of a model with the performance's seed, unfaded: a little more than so many frames.

    Of the very first sample nothing is left by the fade from silence.
    """
    return tape_of(model, frames / MODEL_RATE + 0.1, **{"seed": SEED, **controls})[1:]


def underruns_of(player: Player) -> int:
    """How many underruns the last status line of a performance that has ended counts."""
    return int(re.findall(r"(\d+) underruns", player.said)[-1])


def wait_silent(recorder: Recorder) -> None:
    """Waits until the end of what has been recorded is silent."""
    wait_for(lambda: not recorder.sound()[-10 * FADE :].any(), "silence")


def rendered(model: Checkpoint, rate: int, frames: int) -> Floats:
    """What the same instrument gives without a device."""
    engine = Engine("wave", model, Library(), rate=rate, channels=1, values={"seed": SEED, "lead": 9.0})
    engine.fill()
    sound = engine.mixer.render(frames + 1)[:, 0]
    return sound[sound != 0]


# --- what is heard ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "name"), [(MODEL_RATE, "wave"), (MODEL_RATE, "rnn"), (48_000, "wave")], indirect=["stage"]
)
def test_what_is_heard_is_what_the_model_writes(
    stage: Stage, models: dict[str, Checkpoint], name: str
) -> None:
    rate = stage.server.rate
    with stage.perform(name) as (player, recorder):
        wait_heard(recorder, rate)
    sound = sound_of(recorder)
    fades = 1 + 2 * underruns_of(player)
    assert_follows(recorder, sound, rendered(models[name], rate, len(sound)), fades * rate // MODEL_RATE)


def test_a_busy_python_thread_costs_nothing(stage: Stage, models: dict[str, Checkpoint]) -> None:
    script = (
        "import threading\n"
        "def busy():\n"
        "    while True:\n"
        "        sum(range(1000))\n"
        "threading.Thread(target=busy, daemon=True).start()\n"
    )
    with stage.perform("wave", script=script) as (player, recorder):
        wait_heard(recorder, 3 * MODEL_RATE)
        assert player.status()["underruns"] == 0
    sound = sound_of(recorder)
    assert_follows(recorder, sound, written(models["wave"], len(sound)), fades=2)


def test_bad_packets_by_the_ten_thousand_change_nothing(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave") as (player, recorder):
        for batch in np.array_split(np.arange(10_000), 200):
            for number in batch:
                player.osc.raw(bad_packet(int(number)))
            player.osc.send("/streamer/ping")
            player.osc.expect("/streamer/pong")
        status = player.status()
        assert int(str(status["osc_unreadable"])) + int(str(status["osc_refused"])) > 9_000
        wait_heard(recorder, MODEL_RATE // 10)
    sound, fades = sound_of(recorder), 2 + 2 * underruns_of(player)
    assert_follows(recorder, sound, written(models["wave"], len(sound)), fades)


def bad_packet(number: int) -> bytes:
    """Random bytes, a sound message cut short, the wrong type, an unknown address, or 60 kB."""
    draw = random.Random(number)
    match number % 5:
        case 0:
            return draw.randbytes(draw.randrange(200))
        case 1:
            packet = encode("/streamer/temperature", 0.1)
            return packet[: draw.randrange(len(packet))]
        case 2:
            return encode("/streamer/temperature", draw.choice(["loud", b"\1\2\3", None]))
        case 3:
            return encode("/streamer/" + "x" * draw.randrange(500), 1.0)
        case _:
            return encode("/streamer/model", "x" * 60_000) if number % 100 == 4 else b"#bundle\0" + bytes(11)


# --- the score ----------------------------------------------------------------------------------------------


def play_an_evening(player: Player, recorder: Recorder) -> None:
    """Gestures, ramps, a timed bundle, another voice and another model."""

    def go_on(seconds: float) -> None:
        wait_heard(recorder, round(seconds * MODEL_RATE))

    osc = player.osc
    go_on(0.2)
    for step in range(30):
        osc.send("/streamer/voice/1/temperature", 0.5 + step / 60)
        go_on(0.01)
    assert int(str(player.status()["rewinds"])) > 10
    osc.send("/streamer/voice/1/temperature/ramp", 0.4, 0.3)
    osc.send("/streamer/voice/1/pan/ramp", -0.7, 0.2)
    soon = [encode("/streamer/voice/1/gain", 0.5), encode("/streamer/voice/1/centre", 1.5)]
    osc.raw(at(time.time() + 0.3, *soon))
    assert player.order("/streamer/voice/add", "rnn", "second", "gain", 0.25, "pan", 0.9) == ""
    go_on(0.3)
    osc.send("/streamer/voice/second/speed/ramp", 1.5, 0.2)
    osc.send("/streamer/voice/1/temperature/drift", 0.2, 0.5)
    go_on(0.2)
    assert player.order("/streamer/voice/1/model", "rnn") == ""
    osc.send("/streamer/voice/second/freeze", 1)
    go_on(0.2)
    osc.send("/streamer/voice/second/remove")
    osc.send("/streamer/volume", 0.7)
    go_on(0.2)


def test_a_score_is_rendered_as_it_was_heard_bit_for_bit(stage: Stage, models: dict[str, Checkpoint]) -> None:
    score, again = stage.scratch / "evening.score", stage.scratch / "again.wav"
    with stage.perform("wave", "--score", str(score), channels=2) as (player, recorder):
        play_an_evening(player, recorder)
        status = player.status()
    assert (status["underruns"], status["refused"], status["late"]) == (0, 0, 0)
    command = [sys.executable, "-W", "error", "-m", "streamer", "render", str(again), "--score", str(score)]
    environment = {**stage.server.environment, "STREAMER_MODELS": str(stage.models)}
    subprocess.run(command, env=environment, check=True, timeout=PATIENCE)
    assert sf.info(again).subtype == "FLOAT"
    rendered = without_edges(sf.read(again, dtype="float32")[0])
    heard = without_edges(recorder.sound())
    print(recorder.xruns, "xruns", len(heard))
    if recorder.xruns:  # the recording lacks blocks: what there is must be pieces of the render
        assert_pieces(heard[:, 0], rendered[:, 0])
        return
    assert abs(len(heard) - len(rendered)) <= 1
    end = len(heard) - 2 * FADE  # of what is not faded with the device
    np.testing.assert_array_equal(heard[:end], rendered[:end])


def without_edges(sound: Floats) -> Floats:
    """From the first frame that sounds to the last."""
    loud = np.flatnonzero(sound.any(axis=1))
    return sound[loud[0] : loud[-1] + 1]


# --- controls -----------------------------------------------------------------------------------------------


def test_the_models_controls_are_heard_from_a_reset_on(stage: Stage, models: dict[str, Checkpoint]) -> None:
    settings: dict[str, float] = {"seed": 9, "temperature": 0.75, "top_p": 0.875, "top_k": 7}
    with stage.perform("wave") as (player, recorder):
        for control, value in settings.items():
            assert player.set(control, value) == value
            assert player.order("/streamer/reset", 1) == ""
            wait_heard(recorder, MODEL_RATE // 5)
    sound, begun = sound_of(recorder), 0
    for last in range(1, len(settings) + 1):
        tape = written(models["wave"], MODEL_RATE // 10, **dict(list(settings.items())[:last]))
        place = find(sound[begun:], tape[CROSSFADE : MODEL_RATE // 10])
        assert place >= 0
        begun += place


def test_a_control_is_heard_at_once_and_without_a_break(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave", "--lead", "2") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 5)
        heard = len(sound_of(recorder))
        assert player.set("temperature", 0.25) == 0.25
        wait_heard(recorder, 2 * MODEL_RATE)
    sound = sound_of(recorder)
    before = written(models["wave"], len(sound))[: len(sound)]
    changed = int(np.flatnonzero(sound[FADE:] != before[FADE:])[0]) + FADE + 1  # on the tape
    assert changed < heard + MODEL_RATE  # of two seconds that had been written
    voice = new_voice(models["wave"], len(sound) / MODEL_RATE + 0.1, seed=SEED)
    voice.cues.push([Entry(LANES["temperature"], SET, 0.25, 0, changed)])
    voice.fill()
    expected = voice.tape.read(1, len(sound))
    assert_follows(recorder, sound, expected, fades=2 + 2 * underruns_of(player))


def test_gain_is_ramped_to_the_exact_level(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave") as (player, recorder):
        for gain in (1.0, 0.5, 2.0):
            assert player.set("gain", gain) == gain
            wait_heard(recorder, MODEL_RATE // 5)
        assert player.set("gain", 0) == 0
        wait_silent(recorder)
        heard = len(sound_of(recorder))
        assert player.set("gain", 1) == 1
        wait_heard(recorder, MODEL_RATE // 10)
    sound = sound_of(recorder)
    tape = written(models["wave"], len(recorder.sound()))
    share = sound[:heard] / tape[:heard]
    for gain in (1.0, 0.5, 2.0):
        assert np.count_nonzero(share == gain) > MODEL_RATE // 10
    assert np.abs(np.diff(share)).max() < 0.05
    # The tape went on in silence.
    assert find(tape, sound[heard + 2 * FADE : heard + 3 * FADE]) > heard + 10 * FADE


def test_play_goes_on_exactly_where_it_stopped(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave") as (player, recorder):
        for _ in range(2):
            wait_heard(recorder, MODEL_RATE // 5)
            assert player.set("play", 0) == 0
            wait_silent(recorder)
            assert player.status()["playing"] == 0
            assert player.set("play", 1) == 1
        wait_heard(recorder, MODEL_RATE // 5)
    sound, fades = sound_of(recorder), 6 + 2 * underruns_of(player)
    assert_follows(recorder, sound, written(models["wave"], len(sound)), fades)


def test_a_midi_knob_is_learnt_and_oscquery_tells_of_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JACK_DEFAULT_SERVER", "JACK_NO_START_SERVER"):
        monkeypatch.setenv(name, stage.server.environment[name])
    keeps = f"import os\nos.environ['XDG_CONFIG_HOME'] = {str(stage.scratch)!r}"
    options = ["--midi", "performer", "--oscquery-port", "0"]
    with stage.perform("wave", *options, script=keeps) as (player, recorder), knobs("performer") as turn:
        page = player.wait_said(r"OSCQuery at (\S+)")[1]
        wait_heard(recorder, MODEL_RATE // 10)
        with turning(partial(turn, 7, 0)):
            assert player.order("/streamer/midi/learn", 1, "gain") == ""
        turn(7, 127)
        wait_for(lambda: value_of(f"{page}/voice/1/gain") == 2.0, "a knob turned all the way up")


@contextmanager
def knobs(name: str) -> Iterator[Callable[[int, int], None]]:
    """A MIDI controller; yields what turns a knob of channel 1 to a value."""
    device = midi_output(name)
    yield lambda number, value: device.send_message([0xB0, number, value])
    device.close_port()
    device.delete()


@contextmanager
def turning(turn: Callable[[], None]) -> Iterator[None]:
    """Somebody turns a knob again and again: when a lesson has begun cannot be seen."""
    learnt = threading.Event()

    def go_on() -> None:
        while not learnt.wait(0.05):
            turn()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        learnt.set()
        thread.join()


def value_of(address: str) -> float:
    """What OSCQuery says of a control."""
    with urlopen(f"{address}?VALUE", timeout=PATIENCE) as answer:
        return float(json.load(answer)["VALUE"][0])


def test_a_bad_model_changes_nothing(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 5)
        for wrong, reason in (("flute", "flute"), ("torn", "truncated"), ("../models/wave", "no model")):
            assert reason in player.order("/streamer/model", wrong)
        assert player.status(1)["model"] == "wave"
        wait_heard(recorder, MODEL_RATE // 5)
    sound, fades = sound_of(recorder), 2 + 2 * underruns_of(player)
    assert_follows(recorder, sound, written(models["wave"], len(sound)), fades)


def test_status_says_what_a_performer_watches(stage: Stage) -> None:
    with stage.perform("rnn") as (player, recorder):
        wait_heard(recorder, MODEL_RATE)
        status, own = player.status(), player.status(1)
    assert status["voices"] == status["playing"] == 1
    assert status["device_rate"] == MODEL_RATE
    assert status["device_rate_measured"] == pytest.approx(MODEL_RATE, rel=0.02)
    assert 100 < float(str(status["buffer_ms"])) <= float(str(status["lead_ms"])) == 2000
    assert float(str(status["realtime_factor"])) > 1
    assert status["underruns"] == 0
    assert (own["model"], own["precision"]) == ("rnn", "fp32")
    assert own["threads"] in (1, 2)
    assert re.search(r"^Playing rnn \(samplernn, .*; fp32, \d threads?\) on ", player.said, re.MULTILINE)
    assert "to measure it: streamer price MODEL AUDIO" in player.said
    assert re.search(
        r"buffer \d+ ms \| margin [\d.]+ ms \| [\d.]+x real time \| \d+ underruns \| 16000 Hz, measured",
        player.said,
    )


# --- the end ------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_at_once_with_a_fade(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 2)
        assert player.interrupt() < 1.0
    sound = sound_of(recorder)
    share = sound / written(models["wave"], len(sound))[: len(sound)]
    last = share[-FADE + 1 :]
    assert share[-FADE - 1] == 1
    assert (np.diff(last) < 0).all()
    assert last[-1] < 0.001


def test_a_sound_server_that_dies_is_said_and_survived(stage: Stage) -> None:
    with stage.perform("wave") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 5)
        stage.server.process.kill()
        player.wait_said("recorder has gone")
        player.osc.send("/streamer/ping")
        player.osc.expect("/streamer/pong")
        assert player.interrupt() < 3.0


def test_a_lost_device_and_the_live_input_come_back(stage: Stage) -> None:
    with stage.perform("wave", "--input", "system") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 5)
        assert player.order("/streamer/voice/1/prime", "input", 0.1) == ""
        stage.server.process.send_signal(signal.SIGSTOP)
        player.wait_said("recorder has gone")
        assert "not heard any more" in player.order("/streamer/voice/1/prime", "input", 0.1)
        stage.server.process.send_signal(signal.SIGCONT)
        player.wait_said("recorder is back")
        wait_for(lambda: player.order("/streamer/voice/1/prime", "input", 0.1) == "", "the input")
        wait_heard(recorder, MODEL_RATE // 5)


# --- the terminal -------------------------------------------------------------------------------------------

# A shell that runs one job in the foreground, takes the terminal back at SIGUSR1, and ends as the job does.
SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda *_: os.tcsetpgrp(0, os.getpgrp()))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]))
"""


class Terminal:
    """A terminal on which `streamer play` runs in the foreground, and what it has shown."""

    def __init__(self, stage: Stage) -> None:
        models = {"STREAMER_MODELS": str(stage.models)}
        self._environment = {**stage.server.environment, **models, "TERM": "xterm"}
        self.shown = b""

    def __enter__(self) -> Terminal:
        self.keyboard, screen = pty.openpty()
        self.modes = termios.tcgetattr(screen)
        play = [sys.executable, "-W", "error", "-m", "streamer", "play", "wave"]
        self._shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, *play, "--osc-port", "0", "--device", "recorder"],
            env=self._environment,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )
        self.screen = screen
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_for(lambda: b"real time" in self.shown, "the view")
        except AssertionError:
            self.__exit__()
            raise
        self.job = os.tcgetpgrp(self.keyboard)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shell.poll() is None:
            os.kill(os.tcgetpgrp(self.keyboard), signal.SIGKILL)
            self._shell.kill()
            self._shell.wait()
        os.close(self.screen)
        self._reader.join()
        os.close(self.keyboard)

    def type(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def take_back(self) -> None:
        """Put the job into the background."""
        self._shell.send_signal(signal.SIGUSR1)
        wait_for(lambda: os.tcgetpgrp(self.keyboard) != self.job, "the shell")

    def assert_left(self) -> None:
        """The job ends well, and the terminal is as it was."""
        assert self._shell.wait(PATIENCE) == 0
        wait_for(lambda: b"\x1b[?1049l" in self.shown, "the view's end")
        assert b"Traceback" not in self.shown
        assert termios.tcgetattr(self.screen) == self.modes

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the screen open any more
            while data := os.read(self.keyboard, 4096):
                self.shown += data


@pytest.mark.parametrize("way", ["ctrl-c", "q", "kill", "ctrl-c where the server has died"])
def test_the_terminal_is_left_as_it_was(stage: Stage, way: str) -> None:
    with Recorder(stage.server, stage.scratch) as recorder, Terminal(stage) as terminal:
        wait_heard(recorder, MODEL_RATE // 5)
        if "died" in way:
            stage.server.process.kill()
            wait_for(lambda: b"recorder has gone" in terminal.shown, "the loss")
        if way == "kill":
            os.kill(terminal.job, signal.SIGTERM)
        else:
            terminal.type(b"q" if way == "q" else b"\x03")
        terminal.assert_left()


def test_a_job_that_was_put_into_the_background_plays_on(stage: Stage) -> None:
    with Recorder(stage.server, stage.scratch) as recorder, Terminal(stage) as terminal:
        wait_heard(recorder, MODEL_RATE // 5)
        terminal.take_back()
        terminal.type(b"q\n")  # to another
        wait_heard(recorder, MODEL_RATE // 2)
        os.kill(terminal.job, signal.SIGINT)
        terminal.assert_left()


# --- what cannot begin --------------------------------------------------------------------------------------


def test_what_cannot_be_played_is_one_line_and_exit_code_2(stage: Stage) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy,
        Recorder(stage.server, stage.scratch),
    ):
        busy.bind(("127.0.0.1", 0))
        port = str(busy.getsockname()[1])
        for arguments, remedy in (
            (["wave", "--osc-port", port], "--osc-port"),
            (["wave", "--device", "moog"], "recorder"),
            (["flute"], "rnn, techno, torn"),
            (["torn"], "truncated"),
            ([str(stage.models / "none.safetensors")], "no such file"),
            (["wave", "--rate", "12345"], "16000 Hz"),
            (["wave", "--input", "theremin"], "input"),
            (["wave", "--score", str(stage.models / "wave.safetensors")], "is there already"),
        ):
            complaint = stage.fail(*arguments)
            assert complaint.startswith("streamer: ")
            assert complaint.count("\n") == 1
            assert remedy in complaint
