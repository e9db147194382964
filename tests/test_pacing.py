"""How far ahead to write, and how near a cue may come, fitted to what the machine does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.pacing import FADE_SECONDS, Limits, Pacing, margin_for, runway_for

LIMITS = Limits(lead=2.0, lead_most=4.0, margin=0.0, margin_most=0.1)
BLOCK = 128 / 48_000
ANSWER = 0.0015
QUIET = margin_for(BLOCK, ANSWER), runway_for(BLOCK, 0.0)
"""Margin and runway where nothing is ever late."""


def fitted(pacing: Pacing, underruns: int = 0, lateness: float = 0.0, elapsed: float = 0.05) -> Pacing:
    pacing.fit(LIMITS, BLOCK, lateness, ANSWER, underruns, elapsed)
    return pacing


def test_a_machine_that_is_on_time_has_the_lead_asked_for_and_the_least_else() -> None:
    pacing = fitted(Pacing(LIMITS))
    assert (pacing.lead, pacing.margin, pacing.runway) == (2.0, *QUIET)
    assert BLOCK + ANSWER < pacing.margin < BLOCK + ANSWER + 0.001
    assert BLOCK + FADE_SECONDS < pacing.runway < BLOCK + FADE_SECONDS + 0.001


def test_what_comes_late_needs_a_longer_runway_until_it_is_on_time_again() -> None:
    pacing = fitted(Pacing(LIMITS), lateness=0.004)
    assert QUIET[1] + 0.004 <= pacing.runway < QUIET[1] + 0.008
    assert pacing.margin == QUIET[0]
    assert fitted(pacing).runway == QUIET[1]


def test_larger_blocks_and_slower_answers_need_as_much_more() -> None:
    assert margin_for(0.02, 0.001) - margin_for(0.01, 0.001) == pytest.approx(0.01)
    assert margin_for(0.02, 0.003) - margin_for(0.02, 0.001) == pytest.approx(0.002)
    assert runway_for(0.02, 0.001) - runway_for(0.01, 0.001) == pytest.approx(0.01)


@pytest.mark.parametrize(("factors", "refill"), [
    ([], 3.0), ([0.0, 6.0], 3.0), ([10.0] * 10, 1.3), ([10.0] * 16, 1.1), ([1.0], 1.3)
])  # fmt: skip
def test_refilling_leaves_a_third_of_the_processor_to_others(factors: list[float], refill: float) -> None:
    pacing = Pacing(LIMITS)
    pacing.share(factors, 2)
    assert pacing.refill == pytest.approx(refill)


def test_dropouts_lengthen_both_more_and_more_up_to_what_is_allowed() -> None:
    pacing, runways, leads = Pacing(LIMITS), [], []
    for underruns in range(12):
        fitted(pacing, underruns)
        runways.append(pacing.runway)
        leads.append(pacing.lead)
    assert runways == sorted(runways)
    assert runways[1] - runways[0] < runways[3] - runways[2]
    assert runways[-1] == LIMITS.margin_most
    assert leads[:4] == [2.0, 3.0, 4.0, 4.0]


def test_the_runways_growth_is_forgotten_and_the_leads_stays() -> None:
    pacing = fitted(Pacing(LIMITS), 1)
    grown = pacing.runway
    fitted(pacing, 1, elapsed=1.0)
    assert QUIET[1] < pacing.runway < grown
    for _ in range(600):
        fitted(pacing, 1, elapsed=1.0)
    assert pacing.runway == pytest.approx(QUIET[1], abs=1e-6)
    assert pacing.lead == 3.0


def test_what_was_counted_is_no_new_dropout() -> None:
    pacing = fitted(Pacing(LIMITS), 5)
    runway, lead = pacing.runway, pacing.lead
    fitted(pacing, 5)
    assert pacing.runway < runway
    assert pacing.lead == lead


limits = st.builds(
    Limits, st.floats(0.05, 10), st.floats(0.05, 10), st.floats(0, 1), st.floats(0.005, 2)
).map(lambda drawn: replace(drawn, lead_most=max(drawn.lead, drawn.lead_most)))  # as the engine has it


@given(
    st.lists(
        st.tuples(
            limits, st.floats(0, 0.1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 20), st.floats(0, 100)
        ),
        min_size=1,
    )
)
def test_whatever_happens_it_stays_within_what_is_allowed(
    fits: list[tuple[Limits, float, float, float, int, float]],
) -> None:
    pacing = Pacing(fits[0][0])
    for allowed, block, lateness, answer, underruns, elapsed in fits:
        pacing.fit(allowed, block, lateness, answer, underruns, elapsed)
        assert allowed.lead <= pacing.lead <= allowed.lead_most
        assert allowed.margin <= pacing.margin <= max(allowed.margin, allowed.margin_most)
        assert 0 < pacing.runway <= max(allowed.margin, allowed.margin_most)
