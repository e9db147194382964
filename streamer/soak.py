"""A long storm: many voices, a hundred cues a second, bursts of messages, and a thread that is always busy.

An engine plays on a real device while another process sends it cues over a real socket. The same is done
first without them, for what an idle performer would have heard of dropouts.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from streamer import audio
from streamer.engine import Engine
from streamer.latency import Only, open_measured
from streamer.models.errors import StreamerError
from streamer.osc import OscServer
from streamer.play import SWITCH_SECONDS

CUES_A_SECOND = 100
BURST = 5000
_BURST_EVERY = 10.0
_IDLE_SECONDS = 20.0
_PATIENCE = 120.0

# Sends cues to voices in turn, and bursts; says how many packets it sent.
_SENDER = f"""
import random, socket, sys, time
from streamer.osc_codec import write_message
port, seconds, voices = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.connect(("127.0.0.1", port))
sent, began, burst = 0, time.monotonic(), {_BURST_EVERY} / 2
while (now := time.monotonic() - began) < seconds:
    count = 1
    if now > burst:
        count, burst = {BURST}, burst + {_BURST_EVERY}
    for _ in range(count):
        address = f"/streamer/voice/{{sent % voices + 1}}/temperature"
        link.send(write_message(address, random.uniform(0.5, 1.2)))
        sent += 1
    time.sleep(max(0.0, began + now + 1 / {CUES_A_SECOND} - time.monotonic()))
print(sent)
"""


@dataclass(frozen=True)
class Soak:
    """What was found.

    Attributes:
        model: what all voices played.
        voices: how many.
        seconds: of the storm.
        idle_underruns, underruns: without cues, and with them; of all voices together.
        idle_seconds: how long there were no cues.
        idle_device_underflows, device_underflows: blocks that the device says came too late.
        sent, lost: packets, and those that never came, as far as the system tells.
        refused: cues without room in their lane.
        least_buffer_ms: the shortest lead that was seen.
        margin_ms: in the end.
        memory_before_mb, memory_mb: of the process, once it was warm and in the end.
        realtime_factor: of the slowest voice, in the end.
    """

    model: str
    voices: int
    seconds: float
    idle_seconds: float
    idle_underruns: int
    underruns: int
    idle_device_underflows: int
    device_underflows: int
    sent: int
    lost: int
    refused: int
    least_buffer_ms: float
    margin_ms: float
    memory_before_mb: float
    memory_mb: float
    realtime_factor: float


def measure(name: str, device: audio.Device, block: int, seconds: float, voices: int) -> Soak:
    """Play so many voices of a model through a storm; raise `StreamerError` where they cannot be played."""
    sys.setswitchinterval(SWITCH_SECONDS)
    with TemporaryDirectory() as folder:
        models = Only(*open_measured(name, Path(folder)))
    format = audio.settle(device, None)
    engine = Engine(models.name, models.checkpoint, models, rate=format.rate, channels=format.channels)
    with OscServer(engine, 0) as server:
        output = audio.Output(engine.mixer, device, block)
        engine.start()
        output.start()
        try:
            _bring_in(engine, models.name, voices)
            before = _dropouts(engine)
            time.sleep(min(seconds, _IDLE_SECONDS))
            idle = _dropouts(engine) - before
            with _busy():
                return _storm(engine, server, seconds, idle)
        finally:
            output.stop()
            engine.close()


def _bring_in(engine: Engine, model: str, voices: int) -> None:
    there = threading.Semaphore(0)
    failures: list[StreamerError] = []

    def told(error: StreamerError | None) -> None:
        failures.extend([error] if error else [])
        there.release()

    for _ in range(voices - 1):
        engine.add_voice(model, told=told)
    for _ in range(voices - 1):
        if not there.acquire(timeout=_PATIENCE) or failures:
            raise StreamerError(f"{voices} voices cannot be had: {failures[:1] or 'they take too long'}")


@contextmanager
def _busy() -> Iterator[None]:
    """A thread that holds the interpreter all the time."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            sum(range(1000))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join()


def _dropouts(engine: Engine) -> NDArray[np.int64]:
    """Underruns of the voices, and of the device, so far."""
    status = engine.status()
    return np.array([status["underruns"], status["device_underflows"]], np.int64)


def _storm(engine: Engine, server: OscServer, seconds: float, idle: NDArray[np.int64]) -> Soak:
    voices = len(engine.voices())
    command = [sys.executable, "-c", _SENDER, str(server.port), str(seconds), str(voices)]
    before = _dropouts(engine)
    memory_before, least = _memory_mb(), float(engine.status()["buffer_ms"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        while sender.poll() is None:
            time.sleep(0.02)
            least = min(least, float(engine.status()["buffer_ms"]))
        assert sender.stdout is not None
        sent = int(sender.stdout.read())
    status, during = engine.status(), _dropouts(engine) - before
    return Soak(
        model=engine.voice(1).name,
        voices=voices,
        seconds=seconds,
        idle_seconds=min(seconds, _IDLE_SECONDS),
        idle_underruns=int(idle[0]),
        underruns=int(during[0]),
        idle_device_underflows=int(idle[1]),
        device_underflows=int(during[1]),
        sent=sent,
        lost=server.lost,
        refused=int(status["refused"]),
        least_buffer_ms=least,
        margin_ms=float(status["margin_ms"]),
        memory_before_mb=memory_before,
        memory_mb=_memory_mb(),
        realtime_factor=float(status["realtime_factor"]),
    )


def _memory_mb() -> float:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
