"""How kernels are compiled here: free of the GIL, cached on disk, never failing because of the disk."""

from __future__ import annotations

import functools
import hashlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numba.extending
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from streamer.kernels import cache

Function = TypeVar("Function", bound=Callable[..., Any])

# Fusing a product and a sum into one rounding is safe; every freer licence would let LLVM assume away NaN and
# infinity.
_FUSE: set[str] = {"contract"}
# Besides, a sum may be taken in any order, without which LLVM does not vectorise it.
_FUSE_AND_REORDER: set[str] = {"contract", "reassoc"}


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate what emits LLVM code: numba's `intrinsic`, in a form that type checkers let one call."""
    return numba.extending.intrinsic(function)  # type: ignore[no-any-return]


@functools.cache
def _hash_of(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


class _DiskCache(NullCache):  # type: ignore[misc]
    """Where numba keeps a function's compiled forms: a file for each, named by a hash of what tells it apart.

    numba's own cache numbers the files and keeps an index of them. Two processes that compile one function
    for different types at once both take the first number: the index of one then names the code of the other,
    which is called with the wrong arguments. And it loads what is damaged.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        code = function.__code__
        self._source = code.co_filename, _hash_of(code.co_filename), code.co_firstlineno
        self._name = f"{Path(code.co_filename).stem}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        """What numba shows among a function's statistics."""
        return str(cache.folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Fetch the form for a signature, or None to have it compiled."""
        target_context.refresh()
        key = self._source, sig, target_context.codegen().magic_tuple()
        content = cache.load(self._file(key))
        if content is None:
            return None
        try:
            kept, parts = pickle.loads(content)
            rebuild: Any = CompileResult._rebuild
            return rebuild(target_context, *parts) if kept == key else None
        except Exception:  # whatever it is, compiling mends it
            cache.say_damaged()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled form."""
        if data.library.has_dynamic_globals:
            warnings.warn(f"{self._name} holds an address: it is compiled at every start", stacklevel=1)
            return
        key = self._source, sig, data.codegen.magic_tuple()
        cache.save(self._file(key), dumps((key, data._reduce())))  # type: ignore[no-untyped-call]

    def _file(self, key: Any) -> str:
        return f"{self._name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc"


def _cache_for(function: Callable[..., Any]) -> NullCache:
    try:
        return _DiskCache(function)
    except OSError:  # typed at a prompt: there is no source to tell versions apart by
        return NullCache()


def _compile(function: Function, fastmath: set[str], **options: bool) -> Function:
    options |= {"nogil": True, "no_cfunc_wrapper": True}
    njit: Any = numba.njit  # its stub does not know every option
    dispatcher: Function = njit(error_model="numpy", fastmath=fastmath, **options)(function)
    dispatcher._cache = _cache_for(function)  # type: ignore[attr-defined]
    cache.folder()  # named now, for the sources as imported: they may be edited before the function is called
    return dispatcher


def compiled(function: Function) -> Function:
    """Decorate a module-level function: `njit(nogil=True, cache=True)`, dividing as numpy does."""
    return _compile(function, _FUSE)


def inner(function: Function) -> Function:
    """Like `compiled`, for what only compiled code calls: nothing is built to call it from Python."""
    return _compile(function, _FUSE, no_cpython_wrapper=True, forceinline=True)


def inner_sum(function: Function) -> Function:
    """Like `inner`, for sums that may be taken in any order; the order is the same every time."""
    return _compile(function, _FUSE_AND_REORDER, no_cpython_wrapper=True)


def callback(function: Callable[..., Any], signature: Any) -> Any:
    """Compile, now, what foreign code calls by its address: numba's `cfunc` (`address`, `ctypes`)."""
    types = normalize_signature(signature)  # type: ignore[no-untyped-call]
    made: Any = CFunc(function, types, locals={}, options={"error_model": "numpy"})
    made._cache = _cache_for(function)
    made.compile()
    return made
