"""The spectrum: a sine stands in its band at its level, and any samples give finite numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.spectrum import FLOOR_DB, band_edges, spectrum_db


@pytest.mark.parametrize("hertz", [100.0, 440.0, 3000.0, 15000.0])
@pytest.mark.parametrize("level_db", [0.0, -40.0])
def test_a_sine_stands_in_its_band_at_its_level(hertz: float, level_db: float) -> None:
    rate, bands = 48000, 60
    wave = 10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * np.arange(2400) / rate)
    levels = spectrum_db(wave.astype(np.float32), rate, bands)
    edges = band_edges(rate, bands)
    assert levels.max() == pytest.approx(level_db, abs=1.5)  # between two bins, a Hann window loses 1.4 dB
    loudest = levels.argmax()
    width = rate / 2400
    assert edges[loudest] - width <= hertz <= edges[loudest + 1] + width
    far = np.flatnonzero((edges[1:] < hertz / 2 - 2 * width) | (edges[:-1] > 2 * hertz + 2 * width))
    assert (levels[far] < level_db - 30).all()


@given(
    st.integers(0, 300), st.integers(1, 80), st.sampled_from([1000, 16000, 48000, 192000]), st.integers(0, 9)
)
def test_any_samples_give_a_level_for_each_band(count: int, bands: int, rate: int, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    levels = spectrum_db(samples, rate, bands)
    assert levels.shape == (bands,)
    assert ((levels >= FLOOR_DB) & (levels < 6)).all()


def test_silence_is_the_floor() -> None:
    assert (spectrum_db(np.zeros(2400, np.float32), 48000, 80) == FLOOR_DB).all()
