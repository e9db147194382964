"""What the doctor measures and says. Speed is never asserted: slow machines are reports made by hand."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streamer import doctor
from streamer.audio import Device
from streamer.bench import random_weights
from streamer.doctor import Report
from streamer.generator import RUN
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint, Provenance
from streamer.models.quantisers import Quantiser
from streamer.models.specs import WaveNetSpec

TINY = WaveNetSpec((1, 2, 4, 8), residual=12, gate=20, skip=18, output=33, levels=50)
CARD = Device(3, "Card", "ALSA", 2, 44_100, 0.03, is_default=True)
HEALTHY = Report(
    model="bell",
    processor="Abacus",
    cores=4,
    precision="int8dot",
    price="+0.0020 bits a sample",
    hint="",
    threads=1,
    compiled=True,
    warm_seconds=0.7,
    cache_problem="",
    factor=3.1,
    factor_p50=3.2,
    factor_p99=2.5,
    run_ms_p99=1.6,
    scheduling="realtime",
    rtprio_limit=95,
    oversleep_ms_p99=0.1,
    devices=(CARD,),
    device_problem="",
    lead_ms=50,
    margin_ms=6.2,
)
QUICK_BLOCK_MS = 1000 * doctor.QUICK_BLOCK_FRAMES / 192_000  # of the fastest device
WORDS = [
    "processor",
    "kernels",
    "precision",
    "threads",
    "speed",
    "scheduler",
    "jitter",
    "sound",
    "lead",
    "answer",
    "verdict",
]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[WaveNetSpec], Checkpoint]:
    def to_file(spec: WaveNetSpec) -> Checkpoint:
        return checkpoint.save(
            tmp_path / f"tiny{checkpoint.SUFFIX}",
            spec=spec,
            quantiser=Quantiser(levels=spec.levels),
            sample_rate=8000,
            tensors=random_weights(spec),
            provenance=Provenance(),
        )

    return to_file


def line(report: Report, word: str) -> str:
    (found,) = [text for first, text in report.findings() if first == word]
    return found


def test_examination_measures_and_says_everything(save: Callable[[WaveNetSpec], Checkpoint]) -> None:
    model = save(TINY)
    doctor.examine("tiny", model, seconds=0.01)
    report = doctor.examine("tiny", model, seconds=0.2)
    assert report.compiled  # by the examination before
    assert 0 < report.factor_p99 <= report.factor_p50
    assert report.factor > 0
    assert report.run_ms_p99 == pytest.approx(1000 * RUN / 8000 / report.factor_p99)
    assert report.oversleep_ms_p99 > 0
    assert report.lead_ms >= doctor.LEAD_FLOOR_MS[report.scheduling]
    assert report.margin_ms > max(report.run_ms_p99, report.oversleep_ms_p99) + QUICK_BLOCK_MS
    assert bool(report.devices) != bool(report.device_problem)
    assert [text.split()[0] for text in report.as_text().splitlines() if text] == [
        word for word in WORDS if word not in ("lead", "answer") or report.playable
    ]
    assert json.loads(report.as_json())["verdict"] == report.verdict
    assert report.precision == "fp32"
    assert "streamer price MODEL AUDIO" in line(report, "precision")
    assert report.threads >= 1


def test_what_is_asked_for_is_examined(
    save: Callable[[WaveNetSpec], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.threads.cores", lambda: 2)
    report = doctor.examine("tiny", save(TINY), seconds=0.01, precision="int8", thread_count=2)
    assert line(report, "precision") == "int8, its price is not measured"
    assert line(report, "threads") == "2 multiply"
    assert report.cores == 2
    assert not [thread for thread in threading.enumerate() if "helper" in thread.name]


def test_healthy_machine_plays() -> None:
    assert HEALTHY.playable
    assert line(HEALTHY, "precision") == "int8dot, +0.0020 bits a sample"
    assert line(HEALTHY, "threads") == "one multiplies"
    assert HEALTHY.verdict == "bell plays in real time here."
    assert "3.20 times real time" in line(HEALTHY, "speed")
    assert line(HEALTHY, "sound") == "1 device, the default is 3 Card (ALSA) at 44100 Hz"
    assert line(HEALTHY, "lead").startswith("50 ms is safe here")
    assert line(HEALTHY, "answer") == "a cue waits 6 ms in blocks of 128 frames"


@pytest.mark.parametrize(
    "factors",
    [
        pytest.param({"factor": 0.8, "factor_p50": 0.9}, id="throughout"),
        pytest.param({"factor": 0.9, "factor_p50": 1.4}, id="long-runs-only"),
    ],
)
def test_model_that_is_too_slow_is_refused_plainly(factors: dict[str, float]) -> None:
    slow = replace(HEALTHY, **factors)
    assert not slow.playable
    assert "bell will not play in real time here" in slow.as_text()
    assert f"{factors['factor']:.2f} s of sound" in slow.verdict
    assert not {"lead", "answer"} & {text.split()[0] for text in slow.as_text().splitlines()}
    assert json.loads(slow.as_json())["playable"] is False


def test_model_that_just_keeps_up_is_warned_of() -> None:
    narrow = replace(HEALTHY, factor=1.2, factor_p50=1.25)
    assert narrow.playable
    assert "only just" in narrow.verdict


def test_missing_device_is_said_with_its_remedy() -> None:
    deaf = replace(HEALTHY, devices=(), device_problem="PortAudio is missing: sudo apt install libportaudio2")
    assert deaf.playable
    assert line(deaf, "sound").endswith("sudo apt install libportaudio2")
    assert "once there is a sound device" in deaf.verdict


def test_scheduling_is_said_with_the_way_to_get_it() -> None:
    refused = line(replace(HEALTHY, scheduling="normal", rtprio_limit=0), "scheduler")
    for word in ("RTPRIO is 0", "@audio - rtprio 95", "limits.d/audio.conf", "usermod -aG audio"):
        assert word in refused
    assert "SCHED_FIFO" in line(HEALTHY, "scheduler")
    assert "limits.d" not in line(replace(HEALTHY, scheduling="normal", cores=1), "scheduler")
    assert "limits.d" not in line(replace(HEALTHY, scheduling="normal", rtprio_limit=None), "scheduler")


def test_kernels_that_cannot_be_kept_are_said_to_compile_at_every_start() -> None:
    assert "compiled already" in line(HEALTHY, "kernels")
    assert "compiled now" in line(replace(HEALTHY, compiled=False), "kernels")
    homeless = replace(HEALTHY, compiled=False, cache_problem="/cache cannot be written")
    assert "at every start anew: /cache cannot be written" in line(homeless, "kernels")


@pytest.mark.parametrize(
    ("scheduling", "run_ms", "oversleep_ms", "device_rate", "lead_ms"),
    [
        ("realtime", 1.0, 0.1, 48_000, 50),  # 21.3 + 20
        ("normal", 1.0, 0.1, 48_000, 230),  # 21.3 + 200
        ("realtime", 40.0, 0.5, 48_000, 190),  # 21.3 + 4 * 41
        ("realtime", 1.0, 0.1, 16_000, 90),  # 64 + 20
    ],
)
def test_safe_lead(
    scheduling: str, run_ms: float, oversleep_ms: float, device_rate: int, lead_ms: int
) -> None:
    assert doctor.safe_lead_ms(scheduling, run_ms, oversleep_ms, device_rate) == lead_ms
