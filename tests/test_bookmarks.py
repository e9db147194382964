"""Bookmarks: a moment is read back bit for bit, names stay in the folder, a stranger's file does no harm."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from streamer import bookmarks
from streamer.bookmarks import Moment
from streamer.models import container
from streamer.models.errors import StreamerError

MOMENT = Moment(
    model="techno",
    hash="0123456789abcdef" * 4,
    memory={
        "codes": np.arange(300, dtype=np.int64),
        "h": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "none": np.zeros((0, 2), np.float32),
        "half": np.array(1.5, np.float16),
    },
    tail=np.linspace(-1, 1, 16000, dtype=np.float32),
    rate=16000,
    values={"temperature": 0.1 + 0.2, "top_k": 7, "seed": 2**31 - 1, "play": True},
    position=2**40,
    take=3,
    number=16,
)


def assert_same(one: Moment, other: Moment) -> None:
    plain = ("model", "hash", "rate", "values", "position", "take", "number")
    assert [getattr(one, name) for name in plain] == [getattr(other, name) for name in plain]
    assert {type(value) for value in one.values.values()} == {type(value) for value in other.values.values()}
    assert set(one.memory) == set(other.memory)
    for name, array in {"tail": one.tail, **one.memory}.items():
        again = {"tail": other.tail, **other.memory}[name]
        assert array.dtype == again.dtype
        np.testing.assert_array_equal(array, again)


def test_a_moment_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    bookmarks.save(folder, "before the storm 1.5", MOMENT)
    assert bookmarks.names(folder) == ["before the storm 1.5"]
    assert_same(bookmarks.load(folder, "before the storm 1.5"), MOMENT)


def test_one_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    for position in (1, 2):
        bookmarks.save(tmp_path, "b", replace(MOMENT, position=position))
    assert bookmarks.load(tmp_path, "b").position == 2
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]


def test_the_folder_is_the_users_unless_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMER_BOOKMARKS", raising=False)
    assert bookmarks.bookmarks_folder().name == "bookmarks"
    monkeypatch.setenv("STREAMER_BOOKMARKS", str(tmp_path))
    assert bookmarks.bookmarks_folder() == tmp_path


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../b", "/b", "a/b", "a\\b", "c:b", ".b", " b", "b\n", "x" * 81]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    with pytest.raises(StreamerError, match="cannot be called"):
        bookmarks.save(folder, name, MOMENT)
    bookmarks.write(tmp_path / "b.safetensors", MOMENT)
    with pytest.raises(StreamerError, match="is unknown: there are none in"):
        bookmarks.load(folder, name)
    assert not folder.exists()


def test_links_that_lead_out_and_hidden_files_are_not_seen(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    bookmarks.save(folder, "here", MOMENT)
    bookmarks.write(tmp_path / "secret.safetensors", MOMENT)
    bookmarks.write(folder / ".hidden.safetensors", MOMENT)
    (folder / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "again.safetensors").symlink_to(folder / "here.safetensors")
    assert bookmarks.names(folder) == ["again", "here"]
    with pytest.raises(StreamerError, match="'out' is unknown: choose one of again, here"):
        bookmarks.load(folder, "out")


def test_saving_over_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret").write_text("kept")
    (folder / "b.safetensors").symlink_to(tmp_path / "secret")
    bookmarks.save(folder, "b", MOMENT)
    assert (tmp_path / "secret").read_text() == "kept"
    assert_same(bookmarks.load(folder, "b"), MOMENT)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").mkdir()
    with pytest.raises(StreamerError, match="it cannot be written"):
        bookmarks.save(tmp_path, "b", MOMENT)
    assert [path.name for path in tmp_path.iterdir()] == ["b.safetensors"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StreamerError, match="it cannot be written"):
        bookmarks.save(tmp_path / "file", "b", MOMENT)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"hash": "abc"}, "64 hexadecimal digits"),
        ({"hash": "A" * 64}, "64 hexadecimal digits"),
        ({"model": "a\nb"}, "model is"),
        ({"rate": 10}, "it must be 1000 to 192000"),
        ({"position": -1}, "position is -1"),
        ({"take": 0.5}, "take is 0.5"),
        ({"number": True}, "number is True"),
        ({"values": {"temperature": float("nan")}}, "values is"),
        ({"values": {"temperature": None}}, "values is"),
        ({"tail": np.zeros(4)}, "float32"),
        ({"tail": np.zeros((4, 2), np.float32)}, "one channel"),
        ({"tail": np.zeros(16000 * 60 + 1, np.float32)}, "at most 60 s"),
        ({"tail": np.full(4, np.nan, np.float32)}, "'tail' holds numbers that are not finite"),
        ({"memory": {"h": np.full(4, np.inf, np.float32)}}, "'h' holds numbers that are not finite"),
        ({"memory": {"h": np.zeros(4, np.complex64)}}, "'h' must be an array of one of"),
        ({"memory": {"h": [1, 2]}}, "'h' must be an array of one of"),
    ],
)
def test_a_moment_that_cannot_be_is_refused(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(StreamerError) as caught:
        replace(MOMENT, **changed)
    assert what in str(caught.value)


def described() -> dict[str, Any]:
    plain = {"model", "hash", "rate", "values", "position", "take", "number"}
    return {"version": 1, **{name: getattr(MOMENT, name) for name in plain}}


TENSORS = {"tail": MOMENT.tail, "memory.h": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("header", "tensors", "what"),
    [
        ({**described(), "version": 2}, TENSORS, "update streamer"),
        ({**described(), "more": 1}, TENSORS, "it must have"),
        ({"version": 1}, TENSORS, "it must have"),
        ({**described(), "values": [1]}, TENSORS, "values is"),
        ({**described(), "position": "5"}, TENSORS, "position is '5'"),
        (described(), {"memory.h": TENSORS["memory.h"]}, "no bookmark: it has no tail"),
        (described(), {**TENSORS, "weights": TENSORS["memory.h"]}, "no bookmark: it has weights"),
        (described(), {"tail": np.full(3, np.nan, np.float32)}, "not finite"),
    ],
)
def test_a_file_that_says_something_else_is_refused(
    header: dict[str, Any], tensors: dict[str, Any], what: str, tmp_path: Path
) -> None:
    container.write(tmp_path / "b.safetensors", header, tensors)
    with pytest.raises(StreamerError, match=r"b\.safetensors") as caught:
        bookmarks.load(tmp_path, "b")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_large_and_odd_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04evil")
    safetensors.numpy.save_file(TENSORS, tmp_path / "foreign.safetensors")
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(bookmarks.MAX_BYTES + 1)
    for name, what in (("pickle", "may run code"), ("foreign", "another program"), ("large", "at most")):
        with pytest.raises(StreamerError, match=what):
            bookmarks.load(tmp_path, name)


@given(data=st.data())
def test_damage_is_an_error_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    bookmarks.write(path, replace(MOMENT, tail=MOMENT.tail[:50]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(StreamerError):
        bookmarks.read(path)
