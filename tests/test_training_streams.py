"""Batches: where their sequences stand in a corpus, what state they carry, what is wrong on purpose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tones import RATE, write_tones

from streamer.models.corpus import Part, Settings, prepare
from streamer.models.errors import CorpusError, SpecError
from streamer.models.quantisers import Quantiser
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import PredictorSpec, SampleRnnSpec, WaveNetSpec
from streamer.models.training.forecasting import FORECASTS, forecasts_of, with_forecasts
from streamer.models.training.objective import loss_of
from streamer.models.training.parallel import World
from streamer.models.training.plan import Plan
from streamer.models.training.streams import Batch, Streams
from streamer.models.wavenet import WaveNet

WAVENET = WaveNetSpec(dilations=(1, 2, 4, 8), residual=12, gate=12, skip=24, output=24, levels=256)
SAMPLERNN = SampleRnnSpec(frames=(8, 2), dim=24, rnn_layers=1, levels=256, embedding=8)
LSTM = SampleRnnSpec(
    frames=(8,), dim=16, rnn_layers=2, levels=256, cell="lstm-keras", embedding=8, learned_h0=True
)

SILENCE = 2**15  # the code of silence where there are 65,536 levels, and no place in these short corpora


def walk(
    model: WaveNet | SampleRnn, batch: int, codes: int, from_silence: float = 0.0, rows: slice = slice(None)
) -> Streams:
    """Streams of 16 samples over codes that are their own positions, as they stand at step 0."""
    part = Part(np.arange(codes, dtype=np.uint16))
    plan = Plan(steps=1, batch=batch, length=16, from_silence=from_silence)
    return Streams(part, plan, model.spec.receptive_field, 65536, rows)


def starts_of(batch: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First position of each sequence (B,), and whether it starts out of silence (B,).

    Everything else must be a stretch of the corpus.
    """
    silent = batch[:, 0] == SILENCE
    assert (batch[silent, :context] == SILENCE).all()
    starts = batch[:, -1:] - (batch.shape[1] - 1)
    assert torch.equal(batch[:, context:], (starts + torch.arange(batch.shape[1]))[:, context:])
    assert torch.equal(batch[~silent], (starts + torch.arange(batch.shape[1]))[~silent])
    return starts[:, 0], silent


def test_samplernns_sequences_walk_on_and_start_from_rest_at_the_corpuss_end() -> None:
    model = SampleRnn(SAMPLERNN)
    streams = walk(model, batch=5, codes=100)
    before, restarts = torch.full((5,), 100), 0
    for _ in range(20):
        starts, silent = starts_of(streams.next(model).codes, context=8)
        ended = before + 16 > 100 - 24
        assert torch.equal(silent, ended)
        assert torch.equal(starts[~ended], before[~ended] + 16)
        assert streams.state is not None
        for layers in streams.state:
            for state in layers:
                assert torch.equal(state, torch.where(ended[:, None], torch.zeros(()), torch.ones(5, 24)))
        streams.state = [[torch.ones(5, 24) for _ in layers] for layers in streams.state]
        before, restarts = starts, restarts + int(ended.sum())
    assert 10 < restarts < 95


def test_a_batch_says_where_in_the_corpus_its_predictions_begin() -> None:
    for model in (SampleRnn(SAMPLERNN), WaveNet(WAVENET)):
        streams = walk(model, batch=6, codes=500, from_silence=0.3, rows=slice(2, 5))
        for _ in range(5):
            batch, context = streams.next(model), model.spec.receptive_field
            assert torch.equal(batch.positions, batch.codes[:, context])  # codes are their own positions


def test_some_of_samplernns_sequences_start_from_rest_before_the_end() -> None:
    model = SampleRnn(SAMPLERNN)
    streams = walk(model, batch=200, codes=30_000, from_silence=0.25)
    streams.next(model)
    assert streams.state is not None
    streams.state = [[torch.ones(200, 24) for _ in layers] for layers in streams.state]
    _, silent = starts_of(streams.next(model).codes, context=8)
    assert 30 < int(silent.sum()) < 70
    assert torch.equal(
        streams.state[1][0], torch.where(silent[:, None], torch.zeros(()), torch.ones(200, 24))
    )


def test_samplernn_restarts_from_its_learned_state() -> None:
    model = SampleRnn(LSTM)
    learned = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    model.load_state_dict({"tier0__h0": learned}, strict=False)
    streams = walk(model, batch=3, codes=100)
    streams.next(model)
    assert streams.state is not None
    assert torch.equal(streams.state[0][1], learned[1].expand(3, -1))


def test_wavenets_sequences_are_drawn_anew_over_the_whole_corpus() -> None:
    model = WaveNet(WAVENET)
    streams = walk(model, batch=8, codes=40)
    drawn = [starts_of(streams.next(model).codes, context=16) for _ in range(30)]
    assert set(torch.cat([starts for starts, _ in drawn]).tolist()) == set(range(40 - 16 - 16 + 1))
    assert not any(silent.any() for _, silent in drawn)
    assert streams.state is None


def test_some_of_wavenets_sequences_start_out_of_silence() -> None:
    model = WaveNet(WAVENET)
    _, silent = starts_of(walk(model, batch=200, codes=1000, from_silence=0.25).next(model).codes, context=16)
    assert 30 < int(silent.sum()) < 70


@pytest.mark.parametrize("levels", [32, 255, 256])
def test_the_silence_that_sequences_start_from_is_the_quantisers(levels: int) -> None:
    streams = Streams(Part(np.zeros(100, np.uint8)), Plan(steps=1), 8, levels, slice(None))
    assert streams.silence == Quantiser(levels=levels).silence


