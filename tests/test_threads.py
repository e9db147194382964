"""How many threads are taken, that they change no sample, and that none is left behind."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from playing import new_voice, save_model, tape_of

from streamer import threads
from streamer.engine import Engine
from streamer.library import Library
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.models.specs import SampleRnnSpec

WIDE = SampleRnnSpec(frames=(8, 2), dim=160, rnn_layers=1, embedding=8)
"""Some of its matrices are large enough to be shared."""


class Runner:
    """Runs at a made-up real-time factor for each number of threads."""

    def __init__(self, *factors: float) -> None:
        self.factors = factors
        self.used, self.tried = 1, 0

    def use(self, threads: int) -> None:
        self.used = threads

    def trial(self, seconds: float) -> float:
        assert 0.01 <= seconds <= 0.1
        self.tried += 1
        return self.factors[self.used - 1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_model(tmp_path_factory.mktemp("models") / "wide.safetensors", WIDE)


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: a helper that has no core of its own only comes too late to help."""
    monkeypatch.setattr(threads, "cores", lambda: 3)


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("streamer-helper")]


@pytest.mark.parametrize(
    ("factors", "used", "tried"),
    [
        ([1.31, 9.0, 9.0], 1, 1),  # comfortable
        ([1.29, 1.5, 1.4], 2, 3),
        ([0.2, 0.3, 0.4], 3, 3),
        ([0.4, 0.3, 0.2], 1, 3),
    ],
)
def test_one_thread_is_taken_if_it_is_comfortable_and_else_the_fastest_number(
    three_cores: None, factors: list[float], used: int, tried: int
) -> None:
    runner = Runner(*factors)
    threads.settle(runner, None)
    assert (runner.used, runner.tried) == (used, tried)


def test_on_one_core_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 1)
    runner = Runner(0.1)
    threads.settle(runner, None)
    assert (runner.used, runner.tried) == (1, 0)


def test_on_many_cores_not_all_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 128)
    runner = Runner(*np.linspace(0.1, 0.9, 128))
    threads.settle(runner, None)
    assert runner.used == threads.MOST_TRIED


def test_what_is_asked_for_is_taken_untried(three_cores: None) -> None:
    runner = Runner(0.1, 0.1, 0.9)
    threads.settle(runner, 2)
    assert (runner.used, runner.tried) == (2, 0)


@pytest.mark.parametrize("wrong", [0, -1, 4, 10**9])
def test_more_threads_than_cores_are_refused(three_cores: None, model: Checkpoint, wrong: int) -> None:
    with pytest.raises(StreamerError, match=f"^{wrong} threads are impossible here: choose auto or 1 to 3,"):
        Engine("wide", model, Library(), threads=wrong)
    assert helpers() == []


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= threads.cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert threads.cores() == len(os.sched_getaffinity(0))


def test_threads_change_no_sample_and_end_with_the_voice(model: Checkpoint) -> None:
    voice = new_voice(model, 0.2)
    for count in (3, 1, 2):
        voice.use(count)
        assert (voice.threads, len(helpers())) == (count, count - 1)
    voice.fill()
    np.testing.assert_array_equal(voice.tape.read(0, voice.tape.lead), tape_of(model, 0.2))
    voice.close()
    assert helpers() == []


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="the system has one scheduler")
def test_those_that_help_stay_under_the_normal_scheduler(model: Checkpoint) -> None:
    voice = new_voice(model, 0.2)
    voice.use(2)
    voice.start()
    assert voice.wait_ready(60)
    scheduling = [
        os.sched_getscheduler(thread.native_id or 0)
        for thread in threading.enumerate()
        if thread.name.startswith("streamer-helper")
    ]
    voice.close()
    assert scheduling == [os.SCHED_OTHER]


def test_a_voice_that_is_dropped_leaves_no_threads(model: Checkpoint) -> None:
    voice = new_voice(model, 0.2)
    voice.use(2)
    del voice
    assert helpers() == []


def test_a_trial_measures_and_leaves_no_trace(model: Checkpoint) -> None:
    voice = new_voice(model, 0.2)
    assert voice.trial(0.01) > 0
    assert voice.realtime_factor == 0
    assert voice.tape.write_head == 0
    voice.fill()
    np.testing.assert_array_equal(voice.tape.read(0, voice.tape.lead), tape_of(model, 0.2))


def test_an_engine_that_needs_threads_takes_them_and_leaves_none(
    three_cores: None, model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "COMFORTABLE", np.inf)
    engine = Engine("wide", model, Library())
    voice = engine.voice(1)
    assert engine.voice_status(1)["threads"] == voice.threads
    assert len(helpers()) == voice.threads - 1
    engine.fill()
    np.testing.assert_array_equal(voice.tape.read(0, 8000), tape_of(model, 0.5))
    engine.close()
    assert helpers() == []
