"""`streamer report`: a run in one HTML file that needs nothing else: curves, sounds, faults, the card.

It is made from the run folder alone: the log, the moments (`streamer.moments`), and a minute that the best
model plays, watched over beside a minute of the corpus.
"""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import soundfile as sf

from streamer import moments, pictures
from streamer.frames import Samples
from streamer.models import checkpoint
from streamer.models.checkpoint import Header
from streamer.models.container import write_atomically
from streamer.models.errors import StreamerError
from streamer.runs import BEST, log_of, recipe_of
from streamer.watch import Findings, Watch, faults, listen

NAME = "report.html"
SECONDS = 60.0
"""That the best model plays."""
PATIENCE = 60.0
"""Seconds of work, after which less is enough."""
SHOWN = 6
"""Moments."""


def write(run: Path) -> Path:
    """Write a run's report and return where; raise `StreamerError` where there is nothing to report."""
    pictures.need_matplotlib()
    model, log, plan = checkpoint.read_header(run / BEST), log_of(run), recipe_of(run)["plan"]
    learned = _watch(_read_sound(run / moments.FOLDER / moments.CORPUS), model.sample_rate, model.spec.cycle)
    sound, rate = moments.play(run / BEST, SECONDS, PATIENCE)
    played = _watch(sound, rate, model.spec.cycle)
    body = [
        f"<h1>{html.escape(model.provenance.title or run.name)}</h1>",
        f"<p>Play it: {_command('play', run / BEST)}</p>",
        f"<p>Hear how it came about: {_command('audition', run)}</p>",
        "<h2>Is anything wrong?</h2>",
        _verdict(played.findings(), learned.findings()),
        "<h2>How it learned</h2>",
        _curves(log, plan, model),
        "<h2>The best model beside the corpus</h2>",
        _comparison(played.findings(), learned.findings()),
        _image(pictures.against_corpus(learned, played, rate)),
        "<h2>Listen</h2>",
        _sounds(run, learned, played, rate),
        "<h2>The card</h2>",
        _table(_card(model, log)),
    ]
    page = _PAGE.format(title=html.escape(run.name), body="\n".join(body))
    return _written(run / NAME, page)


def _written(path: Path, page: str) -> Path:
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise StreamerError(f"{path}: cannot be written ({error.strerror}); make room") from None
    return path


def _read_sound(path: Path) -> Samples:
    try:
        samples: Samples = sf.read(path, dtype="float32")[0]
        return samples
    except (OSError, sf.SoundFileError) as error:
        raise StreamerError(f"{path}: cannot be read ({error}); go on training, which writes it") from None


def _watch(samples: Samples, rate: int, cycle: float | None) -> Watch:
    return listen(rate, np.array_split(samples, max(1, len(samples) // rate)), cycle=cycle)


# --- parts of the page --------------------------------------------------------------------------------------


def _command(name: str, path: Path) -> str:
    return f"<code>streamer {name} {html.escape(shlex.quote(str(path)))}</code>"


def _verdict(played: Findings, learned: Findings) -> str:
    wrong = faults(played, learned)
    said = f"in the first {played.seconds:.0f} s that it plays from silence"
    if not wrong:
        return f"<p class=good>No silence, clipping, DC, white noise or loop {said}.</p>"
    return _list(f"{line} ({said})" for line in wrong)


def _list(lines: Iterable[str]) -> str:
    return "<ul class=bad>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _curves(log: list[dict[str, float]], plan: Mapping[str, int], model: Header) -> str:
    about = model.provenance
    baselines = {"linear prediction": about.lpc32_bits, "frequencies": about.unigram_bits}
    known = {name: bits for name, bits in baselines.items() if bits is not None}
    return _image(pictures.curves(log, known, plan["batch"] * plan["length"]))


def _comparison(played: Findings, learned: Findings) -> str:
    kept = {
        "level, dBFS": "{0.level_dbfs:.1f}",
        "spread of the level, dB": "{0.level_spread_db:.1f}",
        "silent share": "{0.silent_share:.2f}",
        "spectral centroid, Hz": "{0.centroid_hz:.0f}",
        "spectral flatness": "{0.flatness:.4f}",
        "pitchedness": "{0.pitchedness:.2f}",
    }
    rows = {name: (form.format(learned.sound), form.format(played.sound)) for name, form in kept.items()}
    if learned.in_time is not None and played.in_time is not None:
        rows["in time with the clock"] = (f"{learned.in_time:.2f}", f"{played.in_time:.2f}")
    return _table({"": ("corpus", "model"), **rows})


def _sounds(run: Path, learned: Watch, played: Watch, rate: int) -> str:
    """The corpus, some moments and the best model, each with its spectrogram."""
    kept = [moment for moment in moments.moments_of(run) if moment.picture.exists()]
    if len(kept) > SHOWN:
        kept = [kept[place] for place in np.linspace(0, len(kept) - 1, SHOWN).round().astype(int)]
    best = pictures.spectrograms({"corpus": learned.clip, "best": played.clip}, rate)
    parts = [
        _sound("The corpus", moments.as_flac(learned.clip, rate), None),
        *(
            _sound(f"Step {moment.step}", moment.sound.read_bytes(), moment.picture.read_bytes())
            for moment in kept
        ),
        _sound("The best model", moments.as_flac(played.clip, rate), best),
    ]
    return "\n".join(parts)


def _sound(title: str, flac: bytes, picture: bytes | None) -> str:
    player = f'<audio controls preload="none" src="{_inline("audio/flac", flac)}"></audio>'
    shown = "" if picture is None else _image(picture)
    return f"<h3>{html.escape(title)}</h3>{player}{shown}"


def _card(model: Header, log: list[dict[str, float]]) -> dict[str, tuple[str, ...]]:
    about, spec = model.provenance, model.spec
    bits = {
        "bits a sample, held out": about.bits_per_sample,
        "linear prediction needs": about.lpc32_bits,
        "frequencies alone need": about.unigram_bits,
    }
    return {
        "title": (about.title,),
        "learned from": (about.corpus,),
        "licence": (about.licence,),
        "to thank": (about.attribution,),
        "made by": (about.origin,),
        "model": (f"{spec.architecture}, {spec.parameters / 1e6:.2f} M weights, {model.sample_rate} Hz",),
        "steps": (f"{about.steps} at its best, {log[-1]['step']} in all, {log[-1]['seconds'] / 60:.0f} min",),
        **{name: (f"{value:.4f}",) for name, value in bits.items() if value is not None},
        "temperature": (f"{about.temperature:g}",),
        "hash": (model.hash,),
    }


def _table(rows: Mapping[str, tuple[str, ...]]) -> str:
    lines = []
    for name, cells in rows.items():
        shown = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th>{html.escape(name)}</th>{shown}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _image(picture: bytes) -> str:
    return f'<img alt="" src="{_inline("image/png", picture)}">'


def _inline(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100%; display: block; margin: 0.5rem 0 }}
audio {{ width: 100% }}
th {{ text-align: left; font-weight: normal; color: #555; padding-right: 2rem; vertical-align: top }}
td {{ padding-right: 2rem; overflow-wrap: anywhere }}
code {{ background: #eee; padding: 0.1rem 0.3rem }}
.good {{ color: #2a7d2e }}
.bad {{ color: #b3261e }}
</style>
<body>
{body}
</body>
</html>
"""
