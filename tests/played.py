"""Plucked strings (Karplus and Strong 1983), played by a hand that is never twice the same."""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Samples = NDArray[np.float32]

TUNE = [
    (220.0, 0.3),
    (277.2, 0.3),
    (329.6, 0.3),
    (440.0, 0.6),
    (392.0, 0.3),
    (329.6, 0.3),
    (293.7, 0.6),
    (246.9, 0.45),
]
"""Notes: Hz, and seconds until the next. 3.15 s."""


def pluck(hertz: float, seconds: float, rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A string: a burst of noise in a loop that loses its brightness."""
    count, period = round(seconds * rate), rate / hertz
    whole = int(period - 0.5)
    part = period - 0.5 - whole
    burst = np.zeros(count)
    noise = rng.uniform(-1, 1, len(burst[: whole + 1]))
    burst[: whole + 1] = noise - noise.mean()
    feedback = np.zeros(whole + 3)
    feedback[0] = 1
    feedback[whole : whole + 3] -= 0.498 * np.convolve([1, 1], [1 - part, part])
    string: NDArray[np.float64] = lfilter([1.0], feedback, burst)
    return string


def phrase(notes: list[tuple[float, float]], rate: int, seed: int) -> Samples:
    """Notes, each up to 20 ms early or late, up to 3 dB softer or louder, a few cents off."""
    rng = np.random.default_rng(seed)
    length = sum(seconds for _, seconds in notes)
    sound = np.zeros(round((length + 1) * rate))
    place = 0.0
    for hertz, seconds in notes:
        begin = max(0, round((place + rng.uniform(-0.02, 0.02)) * rate))
        note = pluck(hertz * 2 ** (rng.uniform(-5, 5) / 1200), seconds + 0.3, rate, rng)
        sound[begin : begin + len(note)] += 0.2 * 10 ** (rng.uniform(-3, 3) / 20) * note
        place += seconds
    return sound[: round(length * rate)].astype(np.float32)


def play_again_and_again(notes: list[tuple[float, float]], times: int, rate: int) -> Samples:
    """A riff as often as one likes."""
    return np.concatenate([phrase(notes, rate, seed) for seed in range(times)])
