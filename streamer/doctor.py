"""What this machine can do with a model, measured and said plainly: `streamer doctor`.

The voice that the engine uses is timed in runs of `RUN` samples, with the naps that its thread takes between
them and under the scheduling that its thread was given. From that follow a lead that outlasts what was seen,
and the margin: the delay between a cue and its sound.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from streamer import audio, threads
from streamer.audio import Device
from streamer.generator import NAP_US, RUN
from streamer.kernels import cache
from streamer.kernels.atomics import clock_ns, sleep_us, store
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import DeviceError
from streamer.pacing import margin_for
from streamer.precision import AUTO, hint, price_words
from streamer.tape import PLAY_HEAD, SHORTEST_LEAD
from streamer.threads import COMFORTABLE
from streamer.voice import PRIORITY, Voice

MEASURE_SECONDS = 4.0
LEAD_FLOOR_MS = {"realtime": 20.0, "normal": 200.0}
"""Least lead by scheduling: without real-time rights a producer 100 ms ahead starved under other load."""

QUICK_BLOCK_FRAMES = 128
_DEVICE_BLOCK_FRAMES = 1024  # the longest that devices commonly ask for at once
_USUAL_RATE = 48_000


@dataclass(frozen=True)
class Report:
    """What was found. Factors are seconds of sound in a second of work."""

    model: str
    processor: str
    cores: int
    """That this process may use."""
    precision: str
    price: str
    """What the precision costs, in words."""
    hint: str
    """How to have a precision chosen, where none can be."""
    threads: int
    """How many multiply."""
    compiled: bool
    """Whether the kernels were on disk before."""
    warm_seconds: float
    """What compiling, or fetching them from disk, took."""
    cache_problem: str
    """Why they cannot be kept on disk; empty where they can."""
    factor: float
    """Of all runs together."""
    factor_p50: float
    """Of the median run."""
    factor_p99: float
    """What all but one in a hundred runs reach."""
    run_ms_p99: float
    scheduling: str
    """What the voice's thread was given: realtime or normal."""
    rtprio_limit: int | None
    """RLIMIT_RTPRIO, -1 without limit; None where the system has none."""
    oversleep_ms_p99: float
    """How late a nap of a millisecond ends."""
    devices: tuple[Device, ...]
    device_problem: str
    """Why there is no device; empty where there is one."""
    lead_ms: int
    """A lead that is safe with these figures."""
    margin_ms: float
    """What a cue would wait for at least, with a device that asks for `QUICK_BLOCK_FRAMES` at once."""

    @property
    def playable(self) -> bool:
        """Whether the model keeps up with real time here."""
        return self.sustained >= 1

    @property
    def sustained(self) -> float:
        """The factor that counts: a SampleRNN's rare long runs show in the whole, not in the median."""
        return min(self.factor, self.factor_p50)

    @property
    def verdict(self) -> str:
        """One or two sentences for a performer."""
        if not self.playable:
            return (
                f"{self.model} will not play in real time here: it makes {self.sustained:.2f} s of sound "
                f"in a second. Choose a smaller model, or streamer render OUT --model {self.model}"
            )
        if self.sustained < COMFORTABLE:
            return f"{self.model} plays in real time here, but only just: other work will cost dropouts."
        if self.device_problem:
            return f"{self.model} plays in real time here, once there is a sound device."
        return f"{self.model} plays in real time here."

    def findings(self) -> list[tuple[str, str]]:
        """What was found, each under a word, the verdict last."""
        return [
            ("processor", f"{self.processor}, {self.cores} {'core' if self.cores == 1 else 'cores'}"),
            ("kernels", _kernels_words(self)),
            ("precision", f"{self.precision}, {self.price}" + (f". {self.hint}" if self.hint else "")),
            ("threads", _threads_words(self)),
            ("speed", _speed_words(self)),
            ("scheduler", _scheduling_words(self)),
            ("jitter", f"a nap of {NAP_US / 1000} ms ends {self.oversleep_ms_p99:.2f} ms late (p99)"),
            ("sound", _device_words(self)),
            (
                "lead",
                f"{self.lead_ms} ms is safe here; streamer play keeps more, and takes it back",
            ),
            (
                "answer",
                f"a cue waits {self.margin_ms:.0f} ms in blocks of {QUICK_BLOCK_FRAMES} frames",
            ),
            ("verdict", self.verdict),
        ]

    def as_text(self) -> str:
        """One finding a line."""
        no_use = set() if self.playable else {"lead", "answer"}
        return "\n".join(f"{word:10} {text}" for word, text in self.findings() if word not in no_use)

    def as_json(self) -> str:
        """All fields, with playable and verdict."""
        return json.dumps(asdict(self) | {"playable": self.playable, "verdict": self.verdict}, indent=2)


