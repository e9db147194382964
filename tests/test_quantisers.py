"""Quantisers against values worked out by hand, against the systems' own, and by property."""

from math import log
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.models.errors import SpecError
from streamer.models.quantisers import Kind, Quantiser, quantiser_from_json, quantiser_to_json

KINDS = get_args(Kind)
UNSTRETCHED = ("mulaw", "mulaw-floor", "mulaw-vincent", "linear-prism")
STORED = Path(__file__).parent / "fixtures" / "quantisers.npz"

# With mu = 255, an amplitude of (2^k - 1) / 255 is companded to k / 8 exactly. A companded s lies at
# (s + 1) / 2 * 255 on the scale of codes:
#   s    -1   -1/2    -1/4     -1/8      0      1/8      1/4     1/2     1
#   at    0   63.75   95.625   111.5625  127.5  143.4375 159.375 191.25  255
LADDER = np.array([-255, -15, -3, -1, 0, 1, 3, 15, 255]) / 255

# A stretched clip runs from 0 to 1 whatever it was, here u = x / 4 of 0..4. With e = 1e-5 or 1e-2, code =
# floor(u (256 - e) + e / 2) = floor(256 u + e (1/2 - u)): where 256 u is whole, e decides: down from 3/4.
#   u         0     1/4    1/2   3/4        1
#   256 u     0+    64+    128   192-       256-
QUARTERS = np.array([0.0, 1.0, 2.0, 3.0, 4.0])


@pytest.mark.parametrize(
    ("kind", "samples", "codes"),
    [
        ("mulaw", LADDER, [0, 64, 96, 112, 128, 143, 159, 191, 255]),  # rounded: at + 1/2, then floor
        ("mulaw-floor", LADDER, [0, 63, 95, 111, 127, 143, 159, 191, 255]),
        (
            "mulaw-mehri",
            LADDER,
            [0, 63, 95, 111, 127, 143, 159, 191, 255],
        ),  # the ladder is as wide as its stretch
        ("mulaw-mehri", LADDER / 2, [0, 63, 95, 111, 127, 143, 159, 191, 255]),  # half as loud: stretched
        ("mulaw-mehri", LADDER * 0.25 + 0.5, [0, 63, 95, 111, 127, 143, 159, 191, 255]),  # and off centre
        # ln(1 + 15) / ln 257 = 0.49965: at 191.2 and 63.8, whose bins of linspace(-1, 1, 256) are 191 and 63
        # In float32, ln 257 falls short: / ln 257 it is just under 1, in the bin below the last.
        ("mulaw-vincent", [-1, -15 / 256, 0, 15 / 256, 1], [0, 63, 127, 191, 254]),
        ("linear-prism", [-1, -0.5, 0, 0.5, 1], [0, 64, 128, 191, 255]),  # u = (x + 1) / 2, else as QUARTERS
        ("linear-prism", [0.0, 0.25], [128, 159]),  # not stretched: 256 * 0.625 = 160-
        ("linear-mehri", QUARTERS, [0, 64, 128, 191, 255]),
        ("linear-deepsound", QUARTERS, [0, 64, 128, 191, 255]),
        # 256 u = 63.999: plus e / 4 that is 63.9990025 (Mehri) or 64.0015 (deepsound), here the two part
        ("linear-mehri", [0, 63.999 / 256, 1], [0, 63, 255]),
        ("linear-deepsound", [0, 63.999 / 256, 1], [0, 64, 255]),
    ],
)
def test_encode_by_hand(kind: Kind, samples: np.ndarray, codes: list[int]) -> None:
    np.testing.assert_array_equal(Quantiser(kind).encode(samples), codes)


# 256^s = 2^(8 s), so the decoded (256^s - 1) / 255 is easy where s is a fraction of thirds or halves:
#   mulaw: s = 2 q / 255 - 1:  q = 170: s = 1/3, (6.3496042 - 1) / 255 = 0.02097884;
#          q = 204: s = 3/5, (27.857618 - 1) / 255 = 0.10532399
#   mehri: s = 2 (q - 128) / 256: q = 160: s = 1/4, (4 - 1) / 255;  q = 192: s = 1/2, (16 - 1) / 255;
#          q = 255: s = 127/128, (256 / 2^(1/16) - 1) / 255 = (245.14644 - 1) / 255 = 0.9574370
#   vincent: s = q / 128 - 1, mu = 256:  q = 192: (sqrt(257) - 1) / 256 = 15.0312195 / 256 = 0.05871570;
#          q = 255: (257^(127/128) - 1) / 256 = (246.09655 - 1) / 256 = 0.9574084
MULAW = {0: -1, 51: -0.10532399, 85: -0.02097884, 170: 0.02097884, 204: 0.10532399, 255: 1}
MEHRI = {0: -1, 64: -15 / 255, 96: -3 / 255, 128: 0, 160: 3 / 255, 192: 15 / 255, 255: 0.9574370}
VINCENT = {0: -1, 64: -0.05871570, 128: 0, 192: 0.05871570, 255: 0.9574084}
LINEAR = {0: -1, 64: -0.5, 128: 0, 192: 0.5, 255: 127 / 128}


