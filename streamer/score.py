"""The score: a performance as a file, from which it can be rendered again bit for bit.

A score is JSON lines, written while the performance goes on: a `Header`, then what happened, each with where
it took effect, then `End`. What is too big for a line lies beside it (`name.1.safetensors`, ...) and is named
by the line that needs it. One that was cut off, by a crash or a full disk, can be read up to its last whole
line.

    score = ScoreWriter(path, Header(rate=48000, channels=2, started=now, streamer=version), tell)
    score.log(VoiceBegins(...))         at once: a thread of its own writes
    file = score.attach_codes(codes)
    score.close(frame)

    score = read(path)
    for event in score.events: ...
    codes = score.codes(file)

The sum of all cues gives the sound, whatever their order in the file but for those that clear. A cue of an
instance that never began changed nothing that was heard.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamer import bookmarks
from streamer.bookmarks import Moment
from streamer.controls import Value
from streamer.models import container
from streamer.models.container import SUFFIX, blaming, parse_json, require
from streamer.models.errors import StreamerError
from streamer.models.folders import choose, files_in
from streamer.records import Record, from_json

FORMAT_VERSION = 1
STRIPS = 16
MAX_LINE_BYTES = 2**16
MAX_BYTES = 2**31
"""Of a score: twenty hours of a hundred cues a second."""
MAX_CODES_BYTES = 2**28
MAX_WAITING = 2**16
"""Events that may wait for the disk: at a hundred cues a second, ten minutes."""
LONGEST_CLOSE_SECONDS = 5.0

CueKind: TypeAlias = Literal["set", "ramp", "drift", "clear"]
"""The last drops, of all lanes, what the cues before it in the file have change after its place."""


@dataclass(frozen=True)
class Header(Record):
    """The performance as a whole.

    Attributes:
        rate: of the mixer, in Hz.
        channels: of the mixer.
        started: when, as ISO 8601 writes it.
        streamer: version of the program.
        version: of the format.
    """

    rate: int
    channels: int
    started: str
    streamer: str
    version: int = FORMAT_VERSION


@dataclass(frozen=True)
class FromSilence(Record):
    """The generator begins at rest."""


@dataclass(frozen=True)
class FromHeard(Record):
    """It begins primed with the `seconds` that another instance had put on its tape before `position`."""

    instance: int
    position: int
    seconds: float


@dataclass(frozen=True)
class FromInstance(Record):
    """It takes up where another instance of the same model was at `position`."""

    instance: int
    position: int


@dataclass(frozen=True)
class FromCodes(Record):
    """It begins primed with the codes in a file beside the score (`ScoreWriter.attach_codes`)."""

    file: str


@dataclass(frozen=True)
class FromBookmark(Record):
    """It takes up from the moment in a file beside the score (`ScoreWriter.attach_moment`)."""

    file: str


Beginning: TypeAlias = FromSilence | FromHeard | FromInstance | FromCodes | FromBookmark


@dataclass(frozen=True)
class VoiceBegins(Record):
    """An instance of a generator is faded in on a strip, in place of the one before.

    Attributes:
        frame: where the fade begins.
        strip: 1 to 16.
        instance: no other in this score has this number.
        model: name of the model.
        hash: of the model's file.
        precision: that the stepper really had.
        number: the voice's, with `take` the key of its randomness.
        take: which of the voice's generators it is.
        values: the generator's controls at its first sample.
        begins: what it had behind it then.
        fade_frames: how long the crossfade takes.
    """

    frame: int
    strip: int
    instance: int
    model: str
    hash: str
    precision: str
    number: int
    take: int
    values: Mapping[str, Value]
    begins: Beginning
    fade_frames: int

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        _check_strip(self.strip, 1)


@dataclass(frozen=True)
class VoiceEnds(Record):
    """A strip is faded out from `frame` on, and is empty then."""

    frame: int
    strip: int
    fade_frames: int

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        _check_strip(self.strip, 1)


@dataclass(frozen=True)
class VoiceCue(Record):
    """A generator's lane changes at a position (samples) of its tape; length in samples."""

    instance: int
    position: int
    lane: str
    kind: CueKind
    target: float
    length: int


@dataclass(frozen=True)
class MixerCue(Record):
    """A strip's lane changes at a frame, or the master's (strip 0); length in frames."""

    frame: int
    strip: int
    lane: str
    kind: CueKind
    target: float
    length: int

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        _check_strip(self.strip, 0)


