"""Checkpoints as other programs write them, made here: by PyTorch itself, or opcode by opcode."""

import importlib.util
import io
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamer.models.importing.archive import Archive, read
from streamer.models.importing.crc32c import masked_crc32c
from streamer.models.importing.tables import MAGIC
from streamer.models.importing.torch_files import STREAM_START

FIXTURES = Path(__file__).parent / "fixtures"
TENSORFLOW = FIXTURES / "readers"
PYTHON2 = sorted((FIXTURES / "foreign/dadabots-2tier-lstm-skip-mulaw256").glob("*.pkl"))
ZERO_WEIGHTS = {"w": np.zeros(3, np.float32)}


def all_of(archive: Archive) -> dict[str, NDArray[Any]]:
    """Every array of an archive, read."""
    return {name: archive.tensors[name] for name in archive.tensors}


def read_all(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file, read."""
    return all_of(read(path))


def torch_bytes(value: object, zipped: bool) -> bytes:
    """What `torch.save` writes, now or before version 1.6."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def on_cuda(saved: bytes) -> bytes:
    """The same file as a machine with a GPU writes it: every storage says where it lay."""
    cpu, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    if not zipfile.is_zipfile(io.BytesIO(saved)):
        return saved.replace(cpu, cuda)
    return rezip(saved, {"data.pkl": lambda pickled: pickled.replace(cpu, cuda)})


def rezip(saved: bytes, edits: dict[str, Any], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of PyTorch's with members edited, by the end of their name; None as an edit leaves them out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            edit = next(
                (edit for name, edit in edits.items() if info.filename.endswith(name)), lambda data: data
            )
            content = edit(old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return out.getvalue()


def zip_around(pickled: bytes, storage: bytes = b"") -> bytes:
    """A zip as PyTorch writes it, around any pickle, with one storage "0"."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        new.writestr("model/data.pkl", pickled)
        new.writestr("model/data/0", storage)
    return out.getvalue()


def stream_around(pickled: bytes, keys: tuple[str, ...] = (), storages: bytes = b"") -> bytes:
    """A stream as PyTorch wrote it before version 1.6, around any pickle."""
    heads = [1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    start = STREAM_START + b"".join(pickle.dumps(head, 2) for head in heads)
    return start + pickled + pickle.dumps(list(keys), 2) + storages


def storage_of(values: NDArray[np.float32]) -> bytes:
    """One storage of a stream: its count, then its numbers."""
    return struct.pack("<q", values.size) + values.tobytes()


def text(value: str) -> bytes:
    """Push a text, as protocol 2 does."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(path: str) -> bytes:
    """Push a class or function, by its name."""
    module, _, attribute = path.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def integer(value: int) -> bytes:
    """Push a whole number of any size, as protocol 0 does."""
    return b"I%d\n" % value


def tuple_of(*items: bytes) -> bytes:
    """Push a tuple of what these push."""
    return b"(" + b"".join(items) + b"t"


def storage_id(key: str = "0", count: int = 6, kind: str = "torch.FloatStorage", view: bytes = b"") -> bytes:
    """Push a storage by its persistent id."""
    return tuple_of(text("storage"), name(kind), text(key), text("cpu"), integer(count), view) + b"Q"


def tensor(storage: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Push a tensor as PyTorch before 0.4 pickled it: a view of a storage."""
    sizes = (tuple_of(*map(integer, numbers)) for numbers in (shape, strides))
    return name("torch._utils._rebuild_tensor") + tuple_of(storage, integer(offset), *sizes) + b"R"


@contextmanager
def vanishing_module(path: Path, source: str) -> Iterator[types.ModuleType]:
    """A Python module that is there inside and gone afterwards, as another program's is; path: its file."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[path.stem]
        path.unlink()


# --- TensorFlow's tables ------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def proto(number: int, value: int | bytes) -> bytes:
    """A field of a message: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & 0xFFFFFFFFFFFFFFFF)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """A block of a table with its compression and checksum."""
    body = b"".join(b"\0" + varint(len(k)) + varint(len(v)) + k + v for k, v in entries)
    content = body + struct.pack("<II", 0, 1) + bytes([compression])
    return content + struct.pack("<I", masked_crc32c(content))


def table(entries: list[tuple[bytes, bytes]], compression: int = 0, copies: int = 1) -> bytes:
    """A table of one block of entries; copies: how often its index points to that."""
    data, nothing = block(entries, compression), block([])
    handle = varint(0) + varint(len(data) - 5)
    index = block([(b"%08d" % copy, handle) for copy in range(copies)])
    footer = varint(len(data)) + varint(len(nothing) - 5)
    footer += varint(len(data) + len(nothing)) + varint(len(index) - 5)
    return data + nothing + index + footer.ljust(40, b"\0") + MAGIC


def bundle_entry(shape: tuple[int, ...], size: int, kind: int = 1, shard: int = 0, offset: int = 0) -> bytes:
    """A BundleEntryProto without a checksum."""
    sizes = b"".join(proto(2, proto(1, dimension)) for dimension in shape)
    fields = {1: kind, 2: sizes, 3: shard, 4: offset, 5: size}
    return b"".join(proto(number, value) for number, value in fields.items())


def write_bundle(
    prefix: Path, entries: list[tuple[bytes, bytes]], data: bytes = bytes(64), **how: int
) -> Path:
    """Write a bundle of one data file."""
    Path(f"{prefix}.index").write_bytes(table([(b"", proto(1, 1)), *entries], **how))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix
