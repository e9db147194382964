"""Where compiled kernels are kept on disk, so that they are compiled once and never run stale.

A compiled function holds those it calls: change `simd.py`, and a kept `wavenet.advance` would go on with the
old product inside it. So the folder's name is a hash of all that code is made from: every source file of
`kernels/` and `streamer/`, those of `models/` whose numbers it takes, the versions of Python, numba, llvmlite
and numpy, numba's settings, and the processor with its features as LLVM sees them, which its name does not
tell: a hypervisor hides some.

    <user's cache folder>/streamer/<hash>/

`NUMBA_CACHE_DIR`, where the user has set it, takes the place of the user's cache folder. A file is written
beside its place and moved there, and begins with a hash of what it holds; so any number of processes may read
and write at once, and what is cut off or damaged is never used. Where nothing can be written, every process
compiles for itself, and says so.

Whoever makes a folder removes others of ours that have long not been used, those of earlier sources.

Nothing here imports numba: the command line asks `compiled_already` before it pays for that. llvmlite, 30 ms,
numba would import anyway.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import platformdirs

UNUSED_SECONDS = 30 * 24 * 3600.0
"""A folder that nobody has used for so long is removed."""
MOST_FOLDERS = 32
"""Of these sources and earlier ones; whoever edits sources makes one of some MB with every change."""

_OURS = re.compile("[0-9a-f]{16}")
_IN_USE = "in-use"
_SETTINGS = (  # those that change the code
    "NUMBA_BOUNDSCHECK",
    "NUMBA_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_DEBUGINFO",
    "NUMBA_ENABLE_AVX",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_OPT",
    "NUMBA_SLP_VECTORIZE",
)
_NUMBERS_FROM = ("predictor", "specs")
"""Modules of `models/` whose numbers are compiled in."""
_HASH_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)
_unkept: set[str] = set()  # what this process could not write


def processor() -> str:
    """The processor's name as the system tells it; its architecture where the system tells no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def features() -> str:
    """What code is compiled for: system, processor and each of its features, as LLVM tells them.

    `/proc/cpuinfo` is not the same: it lacks features that LLVM finds and that the kernel has no name for.
    """
    from llvmlite import binding

    known = binding.get_host_cpu_features().flatten()
    return f"{binding.get_default_triple()} {binding.get_host_cpu_name()} {known}"


def _source_files() -> list[Path]:
    spec = importlib.util.find_spec("streamer")
    folders = [Path(__file__).parent, *map(Path, (spec and spec.submodule_search_locations) or ())]
    files = {file for folder in folders for file in folder.glob("*.py")}
    found = (importlib.util.find_spec(f"streamer.models.{name}") for name in _NUMBERS_FROM)
    return sorted(files | {Path(str(spec.origin)) for spec in found if spec})


@cache
def folder() -> Path:
    """The folder that holds what was compiled from exactly these sources; it need not exist yet."""
    digest = hashlib.sha256()
    for file in _source_files():
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    settings = [os.environ.get(name, "") for name in _SETTINGS]
    for word in (*versions, sys.version, *settings, processor(), features()):
        digest.update(word.encode() + b"\0")
    root = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir()
    return Path(root) / "streamer" / digest.hexdigest()[:16]


@cache
def usable_folder() -> Path | None:
    """The same folder, made, and held while this process runs; None where it cannot be written."""
    is_new = not os.path.exists(folder())
    try:
        folder().mkdir(parents=True, exist_ok=True)
        _hold()
        if is_new:
            _remove_unused()
        with tempfile.TemporaryFile(dir=folder()) as probe:
            probe.write(bytes(4096))
    except OSError:
        return None
    return folder()


def load(name: str) -> bytes | None:
    """What was kept under a name; None where there is nothing, or it is damaged."""
    usable_folder()
    try:
        content = (folder() / name).read_bytes()
    except OSError:
        return None
    expected, content = content[:_HASH_BYTES], content[_HASH_BYTES:]
    if hashlib.sha256(content).digest() == expected:
        return content
    say_damaged()
    return None


def save(name: str, content: bytes) -> None:
    """Keep something under a name; where that is impossible, log so, once a process."""
    path = folder() / name
    part = path.with_name(f"{name}.{os.urandom(8).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hashlib.sha256(content).digest() + content)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        _unkept.add(name)
        _warn(
            f"{folder()} cannot be written ({error.strerror}): kernels are compiled in memory, at every "
            "start anew; make room there, or name another folder in NUMBA_CACHE_DIR"
        )


def say_damaged() -> None:
    """Log, once a process, that something kept cannot be used; what is compiled again takes its place."""
    _warn(f"{folder()} is damaged: what cannot be read there is compiled again")


def compiled_already(part: str) -> bool:
    """Whether `mark_compiled` was called, with these sources, for this part: an architecture's name, say."""
    return os.path.exists(folder() / f"{part}.ready")  # False, too, where it may not be looked up


def mark_compiled(part: str) -> None:
    """Remember that all this part needs is on disk; does nothing where that is not so."""
    if usable_folder() is None or _unkept:
        return
    with suppress(OSError):  # the next start then says that it compiles, which it does not: no harm
        (folder() / f"{part}.ready").touch()


@cache
def _warn(line: str) -> None:
    _log.warning(line)


# --- earlier folders ----------------------------------------------------------------------------------------


def _hold() -> None:
    """Note that the folder is used, and share a lock on it until this process ends."""
    with suppress(OSError):  # read-only
        os.utime(folder())
    with suppress(OSError):  # where nothing can be locked, `_remove` removes nothing
        _lock(folder(), fcntl.LOCK_SH)


def _lock(path: Path, kind: int) -> int:
    """Lock a folder until the descriptor returned is closed; `OSError` where others stand against it."""
    descriptor = os.open(path / _IN_USE, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_unused() -> None:
    """Remove folders like ours that have not been used for long, or not since many others were."""
    ours = [path for path in folder().parent.iterdir() if _OURS.fullmatch(path.name)]
    with suppress(FileNotFoundError):  # another process is at the same work
        used = {path: path.stat().st_mtime for path in ours if path.is_dir() and not path.is_symlink()}
        oldest = time.time() - UNUSED_SECONDS
        for rank, path in enumerate(sorted(used, key=used.__getitem__, reverse=True)):
            if rank >= MOST_FOLDERS or used[path] < oldest:
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder unless a process holds it."""
    with suppress(OSError):
        lock = _lock(path, fcntl.LOCK_EX)
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
