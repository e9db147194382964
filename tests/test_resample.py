"""The polyphase filters: gain, images, delay, and the very same samples however the ring lies."""

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.kernels.compiling import compiled
from streamer.kernels.resample import between as _between
from streamer.kernels.resample import design, renderable, speeds
from streamer.kernels.resample import interpolate as _interpolate


@compiled
def interpolate(bank, phase, ring, newest):
    """The kernel, callable from Python."""
    return _interpolate(bank, phase, ring, newest)


@compiled
def between(filters, start, taps, ring, position, fraction):
    """The kernel, callable from Python."""
    return _between(filters, start, taps, ring, position, fraction)


def resample(samples: NDArray[np.float64], source_rate: int, target_rate: int, ring_size: int = 1 << 16):
    """The slow, obvious way through the same kernel: one output frame after another."""
    way = design(source_rate, target_rate)
    ring = np.zeros(ring_size, np.float32)
    ring[: len(samples)] = samples
    count = renderable(len(samples), 0, way.up, way.down)
    steps = [divmod(frame * way.down, way.up) for frame in range(count)]
    return np.array([interpolate(way.bank, phase, ring, newest) for newest, phase in steps])


def sine_and_rest_db(sound: NDArray[np.float64], frequency: float, rate: int) -> tuple[float, float]:
    """Level of the sine at `frequency` and of all the rest, in dB relative to an amplitude of 1."""
    time = np.arange(len(sound)) / rate
    basis = np.stack([np.sin(2 * np.pi * frequency * time), np.cos(2 * np.pi * frequency * time)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, sound, rcond=None)
    rest = sound - basis @ fit
    return 20 * np.log10(np.hypot(*fit)), 20 * np.log10(np.sqrt(2) * rest.std())


@pytest.mark.parametrize("device_rate", [48000, 44100])
@pytest.mark.parametrize("frequency", [1000, 7000])
def test_tone_keeps_its_level_and_has_no_images(device_rate: int, frequency: int) -> None:
    tone = np.sin(2 * np.pi * frequency * np.arange(8000) / 16000)
    sound = resample(tone, 16000, device_rate)[device_rate // 10 :]
    level, rest = sine_and_rest_db(sound.astype(np.float64), frequency, device_rate)
    assert abs(level) < 0.01
    assert rest < -108


def test_downsampling_removes_what_the_lower_rate_cannot_hold() -> None:
    below = np.sin(2 * np.pi * 7000 * np.arange(24000) / 48000)
    above = np.sin(2 * np.pi * 9000 * np.arange(24000) / 48000)
    level, rest = sine_and_rest_db(
        resample(below + above, 48000, 16000)[400:].astype(np.float64), 7000, 16000
    )
    assert abs(level) < 0.01
    assert rest < -95


@pytest.mark.parametrize(
    "rates", [(16000, 48000), (16000, 44100), (22050, 48000), (48000, 44100), (48000, 16000)]
)
def test_every_phase_has_a_dc_gain_of_one(rates: tuple[int, int]) -> None:
    way = design(*rates)
    np.testing.assert_allclose(way.bank.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
    assert way.up * rates[0] == way.down * rates[1]


@pytest.mark.parametrize("device_rate", [48000, 44100])
def test_delay_is_two_milliseconds_at_16_khz(device_rate: int) -> None:
    """A slow sine comes out as the same sine, late by what `delay` says."""
    way = design(16000, device_rate)
    assert way.delay / 16000 == pytest.approx(0.002, rel=0.01)
    sound = resample(np.sin(2 * np.pi * 50 * np.arange(4000) / 16000), 16000, device_rate)
    position = np.arange(len(sound)) * way.down / way.up - way.delay
    expected = np.sin(2 * np.pi * 50 * position / 16000)
    np.testing.assert_allclose(sound[600:], expected[600:], atol=1e-5)


def test_equal_rates_need_no_filter() -> None:
    way = design(44100, 44100)
    assert (way.up, way.down, way.bank.shape, way.delay) == (1, 1, (1, 0), 0.0)


def test_a_window_across_the_end_of_the_ring_is_the_same_window() -> None:
    way = design(16000, 48000)
    noise = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    flat, wrapped = np.zeros(256, np.float32), np.zeros(256, np.float32)
    flat[100:164] = noise
    wrapped[(np.arange(64) + 230) % 256] = noise
    for phase in range(3):
        expected = float(noise.astype(np.float64) @ way.bank[phase])
        assert interpolate(way.bank, phase, flat, 163) == pytest.approx(expected, abs=1e-6)
        assert interpolate(way.bank, phase, wrapped, 230 + 63) == pytest.approx(expected, abs=1e-6)
        assert interpolate(way.bank, phase, wrapped, 7 * 256 + 230 + 63) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("up", "down"), [(3, 1), (441, 160), (1, 3), (147, 160), (1, 1)])
def test_renderable_counts_the_frames_that_the_samples_suffice_for(up: int, down: int) -> None:
    for phase in range(up):
        for available in range(5):
            frames, ahead = 0, phase
            while ahead // up < available:  # the newest sample that the next frame needs
                frames, ahead = frames + 1, ahead + down
            assert renderable(available, phase, up, down) == frames


@pytest.mark.parametrize("rates", [(0, 48000), (16000, -1)])
def test_impossible_rates_are_refused(rates: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="rates must be positive"):
        design(*rates)


def test_rates_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match="44100 or 48000"):
        design(16000, 191999)


@pytest.mark.parametrize("bank", [0, 1, 4])
def test_a_sound_between_two_samples_is_what_it_was_there(bank: int) -> None:
    way = speeds(5)
    taps, start = (int(word) for word in way.table[bank])
    frequency = 0.4 * 2 ** (-bank / 2)  # cycles a sample, near what the bank lets pass
    ring = np.sin(2 * np.pi * frequency * np.arange(1024)).astype(np.float32)
    fractions = np.random.default_rng(3).integers(0, 1 << 32, 500)
    positions = np.random.default_rng(4).integers(200, 800, 500)
    pairs = zip(positions, fractions, strict=True)
    heard = np.array([between(way.filters, start, taps, ring, p, f) for p, f in pairs])
    expected = np.sin(2 * np.pi * frequency * (positions + fractions / 2**32))
    assert 20 * np.log10(np.abs(heard - expected).max()) < -75


def test_at_a_sample_the_sound_is_the_sample() -> None:
    way = speeds(2)
    ring = np.random.default_rng(5).uniform(-1, 1, 256).astype(np.float32)
    heard = [between(way.filters, 0, way.table[0, 0], ring, p, 0) for p in range(1024)]
    np.testing.assert_allclose(heard, np.tile(ring, 4), atol=1e-7)


def test_a_longer_bank_removes_what_the_device_cannot_hold() -> None:
    way = speeds(5)
    taps, start = (int(word) for word in way.table[4])  # a quarter of the band
    for frequency in (0.15, 0.25, 0.45):
        ring = np.sin(2 * np.pi * frequency * np.arange(1024)).astype(np.float32)
        heard = [between(way.filters, start, taps, ring, 300 + p, p << 20) for p in range(300)]
        assert 20 * np.log10(np.abs(heard).max()) < -80