@dataclass(frozen=True)
class End(Record):
    """The performance ended before this frame."""

    frame: int


Event: TypeAlias = VoiceBegins | VoiceEnds | VoiceCue | MixerCue


_EVENTS: dict[str, type[Event | Header | End]] = {
    "score": Header,
    "voice_begins": VoiceBegins,
    "voice_ends": VoiceEnds,
    "voice_cue": VoiceCue,
    "mixer_cue": MixerCue,
    "end": End,
}
_BEGINNINGS: dict[str, type[Beginning]] = {
    "silence": FromSilence,
    "heard": FromHeard,
    "continue": FromInstance,
    "codes": FromCodes,
    "bookmark": FromBookmark,
}
_EVENT_NAMES = {kind: name for name, kind in _EVENTS.items()}
_BEGINNING_NAMES = {kind: name for name, kind in _BEGINNINGS.items()}


@dataclass(frozen=True)
class Score:
    """A performance as read.

    Attributes:
        path: of the file.
        header: the performance as a whole.
        events: in the order of the file; one that began nothing and one that ended is not among them.
        end: the frame before which it ended; None where the file was cut off.
    """

    path: Path
    header: Header
    events: tuple[Event, ...]
    end: int | None

    def codes(self, file: str) -> NDArray[np.int64]:
        """The codes that a `FromCodes` names, int64 [codes]; raise `StreamerError` where that cannot be."""
        path = self._beside(file)
        with (
            blaming(path, "read", StreamerError),
            container.open_file(path, "keep it beside the score") as opened,
        ):
            _, places = container.read_header(opened, FORMAT_VERSION, ("I64",), MAX_CODES_BYTES)
            require(
                set(places) == {"codes"}, "it holds no codes: give the file that was written beside the score"
            )
            codes = container.read_tensor(opened, "codes", places["codes"])
            require(codes.ndim == 1 and not (codes < 0).any(), "its codes are damaged: get a new copy")
            return codes

    def moment(self, file: str) -> Moment:
        """The moment that a `FromBookmark` names; raise `StreamerError` where that cannot be."""
        return bookmarks.read(self._beside(file))

    def _beside(self, file: str) -> Path:
        """A file whose name the score gives: none but what lies beside it."""
        found = {path.name: path for path in files_in(self.path.absolute().parent, SUFFIX)}
        return choose(file, found, "file", "there are none, keep it beside the score")


def read(path: Path) -> Score:
    """Read a score and check all of it; raise a `StreamerError` that names the file, line and fault."""
    with blaming(path, "read", StreamerError), container.open_file(path, "give that of a score") as file:
        size = os.fstat(file.fileno()).st_size
        require(size <= MAX_BYTES, f"it has {size} bytes: at most {MAX_BYTES} can be read")
        records = [_read_record(number, line) for number, line in enumerate(_whole_lines(file), 1)]
        if not records or not isinstance(header := records.pop(0), Header):
            raise StreamerError("it does not begin as a score: give another file")
        ends = records.pop() if records and isinstance(records[-1], End) else None
        events = tuple(record for record in records if not isinstance(record, Header | End))
        require(len(events) == len(records), "it begins or ends more than once: it is damaged")
        _check_instances(events)
        return Score(path, header, events, ends.frame if isinstance(ends, End) else None)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """All lines that were written to their end."""
    while line := file.readline(MAX_LINE_BYTES):
        if not line.endswith(b"\n"):
            require(len(line) < MAX_LINE_BYTES, f"it has a line above {MAX_LINE_BYTES} bytes: it is no score")
            return
        yield line


def _line(event: Event | Header | End) -> bytes:
    data: dict[str, Any] = {"event": _EVENT_NAMES[type(event)], **vars(event)}
    if isinstance(event, VoiceBegins):
        data["values"] = dict(event.values)
        data["begins"] = {"kind": _BEGINNING_NAMES[type(event.begins)], **vars(event.begins)}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read_record(number: int, line: bytes) -> Event | Header | End:
    try:
        data = parse_json(line, "it")
        kind = _EVENTS.get(str(data.pop("event", None)))
        require(kind is not None, "it is no event of a score: update streamer, or give another file")
        if kind is Header:
            container.check_version(data.get("version"), FORMAT_VERSION)
        if kind is VoiceBegins:
            return from_json(VoiceBegins, data, begins=_read_beginning(data.pop("begins", None)))
        assert kind is not None
        return from_json(kind, data)
    except StreamerError as error:
        raise StreamerError(f"line {number}: {error}") from None


