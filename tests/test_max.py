"""The Max patches: as generated, clean by py2max's reference of Max, and wired from widget to wire."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from py2max import Patcher
from py2max.maxref import get_object_info

from streamer.controls import CONTROLS, PREFIX

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "patches" / "max"
NAMES = ("streamer.maxpat", "streamer.voice.maxpat", "streamer.maxhelp")
PANELS = {"streamer.maxpat": "master", "streamer.voice.maxpat": "voice"}
Box = dict[str, Any]

patch_files = pytest.mark.parametrize("name", NAMES)


def boxes(name: str) -> dict[str, Box]:
    patch = json.loads((FOLDER / name).read_text(encoding="utf-8"))["patcher"]
    return {each["box"]["id"]: each["box"] for each in patch["boxes"]}


def lines(name: str) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    patch = json.loads((FOLDER / name).read_text(encoding="utf-8"))["patcher"]
    cords = [each["patchline"] for each in patch["lines"]]
    return [(tuple(cord["source"]), tuple(cord["destination"])) for cord in cords]


def after(name: str, box: Box, outlet: int | None = None) -> list[Box]:
    """The boxes that a box is connected to."""
    found = boxes(name)
    return [
        found[destination]
        for (source, port), (destination, _) in lines(name)
        if source == box["id"] and outlet in (None, port)
    ]


def texts(some: list[Box]) -> set[str]:
    return {box.get("text", "") for box in some}


def test_what_is_committed_is_what_the_table_gives() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "patches" / "max.py"))["files"]()
    assert set(made) == {f"max/{name}" for name in NAMES}
    for path, content in made.items():
        assert (ROOT / "patches" / path).read_text(encoding="utf-8") == content, "run scripts/make-patches"


@patch_files
def test_max_would_find_nothing_wrong(name: str) -> None:
    """Unknown objects, cords to ports that are not there, boxes on boxes; windows may be small."""
    findings = Patcher.from_file(FOLDER / name).lint()
    assert [str(each) for each in findings if each.code != "W-OFFCANVAS"] == []


@patch_files
def test_every_box_is_complete_and_of_max_itself(name: str) -> None:
    """What py2max's own validation lets pass."""
    for box in boxes(name).values():
        assert len(box["patching_rect"]) == 4
        kind = box["text"].split()[0] if box["maxclass"] == "newobj" else box["maxclass"]
        assert get_object_info(kind) is not None, kind
        if kind == "bpatcher":
            assert (FOLDER / box["name"]).is_file()


@patch_files
def test_cords_join_ports_that_the_boxes_have(name: str) -> None:
    found = boxes(name)
    for (source, outlet), (destination, inlet) in lines(name):
        assert outlet < found[source]["numoutlets"]
        assert inlet < found[destination]["numinlets"]


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_shows_its_widgets_apart(name: str) -> None:
    seen = [box["presentation_rect"] for box in boxes(name).values() if box.get("presentation")]
    for place, (x, y, width, height) in enumerate(seen):
        for left, top, wide, high in seen[:place]:
            assert x >= left + wide or left >= x + width or y >= top + high or top >= y + height


@pytest.mark.parametrize(
    ("name", "control"),
    [(name, control) for name, scope in PANELS.items() for control in CONTROLS if control.scope == scope],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_control_is_sent_and_followed(name: str, control: Any) -> None:
    """From the widget to the wire under the control's address, and from what is heard back to the widget."""
    address = PREFIX + control.name
    (say,) = (box for box in boxes(name).values() if box.get("text") == f"prepend {address}")
    assert texts(after(name, say)) == {"s streamer.say"}
    (route,) = (box for box in boxes(name).values() if f" {address} " in box.get("text", ""))
    outlet = route["text"].split()[1:].index(address)
    if control.scope == "voice":
        formatted = f"sprintf symout {PREFIX}voice/%ld/{control.name}"
        (sprintf,) = (box for box in boxes(name).values() if box.get("text") == formatted)
        assert ((sprintf["id"], 0), (route["id"], outlet + 1)) in lines(name)
        (setter,) = (box for box in after(name, sprintf) if box["id"] != route["id"])
        assert (setter["text"], after(name, setter)) == ("prepend set", [say])
    if control.type != "trigger":
        (follower,) = after(name, route, outlet)
        assert follower["text"] in ("prepend set", "prepend setsymbol")  # neither is sent on
        (widget,) = after(name, follower)
        assert say in after(name, widget)


def test_dials_have_the_ranges_and_curves_of_the_table() -> None:
    dials = {
        parameter["parameter_longname"]: parameter
        for name in PANELS
        for box in boxes(name).values()
        if box["maxclass"] == "live.dial"
        for parameter in [box["saved_attribute_attributes"]["valueof"]]
    }
    expected = [control for control in CONTROLS if control.type == "float"]
    assert set(dials) == {control.name for control in expected}
    for control in expected:
        dial = dials[control.name]
        assert (dial["parameter_mmin"], dial["parameter_mmax"]) == (control.minimum, control.maximum)
        assert dial["parameter_exponent"] == (3 if control.curve == "cubic" else 1)


def test_it_subscribes_where_it_listens() -> None:
    said = {box.get("text", "") for box in boxes("streamer.maxpat").values()}
    assert {"udpreceive 7400", "udpsend 127.0.0.1 7770"} <= said
    assert "/streamer/subscribe 7400, /streamer/models" in said
