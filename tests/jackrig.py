"""A sound card for tests: a private JACK server on the dummy driver, and a client that records.

The file is not named after JACK's Python client, `jack`, which it would hide. Run, it is that client:

    python jackrig.py NAME CHANNELS FILE    record float32, interleaved, until standard input ends

It says `ready` once its ports exist, and at the end how many xruns the server reported. Every client is a
device for PortAudio, so a player that opens the device NAME is recorded from its first frame, bit for bit.
"""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

_numbers = itertools.count()


def jack_is_installed() -> bool:
    return shutil.which("jackd") is not None and shutil.which("jack_wait") is not None


def real_time_is_allowed() -> bool:
    """Whether this user's threads may ask for SCHED_FIFO."""
    fifo = ["chrt", "--fifo", "10", "true"]
    return shutil.which("chrt") is not None and subprocess.run(fifo, capture_output=True).returncode == 0


class JackServer:
    """A server of its own name; nothing but `environment` leads to it.

    Attributes:
        rate: frames a second.
        period: frames a block; long where real-time rights are refused.
        environment: what a client's process needs to find the server; the tests' own environment stays as
            it is.
    """

    def __init__(self, folder: Path, rate: int = 48000) -> None:
        self.rate = rate
        self._real_time = real_time_is_allowed()
        self.period = 256 if self._real_time else 1024
        self._name = f"streamer-{os.getpid()}-{next(_numbers)}"
        self._log = folder / f"{self._name}.log"
        self.environment = {
            **os.environ,
            "JACK_DEFAULT_SERVER": self._name,
            "JACK_NO_START_SERVER": "1",
            "JACK_NO_AUDIO_RESERVATION": "1",
        }

    def __enter__(self) -> JackServer:
        self.start()
        return self

    def start(self) -> None:
        """Starts the server and waits until clients can come."""
        command = ["jackd", "--realtime" if self._real_time else "--no-realtime", "--name", self._name]
        command += ["-d", "dummy", "-r", str(self.rate), "-p", str(self.period)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise RuntimeError(f"jackd did not start: {self._log.read_text()}")

    def _answers(self) -> bool:
        check = ["jack_wait", "--server", self._name, "--check"]
        told = subprocess.run(check, env=self.environment, capture_output=True, text=True).stdout
        return told.strip() == "running"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server; clients that still run lose it.

        The machine has places for eight JACK servers. One that was killed keeps its place until a server
        of the same name starts; so that is what happens here.
        """
        if self._end() != 0:
            self.start()
            self._end()
        for semaphore in Path("/dev/shm").glob(f"jack_sem.*_{self._name}_*"):
            semaphore.unlink()

    def _end(self) -> int:
        """Ends the process, also a frozen one, and returns its exit status: 0 if it could say goodbye."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Recorder:
    """A client of the server that records its input ports into a file, in a process of its own."""

    def __init__(self, server: JackServer, folder: Path, name: str = "recorder", channels: int = 1) -> None:
        self.server, self.name, self.channels = server, name, channels
        self.file = folder / f"{name}.f32"
        self.xruns = 0
        """Known when the recording has ended."""

    def __enter__(self) -> Recorder:
        command = [sys.executable, __file__, self.name, str(self.channels), str(self.file)]
        pipe = subprocess.PIPE
        environment = self.server.environment
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        patience = threading.Timer(20, self._process.kill)
        patience.start()
        ready = self._process.stdout.readline()
        patience.cancel()
        if ready != "ready\n":
            raise RuntimeError("the recorder did not find the server")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            told, _ = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        self.xruns = int(told)

    def sound(self) -> NDArray[np.float32]:
        """What has been recorded so far: float32 [frames, channels]."""
        samples = np.fromfile(self.file, np.float32)
        whole = len(samples) - len(samples) % self.channels
        return samples[:whole].reshape(-1, self.channels)


def record(name: str, channels: int, file: Path) -> None:
    """Records until standard input ends. The callback only copies; this thread writes."""
    import jack  # loads JACK's library, which importing this file must not need

    client = jack.Client(name, no_start_server=True)
    blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    xruns = 0

    @client.set_xrun_callback
    def count(delay_us: float) -> None:
        nonlocal xruns
        xruns += 1

    ports = [client.inports.register(f"input_{channel + 1}") for channel in range(channels)]

    @client.set_process_callback
    def copy(frames: int) -> None:
        blocks.put(np.stack([port.get_array() for port in ports], axis=1).tobytes())

    def end() -> None:
        sys.stdin.read()
        blocks.put(None)

    with file.open("wb", buffering=0) as out, client:
        print("ready", flush=True)
        threading.Thread(target=end, daemon=True).start()
        while (block := blocks.get()) is not None:
            out.write(block)
    print(xruns, flush=True)


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
