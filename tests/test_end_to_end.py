"""The whole instrument over a real sound server: what is heard is what the model wrote, whatever happens."""

from __future__ import annotations

import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jackrig import JackServer, Recorder
from numpy.typing import NDArray
from osc_rig import encode
from playing import MODEL_RATE, Player, new_voice, save_models, sound_of, tape_of, wait_for, wait_heard

from streamer.engine import Engine
from streamer.library import Library
from streamer.models.checkpoint import Checkpoint
from streamer.playhead import FADE_SECONDS, PlayHead

SEED = 5
FADE = round(FADE_SECONDS * MODEL_RATE)
Floats = NDArray[np.float32]


@dataclass
class Stage:
    """A sound server, a model folder, and a folder for what is recorded."""

    server: JackServer
    models: Path
    scratch: Path

    @contextmanager
    def perform(self, model: str, *options: str, script: str = "") -> Iterator[tuple[Player, Recorder]]:
        """`streamer play` into a recorder; both end with the block. The lead is that of a cautious
        performer."""
        arguments = [model, "--device", "recorder", "--seed", str(SEED), "--lead", "1000", *options]
        with (
            Recorder(self.server, self.scratch) as recorder,
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
        voice = new_voice(model, 1.0)
        voice.warm()
        PlayHead(voice.tape, MODEL_RATE)
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
        pieces = [sound[at : at + FADE] for at in range(0, len(sound) - FADE, FADE)]
        places = [place for piece in pieces if (place := find(tape, piece)) >= 0]
        assert places == sorted(places)
        assert len(places) > len(pieces) / 2
        return
    share = sound / tape[: len(sound)]
    assert share.min() > 0
    assert share.max() <= gain
    assert np.count_nonzero(share != gain) <= fades * FADE


def written(model: Checkpoint, frames: int, **controls: float) -> Floats:
    """What a model with the performance's seed writes first: a little more than so many frames."""
    return tape_of(model, frames / MODEL_RATE + 0.1, **{"seed": SEED, **controls})


def underruns_of(player: Player) -> int:
    """How many underruns the last status line of a performance that has ended counts."""
    return int(re.findall(r"(\d+) underruns", player.said)[-1])


def wait_silent(recorder: Recorder) -> None:
    """Waits until the end of what has been recorded is silent."""
    wait_for(lambda: not recorder.sound()[-10 * FADE :].any(), "silence")


def rendered(model: Checkpoint, rate: int, frames: int) -> Floats:
    """What the same instrument gives without a device."""
    lead, controls = frames / rate + 0.1, {"seed": SEED}
    engine = Engine("wave", model, Library(), rate=rate, channels=1, lead=lead, controls=controls)
    engine.voice.fill()
    return engine.play_head.render(frames)[:, 0]


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


# --- controls -----------------------------------------------------------------------------------------------


def test_the_models_controls_are_heard_from_a_reset_on(stage: Stage, models: dict[str, Checkpoint]) -> None:
    settings: dict[str, float] = {"seed": 9, "temperature": 0.75, "top_p": 0.875, "top_k": 7}
    with stage.perform("wave") as (player, recorder):
        for control, value in settings.items():
            assert player.set(control, value) == value
            assert player.set("reset", 1) == 1
            wait_heard(recorder, MODEL_RATE // 5)
    sound, begun = sound_of(recorder), 0
    for last in range(1, len(settings) + 1):
        tape = written(models["wave"], MODEL_RATE // 10, **dict(list(settings.items())[:last]))
        place = find(sound[begun:], tape[FADE : MODEL_RATE // 10])
        assert place >= 0
        begun += place


def test_a_control_is_heard_while_playing_without_a_break(
    stage: Stage, models: dict[str, Checkpoint]
) -> None:
    with stage.perform("wave") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 5)
        assert player.set("temperature", 0.25) == 0.25
        wait_heard(recorder, 2 * MODEL_RATE)  # more than the lead, which was written before
    sound = sound_of(recorder)
    share = sound / written(models["wave"], len(sound))[: len(sound)]
    strange = int(np.flatnonzero((share <= 0) | (share > 1))[0])
    changed = int(np.flatnonzero(share[:strange] == 1)[-1]) + 1
    voice = new_voice(models["wave"], len(sound) / MODEL_RATE, seed=SEED)
    voice.tape.target = changed
    voice.fill()
    voice.set("temperature", 0.25)
    voice.tape.target = len(sound)
    voice.fill()
    assert_follows(recorder, sound, voice.tape.read(0, len(sound)), fades=2 + 2 * underruns_of(player))


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


def test_a_reset_plays_the_same_sound_again(stage: Stage, models: dict[str, Checkpoint]) -> None:
    with stage.perform("wave") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 2)
        assert player.set("reset", 1) == 1
        wait_heard(recorder, MODEL_RATE // 2)
    sound, fades = sound_of(recorder), 2 + 2 * underruns_of(player)
    tape = written(models["wave"], len(sound))
    again = 2 * FADE + find(sound[2 * FADE :], tape[FADE : 3 * FADE]) - FADE
    assert again > MODEL_RATE // 2
    assert_follows(recorder, sound[:again], tape, fades)
    assert_follows(recorder, sound[again:], tape, fades)


def test_models_follow_each_other_and_a_bad_one_changes_nothing(
    stage: Stage, models: dict[str, Checkpoint]
) -> None:
    with stage.perform("wave") as (player, recorder):
        wait_heard(recorder, MODEL_RATE // 5)
        assert player.set("model", "rnn") == "rnn"
        player.wait_said(r"Playing rnn \(samplernn, .*; fp32, \d threads?\)\.\n")
        wait_heard(recorder, MODEL_RATE // 5)
        for wrong, reason in (("flute", "flute"), ("torn", "truncated"), ("../models/wave", "no model")):
            player.osc.send("/streamer/model", wrong)
            assert reason in player.osc.refused()
        assert player.status()["model"] == "rnn"
        wait_heard(recorder, MODEL_RATE // 5)
        assert player.set("model", "wave") == "wave"
        wait_heard(recorder, MODEL_RATE // 5)
    sound, fades = sound_of(recorder), 2 + 2 * underruns_of(player)
    tapes = {name: written(model, len(sound)) for name, model in models.items()}
    second = find(sound, tapes["rnn"][FADE : 3 * FADE]) - FADE
    third = second + find(sound[second:], tapes["wave"][FADE : 3 * FADE]) - FADE
    assert_follows(recorder, sound[:second], tapes["wave"], fades)
    assert_follows(recorder, sound[second:third], tapes["rnn"], fades)
    assert_follows(recorder, sound[third:], tapes["wave"], fades)


def test_values_are_clamped_and_wrong_ones_change_nothing(
    stage: Stage, models: dict[str, Checkpoint]
) -> None:
    with stage.perform("wave", "--gain", "0.5") as (player, recorder):
        for control, sent, taken in (
            ("gain", 7.0, 2.0),
            ("gain", -1, 0.0),
            ("gain", "0.5", 0.5),
            ("seed", 3.7, 4),
            ("seed", SEED, SEED),
            ("play", 1.0, 1),
        ):
            assert player.set(control, sent) == taken
        for control, wrong, reason in (
            ("temperature", "hot", "a number from 0 to 2"),
            ("gain", b"\0", "type tag 'b'"),
            ("top_p", float("nan"), "a number from 0 to 1"),
            ("model", 3, "a text"),
            ("volume", 1, "unknown address"),
        ):
            player.osc.send(f"/streamer/{control}", wrong)
            assert reason in player.osc.refused()
        player.osc.send("/streamer/get", "temperature")
        assert player.osc.hear() == ("/streamer/temperature", [1.0])
        wait_heard(recorder, MODEL_RATE // 5)
    sound = sound_of(recorder)
    assert find(sound, written(models["wave"], FADE)[FADE : 2 * FADE] / 2) > 0


def test_status_says_what_a_performer_watches(stage: Stage) -> None:
    with stage.perform("rnn") as (player, recorder):
        wait_heard(recorder, MODEL_RATE)
        status = player.status()
    assert status["model"] == "rnn"
    assert status["playing"] == 1
    assert status["device_rate"] == MODEL_RATE
    assert status["device_rate_measured"] == pytest.approx(MODEL_RATE, rel=0.02)
    assert 100 < float(str(status["buffer_ms"])) <= 1000
    assert float(str(status["realtime_factor"])) > 1
    assert status["underruns"] == 0
    assert status["precision"] == "fp32"
    assert status["threads"] in (1, 2)
    assert re.search(r"^Playing rnn \(samplernn, .*; fp32, \d threads?\) on ", player.said, re.MULTILINE)
    assert "to measure it: streamer price MODEL AUDIO" in player.said
    assert re.search(
        r"buffer \d+ ms \| [\d.]+x real time \| \d+ underruns \| 16000 Hz, measured", player.said
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
            (["flute"], "rnn, torn"),
            (["torn"], "truncated"),
            ([str(stage.models / "none.safetensors")], "no such file"),
            (["wave", "--rate", "12345"], "16000 Hz"),
            (["wave", "--lead", "1"], "lead"),
            (["wave", "--lead", "1e8"], "lead"),
        ):
            complaint = stage.fail(*arguments)
            assert complaint.startswith("streamer: ")
            assert complaint.count("\n") == 1
            assert remedy in complaint
