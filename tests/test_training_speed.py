"""The plain form that training is measured against is the same network; its measurement runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamer import training_speed
from streamer.models.errors import SpecError, StreamerError
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import SampleRnnSpec, WaveNetSpec
from streamer.models.training.plain import PlainSampleRnn, PlainWaveNet
from streamer.models.wavenet import WaveNet

WAVENET = WaveNetSpec(dilations=(1, 2, 4, 1, 2), residual=6, gate=5, skip=7, output=9)
SAMPLERNN = SampleRnnSpec(frames=(16, 4, 2), dim=12, rnn_layers=2, embedding=8)


def stir(model: torch.nn.Module) -> None:
    """Biases begin at zero, where a mistake with them would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_plain_wavenet_gives_the_same_logits() -> None:
    model = WaveNet(WAVENET)
    stir(model)
    codes = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(1))
    ours, plain = model(codes, from_rest=False), PlainWaveNet(model)(codes).mT
    torch.testing.assert_close(plain[:, -ours.shape[1] :], ours, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_plain_samplernn_gives_the_same_logits() -> None:
    model = SampleRnn(SAMPLERNN)
    stir(model)
    codes = torch.randint(0, 256, (3, 16 + 64), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(PlainSampleRnn(model)(codes).mT, model(codes)[0], rtol=0, atol=1e-4)


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(SpecError, match="no plain one"):
        PlainWaveNet(WaveNet(replace(WAVENET, kernel=3)))
    with pytest.raises(SpecError, match="no plain one"):
        PlainSampleRnn(SampleRnn(replace(SAMPLERNN, cell="lstm-keras")))


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(StreamerError, match="'kazoo' is unknown"):
        training_speed.measure("kazoo", torch.device("cpu"))


RECIPE = """\
[corpus]
sample_rate = 8000
[model]
architecture = "wavenet"
dilations = [1, 2, 4]
residual = 8
gate = 8
skip = 8
output = 8
[model.predictor]
order = 8
[train]
steps = 1
batch = 2
length = 256
"""


def test_both_ways_are_measured_in_the_same_samples(tmp_path: Path) -> None:
    """Without the predictor, of which the plain form has none."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    found = training_speed.measure(str(tmp_path / "tiny.toml"), torch.device("cpu"), rounds=1)
    assert found.threads == torch.get_num_threads()
    speeds = [found.samples_per_s, found.fp32_samples_per_s, found.plain_samples_per_s]
    assert all(np.isfinite(speeds))
    assert min(speeds) > 0
    assert found.ratio == pytest.approx(speeds[0] / speeds[2])
