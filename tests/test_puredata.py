"""The Pure Data abstractions in a real `pd -nogui`: what they send, and what they make of what comes back."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from osc_rig import Memory
from programs import Program, find_program

from streamer.controls import CONTROLS, DEFAULT_PORT, Control, Value
from streamer.cues import Cue
from streamer.osc import OscServer

ROOT = Path(__file__).resolve().parents[1]
PATCHES = ROOT / "patches" / "puredata"
FLAGS = ["-nogui", "-noaudio", "-nomidi", "-noprefs", "-stderr"]
COMPLAINT = re.compile(r"error|couldn't|no such|failed|deprecated", re.IGNORECASE)

Pd = Callable[..., Program]


@pytest.fixture
def instrument() -> Memory:
    return Memory()


@pytest.fixture
def server(instrument: Memory) -> Iterator[OscServer]:
    with OscServer(instrument, port=0) as running:
        yield running


@pytest.fixture
def pd(tmp_path: Path) -> Pd:
    """Runs a patch with [streamer PORT], printed as `heard`, and panels, printed as `each`.

    What goes to `to-each` goes into all panels. Pd sends `sends` at once, and `later` when it hears of a
    reset of voice 1.
    """
    program = find_program("pd", "puredata-core")

    def run(port: int, *panels: str, sends: Sequence[str] = (), later: Sequence[str] = ()) -> Program:
        on_reset = ["r streamer-heard", "route voice", "route 1", "route reset", "bang"]
        objects = [f"streamer {port}", "print heard", *on_reset, "print each", "r to-each", *panels]
        lines = [f"#X obj 10 {30 * at} {words};" for at, words in enumerate(objects)]
        lines.append("#X msg 300 10 " + "".join(f"\\; {send} " for send in later) + ";")
        cords = [(0, 1), (2, 3), (3, 4), (4, 5), (5, 6), (6, len(objects))]
        for panel in range(9, len(objects)):
            cords.append((panel, 7))
            if "meter" not in objects[panel]:
                cords.append((8, panel))
        lines += [f"#X connect {source} 0 {target} 0;" for source, target in cords]
        patch = tmp_path / "driver.pd"
        patch.write_text("\n".join(["#N canvas 0 0 400 400 12;", *lines]) + "\n")
        words = [word for send in sends for word in ("-send", send)]
        return Program([program, *FLAGS, "-path", str(PATCHES), "-open", str(patch), *words], tmp_path)

    return run


def complaints(said: str) -> list[str]:
    return [
        line for line in said.splitlines() if COMPLAINT.search(line) and not line.startswith("heard: error")
    ]


def some_value(control: Control) -> Value:
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


def moved(control: Control, name: str) -> str:
    """What is sent to a widget."""
    if control.type == "trigger":
        return f"{name} bang"
    value = some_value(control)
    return f"{name} symbol {value}" if isinstance(value, str) else f"{name} {float(value):g}"


def cues_of(instrument: Memory) -> list[Cue]:
    return [cue for cues, _ in instrument.performed for cue in cues]


def test_what_is_committed_is_what_the_table_gives() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "patches" / "puredata.py"))["files"]()
    assert set(made) == {"puredata/streamer-voice.pd", "puredata/streamer-master.pd"}
    for path, content in made.items():
        assert (ROOT / "patches" / path).read_text(encoding="utf-8") == content, "run scripts/make-patches"


def test_every_widget_sends_its_control(server: OscServer, instrument: Memory, pd: Pd) -> None:
    numbers = {"voice": 1, "master": 0}
    names = {"voice": "streamer-voice-1-", "master": "streamer-master-"}
    sends = [moved(control, names[control.scope] + control.name) for control in CONTROLS]
    with pd(server.port, "streamer-voice 1", "streamer-master", sends=sends) as program:
        program.wait_for(lambda: len(cues_of(instrument)) == len(CONTROLS), "all cues")
        said = program.said
    expected = {Cue(numbers[control.scope], control.name, some_value(control)) for control in CONTROLS}
    assert set(cues_of(instrument)) == expected
    assert complaints(said) == []


def test_every_slider_moves_by_its_curve(server: OscServer, instrument: Memory, pd: Pd) -> None:
    sliders = [control for control in CONTROLS if control.curve != "none"]
    names = {"voice": "streamer-voice-1", "master": "streamer-master"}
    sends = [f"{names[control.scope]}-{control.name}-x 0.25" for control in sliders]
    with pd(server.port, "streamer-voice 1", "streamer-master", sends=sends) as program:
        program.wait_for(lambda: len(cues_of(instrument)) == len(sliders), "all cues")
        said = program.said
    for cue in cues_of(instrument):
        (control,) = (each for each in sliders if each.name == cue.control)
        assert control.minimum is not None
        assert control.maximum is not None
        travel = 0.25**3 if control.curve == "cubic" else 0.25
        value = control.minimum + (control.maximum - control.minimum) * travel
        assert cue.value == (round(value) if control.type == "int" else pytest.approx(value))
    assert complaints(said) == []


def test_widgets_follow_what_is_heard(server: OscServer, instrument: Memory, pd: Pd) -> None:
    """Each says where it is when it is banged; a switch turns then."""
    before: dict[str, Value] = {"gain": 0.25, "loop": 7.5, "top_k": 5, "freeze": True, "model": "choir"}
    instrument.values[1].update(before)
    instrument.values[0]["margin"] = 125.0
    widgets = ["gain", "loop-x", "top_k", "freeze", "model"]
    later = [f"streamer-voice-1-{widget} bang" for widget in widgets] + ["streamer-master-margin-x bang"]
    with pd(server.port, "streamer-voice 1", "streamer-master", later=later) as program:
        program.wait_said("each: meters")
        assert instrument.performed == []
        instrument.change(1, "reset", True)
        program.wait_for(lambda: len(cues_of(instrument)) == len(later), "all cues")
        assert complaints(program.said) == []
    taken = {cue.control: cue.value for cue in cues_of(instrument)}
    loop, margin = taken.pop("loop"), taken.pop("margin")
    assert taken == {"gain": 0.25, "top_k": 5, "freeze": False, "model": "choir"}
    assert (loop, margin) == pytest.approx((7.5, 125.0), rel=1e-3)


def test_messages_become_addresses(server: OscServer, instrument: Memory, pd: Pd) -> None:
    sends = [
        "streamer-send temperature 0.5",
        "streamer-send voice 1 gain/ramp 1.5 3",
        "streamer-send voice first pan 0.5",
        "streamer-send voice 1 set top_p 0.5 top_k 40",
        "streamer-send voice 1 pan/env -1 2 0.5 4 0",
        "to-each speed 0.5",
        "streamer-send voice/add choir left",
        "streamer-send models",
        "streamer-send status 1",
        "streamer-send temperatur 1",
    ]
    with pd(server.port, "streamer-voice 1", sends=sends) as program:
        said = program.wait_said("heard: error /streamer/temperatur")
        instrument.finish()
        program.wait_said("heard: voice 2 gain 1\n")
    assert cues_of(instrument) == [
        Cue(1, "temperature", 0.5),
        Cue(1, "gain", 1.5, "ramp", 3.0),
        Cue(1, "pan", 0.5),
        Cue(1, "top_p", 0.5),
        Cue(1, "top_k", 40),
        Cue(1, "pan", -1.0),
        Cue(1, "pan", 0.5, "ramp", 2.0),
        Cue(1, "pan", 0.0, "ramp", 4.0, after=2.0),
        Cue(1, "speed", 0.5),
    ]
    for line in (
        "connected 1",
        "models.reply choir",
        "voice added 2 left",
        "voices.reply 1 first 2 left",
        "voice 1 gain ramp 1.5 3",
        "voice 1 temperature 0.5",
    ):
        assert f"heard: {line}\n" in said
    assert "each: temperature 0.5\n" in said
    assert "heard: voice 1 status.reply number 1 name first" in said
    assert complaints(said) == []


def test_meters_are_of_the_whole_or_of_a_voice(server: OscServer, instrument: Memory, pd: Pd) -> None:
    instrument.add_voice("choir")
    with pd(server.port, "streamer-meter", "streamer-meter 2") as program:
        program.wait_said("each: 0.5 0.25 120.5 3.5 3\n")
        said = program.wait_said("each: 0.25 0.25 120.5 3.5 3\n")
    assert "each: 0.125" not in said
    assert complaints(said) == []


def test_it_connects_when_streamer_is_started_and_started_anew(pd: Pd) -> None:
    with OscServer(Memory(), port=0) as earlier:
        port = earlier.port
    with pd(port) as program:
        for control in ("gain", "temperature"):
            instrument = Memory()
            instrument.values[1][control] = 0.125
            with OscServer(instrument, port=port):
                program.wait_said(f"heard: voice 1 {control} 0.125\n")
        program.wait_said("heard: connected 0\n")
        assert complaints(program.said) == []


def test_it_goes_to_another_port(server: OscServer, pd: Pd) -> None:
    instrument = Memory()
    instrument.values[1]["gain"] = 0.125
    with (
        OscServer(instrument, port=0) as other,
        pd(server.port, sends=[f"streamer-send connect 127.0.0.1 {other.port}"]) as program,
    ):
        assert complaints(program.wait_said("heard: voice 1 gain 0.125\n")) == []


def test_the_help_patch_opens_without_a_complaint(tmp_path: Path) -> None:
    program = find_program("pd", "puredata-core")
    with Program(
        [program, *FLAGS, "-send", "pd quit", str(PATCHES / "streamer-help.pd")], tmp_path
    ) as opened:
        opened.wait_for(lambda: opened.process.poll() is not None, "its end")
        assert opened.process.returncode == 0
        assert complaints(opened.said) == []


def test_the_default_port_is_streamers() -> None:
    assert f" {DEFAULT_PORT};" in (PATCHES / "streamer.pd").read_text(encoding="utf-8")
