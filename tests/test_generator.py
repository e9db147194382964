"""Cues at exact places: what was heard is what an offline rendering with the same cues gives, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from playing import MODEL_RATE, SPECS, new_voice, play, save_model, tape_of, wait_for

from streamer.controls import find
from streamer.cues import ASAP, CLEAR, REFUSED, Entry, Taken
from streamer.generator import LANES
from streamer.lanes import DEPTH, DRIFT, RAMP, SET
from streamer.models.checkpoint import Checkpoint
from streamer.voice import Voice

LEAD = 2000
MARGIN = 100
RUNWAY = 70

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(folder / f"{name}.safetensors", spec) for name, spec in SPECS.items()}


def entry(control: str, value: float, at: int = ASAP, kind: int = SET, length: int = 0) -> Entry:
    return Entry(LANES[control], kind, value, length, at)


def live_voice(model: Checkpoint) -> Voice:
    voice = new_voice(model, LEAD / MODEL_RATE)
    voice.keep(LEAD / MODEL_RATE, MARGIN / MODEL_RATE, RUNWAY / MODEL_RATE, 3.0)
    voice.fill()
    return voice


def rendered(model: Checkpoint, cues: Sequence[Entry], count: int) -> Floats:
    """What a voice writes that is given all cues beforehand."""
    voice = new_voice(model, count / MODEL_RATE)
    voice.cues.push(cues)
    voice.fill()
    assert voice.rewinds == 0
    return voice.tape.read(0, count)


def places(taken: Sequence[Taken]) -> list[Entry]:
    """The entries, each where it took effect."""
    return [replace(each.entry, at=each.at) for each in taken]


def controls_of(kinds: Sequence[str]) -> st.SearchStrategy[tuple[str, float]]:
    rows = [find(name) for name in kinds]
    return st.one_of(
        st.tuples(st.just(row.name), st.integers(0, min(100, int(row.maximum or 0))).map(float))
        if row.type == "int"
        else st.tuples(st.just(row.name), st.floats(row.minimum or 0, row.maximum or 0, width=16))
        for row in rows
    )


CONTINUOUS = [name for name in LANES if find(name).is_continuous]
WHEN = st.one_of(st.just(ASAP), st.integers(0, 2 * LEAD))
LENGTH = st.integers(1, 3000)

sets = st.builds(lambda c, at: entry(*c, at=at), controls_of(list(LANES)), WHEN)
moves = st.builds(
    lambda c, at, kind, length: entry(*c, at=at, kind=kind, length=length),
    controls_of(CONTINUOUS), WHEN, st.sampled_from([RAMP, DRIFT]), LENGTH,
)  # fmt: skip
clears = st.builds(lambda at: Entry(0, CLEAR, 0.0, 0, at), WHEN)
batches = st.lists(st.one_of(sets, sets, moves, moves, clears), max_size=4)
performances = st.lists(st.tuples(batches, st.integers(0, LEAD)), min_size=1, max_size=12)
"""Cues, the places counted from the play head, and how much is played after them."""


@settings(max_examples=120)
@given(name=st.sampled_from(sorted(SPECS)), performance=performances)
@example("rnn", [([entry("repetition", 20)], LEAD), ([entry("seed", 3)], 7), ([entry("repetition", 5)], 900)])
@example(
    "wave", [([entry("repetition", 20)], 2), ([entry("repetition", 0)], 2), ([entry("repetition", 9)], 900)]
)
@example("rnn", [([entry("top_p", 1, 50, DRIFT, 300), entry("centre", 9, 60, RAMP, 900)], 1), ([], LEAD)] * 2)
def test_what_was_heard_is_what_the_cues_give_at_their_places(
    models: dict[str, Checkpoint], name: str, performance: list[tuple[list[Entry], int]]
) -> None:
    voice, heard = live_voice(models[name]), [np.zeros(0, np.float32)]
    for cues, count in performance:
        now = voice.tape.play_head
        voice.cues.push([cue if cue.at == ASAP else replace(cue, at=now + cue.at) for cue in cues])
        voice.fill()
        heard.append(play(voice.tape, count))
        voice.fill()
    sound = np.concatenate([*heard, play(voice.tape, voice.tape.lead)])
    expected = rendered(models[name], places(voice.cues.reap()), len(sound))
    np.testing.assert_array_equal(sound, expected)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("position", [101, 777, 1999, 2000, 2500])
def test_a_cue_changes_all_from_its_place_on_and_nothing_before(
    models: dict[str, Checkpoint], name: str, position: int
) -> None:
    voice, before = live_voice(models[name]), tape_of(models[name], 4000 / MODEL_RATE)
    voice.cues.push([entry("seed", 7, position)])
    voice.fill()
    assert [taken.at for taken in voice.cues.reap()] == [position]
    assert voice.rewinds == (position < LEAD)
    heard = play(voice.tape, LEAD)
    voice.fill()
    heard = np.concatenate([heard, play(voice.tape, LEAD)])
    np.testing.assert_array_equal(heard[:position], before[:position])
    assert (heard[position : position + 200] != before[position : position + 200]).mean() > 0.8
    np.testing.assert_array_equal(heard, rendered(models[name], [entry("seed", 7, position)], 4000))


def test_cues_out_of_order_give_what_they_give_in_order(models: dict[str, Checkpoint]) -> None:
    cues = [
        entry("temperature", 0.5, 900),
        entry("temperature", 2.0, 1200, RAMP, 500),
        entry("temperature", 0.3, 1300, DRIFT, 100),
        entry("top_k", 3, 1500),
    ]
    expected = rendered(models["wave"], cues, LEAD)
    for order in ([3, 1, 0, 2], [2, 3, 1, 0]):
        voice = live_voice(models["wave"])
        for index in order:
            voice.cues.push([cues[index]])
            voice.fill()
        assert voice.rewinds == 4
        np.testing.assert_array_equal(play(voice.tape, LEAD), expected)


def test_cues_of_one_batch_take_effect_at_one_place(models: dict[str, Checkpoint]) -> None:
    voice = live_voice(models["rnn"])
    play(voice.tape, 300)
    voice.cues.push(
        [entry("seed", 1), entry("top_k", 9, 250), entry("centre", 1.0), entry("top_p", 0.5, 900)]
    )
    voice.fill()
    assert [taken.at for taken in voice.cues.reap()] == [300 + MARGIN] * 3 + [900]
    assert voice.rewinds == 1


def test_what_is_cleared_is_never_heard(models: dict[str, Checkpoint]) -> None:
    voice = live_voice(models["wave"])
    voice.cues.push([entry("seed", 1, 500), entry("seed", 2, 1000), entry("temperature", 0.0, 1500)])
    voice.fill()
    play(voice.tape, 700)
    voice.cues.push([Entry(0, CLEAR, 0.0)])
    voice.fill()
    heard = tape_of(models["wave"], LEAD / MODEL_RATE)[:500], play(voice.tape, LEAD - 700)
    expected = rendered(models["wave"], [entry("seed", 1, 500)], LEAD)
    np.testing.assert_array_equal(heard[0], expected[:500])
    np.testing.assert_array_equal(heard[1], expected[700:])


def test_a_change_for_which_there_is_no_room_is_refused_and_changes_nothing(
    models: dict[str, Checkpoint],
) -> None:
    voice = live_voice(models["wave"])
    voice.cues.push([entry("seed", 1.0 + turn, 1000 + turn) for turn in range(DEPTH)])
    voice.cues.push([entry("seed", 0.0, 600), entry("top_k", 3, 700)])
    voice.fill()
    taken = voice.cues.reap()
    assert [each.at for each in taken[DEPTH - 1 :]] == [1000 + DEPTH - 1, REFUSED, 700]
    kept = places([each for each in taken if each.at != REFUSED])
    np.testing.assert_array_equal(play(voice.tape, LEAD), rendered(models["wave"], kept, LEAD))


# --- the margin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0, 1, MARGIN, LEAD - 1])
def test_a_cue_comes_no_nearer_than_the_margin(models: dict[str, Checkpoint], margin: int) -> None:
    voice = live_voice(models["wave"])
    play(voice.tape, 500)
    voice.fill()
    voice.tape.margin = margin
    for wanted in (ASAP, 0, 499, 500 + margin):
        voice.cues.push([entry("seed", wanted, wanted)])
        voice.fill()
        assert [taken.at for taken in voice.cues.reap()] == [500 + margin]


def test_behind_all_that_is_written_there_is_nothing_to_take_back(models: dict[str, Checkpoint]) -> None:
    voice = live_voice(models["rnn"])
    play(voice.tape, LEAD - 50)
    voice.cues.push([entry("seed", 4)])
    voice.fill()
    assert [taken.at for taken in voice.cues.reap()] == [LEAD]
    assert voice.rewinds == 0


@pytest.mark.parametrize("name", SPECS)
def test_a_gesture_leaves_the_margin_and_is_heard_as_it_was_made(
    models: dict[str, Checkpoint], name: str
) -> None:
    voice, heard, random = live_voice(models[name]), [], np.random.default_rng(2)
    voice.start()
    for _ in range(100):  # as fast as the generator can, a hundred cues in a second of sound
        voice.cues.push([entry("temperature", random.uniform(0, 2))])
        heard.append(play(voice.tape, 90))
        assert voice.tape.lead >= MARGIN - 90
        wait_for(lambda: voice.cues.is_empty and voice.tape.lead >= MARGIN + 90, "the margin")
        heard.append(play(voice.tape, 70))
        assert voice.tape.lead >= 20
        wait_for(lambda: voice.tape.lead >= MARGIN, "the margin")
    voice.stop()
    voice.close()
    cues = places(voice.cues.reap())
    assert len({cue.at for cue in cues}) == 100
    sound = np.concatenate(heard)
    np.testing.assert_array_equal(sound, rendered(models[name], cues, len(sound)))


@pytest.mark.parametrize("name", SPECS)
def test_an_answer_that_comes_too_late_is_given_at_a_later_place(
    models: dict[str, Checkpoint], name: str
) -> None:
    voice, heard = live_voice(models[name]), [np.zeros(0, np.float32)]
    voice.keep(LEAD / MODEL_RATE, 0.0, LEAD / MODEL_RATE, 3.0)
    voice.start()

    def late_again() -> bool:
        wait_for(lambda: voice.tape.lead == LEAD, "a full lead")
        voice.cues.push([entry("seed", len(heard))])
        while not voice.cues.is_empty and voice.tape.lead > 100:  # as fast as Python can
            heard.append(play(voice.tape, 20))
        wait_for(lambda: voice.cues.is_empty, "an answer")
        return voice.deferred >= 3

    wait_for(late_again, "answers that come too late")
    voice.close()
    sound = np.concatenate([*heard, play(voice.tape, voice.tape.lead)])
    np.testing.assert_array_equal(sound, rendered(models[name], places(voice.cues.reap()), len(sound)))
