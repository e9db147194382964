"""Devices and streams: what is chosen, what is refused, and what a real JACK server is given."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jackrig import JackServer, Recorder
from numpy.typing import NDArray

from streamer.audio import Device, install_command, pick
from streamer.mixer import Mixer
from streamer.models.errors import DeviceError
from streamer.tape import Tape

TAPE_SAMPLES = 1 << 19

# Plays a numbered tape into the client "recorder", and prints what became of it as one line of JSON.
PLAYER = """
import json, sys, threading, time
from dataclasses import replace
import numpy as np
from streamer.audio import Output, find_again, find_device, leave, rescan, settle
from streamer.mixer import Mixer
from streamer.models.errors import DeviceError
from streamer.tape import Tape

def busy():
    while True:
        sum(range(1000))

def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)

def tell(**facts):
    print(json.dumps(facts), flush=True)

device = find_device("recorder")
chosen = settle(device)
tape = Tape(chosen.rate, 1 << 20, 9600)
tape.write(np.arange(1, TAPE_SAMPLES + 1) / (TAPE_SAMPLES + 1))
mixer = Mixer(chosen.rate, chosen.channels)
mixer.put(1, tape, 0)

def play_on(seconds):
    position = tape.play_head + seconds * chosen.rate
    output = Output(mixer, device)
    assert not output.alive
    output.start()
    wait_for(lambda: tape.play_head >= position)
    assert output.alive
    return output

"""


def run_player(server: JackServer, script: str) -> "subprocess.Popen[str]":
    source = f"TAPE_SAMPLES = {TAPE_SAMPLES}\n{PLAYER}\n{script}"
    command = [sys.executable, "-W", "error", "-c", source]
    return subprocess.Popen(
        command, env=server.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(player: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    try:
        told, _ = player.communicate(timeout=60)
    finally:
        player.kill()
    return [json.loads(line) for line in told.splitlines()]


def without_silence(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    return sound[sound != 0]


def rendered(rate: int, stops: list[int]) -> NDArray[np.float32]:
    """What the same tape gives undisturbed: played to each position in turn, with a fade at each."""
    tape = Tape(rate, 1 << 20, 9600)
    tape.write(np.arange(1, TAPE_SAMPLES + 1) / (TAPE_SAMPLES + 1))
    mixer = Mixer(rate, 1)
    mixer.put(1, tape, 0)
    fade = round(0.01 * rate)
    sound = []
    for stop in stops:
        mixer.fade_in()
        sound.append(mixer.render(stop - tape.play_head - fade + 1))
        mixer.fade_out()
        sound.append(mixer.render(fade))
        assert tape.play_head == stop
    return without_silence(np.concatenate(sound)[:, 0])


def assert_played(recorder: Recorder, expected: NDArray[np.float32], rate: int) -> None:
    """Bit for bit; where the server reports a late client, sound may be missing, but never be wrong."""
    sound = without_silence(recorder.sound()[:, 0])
    print(f"{len(sound)} frames recorded, {recorder.xruns} xruns")
    if recorder.xruns == 0:
        np.testing.assert_array_equal(sound, expected)
    else:
        assert np.isin(sound, expected).all()
        lost = len(expected) - len(sound)
        assert abs(lost) <= (recorder.xruns + 1) * rate / 10


def test_what_jack_is_given_is_what_the_tape_holds_whatever_python_does(
    jack_server: JackServer, tmp_path: Path
) -> None:
    script = """
threading.Thread(target=busy, daemon=True).start()
output = play_on(2)
closed = output.stop()
counters = mixer.counters()
tell(position=tape.play_head, closed=closed, alive=output.alive, silent=mixer.is_silent, rate=chosen.rate,
     underruns=counters.underruns, measured=counters.measured_rate, underflows=counters.device_underflows,
     longest_gap_ms=counters.longest_gap_ns / 1e6, longest_callback_ms=counters.longest_callback_ns / 1e6)
"""
    with Recorder(jack_server, tmp_path) as recorder:
        player = run_player(jack_server, script)
        told = finish(player)
    assert player.returncode == 0
    (facts,) = told
    print(facts)
    assert facts["rate"] == jack_server.rate
    assert facts["closed"]
    assert facts["silent"]
    assert not facts["alive"]
    assert facts["underruns"] == 0
    assert facts["measured"] == pytest.approx(jack_server.rate, rel=0.1)
    assert_played(recorder, rendered(jack_server.rate, [facts["position"]]), jack_server.rate)


def test_a_second_stream_goes_on_where_the_first_stopped(jack_server: JackServer, tmp_path: Path) -> None:
    script = """
stops = []
for seconds in (0.3, 0.5):
    assert play_on(seconds).stop()
    stops.append(tape.play_head)
    rescan()
    assert find_again(device) == device
try:
    find_again(replace(device, host_api="another"))
except DeviceError as error:
    assert "gone" in str(error)
else:
    assert False