def examine(
    name: str,
    checkpoint: Checkpoint,
    seconds: float = MEASURE_SECONDS,
    precision: str = AUTO,
    thread_count: int | None = None,
) -> Report:
    """Measure a model and what it would play on, for about so many seconds after compiling.

    precision, thread_count: as `streamer.engine.Engine` takes them. Raises `StreamerError` where the model
    cannot be played at all.
    """
    compiled = cache.compiled_already(f"voice-{checkpoint.spec.architecture}")
    began = time.perf_counter()
    voice = _new_voice(name, checkpoint, precision)
    voice.warm()
    threads.settle(voice, thread_count)
    warm_seconds = time.perf_counter() - began
    scheduling = _scheduling(voice)
    runs, oversleeps = _measure(voice, scheduling, seconds)
    voice.close()
    devices, device_problem = _devices()
    sound = RUN / checkpoint.sample_rate
    run_p99, oversleep_p99 = float(np.percentile(runs, 99)), float(np.percentile(oversleeps, 99))
    return Report(
        model=name,
        processor=cache.processor(),
        cores=threads.cores(),
        precision=voice.precision,
        price=price_words(voice.precision, checkpoint.provenance.precision_bits),
        hint=hint(precision, checkpoint),
        threads=voice.threads,
        compiled=compiled,
        warm_seconds=warm_seconds,
        cache_problem="" if compiled or cache.usable_folder() else f"{cache.folder()} cannot be written",
        factor=sound / float(np.mean(runs)),
        factor_p50=sound / float(np.median(runs)),
        factor_p99=sound / run_p99,
        run_ms_p99=1000 * run_p99,
        scheduling=scheduling,
        rtprio_limit=_rtprio_limit(),
        oversleep_ms_p99=1000 * oversleep_p99,
        devices=devices,
        device_problem=device_problem,
        lead_ms=safe_lead_ms(scheduling, 1000 * run_p99, 1000 * oversleep_p99, _device_rate(devices)),
        margin_ms=1000 * margin_for(QUICK_BLOCK_FRAMES / _device_rate(devices), max(run_p99, oversleep_p99)),
    )


def safe_lead_ms(scheduling: str, run_ms: float, oversleep_ms: float, device_rate: int) -> int:
    """A lead that outlasts one block of the device and four of the worst gaps seen, in steps of 10 ms."""
    block_ms = 1000 * _DEVICE_BLOCK_FRAMES / device_rate
    gaps_ms = 4 * (run_ms + oversleep_ms + NAP_US / 1000)
    return 10 * math.ceil((block_ms + max(LEAD_FLOOR_MS[scheduling], gaps_ms)) / 10)


# --- measuring ----------------------------------------------------------------------------------------------


def _new_voice(name: str, checkpoint: Checkpoint, precision: str) -> Voice:
    """A voice as the engine makes it, with a lead so short that one run is most of it."""
    values = {"temperature": checkpoint.provenance.temperature}
    lead = max(SHORTEST_LEAD, 2 * RUN / checkpoint.sample_rate)
    return Voice(name, checkpoint, values, lead, precision=precision)


