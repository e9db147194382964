"""Compiled kernels on disk: found again, never stale, and never a reason to fail."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamer.kernels import cache

KERNEL = """
from streamer.kernels.compiling import callback, compiled

@compiled
def double(x):
    return x + x

def answer():
    return 42
"""
USE = """
from kernel import double
assert double(21) == 42
print(sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values()))
"""
COMPILED, LOADED = "0 1", "1 0"
CALL_BACK = """
from kernel import answer, callback
made = callback(answer, "int64()")
assert made.ctypes() == 42
print(made.cache_hits, 1 - made.cache_hits)
"""
HOLD = """
from streamer.kernels import cache
print(cache.usable_folder().name, flush=True)
input()
"""
ANOTHER_FOLDER = {"NUMBA_OPT": "2"}
LONG_AGO = time.time() - 2 * cache.UNUSED_SECONDS


@pytest.fixture
def root(tmp_path):
    """Where kernels are to be kept; nothing is there. Programs run beside it, and find `kernel` there."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    return tmp_path / "root"


def start(program: str, root: Path, *before: str, **settings: str) -> subprocess.Popen[str]:
    """Start a program that keeps its kernels under `root`, by way of the command `before`, if any."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*before, sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(root), **settings},
        cwd=root.parent,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a program says, and what it complains about."""
    try:
        said, complained = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, complained
    return said.strip(), complained


def run(program: str, root: Path, *before: str, **settings: str) -> tuple[str, str]:
    """Start a program and finish it."""
    return finish(start(program, root, *before, **settings))


@contextmanager
def held(root: Path, **settings: str) -> Iterator[Path]:
    """The folder of a process that runs while the block does."""
    process = start(HOLD, root, **settings)
    try:
        assert process.stdout is not None
        yield root / "streamer" / process.stdout.readline().strip()
    finally:
        process.communicate("\n", timeout=20)


def kept(root: Path) -> list[Path]:
    """The files that hold `double` and `answer`."""
    return sorted(root.glob("streamer/*/kernel.*"))


# --- found again --------------------------------------------------------------------------------------------


def test_asking_imports_nothing_heavy(root):
    program = """
import sys
import streamer.kernels
from streamer.kernels.cache import compiled_already
print(compiled_already("wavenet"), sorted({"numba", "numpy", "torch"} & set(sys.modules)))
"""
    assert run(program, root) == ("False []", "")
    assert not root.exists()


def test_importing_kernels_writes_nothing(root):
    run("import kernel", root)
    assert not root.exists()


@pytest.mark.parametrize("program", [USE, CALL_BACK])
def test_a_second_process_finds_what_the_first_compiled(root, program):
    assert run(program, root) == (COMPILED, "")
    assert run(program, root) == (LOADED, "")


def test_each_type_of_argument_is_kept(root):
    for _ in range(2):
        said, _ = run("from kernel import double; print(double(21), double(0.25), double(1j))", root)
        assert said == "42 0.5 2j"
    assert len(kept(root)) == 3


def test_types_of_one_name_do_not_get_each_others_code(root):
    for module, fields in (("one", "x y"), ("other", "y x")):
        source = f"from collections import namedtuple\nPair = namedtuple('Pair', '{fields}')\n"
        (root.parent / f"{module}.py").write_text(source)
    (root.parent / "kernel.py").write_text(KERNEL.replace("x + x", "x.x"))
    for module in ("one", "other") * 2:
        said = run(f"from {module} import Pair; import kernel; print(kernel.double(Pair(x=42, y=0)))", root)
        assert said == ("42", "")


def test_a_changed_source_is_compiled_again(root):
    run(USE, root)
    (root.parent / "kernel.py").write_text(KERNEL.replace("x + x", "3 * x"))
    assert run("from kernel import double; print(double(14))", root) == ("42", "")


def test_what_has_no_source_is_compiled_and_not_kept(root):
    program = "from kernel import compiled\nprint(compiled(lambda x: x + 1)(41))"
    assert run(program, root) == ("42", "")
    assert kept(root) == []


def test_code_that_holds_an_address_is_not_kept(root):
    program = """
import ctypes, warnings
from kernel import compiled
zero = ctypes.CFUNCTYPE(ctypes.c_double)(lambda: 0.0)

@compiled
def call():
    return zero()

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert call() == 0.0
print(len(said), "holds an address" in str(said[0].message))
"""
    (root.parent / "script.py").write_text(program)
    assert run("import script", root) == ("1 True", "")
    assert not list(root.glob("streamer/*/script.*"))


