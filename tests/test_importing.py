"""Checkpoints of other programs become models of ours that give the logits which those programs gave."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dialects import FOLDER, logits_of
from foreigners import FOREIGN, FOREIGNERS, imported
from numpy.typing import NDArray

from streamer.kernels.stepper import Stepper
from streamer.models import checkpoint
from streamer.models.errors import CheckpointError, SpecError
from streamer.models.importing.archive import read
from streamer.models.importing.families import FAMILIES
from streamer.models.importing.importer import hold, understand
from streamer.models.importing.settings import Given
from streamer.models.specs import SampleRnnSpec, WaveNetSpec

TOLERANCE = 1e-4
EXACT = 5e-7
"""Of a weight: float32's rounding of a sum or a norm."""
ALL = Given(16_000, "mulaw", None)


def refusal(source: Path, *arguments: Any, **options: Any) -> str:
    """The one line in which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        understand(source, *arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def copied(name: str, folder: Path) -> Path:
    """A checkpoint of `FOREIGNERS` in a folder of its own, with what lies beside it."""
    source = FOREIGNERS[name].source
    shutil.copytree(source.parent, folder / source.parent.name)
    return folder / source.parent.name / source.name


def edited(path: Path, **changes: Any) -> None:
    """Change values of a config in JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def state_of(name: str) -> dict[str, torch.Tensor]:
    """The network's tensors of a PyTorch checkpoint, under its program's names."""
    archive = read(FOREIGNERS[name].source)
    prefix = "state_dict." if name == "r9y9" else ""
    names = [full for full in archive.tensors if full.startswith(prefix)]
    return {full.removeprefix(prefix): torch.tensor(archive.tensors[full]) for full in names}


# --- the same model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, one in FOREIGNERS.items() if one.dialect])
def test_it_is_the_model_that_the_fixtures_hold(name: str) -> None:
    found, known = imported(name), checkpoint.load(FOREIGNERS[name].known().path)
    assert (found.spec, found.quantiser, found.sample_rate) == (
        known.spec,
        known.quantiser,
        known.sample_rate,
    )
    for tensor, array in known.tensors.items():
        np.testing.assert_allclose(found.tensors[tensor], array, rtol=0, atol=EXACT, err_msg=tensor)


@pytest.mark.parametrize("name", FOREIGNERS)
def test_its_logits_are_its_programs(name: str) -> None:
    found, known = imported(name), FOREIGNERS[name].known()
    assert np.abs(logits_of(found.model(), known) - known.logits).max() < TOLERANCE
    stepper = Stepper(found.spec, found.tensors, known.condition)
    stepper.precede(known.codes[: known.first_t])
    logits = stepper.teacher_forced(known.codes[known.first_t :])
    assert np.abs(logits - known.logits).max() < TOLERANCE
    assert known.logits.std(axis=0).mean() > 100 * TOLERANCE


