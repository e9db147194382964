"""What is found in a folder is told in numbers that a musician can check."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import RATE, tone

from streamer.models.corpus import Settings, prepare
from streamer.models.quantisers import Quantiser
from streamer.models.survey import Survey, survey_from_json


def survey_of(folder: Path) -> Survey:
    return prepare(folder, Settings(RATE, Quantiser(), longest_silence=0.2), pytest.fail).survey


def test_hours_rates_channels_and_silence_are_told(tmp_path: Path) -> None:
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", tone(2), RATE)
    stereo = np.stack([tone(3, 44100)] * 2, axis=1)
    soundfile.write(tmp_path / "4.flac", np.concatenate([stereo, np.zeros((44100, 2))]), 44100)
    found = survey_of(tmp_path)
    assert (found.files, found.seconds) == (5, 12)
    assert found.kept_seconds == pytest.approx(11, abs=0.02)
    assert found.rates == {"at 16000 Hz, mono": 8, "at 44100 Hz, stereo": 4}
    assert found.lines() == [
        "5 files, 12.0 s (8.0 s at 16000 Hz, mono, 4.0 s at 44100 Hz, stereo); 1.0 s is left out"
    ]


def test_clipping_and_offsets_are_named_with_a_remedy(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "fine.wav", tone(1), RATE)
    soundfile.write(tmp_path / "hot.wav", np.clip(tone(1, level=2.0), -1, 1), RATE)
    soundfile.write(tmp_path / "dc.wav", tone(1, level=0.3) - 0.05, RATE)
    found = survey_of(tmp_path)
    assert found.clipped == {"hot.wav": pytest.approx(2 / 3, abs=0.01)}  # beyond half of its peak
    assert found.dc == {"dc.wav": pytest.approx(-0.05, abs=1e-4)}
    _, clipped, offset = found.lines()
    assert clipped.startswith("1 with clipped samples, 'hot.wav' most, 66.")
    assert offset.startswith("1 with a DC offset, 'dc.wav' most, -5.00%: a high-pass filter")


@pytest.mark.parametrize(
    ("seconds", "told"), [(59.9, "59.9 s"), (90, "1.5 min"), (3600, "1 h 0 min"), (93784, "26 h 3 min")]
)
def test_lengths_are_told_as_one_says_them(seconds: float, told: str) -> None:
    assert told in Survey(1, seconds, seconds, {"at 8000 Hz, mono": seconds}).lines()[0]


def test_a_survey_is_kept_as_json() -> None:
    found = Survey(2, 3.0, 2.5, {"at 8000 Hz, mono": 3.0}, {"a": 0.1}, {"b": -0.2}, ("c: broken",))
    assert survey_from_json(json.loads(json.dumps(asdict(found)))) == found
