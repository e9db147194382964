"""A performance for tests: small models of each architecture, and `streamer play` driven from outside."""

from __future__ import annotations

import ctypes
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from jackrig import JackServer, Recorder
from numpy.typing import NDArray
from osc_rig import Client

from streamer.controls import CONTROLS
from streamer.engine import Engine
from streamer.kernels.atomics import store
from streamer.mixer import Mixer, Plug, compiled_callback
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint, PrecisionBits, Provenance
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import ClockSpec, PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec
from streamer.tape import PLAY_HEAD, Tape, claim
from streamer.voice import Voice

MODEL_RATE = 16_000
PATIENCE = 60.0
"""Seconds that anything may take before a test fails: the first process of all compiles the kernels."""

SPECS: dict[str, Spec] = {
    "wave": WaveNetSpec(dilations=(1, 2, 4, 8), residual=8, gate=8, skip=16, output=16),
    "rnn": SampleRnnSpec(
        (8, 2),
        dim=16,
        rnn_layers=1,
        embedding=8,
        predictor=PredictorSpec(order=8, window=64, hop=16),
        clock=ClockSpec(cycle=100.0, harmonics=1),
    ),
}
# No amplitude is zero, so that a silent frame is never one of the tape's.
QUANTISER = Quantiser(preemphasis=0.85, scale=4.0)
WITHOUT_TRAINING = "sys.modules.update(torch=None, av=None)"
"""Python that makes the imports of what only training needs fail, as where it is not installed."""
LIVE = {row.name: float(row.default or 0) for row in CONTROLS if row.place == "generator"}
"""What a generator follows, by default."""
BLOCK = 128


def save_models(folder: Path) -> dict[str, Checkpoint]:
    """Models with random weights, one of each architecture, for STREAMER_MODELS."""
    return {name: save_model(folder / f"{name}.safetensors", spec) for name, spec in SPECS.items()}


def save_model(
    path: Path,
    spec: Spec,
    rate: int = MODEL_RATE,
    temperature: float = 1.0,
    bits: PrecisionBits | None = None,
) -> Checkpoint:
    rng = np.random.default_rng(1)
    tensors = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in spec.tensors().items()}
    described = Provenance(title="noise", licence="CC0-1.0", temperature=temperature, precision_bits=bits)
    return checkpoint.save(
        path,
        spec=spec,
        quantiser=QUANTISER,
        sample_rate=rate,
        tensors=tensors,
        provenance=described,
    )


def new_voice(model: Checkpoint, seconds: float, number: int = 1, **controls: float) -> Voice:
    """What an engine's voice is played by, the first; `fill` lets it write so many seconds."""
    return Voice("model", model, {**LIVE, **controls}, seconds, number=number)


def tape_of(model: Checkpoint, seconds: float, number: int = 1, **controls: float) -> NDArray[np.float32]:
    """What a voice writes from its beginning: float32 [samples]."""
    voice = new_voice(model, seconds, number, **controls)
    voice.fill()
    return voice.tape.read(0, voice.tape.lead)


def play(tape: Tape, count: int) -> NDArray[np.float32]:
    """Play on as a play head does, and return what is heard: float32 [count]."""
    first, last = tape.play_head, tape.play_head + count
    written = claim(tape.buffer, last)
    assert written >= last, "an underrun"
    sound = tape.read(first, count)
    store(tape.buffer, PLAY_HEAD, last)
    return sound


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:g} s"
        time.sleep(0.01)


class Answer:
    """What is told once when something slow has ended."""

    def __init__(self) -> None:
        self._told = queue.SimpleQueue[StreamerError | None]()

    def __call__(self, error: StreamerError | None) -> None:
        self._told.put(error)

    def wait(self) -> StreamerError | None:
        """Why it failed, or None."""
        return self._told.get(timeout=PATIENCE)


def silent(message: str) -> None:
    """Is told what must not happen."""
    raise AssertionError(message)


def call_back(plug: Plug, frames: int, channels: int, flags: int = 0) -> NDArray[np.float32]:
    """What the compiled callback puts out when it is called as PortAudio does: [frames, channels]."""
    out = np.empty((frames, channels), np.float32)
    pointers = [ctypes.c_void_p(address) for address in (out.ctypes.data, plug.address)]
    assert compiled_callback().ctypes(None, pointers[0], frames, None, flags, pointers[1]) == 0
    return out


