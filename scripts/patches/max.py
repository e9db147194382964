"""The Max patches, made with py2max: the connection, a voice's panel, and the help that shows both.

Nothing but stock objects. A voice's number is its panel's argument, and Max is sure to replace `#1` only
where a word begins; so the addresses are written by `sprintf`, and set in `route` and `prepend` from there.
"""

import json
from itertools import pairwise
from typing import Any

from py2max import Box, Patcher
from py2max.core.common import Rect

from streamer.controls import CONTROLS, DEFAULT_PORT, PREFIX, REPLIES, Control

PORT = 7400
"""Where Max listens: the port in the help of its own udpreceive."""
SAY, HEARD = "streamer.say", "streamer.heard"
METERS = next(reply.arguments.split() for reply in REPLIES if reply.path == "meters")
EXAMPLES = (
    "voice/1/temperature 0.8",
    "voice/1/temperature/ramp 1.2 10.",
    "voice/1/gain/env 0. 2. 1. 5. 0.2",
    "voice/1/pan/drift 0.5 8.",
    "voice/1/set temperature 0.9 top_k 40",
    "voice/add voice-it second",
    "bookmark/save dawn 1",
    "bookmark/recall dawn 1",
    "panic",
    "play 1",
)

_COLUMN = 210  # pixels of a patch for each control
_CELL_WIDTH, _CELL_HEIGHT, _CELLS = 80, 72, 6  # of a panel: what a performer sees


def files() -> dict[str, str]:
    """What the table gives now, by path below patches/."""
    made = {"streamer.maxpat": _connection(), "streamer.voice.maxpat": _voice(), "streamer.maxhelp": _help()}
    return {f"max/{name}": json.dumps(patch.to_dict(), indent=1) + "\n" for name, patch in made.items()}


class Column:
    """A column of a patch, and the cell of the panel that shows its widgets."""

    def __init__(self, patch: Patcher, number: int) -> None:
        self.patch = patch
        self.number = number

    def object(self, text: str, y: int, **attributes: Any) -> Box:
        """An object with a text."""
        return self.patch.add_textbox(text, patching_rect=self._rect(y, len(text)), **attributes)

    def message(self, text: str, y: int) -> Box:
        """A message box."""
        return self.patch.add_message(text, patching_rect=self._rect(y, len(text)))

    def widget(self, maxclass: str, y: int, size: tuple[int, int], label: str, **attributes: Any) -> Box:
        """A widget, seen in the panel below its label."""
        return self.patch.add_textbox(maxclass, **self.seen(y, size, label), **attributes)

    def seen(self, y: int, size: tuple[int, int], label: str) -> dict[str, Any]:
        """Where a widget lies in the patch and in the panel; its label is added."""
        x, top = self.number % _CELLS * _CELL_WIDTH + 6, self.number // _CELLS * _CELL_HEIGHT + 6
        if label:
            self.patch.add_comment(
                label,
                patching_rect=Rect(self._x + size[0] + 6, y, min(120, _COLUMN - size[0] - 12), 20),
                presentation=1,
                presentation_rect=[x, top, _CELL_WIDTH - 4, 18],
                fontsize=9.5,
            )
        return {
            "patching_rect": Rect(self._x, y, *size),
            "presentation": 1,
            "presentation_rect": [x, top + 18 if label else top, *size],
        }

    def chain(self, *boxes: Box) -> None:
        """Connect each box's first outlet to the first inlet of the next."""
        for above, below in pairwise(boxes):
            self.patch.add_line(above, below)

    @property
    def _x(self) -> int:
        return 20 + self.number * _COLUMN

    def _rect(self, y: int, characters: int) -> Rect:
        return Rect(self._x, y, min(7 * characters + 14, _COLUMN - 10), 22)


# --- the three patches ------------------------------------------------------------------------------------


