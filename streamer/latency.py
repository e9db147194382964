"""How long a cue takes: from an OSC packet's departure to the first changed sample that leaves the callback.

An engine plays on a real device, seconds ahead, and is sent cues over a real socket by another process, at
random moments. Before each, the sound that lies ahead is read from the tape; what was really played is
compared with it, and the first sample that differs is the answer. It left with the block that holds its
frame, at the time at which that block was asked for. In the end the whole tape is compared with that of a
render from the score.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer import __version__, audio, score
from streamer.engine import Engine
from streamer.library import open_model
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint, PrecisionBits, Provenance
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.osc import OscServer
from streamer.osc_codec import write_message
from streamer.play import SWITCH_SECONDS
from streamer.replay import Replay
from streamer.score import Header, ScoreWriter
from streamer.shapes import SHAPES, SMALL, random_weights
from streamer.voice import Voice

CUES = 100
BLOCK = 128
SHAPE_RATE = 16_000
"""Hz of a shape with random weights."""
_AHEAD_SECONDS = 0.25  # of sound that a cue may change until it counts as unheard
_LONGEST_PAUSE, _SHORTEST_PAUSE = 0.25, 0.05
_PATIENCE = 30.0

# Sends what it reads, a packet in hexadecimal a line, and answers with when, by the monotonic clock.
_SENDER = """
import socket, sys, time
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.connect(("127.0.0.1", int(sys.argv[1])))
for line in sys.stdin:
    packet = bytes.fromhex(line)
    at = time.monotonic_ns()
    link.send(packet)
    print(at, flush=True)
"""


@dataclass(frozen=True)
class Latency:
    """What was found for one model.

    Attributes:
        model, precision: what was played, and how.
        realtime_factor: seconds of sound written in a second of work.
        lead_s: seconds written ahead of the play head.
        margin_ms: the part of them that no cue takes back, at the end.
        block, rate: of the device, in frames and Hz.
        p50_ms, p95_ms, max_ms: from sending to the first changed sample.
        cues: that were answered.
        unheard: that changed nothing that was heard soon.
        underruns: while all that went on.
        same_as_score: whether the tape is bit for bit that of a render from the score.
    """

    model: str
    precision: str
    realtime_factor: float
    lead_s: float
    margin_ms: float
    block: int
    rate: int
    p50_ms: float
    p95_ms: float
    max_ms: float
    cues: int
    unheard: int
    underruns: int
    same_as_score: bool


COLUMNS = ("model", "realtime_factor", "lead_s", "margin_ms", "block", "p50_ms", "p95_ms", "max_ms", "cues")
"""What a table of it shows."""


@dataclass(frozen=True)
class _Asked:
    """A cue on its way: when it left, and what lay ahead on the tape then."""

    sent_ns: int
    first: int
    ahead: NDArray[np.float32]


class Only:
    """The one model that is measured."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        self.name, self.checkpoint = name, checkpoint

    def load(self, name: str) -> Checkpoint:
        """The model."""
        return self.checkpoint

    def names(self) -> list[str]:
        """Its name."""
        return [self.name]


