"""Models that other systems' own code wrote, with the logits it gives: tests/fixtures/README.md."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from streamer.models.checkpoint import Checkpoint
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import WaveNetSpec
from streamer.models.wavenet import WaveNet

FOLDER = Path(__file__).parent / "fixtures"

DIALECTS: dict[str, str] = {
    "prism-gru-noskip": "prism-gru-noskip",
    "prism-gru-skip": "prism-gru-skip",
    "prism-lstm-skip": "prism-lstm-skip",
    "deepsound-2tier": "deepsound-2tier",
    "deepsound-3tier": "deepsound-3tier",
    "mehri-3tier-gru": "mehri-3tier-gru",
    "dadabots-2tier-lstm": "dadabots-2tier-lstm",
    "dadabots-2tier-lstm-mulaw": "dadabots-2tier-lstm-mulaw",
    "ibab-biases": "ibab-biases",
    "ibab-conditioned": "ibab-conditioned",
    "ibab-conditioned-other": "ibab-conditioned",
    "vincentherrmann": "vincentherrmann",
    "r9y9": "r9y9",
    "nv-wavenet": "nv-wavenet",
}
"""The model file of each dialect; two may share one and differ in the condition."""


@dataclass(frozen=True)
class Dialect:
    """One model, what it was fed, and what it must answer."""

    path: Path
    """The checkpoint."""
    codes: NDArray[np.int64]
    """(first_t + N,)"""
    logits: NDArray[np.float32]
    """(N, Q): row k predicts codes[first_t + k] from all codes before it, after rest."""
    first_t: int
    """1 for WaveNet; for SampleRNN the slowest frame, whose tier first runs on codes[:first_t]."""
    condition: int | NDArray[np.float32] | None
    """An id, or a vector (C,), or nothing, as the spec says."""


def dialect(name: str) -> Dialect:
    """Read one of `DIALECTS`."""
    return answers(FOLDER / f"{name}.npz", FOLDER / f"{DIALECTS[name]}.safetensors")


def answers(path: Path, model: Path) -> Dialect:
    """Read what a model was fed, and what its program answered."""
    with np.load(path) as stored:
        arrays = dict(stored)
    condition = arrays.get("condition")
    return Dialect(
        path=model,
        codes=arrays["codes"].astype(np.int64),
        logits=arrays["logits"],
        first_t=int(arrays["first_t"]),
        condition=condition if condition is None or condition.ndim else int(condition),
    )


def build(model: Checkpoint) -> WaveNet | SampleRnn:
    module = WaveNet(model.spec) if isinstance(model.spec, WaveNetSpec) else SampleRnn(model.spec)
    weights = {name.replace(".", "__"): torch.tensor(array) for name, array in model.tensors.items()}
    module.load_state_dict(weights)
    return module


def logits_of(model: Checkpoint, known: Dialect) -> np.ndarray:
    """Teacher-forced logits (N, Q) of the torch module on a dialect's codes."""
    module, codes = build(model), torch.tensor(known.codes)[None]
    with torch.no_grad():
        if isinstance(module, WaveNet):
            condition = None if known.condition is None else torch.as_tensor(known.condition)[None]
            return module(codes[:, :-1], condition)[0].numpy()
        return module(codes)[0][0].numpy()