@pytest.mark.parametrize(
    ("kind", "decoded"),
    [
        ("mulaw", MULAW),
        ("mulaw-floor", MULAW),
        ("mulaw-mehri", MEHRI),
        ("mulaw-vincent", VINCENT),
        ("linear-prism", LINEAR),
        ("linear-mehri", LINEAR),
        ("linear-deepsound", LINEAR),
    ],
)
def test_decode_by_hand(kind: Kind, decoded: dict[int, float]) -> None:
    np.testing.assert_allclose(
        Quantiser(kind).decode(list(decoded)), list(decoded.values()), rtol=0, atol=2e-7
    )


# The code that a silent clip gets, and the code that sounds most nearly silent. Where two lie as near to zero
# (127 and 128 of mu-law, 2 q / 255 - 1 = -+1/255), it is the one that zero is encoded as.
SILENCE = {
    "mulaw": (128, 128),
    "mulaw-floor": (127, 127),
    "mulaw-mehri": (127, 128),
    "mulaw-vincent": (127, 128),
    "linear-prism": (128, 128),
    "linear-mehri": (128, 128),
    "linear-deepsound": (128, 128),
}


@pytest.mark.parametrize("kind", KINDS)
def test_silence(kind: Kind) -> None:
    quantiser = Quantiser(kind)
    encoded, sounding = SILENCE[kind]
    np.testing.assert_array_equal(quantiser.encode(np.zeros(5)), [encoded] * 5)
    assert quantiser.silence == sounding
    assert quantiser.encode(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(UNSTRETCHED)))
def test_a_stretched_constant_is_silence(kind: Kind) -> None:
    quantiser = Quantiser(kind)
    np.testing.assert_array_equal(quantiser.encode([0.3, 0.3]), quantiser.encode([0.0, 0.0]))


@pytest.mark.parametrize("kind", UNSTRETCHED)
def test_samples_beyond_full_scale_are_clipped(kind: Kind) -> None:
    quantiser = Quantiser(kind)
    highest = int(quantiser.encode([1.0])[0])
    np.testing.assert_array_equal(quantiser.encode([-3.0, 3.0, -np.inf, np.inf]), [0, highest, 0, highest])


@pytest.mark.parametrize(
    ("system", "quantiser"),
    [
        ("prism-mulaw", Quantiser("mulaw", 256)),
        ("prism-linear-48", Quantiser("linear-prism", 48)),
        ("prism-linear-40", Quantiser("linear-prism", 40)),
        ("deepsound-48", Quantiser("linear-deepsound", 48)),
        ("deepsound-64", Quantiser("linear-deepsound", 64)),
        ("mehri-linear", Quantiser("linear-mehri", 40)),
        ("dadabots-linear", Quantiser("linear-mehri", 64)),
        ("dadabots-mulaw", Quantiser("mulaw-mehri", 256)),
        ("ibab-256", Quantiser("mulaw", 256)),
        ("ibab-64", Quantiser("mulaw", 64)),
        ("vincentherrmann", Quantiser("mulaw-vincent", 256)),
        ("r9y9", Quantiser("mulaw-floor", 128)),
        ("nv-wavenet", Quantiser("mulaw", 64)),
    ],
)
def test_the_systems_own_values(system: str, quantiser: Quantiser) -> None:
    with np.load(STORED) as stored:
        wave, codes, decoded = (stored.get(f"{system}.{name}") for name in ("wave", "codes", "decoded"))
    np.testing.assert_array_equal(quantiser.encode(wave), codes)
    # The original SampleRNN has no decoder for linear codes: it writes the code numbers as a wave.
    assert (decoded is None) == (quantiser.kind == "linear-mehri")
    if decoded is not None:
        np.testing.assert_allclose(quantiser.table(), decoded, rtol=0, atol=1e-6)


def test_emphasis_by_hand() -> None:
    quantiser = Quantiser(preemphasis=0.5, scale=2.0)
    np.testing.assert_array_equal(
        quantiser.emphasise([1.0, 1.0, 0.0]), [2.0, 1.0, -1.0]
    )  # 2 (x[t] - x[t-1] / 2)
    loud, quiet = 3 / 5, 1 / 3  # companded: MULAW's codes 204 and 85
    amplitudes = np.array([(256**loud - 1) / 255, -(256**quiet - 1) / 255])
    first = amplitudes[0] / 2
    np.testing.assert_allclose(
        quantiser.decode([204, 85]), [first, amplitudes[1] / 2 + first / 2], atol=1e-12
    )


clips = st.lists(st.floats(-1, 1), min_size=1, max_size=64).map(np.array)


@given(clips, st.floats(0, 0.95))
def test_emphasis_round_trip(clip: np.ndarray, preemphasis: float) -> None:
    """What emphasis does, decoding undoes, up to the steps of the quantiser that the one-pole filter sums."""
    quantiser = Quantiser("mulaw", 65536, preemphasis=preemphasis, scale=1 / (1 + preemphasis))
    step = (
        log(65536) / 65535
    )  # the widest, at full scale: d amplitude = ln(1 + mu) * d companded, half of 2 / 65535
    bound = step * (1 + preemphasis) / (1 - preemphasis)
    np.testing.assert_allclose(quantiser.decode(quantiser.encode(clip)), clip, rtol=0, atol=bound)


@given(st.sampled_from(KINDS), st.integers(2, 1024), clips)
def test_codes_are_in_range_and_in_order(kind: Kind, levels: int, clip: np.ndarray) -> None:
    codes = Quantiser(kind, levels).encode(np.sort(clip))
    assert codes.min() >= 0
    assert codes.max() < levels
    assert (np.diff(codes) >= 0).all()


@given(st.sampled_from(KINDS), st.integers(2, 1024))
def test_amplitudes_rise_with_codes(kind: Kind, levels: int) -> None:
    table = Quantiser(kind, levels).table()
    assert table.shape == (levels,)
    assert (np.diff(table) > 0).all()
    assert np.abs(table).max() <= 1 + 1e-12


@given(st.integers(2, 1024))
def test_rounded_mulaw_keeps_every_code(levels: int) -> None:
    quantiser = Quantiser("mulaw", levels)
    np.testing.assert_array_equal(quantiser.encode(quantiser.table()), np.arange(levels))


@given(st.integers(2, 1024))
def test_floored_mulaw_loses_at_most_one_code(levels: int) -> None:
    quantiser = Quantiser("mulaw-floor", levels)
    lost = np.arange(levels) - quantiser.encode(quantiser.table())
    assert set(lost) <= {0, 1}


@given(
    st.builds(
        Quantiser,
        kind=st.sampled_from(KINDS),
        levels=st.integers(2, 65536),
        preemphasis=st.floats(0, 0.99),
        scale=st.floats(0.01, 1000),
    )
)
def test_json_round_trip(quantiser: Quantiser) -> None:
    assert quantiser_from_json(quantiser_to_json(quantiser)) == quantiser


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "a-law"}, "a-law"),
        ({"kind": ["mulaw"]}, "mulaw"),
        ({"levels": 1}, "levels"),
        ({"levels": 65537}, "levels"),
        ({"levels": True}, "levels"),
        ({"levels": 256.0}, "levels"),
        ({"preemphasis": 1.0}, "preemphasis"),
        ({"preemphasis": -0.1}, "preemphasis"),
        ({"preemphasis": False}, "preemphasis"),
        ({"preemphasis": float("nan")}, "preemphasis"),
        ({"scale": 0.0}, "scale"),
        ({"scale": 1001}, "scale"),
        ({"scale": True}, "scale"),
        ({"scale": "1"}, "scale"),
        ({"extra": 1}, "JSON object"),
    ],
)
def test_impossible_quantisers(change: dict[str, object], named: str) -> None:
    with pytest.raises(SpecError, match=named) as caught:
        quantiser_from_json(quantiser_to_json(Quantiser()) | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "mulaw", {}, {"kind": "mulaw"}])
def test_what_is_no_quantiser(data: object) -> None:
    with pytest.raises(SpecError, match="JSON object"):
        quantiser_from_json(data)