def _connection() -> Patcher:
    """[streamer]: sends what comes in, puts out what is heard, and shows the controls of the whole."""
    controls = [control for control in CONTROLS if control.scope == "master"]
    columns = len(controls) + len(METERS)
    patch = _patch(_rows(columns + 4))
    first, second, third, fourth = (Column(patch, columns + place) for place in range(4))
    received = first.object(f"udpreceive {PORT}", 20)
    for listener in (_controls(patch, controls), first.object(f"s {HEARD}", 60), second.object("outlet", 20)):
        patch.add_line(received, listener)
    sent = first.object(f"udpsend 127.0.0.1 {DEFAULT_PORT}", 560)
    subscribe = second.message(f"{PREFIX}subscribe {PORT}, {PREFIX}models", 500)
    unsubscribe = third.message(f"{PREFIX}unsubscribe", 500)
    for sender in (first.object("inlet", 460), first.object(f"r {SAY}", 500), subscribe, unsubscribe):
        patch.add_line(sender, sent)
    connect = second.widget("button", 460, (24, 24), "connect")
    # Once the panels have loaded too, so that they hear every value.
    second.chain(second.object("loadbang", 380), second.object("delay 500", 420), connect, subscribe)
    third.chain(third.object("closebang", 460), unsubscribe)
    said = patch.add_message("", **fourth.seen(300, (2 * _CELL_WIDTH, 22), "error"))
    routed = fourth.object(f"route {PREFIX}error", 220)
    patch.add_line(received, routed)
    fourth.chain(routed, fourth.object("prepend set", 260), said)
    return patch


def _voice() -> Patcher:
    """One voice's panel, for a bpatcher whose argument is the voice's number; 1 without one."""
    controls = [control for control in CONTROLS if control.scope == "voice"]
    patch = _patch(_rows(len(controls) + len(METERS)))
    first = Column(patch, 0)
    number = first.object("patcherargs 1", 50)
    patch.add_line(first.object("loadbang", 20), number)
    route = _controls(patch, controls, number)
    patch.add_line(Column(patch, 1).object(f"r {HEARD}", 20), route)
    return patch