# --- what goes along with the codes


@pytest.mark.parametrize("kind", [WaveNet, SampleRnn])
def test_side_sequences_are_cut_where_the_codes_are(kind: Any) -> None:
    model = kind(WAVENET if kind is WaveNet else SAMPLERNN)
    codes = np.arange(1000, dtype=np.uint16)
    side = {"twice": 2 * np.arange(1000), "pairs": np.stack([np.arange(1000), -np.arange(1000)], axis=1)}
    plan = Plan(steps=1, batch=3, length=16, from_silence=0.0)
    streams = Streams(Part(codes, side), plan, model.spec.receptive_field, 65536, slice(None))
    for _ in range(5):
        batch = streams.next(model)
        at = batch.codes.numpy()
        if isinstance(model, WaveNet):
            np.testing.assert_array_equal(batch.side["twice"], 2 * at)
        context = model.spec.receptive_field  # a SampleRNN's first sequences start out of silence
        np.testing.assert_array_equal(batch.side["twice"][:, context:], 2 * at[:, context:])
        np.testing.assert_array_equal(batch.side["pairs"][:, context:, 1], -at[:, context:])


@pytest.mark.parametrize("kind", [WaveNet, SampleRnn])
def test_forecasts_are_those_of_the_corpus_and_of_rest_after_silence(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMER_CORPORA", str(tmp_path / "cache"))
    predictor = PredictorSpec(order=4, window=32, hop=8)
    model = kind(replace(WAVENET if kind is WaveNet else SAMPLERNN, predictor=predictor))
    spec, context = model.spec, model.spec.receptive_field
    settings = Settings(RATE, Quantiser(levels=spec.levels))
    corpus = prepare(write_tones(tmp_path / "tones"), settings, lambda line: None)
    part = with_forecasts(corpus, spec).training
    whole, codes = forecasts_of(spec, part.codes), np.asarray(part.codes)
    plan = Plan(steps=1, batch=4, length=16, from_silence=0.3)
    streams = Streams(part, plan, context, spec.levels, slice(None))
    silent = 0
    for _ in range(20):
        batch, ends = streams.next(model), streams.positions.tolist()
        for row, end in enumerate(ends):
            begin, own = end - plan.length, batch.codes[row].numpy()
            if np.array_equal(own, codes[begin : begin + len(own)]):
                expected = whole[begin : begin + len(own)]
            else:
                silent, expected = silent + 1, forecasts_of(spec, own)
            assert torch.equal(batch.side[FORECASTS][row], expected)
    assert 10 < silent < 70
    assert with_forecasts(corpus, spec).training.side[FORECASTS].filename == part.side[FORECASTS].filename


def test_a_side_sequence_of_another_length_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"'twice' has 9 rows for 10 codes"):
        Part(np.zeros(10, np.uint8), {"twice": np.zeros(9)})


# --- errors in what is given


@given(st.floats(0.05, 0.9), st.integers(1, 9), st.sampled_from([8, 256]))
def test_a_share_of_what_is_given_is_wrong_by_little(noise: float, size: int, levels: int) -> None:
    codes = np.random.default_rng(0).integers(0, levels, 5000).astype(np.uint8)
    plan = Plan(steps=1, batch=20, length=500, noise=noise, noise_size=size)
    model = WaveNet(replace(WAVENET, levels=levels))
    batch = Streams(Part(codes), plan, 16, levels, slice(None)).next(model)
    error = (batch.given - batch.codes).numpy()
    assert (batch.given.min(), batch.given.max()) >= (0, 0)
    assert batch.given.max() < levels
    assert np.abs(error).max() <= size
    if levels == 256:  # few codes are so near to an end that an error would lead out
        assert (error != 0).mean() == pytest.approx(noise, abs=0.05)
        assert error.mean() == pytest.approx(0, abs=0.2 * size)


def test_without_noise_a_model_is_given_what_was_played() -> None:
    model = WaveNet(WAVENET)
    batch = walk(model, batch=4, codes=1000).next(model)
    assert batch.given is batch.codes


def test_errors_are_in_what_is_given_not_in_what_is_predicted() -> None:
    """A model that only repeats its last code has no loss on a constant, unless what it is given is wrong."""
    model = WaveNet(WaveNetSpec(dilations=(1,), residual=2, gate=2, skip=2, output=2, levels=4))
    right = torch.zeros((2, 20), dtype=torch.int64)
    wrong = torch.ones_like(right)
    losses = [loss_of(model, Batch(right, given), None, None)[0] for given in (right, wrong)]
    logits = model(wrong[:, :-1], from_rest=False)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), right[:, -logits.shape[1] :].flatten())
    assert losses[1] == expected
    assert losses[0] != expected


# --- several processes


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("kind", [WaveNet, SampleRnn])
def test_the_rows_of_all_processes_are_the_batch_of_one(kind: Any, noise: float) -> None:
    model = kind(WAVENET if kind is WaveNet else SAMPLERNN)

    def streams(rows: slice) -> Streams:
        made = walk(model, batch=6, codes=200, from_silence=0.2, rows=rows)
        made.plan = replace(made.plan, noise=noise)
        return made

    one, parts = streams(slice(None)), [streams(World(rank, 3).rows(6)) for rank in range(3)]
    for _ in range(20):
        whole, shares = one.next(model), [part.next(model) for part in parts]
        for name in ("codes", "given"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(share, name) for share in shares]))


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(SpecError, match="batch is 16: it must be a multiple of the 3 processes"):
        World(0, 3).rows(16)
