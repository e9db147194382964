"""The specs say other systems' models exactly: their weights give their logits in our torch modules."""

import dataclasses
from typing import get_args

import numpy as np
import pytest
from dialects import DIALECTS, FOLDER, dialect, logits_of

from streamer.models import checkpoint
from streamer.models.specs import Cell, SampleRnnSpec

TOLERANCE = 2e-5
"""Largest difference of a logit: what two float32 programs leave between them; 1e-4 is what we promise."""


@pytest.mark.parametrize("name", DIALECTS)
def test_logits_are_the_other_systems(name: str) -> None:
    known = dialect(name)
    logits = logits_of(checkpoint.load(known.path), known)
    np.testing.assert_allclose(logits, known.logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", DIALECTS)
def test_logits_tell_models_apart(name: str) -> None:
    """A tolerance proves nothing where logits hardly vary: they vary ten thousand times as much."""
    assert dialect(name).logits.std(axis=0).mean() > 10_000 * TOLERANCE


def test_every_file_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(DIALECTS.values())


def test_every_word_of_the_specs_is_spoken() -> None:
    """The dialects cover each cell and skip scheme, and both settings of each switch."""
    specs = [checkpoint.read_header(dialect(name).path).spec for name in DIALECTS]
    recurrent = [spec for spec in specs if isinstance(spec, SampleRnnSpec)]
    assert {spec.cell for spec in recurrent} == set(get_args(Cell))
    assert {spec.skips for spec in recurrent} == {"none", "prism", "mehri"}
    assert {spec.upsample_bias for spec in recurrent} == {"none", "slot"}
    for switch in ("learned_h0", "expand_top", "relu_after_sum"):
        assert {getattr(spec, switch) for spec in recurrent} == {False, True}, switch
    assert {spec.tiers for spec in recurrent} == {1, 2}
    assert {spec.hidden for spec in recurrent} == {1, 2}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prism-gru-noskip", {"cell": "gru-torch"}),
        ("deepsound-3tier", {"cell": "gru-keras"}),
        ("dadabots-2tier-lstm", {"cell": "lstm-keras"}),
        ("prism-lstm-skip", {"cell": "lstm-theano"}),
        ("deepsound-3tier", {"relu_after_sum": False}),
        ("r9y9", {"residual_scale": 1.0}),
        ("r9y9", {"skip_scale": 1.0}),
    ],
)
def test_a_wrong_word_is_heard(name: str, change: dict[str, object]) -> None:
    """Dialects that share every shape still differ: the same weights under a wrong spec give other logits."""
    known = dialect(name)
    model = checkpoint.load(known.path)
    wrong = dataclasses.replace(model, spec=dataclasses.replace(model.spec, **change))
    assert np.abs(logits_of(wrong, known) - known.logits).max() > 100 * TOLERANCE
