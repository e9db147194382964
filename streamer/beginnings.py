"""Where a voice begins: what its model has heard before its first sample.

The engine, while it plays, and a score that is rendered again make their voices here, from the same records
(`streamer.score`), so that both come to the same state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamer.bookmarks import Moment
from streamer.models.checkpoint import Checkpoint
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.priming import to_codes
from streamer.voice import HISTORY, Start, Voice

HEARD_SECONDS = 2.0
"""What another model is primed with of what was just heard."""
_REMEMBERED_SECONDS = (
    10.0  # by a recurrent model, as far as anybody hears; a WaveNet sees its receptive field
)


def from_heard(source: Voice, position: int, seconds: float, checkpoint: Checkpoint) -> Start:
    """Go on from what another voice, of any model, had played before a position."""
    first = max(source.tape.oldest, position - round(seconds * source.tape.rate))
    sound = source.tape.read(first, position - first)
    if not sound.size:
        return Start()
    return from_codes(to_codes(sound, source.tape.rate, checkpoint), checkpoint)


def from_codes(codes: NDArray[np.int64], checkpoint: Checkpoint) -> Start:
    """Go on from codes of this model; position 0 is the first of them, so that all can be returned to."""
    tail = checkpoint.quantiser.decode(codes).astype(np.float32)
    return Start(codes=codes, tail=tail, position=len(codes))


def from_voice(source: Voice, position: int, take: int) -> Start:
    """Go on from a position on the tape of another voice of this model, otherwise than it did."""
    spec, rate = source.checkpoint.spec, source.tape.rate
    oldest = max(source.tape.oldest, position - round(HISTORY * rate))
    codes = source.codes(position, _remembered(spec, rate))
    first = 0
    if isinstance(spec, SampleRnnSpec):  # from where a frame began: frames and clock go on as they were
        first = position + source.ahead - len(codes)
        lost = -first % spec.frames[0]
        codes, first = codes[lost:], first + lost
    return Start(
        codes=codes,
        tail=source.tape.read(oldest, position - oldest),
        position=position,
        take=take,
        first=first,
    )


def from_moment(moment: Moment) -> Start:
    """Go on exactly as the voice would have that a bookmark was made of."""
    tail = moment.tail[max(0, len(moment.tail) - moment.position) :]  # nothing is before position 0
    return Start(memory=dict(moment.memory), tail=tail, position=moment.position, take=moment.take)


def _remembered(spec: Spec, rate: int) -> int:
    """How many codes bring a model's state back."""
    return spec.receptive_field if isinstance(spec, WaveNetSpec) else round(_REMEMBERED_SECONDS * rate)
