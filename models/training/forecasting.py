"""What a spec's predictor forecasts of a corpus, computed once by the very code that runs live."""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamer.models.corpus import Corpus, Part, cache_folder
from streamer.models.predictor import CONSTANTS, FORECAST
from streamer.models.specs import Spec

FORECASTS = "forecasts"
"""Name of the side sequence (T, FORECAST) of a part."""


def forecasts_of(spec: Spec, codes: NDArray[np.integer]) -> Tensor:  # type: ignore[type-arg]
    """What the spec's predictor forecasts before each of codes (T,), from rest: (T, FORECAST), or (T, 0)."""
    if spec.predictor is None:
        return torch.zeros(len(codes), 0)
    from streamer.kernels.predictor import forecasts  # the one thing of kernels that models learn from

    return torch.from_numpy(forecasts(spec.predictor, spec.levels, codes.astype(np.int64, copy=False)))


def with_forecasts(corpus: Corpus, spec: Spec) -> Corpus:
    """A corpus whose training part has the forecasts of the spec's predictor, if it has one, on disk.

    They lie beside the codes in the cache, one file for each predictor, and are mapped into memory.
    """
    if spec.predictor is None:
        return corpus
    described = json.dumps([asdict(spec.predictor), spec.levels, CONSTANTS], sort_keys=True)
    name = f"{FORECASTS}-{hashlib.sha256(described.encode()).hexdigest()[:16]}.npy"
    path, codes = cache_folder() / corpus.key / name, corpus.training.codes
    if not path.is_file():
        making = path.with_suffix(f".{secrets.token_hex(4)}")
        with making.open("wb") as file:
            np.save(file, forecasts_of(spec, codes).numpy(), allow_pickle=False)
        os.replace(making, path)
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    assert found.shape == (len(codes), FORECAST)
    return replace(corpus, training=Part(codes, {**corpus.training.side, FORECASTS: found}))
