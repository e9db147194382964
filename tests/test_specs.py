"""Specs: every field is checked, JSON keeps them whole, and the shapes are those of the published models."""

import json
from dataclasses import FrozenInstanceError, fields
from math import prod
from typing import Any

import pytest
from draws import BIASES, specs
from hypothesis import given
from hypothesis import strategies as st

from streamer.models.errors import SpecError
from streamer.models.specs import (
    ClockSpec,
    PredictorSpec,
    SampleRnnSpec,
    Spec,
    WaveNetSpec,
    spec_from_json,
    spec_to_json,
)

WAVENET: dict[str, Any] = {"dilations": (1, 2), "residual": 4, "gate": 3, "skip": 5, "output": 6, "levels": 8}
SAMPLERNN: dict[str, Any] = {"frames": (8, 2), "dim": 4, "rnn_layers": 2, "levels": 8, "embedding": 3}

# Of each field: the last values that are allowed, then the first that are not, and what has the wrong type.
WAVENET_LIMITS = [
    (
        "dilations",
        [(1,), (65536,), (1,) * 256],
        [(), (0,), (65537,), (1,) * 257, (1.0,), [1, 2], (True,), 3, None],
    ),
    ("residual", [1, 8192], [0, 8193, -1, 4.0, "4", None, True]),
    ("gate", [1, 8192], [0, 8193, True]),
    ("skip", [1, 8192], [0, 8193, True]),
    ("output", [1, 8192], [0, 8193, True]),
    ("levels", [2, 65536], [1, 65537, 256.0]),
    ("kernel", [2, 3], [1, 4, 2.0]),
    ("input_kernel", [1, 64], [0, 65]),
    ("embedding", [0, 8192], [-1, 8193]),
    ("predictor", [None, PredictorSpec()], [0, True, {}, {"order": 3}]),
    ("condition", [0, 8192], [-1, 8193]),
    ("condition_ids", [0], [-1, 65537, 1]),  # without a condition's width there can be no ids
    ("residual_scale", [1.0, 1, 0.001], [0.0, 1.001, -0.5, float("nan"), float("inf"), "1", None, True]),
    ("skip_scale", [1.0, 1, 0.001], [0.0, 1.001, float("nan"), True]),
    *((name, [False, True], [0, 1, None, "yes"]) for name in BIASES),
]
SAMPLERNN_LIMITS = [
    (
        "frames",
        [(1,), (4096,), (12, 6, 3)],
        [(), (0,), (4097,), (8, 3), (4, 4), (2, 4), (8, 4, 2, 1), [8, 2], (2.0,), 8],
    ),
    ("dim", [1], [0, 8193, 4.0, True, None]),
    ("rnn_layers", [1, 11], [0, 12, True]),
    ("levels", [2, 65536], [1, 65537]),
    ("embedding", [1, 8192], [0, 8193]),
    ("hidden", [1, 2], [0, 3, True]),
    ("predictor", [None, PredictorSpec()], [0, {"order": 3}]),
    ("clock", [None, ClockSpec(1000, 8)], [0, 1000.0, {"cycle": 1000}, PredictorSpec()]),
    (
        "cell",
        ["gru-theano", "gru-keras", "gru-torch", "lstm-theano", "lstm-keras"],
        ["gru", "", None, 1, ["gru-torch"]],
    ),
    ("skips", ["none", "prism", "mehri"], ["keras", None, False]),
    ("upsample_bias", ["none", "one", "slot"], ["two", None, True]),
    *((name, [False, True], [0, 1, None, "no"]) for name in ("learned_h0", "expand_top", "relu_after_sum")),
]
LIMITS = [
    *((WaveNetSpec, WAVENET, *limits) for limits in WAVENET_LIMITS),
    *((SampleRnnSpec, SAMPLERNN, *limits) for limits in SAMPLERNN_LIMITS),
]


def refusal(kind: type[Spec], values: dict[str, Any]) -> str:
    """The message of the error that these values must raise: one line."""
    with pytest.raises(SpecError) as caught:
        kind(**values)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(("kind", "values", "name", "allowed", "refused"), LIMITS)
def test_every_field_is_checked(
    kind: type[Spec], values: dict[str, Any], name: str, allowed: list[Any], refused: list[Any]
) -> None:
    for value in allowed:
        assert getattr(kind(**values | {name: value}), name) == value
    word = {"dilations": "dilation|layers", "frames": "frame|tiers"}.get(name, name)
    for value in refused:
        message = refusal(kind, values | {name: value})
        assert any(part in message for part in word.split("|")), message


