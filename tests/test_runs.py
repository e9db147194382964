"""What a run folder says is read without torch, and one that says nothing is told."""

import json
from pathlib import Path

import pytest

from streamer import runs
from streamer.models.corpus import LONGEST_SILENCE
from streamer.models.errors import StreamerError


def test_the_silence_that_a_run_left_is_found_beside_its_models(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"longest_silence": 0.25}}))
    assert runs.longest_silence(tmp_path / "best.safetensors") == 0.25


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"recipe": {}}', '{"recipe": {"longest_silence": null}}'])
def test_elsewhere_it_is_what_recipes_leave(tmp_path: Path, said: str) -> None:
    assert runs.longest_silence(tmp_path / "model.safetensors") == LONGEST_SILENCE
    (tmp_path / "run.json").write_text(said)
    assert runs.longest_silence(tmp_path / "model.safetensors") == LONGEST_SILENCE


@pytest.mark.parametrize("said", ["", "no JSON\n"])
def test_a_log_that_says_nothing_is_told(tmp_path: Path, said: str) -> None:
    (tmp_path / "log.jsonl").write_text(said)
    with pytest.raises(StreamerError, match="no evaluation is logged there; name the folder of a run"):
        runs.log_of(tmp_path)
