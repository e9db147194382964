"""The generator: writes a voice's tape ahead of its play head, and takes back what a cue makes void.

One compiled call, free of the GIL: returning to Python for every block would cost a switch interval of the
interpreter (5 ms) each time. Between two runs of samples it looks at its cues. A cue takes effect at the
earliest position that can be had, or where it is wanted: the model's state goes back to exactly there, the
first samples that the cue changes are written beside the tape, and are laid onto it in one go. Until then the
play head has the old ones, so that a machine that stalls meanwhile makes the answer late, not the sound: the
generator goes back again and takes a later position. Control values are a function of the position
(`streamer.lanes`), random numbers of (seed, key, position), so that the tape is the same however its writing
was cut into runs, or taken back.
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
from streamer.lanes import NEVER, copy, forget, forget_future, insert, value
from streamer.tape import (
    CLAIM,
    MARGIN,
    PACE_NS,
    RUNWAY,
    WRITE_HEAD,
    attention,
    lead,
    publish,
    put,
    ring_of,
    room,
    splice,
)

RUN = 32
"""Most samples written between two looks at the cues and the tape: 2 ms at 16 kHz."""
NAP_US = 1000
"""How long the generator sleeps when the lead is full."""
HURRY = 2
"""Runways of lead, beyond the margin, that are written as fast as can be, and the rest at the tape's pace: a
gesture of a hundred cues would else have real-time threads take all of the processor's time to write what
is taken back again."""
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

# Words that the generator publishes: the first four as float64, then when jitter was noted, and counts.
NS_PER_SAMPLE, JITTER_NS, ANSWER_NS, ANSWER_SPREAD_NS, JITTER_AT, REWINDS, DEFERRED = range(7)
# Words of its own: up to which position codes are counted, and the first position whose code is known.
COUNTED, FIRST_CODE = 8, 9
WORDS = 16
_NOT_COUNTED = -2


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
    draft: NDArray[np.float32]
    """The first samples that a cue changes, on their way to the tape; as long as the longest runway."""
    void_codes: NDArray[np.int32]
    """The codes in whose place the draft's stand, in case it comes too late."""
    kept_lanes: NDArray[np.int64]
    """The lanes without the cues that wait, for the same case."""
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


FILL, FOR_EVER, REWRITE = range(3)
"""What a generator can be asked to do."""


