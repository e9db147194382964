"""Models as ONNX: what onnxruntime makes of the file equals the compiled stepper, code after code."""

import json
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from dialects import DIALECTS, dialect
from draws import samplernn_specs, wavenet_specs, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.cli import main
from streamer.kernels.stepper import Stepper
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import CheckpointError
from streamer.models.onnx_export import build, export
from streamer.models.quantisers import Quantiser
from streamer.models.specs import PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec

Condition = int | NDArray[np.float32] | None


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def at_rest(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """The initial state, as docs/export.md reads it."""
    initial = json.loads(session.get_modelmeta().custom_metadata_map["initial_state"])
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    inputs = [value for value in session.get_inputs() if value.name in initial]
    return {value.name: np.full(value.shape, initial[value.name], kinds[value.type]) for value in inputs}


def teacher_forced(
    session: onnxruntime.InferenceSession, codes: NDArray[np.int64], condition: Condition = None
) -> NDArray[np.float32]:
    """Logits (T, Q): row i is what the file says after codes[i], from its own initial state."""
    names = [output.name for output in session.get_outputs()]
    given: dict[str, Any] = {}
    if condition is not None:
        whole = isinstance(condition, int)
        given["condition"] = np.array([condition], np.int64 if whole else np.float32)
    rows, state = [], at_rest(session)
    for code in codes:
        logits, *after = session.run(names, {"code": np.array([code]), **given, **state})
        state = {name.removesuffix("_next"): value for name, value in zip(names[1:], after, strict=True)}
        rows.append(logits)
    return np.stack(rows)


def assert_equals_stepper(model: Checkpoint, codes: NDArray[np.int64], condition: Condition = None) -> None:
    """A WaveNet's file begins with a code; a SampleRNN's with the one that lies before the first."""
    made = build(model)
    onnx.checker.check_model(made, full_check=True)
    session = open_session(made.SerializeToString())
    expected = Stepper(model.spec, model.tensors, condition).teacher_forced(codes)
    if isinstance(model.spec, WaveNetSpec):
        found = teacher_forced(session, codes[:-1], condition)
        expected = expected[1:]
    else:
        found = teacher_forced(session, np.concatenate([[model.spec.levels // 2], codes[:-1]]))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def plain(spec: Spec) -> Spec:
    """Without what the ONNX step cannot compute."""
    return replace(spec, predictor=None)


@settings(max_examples=25)
@given(spec=st.one_of(wavenet_specs(), samplernn_specs()).map(plain), seed=st.integers(0, 99))
def test_any_spec_steps_as_the_compiled_stepper(spec: Spec, seed: int) -> None:
    with TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "drawn.safetensors", spec, seed)
    rng = np.random.default_rng(seed)
    condition: Condition = None
    if isinstance(spec, WaveNetSpec) and spec.condition:
        vector = rng.uniform(-1, 1, spec.condition).astype(np.float32)
        condition = int(rng.integers(spec.condition_ids)) if spec.condition_ids else vector
    assert_equals_stepper(model, rng.integers(0, spec.levels, 60), condition)


@pytest.mark.parametrize("name", DIALECTS)
def test_the_dialects_of_other_programs_step_as_those_programs(name: str) -> None:
    """A few hundred codes through every cell and skip scheme, against the peers' own logits as well."""
    peer = dialect(name)
    model = checkpoint.load(peer.path)
    codes = np.random.default_rng(0).integers(0, model.spec.levels, 300)
    assert_equals_stepper(model, codes, peer.condition)
    if isinstance(model.spec, WaveNetSpec):
        session = open_session(build(model).SerializeToString())
        found = teacher_forced(session, peer.codes[:-1], peer.condition)
        np.testing.assert_allclose(found, peer.logits[: len(found)], atol=1e-4)


def test_the_file_says_how_it_is_to_be_run(tmp_path: Path) -> None:
    spec = SampleRnnSpec(frames=(4, 2), dim=3, rnn_layers=1, levels=16)
    model = write_model(tmp_path / "m.safetensors", spec, quantiser=Quantiser("linear-prism", 16, 0.5, 2.0))
    export(model, tmp_path / "m.onnx")
    session = open_session(str(tmp_path / "m.onnx"))
    said = session.get_modelmeta().custom_metadata_map
    states = {"codes", "position", "tier0.rnn", "tier0.slots", "tier1.rnn", "tier1.slots"}
    assert {value.name for value in session.get_inputs()} == {"code"} | states
    assert set(at_rest(session)) == states
    assert {value.name for value in session.get_outputs()} == {"logits"} | {f"{name}_next" for name in states}
    assert json.loads(said["amplitudes"]) == model.quantiser.table().tolist()
    assert json.loads(said["quantiser"])["preemphasis"] == 0.5
    assert (said["sample_rate"], said["initial_code"], said["hash"]) == ("16000", "8", model.hash)


def test_what_a_step_cannot_compute_is_refused_by_its_name(tmp_path: Path) -> None:
    spec = WaveNetSpec(
        dilations=(1,), residual=2, gate=2, skip=2, output=2, levels=4, predictor=PredictorSpec()
    )
    model = write_model(tmp_path / "m.safetensors", spec)
    with pytest.raises(CheckpointError, match="has a predictor"):
        export(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_the_command_writes_a_file_or_says_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = WaveNetSpec(dilations=(1, 2), residual=2, gate=2, skip=2, output=2, levels=4)
    write_model(tmp_path / "m.safetensors", spec)
    out = tmp_path / "m.onnx"
    assert main(["export", str(tmp_path / "m.safetensors"), str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    onnx.checker.check_model(str(out))
    before = sorted(tmp_path.iterdir())
    for wrong in (tmp_path / "m.txt", tmp_path / "missing" / "m.onnx"):
        assert main(["export", str(tmp_path / "m.safetensors"), str(wrong)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_guides_example_makes_a_second_of_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[1] / "docs/export.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    spec = SampleRnnSpec(frames=(2,), dim=3, rnn_layers=1, levels=16)
    model = write_model(
        tmp_path / "m.safetensors", spec, sample_rate=1000, quantiser=Quantiser("mulaw", 16, 0.5)
    )
    export(model, tmp_path / "techno.onnx")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    samples, rate = soundfile.read("out.wav")
    assert (len(samples), rate) == (1000, 1000)
    assert np.ptp(samples) > 0.1
