"""The shapes that are measured are those of the systems they are named for."""

import numpy as np
import pytest

from streamer.models.specs import WaveNetSpec
from streamer.models.training.recipe import find_recipe, read_recipe
from streamer.shapes import SHAPES, random_weights


def test_wavenets_are_those_of_nv_wavenet_and_ibab() -> None:
    nv, ibab = SHAPES["wavenet-nv"], SHAPES["wavenet-ibab"]
    assert nv.receptive_field == 2047
    # ibab's own 1 515 968 weights hold a residual product that nothing reads and a skip bias for every layer.
    assert (ibab.receptive_field, ibab.parameters) == (5117, 1_515_968 - (32 * 32 + 32) - 49 * 512)


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [("samplernn-prism-1024", 312), ("samplernn-deepsound", 207), ("samplernn-mehri-2tier", 156)],
)
def test_samplernns_are_as_large_as_their_systems_say(name: str, megabytes: int) -> None:
    assert 4e-6 * SHAPES[name].parameters == pytest.approx(megabytes, abs=1)


def test_prisms_shape_comes_in_three_widths() -> None:
    for dim in (256, 512, 1024):
        shape = SHAPES[f"samplernn-prism-{dim}"]
        assert not isinstance(shape, WaveNetSpec)
        assert (shape.dim, shape.slots, shape.rnn_layers) == (dim, (4, 16), 4)


def test_the_preset_for_laptops_is_measured() -> None:
    assert read_recipe(find_recipe("laptop-16k")).spec == SHAPES["samplernn-laptop-16k"]


def test_random_weights_have_every_name_and_repeat_by_seed() -> None:
    spec = SHAPES["wavenet-nv"]
    weights = random_weights(spec)
    assert {name: value.shape for name, value in weights.items()} == spec.tensors()
    assert all(value.dtype == np.float32 for value in weights.values())
    again, other = random_weights(spec), random_weights(spec, seed=1)
    assert all((weights[name] == again[name]).all() for name in weights)
    assert (weights["gate_weight"] != other["gate_weight"]).any()
