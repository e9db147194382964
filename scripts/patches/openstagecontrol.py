"""The session for Open Stage Control 1.x: a tab for the whole, and one with a panel for each voice.

Properties that are not given have the program's own defaults.
"""

import json
from typing import Any

from streamer.controls import CONTROLS, PREFIX, Control, normalized
from streamer.strip import STRIPS

STEPS = 10
"""Breakpoints by which a fader follows a control's curve."""

Widget = dict[str, Any]


def files() -> dict[str, str]:
    """What the table gives now, by path below patches/."""
    root = {
        "type": "root",
        "id": "root",
        "onCreate": f"send('{PREFIX}subscribe')",
        "tabs": [_whole(), *(_voice(number) for number in range(1, STRIPS + 1))],
    }
    session = {"createdWith": "Open Stage Control", "version": "1.27.0", "type": "session", "content": root}
    return {"openstagecontrol/streamer.json": json.dumps(session, indent=1) + "\n"}


def _whole() -> Widget:
    widgets = [
        _widget(control, control.address, control.name) for control in CONTROLS if control.scope == "master"
    ]
    commands = [
        {"type": "button", "id": name, "label": name, "mode": "momentary", "address": PREFIX + command}
        for name, command in (("connect", "subscribe"), ("panic", "panic"))
    ]
    heard = [_text("meters", PREFIX + "meters"), _text("error", PREFIX + "error")]
    return _tab("streamer", widgets, [*commands, *heard])


def _voice(number: int) -> Widget:
    widgets = [
        _widget(control, control.voice_address(number), f"voice_{number}_{control.name}")
        for control in CONTROLS
        if control.scope == "voice"
    ]
    return _tab(
        f"voice {number}", widgets, [_text(f"voice_{number}_meters", f"{PREFIX}voice/{number}/meters")]
    )


def _tab(name: str, widgets: list[Widget], more: list[Widget]) -> Widget:
    """Faders side by side, and beside them a column of all the rest."""
    faders = [widget for widget in widgets if widget["type"] == "fader"]
    others = [widget for widget in widgets if widget["type"] != "fader"]
    panels = [
        {"type": "panel", "id": f"{name} faders", "layout": "horizontal", "expand": 4, "widgets": faders},
        {
            "type": "panel",
            "id": f"{name} switches",
            "layout": "vertical",
            "expand": 1,
            "widgets": [*others, *more],
        },
    ]
    for widget in (*faders, *others, *more):
        widget["expand"] = True
    return {"type": "tab", "id": name, "label": name, "layout": "horizontal", "widgets": panels}


def _widget(control: Control, address: str, identity: str) -> Widget:
    widget: Widget = {"id": identity, "address": address, "comments": control.description}
    if control.type in ("bool", "trigger"):
        # A momentary button sends its address alone, and nothing when it is let go.
        mode = "toggle" if control.type == "bool" else "momentary"
        return widget | {"type": "button", "label": control.name, "mode": mode, "typeTags": "i"}
    widget["html"] = control.name
    if control.curve == "none":
        return widget | {"type": "input", "numeric": control.type == "int", "decimals": 0}
    whole = {"typeTags": "i", "decimals": 0} if control.type == "int" else {"decimals": 5}
    return widget | {"type": "fader", "range": _range(control), "default": control.default} | whole


def _range(control: Control) -> dict[str, Any]:
    """The control's curve as the fader's breakpoints."""
    steps = STEPS if control.curve == "cubic" else 1
    middle = {f"{100 * step // steps}%": normalized(control, step / steps) for step in range(1, steps)}
    return {"min": control.minimum, **middle, "max": control.maximum}


def _text(identity: str, address: str) -> Widget:
    return {"type": "text", "id": identity, "html": identity, "address": address, "bypass": True}
