"""Other programs' checkpoints: every array that their own code wrote is read, and nothing else."""

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import (
    PYTHON2,
    TENSORFLOW,
    ZERO_WEIGHTS,
    all_of,
    name,
    on_cuda,
    read_all,
    storage_id,
    storage_of,
    stream_around,
    tensor,
    text,
    torch_bytes,
    tuple_of,
    vanishing_module,
    zip_around,
)
from numpy.typing import NDArray

from streamer.models.errors import CheckpointError
from streamer.models.importing.archive import checkpoints_in, read

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


def assert_same(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    """Floating-point numbers are to be float32 and as near as that; all others as they were."""
    assert set(found) == set(expected)
    for key, array in expected.items():
        wanted = array.astype(np.float32) if array.dtype.kind == "f" else array
        assert found[key].dtype == wanted.dtype, key
        np.testing.assert_array_equal(found[key], wanted, err_msg=key)


def fault(path: Path) -> str:
    """What is said of a file that cannot be read, without its name: one line."""
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message.partition(": ")[2]


# --- TensorFlow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "form"), [("v1", "tensorflow-v1"), ("v2", "tensorflow-bundle")])
def test_what_tensorflow_saved_is_read(file: str, form: str) -> None:
    archive = read(TENSORFLOW / file)
    with np.load(TENSORFLOW / f"{file}.npz") as saved:
        assert_same(all_of(archive), dict(saved))
        assert archive.tensors.shapes == {key: saved[key].shape for key in saved}
    assert archive.form == form
    assert archive.unread == ({"text": "string"} if file == "v2" else {})


def test_a_bundle_is_known_by_any_of_its_parts() -> None:
    for suffix in ("", ".index", ".data-00000-of-00001"):
        assert read(TENSORFLOW / f"v2{suffix}").path == TENSORFLOW / "v2"


@pytest.mark.parametrize("part", ["v2.index", "v2.data-00000-of-00001"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, part: str) -> None:
    for path in TENSORFLOW.glob("v2.*"):
        if path.name != part:
            shutil.copy(path, tmp_path)
    assert part in fault(tmp_path / "v2.index")
    assert part in fault(tmp_path / "v2")


@pytest.mark.parametrize("file", ["v1-sliced", "v2-sliced"])
def test_a_variable_in_slices_is_named(file: str) -> None:
    assert "'partitioned'" in fault(TENSORFLOW / file)


def test_an_index_under_another_name_says_how_it_must_be_called(tmp_path: Path) -> None:
    shutil.copy(TENSORFLOW / "v2.index", tmp_path / "renamed")
    assert ".index" in fault(tmp_path / "renamed")


# --- PyTorch ------------------------------------------------------------------------------------------------


def many_kinds() -> dict[str, torch.Tensor]:
    """Tensors of every type, and of every way to lie in a storage."""
    rng = torch.Generator().manual_seed(0)
    numbers = torch.randn(4, 6, generator=rng)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)
    tensors = {str(kind): (100 * numbers).to(kind) for kind in kinds}
    return tensors | {
        "uint8": numbers.abs().to(torch.uint8),
        "bool": numbers > 0,
        "transposed": numbers.T,
        "part": numbers[1:3, ::2],
        "last": numbers[3, 5],
        "expanded": numbers[:, :1].expand(4, 3),
        "empty": torch.zeros(0, 3),
    }


def as_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {k: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for k, t in tensors.items()}


@ZIPPED
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_what_torch_saved_is_read(tmp_path: Path, zipped: bool, where: str) -> None:
    saved = torch_bytes(many_kinds(), zipped)
    path = tmp_path / "no-suffix"
    path.write_bytes(on_cuda(saved) if where == "cuda" else saved)
    archive = read(path)
    assert archive.form == "torch"
    assert_same(all_of(archive), as_numpy(many_kinds()))


@ZIPPED
def test_containers_become_names_and_settings(tmp_path: Path, zipped: bool) -> None:
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 7, "none": None}
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(torch_bytes(value, zipped))
    archive = read(path)
    names = {"state_dict.weight", "state_dict.bias", "optimizer.state.0.exp_avg", "optimizer.state.1.step"}
    assert names < set(archive.tensors)
    assert archive.attributes["step"] == 7
    assert archive.attributes["optimizer.param_groups.0.betas"] == (0.9, 0.999)
    assert archive.attributes["optimizer.param_groups.0.params"] == [0, 1]
    assert "none" not in archive.attributes


PROGRAM = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.dilations, self.dtype = 3, [(1, 1), (2, 1)], torch.FloatTensor
        self.convs = torch.nn.ModuleList(torch.nn.Conv1d(2, 3, 2, dilation=d) for d in (1, 2))
        self.tied = self.convs[0]
        self.rnn = torch.nn.GRU(3, 4, 2)
        self.register_buffer("counted", torch.arange(3))
