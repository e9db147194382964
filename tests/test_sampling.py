"""Drawing codes, against a float64 reading of its settings; what bends logits; and the random numbers."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare, kstest

from streamer.kernels import rng
from streamer.kernels.compiling import compiled
from streamer.kernels.sampling import new_scratch, penalise, pull_to_centre, sample

LAST_BELOW_ONE = np.nextafter(1.0, 0.0)

finite = st.floats(-50, 50, width=32)
anything = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, 3e38, -3e38, np.inf, -np.inf, np.nan])
)
levels = st.integers(2, 70)


def logits_of(elements):
    return levels.flatmap(lambda size: arrays(np.float32, size, elements=elements))


@compiled
def sample_many(logits, scratch, temperature, top_k, top_p, typical_p, seed, counts):
    for i in range(20_000):
        counts[sample(logits, scratch, temperature, top_k, top_p, typical_p, rng.uniform(seed, 0, i))] += 1


@compiled
def uniforms(seed, voice, first, out):
    for i in range(len(out)):
        out[i] = rng.uniform(seed, voice, first + i)


def draw(logits, u, temperature=1.0, top_k=0, top_p=1.0, typical_p=1.0):
    logits = np.asarray(logits, np.float32)
    before = logits.copy()
    code = sample(logits, new_scratch(logits.size), temperature, top_k, top_p, typical_p, u)
    assert np.array_equal(logits, before, equal_nan=True)
    return code


def drawn(logits, *settings_, also=()):
    """Every code that comes up for many values of u, and for those given."""
    grid = np.concatenate([np.linspace(0, LAST_BELOW_ONE, 200), also])
    return {draw(logits, min(u, LAST_BELOW_ONE), *settings_) for u in grid}


def support(logits, temperature=1.0, top_k=0, top_p=1.0, typical_p=1.0):
    """Every code that any u can draw: the middle of each code's share, as the reference has it, is tried."""
    edges = np.cumsum(reference(logits, temperature, top_k, top_p, typical_p))
    middles = (edges + np.concatenate([[0], edges[:-1]])) / 2
    return drawn(logits, temperature, top_k, top_p, typical_p, also=middles)


def distances(p):
    """How far each code's information is from the entropy; infinite for what has no probability."""
    information = -np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.where(p > 0, np.abs(information - np.sum(p * information)), np.inf)


def reference(logits, temperature=1.0, top_k=0, top_p=1.0, typical_p=1.0):
    """Probabilities in float64, settings in the order of arguments; ties at a threshold are kept."""
    x = np.asarray(logits, np.float64)
    x = np.where(np.isnan(x), -np.inf, x)
    p = np.exp((x - x.max()) / temperature)
    if 0 < top_k < x.size:
        p[x < np.sort(x)[-top_k]] = 0
    p /= p.sum()
    if top_p < 1:
        sorted_p = np.sort(p)[::-1]
        needed = np.searchsorted(np.cumsum(sorted_p), top_p * (1 - 1e-12))
        p[p < sorted_p[min(needed, p.size - 1)]] = 0
        p /= p.sum()
    if typical_p < 1:
        far = distances(p)
        nearest = np.argsort(far)
        needed = np.searchsorted(np.cumsum(p[nearest]), typical_p * (1 - 1e-12))
        p[far > far[nearest[min(needed, p.size - 1)]] + 1e-9] = 0
    return p / p.sum()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(logits_of(finite), st.floats(0, LAST_BELOW_ONE), st.floats(0.1, 10))
@example(np.zeros(70, np.float32), LAST_BELOW_ONE, 1.0)
@example(np.zeros(2, np.float32), 0.5, 1.0)
def test_a_number_draws_the_code_whose_share_it_falls_into(logits, u, temperature):
    edges = np.cumsum(reference(logits, temperature))
    code = draw(logits, u, temperature)
    assert (edges[code - 1] if code else 0) - 1e-5 <= u <= edges[code] + 1e-5


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "typical_p"),
    [
        (1.0, 0, 1.0, 1.0),
        (0.7, 0, 1.0, 1.0),
        (2.0, 0, 1.0, 1.0),
        (1.0, 20, 1.0, 1.0),
        (1.0, 0, 0.8, 1.0),
        (1.3, 50, 0.9, 1.0),
        (1.0, 0, 1.0, 0.95),
        (1.3, 50, 0.9, 0.7),
    ],
)
@pytest.mark.parametrize("size", [2, 40, 256])
def test_codes_come_as_often_as_they_should(temperature, top_k, top_p, typical_p, size):
    logits = np.random.default_rng(size).normal(0, 1.5, size).astype(np.float32)
    counts = np.zeros(size, np.int64)
    sample_many(logits, new_scratch(logits.size), temperature, top_k, top_p, typical_p, 7, counts)
    expected = reference(logits, temperature, top_k, top_p, typical_p) * counts.sum()
    assert not counts[expected == 0].any()
    rare = expected < 5
    bins = [np.append(part[~rare], part[rare].sum()) for part in (counts, expected)]
    filled = bins[1] > 0
    assert chisquare(bins[0][filled], bins[1][filled]).pvalue > 1e-3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(logits_of(finite), st.integers(1, 80))
