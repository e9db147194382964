"""Small specs of every kind, weights for them, and model files."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint, Provenance
from streamer.models.quantisers import Quantiser
from streamer.models.specs import (
    Cell,
    ClockSpec,
    PredictorSpec,
    SampleRnnSpec,
    SkipScheme,
    Spec,
    UpsampleBias,
    WaveNetSpec,
)

BIASES = ("input_bias", "gate_bias", "residual_bias", "skip_bias", "output_bias", "output2_bias")

widths = st.integers(1, 7)

PROVENANCE = Provenance(
    title="Étude",
    corpus="a piano",
    licence="CC0-1.0",
    attribution="nobody",
    origin="streamer train",
    steps=1000,
    bits_per_sample=3.25,
    unigram_bits=7.5,
    lpc32_bits=4.125,
    temperature=0.9,
)


@st.composite
def predictor_specs(draw: st.DrawFn) -> PredictorSpec:
    order = draw(st.integers(1, 12))
    return PredictorSpec(
        order=order,
        window=order + draw(st.integers(8, 30)),
        hop=draw(st.integers(8, 9)),
        correction=draw(st.sampled_from([1e-4, 1e-2])),
        expansion=draw(st.sampled_from([1.0, 0.99])),
        floor=draw(st.sampled_from([1e-4, 1e-2])),
    )


predictors = st.one_of(st.none(), predictor_specs())
clocks = st.one_of(st.none(), st.builds(ClockSpec, st.floats(1.0, 50.0), st.integers(1, 9)))


@st.composite
def wavenet_specs(draw: st.DrawFn) -> WaveNetSpec:
    condition = draw(st.integers(0, 3))
    return WaveNetSpec(
        dilations=tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))),
        residual=draw(widths),
        gate=draw(widths),
        skip=draw(widths),
        output=draw(widths),
        levels=draw(st.integers(2, 20)),
        kernel=draw(st.integers(2, 3)),
        input_kernel=draw(st.integers(1, 3)),
        embedding=draw(st.integers(0, 3)),
        residual_scale=draw(st.sampled_from([1.0, 0.5**0.5])),
        skip_scale=draw(st.sampled_from([1.0, 0.3])),
        condition=condition,
        condition_ids=draw(st.integers(0, 3)) if condition else 0,
        predictor=draw(predictors),
        **{name: draw(st.booleans()) for name in BIASES},
    )


@st.composite
def samplernn_specs(draw: st.DrawFn) -> SampleRnnSpec:
    frames = [draw(st.integers(1, 3))]
    for ratio in draw(st.lists(st.integers(2, 3), max_size=2)):
        frames.insert(0, frames[0] * ratio)
    clock = draw(clocks)
    return SampleRnnSpec(
        frames=tuple(frames),
        dim=draw(widths),
        rnn_layers=draw(st.integers(1, 3)),
        levels=draw(st.integers(2, 20)),
        cell=draw(st.sampled_from(get_args(Cell))),
        embedding=draw(widths),
        skips=draw(st.sampled_from(get_args(SkipScheme))),
        learned_h0=draw(st.booleans()),
        expand_top=True if clock else draw(st.booleans()),
        upsample_bias=draw(st.sampled_from(get_args(UpsampleBias))),
        hidden=draw(st.integers(1, 2)),
        relu_after_sum=draw(st.booleans()),
        predictor=draw(predictors),
        clock=clock,
    )


specs = st.one_of(wavenet_specs(), samplernn_specs())


def weights_of(spec: Spec, seed: int) -> dict[str, NDArray[np.float32]]:
    """Weights that are nowhere zero, biases and h0 included, so that none can be forgotten unnoticed."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in spec.tensors().items()}


def write_model(path: Path, spec: Spec, seed: int = 0, **changes: Any) -> Checkpoint:
    """Save a model with drawn weights; changes: arguments of `checkpoint.save`."""
    plain: dict[str, Any] = {
        "spec": spec,
        "quantiser": Quantiser("mulaw", spec.levels),
        "sample_rate": 16000,
        "tensors": weights_of(spec, seed),
        "provenance": PROVENANCE,
    }
    return checkpoint.save(path, **plain | changes)