"""


@ZIPPED
def test_a_pickled_module_gives_its_state_dict_and_settings_without_its_program(
    tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "snapshot"
    with vanishing_module(tmp_path / "some_wavenet.py", PROGRAM) as program:
        net = program.Net()
        path.write_bytes(torch_bytes({"model": net}, zipped))
    archive = read(path)
    assert "some_wavenet" not in sys.modules
    expected = {f"model.{key}": value.numpy() for key, value in net.state_dict().items()}
    assert_same(all_of(archive), expected)
    assert archive.modules["model"] == "some_wavenet.Net"
    assert archive.modules["model.convs.1"] == "torch.nn.modules.conv.Conv1d"
    assert archive.attributes["model.layers"] == 3
    assert archive.attributes["model.dilations"] == [(1, 1), (2, 1)]
    assert archive.attributes["model.convs.1.dilation"] == (2,)


def test_torch_files_of_its_first_versions_are_read(tmp_path: Path) -> None:
    """A class beside its source text, tensors of the first kind, parts of storages, called parameters."""
    numbers = np.arange(6, dtype=np.float32)
    part = tensor(storage_id(view=tuple_of(text("v"), b"K\x02", b"K\x04")), 1, (3,), (1,))
    parameter = (
        name("torch.nn.parameter.Parameter") + tuple_of(tensor(storage_id(), 0, (2, 3), (1, 2))) + b"R"
    )
    parameter += tuple_of(b"\x88", b"\x89", name("collections.OrderedDict") + b")R") + b"b"
    backend = name("torch.nn.backends.thnn._get_thnn_function_backend") + b")R"
    kind = tuple_of(text("module"), name("net.Net"), text("net.py"), text("class Net: pass")) + b"Q"
    members = text("_parameters") + b"}(" + text("weight") + parameter + text("part") + part + b"u"
    pickled = kind + b")\x81}(" + members + text("_backend") + backend + b"ub."
    path = tmp_path / "old"
    path.write_bytes(stream_around(pickled, ("0",), storage_of(numbers)))
    archive = read(path)
    assert archive.modules == {"": "net.Net"}
    assert_same(all_of(archive), {"weight": numbers.reshape(3, 2).T, "part": numbers[3:]})


def test_storages_that_are_missing_or_of_another_size_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    pickled = tensor(storage_id("7"), 0, (6,), (1,)) + b"."
    numbers = np.zeros(6, np.float32)
    path.write_bytes(zip_around(pickled, numbers.tobytes()))
    assert "'7' is not in it" in fault(path)
    path.write_bytes(stream_around(pickled, ("8",), storage_of(numbers)))
    assert "storages" in fault(path)
    path.write_bytes(stream_around(pickled, ("7",), storage_of(numbers[:5])))
    assert "5 numbers, not 6" in fault(path)


# --- numpy and Theano ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PYTHON2, ids=["protocol0", "protocol2"])
def test_pickles_of_python_2_are_read(path: Path) -> None:
    archive = read(path)
    assert archive.form == "theano-pickle"
    with path.open("rb") as file:
        assert_same(all_of(archive), pickle.load(file, encoding="latin1"))


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_of_every_protocol_kind_and_order_are_read(tmp_path: Path, protocol: int) -> None:
    numbers = np.random.default_rng(0).standard_normal((3, 4))
    arrays = {
        "double": numbers,
        "big": numbers.astype(">f4"),
        "fortran": np.asfortranarray(numbers.astype(np.float32)),
        "int": (9 * numbers).astype(np.int32),
        "bool": numbers > 0,
        "scalar": np.array(numbers[0, 0]),
    }
    path = tmp_path / "params.pkl"
    value = {"params": arrays, "rate": np.float32(0.5), "options": ["--dim", "8"], "epoch": 2**40, "at": 0.25}
    path.write_bytes(pickle.dumps(value, protocol))
    archive = read(path)
    assert_same(all_of(archive), {f"params.{key}": array for key, array in arrays.items()})
    settings = {"rate": 0.5, "options": ["--dim", "8"], "epoch": 2**40, "at": 0.25}
    assert archive.attributes == settings


def test_arrays_of_objects_texts_and_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.pkl"
    for dtype in ("O", "S3", "c8", [("a", "f4")]):
        path.write_bytes(pickle.dumps({"a": np.zeros(2, dtype)}, 2))
        assert "only plain numbers" in fault(path)


# --- what is in a folder, and what is no checkpoint ---------------------------------------------------------


def test_checkpoints_of_a_folder_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    for step in (1000, 2, 30):
        (tmp_path / f"model.ckpt-{step}.data-00000-of-00001").touch()
        (tmp_path / f"model.ckpt-{step}.index").touch()
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-30"')
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"model.ckpt-{n}" for n in (2, 30, 1000)]
    (tmp_path / "z_params_e2.pkl").write_bytes(pickle.dumps(ZERO_WEIGHTS, 0))
    (tmp_path / "z_ep10").write_bytes(torch_bytes({}, zipped=False))
    (tmp_path / "z_ep9").write_bytes(torch_bytes({}, zipped=True))
    assert [path.name for path in checkpoints_in(tmp_path)][3:] == ["z_ep9", "z_ep10", "z_params_e2.pkl"]


def test_what_is_no_checkpoint_is_told_what_is(tmp_path: Path) -> None:
    pointer = tmp_path / "checkpoint"
    pointer.write_text('model_checkpoint_path: "model.ckpt-30"')
    assert "prefix" in fault(pointer)
    for content in (b"", b"RIFF", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"):
        (tmp_path / "other").write_bytes(content)
        assert "torch.save" in fault(tmp_path / "other")
    assert "there is no such file" in fault(tmp_path / "missing")
    assert "folder" in fault(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "no ordinary file" in fault(tmp_path / "pipe")
    with pytest.raises(CheckpointError):
        checkpoints_in(tmp_path / "missing")


def test_a_name_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        read(TENSORFLOW / "v2").tensors["layer"]
