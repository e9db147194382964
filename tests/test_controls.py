"""The table of controls: what it accepts, clamps and refuses, and that everything derived from it agrees."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.controls import (
    COMMANDS,
    CONTROLS,
    MAX_TEXT,
    PREFIX,
    REPLIES,
    Control,
    as_json,
    as_markdown,
    find,
    is_clamped,
    normalized,
    parse,
    to_normalized,
)
from streamer.models.errors import ControlError

DOCS = Path(__file__).parent.parent / "docs" / "controls.md"
NUMERIC = [control for control in CONTROLS if control.type in ("float", "int")]
SWITCHES = [control for control in CONTROLS if control.type in ("bool", "trigger")]

by_name = pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
numeric = pytest.mark.parametrize("control", NUMERIC, ids=lambda control: control.name)


def test_names_and_addresses_are_unique() -> None:
    assert len({control.name for control in CONTROLS}) == len(CONTROLS)
    addresses = [
        *(control.address for control in CONTROLS),
        *(each.address for each in (*COMMANDS, *REPLIES)),
    ]
    shared = {
        f"{PREFIX}<control>",
        f"{PREFIX}voice/<n>/<control>",
    }  # what is set comes back under its address
    assert {address for address in addresses if addresses.count(address) > 1} == shared


def test_every_control_has_a_place_that_follows_it() -> None:
    voice = {control.name for control in CONTROLS if control.scope == "voice"}
    assert {"temperature", "gain", "speed", "model"} <= voice
    assert "volume" not in voice
    continuous = {control.name for control in CONTROLS if control.is_continuous}
    assert {"temperature", "centre", "gain", "pan", "speed", "volume"} <= continuous
    assert continuous.isdisjoint({"top_k", "seed", "freeze", "reset", "model", "lead"})


@by_name
def test_a_control_is_found_by_name_and_by_address(control: Control) -> None:
    assert control.name.isidentifier()
    assert control.address == PREFIX + control.name
    assert control.voice_address(3) == f"{PREFIX}voice/3/{control.name}"
    assert find(control.name) is control
    assert find(control.address) is control
    assert find(control.name.replace("_", "-")) is control


@by_name
def test_a_default_is_a_value_that_the_control_takes(control: Control) -> None:
    if control.default is not None:
        taken = parse(control, control.default)
        assert taken == control.default
        assert type(taken) is type(control.default)


def test_an_unknown_name_is_refused_with_the_candidates() -> None:
    with pytest.raises(ControlError, match=r"temprature.*temperature.*top_k.*model"):
        find("temprature")


@numeric
@given(value=st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers()))
def test_every_number_is_taken_or_clamped(control: Control, value: float) -> None:
    try:
        taken = parse(control, value)
    except ControlError:
        assert isinstance(value, int)
        assert abs(value) > 2**1023  # no float is as large
        return
    assert isinstance(taken, int if control.type == "int" else float)
    assert control.minimum <= taken <= control.maximum
    if control.minimum <= value <= control.maximum:
        assert abs(taken - value) <= (0.5 if control.type == "int" else 0.0)
    else:
        assert taken == (control.minimum if value < control.minimum else control.maximum)
    assert is_clamped(control, value, taken) == (not control.minimum <= value <= control.maximum)


@numeric
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_numeric_string_counts_as_its_number(control: Control, value: float) -> None:
    assert parse(control, f" {value!r} ") == parse(control, value)


@numeric
def test_bools_and_numpy_scalars_are_numbers(control: Control) -> None:
    assert parse(control, True) == parse(control, 1.0)
    assert parse(control, False) == parse(control, 0.0)
    assert parse(control, np.float32(1)) == parse(control, np.int64(1)) == parse(control, 1)


@pytest.mark.parametrize("control", [*NUMERIC, *SWITCHES], ids=lambda control: control.name)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, "nan", "-inf", "loud", "", "0x10", None, b"1", [1.0], (1, 2, 3, 4), 1j],
    ids=repr,
)
def test_what_is_not_a_finite_number_is_refused(control: Control, value: object) -> None:
    with pytest.raises(ControlError) as refusal:
        parse(control, value)
    assert control.name in str(refusal.value)
    assert control.expects in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("control", SWITCHES, ids=lambda control: control.name)
@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (127, True),
        (-3, False),
        (0.49, False),
        ("1.0", True),
    ],
)
def test_switches_are_true_from_one_half_on(control: Control, value: object, taken: bool) -> None:
    assert parse(control, value) is taken


@numeric
@given(travel=st.floats(-2, 3))
def test_a_faders_travel_and_the_value_are_each_others_inverse(control: Control, travel: float) -> None:
    value = normalized(control, travel)
    assert control.minimum <= value <= control.maximum
    back = to_normalized(control, value)
    assert 0 <= back <= 1
    if control.type == "float":
        assert back == pytest.approx(min(max(travel, 0), 1), abs=1e-5)
    else:
        assert normalized(control, back) == value


@by_name
def test_the_ends_of_a_fader_are_the_ends_of_the_range(control: Control) -> None:
    if control.type == "string":
        with pytest.raises(ControlError, match="has no range"):
            normalized(control, 0.5)
        with pytest.raises(ControlError, match="has no range"):
            to_normalized(control, "rain")
    else:
        assert (normalized(control, 0), normalized(control, "1")) == (control.minimum, control.maximum)
        with pytest.raises(ControlError):
            normalized(control, math.nan)


def test_a_cubic_fader_is_fine_near_its_minimum() -> None:
    assert normalized(find("gain"), 0.5) == 2 * 0.5**3
    assert normalized(find("temperature"), 0.5) == 1.0
    assert to_normalized(find("pan"), 0.0) == 0.5


@given(name=st.text(min_size=1, max_size=MAX_TEXT).filter(str.isprintable))
def test_a_model_name_passes_unchanged(name: str) -> None:
    assert parse(find("model"), name) == name


@pytest.mark.parametrize(
    "value", ["", "x" * (MAX_TEXT + 1), "two\nlines", "nul\0", 3, 1.5, True, None, b"rain"]
)
def test_what_cannot_be_a_model_name_is_refused(value: object) -> None:
    with pytest.raises(ControlError, match="model takes a text of 1 to 256 characters"):
        parse(find("model"), value)


def test_a_long_value_is_not_echoed_in_full() -> None:
    with pytest.raises(ControlError) as refusal:
        parse(find("gain"), "z" * 100_000)
    assert len(str(refusal.value)) < 200


def test_json_lists_the_table() -> None:
    rows = json.loads(as_json())
    assert [row["name"] for row in rows] == [control.name for control in CONTROLS]
    keys = {"name", "scope", "address", "type", "min", "max", "default", "unit", "curve", "description"}
    assert all(set(row) == keys for row in rows)
    (gain,) = (row for row in rows if row["name"] == "gain")
    assert (gain["min"], gain["max"], gain["default"], gain["unit"]) == (0.0, 2.0, 1.0, "amplitude")


def test_the_page_of_controls_is_the_table() -> None:
    remedy = (
        "python -c 'from streamer.controls import as_markdown as m; print(m(), end=\"\")' > docs/controls.md"
    )
    assert DOCS.read_text(encoding="utf-8") == as_markdown(), f"write it anew: {remedy}"
