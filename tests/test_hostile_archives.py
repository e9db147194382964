"""Hostile checkpoints: nothing in them runs, nothing hangs, memory stays bounded, and each gets one line."""

import importlib
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from foreign import (
    TENSORFLOW,
    ZERO_WEIGHTS,
    bundle_entry,
    integer,
    name,
    proto,
    read_all,
    rezip,
    storage_id,
    storage_of,
    stream_around,
    table,
    tensor,
    text,
    torch_bytes,
    tuple_of,
    write_bundle,
    zip_around,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamer.models.errors import CheckpointError
from streamer.models.importing import pickles

CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "pickle": lambda pickled: pickled,
    "zip": zip_around,
    "stream": stream_around,
}
IN_ANY = pytest.mark.parametrize("around", CONTAINERS.values(), ids=CONTAINERS)


def fault(path: Path) -> str:
    """What is said of a file that must be refused, without its name: one line."""
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message.partition(": ")[2]


def fault_of(folder: Path, content: bytes) -> str:
    path = folder / "hostile"
    path.write_bytes(content)
    return fault(path)


# --- code ---------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[str, bytes], bytes]] = {
    "reduce": lambda path, command: b"\x80\x02" + name(path) + tuple_of(command) + b"R.",
    "stack global": lambda path, command: b"\x80\x04" + stack_global(path) + tuple_of(command) + b"R.",
    "instance": lambda path, command: b"\x80\x02(" + command + b"i" + name(path)[1:] + b".",
    "object": lambda path, command: b"\x80\x02(" + name(path) + command + b"o.",
    "newobj": lambda path, command: b"\x80\x02" + name(path) + tuple_of(command) + b"\x81.",
    "newobj ex": lambda path, command: b"\x80\x02" + name(path) + tuple_of(command) + b"}\x92.",
    "build": lambda path, command: b"\x80\x02}" + text("__setstate__") + name(path) + b"s" + command + b"b.",
    "named": lambda path, command: b"\x80\x02}" + text("w") + name(path) + b"s.",
    "protocol 0": lambda path, command: name(path) + b"(S'touch'\ntR.",
    "in a state dict": lambda path, command: (
        b"\x80\x02}" + text("w") + name("torch._utils._rebuild_parameter")
        + tuple_of(name(path) + tuple_of(command) + b"R") + b"Rs."
    ),
}  # fmt: skip


def stack_global(path: str) -> bytes:
    module, _, attribute = path.rpartition(".")
    return text(module) + text(attribute) + b"\x93"


