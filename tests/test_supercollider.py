"""The SuperCollider Quark, in a real headless sclang: what it sends, what it hears, and its help."""

from __future__ import annotations

import re
import runpy
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from osc_rig import Client, Memory
from programs import Program, find_program

from streamer.controls import CONTROLS, DEFAULT_PORT, Control, Value
from streamer.cues import Cue
from streamer.osc import OscServer

ROOT = Path(__file__).resolve().parents[1]
QUARK = ROOT / "patches" / "supercollider" / "Streamer"
CLASSES = ("Streamer", "StreamerVoice", "StreamerControlled")
HELP = sorted(QUARK.glob("HelpSource/Classes/*.schelp"))
VOICE = [control for control in CONTROLS if control.scope == "voice"]
MASTER = [control for control in CONTROLS if control.scope == "master"]

Sclang = Callable[[str], Program]


@pytest.fixture
def instrument() -> Memory:
    return Memory()


@pytest.fixture
def server(instrument: Memory) -> Iterator[OscServer]:
    with OscServer(instrument, port=0) as running:
        yield running


@pytest.fixture
def sclang(tmp_path: Path) -> Sclang:
    """Runs a script in an sclang that has the Quark."""
    program = find_program("sclang", "supercollider-language")
    settings = tmp_path / "sclang.yaml"
    settings.write_text(f"includePaths:\n    - {QUARK}\nexcludePaths:\n    []\npostInlineWarnings: true\n")

    def run(script: str) -> Program:
        driver = tmp_path / "driver.scd"
        driver.write_text(f"(\n{script}\n)\n")
        return Program([program, "-l", str(settings), str(driver)], tmp_path)

    return run


def performance(port: int, steps: str) -> str:
    """A script that does something once it is connected; `x` is the Streamer, `v` its first voice."""
    return f"""
    Streamer.attach("127.0.0.1", {port}, {{ |x|
        var v = x.voice(1);
        fork {{
            {steps}
            x.sync;
            "The end.".postln;
        }}
    }});
    """


def assert_no_complaints(said: str) -> None:
    assert [line for line in said.splitlines() if re.search("ERROR|WARNING", line)] == []


def some_value(control: Control) -> Value:
    """A value that floats of 32 bits have, too."""
    match control.type:
        case "string":
            return "choir"
        case "bool" | "trigger":
            return not control.default
        case "int":
            return 7
        case _:
            assert control.maximum is not None
            return control.maximum / 4


def written(value: Value) -> str:
    """A value in SuperCollider."""
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower()


def cues_of(instrument: Memory) -> list[Cue]:
    return [cue for cues, _ in instrument.performed for cue in cues]


def test_what_is_committed_is_what_the_table_gives() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "patches" / "supercollider.py"))["files"]()
    assert len(made) == 3
    for path, content in made.items():
        assert (ROOT / "patches" / path).read_text(encoding="utf-8") == content, "run scripts/make-patches"