@pytest.mark.parametrize("name", [name for name, one in FOREIGNERS.items() if one.quantiser])
def test_its_quantiser_is_its_programs(name: str) -> None:
    quantiser, key = imported(name).quantiser, FOREIGNERS[name].quantiser
    with np.load(FOLDER / "quantisers.npz") as stored:
        np.testing.assert_array_equal(quantiser.encode(stored[f"{key}.wave"]), stored[f"{key}.codes"])
        if f"{key}.decoded" in stored:
            np.testing.assert_allclose(quantiser.table(), stored[f"{key}.decoded"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FOREIGNERS)
def test_every_tensor_is_accounted_for(name: str) -> None:
    found, archive = imported(name), read(FOREIGNERS[name].source)
    assert found.family.name == FOREIGNERS[name].family
    assert set(found.used) | set(found.unused) == set(archive.tensors) | set(archive.unread)
    assert not set(found.used) & set(found.unused)
    assert found.provenance.origin.startswith(f"{found.family.title} ({found.family.home})")
    assert re.search(r"SHA-256 [0-9a-f]{64}$", found.provenance.origin)


def test_what_serves_training_is_left_out() -> None:
    unused = imported("prism-gru-skip").unused
    slots = [name for name in unused if "OPTIMIZER_SLOT" in name]
    assert len(slots) > 20
    assert {unused[name] for name in slots} == {"serves training only"}


# --- dialects that no fixture speaks ------------------------------------------------------------------------


def theano_names(spec: SampleRnnSpec, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A SampleRNN as Mehri's program names its parameters, every weight split into direction and length."""
    kind, out = spec.cell.split("-")[0].upper(), dict[str, NDArray[Any]]()

    def linear(name: str, weight: NDArray[Any]) -> None:
        out[f"{name}.g0"] = np.linalg.norm(weight, axis=0)
        out[f"{name}.W0"] = weight * np.linspace(0.5, 2, weight.shape[1], dtype=np.float32)

    for tier in range(spec.tiers):
        level, dim = ("FrameLevel" if tier == spec.tiers - 1 else "BigFrameLevel"), spec.dim
        ours = {key.split(".", 1)[1]: t for key, t in tensors.items() if key.startswith(f"tier{tier}.")}
        out[f"{level}.h0"] = ours.get("h0", np.zeros((spec.rnn_layers, spec.state_width), np.float32))
        linear(f"{level}.Output", ours["upsample_weight"].transpose(1, 0, 2).reshape(dim, -1))
        out[f"{level}.Output.b"] = ours["upsample_bias"].ravel()
        if spec.expands(tier):
            linear(f"{level}.InputExpand", ours["expand_weight"])
            out[f"{level}.InputExpand.b"] = ours["expand_bias"]
        for n in range(1, spec.rnn_layers + 1):
            skips = "+inpskip" if n > 1 and spec.skips == "mehri" else ""
            step, recurrent = f"{level}.{kind}{n}{skips}.Step", ours[f"rnn{n - 1}.recurrent_weight"]
            linear(f"{step}.Input", ours[f"rnn{n - 1}.input_weight"])
            out[f"{step}.b" if kind == "LSTM" else f"{step}.Input.b"] = ours[f"rnn{n - 1}.bias"]
            linear(f"{step}.Recurrent_Gates", recurrent if kind == "LSTM" else recurrent[:, : 2 * dim])
            if kind == "GRU":
                linear(f"{step}.Recurrent_Candidate", recurrent[:, 2 * dim :])
            if spec.skips == "mehri":
                way = f"{level}.{kind}{n if kind == 'LSTM' else ''}.outskip{n}y"
                linear(way, ours["skip_weight"][n - 1])
                out |= {f"{way}.b": ours["skip_bias"]} if n == 1 else {}
    linear("SampleLevel.L1_PrevSamples", tensors["input_weight"].reshape(-1, spec.dim))
    out["SampleLevel.Embedding"] = tensors["embedding"]
    for n in (2, 3):
        linear(f"SampleLevel.L{n}", tensors["hidden_weight"][n - 2])
        out[f"SampleLevel.L{n}.b"] = tensors["hidden_bias"][n - 2]
    linear("SampleLevel.Output", tensors["output_weight"])
    return out | {"SampleLevel.Output.b": tensors["output_bias"]}


@pytest.mark.parametrize("cell", ["gru-theano", "lstm-theano"])
@pytest.mark.parametrize("frames", [(4,), (8, 2)])
@pytest.mark.parametrize("skips", ["none", "mehri"])
def test_every_form_of_the_original_samplernn(
    tmp_path: Path, cell: Any, frames: tuple[int, ...], skips: Any
) -> None:
    spec = SampleRnnSpec(frames, 5, 3, 16, cell, 6, skips, learned_h0=True, expand_top=False)
    rng = np.random.default_rng(7)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.tensors().items()}
    path = tmp_path / "params_e0_i9_t1.0_tr1.0_v1.0.pkl"
    path.write_bytes(pickle.dumps(theano_names(spec, tensors), 2))
    found = understand(path, given=Given(16_000, "linear-mehri"))
    assert found.spec == spec
    for name, array in tensors.items():
        np.testing.assert_allclose(found.tensors[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_without_an_embedding_the_original_samplernn_is_fed_one_hot_vectors(tmp_path: Path) -> None:
    spec = SampleRnnSpec((4,), 5, 1, 6, "gru-theano", 6, expand_top=False)
    rng = np.random.default_rng(7)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.tensors().items()}
    named = theano_names(spec, tensors)
    del named["SampleLevel.Embedding"]
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps(named, 2))
    found = understand(path, "dadabots", Given(32_000, "mulaw-mehri"))
    np.testing.assert_array_equal(found.tensors["embedding"], np.eye(6))
    assert found.family.home == "ZVK/sampleRNN_ICLR2017"
    assert not found.spec.learned_h0  # it is all zero


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "state_dict.model."])
def test_a_network_is_found_wherever_it_lies(tmp_path: Path, prefix: str, zipped: bool) -> None:
    state: dict[str, Any] = state_of("vincentherrmann-state")
    for key in reversed(prefix.split(".")[:-1]):
        state = {key: state} if key != "module" else {f"module.{name}": t for name, t in state.items()}
    path = tmp_path / "snapshot"
    saved = {**state, "step": torch.zeros(3)} if prefix else state
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    found = understand(path, given=Given(16_000, dilations=(1, 2, 4, 8)))
    for name, array in imported("vincentherrmann").tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array)
    assert found.unused.get("step") == ("lies outside the network" if prefix else None)


