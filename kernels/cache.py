"""Where compiled kernels are kept on disk, so that they are compiled once and never run stale.

numba checks the source of a cached function against that function's own file and knows nothing of the
functions it calls: change `simd.py` and a cached `wavenet.advance` goes on with the old product inside it. So
the folder itself carries a hash of every source file of `kernels/` and `streamer/`, numba's version and the
processor's name:

    <user's cache folder>/streamer/<hash>/

`NUMBA_CACHE_DIR`, where the user has set it, takes the place of the user's cache folder. Nothing here imports
numba: the command line asks `compiled_already` before it pays for that.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
from functools import cache
from pathlib import Path

import platformdirs


def _source_files() -> list[Path]:
    spec = importlib.util.find_spec("streamer")
    folders = [Path(__file__).parent, *map(Path, (spec and spec.submodule_search_locations) or ())]
    return sorted(file for folder in folders for file in folder.glob("*.py"))


def processor() -> str:
    """The processor's name as the system tells it; its architecture where the system tells no more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@cache
def folder() -> Path:
    """The folder that holds what was compiled from exactly these sources; it need not exist yet."""
    digest = hashlib.sha256()
    for file in _source_files():
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for word in (importlib.metadata.version("numba"), platform.python_version(), processor()):
        digest.update(word.encode() + b"\0")
    root = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_dir()
    return Path(root) / "streamer" / digest.hexdigest()[:16]


@cache
def usable_folder() -> Path | None:
    """The same folder, made; None where it cannot be written, and then every process compiles anew."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()) as probe:
            probe.write(bytes(4096))
    except OSError:
        return None
    return folder()


def compiled_already(part: str) -> bool:
    """Whether `mark_compiled` was called, with these sources, for this part: an architecture's name, say."""
    return (folder() / f"{part}.ready").exists()


def mark_compiled(part: str) -> None:
    """Remember that all this part needs is on disk; does nothing where the folder cannot be written."""
    if usable_folder() is not None:
        try:
            (folder() / f"{part}.ready").touch()
        except OSError:  # the disk has filled up since: the next start says that it compiles, which is true
            return
