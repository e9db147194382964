"""What the benchmark compares with must itself be right: torch by steps equals the reference modules."""

from dataclasses import replace

import numpy as np
import torch
from draws import samplernn_specs, wavenet_specs, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.models.samplernn import SampleRnn
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.models.wavenet import WaveNet
from streamer.torch_stepper import Condition, Generator, TorchStepper, cached, one_thread, uncached

TOLERANCE = 1e-4
LENGTH = 40
HEARD = 25  # beyond some receptive fields, short of others

seeds = st.integers(0, 2**32 - 1)


def plain(spec: Spec) -> Spec:
    """Without what torch has in training only."""
    parts = {"predictor": None} | ({"clock": None} if isinstance(spec, SampleRnnSpec) else {})
    return replace(spec, **parts)


def codes_for(spec: Spec, seed: int) -> list[int]:
    return [int(code) for code in np.random.default_rng(seed).integers(0, spec.levels, LENGTH)]


def condition_for(spec: Spec, seed: int) -> Condition:
    if not isinstance(spec, WaveNetSpec) or not spec.condition:
        return None
    if spec.condition_ids:
        return seed % spec.condition_ids
    return np.random.default_rng(seed).standard_normal(spec.condition).astype(np.float32)


@torch.no_grad()
def reference(spec: Spec, seed: int) -> np.ndarray:
    """Row t: the logits of the code after codes[t]."""
    codes, condition = torch.tensor([codes_for(spec, seed)]), condition_for(spec, seed)
    weights = {n.replace(".", "__"): torch.from_numpy(w) for n, w in weights_of(spec, seed).items()}
    if isinstance(spec, WaveNetSpec):
        wavenet = WaveNet(spec)
        wavenet.load_state_dict(weights)
        rows = wavenet(codes, None if condition is None else torch.as_tensor(condition)[None])
        return rows[0].numpy()  # type: ignore[no-any-return]
    samplernn, frame = SampleRnn(spec), spec.frames[0]
    samplernn.load_state_dict(weights)
    filler = torch.zeros(1, frame - LENGTH % frame, dtype=torch.long)
    rest = torch.full((1, frame), spec.levels // 2)
    return samplernn(torch.cat([rest, codes, filler], 1))[0][0, 1 : LENGTH + 1].numpy()  # type: ignore[no-any-return]


def stepped(stepper: TorchStepper, codes: list[int]) -> np.ndarray:
    return np.concatenate([stepper.step(code).numpy() for code in codes])


def check(spec: Spec, seed: int) -> None:
    codes, tensors, condition = codes_for(spec, seed), weights_of(spec, seed), condition_for(spec, seed)
    expected = reference(spec, seed)
    assert np.abs(stepped(cached(spec, tensors, condition), codes) - expected).max() < TOLERANCE
    assert (
        np.abs(stepped(cached(spec, tensors, condition, scripted=True), codes) - expected).max() < TOLERANCE
    )
    without_cache = uncached(spec, tensors, codes[:HEARD], condition)
    assert np.abs(stepped(without_cache, codes[HEARD:]) - expected[HEARD:]).max() < TOLERANCE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(wavenet_specs().map(plain), seeds)
def test_wavenet_equals_the_module(spec: Spec, seed: int) -> None:
    check(spec, seed)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(samplernn_specs().map(plain), seeds)
def test_samplernn_equals_the_module(spec: Spec, seed: int) -> None:
    check(spec, seed)


def test_wavenet_bytes_are_what_a_sample_reads_and_what_is_kept() -> None:
    spec = WaveNetSpec((1, 2, 4), residual=3, gate=5, skip=6, output=7, levels=11, kernel=3)
    row, gates, residuals = 3, 3 * (3 * 3) * (2 * 5), 2 * (5 * 3)
    skips, head = 3 * 5 * 6, 6 * 7 + 7 * 11
    for stepper in (cached(spec, weights_of(spec, 0)), cached(spec, weights_of(spec, 0), scripted=True)):
        assert stepper.weight_bytes == 4 * (row + gates + residuals + skips + head)
        assert stepper.state_bytes == 4 * 3 * ((2 + 1) + (4 + 1) + (8 + 1))


def test_samplernn_bytes_are_what_a_sample_reads_and_what_is_kept() -> None:
    spec = SampleRnnSpec((6, 2), dim=5, rnn_layers=2, levels=11, cell="gru-keras", embedding=4)
    rows, window, perceptron = 2 * 4, 2 * 4 * 5, 2 * (5 * 5) + 5 * 11
    layers = 2 * (2 * (5 * 15) + 2 * 15)  # two matrices and two biases each
    slow = (6 + 1) * 5 + layers + 3 * (5 * 5 + 5)
    fast = (2 + 1) * 5 + layers + 2 * (5 * 5 + 5)
    states, slots = 2 * 2, 3 + 2
    for stepper in (cached(spec, weights_of(spec, 0)), cached(spec, weights_of(spec, 0), scripted=True)):
        assert stepper.weight_bytes == round(4 * (rows + window + perceptron + slow / 6 + fast / 2))
        assert stepper.state_bytes == 4 * 5 * (states + slots)


def test_drawing_follows_seed_and_temperature() -> None:
    spec = SampleRnnSpec((4,), dim=6, rnn_layers=1, levels=30, embedding=4)
    tensors = weights_of(spec, 1)

    def draw(seed: int, temperature: float) -> list[int]:
        return Generator(cached(spec, tensors), 15, seed).generate(50, temperature).tolist()  # type: ignore[no-any-return]

    assert draw(1, 1.0) == draw(1, 1.0) != draw(2, 1.0)
    assert draw(1, 0.0) == draw(2, 0.0)


def test_one_thread_ends_with_the_block() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
