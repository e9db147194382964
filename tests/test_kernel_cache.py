"""Compiled kernels on disk: found again, never stale, and never a reason to fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.kernels import cache

USE = """
import numpy as np
from streamer.kernels.nonlinear import relu
rows = np.zeros(4, np.int64)
assert relu(np.array([1, -1, 2, 0], np.float32), rows) == 2 and rows[1] == 2
print(sum(relu.stats.cache_hits.values()), sum(relu.stats.cache_misses.values()))
"""
COMPILED, LOADED = "0 1", "1 0"


def run(program: str, folder: Path) -> str:
    """Run a program in a process of its own that keeps its kernels under a folder."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The module asked anew, with an empty folder."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for function in (cache.folder, cache.usable_folder):
        function.cache_clear()
    yield tmp_path
    for function in (cache.folder, cache.usable_folder):
        function.cache_clear()


def test_asking_imports_nothing_heavy(tmp_path):
    program = """
import sys
import streamer.kernels
from streamer.kernels.cache import compiled_already
print(compiled_already("wavenet"), sorted({"numba", "llvmlite", "numpy", "torch"} & set(sys.modules)))
"""
    assert run(program, tmp_path) == "False []"
    assert not any(tmp_path.iterdir())


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    assert run(USE, tmp_path) == COMPILED
    assert run(USE, tmp_path) == LOADED


def test_a_damaged_folder_means_compiling_again(tmp_path):
    run(USE, tmp_path)
    files = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert run(USE, tmp_path) == COMPILED


def test_no_folder_means_compiling_in_memory():
    assert [run(USE, Path("/dev/null")) for _ in range(2)] == [COMPILED, COMPILED]


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are set as POSIX does")
def test_a_disk_that_fills_up_means_compiling_in_memory(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    assert [run(limit + USE, tmp_path) for _ in range(2)] == [COMPILED, COMPILED]
    assert all(file.stat().st_size <= 5000 for file in tmp_path.rglob("*.*"))


def test_the_folder_changes_with_any_source(fresh, monkeypatch):
    sources = [fresh / "a.py", fresh / "b.py"]
    for source in sources:
        source.write_text("x = 1\n")
    monkeypatch.setattr(cache, "_source_files", lambda: sources)
    before = cache.folder()
    cache.folder.cache_clear()
    assert cache.folder() == before
    sources[1].write_text("x = 2\n")
    cache.folder.cache_clear()
    assert cache.folder() != before


def test_all_sources_that_are_compiled_count():
    names = {f"{file.parent.name}/{file.name}" for file in cache._source_files()}
    assert {"kernels/simd.py", "kernels/wavenet.py", "streamer/__init__.py"} <= names


def test_the_users_folder_wins(fresh):
    assert cache.folder().parent == fresh / "streamer"
    assert cache.usable_folder() == cache.folder()


def test_parts_are_remembered_once_marked(fresh):
    assert not cache.compiled_already("wavenet")
    cache.mark_compiled("wavenet")
    assert cache.compiled_already("wavenet")
    assert not cache.compiled_already("samplernn")


def test_marking_without_a_folder_does_nothing(fresh, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null")
    cache.folder.cache_clear()
    cache.mark_compiled("wavenet")
    assert not cache.compiled_already("wavenet")
