"""Moments of a run: every few minutes the model as it is, what it plays, and a picture of that.

They lie in the run's folder ``moments``, `KEPT` of them at most, spread over the whole run:

| file | holds |
|---|---|
| ``step-0001200.safetensors`` | the model; `streamer audition` plays them all |
| ``step-0001200.flac`` | ten seconds that it plays, from silence, seed 0, its own temperature |
| ``step-0001200.png`` | their spectrogram below the corpus's |
| ``corpus.flac`` | a minute of what it learns from, as the model's codes have it |
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from streamer import pictures, solo
from streamer.frames import Samples
from streamer.models import checkpoint
from streamer.models.container import SUFFIX, write_atomically
from streamer.models.corpus import Corpus
from streamer.models.errors import StreamerError
from streamer.models.training.events import Evaluated, Event, Started

MINUTES = 5.0
"""Of training between two moments, unless asked otherwise."""
KEPT = 12
"""Moments of a run."""
SECONDS = 10.0
"""That are played in each."""
CORPUS_SECONDS = 60.0
PATIENCE = 0.03
"""Of the time between two moments that playing may take: of what is too slow, less is played."""
FOLDER, CORPUS = "moments", "corpus.flac"

_NAME = re.compile(r"step-(\d{7,})")


@dataclass(frozen=True)
class Moment:
    """A model and what it played; the sound and the picture may be missing where a disk was full."""

    step: int
    model: Path

    @property
    def sound(self) -> Path:
        """FLAC."""
        return self.model.with_suffix(".flac")

    @property
    def picture(self) -> Path:
        """PNG."""
        return self.model.with_suffix(".png")


def moments_of(run: Path) -> list[Moment]:
    """The moments of a run folder, by their steps."""
    paths = (run / FOLDER).glob(f"*{SUFFIX}")
    named = ((_NAME.fullmatch(path.stem), path) for path in paths)
    found = (Moment(int(name[1]), path) for name, path in named if name)
    return sorted(found, key=lambda moment: moment.step)


class Moments:
    """An observer of a run that keeps moments of it.

    Args:
        minutes: of training between two of them.
        tell: takes a line about one that could not be kept, which never stops the run.
    """

    def __init__(self, minutes: float, tell: Callable[[str], None]) -> None:
        pictures.need_matplotlib()
        self._seconds, self._tell = 60 * minutes, tell
        self._last = -np.inf
        self._corpus = np.zeros(0, np.float32)

    def __call__(self, event: Event) -> None:
        """Keep a moment where one is due."""
        try:
            if isinstance(event, Started):
                self._begin(event.run_folder, event.corpus)
            elif isinstance(event, Evaluated) and event.seconds >= self._last + self._seconds:
                self._last = event.seconds
                self._keep(event)
        except (OSError, StreamerError) as error:
            self._tell(f"no sample of this moment: {error}")

    def _begin(self, run: Path, corpus: Corpus) -> None:
        self._corpus = _middle_of(corpus)
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        write_sound(run / FOLDER / CORPUS, self._corpus, corpus.sample_rate)

    def _keep(self, event: Evaluated) -> None:
        folder = event.checkpoint.parent / FOLDER
        moment = Moment(event.step, folder / f"step-{event.step:07}{SUFFIX}")
        write_atomically(moment.model, event.checkpoint.read_bytes())
        for spare in _spare(moments_of(folder.parent)):
            for path in (spare.sound, spare.picture, spare.model):
                path.unlink(missing_ok=True)
        sound, rate = play(moment.model, SECONDS, PATIENCE * self._seconds)
        write_sound(moment.sound, sound, rate)
        title = f"step {event.step}, {event.bits:.3f} bits a sample"
        clips = {"corpus": self._corpus[: round(SECONDS * rate)], title: sound}
        write_atomically(moment.picture, pictures.spectrograms(clips, rate))


def play(path: Path, seconds: float, patience: float) -> tuple[Samples, int]:
    """What a model file plays from silence at its own temperature, and its rate (Hz).

    patience: seconds of work, about, after which less is enough.
    """
    model, heard = checkpoint.load(path), []
    voice = solo.new_soloist(path.stem, model, model.provenance.temperature)
    deadline = time.monotonic() + patience
    for block in solo.blocks(voice, seconds):
        heard.append(block)
        if time.monotonic() > deadline:
            break
    return np.concatenate(heard), model.sample_rate


def write_sound(path: Path, samples: Samples, rate: int) -> None:
    """Write samples (T,) as FLAC, whole or not at all; raise `OSError` where that fails."""
    write_atomically(path, as_flac(samples, rate))


def as_flac(samples: Samples, rate: int) -> bytes:
    """Samples (T,) as a FLAC file of 16 bits, clipped to full scale."""
    out = io.BytesIO()
    sf.write(out, np.clip(samples, -1, 1), rate, "PCM_16", format="FLAC")
    return out.getvalue()


def _middle_of(corpus: Corpus) -> Samples:
    """Of what is learned from, a minute in its middle."""
    codes, wanted = corpus.training.codes, round(CORPUS_SECONDS * corpus.sample_rate)
    first = max(0, (len(codes) - wanted) // 2)
    return corpus.quantiser.decode(codes[first : first + wanted]).astype(np.float32)


def _spare(moments: list[Moment]) -> list[Moment]:
    """Of too many moments, those whose neighbours are nearest to each other: never the first or the last."""
    kept, spare = list(moments), []
    while len(kept) > KEPT:
        gaps = [after.step - before.step for before, after in zip(kept, kept[2:], strict=False)]
        spare.append(kept.pop(1 + int(np.argmin(gaps))))
    return spare
