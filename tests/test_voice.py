"""A voice against plain Python: the same samples, however its writing is cut and whoever asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from playing import LIVE, MODEL_RATE, SPECS, new_voice, play, save_model, tape_of, wait_for

from streamer import beginnings
from streamer.generator import WINDOW
from streamer.kernels.rng import uniform
from streamer.kernels.sampling import new_scratch, sample
from streamer.kernels.stepper import Stepper
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import StreamerError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import WaveNetSpec
from streamer.voice import HISTORY, Start, Voice

Floats = NDArray[np.float32]

SECONDS = 0.1
SAMPLES = round(SECONDS * MODEL_RATE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(folder / f"{name}.safetensors", spec) for name, spec in SPECS.items()}


def generated(model: Checkpoint, count: int, key: int = 1, **controls: float) -> NDArray[np.int64]:
    """Codes of a model that has heard silence, drawn one by one in Python."""
    wanted = {**LIVE, **controls}
    stepper = Stepper(model.spec, model.tensors)
    if isinstance(model.spec, WaveNetSpec):
        stepper.feed(np.full(model.spec.receptive_field, model.quantiser.silence))
    codes = np.empty(count, np.int64)
    for position in range(count):
        logits = bent(stepper.logits(), codes[max(0, position - WINDOW) : position], wanted)
        u = uniform(int(wanted["seed"]), key, position)
        codes[position] = drawn(logits, wanted, u)
        stepper.feed(codes[position : position + 1])
    return codes


def bent(logits: Floats, heard: NDArray[np.int64], wanted: dict[str, float]) -> Floats:
    """Logits pulled to the centre, and less what has been heard lately."""
    levels = len(logits)
    away = (2 * np.arange(levels) / levels - 1) ** 2
    shares = np.bincount(heard, minlength=levels) / WINDOW
    return np.float32(logits - wanted["centre"] * away - wanted["repetition"] * shares)


def drawn(logits: Floats, wanted: dict[str, float], u: float) -> int:
    names = ("temperature", "top_k", "top_p", "typical_p")
    temperature, top_k, top_p, typical_p = (wanted[name] for name in names)
    return sample(logits, new_scratch(len(logits)), temperature, int(top_k), top_p, typical_p, u)


def written(voice: Voice) -> Floats:
    voice.fill()
    return voice.tape.read(0, voice.tape.write_head)


# --- what is written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quantiser"),
    [
        *((name, Quantiser(preemphasis=0.85, scale=4.0)) for name in SPECS),
        ("wave", Quantiser("mulaw-floor")),  # the other has a predictor, which wants mulaw
        ("wave", Quantiser("mulaw-mehri", scale=0.5)),
        ("wave", Quantiser("linear-mehri", preemphasis=0.5)),
    ],
)
def test_the_tape_holds_the_generated_codes_decoded(
    models: dict[str, Checkpoint], name: str, quantiser: Quantiser
) -> None:
    model = replace(models[name], quantiser=quantiser)
    codes = generated(model, SAMPLES, seed=3)
    assert len(set(codes)) > 20
    np.testing.assert_allclose(tape_of(model, SECONDS, seed=3), quantiser.decode(codes), atol=1e-5)


@pytest.mark.parametrize(
    "controls",
    [
        {"seed": 2**31 - 1},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.5},
        {"typical_p": 0.5},
        {"centre": 5.0},
        {"repetition": 20.0},
        {"temperature": 0.0},
    ],
)
def test_every_live_control_is_followed(models: dict[str, Checkpoint], controls: dict[str, float]) -> None:
    model = models["rnn"]
    heard = tape_of(model, SECONDS, **controls)
    expected = model.quantiser.decode(generated(model, SAMPLES, **controls))
    np.testing.assert_allclose(heard, expected, atol=1e-5)
    assert not np.array_equal(heard, tape_of(model, SECONDS))


def test_voices_of_one_seed_differ_by_their_number(models: dict[str, Checkpoint]) -> None:
    voice = new_voice(models["rnn"], SECONDS, 2)
    expected = models["rnn"].quantiser.decode(generated(models["rnn"], SAMPLES, key=2))
    np.testing.assert_allclose(written(voice), expected, atol=1e-5)
    assert not np.array_equal(written(voice), tape_of(models["rnn"], SECONDS))


def test_takes_of_a_moment_differ(models: dict[str, Checkpoint]) -> None:
    voice = Voice("again", models["rnn"], LIVE, SECONDS, number=3, start=Start(take=2))
    expected = models["rnn"].quantiser.decode(generated(models["rnn"], SAMPLES, key=2 * 256 + 3))
    np.testing.assert_allclose(written(voice), expected, atol=1e-5)


def test_without_randomness_the_seed_is_nothing(models: dict[str, Checkpoint]) -> None:
    first, second = (tape_of(models["wave"], SECONDS, temperature=0.0, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(first, second)


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(SPECS)),
    lead=st.integers(160, 900),
    blocks=st.lists(st.integers(1, 700), min_size=1, max_size=20),
)
def test_the_samples_are_the_same_however_the_writing_is_cut(
    models: dict[str, Checkpoint], name: str, lead: int, blocks: list[int]
) -> None:
    voice = new_voice(models[name], lead / MODEL_RATE, seed=7)
    for block in blocks:
        voice.fill()
        play(voice.tape, min(block, voice.tape.lead))
    sound = written(voice)
    np.testing.assert_array_equal(sound, tape_of(models[name], 1.0, seed=7)[: len(sound)])


@pytest.mark.parametrize("ids", [0, 3])
def test_a_conditioned_model_is_given_its_first_condition(
    tmp_path_factory: pytest.TempPathFactory, ids: int
) -> None:
    spec = WaveNetSpec((1, 2), residual=4, gate=4, skip=4, output=4, condition=2, condition_ids=ids)
    model = save_model(tmp_path_factory.mktemp("model") / "conditioned.safetensors", spec)
    stepper = Stepper(spec, model.tensors, 0 if ids else np.zeros(2))
    stepper.feed(np.full(spec.receptive_field, model.quantiser.silence))
    first = int(stepper.logits().argmax())
    expected = model.quantiser.decode([first])[0]
    assert tape_of(model, SECONDS, temperature=0.0)[0] == pytest.approx(expected)


# --- from where it goes on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("heard", [1, 5, 1000])
def test_a_model_goes_on_from_what_it_has_heard(models: dict[str, Checkpoint], name: str, heard: int) -> None:
    model = models[name]
    codes = generated(model, heard + SAMPLES, temperature=0.0)
    before, after = codes[:heard], codes[heard:]
    tail = np.float32(model.quantiser.decode(before))
    start = Start(codes=before, tail=tail, position=heard)
    voice = Voice("primed", model, {"temperature": 0.0}, SECONDS, number=1, start=start)
    voice.fill()
    np.testing.assert_array_equal(voice.tape.read(0, heard), tail)
    expected = model.quantiser.decode(codes)[heard:]
    np.testing.assert_allclose(voice.tape.read(heard, SAMPLES), expected, atol=1e-5)
    np.testing.assert_array_equal(voice.codes(heard + 50, 60), [*before[-10:], *after[:50]])


@pytest.mark.parametrize("name", SPECS)
def test_what_a_primed_model_repeats_counts_what_it_has_heard(
    models: dict[str, Checkpoint], name: str
) -> None:
    codes = generated(models[name], 2 * SAMPLES, repetition=20.0)
    start = Start(codes[:SAMPLES], position=SAMPLES)
    voice = Voice("primed", models[name], {"repetition": 20.0}, SECONDS, number=1, start=start)
    voice.fill()
    np.testing.assert_array_equal(voice.codes(2 * SAMPLES, SAMPLES), codes[SAMPLES:])


@pytest.mark.parametrize("place", [700, 1234])
def test_who_takes_up_another_voice_keeps_its_frames_and_its_clock(
    models: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """In the same take it is the same sound; where less is remembered, the clock is right all the same."""
    model = models["rnn"]
    voice = new_voice(model, SECONDS, seed=5)
    voice.fill()
    start = beginnings.from_voice(voice, place, take=0)
    again = Voice("again", model, {**LIVE, "seed": 5}, SECONDS, number=1, start=start)
    again.fill()
    np.testing.assert_array_equal(
        again.codes(SAMPLES, SAMPLES - place), voice.codes(SAMPLES, SAMPLES - place)
    )
    monkeypatch.setattr(beginnings, "_REMEMBERED_SECONDS", 0.02)
    for _ in range(3):
        start = beginnings.from_voice(again, start.position + 333, take=1)
        assert start.first > 0
        assert start.first % 8 == 0  # its slowest frame
        again = Voice("again", model, LIVE, SECONDS, number=1, start=start)
        assert again.ahead == voice.ahead
        again.fill()


@pytest.mark.parametrize("name", SPECS)
def test_a_snapshot_goes_on_exactly(models: dict[str, Checkpoint], name: str) -> None:
    voice = new_voice(models[name], 1.0, seed=5)
    voice.keep(1.0, 0.01, 0.005, 3.0)
    voice.fill()
    play(voice.tape, 3001)
    shot = voice.snapshot(0.05)
    assert shot.position == 3001 + 160 + 80
    start = Start(memory=shot.memory, tail=shot.tail, position=shot.position)
    other = Voice("again", models[name], {**LIVE, "seed": 5}, SECONDS, number=1, start=start, sibling=voice)
    expected = tape_of(models[name], 1.0, seed=5)
    assert other.tape.oldest == shot.position - round(0.05 * MODEL_RATE)
    for each in (voice, other):
        each.fill()
        first, last = other.tape.oldest, shot.position + SAMPLES
        np.testing.assert_array_equal(each.tape.read(first, last - first), expected[first:last])


def test_codes_that_are_no_longer_kept_are_left_out(models: dict[str, Checkpoint]) -> None:
    voice = new_voice(models["wave"], SECONDS)
    voice.fill()
    assert len(voice.codes(100, 1000)) == 100
    sound = models["wave"].quantiser.decode(voice.codes(SAMPLES, SAMPLES))
    np.testing.assert_allclose(voice.tape.read(0, SAMPLES), sound, atol=1e-5)


# --- the thread ---------------------------------------------------------------------------------------------


def test_the_thread_keeps_the_lead_filled_and_goes_on_where_it_was_stopped(
    models: dict[str, Checkpoint],
) -> None:
    voice = new_voice(models["wave"], SECONDS)
    heard = []
    for _ in range(3):
        voice.start()
        assert voice.wait_ready(60)
        wait_for(lambda: voice.tape.lead == SAMPLES, "a full lead")
        heard.append(play(voice.tape, SAMPLES // 2))
        wait_for(lambda: voice.tape.lead == SAMPLES, "a full lead")
        voice.stop()
        assert voice.scheduling in ("realtime", "normal")
    heard.append(play(voice.tape, SAMPLES // 2))
    assert voice.tape.lead == SAMPLES // 2  # nobody writes any more
    sound = np.concatenate(heard)
    np.testing.assert_array_equal(sound, tape_of(models["wave"], 1.0)[: len(sound)])


def test_a_snapshot_of_a_voice_that_plays_leaves_its_sound_alone(models: dict[str, Checkpoint]) -> None:
    voice = new_voice(models["rnn"], SECONDS)
    voice.keep(SECONDS, 0.02, 0.005, 3.0)
    voice.start()
    heard = []
    for _ in range(20):
        wait_for(lambda: voice.tape.lead >= 500, "more than margin and runway")
        heard.append(play(voice.tape, 100))
        assert voice.snapshot(0.01).position == voice.tape.play_head + 320 + 80
    voice.close()
    np.testing.assert_array_equal(np.concatenate(heard), tape_of(models["rnn"], 1.0)[:2000])


def test_waiting_for_a_voice_that_does_not_write_ends(models: dict[str, Checkpoint]) -> None:
    assert not new_voice(models["wave"], SECONDS).wait_ready(0.01)


def test_warming_writes_nothing(models: dict[str, Checkpoint]) -> None:
    voice = new_voice(models["rnn"], SECONDS)
    voice.warm()
    assert voice.tape.write_head == 0
    assert voice.rewinds == 0
    np.testing.assert_array_equal(written(voice), tape_of(models["rnn"], SECONDS))


def test_the_realtime_factor_is_known_once_something_is_written(models: dict[str, Checkpoint]) -> None:
    voice = new_voice(models["wave"], SECONDS)
    assert voice.realtime_factor == 0
    voice.fill()
    assert voice.realtime_factor > 0


def test_lead_and_margin_can_be_changed(models: dict[str, Checkpoint]) -> None:
    voice = Voice("live", models["wave"], {}, SECONDS, longest_lead=2 * SECONDS)
    for wanted, kept in ((0.15, 0.15), (9.0, 0.2), (0.001, 0.01)):
        voice.keep(wanted, 0.003, 0.01, 2.0)
        assert voice.tape.target == round(kept * MODEL_RATE)
    assert (voice.tape.margin, voice.tape.runway, voice.tape.pace_ns) == (48, 160, 31_250)
    voice.keep(SECONDS, 0.003, 60.0, 2.0)
    assert voice.tape.runway == MODEL_RATE


# --- what cannot be a voice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [0.0, 0.009, HISTORY + 1, float("inf"), float("nan")])
def test_an_impossible_lead_is_refused(models: dict[str, Checkpoint], lead: float) -> None:
    with pytest.raises(StreamerError, match="choose 10 to 60000 ms"):
        new_voice(models["wave"], lead)
