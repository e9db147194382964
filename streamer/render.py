"""Sound into a file: an engine, or a score, played without a device as fast as the machine allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile as sf

from streamer.engine import Engine
from streamer.mixer import FADE_SECONDS
from streamer.models.errors import StreamerError
from streamer.replay import Replay

FORMATS = {".wav": "WAV", ".flac": "FLAC"}
LONGEST_SECONDS = 24 * 3600
_BLOCK_SECONDS = 0.1

Progress = Callable[[float], None]
"""Told the seconds written so far."""


def format_of(path: Path) -> str:
    """The sound format that a file's name asks for; raise `StreamerError` for one that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise StreamerError(f"{path}: cannot write this kind of file; end the name in .wav or .flac")
    if not path.absolute().parent.is_dir():
        raise StreamerError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    return FORMATS[path.suffix.lower()]


def render(engine: Engine, path: Path, seconds: float, progress: Progress) -> None:
    """Write what an engine that has not been started plays, faded in and out.

    24 bits, at the mixer's rate. Raises `StreamerError` where the file cannot be written.
    """
    mixer = engine.mixer
    frames, fade = round(seconds * mixer.rate), round(FADE_SECONDS * mixer.rate)
    block = round(_BLOCK_SECONDS * mixer.rate)
    with _writing(path, mixer.rate, mixer.channels, "PCM_24") as file:
        written = 0
        while written < frames:
            engine.fill()
            if written + fade >= frames:
                mixer.fade_out()
            # The fade begins on its own frame, so a block never runs across it.
            count = min(block, frames - written if written + fade >= frames else frames - fade - written)
            file.write(mixer.render(count))
            written += count
            progress(written / mixer.rate)


def render_score(replay: Replay, path: Path, progress: Progress) -> None:
    """Write a performance as its score has it.

    A WAV file gets the very samples, 32-bit floats; FLAC 24 bits. Raises `StreamerError` where the file
    cannot be written, or the performance cannot be played again.
    """
    mixer = replay.mixer
    exact = "FLOAT" if format_of(path) == "WAV" else "PCM_24"
    with _writing(path, mixer.rate, mixer.channels, exact) as file:
        for block in replay.blocks():
            file.write(block)
            progress(mixer.frame / mixer.rate)


@contextmanager
def _writing(path: Path, rate: int, channels: int, subtype: str) -> Iterator[sf.SoundFile]:
    kind = format_of(path)
    try:
        with sf.SoundFile(path, "w", rate, channels, subtype, format=kind) as file:
            yield file
    except (OSError, sf.SoundFileError) as error:
        raise StreamerError(f"{path}: cannot be written ({error})") from None