def measure(name: str, device: audio.Device, block: int = BLOCK, cues: int = CUES) -> Latency:
    """Play a model, or a shape with random weights, on a device and measure so many cues.

    Raises:
        StreamerError: there is no such model, or the device does not play.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        models = Only(*open_measured(name, Path(folder)))
        format = audio.settle(device, None)
        engine = Engine(models.name, models.checkpoint, models, rate=format.rate, channels=format.channels)
        path = Path(folder) / "score.jsonl"
        engine.record(ScoreWriter(path, Header(format.rate, format.channels, "", __version__), _fail))
        with OscServer(engine, 0) as server:
            output = audio.Output(engine.mixer, device, block)
            engine.start()
            output.start()
            try:
                answers, unheard, heard = _play(engine, server.port, cues)
                found = _found(engine, answers, unheard)
            finally:
                output.stop()
                engine.close()
        same = np.array_equal(heard, _rendered(path, models, len(heard)))
    return replace(found, same_as_score=same)


def open_measured(name: str, folder: Path) -> tuple[str, Checkpoint]:
    """A model by name or file, or a shape."""
    spec = {**SHAPES, **SMALL}.get(name)
    if spec is None:
        return open_model(name)
    path, quantiser = folder / f"{name}.safetensors", Quantiser(levels=spec.levels)
    checkpoint.save(
        path,
        spec=spec,
        quantiser=quantiser,
        sample_rate=SHAPE_RATE,
        tensors=random_weights(spec),
        provenance=Provenance(precision_bits=PrecisionBits(fp32=0.0, int8dot=0.0)),
    )
    return name, checkpoint.load(path)


def _play(engine: Engine, port: int, cues: int) -> tuple[list[float], int, NDArray[np.float32]]:
    """Milliseconds of each answer, how many cues were not heard, and the tape from its beginning."""
    rng = np.random.default_rng(0)
    voice = engine.voice(1)
    _wait(lambda: voice.tape.play_head > 0 and voice.tape.lead >= 0.9 * voice.tape.target)
    command = [sys.executable, "-c", _SENDER, str(port)]
    pipe = subprocess.PIPE
    answers: list[float] = []
    unheard = 0
    recorder = _Recorder(voice)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as sender:
        for cue in range(cues):
            time.sleep(rng.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE))
            # A wait until the lead is whole again: a cue that finds it short would have it easy.
            _wait(lambda: voice.tape.lead >= 0.9 * voice.tape.target)
            asked = _send(sender, voice, _packet(cue))
            _wait(lambda: voice.tape.play_head > asked.first + len(asked.ahead))  # noqa: B023
            answer = _answer(engine, voice, asked)
            recorder.read()
            if answer is None:
                unheard += 1
            else:
                answers.append(answer)
        assert sender.stdin is not None
        sender.stdin.close()
    return answers, unheard, recorder.heard()


def _packet(cue: int) -> bytes:
    """A cue that is heard at once, even in silence, where other random numbers alone change no sample."""
    storm = cue % 2 == 0
    values = {"seed": cue + 1, "repetition": 20.0 if storm else 0.0, "temperature": 2.0 if storm else 1.0}
    return write_message("/streamer/voice/1/set", *(word for pair in values.items() for word in pair))


class _Recorder:
    """Keeps all that has been played of a tape, read while it is still there."""

    def __init__(self, voice: Voice) -> None:
        self._tape = voice.tape
        self._parts: list[NDArray[np.float32]] = []
        self._next = 0
        self.read()

    def read(self) -> None:
        """Read on up to the play head; at least once a minute."""
        end = self._tape.play_head
        self._parts.append(self._tape.read(self._next, end - self._next))
        self._next = end

    def heard(self) -> NDArray[np.float32]:
        """All of it: float32 [samples]."""
        return np.concatenate(self._parts)


def _send(sender: subprocess.Popen[str], voice: Voice, packet: bytes) -> _Asked:
    assert sender.stdin is not None
    assert sender.stdout is not None
    first = voice.tape.play_head
    ahead = voice.tape.read(first, round(_AHEAD_SECONDS * voice.tape.rate))
    sender.stdin.write(packet.hex() + "\n")
    sender.stdin.flush()
    return _Asked(int(sender.stdout.readline()), first, ahead)


def _answer(engine: Engine, voice: Voice, asked: _Asked) -> float | None:
    """Milliseconds until the first sample left that differs from what lay ahead; None if none does."""
    played = voice.tape.read(asked.first, len(asked.ahead))
    changed = np.flatnonzero(played != asked.ahead)
    if not changed.size:
        return None
    position, mixer = asked.first + int(changed[0]), engine.mixer
    now = mixer.frame
    back = (mixer.position_at(1, now) - position) * mixer.rate / voice.tape.rate
    frame = now - round(back)
    left_ns = mixer.time_of(frame - frame % mixer.block)
    return (left_ns - asked.sent_ns) / 1e6


def _found(engine: Engine, answers: list[float], unheard: int) -> Latency:
    """All of it but the comparison with the score."""
    if not answers:
        raise StreamerError("no cue was answered")
    voice, status = engine.voice(1), engine.status()
    p50, p95 = np.percentile(answers, [50, 95])
    return Latency(
        model=voice.name,
        precision=voice.precision,
        realtime_factor=round(voice.realtime_factor, 2),
        lead_s=round(voice.tape.target / voice.tape.rate, 3),
        margin_ms=float(status["margin_ms"]),
        block=engine.mixer.block,
        rate=engine.mixer.rate,
        p50_ms=round(float(p50), 2),
        p95_ms=round(float(p95), 2),
        max_ms=round(max(answers), 2),
        cues=len(answers),
        unheard=unheard,
        underruns=int(status["underruns"]),
        same_as_score=False,
    )


def _rendered(path: Path, models: Only, count: int) -> NDArray[np.float32]:
    """The tape's first samples as the score has them."""
    replay = Replay(score.read(path), models)
    parts: list[NDArray[np.float32]] = []
    done = 0
    for _ in replay.blocks():
        tape = replay.voice(1).tape
        parts.append(tape.read(done, tape.play_head - done))
        done = tape.play_head
        if done >= count:
            break
    return np.concatenate(parts)[:count]


def as_json(found: list[Latency]) -> str:
    """All fields of each."""
    return json.dumps([asdict(each) for each in found], indent=2)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise StreamerError("the device does not play: see streamer doctor")
        time.sleep(0.002)


def _fail(line: str) -> None:
    raise StreamerError(line)
