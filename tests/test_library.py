"""The library: names find models in the user's folder and the package, and reach nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from draws import PROVENANCE, write_model

from streamer.models import library
from streamer.models.errors import CheckpointError
from streamer.models.specs import SampleRnnSpec

SPEC = SampleRnnSpec(frames=(4, 2), dim=3, rnn_layers=1, levels=8, embedding=2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder, with two models in it."""
    folder = tmp_path / "models"
    folder.mkdir()
    write_model(folder / "piano.safetensors", SPEC)
    write_model(folder / "a voice.safetensors", SPEC, seed=1)
    monkeypatch.setenv("STREAMER_MODELS", str(folder))
    return folder


def test_names_find_files(folder: Path) -> None:
    assert {"piano", "a voice"} <= set(library.names())
    assert list(library.names()) == sorted(library.names())
    for allow_path in (False, True):
        assert library.resolve("piano", allow_path) == (folder / "piano.safetensors").resolve()


def test_the_users_models_hide_shipped_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert library.folders() == (folder, Path(library.__file__).parent)
    package = tmp_path / "package"
    package.mkdir()
    shipped = [package / "piano.safetensors", package / "guitar.safetensors"]
    for path in shipped:
        write_model(path, SPEC)
    monkeypatch.setattr(library, "folders", lambda: (folder, package))
    assert library.resolve("guitar", allow_path=False) == shipped[1].resolve()
    assert library.resolve("piano", allow_path=False) == (folder / "piano.safetensors").resolve()
    assert list(library.names()) == ["a voice", "guitar", "piano"]


def test_no_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMER_MODELS", str(tmp_path / "nowhere"))
    assert "piano" not in library.names()


def test_the_users_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMER_MODELS")
    assert library.user_folder().parts[-2:] == ("streamer", "models")
    assert library.user_folder().is_absolute()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "pian",
        "PIANO",
        "../models/piano",
        "./piano",
        "piano/",
        "piano\0",
        "*",
        "~",
        "p\niano",
        "x" * 9999,
    ],
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        library.resolve(name, allow_path=False)
    message = str(caught.value)
    assert "is unknown: choose one of" in message
    assert "a voice" in message
    assert "piano" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 400


def test_the_network_reaches_nothing_outside(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    write_model(outside, SPEC)
    (folder / "link.safetensors").symlink_to(outside)
    (folder / "inner.safetensors").symlink_to(folder / "piano.safetensors")
    (folder / ".hidden.safetensors").write_bytes(b"")
    (folder / "two\nlines.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    reachable = {name for name, path in library.names().items() if path.parent == folder.resolve()}
    assert reachable == {"piano", "a voice", "inner"}
    for name in (
        "link",
        "../outside",
        str(outside),
        str(outside.with_suffix("")),
        ".hidden",
        "folder",
        "pipe",
        "two\nlines",
    ):
        with pytest.raises(CheckpointError, match="is unknown"):
            library.resolve(name, allow_path=False)


@pytest.mark.parametrize("name", ["./piano", "somewhere/model.safetensors", "model.safetensors", "../x"])
def test_the_command_line_gives_paths(name: str) -> None:
    assert library.resolve(name, allow_path=True) == Path(name)
    with pytest.raises(CheckpointError, match="is unknown"):
        library.resolve("trumpet", allow_path=True)


def test_an_empty_library_says_where_models_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "folders", lambda: (folder / "nowhere",))
    with pytest.raises(CheckpointError, match=r"there are none, put \.safetensors files into .*models"):
        library.resolve("piano", allow_path=False)


def test_the_catalogue_lists_the_broken_with_their_fault(folder: Path) -> None:
    (folder / "broken.safetensors").write_bytes(b"no model")
    entries = {entry.name: entry for entry in library.catalogue()}
    assert list(entries) == sorted(entries)
    piano, broken = entries["piano"], entries["broken"]
    assert piano.header is not None
    assert piano.header.provenance == PROVENANCE
    assert piano.problem == ""
    assert broken.header is None
    assert "not a .safetensors file" in broken.problem
    assert broken.path == (folder / "broken.safetensors").resolve()


def test_reading_needs_no_torch() -> None:
    program = (
        "import sys, streamer.models.library; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
