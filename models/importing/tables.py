"""TensorFlow's table files: sorted keys and values in checksummed blocks, as LevelDB has.

https://github.com/google/leveldb/blob/main/doc/table_format.md. The footer points to the index block, whose
values point to the blocks of entries; a key repeats a part of the one before it; each block ends with its
compression and the masked CRC-32C of both.
"""

from collections.abc import Iterator

from streamer.models.container import require
from streamer.models.importing.crc32c import masked_crc32c
from streamer.models.importing.protobuf import read_varint

MAGIC = bytes.fromhex("57fb808b247547db")
MAX_KEY_BYTES = 1024
MAX_ENTRIES = 100_000

_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_COMPRESSIONS = {1: "snappy"}
_DAMAGED = "its table is damaged: get a new copy"


def is_table(ending: bytes) -> bool:
    """Whether these last bytes of a file are those of a table."""
    return ending.endswith(MAGIC)


def entries(table: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the keys, each greater than the one before, and the values of a whole table."""
    require(
        len(table) >= _FOOTER_BYTES and is_table(bytes(table[-8:])), "its last bytes are not those of a table"
    )
    footer = table[-_FOOTER_BYTES:]
    at = 0
    for _ in range(3):  # past the metaindex's offset and size, to the index's offset
        offset, at = read_varint(footer, at)
    size, at = read_varint(footer, at)
    count, reached, last = 0, 0, None
    for _, handle in _entries_of(_block(table, offset, size)):
        begin, at = read_varint(handle, 0)
        size, at = read_varint(handle, at)
        require(begin >= reached, _DAMAGED)  # or one block could be read without end
        reached = begin + size
        for key, value in _entries_of(_block(table, begin, size)):
            count += 1
            require(count <= MAX_ENTRIES, f"its table has more than {MAX_ENTRIES} entries: no checkpoint has")
            require(last is None or key > last, _DAMAGED)
            last = key
            yield key, value


def _block(table: memoryview, offset: int, size: int) -> memoryview:
    """Return a block's content, its checksum verified."""
    require(
        offset + size + _TRAILER_BYTES <= len(table) - _FOOTER_BYTES, "its table is truncated: get a new copy"
    )
    end = offset + size
    stored = int.from_bytes(table[end + 1 : end + _TRAILER_BYTES], "little")
    require(masked_crc32c(table[offset : end + 1]) == stored, f"its block at byte {offset} {_CHECKSUM}")
    compression = table[end]
    name = _COMPRESSIONS.get(compression, f"number {compression}")
    require(compression == 0, f"its table is compressed ({name}), which TensorFlow's savers do not do")
    return table[offset:end]


_CHECKSUM = "does not have the checksum that was stored with it: get a new copy"


def _entries_of(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the entries of one block; the offsets of its restarts, at its end, are not needed."""
    require(len(block) >= 4, _DAMAGED)
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    require(end >= 0, _DAMAGED)
    at, key = 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        own, at = read_varint(block, at)
        length, at = read_varint(block, at)
        require(shared <= len(key) and own + length <= end - at, _DAMAGED)
        require(
            shared + own <= MAX_KEY_BYTES,
            f"a name in it is longer than {MAX_KEY_BYTES} bytes: no tensor's is",
        )
        key = key[:shared] + bytes(block[at : at + own])
        yield key, block[at + own : at + own + length]
        at += own + length
