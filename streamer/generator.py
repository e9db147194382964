"""The generator: writes a voice's tape ahead of its play head, and takes back what a cue makes void.

One compiled call, free of the GIL: returning to Python for every block would cost a switch interval of the
interpreter (5 ms) each time. Between two runs of samples it looks at its cues. A cue takes effect at the
earliest position that is still safely ahead of the play head, or where it is wanted; what was written beyond
is taken back, the model's state goes back to exactly there, and writing goes on. Control values are a
function of the position (`streamer.lanes`), random numbers of (seed, key, position), so that the tape is the
same however its writing was cut into runs, or taken back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamer.cues import AT, CLEAR, KIND, LANE, LENGTH, REFUSED, TARGET, entry_at, taken, took, waiting
from streamer.kernels.atomics import give_way, load_acquire, monotonic_ns, sleep_us, store_release
from streamer.kernels.compiling import compiled, inner, part
from streamer.kernels.dispatch import advance, push, rewind
from streamer.kernels.rng import uniform
from streamer.kernels.sampling import penalise, pull_to_centre, sample
from streamer.kernels.views import borrowed
from streamer.lanes import NEVER, forget, forget_future, insert, value
from streamer.tape import CLAIM, MARGIN, WRITE_HEAD, attention, lead, publish, put, ring_of, room, take_back

RUN = 32
"""Most samples written between two looks at the cues and the tape: 2 ms at 16 kHz."""
NAP_US = 1000
"""How long the generator sleeps when the lead is full."""
HURRY_SECONDS = 0.05
"""Of lead beyond the margin that is written as fast as can be; a gesture takes back no more."""
EASE = 3
"""Times real time at which the rest is written by a model that is faster. A gesture of a hundred cues would
else have real-time threads take all of the processor's time to write what is taken back again."""
WINDOW = 1024
"""Samples in which codes are counted, for the penalty on repetition."""
_HALF_LIFE_NS = 3e9

TEMPERATURE, TOP_K, TOP_P, TYPICAL_P, REPETITION, CENTRE, SEED = range(7)
LANES = {
    "temperature": TEMPERATURE,
    "top_k": TOP_K,
    "top_p": TOP_P,
    "typical_p": TYPICAL_P,
    "repetition": REPETITION,
    "centre": CENTRE,
    "seed": SEED,
}
"""The lane of each control that a generator follows."""

# Words that the generator publishes: the first two as float64, then when the second was noted, and counts.
NS_PER_SAMPLE, JITTER_NS, JITTER_AT, REWINDS = range(4)
# Words of its own: up to which position codes are counted, and the first position whose code is known.
COUNTED, FIRST_CODE = 8, 9
WORDS = 16


class Desk(NamedTuple):
    """All that a generator works with besides the model."""

    tape: NDArray[np.int64]
    queue: NDArray[np.int64]
    """Of a `streamer.cues.CueQueue`."""
    lanes: NDArray[np.int64]
    words: NDArray[np.int64]
    codes: NDArray[np.int32]
    """A ring as long as the tape's: the code of position p at index p modulo its length."""
    counts: NDArray[np.int32]
    """(Q,): of the codes in the window that ends at COUNTED."""
    amplitudes: NDArray[np.float32]
    """(Q,)"""
    preemphasis: np.float32
    key: int
    """Tells voices of one seed apart, and takes of one voice."""
    rate: int
    """Hz"""
    code: NDArray[np.int64]
    """(1,): the code on its way to the model."""
    scratch: NDArray[np.float32]
    """Of `streamer.kernels.sampling.new_scratch`."""


FILL, FOR_EVER, TAKE_BACK = range(3)
"""What a generator can be asked to do."""


@compiled
def generate(weights: Any, state: Any, crew: Any, desk: Any, task: int) -> None:
    """Do what is asked, until attention is asked for.

    task: `FILL` the tape's room; go on filling it `FOR_EVER`; or only `TAKE_BACK` all that can be. One entry
    does it all: another would have the model compiled again.
    """
    weights, state, crew, desk = borrowed(weights), borrowed(state), borrowed(crew), borrowed(desk)
    if task == TAKE_BACK:
        _go_back(weights, state, crew, desk, 0)
        return
    expected = monotonic_ns()
    while attention(desk.tape) == 0:
        began = monotonic_ns()
        _note_jitter(desk, began - expected)
        expected = began
        _take_cues(weights, state, crew, desk)
        count = min(room(desk.tape), RUN)
        if count > 0:
            _write(weights, state, crew, desk, count)
            took_ns = monotonic_ns() - began
            _account(desk, took_ns, count)
            nap_us = _ease_us(desk, took_ns, count)
        else:
            nap_us = NAP_US
        if task == FILL:
            if count == 0:
                return
        elif nap_us > 0:
            sleep_us(nap_us)
            expected += 1000 * nap_us
        else:
            give_way()  # to the other voices: all are of one priority


