"""Which precision a setting comes to, for made-up prices and processors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from draws import write_model

from streamer.kernels.precision import PRECISIONS, resolve
from streamer.models.checkpoint import Header, PrecisionBits, Provenance
from streamer.models.errors import StreamerError
from streamer.models.specs import SampleRnnSpec, WaveNetSpec
from streamer.precision import AUTO, SETTINGS, choose, has_dot_product, hint, price, price_words

SMALL = WaveNetSpec(dilations=(1, 2), residual=4, gate=3, skip=5, output=6, levels=8)
MIDDLE = SampleRnnSpec(frames=(16, 4), dim=160, rnn_layers=1, levels=8, embedding=8)
LARGE = SampleRnnSpec(frames=(16, 4), dim=256, rnn_layers=1, levels=8, embedding=8)
CHEAP = PrecisionBits(5.0, bf16=5.0001, int8=5.002, int8dot=5.003)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Header:
    return write_model(tmp_path_factory.mktemp("model") / "plain.safetensors", SMALL, 0)


def model(plain: Header, spec: WaveNetSpec | SampleRnnSpec, bits: PrecisionBits | None) -> Header:
    about = Provenance(precision_bits=bits)
    return Header(spec, replace(plain.quantiser, levels=spec.levels), 16_000, 1, about, plain.hash)


@pytest.mark.parametrize("spec", [SMALL, MIDDLE, LARGE])
@pytest.mark.parametrize("has_dot", [True, False])
def test_without_prices_it_is_fp32_and_a_line_says_how_to_measure(
    plain: Header, spec: WaveNetSpec, has_dot: bool
) -> None:
    assert choose(AUTO, model(plain, spec, None), has_dot) == "fp32"
    assert "streamer price MODEL AUDIO" in hint(AUTO, model(plain, spec, None))
    assert hint("int8", model(plain, spec, None)) == ""
    assert hint(AUTO, model(plain, spec, CHEAP)) == ""


@pytest.mark.parametrize(
    ("spec", "with_dot", "without"),
    [(SMALL, "int8dot", "fp32"), (MIDDLE, "int8dot", "bf16"), (LARGE, "int8dot", "int8")],
)
def test_where_all_are_cheap_the_fastest_at_the_models_size_is_taken(
    plain: Header, spec: WaveNetSpec, with_dot: str, without: str
) -> None:
    assert choose(AUTO, model(plain, spec, CHEAP), True) == with_dot
    assert choose(AUTO, model(plain, spec, CHEAP), False) == without


@pytest.mark.parametrize(
    ("bits", "has_dot", "chosen"),
    [
        (PrecisionBits(6.0, bf16=6.01, int8=6.01, int8dot=6.03), True, "int8dot"),  # the limits themselves
        (PrecisionBits(6.0, bf16=6.01, int8=6.01, int8dot=6.0301), True, "int8"),
        (PrecisionBits(6.0, bf16=6.01, int8=6.01, int8dot=6.03), False, "int8"),
        (PrecisionBits(6.0, bf16=6.01, int8=6.0101, int8dot=6.04), True, "bf16"),
        (PrecisionBits(6.0, bf16=6.0101, int8=6.02, int8dot=6.04), True, "fp32"),
        (PrecisionBits(6.0, bf16=5.99, int8=6.02), False, "bf16"),  # better than fp32 by chance
        (PrecisionBits(6.0, int8=6.001), True, "int8"),  # int8dot was measured where there is none
        (PrecisionBits(6.0), True, "fp32"),
    ],
)
def test_what_costs_too_much_or_is_not_measured_is_not_taken(
    plain: Header, bits: PrecisionBits, has_dot: bool, chosen: str
) -> None:
    assert choose(AUTO, model(plain, LARGE, bits), has_dot) == chosen


@pytest.mark.parametrize("setting", PRECISIONS)
def test_what_is_asked_for_is_taken_whatever_it_costs(plain: Header, setting: str) -> None:
    dear = PrecisionBits(5.0, bf16=6.0, int8=6.0, int8dot=6.0)
    assert choose(setting, model(plain, SMALL, dear), has_dot_product()) == resolve(setting)


def test_what_does_not_exist_is_refused(plain: Header) -> None:
    with pytest.raises(StreamerError, match="no precision 'int4': choose fp32, bf16, int8, int8dot"):
        choose("int4", model(plain, SMALL, CHEAP), True)
    assert ("auto", *PRECISIONS) == SETTINGS


def test_a_file_has_a_price_for_every_precision_that_there_is() -> None:
    assert [price(precision, CHEAP) for precision in PRECISIONS] == [0.0, 0.0001, 0.002, 0.003]
    assert price("int8", None) is None
    assert price("int8", PrecisionBits(5.0)) is None


def test_prices_are_said_in_words() -> None:
    assert [price_words(precision, CHEAP) for precision in ("fp32", "int8")] == [
        "the reference",
        "+0.0020 bits a sample",
    ]
    assert price_words("fp32", None) == "the reference"
    assert price_words("int8", None) == "its price is not measured"


def test_shipped_models_play_at_their_fastest_precision() -> None:
    from streamer.models import checkpoint

    for path in sorted((Path(checkpoint.__file__).parent).glob("*.safetensors")):
        assert choose(AUTO, checkpoint.read_header(path), True) == "int8dot"