def test_every_control_is_a_method(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    expected = [Cue(1, control.name, some_value(control)) for control in VOICE]
    expected += [Cue(0, control.name, some_value(control)) for control in MASTER]
    steps = [
        f"v.{cue.control};" if cue.control == "reset" else f"{who}.{cue.control} = {written(cue.value)};"
        for cue in expected
        for who in ("v" if cue.voice else "x",)
    ]
    gets = [f"v.{control.name}" for control in VOICE if control.type != "trigger"]
    gets += [f"x.{control.name}" for control in MASTER]
    steps += ['"asked".postln; x.sync;', f"[{', '.join(gets)}].postcs;"]
    with sclang(performance(server.port, "\n".join(steps))) as program:
        program.wait_said("asked")
        program.wait_for(lambda: len(instrument.under_way) == 2, "reset and model")
        instrument.finish()
        instrument.finish()
        said = program.wait_said("The end.")
    assert cues_of(instrument) == expected
    assert [at for _, at in instrument.performed] == [None] * len(instrument.performed)
    values = [written(cue.value).replace('"', "'") for cue in expected if cue.control != "reset"]
    assert f"[ {', '.join(values)} ]" in said
    assert_no_complaints(said)


def test_controls_move_and_are_set_together(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    steps = """
        v.ramp(\\gain, 1.5, 3);
        v.env(\\pan, Env([-1, 0.5, 0], [2, 4]));
        v.drift(\\temperature, 0.25, 20);
        v.normalized(\\temperature, 0.25);
        v.set(\\temperature, 0.5, \\top_k, 40);
        x.all.set(\\speed, 0.5);
        x.voice("first").pause;
        x.sync;
        v.resume;
    """
    with sclang(performance(server.port, steps)) as program:
        assert_no_complaints(program.wait_said("The end."))
    assert cues_of(instrument) == [
        Cue(1, "gain", 1.5, "ramp", 3.0),
        Cue(1, "pan", -1.0),
        Cue(1, "pan", 0.5, "ramp", 2.0),
        Cue(1, "pan", 0.0, "ramp", 4.0, after=2.0),
        Cue(1, "temperature", 0.25, "drift", 20.0),
        Cue(1, "temperature", 0.5),
        Cue(1, "temperature", 0.5),
        Cue(1, "top_k", 40),
        Cue(1, "speed", 0.5),
        Cue(1, "play", False),
        Cue(1, "play", True),
    ]
    assert [at for _, at in instrument.performed] == [None] * len(instrument.performed)


def test_a_pattern_sends_one_timetagged_bundle_an_event(
    server: OscServer, instrument: Memory, sclang: Sclang
) -> None:
    steps = """
        x.latency = 0.5;
        Pbind(
            \\type, \\streamer, \\voice, 1, \\dur, 0.125,
            \\temperature, Pseq([0.25, 0.5, 0.75, 1]), \\top_k, 7
        ).play;
        1.wait;
    """
    began = time.time()
    with sclang(performance(server.port, steps)) as program:
        assert_no_complaints(program.wait_said("The end."))
    ended = time.time()
    assert [cues for cues, _ in instrument.performed] == [
        (Cue(1, "temperature", value), Cue(1, "top_k", 7)) for value in (0.25, 0.5, 0.75, 1.0)
    ]
    times = [at for _, at in instrument.performed if at is not None]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([0.125] * 3, abs=0.002)
    assert began + 0.5 < times[0] < ended - 0.5


def test_events_expand_and_bundles_bind(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    instrument.add_voice("choir")
    instrument.finish()
    steps = """
        (type: \\streamer, voice: [1, 2], gain: [0.5, 0.25], freeze: 1).play;
        0.1.wait;
        x.bind { v.pan = -0.5; x.voice(2).pan = 0.5; x.volume = 0.25 };
        (type: \\streamer, voice: 2, model: "rain", latency: 0.0).play;
        0.5.wait;
    """
    with sclang(performance(server.port, steps)) as program:
        program.wait_for(lambda: bool(instrument.under_way), "a model")
        instrument.finish()
        assert_no_complaints(program.wait_said("The end."))
    (event, at), (bound, bound_at), (model, _) = instrument.performed
    assert event == (
        Cue(1, "gain", 0.5),
        Cue(1, "freeze", True),
        Cue(2, "gain", 0.25),
        Cue(2, "freeze", True),
    )
    assert bound == (Cue(1, "pan", -0.5), Cue(2, "pan", 0.5), Cue(0, "volume", 0.25))
    assert model == (Cue(2, "model", "rain"),)
    assert at is not None
    assert bound_at is not None
    assert bound_at - at == pytest.approx(0.1, abs=0.002)


def test_voices_bookmarks_and_models(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    steps = """
        x.models { |names| names.postln };
        x.bookmarks { |names| names.postln };
        x.addVoice("choir", "no good name", { "never".postln });
        x.addVoice("choir", "left", { |voice| ["added", voice, voice.name].postln; voice.gain = 0.5 });
        x.sync;
        "It sounds.".postln;
        x.voices.collect(_.name).postln;
        v.prime("bell.wav", 2); v.prime; v.continueFromHere;
        v.saveBookmark(\\dusk); x.recallBookmark(\\dawn, x.voice(\\left)); x.saveBookmark(\\night);
        x.sync;
        x.voice(2).remove;
        x.clearSched;
        x.panic;
        x.sync;
        x.voices.postln;
    """
    with sclang(performance(server.port, steps)) as program:
        program.wait_said("[ added, StreamerVoice(2), left ]")
        program.wait_for(lambda: instrument.values[2]["gain"] == 0.5, "a gain")
        assert "It sounds." not in program.said
        instrument.finish()
        program.wait_said("It sounds.")
        program.wait_for(lambda: len(instrument.under_way) == 6, "slow work")
        while instrument.under_way:
            instrument.finish()
        said = program.wait_said("The end.")
    for line in ("[ rain, choir ]", "[ dawn ]", "[ first, left ]", "[ StreamerVoice(1) ]"):
        assert f"{line}\n" in said
    assert "never" not in said
    assert re.findall("WARNING.*", said) == [
        re.search("WARNING: streamer: /streamer/voice/add: a voice's name .*", said)[0]  # type: ignore[index]
    ]
    expected = [
        ("prime", 1, "bell.wav", 2.0),
        ("continue", 1),
        ("save", "dusk", 1),
        ("recall", "dawn", 2),
        ("save", "night", 1),
        ("clear",),
        ("panic",),
    ]
    assert [call for call in instrument.calls if call[:3] != ("prime", 1, "input")] == expected


def test_it_hears_meters_the_status_and_every_change(
    server: OscServer, instrument: Memory, sclang: Sclang
) -> None:
    steps = """
        x.onChange = { |who, control, value| [who, control, value].postln };
        x.onMeters = { |who, meters| if(who == v) { meters[\\peak].postln; x.onMeters = nil } };
        x.subscribe(50);
        "Listening.".postln;
        while { v.gain != 0.25 } { 0.02.wait };
        [x.meters[\\buffer_ms], v.meters[\\underruns], x.status[\\device_rate], x.connected].postln;
        x.sendMsg("/streamer/temperatur", 1);
    """
    with sclang(performance(server.port, steps)) as program:
        program.wait_said("Listening.")
        program.wait_said("0.125\n")
        instrument.change(1, "gain", 0.25)
        said = program.wait_said("The end.")
    assert "[ StreamerVoice(1), gain, 0.25 ]" in said
    assert "[ 120.5, 3, 48000, true ]" in said
    assert "WARNING: streamer: /streamer/temperatur: unknown address" in said
    assert "ERROR" not in said


def test_it_connects_when_streamer_is_started_and_started_anew(sclang: Sclang) -> None:
    with OscServer(Memory(), port=0) as earlier:
        port = earlier.port
    script = f"""
        x = Streamer.attach("127.0.0.1", {port}, {{ "Connected.".postln }});
        x.onChange = {{ |who, control, value| if(value == 0.125) {{ control.postln }} }};
        "Waiting.".postln;
    """
    with sclang(script) as program:
        program.wait_said("Waiting.")
        assert "Connected." not in program.said
        for control in ("gain", "temperature"):
            instrument = Memory()
            instrument.values[1][control] = 0.125
            with OscServer(instrument, port=port):
                program.wait_said(f"{control}\n")
        program.wait_said("Connected.")
        assert_no_complaints(program.said)


def test_freeing_it_ends_the_subscription(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    client = Client(server.port)

    def subscribers() -> object:
        client.send("/streamer/status")
        words = client.expect("/streamer/status.reply")
        return words[words.index("osc_listeners") + 1]

    with sclang(performance(server.port, "while { v.gain != 0.25 } { 0.02.wait }; x.free;")) as program:
        program.wait_for(lambda: subscribers() == 1, "a subscription")
        instrument.change(1, "gain", 0.25)
        program.wait_for(lambda: subscribers() == 0, "its end")
    client.close()


def test_command_period_is_silence(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    with sclang(performance(server.port, "CmdPeriod.run;")) as program:
        program.wait_for(lambda: ("panic",) in instrument.calls, "panic")


def test_the_piece_plays(server: OscServer, instrument: Memory, sclang: Sclang) -> None:
    script = f'~port = {server.port}; TempoClock.default.tempo = 30; "{QUARK}/Examples/piece.scd".load;'
    with sclang(script) as program:
        program.wait_for(lambda: bool(instrument.under_way), "a second voice")
        instrument.finish()
        said = program.wait_said("The piece is over.")
    assert_no_complaints(said)
    assert {cue.voice for cue in cues_of(instrument)} == {1, 2}
    assert sum(at is not None for _, at in instrument.performed) > 60
    assert list(instrument.names) == [1]


def test_the_help_is_whole(sclang: Sclang, tmp_path: Path) -> None:
    """SCDoc parses and renders it without a warning, and knows of no method without a description."""
    script = f"""
        SCDoc.indexAllDocuments;
        [{", ".join(f'"{name}"' for name in CLASSES)}].do {{ |name|
            var doc = SCDoc.documents["Classes/" ++ name];
            var node = SCDoc.parseFileFull(doc.fullPath);
            SCDoc.renderer.renderToFile("{tmp_path}" +/+ name ++ ".html", doc, node);
            [name, doc.undoccmethods.asArray, doc.undocimethods.asArray].postln;
        }};
        "The end.".postln;
    """
    with sclang(script) as program:
        said = program.wait_said("The end.")
    for name in CLASSES:
        assert f"[ {name}, [  ], [  ] ]" in said
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "Class Methods" in page or name == "StreamerControlled"
    assert_no_complaints(said)
    assert [path.stem for path in HELP] == sorted(CLASSES)


def test_every_example_compiles(sclang: Sclang, tmp_path: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in HELP]
    examples = [code for text in texts for code in re.findall(r"^code::\n(.*?)^::", text, re.S | re.M)]
    readme = (QUARK / "README.md").read_text(encoding="utf-8")
    examples += re.findall(r"```supercollider\n(.*?)```", readme, re.S)
    assert len(examples) == 7
    folder = tmp_path / "examples"
    folder.mkdir()
    for number, example in enumerate(examples):
        (folder / f"{number}.scd").write_text(example)
    script = f"""
        PathName("{folder}").files.do {{ |file|
            if(thisProcess.interpreter.compile(File.readAllString(file.fullPath)).isNil) {{
                "ERROR in %".format(file.fileName).postln
            }}
        }};
        "The end.".postln;
    """
    with sclang(script) as program:
        assert_no_complaints(program.wait_said("The end."))


def test_the_default_port_is_streamers() -> None:
    assert f"port = {DEFAULT_PORT}" in (QUARK / "Classes" / "Streamer.sc").read_text(encoding="utf-8")