def _read_beginning(data: object) -> Beginning:
    kind = _BEGINNINGS.get(str(data.pop("kind", None))) if isinstance(data, dict) else None
    if kind is None:
        raise StreamerError(f"begins must be one of {', '.join(_BEGINNINGS)}")
    return from_json(kind, data)


def _check_instances(events: tuple[Event, ...]) -> None:
    begun = [event for event in events if isinstance(event, VoiceBegins)]
    known = {event.instance for event in begun}
    require(len(known) == len(begun), "two of its voices have the same instance number: it is damaged")
    for event in begun:
        source = event.begins
        if isinstance(source, FromHeard | FromInstance):
            require(
                source.instance in known,
                f"instance {event.instance} begins from {source.instance}, which is not there: it is damaged",
            )


class ScoreWriter:
    """Writes a score while the performance goes on, in a thread of its own.

    Where it cannot go on writing, it says so once and stops; nothing of it ever reaches the sound. Its
    methods may be called from any thread.

    Args:
        path: a new file, for no performance is overwritten.
        header: the performance as a whole.
        tell: called with one line, on any thread, when the recording has stopped by itself.

    Raises:
        StreamerError: the file is there already, or cannot be made.
    """

    def __init__(self, path: Path, header: Header, tell: Callable[[str], None]) -> None:
        self._path, self._tell = path, tell
        with blaming(path, "written", StreamerError):
            require(not path.exists(), "it is there already: name another, or move it away")
            self._file = path.open("xb")
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._attached = 0
        self._recording, self._failed = True, False
        self._put(partial(self._write, header))
        self._thread = threading.Thread(target=self._work, name="streamer-score", daemon=True)
        self._thread.start()

    @property
    def recording(self) -> bool:
        """False once it was closed, or has stopped by itself."""
        return self._recording

    def log(self, event: Event) -> None:
        """Record what happened; at once."""
        self._put(partial(self._write, event))

    def attach_codes(self, codes: NDArray[np.int64]) -> str:
        """Keep codes in a file beside the score, and return its name for `FromCodes`; at once."""
        file = self._next_file()
        tensors = {"codes": np.array(codes, np.int64)}
        self._put(partial(container.write, file, {"version": FORMAT_VERSION}, tensors))
        return file.name

    def attach_moment(self, moment: Moment) -> str:
        """Keep a moment in a file beside the score, and return its name for `FromBookmark`; at once."""
        file = self._next_file()
        self._put(partial(bookmarks.write, file, moment))
        return file.name

    def close(self, frame: int) -> None:
        """End the score before this frame, and wait until it is written, though not for ever."""
        self._put(partial(self._write, End(frame)), None)
        self._thread.join(LONGEST_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._stop("the disk hangs")

    def _put(self, *jobs: Callable[[], None] | None) -> None:
        """Let the thread do this; None is the last."""
        with self._lock:  # nothing comes after the end
            if not self._recording:
                return
            self._recording = None not in jobs
            fits = self._jobs.qsize() + len(jobs) <= MAX_WAITING
            for job in jobs if fits else ():
                self._jobs.put_nowait(job)
        if not fits:
            self._stop(f"{MAX_WAITING} events wait for the disk")

    def _work(self) -> None:
        try:
            with self._file:
                while not self._failed and (job := self._jobs.get()) is not None:
                    job()
                os.fsync(self._file.fileno())
        except OSError as error:
            self._stop(error.strerror or str(error))
        except Exception as error:  # whatever it was, the sound goes on, and somebody must hear of it
            self._stop(str(error))

    def _stop(self, why: str) -> None:
        with self._lock:
            first, self._failed, self._recording = not self._failed, True, False
        if first:
            self._tell(f"{self._path}: the recording of the score has stopped, the sound goes on ({why})")

    def _write(self, event: Event | Header | End) -> None:
        """Write one line, so that a crash of ours takes nothing with it."""
        self._file.write(_line(event))
        self._file.flush()

    def _next_file(self) -> Path:
        with self._lock:
            self._attached += 1
            return self._path.with_name(f"{self._path.stem}.{self._attached}{SUFFIX}")


def _check_strip(strip: int, lowest: int) -> None:
    require(lowest <= strip <= STRIPS, f"strip is {strip}: it must be {lowest} to {STRIPS}")
