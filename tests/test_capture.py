"""Live capture: what a real JACK client plays is kept sample for sample, and a vanished device is said."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jackrig import JackServer

# A client with an output port for each factor, which plays a counter of frames times it until standard input
# ends; for others it is a microphone. At the end it says how many xruns there were.
SINGER = """
import json, sys
import jack, numpy as np
client, frame, xruns = jack.Client("singer", no_start_server=True), 0, 0
factors = json.loads(sys.argv[1])
ports = [client.outports.register(f"out_{number}") for number in range(len(factors))]
@client.set_process_callback
def sing(frames):
    global frame
    for port, factor in zip(ports, factors):
        port.get_array()[:] = np.arange(frame + 1, frame + frames + 1, dtype=np.float32) * np.float32(factor)
    frame += frames
@client.set_xrun_callback
def count(delay_us):
    global xruns
    xruns += 1
with client:
    print("ready", flush=True)
    sys.stdin.read()
print(xruns, flush=True)
"""

LISTENER = """
import json, sys, threading, time
import numpy as np
from streamer import audio
from streamer.capture import Capture
from streamer.models.errors import DeviceError

def busy():
    while True:
        sum(range(1000))

def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def tell(**facts):
    print(json.dumps(facts), flush=True)

def problem_of(ask):
    try:
        ask()
    except DeviceError as error:
        return str(error)

"""


def run(program: str, server: JackServer, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=server.environment, stdin=pipe, stdout=pipe, text=True)


@contextmanager
def singing(server: JackServer, factors: list[float]) -> Iterator["subprocess.Popen[str]"]:
    with run(SINGER, server, json.dumps(factors)) as singer:
        try:
            assert singer.stdout is not None
            assert singer.stdout.readline() == "ready\n"
            yield singer
        finally:
            singer.kill()


def told_by(listener: "subprocess.Popen[str]") -> dict[str, Any]:
    try:
        told, _ = listener.communicate(timeout=60)
    finally:
        listener.kill()
    facts: dict[str, Any] = json.loads(told)
    return facts


def test_the_last_seconds_are_kept_as_they_were_whatever_python_does(
    jack_server: JackServer, tmp_path: Path
) -> None:
    script = """
threading.Thread(target=busy, daemon=True).start()
capture = Capture("singer", seconds=0.25)
begun, _ = capture.last(10)
wait_for(lambda: len(capture.last(1)[0]) > 0)
first = capture.last(1)[0][-1]
wait_for(lambda: capture.last(1)[0][-1] > first + 2 * 150_000)  # the tape has gone round once
samples, rate = capture.last(10)
shorter, _ = capture.last(0.1)
np.save(sys.argv[1], samples)
tell(rate=rate, begun=len(begun), shorter=len(shorter), alive=capture.alive, device=capture.device,
     closed=capture.close(), again=capture.close(), problem=problem_of(lambda: capture.last(1)))
"""
    with singing(jack_server, [1, 3]) as singer:
        facts = told_by(run(LISTENER + script, jack_server, str(tmp_path / "heard.npy")))
        xruns = int(singer.communicate(timeout=10)[0])
    print(facts, xruns, "xruns")
    assert (facts["rate"], facts["device"]) == (jack_server.rate, "singer")
    assert (facts["alive"], facts["closed"], facts["again"]) == (True, True, True)
    assert facts["begun"] <= jack_server.rate // 4
    assert facts["shorter"] == jack_server.rate // 10
    assert "singer is not heard any more" in facts["problem"]
    heard = np.load(tmp_path / "heard.npy")
    assert heard.dtype == np.float32
    assert len(heard) == jack_server.rate // 4
    steps = np.diff(heard)
    assert np.mean(steps == 2) > 0.5
    if xruns == 0:  # the average of one and three times the counter, without a gap
        assert (steps == 2).all()


def test_what_is_not_finite_is_silence(jack_server: JackServer) -> None:
    script = """
capture = Capture("singer")
wait_for(lambda: len(capture.last(1)[0]) > 4000)
tell(loudest=float(np.abs(capture.last(1)[0]).max()), closed=capture.close())
"""
    with singing(jack_server, [float("nan")]):
        assert told_by(run(LISTENER + script, jack_server)) == {"loudest": 0.0, "closed": True}


def test_a_wish_that_no_device_fits_is_said_in_a_line(jack_server: JackServer) -> None:
    script = """
capture = Capture(None)
tell(default=capture.device, closed=capture.close(), unknown=problem_of(lambda: Capture("flute")),
     number=problem_of(lambda: Capture("99")))
"""
    facts = told_by(run(LISTENER + script, jack_server))
    assert facts["default"] == "system"
    assert facts["closed"]
    assert "No input device matching 'flute'" in facts["unknown"]
    for problem in (facts["unknown"], facts["number"]):
        assert problem.startswith("no input is captured")
        assert "\n" not in problem


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_server_is_said_and_left(jack_server: JackServer, kill: signal.Signals) -> None:
    script = """
capture = Capture("system")
wait_for(lambda: len(capture.last(1)[0]) > 0)
print("hearing", flush=True)
sys.stdin.readline()
wait_for(lambda: not capture.alive)
began = time.monotonic()
tell(problem=problem_of(lambda: capture.last(1)), closed=capture.close(), took=time.monotonic() - began)
audio.leave(3)
"""
    listener = run(LISTENER + script, jack_server)
    assert listener.stdin is not None
    assert listener.stdout is not None
    assert listener.stdout.readline() == "hearing\n"
    jack_server.process.send_signal(kill)
    listener.stdin.write("\n")
    facts = told_by(listener)
    jack_server.process.send_signal(signal.SIGCONT)
    assert listener.returncode == 3
    assert "system is not heard any more" in facts["problem"]
    assert not facts["closed"]
    assert facts["took"] < 1.5


def test_importing_opens_no_sound_system() -> None:
    source = "import sys, streamer.capture; print('sounddevice' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