def test_weight_norm_is_known_by_its_newer_names(tmp_path: Path) -> None:
    newer = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    state = {
        re.sub("weight_[gv]$", lambda match: newer[match[0]], name): tensor
        for name, tensor in state_of("deepsound-3tier").items()
    }
    torch.save(state, tmp_path / "ep1-it100")
    found = understand(tmp_path / "ep1-it100", given=Given(16_000))
    for name, array in imported("deepsound-3tier").tensors.items():
        np.testing.assert_array_equal(found.tensors[name], array)


def test_convolutions_without_biases(tmp_path: Path) -> None:
    """vincentherrmann's default; the two at the end have biases in any case."""
    kept = {n: t for n, t in state_of("vincentherrmann-state").items() if "bias" not in n or "end" in n}
    torch.save(kept, tmp_path / "state.pt")
    found = understand(tmp_path / "state.pt", given=Given(16_000, dilations=(1, 2, 4, 8)))
    assert isinstance(found.spec, WaveNetSpec)
    assert not any((found.spec.input_bias, found.spec.gate_bias, found.spec.skip_bias))
    assert found.spec.output_bias
    assert set(found.tensors) == set(found.spec.tensors())


# --- what the tensors do not say ----------------------------------------------------------------------------


def test_what_nothing_says_is_asked_for_with_its_default(tmp_path: Path) -> None:
    source = copied("prism-gru", tmp_path)
    assert "says --rate (default 16000): give it" in refusal(source)
    (source.parent / "config.json").unlink()
    line = refusal(source)
    assert line.startswith(f"'{source}': ")
    assert "--rate (default 16000) and --quantiser (default mulaw, or linear-prism)" in line
    assert "--defaults" in line


def test_defaults_are_taken_only_where_asked_and_each_is_told(tmp_path: Path) -> None:
    source = copied("prism-gru", tmp_path)
    (source.parent / "config.json").unlink()
    found = understand(source, defaults=True)
    assert (found.sample_rate, found.quantiser.kind) == (16_000, "mulaw")
    assert all(line.endswith("the program's default, for nothing says it") for line in found.told)
    assert len(found.told) == 2


