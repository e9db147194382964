"""What a run folder says of its run, read without torch; `streamer.models.training.folder` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from streamer.models.corpus import LONGEST_SILENCE
from streamer.models.errors import StreamerError

BEST, LATEST, DESCRIPTION, LOG = "best.safetensors", "latest.safetensors", "run.json", "log.jsonl"


def recipe_of(run: Path) -> dict[str, Any]:
    """What a run is trained by, as its ``run.json`` says; raise `StreamerError` where it cannot be read."""
    try:
        recipe: dict[str, Any] = json.loads((run / DESCRIPTION).read_text(encoding="utf-8"))["recipe"]
        return recipe
    except (OSError, ValueError, KeyError, TypeError):
        raise StreamerError(f"{run}: its {DESCRIPTION} cannot be read; name the folder of a run") from None


def log_of(run: Path) -> list[dict[str, float]]:
    """The evaluations of a run, a dictionary each; raise `StreamerError` where there is none."""
    try:
        log = [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        log = []
    if not log:
        raise StreamerError(f"{run}: no evaluation is logged there; name the folder of a run")
    return log


def longest_silence(model: Path) -> float:
    """Seconds that the run in whose folder a model lies left of silences; else what recipes leave.

    Of the same folder of audio, another value would make other codes and so another test part.
    """
    try:
        return float(recipe_of(model.parent)["longest_silence"])
    except (StreamerError, KeyError, TypeError, ValueError):
        return LONGEST_SILENCE
