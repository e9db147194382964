"""Products of packed matrices and vectors, on one thread or on a crew of several.

In compiled code:
    matvec(crew, out, bias, matrix, x)                      out = bias + x @ matrix
    matmat(crew, out, bias, matrix, x, count, bias_width)   the same for count vectors, rows of x and out
    matvec_sparse(crew, out, bias, matrix, x, nonzero)      the same where most of x may be 0
    multiply_positive(crew, out, bias, matrix, x, count, nonzero)       the same behind a ReLU

Vectors are float32 and padded, matrices packed (`packing`). out may be bias itself, which accumulates.

A *crew* is the words that the threads of one stepper share. Its owner does a product's first part and offers
each helper one of the others; when it has done its own, it takes back what a helper has not begun, and waits
for what it has. A helper that the system has put to sleep costs speed, then, and never stops the owner. A
column is computed by one thread and in one order, so the number of threads changes no bit of the result.

    line 0      threads, whether helpers shall end, the last offer's number, where the product's code is
    line 1      the offer: an order for a product, see `simd.call_product`
    2 a helper  the offer that this helper may take, odd once it is taken; the offer that it has finished
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.kernels.atomics import (
    CACHE_LINE_WORDS,
    aligned_words,
    compare_exchange,
    load_acquire,
    pause,
    sleep_us,
    store,
    store_release,
)
from streamer.kernels.compiling import compiled, inner
from streamer.kernels.nonlinear import relu, relu_sparse
from streamer.kernels.packing import Bytes, Floats, Packing
from streamer.kernels.simd import call_product, product_address
from streamer.kernels.views import address, address_of_bytes, address_of_floats, word_at

Words = NDArray[np.int64]

THREADS, ENDING, NUMBER, PRODUCT = range(4)
_OFFER = CACHE_LINE_WORDS
_TURNS = 2 * CACHE_LINE_WORDS
_HELPER_WORDS = 2 * CACHE_LINE_WORDS
_SHARED_BYTES = 48 * 1024
"""A smaller matrix is multiplied sooner than offered and waited for.