def test_the_config_is_believed_before_a_default_and_a_given_value_before_both(tmp_path: Path) -> None:
    source = copied("ibab", tmp_path)
    assert understand(source, defaults=True).sample_rate == 16_000
    edited(source.parent / "wavenet_params.json", sample_rate=11_025)
    found = understand(source, defaults=True)
    assert found.sample_rate == 11_025
    assert found.told[0] == "rate: 11025, from wavenet_params.json"
    given = Given(44_100, "mulaw-floor", (1, 2))
    found = understand(source, given=given, defaults=True)
    assert (found.sample_rate, found.quantiser.kind) == (44_100, "mulaw-floor")
    assert isinstance(found.spec, WaveNetSpec)
    assert found.spec.dilations == (1, 2) * 5
    assert all(line.endswith(", as given") for line in found.told)


def test_a_config_elsewhere_is_named(tmp_path: Path) -> None:
    source = copied("mehri", tmp_path)
    config = (source.parent / "model_settings.txt").rename(tmp_path / "elsewhere")
    assert "--rate" in refusal(source)
    assert understand(source, config=config).quantiser.kind == "linear-mehri"


def test_a_config_is_found_in_the_folder_above(tmp_path: Path) -> None:
    source = copied("mehri", tmp_path)
    (source.parent / "model_settings.txt").rename(tmp_path / "model_settings.txt")
    assert understand(source).sample_rate == 16_000


def test_the_newest_block_of_settings_counts(tmp_path: Path) -> None:
    source = copied("mehri", tmp_path)
    settings = source.parent / "model_settings.txt"
    settings.write_text(settings.read_text() + "\nModel settings:\n\tBITRATE              32000\n")
    assert understand(source, given=Given(quantiser="linear-mehri")).sample_rate == 32_000


def test_of_two_configs_one_has_to_be_chosen(tmp_path: Path) -> None:
    source = copied("prism-gru", tmp_path)
    shutil.copy(source.parent / "config.json", source.parent / "other.config.json")
    line = refusal(source, given=Given(16_000))
    assert "'config.json', 'other.config.json'" in line
    assert "--config" in line


@pytest.mark.parametrize(
    ("name", "config", "changes", "said"),
    [
        ("prism-gru", "config.json", {"dim": 1024}, "dim 1024, its tensors 20"),
        ("prism-gru", "config.json", {"frame_sizes": [2, 8]}, "frame_sizes [2, 8], its tensors (16, 4)"),
        ("prism-gru", "config.json", {"skip_conn": True}, "skip_conn True, its tensors 'none'"),
        ("ibab", "wavenet_params.json", {"skip_channels": 512}, "skip_channels 512, its tensors 24"),
        ("ibab", "wavenet_params.json", {"dilations": [1, 2]}, "2 dilations, it has 10 layers"),
        ("r9y9", "hparams.json", {"kernel_size": 2}, "kernel_size 2, its tensors 3"),
        (
            "nv-wavenet",
            "config.json",
            {"wavenet_config": {"n_skip_channels": 256}},
            "n_skip_channels 256, its tensors 12",
        ),
    ],
)
def test_a_config_of_another_model_is_noticed(
    tmp_path: Path, name: str, config: str, changes: dict[str, Any], said: str
) -> None:
    source = copied(name, tmp_path)
    edited(source.parent / config, **changes)
    line = refusal(source, given=FOREIGNERS[name].given)
    assert f"{config} says {said}" in line
    assert "--config" in line


@pytest.mark.parametrize(
    ("name", "config", "changes", "option"),
    [
        ("prism-gru", "config.json", {"q_type": "a-law"}, "q_type is 'a-law'"),
        ("prism-gru", "config.json", {"rnn_type": "rnn"}, "rnn_type is 'rnn'"),
        ("ibab", "wavenet_params.json", {"scalar_input": True}, "scalar_input is True"),
        ("ibab", "wavenet_params.json", {"dilations": "many"}, "dilations is 'many'"),
        ("ibab", "wavenet_params.json", {"sample_rate": [16000]}, "sample_rate is [16000]"),
        ("r9y9", "hparams.json", {"cin_channels": 80}, "cin_channels is 80"),
        ("r9y9", "hparams.json", {"gin_channels": 16}, "gin_channels is 16"),
        ("r9y9", "hparams.json", {"input_type": "raw"}, "input_type is 'raw'"),
        ("r9y9", "hparams.json", {"legacy": True}, "legacy is True"),
        ("r9y9", "hparams.json", {"stacks": 4}, "stacks is 4"),
        ("r9y9", "hparams.json", {"preprocess": "own"}, "preprocess is 'own'"),
    ],
)
def test_an_option_that_cannot_be_imported_is_called_by_its_name(
    tmp_path: Path, name: str, config: str, changes: dict[str, Any], option: str
) -> None:
    source = copied(name, tmp_path)
    edited(source.parent / config, **changes)
    assert f"option {option}" in refusal(source, given=FOREIGNERS[name].given)


