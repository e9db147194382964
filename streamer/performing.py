"""The commands `play` and `render`: from their options to a performance, or to a file."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer import __version__, audio, score
from streamer.audio import Device
from streamer.capture import Capture
from streamer.console import ended_by_ctrl_c, progress_bar, say, say_if_compiling
from streamer.controls import CONTROLS, PREFIX, Value
from streamer.cues import Cue
from streamer.engine import Engine, LiveInput, Models
from streamer.library import Library, open_model
from streamer.models.checkpoint import Checkpoint
from streamer.models.errors import DeviceError, StreamerError
from streamer.osc import OscServer
from streamer.osc_instrument import Midi as OscMidi
from streamer.play import SWITCH_SECONDS, Performance, Tell, stopped_by_signals
from streamer.precision import hint
from streamer.render import LONGEST_SECONDS, format_of, render, render_score
from streamer.replay import Replay
from streamer.threads import cores
from streamer.view import SPECTRUM_SECONDS
from streamer.warming import compile_together

RENDERED_SECONDS = 20.0
"""Length of a file unless another is asked for; also of what is rendered where there is no sound device."""


def play(options: argparse.Namespace, models: Models | None = None) -> int:
    """Play on a sound device; without one, into a file.

    models: those that can be switched to; by default all that have a name.
    """
    name, checkpoint = open_model(options.model)
    try:
        device = audio.find_device(options.device)
    except DeviceError as error:
        if options.device is not None:
            raise
        say(f"{error}; --list-devices shows what there is, --device chooses.")
        options.out, options.seconds, options.score = Path(f"streamer-{name}.wav"), None, None
        options.stems = False
        say(f"Writing {RENDERED_SECONDS:g} s to {options.out} instead.")
        return render_model(options)
    return _play_on(device, name, checkpoint, models, options)


def _play_on(
    device: Device, name: str, checkpoint: Checkpoint, models: Models | None, options: argparse.Namespace
) -> int:
    sys.setswitchinterval(SWITCH_SECONDS)
    format = audio.settle(device, options.rate)
    with ExitStack() as stack:
        capture = _capture(options, stack)
        engine = _engine(name, checkpoint, models, options, format.rate, format.channels, capture)
        shown = _shown(engine, options)
        if options.score is not None:
            engine.record(_new_score(options.score, engine, shown.say))
        midi = _midi(engine, options, stack)
        server = stack.enter_context(OscServer(engine, options.osc_port, options.osc_host, midi, shown.say))
        stopped = stack.enter_context(stopped_by_signals())
        engine.listen(shown)
        performance = Performance(engine, device, options.block, capture, shown.say)
        say(f"Playing {_described(engine)} on {device}, {format.rate} Hz, {format.channels} channels.")
        _say_hint(engine, say)
        say(f"OSC at {options.osc_host}:{server.port}, for example {CONTROLS[0].address} 0.9. Ctrl-C ends.")
        _describe_to_others(engine, server, options, stack)
        try:
            performance.start()
            _add_voices(engine, name, options)
            with shown.showing(stopped.set):
                performance.run(stopped, shown.show)
        finally:
            ended = performance.stop()
    shown.end()
    if not ended:
        audio.leave(0)
    return 0


def render_model(options: argparse.Namespace) -> int:
    """Write what a model plays, or what a score says, into a file."""
    format_of(options.out)
    if options.score is not None:
        return _render_performance(options)
    if options.stems:
        raise StreamerError("only of a score are there stems: name one with --score")
    seconds = options.seconds or RENDERED_SECONDS
    if seconds > LONGEST_SECONDS:
        raise StreamerError(f"{seconds:g} seconds is too long: at most {LONGEST_SECONDS}")
    engine = _engine(*open_model(options.model), None, options, rate=None, channels=1, live=None)
    with progress_bar(str(options.out), seconds) as progress:
        render(engine, options.out, seconds, progress)
    factor = engine.voice(1).realtime_factor
    described = _described(engine)
    engine.close()
    _say_hint(engine, say)
    say(f"{options.out}: {seconds:g} s of {described}, written at {factor:.1f} times real time.")
    return 0


def _render_performance(options: argparse.Namespace) -> int:
    """Write a score's performance, mixed or as one file for each of its voices."""
    if options.seconds is not None:
        raise StreamerError("a score is rendered whole: leave out --seconds")
    read, models = score.read(options.score), Library(dict([open_model(options.model)]))
    begun = {event.strip for event in read.events if isinstance(event, score.VoiceBegins)}
    for strip in sorted(begun) if options.stems else [None]:
        out = options.out
        if strip is not None:
            out = out.with_name(f"{out.stem}-voice{strip}{out.suffix}")
        with ended_by_ctrl_c():
            replay = Replay(read, models, strip)
        with progress_bar(str(out), replay.frames / replay.mixer.rate) as progress:
            render_score(replay, out, progress)
        say(f"{out}: {replay.frames / replay.mixer.rate:.1f} s of {options.score}.")
    return 0


