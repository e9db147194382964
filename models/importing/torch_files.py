"""PyTorch's two kinds of file: the zip of version 1.6 and later, and the stream before it.

A zip holds NAME/data.pkl and one member for each storage, NAME/data/KEY, nothing compressed. A stream is five
pickles (a magic number, the version, the machine, the value, the storages' keys), then each storage's count
and numbers.
"""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from streamer.models.container import require
from streamer.models.errors import StreamerError
from streamer.models.importing.pickles import Vocabulary, briefly, read_pickle
from streamer.models.importing.torch_pickles import Storage, TorchPickles

ZIP_START = b"PK\x03\x04"
STREAM_START = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""The magic number, pickled."""
MAX_PICKLE_BYTES = 2**26
MAX_DIRECTORY_BYTES = 2**23

_STREAM_VERSION = 1001
_READ_BYTES = 2**22
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES = 22, 56, 20
_LOCAL_HEADER_BYTES = 30


def read_zip(file: BinaryIO, path: Path) -> object:
    """Return the value that a zip holds, its storages' checksums verified; raise `StreamerError`."""
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            root = _root(members)
            _check_members(file, archive.infolist())
            pickled = archive.read(f"{root}data.pkl")
            order = members.get(f"{root}byteorder")
            require(
                order is None or archive.read(order) == b"little", "its numbers are big-endian, unsupported"
            )
    except (zipfile.BadZipFile, ArithmeticError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise StreamerError(f"its zip is damaged ({error}): get a new copy") from None
    pickles = TorchPickles(path)
    value = pickles.read(io.BytesIO(pickled))
    for key, storage in pickles.storages.items():
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise StreamerError(f"its storage {key!r} is not in it: get a new copy")
        pickles.places[key] = _verify(file, member, storage)
    return value


def _check_directory(file: BinaryIO) -> None:
    """Bound what `zipfile` will read of its directory, a list with an object for each of its entries."""
    size = file.seek(0, os.SEEK_END)
    ending = _END64_BYTES + _LOCATOR_BYTES + _END_BYTES
    file.seek(max(0, size - ending))
    tail = file.read()
    require(
        tail[-_END_BYTES:].startswith(b"PK\x05\x06"),
        "its end is not that of a zip, it is truncated: get a new copy",
    )
    directory = int.from_bytes(tail[-10:-6], "little")
    if tail.startswith(b"PK\x06\x06") and len(tail) == ending:
        directory = max(int.from_bytes(tail[40:48], "little"), directory if directory < 2**32 - 1 else 0)
    require(
        directory <= MAX_DIRECTORY_BYTES, f"its zip has a directory of {directory} bytes: no checkpoint has"
    )


def _root(members: dict[str, zipfile.ZipInfo]) -> str:
    """Return the folder in which everything lies, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    require(len(roots) == 1, "it is a zip, but not one that PyTorch wrote: it has no data.pkl, or several")
    compiled = f"{roots[0]}constants.pkl" in members
    require(not compiled, "it is a TorchScript program, not a checkpoint: save the module's state dict")
    return roots[0]


def _check_members(file: BinaryIO, members: list[zipfile.ZipInfo]) -> None:
    size = file.seek(0, os.SEEK_END)
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        require(
            stored, f"its member {member.filename!r} is compressed, which PyTorch never does: do not trust it"
        )
        pickled = member.filename.endswith((".pkl", "byteorder"))
        most = MAX_PICKLE_BYTES if pickled else size
        require(
            member.file_size <= most, f"its member {member.filename!r} has {member.file_size} bytes: too many"
        )
    total = sum(member.file_size for member in members)
    require(
        total <= size, f"its members have {total} bytes, the file only {size}: they overlap, do not trust it"
    )


def _verify(file: BinaryIO, member: zipfile.ZipInfo, storage: Storage) -> int:
    """Return where a storage's numbers begin, their size and CRC-32 verified."""
    length = storage.count * storage.numbers.dtype.itemsize
    require(
        length == member.file_size, f"its storage {storage.key!r} has {member.file_size} bytes, not {length}"
    )
    require(member.header_offset >= 0, "its zip's directory points elsewhere: get a new copy")
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    require(header[:4] == ZIP_START, "its zip's directory points elsewhere: get a new copy")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    place = member.header_offset + _LOCAL_HEADER_BYTES + names
    file.seek(place)
    crc, left = 0, length
    while left and (data := file.read(min(left, _READ_BYTES))):
        crc, left = zlib.crc32(data, crc), left - len(data)
    require(left == 0, f"it is truncated in storage {storage.key!r}: get a new copy")
    require(
        crc == member.CRC,
        f"its storage {storage.key!r} does not have the checksum stored with it: get a new copy",
    )
    return place


def read_stream(file: BinaryIO, path: Path) -> object:
    """Return the value that a stream holds; it has no checksums. Raise `StreamerError`."""
    plain = Vocabulary({})
    file.seek(len(STREAM_START))
    version = read_pickle(file, plain)
    require(
        version == _STREAM_VERSION, f"its version is {briefly(version)}, but only {_STREAM_VERSION} is known"
    )
    machine = read_pickle(file, plain)
    little = isinstance(machine, dict) and machine.get("little_endian") is True
    require(little, "its numbers are big-endian, which cannot be read")
    pickles = TorchPickles(path)
    value = pickles.read(file)
    keys = read_pickle(file, plain)
    require(isinstance(keys, list), "its list of storages is damaged: get a new copy")
    assert isinstance(keys, list)
    _place(file, pickles, keys)
    return value


def _place(file: BinaryIO, pickles: TorchPickles, keys: list[object]) -> None:
    """Find where each storage's numbers begin: behind their count, in the order of the keys."""
    begin = file.tell()
    size = file.seek(0, os.SEEK_END)
    for key in keys:
        require(
            isinstance(key, str) and key in pickles.storages,
            "its list of storages is damaged: get a new copy",
        )
        assert isinstance(key, str)
        storage = pickles.storages[key]
        file.seek(begin)
        count = int.from_bytes(file.read(8), "little")
        require(count == storage.count, f"its storage {key!r} has {count} numbers, not {storage.count}")
        pickles.places[key] = begin + 8
        begin += 8 + count * storage.numbers.dtype.itemsize
        require(begin <= size, f"it is truncated to {size} bytes in storage {key!r}: get a new copy")
    lacking = sorted(set(pickles.storages) - set(pickles.places))
    require(not lacking, f"its storages {lacking[:3]} are not in it: get a new copy")