def test_settings_of_the_original_samplernn_that_cannot_be_imported(tmp_path: Path) -> None:
    source = copied("mehri", tmp_path)
    settings = source.parent / "model_settings.txt"
    settings.write_text(re.sub(r"Q_TYPE( +)linear", r"Q_TYPE\1a-law", settings.read_text()))
    assert "option Q_TYPE is 'a-law'" in refusal(source)


def test_wavenet_vocoders_pre_emphasis_and_gain_are_kept(tmp_path: Path) -> None:
    source = copied("r9y9", tmp_path)
    edited(source.parent / "hparams.json", preprocess="preemphasis", global_gain_scale=0.55)
    quantiser = understand(source).quantiser
    assert (quantiser.preemphasis, quantiser.scale) == (0.85, 0.55)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"dilations": NaN}', "\x00", "x" * 2**21])
def test_a_damaged_config_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    source = copied("ibab", tmp_path)
    (source.parent / "wavenet_params.json").write_text(content)
    assert "wavenet_params.json" in refusal(source)


def test_dilations_of_one_block_must_divide_the_layers() -> None:
    line = refusal(FOREIGNERS["vincentherrmann-state"].source, given=Given(16_000, dilations=(1, 2, 4)))
    assert "3 dilations are given for 8 layers" in line


# --- a condition that is held -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ibab-conditioned", "nv-wavenet"])
def test_a_condition_can_be_held_for_good(name: str) -> None:
    known = FOREIGNERS[name].known()
    found = understand(FOREIGNERS[name].source, condition=known.condition)
    assert isinstance(found.spec, WaveNetSpec)
    assert (found.spec.condition, found.spec.condition_ids) == (0, 0)
    stepper = Stepper(found.spec, found.tensors)
    stepper.precede(known.codes[:1])
    assert np.abs(stepper.teacher_forced(known.codes[1:]) - known.logits).max() < TOLERANCE


@pytest.mark.parametrize(
    ("name", "condition", "said"),
    [
        ("ibab-conditioned", 4, "a whole number, 0 to 3"),
        ("ibab-conditioned", np.zeros(5), "a whole number, 0 to 3"),
        ("nv-wavenet", 2, "5 finite numbers"),
        ("nv-wavenet", [0, 0, 0, 0, np.nan], "5 finite numbers"),
        ("ibab", 0, "takes no condition"),
        ("mehri", 0, "takes no condition"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(name: str, condition: Any, said: str) -> None:
    assert said in refusal(FOREIGNERS[name].source, condition=condition)
    with pytest.raises(SpecError, match=said):
        hold(imported(name).spec, dict(imported(name).tensors), condition)


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_checkpoint_of_no_known_program_is_told_what_was_looked_for(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(3, 3)}, tmp_path / "model.pt")
    line = refusal(tmp_path / "model.pt")
    assert all(family.marks[0] in line for family in FAMILIES.values())
    assert "marks" not in line


def test_a_family_can_be_named_and_is_then_the_only_one_looked_for() -> None:
    source = FOREIGNERS["ibab"].source
    assert understand(source, "ibab").family.name == "ibab"
    assert "looked for r9y9: first_conv.bias" in refusal(source, "r9y9")
    assert "choose one of prism, mehri" in refusal(source, "tacotron")


Change = Callable[[dict[str, torch.Tensor]], None]


def _without(name: str) -> Change:
    return lambda state: state.__delitem__(name)


def _with(**tensors: torch.Tensor) -> Change:
    return lambda state: state.update({name.replace("__", "."): t for name, t in tensors.items()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("skip_convs.3.weight"), "tensor 'skip_convs.3.weight' of pytorch-wavenet is missing"),
        (_with(skip_convs__3__weight=torch.zeros(9, 8, 1)), "shape (9, 8, 1)"),
        (_with(skip_convs__3__weight=torch.zeros(16, 8)), "needs (16, 8, 1)"),
        (_with(skip_convs__3__weight=torch.full((16, 8, 1), torch.nan)), "not finite"),
        (_with(lc_convs__0__weight=torch.zeros(3)), "no part of pytorch-wavenet: 'lc_convs.0.weight'"),
        (_with(start_conv__weight=torch.zeros(0, 256, 1)), "shape (0, 256, 1)"),
        (_with(start_conv__weight=torch.zeros(10, 100_000, 1)), "levels is 100000"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Change, said: str) -> None:
    state = state_of("vincentherrmann-state")
    change(state)
    torch.save(state, tmp_path / "state.pt")
    assert said in refusal(tmp_path / "state.pt", given=Given(16_000, dilations=(1, 2, 4, 8)))


@pytest.mark.parametrize(
    ("added", "option"),
    [
        ({"conv_layers.0.conv1x1c.weight_v": torch.zeros(12, 80, 1)}, "cin_channels"),
        ({"conv_layers.0.conv1x1g.weight_v": torch.zeros(12, 16, 1)}, "gin_channels"),
        ({"first_conv.weight_v": torch.zeros(8, 1, 1)}, "input_type"),
    ],
)
def test_wavenet_vocoders_options_are_seen_in_its_tensors(
    tmp_path: Path, added: dict[str, torch.Tensor], option: str
) -> None:
    torch.save({"state_dict": {**state_of("r9y9"), **added}}, tmp_path / "checkpoint.pth")
    line = refusal(tmp_path / "checkpoint.pth", given=Given(dilations=(1, 2, 4)), defaults=True)
    assert f"wavenet_vocoder's option {option}" in line


def test_more_layers_than_ours_can_have_are_refused_by_their_programs_word(tmp_path: Path) -> None:
    state = state_of("deepsound-2tier")
    for layer in range(1, 12):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            state[f"model.frame_level_rnns.0.rnn.{name}_l{layer}"] = state[
                f"model.frame_level_rnns.0.rnn.{name}_l0"
            ]
    state["model.frame_level_rnns.0.h0"] = torch.zeros(12, 24)
    torch.save(state, tmp_path / "ep1-it1")
    assert "rnn_layers is 12" in refusal(tmp_path / "ep1-it1", given=Given(16_000))


def test_of_several_checkpoints_in_a_folder_the_newest_is_taken_only_when_told(tmp_path: Path) -> None:
    source = copied("ibab", tmp_path)
    for part in (".index", ".data-00000-of-00001"):
        shutil.copy(f"{source}{part}", f"{source.parent}/model.ckpt-99{part}")
    line = refusal(source.parent)
    assert "'model.ckpt-99', 'model.ckpt-1234'" in line
    assert "--newest" in line
    assert understand(source.parent, newest=True).path == source


def test_the_only_checkpoint_in_a_folder_is_taken() -> None:
    assert understand(FOREIGN / "ibab-gc").path.name == "model.ckpt-99"


def test_a_folder_without_checkpoints_and_a_path_that_is_not_there_are_told(tmp_path: Path) -> None:
    assert "no checkpoint in this folder" in refusal(tmp_path)
    assert str(tmp_path / "nothing") in refusal(tmp_path / "nothing")


@pytest.mark.parametrize("part", [".index", ".data-00000-of-00001"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, part: str) -> None:
    source = copied("ibab", tmp_path)
    Path(f"{source}{part}").unlink()
    assert f"model.ckpt-1234{part}" in refusal(source)
