"""Sound into a file: the engine played without a device, as fast as the machine allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import soundfile as sf

from streamer.engine import Engine
from streamer.models.errors import StreamerError
from streamer.playhead import FADE_SECONDS

FORMATS = {".wav": "WAV", ".flac": "FLAC"}
LONGEST_SECONDS = 24 * 3600
_BLOCK_SECONDS = 0.1


def format_of(path: Path) -> str:
    """The sound format that a file's name asks for; raise `StreamerError` for one that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise StreamerError(f"{path}: cannot write this kind of file; end the name in .wav or .flac")
    if not path.absolute().parent.is_dir():
        raise StreamerError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    return FORMATS[path.suffix.lower()]


def render(engine: Engine, path: Path, seconds: float, progress: Callable[[float], None]) -> None:
    """Write what an engine that has not been started plays, faded in and out.

    24 bits, at the play head's rate. progress is told the seconds written so far. Raises `StreamerError`
    where the file cannot be written.
    """
    head = engine.play_head
    frames, fade = round(seconds * head.rate), round(FADE_SECONDS * head.rate)
    block = round(_BLOCK_SECONDS * head.rate)
    kind = format_of(path)
    try:
        with sf.SoundFile(path, "w", head.rate, head.channels, "PCM_24", format=kind) as file:
            written = 0
            while written < frames:
                engine.voice.fill()
                if written + fade >= frames:
                    head.fade_out()
                # The fade begins on its own frame, so a block never runs across it.
                count = min(block, frames - written if written + fade >= frames else frames - fade - written)
                file.write(head.render(count))
                written += count
                progress(written / head.rate)
    except (OSError, sf.SoundFileError) as error:
        raise StreamerError(f"{path}: cannot be written ({error})") from None
