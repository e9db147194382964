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
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature
from numba.core.typed_passes import NativeLowering

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


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """LLVM code that is only linked into that of others: neither optimised by itself nor made machine code.

    numba does both for every function, and LLVM would optimise an inner one again at each level of calls.
    """

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()  # type: ignore[no-untyped-call]
        self._verify_declare_only_symbols()  # type: ignore[no-untyped-call]
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
class _PartLowering(NativeLowering):  # type: ignore[misc]
    """numba's lowering, to a `_PartLibrary`."""

    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        state.flags.no_compile = True
        state.library = _PartLibrary(context.codegen(), state.func_id.func_qualname)  # type: ignore[no-untyped-call]
        super().run_pass(state)  # type: ignore[no-untyped-call]
        # numba tells functions apart by their entry points, built-in ones; this refuses whatever it is given.
        lowered = state["cr"] = state["cr"]._replace(cfunc=NotImplementedError().with_traceback)
        context.insert_user_function(lowered.cfunc, lowered.fndesc, [state.library])
        return True


class _PartCompiler(CompilerBase):  # type: ignore[misc]
    def define_pipelines(self) -> list[Any]:
        manager: Any = DefaultPassBuilder.define_nopython_pipeline(self.state)  # type: ignore[no-untyped-call]
        for index, (kind, words) in enumerate(manager.passes):
            if kind is NativeLowering:
                manager.passes[index] = _PartLowering, words
        manager.finalize()
        return [manager]


def _cache_for(function: Callable[..., Any]) -> NullCache:
    try:
        return _DiskCache(function)
    except OSError:  # typed at a prompt: there is no source to tell versions apart by
        return NullCache()


_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "no_cfunc_wrapper": True,
    "error_model": "numpy",
    "fastmath": _FUSE,
}
_PART: dict[str, Any] = _OPTIONS | {"no_cpython_wrapper": True, "pipeline_class": _PartCompiler}


def _compile(function: Function, options: dict[str, Any]) -> Function:
    njit: Any = numba.njit  # its stub does not know every option
    dispatcher: Any = njit(**options)(function)
    fold, unliteral = dispatcher._compiler.fold_argument_types, numba.types.unliteral  # type: ignore[attr-defined]

    def fold_argument_types(arguments: Any, named: Any) -> tuple[Any, tuple[Any, ...]]:
        signature, kinds = fold(arguments, named)
        return signature, tuple(map(unliteral, kinds))  # numba would make another form for every constant

    dispatcher._compiler.fold_argument_types = fold_argument_types
    result: Function = dispatcher
    return result


def compiled(function: Function) -> Function:
    """Decorate a module-level function: `njit(nogil=True, cache=True)`, dividing as numpy does."""
    dispatcher = _compile(function, _OPTIONS)
    dispatcher._cache = _cache_for(function)  # type: ignore[attr-defined]
    cache.folder()  # named now, for the sources as imported: they may be edited before the function is called
    return dispatcher


def quick(function: Function) -> Function:
    """Like `compiled`, for what Python calls and is over at once: it keeps the interpreter's lock.

    A thread that gives that away has to wait for it, a switch interval (5 ms) where another is always busy.
    """
    dispatcher = _compile(function, _OPTIONS | {"nogil": False})
    dispatcher._cache = _cache_for(function)  # type: ignore[attr-defined]
    cache.folder()
    return dispatcher


def part(function: Function) -> Function:
    """Like `compiled`, for what only compiled code calls: it is compiled into each that does.

    Whether it is inlined there is LLVM's choice: for what is long, or called from several places.
    """
    return _compile(function, _PART)


def inner(function: Function) -> Function:
    """Like `part`, and always inlined."""
    return _compile(function, _PART | {"forceinline": True})


def inner_sum(function: Function) -> Function:
    """Like `part`, for sums that may be taken in any order; the order is the same every time.

    For that it is optimised by itself, before others see it.
    """
    return _compile(function, _OPTIONS | {"no_cpython_wrapper": True, "fastmath": _FUSE_AND_REORDER})


def overload_part(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate what chooses, by types, the Python function that compiled code calls in place of this one."""
    overload: Any = numba.extending.overload  # its stub does not know every option
    return overload(function, jit_options=_PART | {"forceinline": True})  # type: ignore[no-any-return]


def callback(function: Callable[..., Any], signature: Any) -> Any:
    """Compile, now, what foreign code calls by its address: numba's `cfunc` (`address`, `ctypes`)."""
    types = normalize_signature(signature)  # type: ignore[no-untyped-call]
    made: Any = CFunc(function, types, locals={}, options={"error_model": "numpy"})
    made._cache = _cache_for(function)
    made.compile()
    return made
