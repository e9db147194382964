"""TidalCycles, Open Stage Control and touch surfaces: as generated, and understood by the real server."""

import json
import re
import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from osc_rig import Client, Memory, encode
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage

from streamer.controls import COMMANDS, CONTROLS, PREFIX, REPLIES, Control, find, normalized, parse
from streamer.osc import OscServer

ROOT = Path(__file__).resolve().parents[1]
PATCHES = ROOT / "patches"


class Rig:
    """A client of a server with an instrument that has one voice, and takes everything that it is sent."""

    def __init__(self) -> None:
        self.instrument = Memory()
        self.server = OscServer(self.instrument, port=0)
        self.client = Client(self.server.port)

    def errors(self) -> list[list[object]]:
        """What was said of all that was sent."""
        said = []
        for _ in range(2):  # when the second comes back, the batch that the first was in has been played
            self.client.send(PREFIX + "ping")
            while (heard := self.client.hear())[0] != PREFIX + "pong":
                said.append(heard)
        return [arguments for address, arguments in said if address == PREFIX + "error"]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    with made.server:
        yield made
        made.client.close()


@pytest.mark.parametrize("name", ["openstagecontrol", "tidal", "touchosc"])
def test_what_is_committed_is_what_the_table_gives(name: str) -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "patches" / f"{name}.py"))["files"]()
    for path, content in made.items():
        assert (PATCHES / path).read_text(encoding="utf-8") == content, "run scripts/make-patches"


# --- TidalCycles ------------------------------------------------------------------------------------------


def tidal() -> str:
    return (PATCHES / "tidal" / "Streamer.ghci").read_text(encoding="utf-8")


def test_tidal_has_a_shape_and_a_function_for_every_control() -> None:
    shapes = dict(re.findall(r'OSC "(.*?)" \$ ArgList \[\("(\w+)", Nothing\)', tidal()))
    functions = dict(re.findall(r'^let (\w+) = p[FIS] "(\w+)"$', tidal(), re.MULTILINE))
    for control in CONTROLS:
        address = control.voice_address("{streamer}") if control.scope == "voice" else control.address
        assert shapes[address] == f"streamer_{control.name}"
        assert (address + "/ramp" in shapes) == control.is_continuous
    assert {*shapes.values(), "streamer"} == set(functions.values())
    assert all(name == "streamer" or name.startswith("st") for name in functions)  # none hides Tidal's own


def test_what_tidal_sends_is_understood(rig: Rig) -> None:
    """Each event's message comes alone in a bundle with its time, its value as the function types it."""
    types = {key: function for function, key in re.findall(r'= (p[FIS]) "(\w+)"', tidal())}
    for path, keys in re.findall(r'OSC "(.*?)" \$ ArgList \[(.*?)\]', tidal()):
        key = re.findall(r'"(\w+)"', keys)[0]
        control = find(key.removeprefix("streamer_").removesuffix("_ramp"))
        middle = "choir" if control.type == "string" else normalized(control, 0.5)
        value = {"pF": float, "pI": int, "pS": str}[types[key]](middle)
        arguments = [value, *([0.25] if '"delta"' in keys else [])]
        bundle = OscBundleBuilder(time.time() + 0.2)
        bundle.add_content(OscMessage(encode(path.replace("{streamer}", "1"), *arguments)))
        rig.client.raw(bundle.build().dgram)
    assert rig.errors() == []


# --- Open Stage Control -----------------------------------------------------------------------------------


def widgets(container: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in [*container.get("tabs", ()), *container.get("widgets", ())]:
        yield child
        yield from widgets(child)


def session() -> list[dict[str, Any]]:
    text = (PATCHES / "openstagecontrol" / "streamer.json").read_text(encoding="utf-8")
    return list(widgets(json.loads(text)["content"]))


def control_of(widget: dict[str, Any]) -> Control | None:
    name = widget.get("address", "").rpartition("/")[2]
    return next((control for control in CONTROLS if control.name == name), None)


def test_the_session_has_every_control_of_every_voice_and_names_nothing_twice() -> None:
    found = session()
    addresses = [widget["address"] for widget in found if "address" in widget]
    assert len({widget["id"] for widget in found}) == len(found)
    assert len(set(addresses)) == len(addresses)
    for control in CONTROLS:
        wanted = (
            [control.address]
            if control.scope == "master"
            else [control.voice_address(n) for n in range(1, 17)]
        )
        assert set(wanted) <= set(addresses)


def test_every_widget_is_of_a_kind_that_fits_and_has_an_address_that_is_known() -> None:
    known = {each.address.replace("<n>", "1") for each in (*COMMANDS, *REPLIES)}
    for widget in session():
        control = control_of(widget)
        if control is not None:
            kind = {"bool": "button", "trigger": "button", "string": "input"}.get(control.type, "fader")
            assert widget["type"] == ("input" if control.name == "seed" else kind)
        elif "address" in widget:
            assert re.sub(r"voice/\d+", "voice/1", widget["address"]) in known
        else:
            assert widget["type"] in ("tab", "panel")


def test_faders_have_the_ranges_and_curves_of_the_table() -> None:
    for widget in session():
        if widget["type"] == "fader":
            control = control_of(widget)
            assert control is not None
            ends = {"min": 0.0, "max": 1.0}
            for key, value in widget["range"].items():
                travel = ends[key] if key in ends else float(key.rstrip("%")) / 100
                assert value == pytest.approx(normalized(control, travel))
                assert parse(control, value) == value
            assert (len(widget["range"]) > 2) == (control.curve == "cubic")


def test_what_the_widgets_send_is_understood(rig: Rig) -> None:
    for widget in session():
        address = widget.get("address", "")
        if widget.get("bypass") or address.replace("voice/1/", "").count("/") != 2:
            continue
        if widget.get("mode") == "momentary":
            rig.client.send(address)
        elif widget["type"] == "button":
            rig.client.send(address, 1, tags=widget["typeTags"])
        elif widget["type"] == "input":
            rig.client.send(address, 7.0 if widget["numeric"] else "choir")
        else:
            rig.client.send(address, widget["range"]["max"])
    assert rig.errors() == []


# --- touch surfaces ---------------------------------------------------------------------------------------


def test_the_map_has_every_control(rig: Rig) -> None:
    page = (PATCHES / "touchosc" / "README.md").read_text(encoding="utf-8")
    addresses = re.findall(r"^\| `(/streamer/\S+)`", page, re.MULTILINE)
    assert [find(address.rpartition("/")[2]) for address in addresses] == list(CONTROLS)
    for address, control in zip(addresses, CONTROLS, strict=True):
        if control.curve != "none":
            rig.client.send(address + "/normalized", 0.5)  # as the page says of faders from 0 to 1
    assert rig.errors() == []