def test_top_k_leaves_exactly_the_largest(logits, top_k):
    logits = np.round(logits / 10)  # few values, so many ties, none of them vanishingly rare
    expected = np.flatnonzero(reference(logits, 2.0, top_k))
    assert support(logits, 2.0, top_k) == set(expected.tolist())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(logits_of(st.floats(-4, 4, width=32)), st.floats(0.01, 0.99), st.integers(0, 30))
@example(np.zeros(50, np.float32), 0.5, 0)
@example(np.array([3, 2, 1], np.float32), 0.01, 0)
def test_top_p_leaves_exactly_the_smallest_set_that_reaches_it(logits, top_p, top_k):
    logits = np.round(logits * 64) / 64  # closer than that, single precision may see a tie
    probabilities = np.sort(reference(logits, 1.0, top_k))[::-1]
    assume(np.abs(np.cumsum(probabilities) - top_p).min() > 1e-5)  # else rounding decides
    expected = np.flatnonzero(reference(logits, 1.0, top_k, top_p))
    assert support(logits, 1.0, top_k, top_p) == set(expected.tolist())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    logits_of(st.one_of(st.floats(-4, 4, width=32), st.sampled_from([-np.inf, np.nan]))),
    st.floats(0.01, 0.99),
    st.sampled_from([0, 30]),
    st.sampled_from([1.0, 0.9]),
    st.sampled_from([0.5, 1.0, 3.0]),
)
@example(np.zeros(50, np.float32), 0.5, 0, 1.0, 1.0)
@example(np.log(np.array([0.5, 0.3, 0.1, 0.1], np.float32)), 0.2, 0, 1.0, 1.0)
@example(np.array([np.nan, 3, -np.inf, 1, 1], np.float32), 0.9, 0, 1.0, 1.0)
def test_typical_p_leaves_exactly_the_nearest_to_the_entropy(logits, typical_p, top_k, top_p, temperature):
    logits = np.round(logits * 64) / 64  # closer than that, single precision may see a tie
    assume(logits.max(where=~np.isnan(logits), initial=-np.inf) > -np.inf)
    before = reference(logits, temperature, top_k, top_p)
    far = distances(before)
    nearest = np.argsort(far)
    steps = np.diff(far[nearest][before[nearest] > 0])
    assume(not ((steps > 1e-9) & (steps < 1e-4)).any())  # else rounding decides
    assume(np.abs(np.cumsum(before[nearest]) - typical_p).min() > 1e-5)
    assume(
        top_p == 1
        or np.abs(np.cumsum(np.sort(reference(logits, temperature, top_k))[::-1]) - top_p).min() > 1e-5
    )
    expected = np.flatnonzero(reference(logits, temperature, top_k, top_p, typical_p))
    assert support(logits, temperature, top_k, top_p, typical_p) == set(expected.tolist())


def test_what_is_typical_need_not_be_the_most_probable():
    # Entropy 1.49: a code of 0.2 tells 1.61, the most probable one of 0.5 only 0.69.
    logits = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05], np.float32))
    assert support(logits, typical_p=0.1) == {1}
    assert support(logits, typical_p=0.3) == {1, 2}
    assert support(logits, typical_p=0.0) == {1}
    assert support(logits, typical_p=0.99) == {0, 1, 2, 3, 4}


def test_ties_at_a_threshold_are_all_kept():
    logits = np.array([2, 1, 1, 1, 0], np.float32)
    assert support(logits, top_k=2) == {0, 1, 2, 3}
    assert support(logits, top_p=0.5) == {0, 1, 2, 3}
    assert support(logits, typical_p=0.1) == {1, 2, 3}