# --- never stale --------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The module asked anew, with an empty folder."""
    functions = cache.folder, cache.usable_folder
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for function in functions:
        function.cache_clear()
    yield tmp_path
    for function in functions:
        function.cache_clear()


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
    expected = {"kernels/simd.py", "kernels/wavenet.py", "streamer/__init__.py", "models/predictor.py"}
    assert expected <= names
    assert "models/wavenet.py" not in names  # torch: editing it is no reason to compile anew


@pytest.mark.parametrize("which", ["processor", "features"])
def test_the_folder_changes_with_the_processor(fresh, monkeypatch, which):
    before = cache.folder()
    monkeypatch.setattr(cache, which, lambda: "another")
    cache.folder.cache_clear()
    assert cache.folder() != before


@pytest.mark.parametrize("package", ["numba", "llvmlite", "numpy"])
def test_the_folder_changes_with_the_versions(fresh, monkeypatch, package):
    before, version = cache.folder(), cache.importlib.metadata.version
    monkeypatch.setattr(
        cache.importlib.metadata, "version", lambda name: "99" if name == package else version(name)
    )
    cache.folder.cache_clear()
    assert cache.folder() != before


def test_the_features_are_those_that_numba_compiles_for():
    from numba.core.registry import cpu_target

    triple, name, used = cpu_target.target_context.codegen().magic_tuple()
    told = cache.features().split(" ")
    assert told[:2] == [triple, name]
    assert {word for word in used.split(",") if word.startswith("+")} <= set(told[2].split(","))


def test_other_settings_have_a_folder_of_their_own(root):
    generic = {"NUMBA_CPU_NAME": "generic"}
    assert [run(USE, root)[0], run(USE, root, **generic)[0]] == [COMPILED, COMPILED]
    assert [run(USE, root)[0], run(USE, root, **generic)[0]] == [LOADED, LOADED]
    assert len({file.parent for file in kept(root)}) == 2


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


# --- several processes at once ------------------------------------------------------------------------------


def test_processes_that_compile_at_once_do_not_disturb_each_other(root):
    """Of one function they compile two forms; by numba's own index, one may get the code of the other."""
    at_once = """
import sys, time
from pathlib import Path
from kernel import double
print("ready", flush=True)
input()
print(double(VALUE))
"""
    values = [("21", "42"), ("0.25", "0.5")] * 2
    processes = [start(at_once.replace("VALUE", value), root) for value, _ in values]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [finish(process) for process in processes] == [(doubled, "") for _, doubled in values]
    both = "from kernel import double; print(double(21), double(0.25), len(double.stats.cache_hits))"
    assert run(both, root) == ("42 0.5 2", "")
    assert len(kept(root)) == 2


def test_readers_never_see_half_of_what_is_written(root):
    write = """
from streamer.kernels import cache
for i in range(300):
    cache.save("kernel.x", bytes([WHICH]) * (100_000 + i))
"""
    read = """
from streamer.kernels import cache
while (content := cache.load("kernel.x")) is None:
    pass
for _ in range(600):
    content = cache.load("kernel.x")
    assert content is not None and len(set(content)) == 1
"""
    programs = [write.replace("WHICH", "1"), write.replace("WHICH", "2"), read, read]
    processes = [start(program, root) for program in programs]
    assert [finish(process) for process in processes] == [("", "")] * 4
    assert [file.name for file in kept(root)] == ["kernel.x"]


# --- never a reason to fail ---------------------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("program", "damage"), [(USE, cut), (USE, flip_a_bit), (USE, lambda content: b""), (CALL_BACK, cut)]
)
def test_a_damaged_file_is_compiled_again_and_said_so(root, program, damage):
    run(program, root)
    (file,) = kept(root)
    file.write_bytes(damage(file.read_bytes()))
    said, complained = run(program, root)
    assert said == COMPILED
    assert complained.count("\n") == 1
    assert "is damaged" in complained
    assert run(program, root) == (LOADED, "")


def test_no_flipped_bit_goes_unseen(fresh, caplog):
    cache.save("x", b"what is kept")
    file = cache.folder() / "x"
    content = file.read_bytes()
    assert cache.load("x") == b"what is kept"
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert cache.load("x") is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{cache.folder()} is damaged: what cannot be read there is compiled again"
    ]


def test_a_whole_file_that_does_not_fit_is_compiled_again(root):
    run(USE, root)
    (file,) = kept(root)
    put = f"from streamer.kernels import cache; cache.save({file.name!r}, b'no pickle')"
    assert run(put, root) == ("", "")
    said, complained = run(USE, root)
    assert said == COMPILED
    assert "is damaged" in complained
    assert run(USE, root) == (LOADED, "")