@inner
def _ease_us(desk: Any, took_ns: int, count: int) -> int:
    """How long to rest after a run: 0 while the lead is short."""
    tape = desk.tape
    if lead(tape) < load_acquire(tape, MARGIN) + int(HURRY_SECONDS * desk.rate):
        return 0
    return max(0, int(1e6 * count / (EASE * desk.rate)) - took_ns // 1000)


@part
def _go_back(weights: Any, state: Any, crew: Any, desk: Any, position: int) -> int:
    """Take back what lies beyond a position, or as near as can be, and the model with it; return where."""
    written = load_acquire(desk.tape, WRITE_HEAD)
    offset = state.position[0] - written
    here = take_back(desk.tape, position)
    if here < written:
        rewind(weights, state, here + offset, crew)
        store_release(desk.words, REWINDS, desk.words[REWINDS] + 1)
    return int(here)


@part
def _take_cues(weights: Any, state: Any, crew: Any, desk: Any) -> None:
    """Have all waiting cues take effect, those that are not for later at one position."""
    queue, wanted = desk.queue, NEVER
    first, last = waiting(queue)
    if first == last:
        return
    for serial in range(first, last):
        wanted = min(wanted, queue[entry_at(queue, serial) + AT])
    here = _go_back(weights, state, crew, desk, wanted)
    forget(desk.lanes, load_acquire(desk.tape, CLAIM))
    for serial in range(first, last):
        took(queue, serial, _take(desk, entry_at(queue, serial), here))
    taken(queue, last)


@inner
def _take(desk: Any, entry: int, here: int) -> int:
    """Lay one cue into its lane, not before `here`; return its place."""
    queue, place = desk.queue, max(here, desk.queue[entry + AT])
    kind, target = queue[entry + KIND], queue.view(np.float64)[entry + TARGET]
    if kind == CLEAR:
        forget_future(desk.lanes, place)
    elif not insert(desk.lanes, queue[entry + LANE], place, kind, target, queue[entry + LENGTH]):
        return REFUSED
    return int(place)


@inner
def _write(weights: Any, state: Any, crew: Any, desk: Any, count: int) -> None:
    """Write samples onto the tape."""
    ring = ring_of(desk.tape)
    first = load_acquire(desk.tape, WRITE_HEAD)
    last = ring[(first - 1) & (ring.size - 1)]
    for position in range(first, first + count):
        advance(weights, state, crew)
        code = _draw(state.logits, desk, position)
        desk.code[0] = code
        push(weights, state, desk.code)
        desk.codes[position & (desk.codes.size - 1)] = code
        last = np.float32(desk.amplitudes[code] + desk.preemphasis * last)
        put(desk.tape, position, float(last))
    publish(desk.tape, first + count)


@part
def _draw(logits: Any, desk: Any, position: int) -> int:
    """Choose the code of a position as the controls there say."""
    lanes = desk.lanes
    centre, strength = value(lanes, CENTRE, position), value(lanes, REPETITION, position)
    if centre > 0.0:
        pull_to_centre(logits, centre)
    if strength > 0.0:
        _count(desk, position)
        penalise(logits, desk.counts, WINDOW, strength)
    temperature, top_p = value(lanes, TEMPERATURE, position), value(lanes, TOP_P, position)
    top_k, typical_p = int(value(lanes, TOP_K, position)), value(lanes, TYPICAL_P, position)
    u = uniform(int(value(lanes, SEED, position)), desk.key, position)
    return int(sample(logits, desk.scratch, temperature, top_k, top_p, typical_p, u))


@part
def _count(desk: Any, position: int) -> None:
    """Have `counts` say how often each code occurs in the window before a position."""
    codes, counts, mask = desk.codes, desk.counts, desk.codes.size - 1
    known, first = desk.words[FIRST_CODE], position - WINDOW
    if desk.words[COUNTED] == position - 1:
        counts[codes[(position - 1) & mask]] += 1
        if first > known:
            counts[codes[(first - 1) & mask]] -= 1
    elif desk.words[COUNTED] != position:
        counts[:] = 0
        for place in range(max(known, first), position):
            counts[codes[place & mask]] += 1
    desk.words[COUNTED] = position


@part
def _account(desk: Any, elapsed_ns: int, count: int) -> None:
    """Publish the cost of a sample as a mean over about the last second of sound."""
    numbers = desk.words.view(np.float64)
    cost, before = elapsed_ns / count, numbers[NS_PER_SAMPLE]
    weight = min(1.0, count / desk.rate) if before > 0.0 else 1.0
    store_release(numbers, NS_PER_SAMPLE, before + weight * (cost - before))


@compiled
def aged_jitter(words: NDArray[np.int64], now_ns: int) -> float:
    """How much (ns) later than meant it looked at the cues at most, lately: halved every three seconds."""
    age = max(0, now_ns - load_acquire(words, JITTER_AT))
    return float(load_acquire(words.view(np.float64), JITTER_NS) * 2.0 ** (-age / _HALF_LIFE_NS))


@part
def _note_jitter(desk: Any, elapsed_ns: int) -> None:
    now = monotonic_ns()
    if elapsed_ns > aged_jitter(desk.words, now):
        store_release(desk.words, JITTER_AT, now)
        store_release(desk.words.view(np.float64), JITTER_NS, float(elapsed_ns))