def test_top_p_counts_what_top_k_left():
    logits = np.log(
        np.array([0.3, 0.2, 0.2, 0.15, 0.15], np.float32) + np.arange(5, dtype=np.float32) * -1e-4
    )
    assert support(logits, top_p=0.55) == {0, 1, 2}
    assert support(logits, top_k=2, top_p=0.55) == {0}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(logits_of(finite), st.floats(0, LAST_BELOW_ONE))
def test_k_one_temperature_zero_and_p_zero_are_argmax(logits, u):
    logits = np.round(logits)
    assert draw(logits, u, temperature=0.0) == logits.argmax()
    for settings_ in ({"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-9}):
        assert logits[draw(logits, u, **settings_)] == logits.max()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    logits_of(anything),
    st.one_of(st.sampled_from([0.0, LAST_BELOW_ONE]), st.floats(0, LAST_BELOW_ONE)),
    st.one_of(st.sampled_from([0.0, 5e-324, 1e-40, 1e300, np.inf, np.nan, -1.0]), st.floats(0, 5)),
    st.one_of(st.sampled_from([-1, 0, 2**62]), st.integers(0, 80)),
    st.one_of(st.sampled_from([np.nan, -1.0, 2.0, LAST_BELOW_ONE]), st.floats(0, 1)),
    st.one_of(st.sampled_from([np.nan, -1.0, 2.0, LAST_BELOW_ONE]), st.floats(0, 1)),
)
def test_nothing_draws_a_code_that_is_out_of_range(logits, u, temperature, top_k, top_p, typical_p):
    code = draw(logits, u, temperature, top_k, top_p, typical_p)
    assert 0 <= code < logits.size
    known = np.where(np.isnan(logits), -np.inf, logits)
    if np.isfinite(known.max()):
        assert known[code] > -np.inf


def test_infinite_and_missing_logits():
    inf, nan = np.inf, np.nan
    assert drawn([0, inf, 1, inf]) == {1, 3}
    assert drawn([-inf, 0, nan, -inf]) == {1}
    assert drawn([-inf, -inf]) == {0, 1}
    assert drawn([nan, nan, nan], 1.0, 1, 0.1, 0.1) == {0, 1, 2}
    assert drawn([0, inf, 1, inf], 1.0, 0, 1.0, 0.9) == {1, 3}
    assert draw([nan, 1, inf, inf], 0.9, temperature=0.0) == 2
    assert draw([-0.0, 0.0], 0.9, temperature=0.0) == 0


@pytest.mark.parametrize("u", [0.0, 1e-300, 0.5, LAST_BELOW_ONE])
def test_codes_of_no_weight_are_not_drawn_at_the_ends_of_u(u):
    assert draw([-200, 0, -200], u) == 1
    lone = np.full(256, -np.inf)
    lone[40] = 0
    assert draw(lone, u) == 40


@settings(max_examples=100, deadline=None, derandomize=True)
@given(logits_of(anything), st.floats(-20, 20))
@example(np.zeros(256, np.float32), 3.0)
def test_the_pull_takes_most_from_the_outermost_codes(logits, r):
    half = logits.size / 2
    expected = logits - r * ((np.arange(logits.size) - half) / half) ** 2
    pull_to_centre(logits, r)
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data(), logits_of(anything), st.integers(1, 5000), st.floats(0, 20))
def test_the_penalty_follows_how_often_a_code_came(data, logits, window, strength):
    counts = data.draw(arrays(np.int32, logits.size, elements=st.integers(0, window)))
    expected = logits - strength * counts / window
    penalise(logits, counts, window, strength)
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-5)


# From the known-answer tests of Random123, the authors' library: philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert rng.philox(*map(np.uint64, counter + key)) == expected


def test_uniforms_are_uniform_and_below_one():
    numbers = np.zeros(50_000)
    uniforms(3, 1, 0, numbers)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("seed", "voice", "index"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0), (0, 0, 2**40), (-1, 0, 0)]
)
def test_every_bit_of_seed_voice_and_index_counts(seed, voice, index):
    assert rng.uniform(seed, voice, index) != rng.uniform(0, 0, 0)


def test_a_number_depends_on_its_place_only():
    forward, middle = np.zeros(100), np.zeros(10)
    uniforms(9, 2, 2**33, forward)
    uniforms(9, 2, 2**33 + 50, middle)
    assert np.array_equal(forward[50:60], middle)