tell(stops=stops)
"""
    with Recorder(jack_server, tmp_path) as recorder:
        (facts,) = finish(run_player(jack_server, script))
    assert_played(recorder, rendered(jack_server.rate, facts["stops"]), jack_server.rate)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_server_is_noticed_and_left(
    jack_server: JackServer, tmp_path: Path, kill: signal.Signals
) -> None:
    script = """
output = play_on(0.1)
tell(playing=True)
sys.stdin.readline()
wait_for(lambda: not output.alive)
alive, began = output.alive, time.monotonic()
closed = output.stop()
took = time.monotonic() - began
try:
    Output(mixer, device).start()
    problem = ""
except DeviceError as error:
    problem = str(error)
tell(alive=alive, closed=closed, took=took, problem=problem)
leave(3)
"""
    with Recorder(jack_server, tmp_path):
        player = run_player(jack_server, script)
        assert player.stdin is not None
        assert player.stdout is not None
        assert json.loads(player.stdout.readline()) == {"playing": True}
        jack_server.process.send_signal(kill)
        player.stdin.write("\n")
        (facts,) = finish(player)
        jack_server.process.send_signal(signal.SIGCONT)
    assert player.returncode == 3
    assert not facts["alive"]
    assert not facts["closed"]
    assert facts["took"] < 1.5
    assert "start the program anew" in facts["problem"]


def test_a_device_says_what_it_refuses(jack_server: JackServer, tmp_path: Path) -> None:
    script = """
problems = []
for wish in ({"rate": 12345}, {"channels": 7}):
    try:
        settle(device, **wish)
    except DeviceError as error:
        problems.append(str(error))
try:
    Output(Mixer(12345, 1), device).start()
except DeviceError as error:
    problems.append(str(error))
tell(problems=problems)
"""
    with Recorder(jack_server, tmp_path):
        (facts,) = finish(run_player(jack_server, script))
    rate, channels, opened = facts["problems"]
    assert "recorder" in rate
    assert "refuses 12345 Hz" in rate
    assert "48000 Hz" in rate
    assert "7 channels" in channels
    assert "cannot be opened" in opened
    assert all("\n" not in problem for problem in facts["problems"])


def run_python(source: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()


def test_importing_opens_no_sound_system() -> None:
    assert run_python("import sys, streamer.audio; print('sounddevice' in sys.modules)") == "False"


def test_a_missing_library_is_one_line_with_the_command() -> None:
    told = run_python(
        """
import ctypes.util
ctypes.util.find_library = lambda name: None  # as on a machine without PortAudio
from streamer.audio import devices
from streamer.models.errors import DeviceError
try:
    devices()
except DeviceError as problem:
    print(problem)
"""
    )
    assert told.startswith("PortAudio is missing")
    assert "install" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("systems", "command"),
    [
        (["debian"], "sudo apt install libportaudio2"),
        (["ubuntu", "debian"], "sudo apt install libportaudio2"),
        (["linuxmint", "ubuntu", "debian"], "sudo apt install libportaudio2"),
        (["fedora"], "sudo dnf install portaudio"),
        (["manjaro", "arch"], "sudo pacman -S portaudio"),
        (["darwin"], "brew install portaudio"),
    ],
)
def test_each_system_has_its_command(systems: list[str], command: str) -> None:
    assert install_command(systems) == command


def test_an_unknown_system_is_told_the_packages() -> None:
    assert "libportaudio2" in install_command([])


def device(index: int, name: str, *, default: bool = False) -> Device:
    return Device(index, name, "ALSA", 2, 48000, 0.03, default)


CARDS = [
    device(0, "HDA Intel"),
    device(3, "USB Audio"),
    device(4, "USB Audio 2nd", default=True),
    device(7, "Card 3"),
]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(None, 4), (3, 3), ("3", 3), ("intel", 0), ("USB AUDIO", 3), ("2nd", 4), (" 7 ", 7), ("card", 7)],
)
def test_a_device_is_meant_by_number_or_by_part_of_its_name(wanted: str | int | None, index: int) -> None:
    assert pick(CARDS, wanted).index == index


def test_without_a_default_the_first_device_plays() -> None:
    assert pick(CARDS[:2], None).index == 0


@pytest.mark.parametrize(
    ("wanted", "listed"), [("usb", [3, 4]), ("moog", [0, 3, 4, 7]), (5, [0, 3, 4, 7]), ("a", [0, 3, 4, 7])]
)
def test_an_unclear_wish_lists_the_candidates(wanted: str | int, listed: list[int]) -> None:
    with pytest.raises(DeviceError) as caught:
        pick(CARDS, wanted)
    assert repr(str(wanted)) in str(caught.value)
    for card in CARDS:
        assert (str(card) in str(caught.value)) == (card.index in listed)


def test_no_device_at_all_is_said() -> None:
    with pytest.raises(DeviceError, match="no sound device"):
        pick([], "usb")
