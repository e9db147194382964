"""First weights keep a signal's variance, know that codes are amplitudes, and come from a seed alone."""

import pytest
import torch

from streamer.models.initial import smooth, uniform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("levels", [2, 16, 256, 1024])
def test_smooth_features_have_unit_variance(levels: int) -> None:
    features = smooth(levels, 20_000, seeded())
    assert features.shape == (levels, 20_000)
    # Over 20,000 phases a mean of squares strays from 1 by 0.005, one of values from 0 by 0.007.
    torch.testing.assert_close(features.square().mean(1), torch.ones(levels), atol=0.04, rtol=0)
    torch.testing.assert_close(features.mean(1), torch.zeros(levels), atol=0.04, rtol=0)


@pytest.mark.parametrize("levels", [64, 256])
def test_neighbouring_codes_start_out_alike_and_strangers_unlike(levels: int) -> None:
    features = smooth(levels, 2000, seeded())
    likeness = features @ features.T / 2000
    beside, far = likeness.diagonal(1), likeness.diagonal(levels // 4)
    assert beside.min() > 0.6
    assert far.abs().max() < 0.5
    near = torch.stack([likeness.diagonal(n)[: levels - 8].mean() for n in range(1, 9)])
    assert (near.diff() < 0).all()


def test_uniform_weights_keep_the_variance_of_their_input() -> None:
    x = torch.randn(1000, 300, generator=seeded(1))
    y = x @ uniform((300, 200), 300, seeded())
    assert y.var().item() == pytest.approx(1.0, abs=0.05)


def test_the_same_seed_draws_the_same_weights_and_another_seed_others() -> None:
    for draw in (lambda g: smooth(32, 8, g), lambda g: uniform((32, 8), 32, g)):
        assert torch.equal(draw(seeded(3)), draw(seeded(3)))
        assert not torch.equal(draw(seeded(3)), draw(seeded(4)))


def test_drawing_touches_no_random_numbers_but_its_own() -> None:
    before = torch.get_rng_state()
    smooth(16, 4, seeded())
    uniform((4, 4), 4, seeded())
    assert torch.equal(torch.get_rng_state(), before)