def _scheduling(voice: Voice) -> str:
    """What the voice's own thread is given, which it asks for before it writes anything."""
    voice.start()
    voice.stop()
    return voice.scheduling


def _measure(voice: Voice, scheduling: str, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds that each run took, and seconds that each nap between them was too long."""
    runs: list[float] = []
    oversleeps: list[float] = []

    def work() -> None:
        if scheduling == "realtime":
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        voice.fill()
        call = float(np.median([_seconds(voice.fill) for _ in range(32)]))  # with nothing to write
        deadline = time.monotonic() + seconds
        while not runs or time.monotonic() < deadline:
            store(voice.tape.buffer, PLAY_HEAD, voice.tape.play_head + RUN)
            runs.append(max(_seconds(voice.fill) - call, 1e-9))
            # Naps also keep a real-time thread below the share of a core at which Linux would suspend it.
            oversleeps.append(_seconds(lambda: sleep_us(NAP_US)) - NAP_US / 1e6)

    thread = threading.Thread(target=work, name="streamer-doctor")
    thread.start()
    thread.join()
    return runs, oversleeps


def _seconds(call: Callable[[], object]) -> float:
    """How long a call takes, by the clock that the voice uses."""
    began = clock_ns()
    call()
    return (clock_ns() - began) / 1e9


def _rtprio_limit() -> int | None:
    """The highest real-time priority that this user may take, where the system has such a limit."""
    try:
        import resource
    except ImportError:
        return None
    if not hasattr(resource, "RLIMIT_RTPRIO"):
        return None
    return int(resource.getrlimit(resource.RLIMIT_RTPRIO)[0])


def _devices() -> tuple[tuple[Device, ...], str]:
    """The devices that can play, and what is wrong where there are none."""
    try:
        found = tuple(audio.devices())
        audio.pick(found, None)
    except DeviceError as error:
        return (), str(error)
    return found, ""


def _device_rate(devices: Sequence[Device]) -> int:
    return audio.pick(devices, None).rate if devices else _USUAL_RATE


# --- words --------------------------------------------------------------------------------------------------


def _kernels_words(report: Report) -> str:
    if report.cache_problem:
        return f"compiled in {report.warm_seconds:.1f} s, at every start anew: {report.cache_problem}"
    if report.compiled:
        return f"compiled already, loaded in {report.warm_seconds:.1f} s"
    return f"compiled now, in {report.warm_seconds:.1f} s; the next start finds them on disk"


def _threads_words(report: Report) -> str:
    return "one multiplies" if report.threads == 1 else f"{report.threads} multiply"


def _speed_words(report: Report) -> str:
    return (
        f"{report.factor_p50:.2f} times real time (p50 of runs of {RUN} samples), "
        f"{report.factor_p99:.2f} in the slowest hundredth (p99), {report.factor:.2f} overall"
    )


def _scheduling_words(report: Report) -> str:
    if report.scheduling == "realtime":
        return "the generator gets real-time scheduling (SCHED_FIFO)"
    if report.cores < 2:
        return "no real-time scheduling on a single core: it would starve everything else"
    if report.rtprio_limit is None:
        return "this system has no SCHED_FIFO to ask for: the generator runs like any other thread"
    return (
        f"no real-time scheduling (the limit RTPRIO is {report.rtprio_limit}). To allow it: write the lines "
        "'@audio - rtprio 95' and '@audio - memlock unlimited' to /etc/security/limits.d/audio.conf, type "
        "sudo usermod -aG audio $USER, and log in again"
    )


def _device_words(report: Report) -> str:
    if report.device_problem:
        return report.device_problem
    default = audio.pick(report.devices, None)
    count = len(report.devices)
    return f"{count} {'device' if count == 1 else 'devices'}, the default is {default} at {default.rate} Hz"
