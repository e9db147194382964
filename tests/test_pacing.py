"""How far ahead to write, and how near a cue may come, fitted to what the machine does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.pacing import FADE_SECONDS, Limits, Pacing, margin_for

LIMITS = Limits(lead=2.0, lead_most=4.0, margin=0.0, margin_most=0.1)
BLOCK = 128 / 48_000
QUIET = margin_for(BLOCK, 0.0)
"""The margin where nothing is ever late."""


def fitted(pacing: Pacing, underruns: int = 0, lateness: float = 0.0, elapsed: float = 0.05) -> Pacing:
    pacing.fit(LIMITS, BLOCK, lateness, underruns, elapsed)
    return pacing


def test_a_machine_that_is_on_time_has_the_lead_asked_for_and_the_least_margin() -> None:
    pacing = fitted(Pacing(LIMITS))
    assert (pacing.lead, pacing.margin) == (2.0, QUIET)
    assert BLOCK + FADE_SECONDS < QUIET < BLOCK + FADE_SECONDS + 0.001


def test_what_comes_late_needs_a_wider_margin_until_it_is_on_time_again() -> None:
    pacing = fitted(Pacing(LIMITS), lateness=0.004)
    assert pacing.margin >= QUIET + 0.004
    assert pacing.margin < QUIET + 0.008
    assert fitted(pacing).margin == QUIET


def test_larger_blocks_need_as_much_more() -> None:
    assert margin_for(0.02, 0.001) - margin_for(0.01, 0.001) == pytest.approx(0.01)


def test_dropouts_widen_both_more_and_more_up_to_what_is_allowed() -> None:
    pacing, margins, leads = Pacing(LIMITS), [], []
    for underruns in range(12):
        fitted(pacing, underruns)
        margins.append(pacing.margin)
        leads.append(pacing.lead)
    assert margins == sorted(margins)
    assert margins[1] - margins[0] < margins[3] - margins[2]
    assert margins[-1] == LIMITS.margin_most
    assert leads[:4] == [2.0, 3.0, 4.0, 4.0]


def test_the_margins_growth_is_forgotten_and_the_leads_stays() -> None:
    pacing = fitted(Pacing(LIMITS), 1)
    grown = pacing.margin
    fitted(pacing, 1, elapsed=1.0)
    assert QUIET < pacing.margin < grown
    for _ in range(600):
        fitted(pacing, 1, elapsed=1.0)
    assert pacing.margin == pytest.approx(QUIET, abs=1e-6)
    assert pacing.lead == 3.0


def test_what_was_counted_is_no_new_dropout() -> None:
    pacing = fitted(Pacing(LIMITS), 5)
    margin, lead = pacing.margin, pacing.lead
    fitted(pacing, 5)
    assert pacing.margin < margin
    assert pacing.lead == lead


limits = st.builds(
    Limits, st.floats(0.05, 10), st.floats(0.05, 10), st.floats(0, 1), st.floats(0.005, 2)
).map(lambda drawn: replace(drawn, lead_most=max(drawn.lead, drawn.lead_most)))  # as the engine has it


@given(
    st.lists(
        st.tuples(limits, st.floats(0, 0.1), st.floats(0, 1), st.integers(0, 20), st.floats(0, 100)),
        min_size=1,
    )
)
def test_whatever_happens_it_stays_within_what_is_allowed(
    fits: list[tuple[Limits, float, float, int, float]],
) -> None:
    pacing = Pacing(fits[0][0])
    for allowed, block, lateness, underruns, elapsed in fits:
        pacing.fit(allowed, block, lateness, underruns, elapsed)
        assert allowed.lead <= pacing.lead <= allowed.lead_most
        assert allowed.margin <= pacing.margin <= max(allowed.margin, allowed.margin_most)