# --- what a performance is made of --------------------------------------------------------------------------


def _engine(
    name: str,
    checkpoint: Checkpoint,
    models: Models | None,
    options: argparse.Namespace,
    rate: int | None,
    channels: int,
    live: LiveInput | None,
) -> Engine:
    """An engine for a model and the controls that the options name, compiled and ready to start."""
    compiling = say_if_compiling(checkpoint.spec.architecture)
    asked = {row.name: getattr(options, row.name, None) for row in CONTROLS if row.type in ("float", "int")}
    values: dict[str, Value] = {key: value for key, value in asked.items() if value is not None}
    with ended_by_ctrl_c():
        if compiling and cores() > 1:
            compile_together(checkpoint.spec.architecture)
        return Engine(
            name,
            checkpoint,
            models or Library({name: checkpoint}),
            rate=rate,
            channels=channels,
            values=values,
            precision=options.precision,
            threads=options.threads,
            live_input=live,
        )


def _capture(options: argparse.Namespace, stack: ExitStack) -> Capture | None:
    if options.input is None:
        return None
    capture = Capture(options.input or None)
    stack.callback(capture.close)
    return capture


def _midi(engine: Engine, options: argparse.Namespace, stack: ExitStack) -> OscMidi | None:
    if options.midi is None:
        return None
    from streamer.midi import Midi

    return stack.enter_context(Midi(engine, ports=options.midi))


def _describe_to_others(
    engine: Engine, server: OscServer, options: argparse.Namespace, stack: ExitStack
) -> None:
    """Answer OSCQuery where that is asked for."""
    if options.oscquery_port is None:
        return
    from streamer.oscquery import OscQueryServer

    query = OscQueryServer(engine, server.port, options.oscquery_port, options.osc_host)
    stack.enter_context(query)
    say(f"OSCQuery at http://{options.osc_host}:{query.port}{PREFIX[:-1]}")


def _new_score(path: Path, engine: Engine, tell: Tell) -> score.ScoreWriter:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    header = score.Header(engine.mixer.rate, engine.mixer.channels, started, __version__)
    return score.ScoreWriter(path, header, tell)


def _add_voices(engine: Engine, model: str, options: argparse.Namespace) -> None:
    """Bring in the voices beside the first; in stereo, spread from left to right."""
    numbers = [1, *(engine.add_voice(model) for _ in range(options.voices - 1))]
    if len(numbers) > 1:
        places = np.linspace(-1, 1, len(numbers))
        engine.perform([Cue(number, "pan", float(pan)) for number, pan in zip(numbers, places, strict=True)])


def _described(engine: Engine) -> str:
    voice = engine.voice(1)
    header = voice.checkpoint
    million = header.spec.parameters / 1e6
    licence = header.provenance.licence or "no licence given"
    kind = f"{header.spec.architecture}, {million:.1f} M weights, {header.sample_rate} Hz, {licence}"
    stepping = f"{voice.precision}, {voice.threads} {'thread' if voice.threads == 1 else 'threads'}"
    return f"{voice.name} ({kind}; {stepping})"


