"""What an ear would say of a sound: how loud it is, how bright, how noisy, how much it has a pitch.

Over frames of 2,048 samples: the level (rms), the spectral centroid, the spectral flatness (geometric over
arithmetic mean of the power: 0.56 for white noise, near 0 for tones), and the pitchedness (the highest peak
of the normalised autocorrelation from 2.5 to 16 ms: 1 is periodic).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer.frames import Framer, Frames, Samples
from streamer.models.silence import SILENCE_DBFS

FRAME = 2048
PITCH_SECONDS = 0.0025, 0.016
"""Periods that are looked for: 400 to 62.5 Hz."""

Numbers: TypeAlias = "NDArray[np.float32]"

_NOTHING_DB = -120.0
_WINDOW = np.hanning(FRAME)
_LEVEL, _CENTROID, _FLATNESS, _PITCHEDNESS = range(4)


@dataclass(frozen=True)
class Sound:
    """Medians over the frames that sound, those above -50 dBFS."""

    level_dbfs: float
    level_spread_db: float
    """Between the quietest and the loudest tenth."""
    silent_share: float
    """Of all frames, those that do not sound."""
    centroid_hz: float
    flatness: float
    pitchedness: float


class Ear:
    """Listens to sound that goes by in blocks; it keeps four numbers a frame, 0.5 MB an hour at 16 kHz.

    Args:
        rate: Hz.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._framer = Framer(FRAME, FRAME)
        self._heard: list[Numbers] = []
        self._power = np.zeros(FRAME // 2 + 1)

    def push(self, samples: Samples) -> tuple[Numbers, Numbers]:
        """Level (dBFS) and flatness of the frames (N,) that samples (T,) have made whole."""
        frames = self._framer.push(samples)
        power = np.abs(np.fft.rfft(frames * _WINDOW)) ** 2
        self._power += power.sum(0)
        heard = _describe(frames, power, self._rate)
        self._heard.append(heard)
        return heard[:, _LEVEL], heard[:, _FLATNESS]

    @property
    def spectrum_db(self) -> Numbers:
        """The mean power in each bin (FRAME / 2 + 1,), of a white noise at full scale: 0 dB."""
        count = max(1, len(self._all()))
        found: Numbers = 10 * np.log10(self._power / count / (_WINDOW**2).sum() + 1e-12).astype(np.float32)
        return found

    @property
    def levels_dbfs(self) -> Numbers:
        """Of every frame so far (N,)."""
        return self._all()[:, _LEVEL]

    def sound(self) -> Sound:
        """All that was heard."""
        heard = self._all()
        sounds = heard[:, _LEVEL] > SILENCE_DBFS
        if not sounds.any():
            level = float(np.median(heard[:, _LEVEL])) if len(heard) else _NOTHING_DB
            return Sound(level, 0.0, 1.0, 0.0, 0.0, 0.0)
        loud = heard[sounds]
        level, centroid, flatness, pitchedness = np.median(loud, 0).tolist()
        low, high = np.quantile(loud[:, _LEVEL], [0.1, 0.9]).tolist()
        return Sound(level, high - low, float(1 - sounds.mean()), centroid, flatness, pitchedness)

    def _all(self) -> Numbers:
        self._heard = [np.concatenate([np.zeros((0, 4), np.float32), *self._heard])]
        return self._heard[0]


def _describe(frames: Frames, power: Frames, rate: int) -> Numbers:
    """Level, centroid, flatness, pitchedness of frames (N, FRAME) and their spectra: (N, 4)."""
    power = power + 1e-12
    level = 10 * np.log10((frames**2).mean(1) + 1e-12)
    centroid = power @ np.fft.rfftfreq(FRAME, 1 / rate) / power.sum(1)
    flatness = np.exp(np.log(power).mean(1)) / power.mean(1)
    return np.stack([level, centroid, flatness, pitchedness(frames, rate)], 1).astype(np.float32)


def pitchedness(frames: Frames, rate: int) -> Frames:
    """Highest normalised autocorrelation of each frame (N, T), over the lags of `PITCH_SECONDS`: (N,)."""
    length = frames.shape[1]
    first, last = (int(seconds * rate) for seconds in PITCH_SECONDS)
    centred = frames - frames.mean(1, keepdims=True)
    products = np.fft.irfft(np.abs(np.fft.rfft(centred, 2 * length)) ** 2)[:, first:last]
    energy = np.cumsum(centred**2, 1)
    earlier = energy[:, length - 1 - np.arange(first, last)]  # of what lies so far from the end
    later = energy[:, -1:] - energy[:, np.arange(first, last) - 1]
    peaks: Frames = (products / np.sqrt(earlier * later + 1e-12)).max(1)
    return peaks