class Audience:
    """Has an engine play in real time, block by block, as a device does, and keeps what it hears.

    Python on a busy machine cannot be on time: it waits for generators that have been kept from running.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._blocks = engine, list[NDArray[np.float32]]()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="audience")

    def __enter__(self) -> Audience:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def hear(self, seconds: float) -> None:
        """Listen for a while."""
        wanted = self._mixer.frame + seconds * self._mixer.rate
        wait_for(lambda: self._mixer.frame >= wanted, f"{seconds:g} s of sound")

    @property
    def is_there(self) -> bool:
        """Whether somebody listens."""
        return self._thread.is_alive()

    @property
    def sound(self) -> NDArray[np.float32]:
        """All that was heard: [frames, channels]."""
        return np.concatenate(list(self._blocks))

    @property
    def _mixer(self) -> Mixer:
        return self._engine.mixer

    def _listen(self) -> None:
        plug, due = Plug(self._mixer), time.monotonic()
        while not self._left.is_set():
            if all(voice.tape.lead_ms >= 20 for voice in self._engine.stage.everybody()):
                self._blocks.append(call_back(plug, BLOCK, self._mixer.channels))
                due = max(due + BLOCK / self._mixer.rate, time.monotonic() - 0.05)
            time.sleep(max(0.0005, due - time.monotonic()))


class Player:
    """`streamer play` in a process of its own, and a performer's program that talks to it.

    Args:
        folder: for what the process says. models: the model folder. server: whose devices it sees.
        arguments: after `streamer play`. script: Python that runs in the process before the command line
            does. What only training needs is missing there.
    """

    def __init__(
        self, folder: Path, models: Path, server: JackServer, arguments: Sequence[str], script: str = ""
    ) -> None:
        self._said, self._complained = folder / "play.out", folder / "play.err"
        source = f"import sys\n{WITHOUT_TRAINING}\n{script}\nfrom streamer.cli import main\nsys.exit(main())"
        command = [sys.executable, "-W", "error", "-c", source]
        self._command = [*command, "play", "--osc-port", "0", *arguments]
        self._environment = {**server.environment, "STREAMER_MODELS": str(models)}

    def __enter__(self) -> Player:
        with self._said.open("w") as out, self._complained.open("w") as err:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        try:
            self.osc = Client(self._find_port())
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it as a performer does, and requires that it ends well."""
        self.osc.close()
        try:
            if self.process.poll() is None:
                self.interrupt()
        finally:
            self.process.kill()
            self.process.wait()
        if error is None:
            assert self.complaints == ""
            assert self.process.returncode == 0

    def interrupt(self) -> float:
        """Ctrl-C; returns how many seconds it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        return time.monotonic() - began

    @property
    def said(self) -> str:
        """All that it wrote to standard output so far."""
        return self._said.read_text()

    @property
    def complaints(self) -> str:
        """All that it wrote to standard error so far, but for what ALSA says where the machine has none."""
        lines = self._complained.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("ALSA lib "))

    def wait_said(self, pattern: str) -> re.Match[str]:
        """Waits until a regular expression matches what it said."""
        wait_for(lambda: self.process.poll() is not None or bool(re.search(pattern, self.said)), pattern)
        found = re.search(pattern, self.said)
        assert found is not None, f"it ended without saying {pattern}: {self.said}{self.complaints}"
        return found

    def set(self, control: str, value: object) -> object:
        """Sets a control and returns the value that is confirmed, once it is."""
        address = f"/streamer/{control}"
        self.osc.send(address, value)
        return self.osc.expect(address)[0]

    def order(self, address: str, *arguments: object) -> str:
        """Asks for something slow, and waits for its end: why it failed, or nothing."""
        self.osc.send(address, *arguments)
        while True:
            heard, words = self.osc.hear()
            if heard in ("/streamer/done", "/streamer/fail") and words[0] == address:
                return "" if heard == "/streamer/done" else str(words[1])

    def status(self, voice: int | None = None) -> dict[str, object]:
        """Of the whole, or of a voice."""
        self.osc.send("/streamer/status", *([] if voice is None else [voice]))
        of = "" if voice is None else f"voice/{voice}/"
        words = self.osc.expect(f"/streamer/{of}status.reply")
        return dict(zip(map(str, words[::2]), words[1::2], strict=True))

    def _find_port(self) -> int:
        return int(self.wait_said(r"OSC at \S+:(\d+)")[1])


def sound_of(recorder: Recorder) -> NDArray[np.float32]:
    """What was heard, without the silence: float32 [frames]."""
    sound = recorder.sound()[:, 0]
    return sound[sound != 0]


def wait_heard(recorder: Recorder, frames: int) -> None:
    """Waits until so many more frames that are not silent have been recorded."""
    heard = len(sound_of(recorder))
    wait_for(lambda: len(sound_of(recorder)) >= heard + frames, f"{frames} frames of sound")