def _help() -> Patcher:
    """What [streamer] does, its messages, and two voices; here it is a bpatcher, and so its panel is seen."""
    patch = _patch(12)
    patch.openinpresentation = 0
    text = "streamer, a neural synthesiser, played over OSC: start it with streamer play, then press connect."
    patch.add_comment(text, patching_rect=Rect(20, 10, 600, 20))
    half = len(EXAMPLES) // 2
    messages = [
        Column(patch, 2 * (place // half)).message(PREFIX + example, 50 + 40 * (place % half))
        for place, example in enumerate(EXAMPLES)
    ]
    top = 50.0 + 40 * half
    streamer, top = _bpatcher(patch, "streamer.maxpat", _connection(), top, inlets=1, outlets=1)
    for message in messages:
        patch.add_line(message, streamer)
    patch.add_line(streamer, patch.add_textbox("print streamer", patching_rect=Rect(20, top, 120, 22)))
    top += 40
    for voice in (1, 2):
        patch.add_comment(f"voice {voice}", patching_rect=Rect(20, top, 120, 20))
        _, top = _bpatcher(patch, "streamer.voice.maxpat", _voice(), top + 22, args=[voice])
    return patch


def _bpatcher(
    patch: Patcher,
    name: str,
    panel: Patcher,
    top: float,
    inlets: int = 0,
    outlets: int = 0,
    **attributes: Any,
) -> tuple[Box, float]:
    """A panel, whole, at a height; and the height below it."""
    *_, width, height = panel.rect
    box = patch.add_bpatcher(
        name,
        patching_rect=Rect(20, top, width, height),
        numinlets=inlets,
        numoutlets=outlets,
        outlettype=[""] * outlets,
        border=1,
        **attributes,
    )
    return box, top + height + 12


# --- the controls -----------------------------------------------------------------------------------------


def _controls(patch: Patcher, controls: list[Control], number: Box | None = None) -> Box:
    """A column for each control and one for the meters, and the route that they hear.

    number: puts out the number of the voice whose they are; None for the master's.
    """
    names = [*(control.name for control in controls), "meters"]
    addresses = " ".join(PREFIX + name for name in names)
    route = patch.add_textbox(f"route {addresses}", patching_rect=Rect(20, 130, _COLUMN * len(names), 22))
    for place, name in enumerate(names):
        column = Column(patch, place)
        say = None
        if name == "meters":
            _meters(column, route)
        else:
            say = column.object(f"prepend {PREFIX}{name}", 380)
            column.chain(say, column.object(f"s {SAY}", 420))
            _WIDGETS[controls[place].type](column, controls[place], route, say)
        if number is not None:
            _set_address(column, name, number, route, say)
    return route


def _set_address(column: Column, name: str, number: Box, route: Box, say: Box | None) -> None:
    """Put the voice's address in place of that of all voices, in the route and in the prepend."""
    address = column.object(f"sprintf symout {PREFIX}voice/%ld/{name}", 90)
    column.patch.add_line(number, address)
    column.patch.add_line(address, route, inlet=column.number + 1)
    if say is not None:
        column.chain(address, column.object("prepend set", 340), say)


def _dial(column: Column, control: Control, route: Box, say: Box) -> None:
    exponent = 3.0 if control.curve == "cubic" else 1.0
    parameter = {
        "parameter_longname": control.name,
        "parameter_shortname": control.name,
        "parameter_type": 0,
        "parameter_mmin": control.minimum,
        "parameter_mmax": control.maximum,
        "parameter_exponent": exponent,
        "parameter_unitstyle": 1,
    }
    dial = column.widget(
        "live.dial", 220, (70, 48), "", parameter_enable=1, saved_attribute_attributes={"valueof": parameter}
    )
    _follow(column, route, "prepend set", dial)
    column.chain(dial, say)


def _number(column: Column, control: Control, route: Box, say: Box) -> None:
    limits = {"minimum": control.minimum, "maximum": control.maximum}
    box = column.widget("number", 220, (70, 22), control.name, **limits)
    _follow(column, route, "prepend set", box)
    column.chain(box, say)


def _toggle(column: Column, control: Control, route: Box, say: Box) -> None:
    box = column.widget("toggle", 220, (24, 24), control.name)
    _follow(column, route, "prepend set", box)
    column.chain(box, say)


def _button(column: Column, control: Control, route: Box, say: Box) -> None:
    column.chain(column.widget("button", 220, (24, 24), control.name), column.message("1", 300), say)


def _menu(column: Column, control: Control, route: Box, say: Box) -> None:
    """A menu of all models, filled anew at each connection."""
    menu = column.widget("umenu", 220, (_CELL_WIDTH - 4, 22), control.name)
    _follow(column, route, "prepend setsymbol", menu)
    column.patch.add_line(menu, say, outlet=1)
    models = column.object(f"route {PREFIX}listening {PREFIX}models.reply", 280)
    column.chain(column.object(f"r {HEARD}", 250), models)
    for outlet, box in enumerate((column.message("clear", 310), column.object("prepend append", 450))):
        column.patch.add_line(models, box, outlet=outlet)
        column.patch.add_line(box, menu)


def _meters(column: Column, route: Box) -> None:
    values = column.object("unpack " + " ".join("0." for _ in METERS), 170)
    column.patch.add_line(route, values, outlet=column.number)
    for outlet, name in enumerate(METERS):
        cell = Column(column.patch, column.number + outlet)
        box = cell.widget("flonum", 220, (60, 22), name)
        column.patch.add_line(values, box, outlet=outlet)


def _follow(column: Column, route: Box, how: str, widget: Box) -> None:
    """Show what the instrument has taken, without sending it again."""
    follower = column.object(how, 170)
    column.patch.add_line(route, follower, outlet=column.number)
    column.patch.add_line(follower, widget)


_WIDGETS = {"float": _dial, "int": _number, "bool": _toggle, "trigger": _button, "string": _menu}


def _patch(rows: int) -> Patcher:
    """A patch whose window shows so many rows of a panel."""
    patch = Patcher(auto_layout=False, openinpresentation=1)
    patch.rect = Rect(85.0, 104.0, float(_CELLS * _CELL_WIDTH + 12), float(rows * _CELL_HEIGHT + 12))
    return patch


def _rows(cells: int) -> int:
    return -(-cells // _CELLS)