@IN_ANY
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "__builtin__.getattr",
        "subprocess.Popen",
        "numpy.load",
        "torch.load",
        "torch.storage._load_from_bytes",
    ],
)
def test_code_is_refused_by_its_name(
    tmp_path: Path, path: str, call: Callable[[str, bytes], bytes], around: Callable[[bytes], bytes]
) -> None:
    marker = tmp_path / "it-ran"
    said = fault_of(tmp_path, around(call(path, text(f"touch {marker}"))))
    assert f"'{path}'" in said or "torch._utils" in said  # a bare pickle may not even name PyTorch
    assert not marker.exists()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The marker that a package leaves when it is imported."""
    marker = tmp_path / "it-ran"
    (tmp_path / "a_trap.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    return marker


def test_the_trap_works(trap: Path) -> None:
    importlib.import_module("a_trap")
    assert trap.exists()
    del sys.modules["a_trap"]


@pytest.mark.parametrize("around", [zip_around, stream_around], ids=["zip", "stream"])
@pytest.mark.parametrize("call", ["reduce", "instance", "object", "newobj", "newobj ex", "stack global"])
def test_a_foreign_class_is_never_called_nor_imported(
    tmp_path: Path, trap: Path, call: str, around: Callable[[bytes], bytes]
) -> None:
    said = fault_of(tmp_path, around(CALLS[call]("a_trap.Net", text("argument"))))
    assert "'a_trap.Net'" in said or "opcode" in said
    (tmp_path / "hostile").write_bytes(around(name("a_trap.Net") + b")\x81}" + text("a") + b"K\x01sb."))
    assert read_all(tmp_path / "hostile") == {}  # an object without arguments is kept as its attributes
    assert "a_trap" not in sys.modules
    assert not trap.exists()


@IN_ANY
@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"P0\n", b"\x97", b"\x96" + bytes(8)])
def test_opcodes_of_extensions_and_buffers_are_refused(
    tmp_path: Path, opcode: bytes, around: Callable[[bytes], bytes]
) -> None:
    assert "opcode" in fault_of(tmp_path, around(b"\x80\x02" + opcode + b"."))


def test_a_persistent_id_is_pytorchs_alone(tmp_path: Path) -> None:
    assert "persistent" in fault_of(tmp_path, b"\x80\x02" + tuple_of(text("storage")) + b"Q.")
    assert "'file'" in fault_of(tmp_path, zip_around(tuple_of(text("file"), text("/etc/passwd")) + b"Q."))


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [zip_around, stream_around], ids=["zip", "stream"])
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2**40,), (0,)),
        (0, (2**32, 2**32), (0, 0)),
        (0, (0, 2**47, 2**47), (0, 0, 0)),
        (0, (2, 2), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (2**70, (1,), (1,)),
        (0, (2,), (2**62,)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(
    tmp_path: Path,
    around: Callable[..., bytes],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> None:
    pickled = tensor(storage_id(count=6), offset, shape, strides) + b"."
    numbers = np.zeros(6, np.float32)
    parts = [numbers.tobytes()] if around is zip_around else [("0",), storage_of(numbers)]
    fault_of(tmp_path, around(pickled, *parts))


@pytest.mark.parametrize("count", [-1, 2**40, 2**62, 7])
def test_a_storage_larger_than_the_file_is_refused(tmp_path: Path, count: int) -> None:
    pickled = tensor(storage_id(count=count), 0, (1,), (1,)) + b"."
    fault_of(tmp_path, zip_around(pickled, bytes(24)))
    fault_of(tmp_path, stream_around(pickled, ("0",), struct.pack("<q", count) + bytes(24)))


@pytest.mark.parametrize("shape", [(7,), (5,), (-6,), (2**40, 2**40), (0,), (2**62,), ("6",), (6.0,), [6]])
def test_a_numpy_shape_that_its_bytes_do_not_fit_is_refused(tmp_path: Path, shape: Any) -> None:
    build = np.core.multiarray._reconstruct if np.__version__ < "2" else np._core.multiarray._reconstruct  # type: ignore[attr-defined]

    class Array:
        def __reduce__(self) -> tuple[Any, ...]:
            return build, (np.ndarray, (0,), b"b"), (1, shape, np.dtype("<f4"), False, bytes(24))

    fault_of(tmp_path, pickle.dumps({"w": Array()}, 2))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (bundle_entry((17,), 68), "truncated"),
        (bundle_entry((16,), 60), "shape"),
        (bundle_entry((16,), 64, offset=2**63), "truncated"),
        (bundle_entry((2**40, 2**40), 64), "shape"),
        (bundle_entry((-1,), 64), "shape"),
        (bundle_entry((1,) * 9, 4), "shape"),
        (bundle_entry((0, 2**47, 2**47), 0), "shape"),
        (bundle_entry((16,), 64, shard=3), "there is no such file"),
        (bundle_entry((16,), 64) + proto(7, b""), "partitioned"),
        (bundle_entry((16,), 64), "checksum"),
        (b"\x12\xff", "cut off"),
        (b"\x0b", "wire type"),
    ],
)
def test_a_bundles_entry_that_cannot_be_is_refused(tmp_path: Path, entry: bytes, said: str) -> None:
    assert said in fault(write_bundle(tmp_path / "model", [(b"w", entry)]))


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    entries = [(b"%d" % i, bundle_entry((16,), 64)) for i in range(3)]
    assert "overlap" in fault(write_bundle(tmp_path / "model", entries))


@pytest.mark.parametrize(
    ("entries", "how", "said"),
    [
        ([(b"w", b"")], {"compression": 1}, "snappy"),
        ([(b"w", b"")], {"copies": 3}, "damaged"),
        ([(b"w", b""), (b"a", b"")], {}, "damaged"),
        ([(b"w" * 2000, b"")], {}, "longer than"),
    ],
)
def test_a_table_that_tensorflow_would_not_write_is_refused(
    tmp_path: Path, entries: list[tuple[bytes, bytes]], how: dict[str, int], said: str
) -> None:
    assert said in fault(write_bundle(tmp_path / "model", entries, **how))
    assert said in fault_of(tmp_path, table([(b"", proto(1, b"")), *entries], **how))


def v1_file(shape: tuple[int, ...], values: bytes, kind: int = 1, start: int = 0) -> bytes:
    """A V1 checkpoint of one tensor: its list, then a slice with its values."""
    sizes = b"".join(proto(2, proto(1, dimension)) for dimension in shape)
    meta = proto(1, proto(1, b"w") + proto(2, sizes) + proto(3, kind) + proto(4, b""))
    extent = proto(1, proto(1, start)) if start else b""
    data = proto(1, b"w") + proto(2, extent) + proto(3, proto(5, values))
    return table([(b"", proto(1, meta)), (b"\0w", proto(2, data))])


def test_values_that_do_not_fit_in_a_v1_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sound").write_bytes(v1_file((2,), bytes(8)))
    assert read_all(tmp_path / "sound")["w"].tolist() == [0, 0]
    for shape, values in (((3,), 8), ((1,), 8), ((2,), 7), ((2**40, 2**40), 8), ((-2,), 8)):
        fault_of(tmp_path, v1_file(shape, bytes(values)))
    assert "slices" in fault_of(tmp_path, v1_file((2,), bytes(8), start=1))


# --- zips ---------------------------------------------------------------------------------------------------


def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    saved = torch_bytes({"w": torch.zeros(1)}, zipped=True)
    bomb = rezip(saved, {"data/0": lambda _: bytes(2**24)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**16
    assert "compressed" in fault_of(tmp_path, bomb)


def test_a_zip_that_lies_about_itself_is_refused(tmp_path: Path) -> None:
    saved = torch_bytes({"w": torch.arange(4.0)}, zipped=True)
    at = saved.rindex(b"PK\x05\x06")
    huge = saved[: at + 12] + struct.pack("<I", 2**31) + saved[at + 16 :]
    assert "directory" in fault_of(tmp_path, huge)
    flipped = saved.replace(np.arange(4, dtype="<f4").tobytes(), np.arange(4, 8, dtype="<f4").tobytes())
    assert "checksum" in fault_of(tmp_path, flipped)
    assert "is not in it" in fault_of(tmp_path, rezip(saved, {"data/0": lambda _: None}))
    assert "big-endian" in fault_of(tmp_path, rezip(saved, {"byteorder": lambda _: b"big"}))
    with zipfile.ZipFile(tmp_path / "hostile", "w") as other:
        other.writestr("model/data.pkl", b"}.")
        other.writestr("model/constants.pkl", b").")
    assert "TorchScript" in fault(tmp_path / "hostile")


# --- bombs --------------------------------------------------------------------------------------------------


def laughs(depth: int) -> bytes:
    """Lists of the same list twice: 2**depth things in a few bytes."""
    lists = b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(depth))
    return b"\x80\x02]q\x00" + lists + b"."


def repeated(first: bytes, function: str, times: int) -> bytes:
    """Something large, and then a function that copies it, again and again."""
    return b"\x80\x02](" + first + b"q\x000" + (name(function) + b"h\x00\x85R") * times + b"e."


MANY = b"](" + b"K\x01N\x86" * 50_000 + b"e"
BOMBS: dict[str, bytes] = {
    "laughs": laughs(40),
    "deep laughs": laughs(100),
    "list in itself": b"\x80\x02]q\x00h\x00a.",
    "dictionary in itself": b"\x80\x02}q\x00" + text("d") + b"h\x00s.",
    "nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "tuple as a key": b"\x80\x02})Ns.",
    "deep key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "laughing key": b"\x80\x02})" + b"2\x86" * 100 + b"Ns.",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
    "text of protocol 2": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b".",
    "number": b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b".",
    "digits": b"\x80\x02I" + b"9" * 4000 + b"\n.",
    "long digits": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "memo": b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".",
    "many opcodes": b"\x80\x02" + b"]0" * 600_000 + b"].",
    "copied dictionaries": repeated(MANY, "collections.OrderedDict", 5_000),
    "copied sets": repeated(MANY, "__builtin__.set", 5_000),
    "copied sizes": repeated(MANY, "torch.Size", 5_000),
    "copied texts": b"\x80\x02](" + text("x" * 10**6) + b"q\x000"
    + (name("_codecs.encode") + tuple_of(b"h\x00", text("latin1")) + b"R") * 5_000 + b"e.",
    "copied arguments": b"\x80\x02(" + b"N" * 100_000 + b"tq\x000]("
    + (name("torch._utils._rebuild_parameter") + b"h\x00R") * 5_000 + b"e.",
    "copied attributes": b"\x80\x02}(" + b"".join(integer(i) + b"N" for i in range(50_000)) + b"uq\x000]("
    + (name("net.Net") + b")\x81h\x00b") * 5_000 + b"e.",
    "hidden attributes": b"\x80\x02" + name("net.Net") + b")\x81}("
    + b"".join(text(f"_{i}") + b"N" for i in range(50_000)) + b"ubq\x000](" + b"h\x00" * 100_000 + b"e.",
    "text as a list": b"\x80\x02" + name("__builtin__.set") + text("x" * 2**25) + b"\x85R.",
    "text as a size": b"\x80\x02" + name("torch.Size") + text("x" * 2**25) + b"\x85R.",
    "laughing device": laughs(40)[:-1] + b"0]" + name("torch.device") + b"h\x28\x85Rah\x28a.",
    "laughing dtype": laughs(40)[:-1] + b"0" + name("numpy.dtype") + b"h\x28\x85R.",
    "laughing storage": laughs(40)[:-1] + b"0" + tuple_of(b"h\x28", b"NN") + b"Q.",
    "colliding keys": b"\x80\x02}("
    + b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(9_999)) + b"u.",
    "long name": b"\x80\x02c" + b"a" * 10**6 + b"\nb\n.",
    "names of names": b"\x80\x02}" + (text("k" * 200) + b"}") * 60 + b"s" * 60 + b".",
    "named twice": b"\x80\x02}(" + text("a.b") + b"K\x01" + text("a") + b"}" + text("b") + b"K\x02su.",
}  # fmt: skip

PROGRAM = """
import json, resource, sys
from pathlib import Path
from streamer.models.errors import CheckpointError
from streamer.models.importing.archive import read

resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**29, held + 2**29))
said = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        said[path.name] = str([value.shape for value in read(path).tensors.values()])
    except CheckpointError as error:
        said[path.name] = f"refused: {error}"
print(json.dumps(said))
"""


def test_bombs_are_refused_within_half_a_gigabyte(tmp_path: Path) -> None:
    """In a process of its own, whose memory and time the system bounds."""
    for title, bomb in BOMBS.items():
        (tmp_path / title).write_bytes(zip_around(bomb))
    for title in ("laughs", "bytes", "memo", "nested tuples"):
        (tmp_path / f"{title} in a stream").write_bytes(stream_around(BOMBS[title]))
        (tmp_path / f"{title} alone").write_bytes(BOMBS[title])
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == len(BOMBS) + 8
    assert {title: line for title, line in said.items() if not line.startswith("refused")} == {}
    assert not any("memory" in line or "damaged before" in line for line in said.values())


# --- damage -------------------------------------------------------------------------------------------------


FORMS = ["zip", "stream", "protocol0", "protocol2", "v1", "v2.index", "v2.data-00000-of-00001"]
CHECKED = ["zip", "v1", "v2.index", "v2.data-00000-of-00001"]


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    """One small file of each form; of the bundle its index is damaged, then its data."""
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": {"c": torch.ones(2, dtype=torch.int64)}, "step": 3}
    files = {name: torch_bytes(weights, zipped=name == "zip") for name in ("zip", "stream")}
    files |= {f"protocol{n}": pickle.dumps(ZERO_WEIGHTS | {"step": 3}, n) for n in (0, 2)}
    return files | {name: (TENSORFLOW / name).read_bytes() for name in FORMS if name.startswith("v")}


def write_sound(folder: Path, sound: dict[str, bytes], form: str) -> Path:
    """Write a file of this form, and what belongs to it; return its path."""
    for part in FORMS[-2:] if form.startswith("v2") else [form]:
        (folder / part).write_bytes(sound[part])
    return folder / form


@pytest.mark.parametrize("form", FORMS)
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path: Path, sound: dict[str, bytes], form: str
) -> None:
    path = write_sound(tmp_path, sound, form)
    read_all(path)
    for end in range(0, len(sound[form]), 1 if len(sound[form]) < 700 else 7):
        path.write_bytes(sound[form][:end])
        fault(path)


def outcome(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays, or None where the file was refused; anything else that happens is a failure."""
    try:
        return read_all(path)
    except CheckpointError as error:
        one_line = len(str(error).splitlines()) == 1
    assert one_line
    return None


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bits_are_refused_or_change_numbers(
    form: str, sound: dict[str, bytes], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = write_sound(Path(folder), sound, form)
        whole = read_all(path)
        content = bytearray(sound[form])
        for place in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4)):
            content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        found = outcome(path)
    if found is not None and form in CHECKED:
        assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in whole.items()}


OPCODES = st.sampled_from([*sorted(pickles._OPCODES), b"."])
PIECES = st.one_of(
    OPCODES,
    st.binary(max_size=4),
    st.sampled_from(
        [
            text("w"),
            integer(3),
            name("collections.OrderedDict"),
            name("numpy.ndarray"),
            name("numpy.dtype"),
            name("numpy.core.multiarray._reconstruct"),
            name("net.Net") + b")\x81",
            storage_id(),
            tensor(storage_id(), 0, (2, 3), (3, 1)),
        ]
    ),
)


@IN_ANY
@given(pieces=st.lists(PIECES, max_size=30))
def test_no_row_of_opcodes_does_more_than_be_refused(
    around: Callable[[bytes], bytes], pieces: list[bytes]
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "soup"
        path.write_bytes(around(b"\x80\x02" + b"".join(pieces) + b"."))
        outcome(path)
