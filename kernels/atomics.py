"""Words that threads share without a lock: acquire loads and release stores; a clock and a sleep.

A plain `while words[STOP] == 0` is hoisted out of a compiled loop and never sees the store of another thread,
and a plain store may be seen before the samples it announces. So every word that two threads share goes
through `load_acquire` and `store_release`: a plain move on x86-64, `ldar` and `stlr` on aarch64.

In compiled code, with words a 1-D int64 or float64 array in C order:
    load_acquire(words, index)
    store_release(words, index, value)
    compare_exchange(words, index, expected, value)     store if it is as expected; whether it was
    fence()                                 all stores before it are seen before any load after it
    pause()                                 for a loop that waits: spares the processor's other work
    give_way()                              let another thread of this priority run
    address_to_pointer(address)             int64 -> void*, for `numba.carray`
    monotonic_ns()                          the system's monotonic clock
    sleep_us(microseconds)                  below 1 000 000

From Python:
    aligned_words(count)                    zeroed int64 words that begin on a cache line
    load, store, clock_ns, sleep_us         the same, callable

The intrinsics emit LLVM IR and name no address, so what is compiled with them can be cached on disk.
"""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic
from numpy.typing import NDArray

from streamer.kernels.compiling import compiled, quick

Words = NDArray[np.int64] | NDArray[np.float64]
cgutils: Any = _cgutils  # untyped
intrinsic: Any = _intrinsic  # its type wants the typing context, which no caller passes

CACHE_LINE_WORDS = 8  # 64 bytes: two threads that write within one line slow each other down
_WORD_BYTES = 8
_CLOCK_MONOTONIC = time.CLOCK_MONOTONIC  # 1 on Linux, 6 on macOS


def aligned_words(count: int) -> NDArray[np.int64]:
    """Zeroed int64 words, int64 [count], that begin on a cache line."""
    raw = np.zeros(count + CACHE_LINE_WORDS - 1, np.int64)
    skip = -(raw.ctypes.data // _WORD_BYTES) % CACHE_LINE_WORDS
    return raw[skip : skip + count]


def _element_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Address of `array[index]`; no bounds check, no negative index."""
    struct = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, struct, [index], wraparound=False)


def _check_words(array: Any) -> None:
    ok = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
    if not ok or array.dtype not in (types.int64, types.float64):
        raise TypeError(f"shared words must be a 1-D C-contiguous int64 or float64 array, not {array}")


@intrinsic
def load_acquire(typing_context: Any, words: Any, index: Any) -> Any:
    """`words[index]`, and with it everything its writer stored before."""
    _check_words(words)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _element_pointer(context, builder, signature.args[0], args[0], args[1])
        value_type = context.get_value_type(signature.return_type)
        return builder.load_atomic(pointer, "acquire", _WORD_BYTES, typ=value_type)

    return words.dtype(words, types.intp), codegen


@intrinsic
def store_release(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """`words[index] = value`, seen by others only after everything stored before it."""
    _check_words(words)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _element_pointer(context, builder, signature.args[0], args[0], args[1])
        builder.store_atomic(args[2], pointer, "release", _WORD_BYTES)
        return context.get_dummy_value()

    return types.void(words, types.intp, words.dtype), codegen


@intrinsic
def compare_exchange(typing_context: Any, words: Any, index: Any, expected: Any, value: Any) -> Any:
    """Put `value` into `words[index]` if `expected` is there; whether it was."""
    _check_words(words)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _element_pointer(context, builder, signature.args[0], args[0], args[1])
        result = builder.cmpxchg(pointer, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(words, types.intp, types.int64, types.int64), codegen


@intrinsic
def fence(typing_context: Any) -> Any:
    """A full barrier: of two threads that each store, fence and load the other's, one sees the other."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the processor that this loop only waits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        machine, empty = platform.machine().lower(), ir.VoidType()
        if machine in ("x86_64", "amd64"):
            hint = ir.Function(builder.module, ir.FunctionType(empty, []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif machine in ("aarch64", "arm64"):
            word = ir.IntType(32)
            hint = ir.Function(builder.module, ir.FunctionType(empty, [word]), "llvm.aarch64.hint")
            builder.call(hint, [word(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def address_to_pointer(typing_context: Any, address: Any) -> Any:
    """An int64 address as `void*`, for `numba.carray`. Whoever stored the address keeps the memory alive."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


@intrinsic
def monotonic_ns(typing_context: Any) -> Any:
    """Nanoseconds of CLOCK_MONOTONIC (int64); allocates nothing and takes no lock."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, clock_id = ir.IntType(64), ir.IntType(32)
        timespec = ir.LiteralStructType([word, word])
        now = cgutils.alloca_once(builder, timespec)
        function_type = ir.FunctionType(clock_id, [clock_id, timespec.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, function_type, "clock_gettime")
        builder.call(function, [ir.Constant(clock_id, _CLOCK_MONOTONIC), now])
        seconds = builder.load(cgutils.gep_inbounds(builder, now, 0, 0))
        nanoseconds = builder.load(cgutils.gep_inbounds(builder, now, 0, 1))
        return builder.add(builder.mul(seconds, ir.Constant(word, 1_000_000_000)), nanoseconds)

    return types.int64(), codegen


_usleep: Any = types.ExternalFunction("usleep", types.int32(types.uint32))
_sched_yield: Any = types.ExternalFunction("sched_yield", types.int32())


@compiled
def sleep_us(microseconds: int) -> None:
    """Sleeps for about that many microseconds (0 to 999 999); 0 gives way to other threads."""
    _usleep(np.uint32(microseconds))


@compiled
def give_way() -> None:
    """Go to the end of the queue of threads of this priority."""
    _sched_yield()


@quick
def load(words: Words, index: int) -> Any:
    """`load_acquire`, callable from Python."""
    return load_acquire(words, index)


@quick
def store(words: Words, index: int, value: float) -> None:
    """`store_release`, callable from Python."""
    store_release(words, index, value)


@quick
def clock_ns() -> int:
    """`monotonic_ns`, callable from Python: the clock that compiled code stamps with."""
    return int(monotonic_ns())