MANY = (
    USE
    + """
double(0.25), double(1j)
from streamer.kernels import cache
cache.mark_compiled("part")
print(cache.compiled_already("part"))
"""
)
NOT_KEPT = f"{COMPILED}\nFalse"


def assert_said_once(complained: str, why: str) -> None:
    assert complained.count("\n") == 1
    assert f"cannot be written ({why})" in complained


def test_a_path_that_is_a_file_means_compiling_in_memory(root):
    root.write_text("mine")
    for _ in range(2):
        said, complained = run(MANY, root)
        assert said == NOT_KEPT
        assert_said_once(complained, "Not a directory")
    assert root.read_text() == "mine"


def test_a_disk_that_fills_up_means_compiling_in_memory(root):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
    for _ in range(2):
        said, complained = run(limit + MANY, root)
        assert said == NOT_KEPT
        assert_said_once(complained, "File too large")
    assert kept(root) == []


def test_a_full_disk_keeps_what_it_can(root):
    mount = 'mount -t tmpfs -o size=24k none root && "$@"'
    small = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, "-")
    root.mkdir()
    if not shutil.which("unshare") or subprocess.run([*small, "true"], cwd=root.parent).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    look = "print(len(list(cache.folder().glob('kernel.*'))))"
    said, complained = run(MANY + look, root, *small)
    assert said in (f"{NOT_KEPT}\n1", f"{NOT_KEPT}\n2")
    assert_said_once(complained, "No space left on device")


@pytest.fixture
def closed(root):
    """The folder, filled and then closed against writing; and the command by which root, too, is kept out."""
    run(USE, root)
    folder = kept(root)[0].parent
    folder.chmod(0o555)
    yield () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-all", "--")
    folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
def test_a_read_only_folder_is_read_and_what_it_lacks_compiled_in_memory(root, closed):
    assert run(USE, root, *closed) == (LOADED, "")
    for _ in range(2):
        said, complained = run(MANY, root, *closed)
        assert said == f"{LOADED}\nFalse"
        assert_said_once(complained, "Permission denied")
    assert len(kept(root)) == 1


# --- folders of earlier sources -----------------------------------------------------------------------------


def age(folder: Path) -> Path:
    """Make a folder, if it is not there, and let it look unused for long."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "some.file").touch()
    os.utime(folder, (LONG_AGO, LONG_AGO))
    return folder


def make_a_folder(root: Path) -> Path:
    with held(root) as folder:
        return folder


def test_long_unused_folders_are_removed_when_one_is_made(root):
    old, recent = root / "streamer" / ("0" * 16), root / "streamer" / ("1" * 16)
    age(old)
    recent.mkdir()
    mine = make_a_folder(root)
    assert {path.name for path in (root / "streamer").iterdir()} == {mine.name, recent.name}


def test_what_is_not_ours_stays(root, tmp_path):
    theirs = [age(root / "streamer" / name) for name in ("0" * 15, "0" * 17, "models", "G" * 16)]
    linked = age(tmp_path / "linked")
    (root / "streamer" / ("2" * 16)).symlink_to(linked)
    (root / "streamer" / ("3" * 16)).write_text("a file")
    age(root / ("0" * 16))
    make_a_folder(root)
    for path in [*theirs, linked, root / ("0" * 16)]:
        assert [file.name for file in path.iterdir()] == ["some.file"]
    assert (root / "streamer" / ("2" * 16)).is_symlink()
    assert (root / "streamer" / ("3" * 16)).exists()


def test_what_a_running_process_uses_stays(root):
    with held(root) as folder:
        age(folder)
        with held(root, **ANOTHER_FOLDER) as another:
            assert folder.exists()
        shutil.rmtree(another)
    age(folder)
    with held(root, **ANOTHER_FOLDER):
        assert not folder.exists()


def test_use_makes_a_folder_young_again(root):
    folder = age(make_a_folder(root))
    assert make_a_folder(root) == folder
    with held(root, **ANOTHER_FOLDER):
        assert folder.exists()


def test_of_many_folders_those_used_last_stay(root):
    folders = [root / "streamer" / f"{i:016x}" for i in range(cache.MOST_FOLDERS + 2)]
    now = time.time()
    for minutes, folder in enumerate(folders):
        age(folder)
        os.utime(folder, (now - 60 * minutes, now - 60 * minutes))
    mine = make_a_folder(root)
    left = {path.name for path in (root / "streamer").iterdir()}
    assert left == {mine.name, *(folder.name for folder in folders[: cache.MOST_FOLDERS - 1])}