def _say_hint(engine: Engine, tell: Tell) -> None:
    """Say how to have a precision chosen, where none could be."""
    line = hint(engine.precision, engine.voice(1).checkpoint)
    if line:
        tell(line)


# --- what is shown ------------------------------------------------------------------------------------------


def _shown(engine: Engine, options: argparse.Namespace) -> StatusLines | Screen:
    """The view on a terminal; else, or where quiet is asked for, lines."""
    if sys.stdout.isatty() and _reads_keys() and not options.quiet:
        return Screen(engine)
    return StatusLines(engine, options.quiet)


def _reads_keys() -> bool:
    """Whether keys come here: those of a job in the background are another's."""
    if not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal that controls no jobs
        return True


class StatusLines:
    """The performance's state in a log, a line every few seconds; where it is quiet, only what matters."""

    _EVERY = 20

    def __init__(self, engine: Engine, quiet: bool) -> None:
        self._engine, self._quiet = engine, quiet
        self._shown = 0

    @contextmanager
    def showing(self, quit: Callable[[], None]) -> Iterator[None]:
        """While the performance goes on."""
        yield

    def show(self) -> None:
        """Say now and then how full the buffer is, and how the rest does."""
        if self._shown % self._EVERY == 0 and not self._quiet:
            say(_status_words(self._engine))
        self._shown += 1

    def changed(self, voice: int, control: str, value: Value) -> None:
        """Say what plays once another model does."""
        if control == "model" and not self._quiet:
            say(f"Voice {voice} plays {value}.")

    def voices_changed(self) -> None:
        """Say nothing: whoever asked for it is told."""

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        """Say nothing: whoever asked for it is told."""

    def say(self, line: str) -> None:
        """Say something that a performer should know."""
        say(line)

    def end(self) -> None:
        """Leave the last status standing."""
        say(_status_words(self._engine))


class Screen(StatusLines):
    """The terminal view."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, quiet=True)
        self._note: Tell = say

    @contextmanager
    def showing(self, quit: Callable[[], None]) -> Iterator[None]:
        """Draw while the performance goes on, and listen to keys."""
        from rich.console import Console

        from streamer.keys import Keys
        from streamer.view import View

        heard = partial(_heard_last, self._engine)
        for refusal in (
            signal.SIGTTIN,
            signal.SIGTTOU,
        ):  # a terminal that is another's meanwhile stops nothing
            signal.signal(refusal, signal.SIG_IGN)
        with View(self._engine, Console(), heard, quit) as view, Keys(sys.stdin.fileno(), view.press):
            self._note = view.note
            try:
                yield
            finally:
                self._note = say

    def say(self, line: str) -> None:
        """Say something among the last cues, or after them."""
        self._note(line)


def _heard_last(engine: Engine) -> tuple[NDArray[np.float32], int] | None:
    """The end of what the loudest voice has played, for its spectrum, and its rate."""
    sounding = [(engine.mixer.meters(number).rms, number) for number in engine.voices()]
    for _, number in sorted(sounding, reverse=True):
        try:
            tape = engine.voice(number).tape
            count = round(SPECTRUM_SECONDS * tape.rate)
            return tape.read(max(tape.oldest, tape.play_head - count), count), tape.rate
        except StreamerError:  # it is not there yet, or has just begun
            continue
    return None


def _status_words(engine: Engine) -> str:
    status = engine.status()
    return (
        f"buffer {status['buffer_ms']:.0f} ms | margin {status['margin_ms']:.1f} ms | "
        f"{status['realtime_factor']:.1f}x real time | {status['underruns']} underruns | "
        f"{status['device_rate']} Hz, measured {status['device_rate_measured']:.1f}"
    )
