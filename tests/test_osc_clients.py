"""Performers' own programs against the OSC server: SuperCollider's sclang and Pure Data, headless."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from osc_rig import Memory

from streamer.controls import CONTROLS, find
from streamer.osc import COMMANDS, DEFAULT_PORT, REPLIES, OscServer

ROOT = Path(__file__).parent.parent
SUPERCOLLIDER = ROOT / "patches" / "supercollider" / "streamer.scd"
PUREDATA = ROOT / "patches" / "puredata" / "streamer.pd"
GUIDE = ROOT / "docs" / "osc.md"
DEADLINE = 40.0

texts = pytest.mark.parametrize("path", [SUPERCOLLIDER, PUREDATA, GUIDE], ids=lambda path: path.name)


@pytest.fixture
def instrument() -> Memory:
    return Memory()


@pytest.fixture
def server(instrument: Memory) -> Iterator[OscServer]:
    with OscServer(instrument, port=0) as running:
        yield running


def program(name: str, package: str) -> str:
    """Where a program is; without it the test is skipped, but fails in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def transcript(command: list[str], until: str, home: Path) -> str:
    """What a program prints up to the line that contains `until`; it is ended then."""
    places = dict.fromkeys(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"], str(home))
    quiet = {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1"}
    log = home / "transcript.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **places, **quiet},
        )
        try:
            return _await(process, log, until)
        finally:
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], log: Path, until: str) -> str:
    began = time.monotonic()
    while time.monotonic() - began < DEADLINE:
        ended = process.poll() is not None
        text = log.read_text(encoding="utf-8", errors="replace")
        if until in text:
            return text
        if ended:
            break
        time.sleep(0.02)
    pytest.fail(f"{process.args[0]} did not print {until!r}:\n{text[-3000:]}")


def test_pure_data_plays_every_control(server: OscServer, instrument: Memory, tmp_path: Path) -> None:
    pd = program("pd", "puredata-core")
    probe = tmp_path / "probe.pd"
    probe.write_text(
        "#N canvas 0 0 200 100 12;\n#X obj 10 10 r streamer-heard;\n#X obj 10 40 print heard;\n"
        "#X connect 0 0 1 0;\n"
    )
    moves = [
        f"streamer-port {server.port}",
        "streamer-temperature-show 0.5",  # moves the slider, which sends
        "streamer-top_p-show 0.25",
        "streamer-gain-show 7",
        "streamer-top_k 40",
        "streamer-seed 1234",
        "streamer-play 0",
        "streamer-reset bang",
        "streamer-model symbol snow",
    ]
    sends = [word for move in moves for word in ("-send", move)]
    flags = ["-nogui", "-noaudio", "-nomidi", "-noprefs", "-stderr"]
    opened = ["-open", str(probe), "-open", str(PUREDATA)]
    text = transcript([pd, *flags, *opened, *sends], until="streamer-error: ", home=tmp_path)
    for line in ("temperature 0.5", "top_p 0.25", "gain 2", "top_k 40", "seed 1234", "play 0", "reset 1"):
        assert f"heard: {line}\n" in text
    assert re.search(r"heard: listening [1-9]\d*\n", text)
    mishaps = [line for line in text.splitlines() if re.search(r"(?<!streamer-)error|couldn't|no such", line)]
    assert [line for line in mishaps if not line.startswith("heard: error /streamer/model")] == []
    assert instrument.values == {
        "temperature": 0.5,
        "top_p": 0.25,
        "gain": 2.0,
        "top_k": 40,
        "seed": 1234,
        "play": False,
        "reset": True,
        "model": "rain",
    }


def test_supercollider_plays_every_control(server: OscServer, instrument: Memory, tmp_path: Path) -> None:
    sclang = program("sclang", "supercollider-language")
    driver = tmp_path / "driver.scd"
    driver.write_text(
        f"""(
        ~streamerPort = {server.port};
        "{SUPERCOLLIDER}".load;
        ~watch = true;
        ~topP.(0.25); ~gain.(7); ~topK.(40); ~seed.(1234); ~play.(false); ~reset.();
        ~model.(\\snow); ~models.();
        ~streamer.sendBundle(3600, ['/streamer/seed', 4321]);
        ~ramp.(~temperature, 0.25, 0.5, 0.2);
        )"""
    )
    text = transcript([sclang, str(driver)], until="streamer: temperature is 0.5\n", home=tmp_path)
    told = [
        "top_p is 0.25",
        "gain is 2.0",
        "top_k is 40",
        "seed is 1234",
        "play is 0",
        "reset is 1",
        "seed is 4321",
    ]
    told += ["model rain", "model choir", "temperature is 0.25", "buffer_ms 120.5, realtime_factor 3.5"]
    for line in told:
        assert f"streamer: {line}" in text
    assert "streamer refused /streamer/model: no model snow; there are rain, choir" in text
    assert "ERROR" not in text
    assert instrument.values == {
        "temperature": 0.5,
        "top_p": 0.25,
        "gain": 2.0,
        "top_k": 40,
        "seed": 4321,
        "play": False,
        "reset": True,
        "model": "rain",
    }


@texts
def test_patches_and_guide_name_only_what_there_is(path: Path) -> None:
    known = {control.address for control in CONTROLS} | COMMANDS | REPLIES
    named = re.findall(r"/streamer/[a-z_-]+(?:\.[a-z]+)?", path.read_text(encoding="utf-8"))
    assert named
    assert {address.replace("-", "_") for address in named} <= known


@texts
def test_patches_and_guide_use_the_default_port(path: Path) -> None:
    assert str(DEFAULT_PORT) in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [SUPERCOLLIDER, PUREDATA], ids=lambda path: path.name)
def test_patches_have_every_control(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [control.address for control in CONTROLS if control.address not in text] == []


def test_the_guide_explains_every_command_and_reply() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert sorted(address for address in COMMANDS | REPLIES if address not in text) == []


def test_the_pure_data_patch_routes_only_controls_and_replies() -> None:
    text = re.sub(r"\n(?!#)", " ", PUREDATA.read_text(encoding="utf-8"))
    (routed,) = re.findall(r"route (temperature [^;]*);", text)
    addresses = {f"/streamer/{word}" for word in routed.split()}
    assert addresses <= {control.address for control in CONTROLS} | REPLIES


def test_the_sliders_have_the_tables_ranges() -> None:
    text = PUREDATA.read_text(encoding="utf-8")
    sliders = re.findall(r"hsl \d+ \d+ (\S+) (\S+) \d \d streamer-(\w+) ", text)
    assert {name for _, _, name in sliders} == {"temperature", "top_p", "gain"}
    for low, high, name in sliders:
        control = find(name)
        assert (float(low), float(high)) == (control.minimum, control.maximum)
