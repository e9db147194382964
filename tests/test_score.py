"""The score: what is logged is read back exactly, and neither a disk nor a stranger's file does harm."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import score
from streamer.bookmarks import Moment
from streamer.models.errors import StreamerError
from streamer.score import (
    Beginning,
    Event,
    FromBookmark,
    FromCodes,
    FromHeard,
    FromInstance,
    FromSilence,
    Header,
    MixerCue,
    Score,
    ScoreWriter,
    VoiceBegins,
    VoiceCue,
    VoiceEnds,
)

HASH = "0123456789abcdef" * 4
HEADER = Header(48000, 2, "2026-01-01T20:00:00+01:00", "0.1.0")
VALUES = {"temperature": 0.1 + 0.2, "top_k": 3, "freeze": True, "model": "lead"}


def begins(instance: int, beginning: Beginning, **changed: Any) -> VoiceBegins:
    told = {"frame": 7, "strip": 1, "values": VALUES, "number": 1, "take": instance, **changed}
    return VoiceBegins(
        instance=instance,
        model="lead",
        hash=HASH,
        precision="fp32",
        begins=beginning,
        fade_frames=480,
        **told,
    )


EVENTS: list[Event] = [
    begins(1, FromSilence()),
    VoiceCue(1, 100, "temperature", "ramp", 1 / 3, 16000),
    begins(2, FromHeard(1, 5000, 2.5)),
    begins(3, FromInstance(2, 100)),
    MixerCue(2**40, 0, "volume", "set", 5e-324, 0),
    MixerCue(2**40 + 1, 16, "pan", "drift", -1.0, 48000),
    VoiceEnds(2**41, 1, 480),
]


def silent(message: str) -> None:
    raise AssertionError(message)


def write(path: Path, events: list[Event], end: int = 2**42) -> bytes:
    writer = ScoreWriter(path, HEADER, silent)
    for event in events:
        writer.log(event)
    writer.close(end)
    return path.read_bytes()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_logged_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "score", EVENTS)
    assert score.read(tmp_path / "score") == Score(tmp_path / "score", HEADER, tuple(EVENTS), 2**42)


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=256),
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.booleans(), st.integers(0, 2**53), st.floats(0, 2))),
)
def test_every_number_and_name_survives(number: float, name: str, values: dict[str, Any]) -> None:
    cue = VoiceCue(1, 0, name, "set", number, 0)
    for event in (cue, begins(1, FromHeard(1, 0, number), values=values, frame=0)):
        assert score._read_record(2, score._line(event)) == event
    assert math.copysign(1, cue.target) == math.copysign(1, number)


def test_it_can_be_read_while_it_is_written_as_after_a_crash(tmp_path: Path) -> None:
    writer = ScoreWriter(tmp_path / "score", HEADER, silent)
    for event in EVENTS:
        writer.log(event)
    lines = len(EVENTS) + 1
    wait_for(lambda: (tmp_path / "score").read_bytes().count(b"\n") == lines)
    cut_off = score.read(tmp_path / "score")
    assert (cut_off.events, cut_off.end) == (tuple(EVENTS), None)
    writer.close(1)
    assert not writer.recording


def test_one_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "score", EVENTS)
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        lines = whole[:length].count(b"\n")
        assert score.read(tmp_path / "cut").events == tuple(EVENTS[: lines - 1])
    (tmp_path / "cut").write_bytes(whole[: first - 1])
    with pytest.raises(StreamerError, match="does not begin as a score"):
        score.read(tmp_path / "cut")


def test_what_is_logged_after_the_end_is_not_in_the_score(tmp_path: Path) -> None:
    writer = ScoreWriter(tmp_path / "score", HEADER, silent)
    writer.close(5)
    writer.log(EVENTS[0])
    writer.close(6)
    assert score.read(tmp_path / "score") == Score(tmp_path / "score", HEADER, (), 5)


def test_codes_and_moments_lie_beside_it(tmp_path: Path) -> None:
    codes = np.arange(1000) % 256
    moment = Moment(
        "lead", HASH, {"h": np.ones((2, 3), np.float32)}, np.zeros(9, np.float32), 16000, {}, 5, 0, 1
    )
    writer = ScoreWriter(tmp_path / "night.score", HEADER, silent)
    files = writer.attach_codes(codes), writer.attach_moment(moment)
    codes += 1  # what is kept is what it was
    writer.log(begins(1, FromCodes(files[0])))
    writer.log(begins(2, FromBookmark(files[1])))
    writer.close(1)
    assert files == ("night.1.safetensors", "night.2.safetensors")
    kept = score.read(tmp_path / "night.score")
    np.testing.assert_array_equal(kept.codes(files[0]), np.arange(1000) % 256)
    assert kept.moment(files[1]).position == 5
    with pytest.raises(StreamerError, match="no bookmark: it has codes"):
        kept.moment(files[0])


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/passwd", "", "night.9.safetensors", "link.safetensors"]
)
def test_it_leads_to_nothing_elsewhere(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    write(folder / "night.score", [])
    with pytest.raises(StreamerError, match="is unknown"):
        score.read(folder / "night.score").codes(file)


def test_no_performance_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "score").write_text("of yesterday")
    with pytest.raises(StreamerError, match="is there already: name another"):
        ScoreWriter(tmp_path / "score", HEADER, silent)
    with pytest.raises(StreamerError, match="No such file"):
        ScoreWriter(tmp_path / "nowhere" / "score", HEADER, silent)
    assert (tmp_path / "score").read_text() == "of yesterday"


def test_a_full_disk_stops_the_recording_and_says_so_once(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from streamer.score import Header, MixerCue, ScoreWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
writer = ScoreWriter(Path(sys.argv[1]), Header(48000, 2, "", ""), print)
frame = 0
while writer.recording:
    writer.log(MixerCue(frame, 0, "volume", "set", 0.5, 0))
    frame += 1
for frame in range(1000):
    writer.log(MixerCue(frame, 0, "volume", "set", 0.5, 0))
writer.close(frame)
"""
    path = tmp_path / "score"
    command = [sys.executable, "-W", "error", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert len(told) == 1
    assert "the recording of the score has stopped, the sound goes on (File too large)" in told[0]
    kept = score.read(path)
    assert kept.end is None
    frames = [event.frame for event in kept.events if isinstance(event, MixerCue)]
    assert frames == list(range(len(kept.events)))
    assert 10 < len(frames) < 30


def test_a_disk_that_cannot_follow_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    writer = ScoreWriter(tmp_path / "score", HEADER, told.append)
    monkeypatch.setattr(score, "MAX_WAITING", 1)
    writer.close(5)  # which is two things to do
    assert len(told) == 1
    assert "has stopped, the sound goes on (1 events wait for the disk)" in told[0]
    assert not writer.recording


def test_an_attachment_that_fails_stops_it(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "score.1.safetensors").mkdir()
    writer = ScoreWriter(tmp_path / "score", HEADER, told.append)
    writer.attach_codes(np.zeros(3, np.int64))
    wait_for(lambda: not writer.recording)
    writer.close(1)
    assert len(told) == 1
    assert "directory" in told[0]
    assert score.read(tmp_path / "score").end is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "is not sound JSON"),
        ("[]", "not a JSON object"),
        ('{"event":"mixer_cue"}', "it must have frame, kind"),
        ('{"event":"explode"}', "no event of a score"),
        ('{"event":["end"]}', "no event of a score"),
        ('{"event":"end","frame":-1}', "frame is -1: it must be a whole number"),
        ('{"event":"end","frame":true}', "frame is True"),
        ('{"event":"end","frame":1e999}', "not a finite number"),
        ('{"event":"end","frame":1,"frame":2}', "a key appears twice"),
        ('{"event":"end","frame":1}\n{"event":"end","frame":2}', "ends more than once"),
        ('{"event":"voice_ends","frame":1,"strip":17,"fade_frames":0}', "strip is 17: it must be 1 to 16"),
        ('{"event":"voice_ends","frame":1,"strip":0,"fade_frames":0}', "strip is 0: it must be 1 to 16"),
        (
            '{"event":"mixer_cue","frame":1,"strip":0,"lane":"a","kind":"put","target":0,"length":0}',
            "kind is 'put': it must be one of set, ramp, drift",
        ),
        ('{"event":"score","rate":1,"channels":1,"started":"","streamer":"","version":2}', "update streamer"),
        (
            '{"event":"score","rate":1,"channels":1,"started":"","streamer":"","version":1}',
            "begins or ends more",
        ),
        ('{"event":"' + "x" * score.MAX_LINE_BYTES + '"}', "line above"),
    ],
)
def test_a_wrong_line_is_named(line: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "score").write_bytes(
        b"".join([write(tmp_path / "good", []).splitlines(True)[0], line.encode(), b"\n"])
    )
    with pytest.raises(StreamerError, match="score'") as caught:
        score.read(tmp_path / "score")
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(event: VoiceBegins, **fields: Any) -> bytes:
    data = json.loads(score._line(event)) | fields
    return json.dumps(data).encode() + b"\n"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"begins": None}, "begins must be one of silence, heard, continue, codes, bookmark"),
        ({"begins": {"kind": "silence", "more": 1}}, "more"),
        ({"begins": {"kind": {}}}, "begins must be one of"),
        (
            {"begins": {"kind": "heard", "instance": 9, "position": 0, "seconds": 1}},
            "from 9, which is not there",
        ),
        ({"values": {"a": None}}, "values is"),
        ({"values": {"a": [1]}}, "values is"),
        ({"values": {str(n): 1 for n in range(101)}}, "values is"),
        ({"model": "a\nb"}, "model is"),
    ],
)
def test_a_wrong_beginning_is_named(fields: dict[str, Any], what: str, tmp_path: Path) -> None:
    header = write(tmp_path / "good", []).splitlines(True)[0]
    (tmp_path / "score").write_bytes(header + changed(begins(1, FromSilence()), **fields))
    with pytest.raises(StreamerError) as caught:
        score.read(tmp_path / "score")
    assert what in str(caught.value)


def test_an_instance_begins_once(tmp_path: Path) -> None:
    write(tmp_path / "score", [begins(1, FromSilence()), begins(1, FromSilence())])
    with pytest.raises(StreamerError, match="the same instance number"):
        score.read(tmp_path / "score")


@given(st.data())
def test_damage_is_an_error_or_harmless(data: st.DataObject) -> None:
    line = bytearray(score._line(data.draw(st.sampled_from(EVENTS))))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    with suppress(StreamerError):
        score._read_record(1, bytes(line))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_no_event_holds_what_is_not_finite(number: float) -> None:
    with pytest.raises(StreamerError, match="target is"):
        VoiceCue(1, 0, "temperature", "set", number, 0)
    with pytest.raises(StreamerError, match="values is"):
        begins(1, FromSilence(), values={"temperature": number})