Out of one core's own cache sharing paid from 50 (int8) to 200 KiB (fp32) on; but the caches of several cores
may hold what that of one would not.
"""
_SPINS = 4_000
"""Looks at its word before a helper without work goes to sleep: 50 us where this was measured."""
_PATIENCE = 40_000
"""Looks before an owner does that waits for a helper: half a millisecond, longer than most parts take."""
_SHORTEST_NAP_US, _LONGEST_NAP_US = 50, 2000

_SIZE_BYTE = 24  # of the header: how many bytes the matrix has
_DOT8 = int(Packing.DOT8)


class Nonzero(NamedTuple):
    """What is not 0 in a vector (N,): ``values[:length[0]]`` at the places ``rows[:length[0]]``."""

    values: Floats
    rows: NDArray[np.int32]
    length: Words


def new_crew(threads: int = 1) -> Words:
    """Words for so many threads, the owner included."""
    crew = aligned_words(_TURNS + (threads - 1) * _HELPER_WORDS)
    crew[THREADS], crew[PRODUCT] = threads, product_address()
    crew[_TURNS::_HELPER_WORDS] = 1  # nothing to take
    return crew


class Helpers:
    """The threads of a crew beside its owner's, from now until `close`."""

    def __init__(self, crew: Words) -> None:
        self._crew = crew
        helpers = range(1, crew[THREADS])
        if helpers:  # what they run is compiled, or loaded, before anybody counts on them
            crew[ENDING] = 1
            _help(crew, 1)
            crew[ENDING] = 0
        self._threads = [
            threading.Thread(target=_help, args=(crew, helper), name=f"streamer-helper-{helper}", daemon=True)
            for helper in helpers
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End them; the owner must not be inside a product."""
        store(self._crew, ENDING, 1)
        for thread in self._threads:
            thread.join()


@inner
def _turn(helper: int) -> int:
    return _TURNS + (helper - 1) * _HELPER_WORDS


@inner
def _do_part(crew: Words, part: int) -> None:
    """A part of the product on offer."""
    call_product(crew[PRODUCT], address(crew) + 8 * _OFFER, part, crew[THREADS])


@compiled
def _help(crew: Words, helper: int) -> None:
    """Take what is offered, until the crew ends."""
    turn, idle, nap = _turn(helper), 0, _SHORTEST_NAP_US
    while load_acquire(crew, ENDING) == 0:
        number = load_acquire(crew, turn)
        if number % 2 == 0 and compare_exchange(crew, turn, number, number + 1):
            _do_part(crew, helper)
            store_release(crew, turn + CACHE_LINE_WORDS, number)
            idle, nap = 0, _SHORTEST_NAP_US
        elif idle < _SPINS:
            idle += 1
            pause()
        else:
            sleep_us(nap)  # the longer the idler: what wakes up often is felt by whatever else runs
            nap = min(2 * nap, _LONGEST_NAP_US)


@inner
def _wait(crew: Words, word: int, number: int) -> None:
    """Until the word has this number. Who is to write it may wait for this thread's core: let go of that."""
    spins = 0
    while load_acquire(crew, word) != number:
        spins += 1
        if spins < _PATIENCE:
            pause()
        else:
            sleep_us(_SHORTEST_NAP_US)


@inner
def _share(crew: Words) -> None:
    """Do the product on offer, with the helpers that are awake."""
    threads, number = crew[THREADS], crew[NUMBER] + 2
    crew[NUMBER] = number
    for helper in range(1, threads):
        store_release(crew, _turn(helper), number)
    _do_part(crew, 0)
    for helper in range(1, threads):
        turn = _turn(helper)
        if compare_exchange(crew, turn, number, number + 1):
            _do_part(crew, helper)
        else:
            _wait(crew, turn + CACHE_LINE_WORDS, number)


@inner
def _multiply(
    crew: Words,
    out: Floats,
    bias: Floats,
    matrix: Bytes,
    x: Floats,
    count: int,
    bias_step: int,
    rows: int,
    active: int,
) -> None:
    a = _OFFER
    crew[a], crew[a + 1] = address_of_floats(out), address_of_floats(bias)
    crew[a + 2], crew[a + 3] = address_of_bytes(matrix), address_of_floats(x)
    crew[a + 4], crew[a + 5], crew[a + 6], crew[a + 7] = count, bias_step, rows, active
    if crew[THREADS] == 1 or word_at(address(matrix) + _SIZE_BYTE) < _SHARED_BYTES:
        call_product(crew[PRODUCT], address(crew) + 8 * _OFFER, 0, 1)
    else:
        _share(crew)


@inner
def matvec(crew: Words, out: Floats, bias: Floats, matrix: Bytes, x: Floats) -> None:
    """`out[:] = bias + x @ matrix`: out (N,), bias (at least N,), x (K,)."""
    _multiply(crew, out, bias, matrix, x, 1, 0, 0, 0)


@inner
def matmat(
    crew: Words, out: Floats, bias: Floats, matrix: Bytes, x: Floats, count: int, bias_width: int
) -> None:
    """`out[i] = bias[i] + x[i] @ matrix` for count vectors: out (count, N), x (count, K).

    bias_width: how far apart the vectors' biases lie, in floats; 0 where they share one.
    """
    _multiply(crew, out, bias, matrix, x, count, 4 * bias_width, 0, 0)


@inner
def matvec_sparse(crew: Words, out: Floats, bias: Floats, matrix: Bytes, x: Floats, nonzero: Nonzero) -> None:
    """`matvec` for an x of which `nonzero` lists what is not 0: no other rows are read, unless it is DOT8."""
    if word_at(address(matrix)) == _DOT8:
        matvec(crew, out, bias, matrix, x)
    else:
        rows = address(nonzero.rows)
        _multiply(crew, out, bias, matrix, nonzero.values, 1, 0, rows, nonzero.length[0])


@inner
def multiply_positive(
    crew: Words, out: Floats, bias: Floats, matrix: Bytes, x: Floats, count: int, nonzero: Nonzero
) -> None:
    """`out[i] = bias + relu(x[i]) @ matrix` for count vectors; x becomes relu(x), `nonzero` is overwritten.

    Of a single vector only the rows are read that count.
    """
    if count == 1:
        nonzero.length[0] = relu_sparse(x, nonzero.values, nonzero.rows)
        matvec_sparse(crew, out, bias, matrix, x, nonzero)
    else:
        relu(x)
        matmat(crew, out, bias, matrix, x, count, 0)