@pytest.mark.parametrize("kind", [WaveNetSpec, SampleRnnSpec])
def test_no_field_is_left_out_above(kind: type[Spec]) -> None:
    assert {limits[2] for limits in LIMITS if limits[0] is kind} == {field.name for field in fields(kind)}


PREDICTOR_LIMITS = [
    ("order", [1, 256], [0, 257, 8.0, True, None]),
    ("window", [65, 8192], [64, 8193, 100.0]),
    ("hop", [8, 8192], [7, 8193, True]),
    ("correction", [1e-9, 1, 0.5], [0, 1.1, float("nan"), "1", True]),
    ("expansion", [0.5, 1], [0.49, 1.01, float("inf"), None]),
    ("floor", [1e-6, 1], [0.0, 2, float("nan"), False]),
]


@pytest.mark.parametrize(("name", "allowed", "refused"), PREDICTOR_LIMITS)
def test_every_field_of_a_predictor_is_checked(name: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        assert getattr(PredictorSpec(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(SpecError, match=f"predictor's {name} is "):
            PredictorSpec(**{name: value})
    assert {limits[0] for limits in PREDICTOR_LIMITS} == {field.name for field in fields(PredictorSpec)}


CLOCK_LIMITS = [
    ("cycle", [1, 22588.24, 2**31], [0.9, 2.0**31 + 1, float("nan"), float("inf"), "9", True, None]),
    ("harmonics", [1, 1024], [0, 1025, 8.0, True, None]),
]


@pytest.mark.parametrize(("name", "allowed", "refused"), CLOCK_LIMITS)
def test_every_field_of_a_clock_is_checked(name: str, allowed: list[Any], refused: list[Any]) -> None:
    plain = {"cycle": 1000.0, "harmonics": 8}
    for value in allowed:
        assert getattr(ClockSpec(**plain | {name: value}), name) == value
    for value in refused:
        with pytest.raises(SpecError, match=f"clock's {name} is "):
            ClockSpec(**plain | {name: value})
    assert {limits[0] for limits in CLOCK_LIMITS} == {field.name for field in fields(ClockSpec)}


def test_a_clock_needs_a_projected_frame_to_be_added_to() -> None:
    assert "expand_top must be true" in refusal(
        SampleRnnSpec, SAMPLERNN | {"clock": ClockSpec(1000, 8), "expand_top": False}
    )


def test_a_predictor_is_a_default_where_json_says_nothing() -> None:
    """Files are older than the predictor, and say instead that there is no side input."""
    old = {name: value for name, value in spec_to_json(WaveNetSpec(**WAVENET)).items() if name != "predictor"}
    assert spec_from_json(old | {"side": 0}) == WaveNetSpec(**WAVENET)


def test_what_no_memory_holds() -> None:
    wide = WAVENET | {"residual": 8192, "gate": 8192, "dilations": (1,) * 64}
    assert "weights: at most" in refusal(WaveNetSpec, wide)
    assert "weights: at most" in refusal(SampleRnnSpec, SAMPLERNN | {"dim": 8192, "rnn_layers": 5})
    # Few weights, but each of 256 layers would remember 65536 vectors.
    far = WAVENET | {"dilations": (65536,) * 256, "residual": 1024}
    assert "queues" in refusal(WaveNetSpec, far)


def test_specs_are_frozen_values() -> None:
    spec = WaveNetSpec(**WAVENET)
    assert spec == WaveNetSpec(**WAVENET)
    assert hash(spec) == hash(WaveNetSpec(**WAVENET))
    with pytest.raises(FrozenInstanceError):
        spec.residual = 5  # type: ignore[misc]


@given(specs)
def test_json_round_trip(spec: Spec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


@given(specs)
def test_counts(spec: Spec) -> None:
    shapes = spec.tensors()
    assert spec.parameters == sum(prod(shape) for shape in shapes.values())
    assert all(isinstance(size, int) and size >= 0 for shape in shapes.values() for size in shape)


def test_defaults_may_be_left_out() -> None:
    """So that a field added later, with a default that says what was before, does not end old files."""
    short = {"architecture": "samplernn", "frames": [64, 16], "dim": 8, "rnn_layers": 1}
    assert spec_from_json(short) == SampleRnnSpec(frames=(64, 16), dim=8, rnn_layers=1)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (None, "not a JSON object"),
        ([], "not a JSON object"),
        ({}, "architecture None is unknown"),
        ({"architecture": "transformer"}, "'transformer' is unknown"),
        ({"architecture": ["wavenet"]}, "is unknown"),
        ({"architecture": {}}, "is unknown"),
        ({"architecture": "wavenet"}, "incomplete"),
        (spec_to_json(WaveNetSpec(**WAVENET)) | {"depth": 3, "heads": 2}, "unknown fields: 'depth', 'heads'"),
        (spec_to_json(WaveNetSpec(**WAVENET)) | {"dilations": [[1], 2]}, "a dilation"),
        (spec_to_json(WaveNetSpec(**WAVENET)) | {"residual": [4]}, "residual"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"frames": "8, 2"}, "frames"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"side": 3}, "unknown fields: 'side'"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"predictor": [64]}, "predictor is [64]"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"predictor": {"lag": 3}}, "unknown fields: 'lag'"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"predictor": {"order": 0}}, "order is 0"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"clock": 90}, "clock is 90"),
        (spec_to_json(SampleRnnSpec(**SAMPLERNN)) | {"clock": {"cycle": 90}}, "incomplete"),
        (spec_to_json(WaveNetSpec(**WAVENET)) | {"clock": None}, "unknown fields: 'clock'"),
    ],
)
def test_what_is_no_spec(data: object, named: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_json(data)
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(specs, st.data())
def test_any_json_is_a_spec_or_refused(spec: Spec, data: st.DataObject) -> None:
    values = spec_to_json(spec)
    for name in data.draw(st.sets(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        values[name] = data.draw(json_values)
    try:
        read = spec_from_json(values)
    except SpecError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017, since a few drawn values are allowed
    else:
        assert spec_to_json(read).keys() == values.keys()


def test_published_sizes() -> None:
    """Weights and receptive fields as the systems' own descriptions count them."""
    ibab = WaveNetSpec(
        dilations=tuple(2**k for k in range(10)) * 5,
        residual=32,
        gate=32,
        skip=512,
        output=512,
        input_kernel=2,
    )
    assert ibab.receptive_field == 5117
    # ibab keeps a last residual product that nothing reads, and a skip bias a layer where we keep their sum.
    assert ibab.parameters + (32 * 32 + 32) + 49 * 512 == pytest.approx(1.52e6, rel=0.005)
    prism = SampleRnnSpec(frames=(64, 16), dim=1024, rnn_layers=4, cell="gru-keras", upsample_bias="none")
    assert 4 * prism.parameters == pytest.approx(312e6, rel=0.01)  # bytes
    mehri = SampleRnnSpec(
        frames=(8, 2), dim=1024, rnn_layers=1, cell="gru-theano", learned_h0=True, expand_top=False
    )
    assert 4 * mehri.parameters == pytest.approx(75e6, rel=0.01)
    dadabots = SampleRnnSpec(
        frames=(16,), dim=1024, rnn_layers=5, cell="lstm-theano", skips="mehri", expand_top=False
    )
    assert 4 * dadabots.parameters == pytest.approx(267e6, rel=0.01)
    deepsound = SampleRnnSpec(frames=(64, 16), dim=1024, rnn_layers=2, hidden=1, relu_after_sum=True)
    assert 4 * deepsound.parameters == pytest.approx(207e6, rel=0.03)


def test_widths_along_the_tiers() -> None:
    spec = SampleRnnSpec(**SAMPLERNN | {"expand_top": False, "skips": "mehri", "cell": "lstm-theano"})
    assert (spec.tiers, spec.gates, spec.state_width, spec.slots) == (2, 4, 8, (4, 2))
    # The top tier takes its 8 samples as they are; upper layers see h (4) and the tier's input (8 or 4).
    widths = [[spec.layer_input(tier, layer) for layer in range(2)] for tier in range(2)]
    assert widths == [[8, 12], [4, 8]]
    doubled = SampleRnnSpec(**SAMPLERNN | {"skips": "prism"})
    assert [[doubled.layer_input(tier, layer) for layer in range(2)] for tier in range(2)] == [[8, 4], [8, 4]]