@compiled
def generate(weights: Any, state: Any, crew: Any, desk: Any, task: int) -> None:
    """Do what is asked, until attention is asked for.

    task: `FILL` the tape's room; go on filling it `FOR_EVER`; or only `REWRITE` a runway of the tape as it
    is, from the earliest position on. One entry does it all: another would have the model compiled again.
    """
    weights, state, crew, desk = borrowed(weights), borrowed(state), borrowed(crew), borrowed(desk)
    if task == REWRITE:
        _rewrite(weights, state, crew, desk, 0, 0, 0)
        return
    expected = monotonic_ns()
    while attention(desk.tape) == 0:
        _note_jitter(desk, monotonic_ns() - expected)
        _take_cues(weights, state, crew, desk)
        began = expected = monotonic_ns()  # a cue takes its time, but no sound waits for it
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
    if lead(tape) < load_acquire(tape, MARGIN) + HURRY * load_acquire(tape, RUNWAY):
        return 0
    return int(max(0, count * load_acquire(tape, PACE_NS) - took_ns) // 1000)


@part
def _take_cues(weights: Any, state: Any, crew: Any, desk: Any) -> None:
    """Have all waiting cues take effect, those that are not for later at one position."""
    queue, wanted = desk.queue, NEVER
    first, last = waiting(queue)
    if first == last:
        return
    for serial in range(first, last):
        wanted = min(wanted, queue[entry_at(queue, serial) + AT])
    forget(desk.lanes, load_acquire(desk.tape, CLAIM))
    _rewrite(weights, state, crew, desk, wanted, first, last)
    taken(queue, last)


@part
def _rewrite(weights: Any, state: Any, crew: Any, desk: Any, wanted: int, first: int, last: int) -> None:
    """Lay cues into their lanes from the position wanted on, or the earliest, and write anew from there.

    Where the play head is faster, it is done again with a margin that is wider by more each time.
    """
    tape, more, here = desk.tape, 0, load_acquire(desk.tape, WRITE_HEAD)
    written, offset = here, state.position[0] - here
    copy(desk.lanes, desk.kept_lanes)
    while True:
        began = monotonic_ns()
        before, here = here, _earliest(tape, wanted, more, written)
        _stand_at(weights, state, crew, desk, before, here, offset)
        _lay_cues(desk, first, last, here)
        count = min(written - here, load_acquire(tape, RUNWAY), desk.draft.size)
        if count == 0:
            return
        if _write_draft(weights, state, crew, desk, here, count) and splice(tape, here, desk.draft, count):
            _account_answer(desk, monotonic_ns() - began)
            store_release(desk.words, REWINDS, desk.words[REWINDS] + 1)
            return
        for place in range(count):
            desk.codes[(here + place) & (desk.codes.size - 1)] = desk.void_codes[place]
        copy(desk.kept_lanes, desk.lanes)
        more = 2 * more + load_acquire(tape, RUNWAY)
        store_release(desk.words, DEFERRED, desk.words[DEFERRED] + 1)


@inner
def _earliest(tape: Any, wanted: int, more: int, written: int) -> int:
    """Where writing may begin anew: not before what is wanted, nor within the margin and some more."""
    return int(min(written, max(wanted, load_acquire(tape, CLAIM) + load_acquire(tape, MARGIN) + more)))


@part
def _stand_at(weights: Any, state: Any, crew: Any, desk: Any, before: int, here: int, offset: int) -> None:
    """Bring the model from where a draft began, or the write head, to a position of the old samples.

    offset: between positions of the model and of the tape.
    """
    desk.words[COUNTED] = _NOT_COUNTED
    if min(before, here) + offset < state.position[0]:
        rewind(weights, state, min(before, here) + offset, crew)
    for position in range(before, here):
        advance(weights, state, crew)
        desk.code[0] = desk.codes[position & (desk.codes.size - 1)]
        push(weights, state, desk.code)


@inner
def _lay_cues(desk: Any, first: int, last: int, here: int) -> None:
    for serial in range(first, last):
        took(desk.queue, serial, _lay(desk, entry_at(desk.queue, serial), here))


@inner
def _lay(desk: Any, entry: int, here: int) -> int:
    """Lay one cue into its lane, not before `here`; return its place."""
    queue, place = desk.queue, max(here, desk.queue[entry + AT])
    kind, target = queue[entry + KIND], queue.view(np.float64)[entry + TARGET]
    if kind == CLEAR:
        forget_future(desk.lanes, place)
    elif not insert(desk.lanes, queue[entry + LANE], place, kind, target, queue[entry + LENGTH]):
        return REFUSED
    return int(place)


@inner
def _write_draft(weights: Any, state: Any, crew: Any, desk: Any, here: int, count: int) -> bool:
    """Write samples into the draft; False, and no more of them, where the play head has come past."""
    ring, mask = ring_of(desk.tape), desk.codes.size - 1
    last = ring[(here - 1) & (ring.size - 1)]
    for place in range(count):
        desk.void_codes[place] = desk.codes[(here + place) & mask]
    for place in range(count):
        if place % RUN == 0 and load_acquire(desk.tape, CLAIM) > here:
            return False
        last = _next_sample(weights, state, crew, desk, here + place, last)
        desk.draft[place] = last
    return True


@inner
def _write(weights: Any, state: Any, crew: Any, desk: Any, count: int) -> None:
    """Write samples onto the tape."""
    ring = ring_of(desk.tape)
    first = load_acquire(desk.tape, WRITE_HEAD)
    last = ring[(first - 1) & (ring.size - 1)]
    for position in range(first, first + count):
        last = _next_sample(weights, state, crew, desk, position, last)
        put(desk.tape, position, float(last))
    publish(desk.tape, first + count)


@part
def _next_sample(weights: Any, state: Any, crew: Any, desk: Any, position: int, last: Any) -> Any:
    """The sample of a position, after the last one; its code is kept."""
    advance(weights, state, crew)
    code = _draw(state.logits, desk, position)
    desk.code[0] = code
    push(weights, state, desk.code)
    desk.codes[position & (desk.codes.size - 1)] = code
    return np.float32(desk.amplitudes[code] + desk.preemphasis * last)


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


@part
def _account_answer(desk: Any, elapsed_ns: int) -> None:
    """Publish how long preparing an answer takes: mean and mean deviation, as TCP's timer (Jacobson 1988)."""
    numbers, elapsed = desk.words.view(np.float64), float(elapsed_ns)
    mean, spread = numbers[ANSWER_NS], numbers[ANSWER_SPREAD_NS]
    if mean == 0.0:
        mean, spread = elapsed, elapsed / 2
    else:
        spread += (abs(elapsed - mean) - spread) / 4
        mean += (elapsed - mean) / 8
    store_release(numbers, ANSWER_NS, mean)
    store_release(numbers, ANSWER_SPREAD_NS, spread)


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
