"""How kernels are compiled here: free of the GIL, cached on disk, never failing because of the disk."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numba.extending
from numba.core.caching import FunctionCache

from streamer.kernels import cache

Function = TypeVar("Function", bound=Callable[..., Any])

_UNUSABLE = (OSError, EOFError, ValueError, RuntimeError, pickle.PickleError)

# Fusing a product and a sum into one rounding is safe; every freer licence would let LLVM assume away NaN and
# infinity.
_FUSE: set[str] = {"contract"}
# Besides, a sum may be taken in any order, without which LLVM does not vectorise it.
_FUSE_AND_REORDER: set[str] = {"contract", "reassoc"}


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate what emits LLVM code: numba's `intrinsic`, in a form that type checkers let one call."""
    return numba.extending.intrinsic(function)  # type: ignore[no-any-return]


class _ForgivingCache(FunctionCache):  # type: ignore[misc]
    """A cache that a full disk, a quota or a damaged file turns into compiling again, not into an error."""

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; without room, keep it in memory only."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except _UNUSABLE:
            self.disable()  # type: ignore[no-untyped-call]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Fetch a compiled function, or None to have it compiled."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except _UNUSABLE:
            return None


def _compile(function: Function, fastmath: set[str], **options: bool) -> Function:
    options |= {"nogil": True, "no_cfunc_wrapper": True}
    njit: Any = numba.njit  # its stub does not know every option
    dispatcher: Function = njit(error_model="numpy", fastmath=fastmath, **options)(function)
    folder = cache.usable_folder()
    if folder is not None:
        # Read by numba whenever a function asks to be cached, those of `streamer/` included.
        config: Any = numba.config
        config.CACHE_DIR = str(folder)
        dispatcher._cache = _ForgivingCache(function)  # type: ignore[attr-defined, no-untyped-call]
    return dispatcher


def compiled(function: Function) -> Function:
    """Decorate a module-level function: `njit(nogil=True, cache=True)`, dividing as numpy does."""
    return _compile(function, _FUSE)


def inner(function: Function) -> Function:
    """Like `compiled`, for what only compiled code calls: nothing is built to call it from Python."""
    return _compile(function, _FUSE, no_cpython_wrapper=True)


def inner_sum(function: Function) -> Function:
    """Like `inner`, for sums that may be taken in any order; the order is the same every time."""
    return _compile(function, _FUSE_AND_REORDER, no_cpython_wrapper=True)
