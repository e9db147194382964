"""The panels of controls for Pure Data: one for a voice, one for the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamer.controls import CONTROLS, Control, Scope

WIDTH, TOP, ROW = 330, 30, 26
"""Of a panel, in pixels: its width, where the first control's row is, and how high each is."""
COLOURS = "#fcfcfc #000000 #000000"


@dataclass
class Patch:
    """A canvas; what is put there is numbered in that order."""

    _lines: list[str] = field(default_factory=list)
    _cords: list[str] = field(default_factory=list)

    def put(self, kind: str, x: int, y: int, words: str) -> int:
        """Put an object, a message or an atom box; dollars and commas are escaped here."""
        self._lines.append(f"#X {kind} {x} {y} {words};".replace("$", "\\$").replace(",", " \\,"))
        return len(self._lines) - 1

    def cord(self, source: int, target: int, outlet: int = 0) -> None:
        """Connect an outlet with another's first inlet."""
        self._cords.append(f"#X connect {source} {outlet} {target} 0;")

    def column(self, x: int, y: int, source: int, *objects: str, outlet: int = 0) -> int:
        """Put objects below an outlet, each connected with the one above; return the last."""
        for place, words in enumerate(objects):
            made = self.put("obj", x, y + 24 * place, words)
            self.cord(source, made, 0 if place else outlet)
            source = made
        return source

    def text(self, height: int) -> str:
        """The file; the patch that uses it shows this height of it."""
        head, tail = "#N canvas 60 60 1800 700 12;", f"#X coords 0 -1 1 1 {WIDTH} {height} 2 0 0;"
        return "\n".join([head, *self._lines, *self._cords, tail]) + "\n"


def files() -> dict[str, str]:
    """What the table gives now, by path below patches/."""
    return {
        "puredata/streamer-voice.pd": _panel("voice", "streamer-voice-$1", "voice $1"),
        "puredata/streamer-master.pd": _panel("master", "streamer-master", ""),
    }


def _panel(scope: Scope, name: str, path: str) -> str:
    """Widgets that send `path`, a control and its value to [streamer], and show what comes from there.

    Values are received under the panel's name and the control's, joined by a dash; travels with -x after it.
    """
    patch = Patch()
    controls = [control for control in CONTROLS if control.scope == scope]
    patch.put("obj", 10, 8, f"cnv 12 {WIDTH - 20} 14 empty empty {name} 2 7 0 14 #e0e0e0 #000000 0")
    inlet, bus = patch.put("obj", 360, 10, "inlet"), patch.put("obj", 600, 10, "r streamer-heard")
    out = patch.column(360, 600, inlet, *([f"list prepend {path}"] if path else []), "list trim")
    patch.column(360, 650, out, "s streamer-send")
    first = out - 1 if path else out
    voices = patch.column(600, 34, bus, "route voice")
    heard, its = (patch.column(600, 58, voices, "route $1"), 0) if path else (voices, 1)
    names = " ".join(control.name for control in controls)
    routed = patch.column(600, 82, heard, f"route {names}", outlet=its)
    patch.column(900, 650, heard, "outlet", outlet=its)
    for place, control in enumerate(controls):
        _row(patch, control, f"{name}-{control.name}", TOP + ROW * place, (routed, place), first)
    return patch.text(TOP + ROW * len(controls) + 6)


def _row(patch: Patch, control: Control, name: str, y: int, heard: tuple[int, int], out: int) -> None:
    """A control's slider, which moves by its curve, and the box with its value."""
    if control.curve != "none":
        slider = f"hsl 150 18 0 1 0 0 empty {name}-x empty -2 -8 0 12 {COLOURS} 0 1"
        moved = patch.put("obj", 10, y, slider)
        patch.cord(patch.column(360, y + 80, moved, f"list prepend {control.name}/normalized"), out)
        _show(patch, f"{name}-x", heard, (720, y + 80), "route float", _travel(control))
    entered = patch.put(*_box(control, name, y))
    patch.cord(patch.column(560, y + 80, entered, f"list prepend {control.name}"), out)
    if control.type != "trigger":
        # A ramp is confirmed with the word ramp and where it goes; a text alone comes as a selector.
        only = "list" if control.type == "string" else "route float"
        _show(patch, name, heard, (1180, y + 80), only)


def _box(control: Control, name: str, y: int) -> tuple[str, int, int, str]:
    label = f"empty {name} {control.name} 24 9 0 12 {COLOURS}"
    match control.type:
        case "bool":
            return "obj", 170, y, f"tgl 18 0 {label} 0 1"
        case "trigger":
            return "obj", 170, y, f"bng 18 250 50 0 {label}"
        case "string":
            return "symbolatom", 170, y, f"12 0 0 1 {control.name} {name} - 12"
        case _:
            return "floatatom", 170, y, f"9 {control.minimum} {control.maximum} 1 {control.name} {name} - 12"


def _show(patch: Patch, widget: str, heard: tuple[int, int], at: tuple[int, int], *through: str) -> None:
    """What is heard moves the widget that receives under this name; `set` keeps it from sending that back."""
    source, outlet = heard
    x, y = at
    for words in through:
        made = patch.put("obj", x, y, words)
        patch.cord(source, made, outlet)
        source, outlet, x = made, 0, x + 100
    message = patch.put("msg", at[0] + 330, y, "set $1")
    patch.cord(source, message)
    patch.column(at[0] + 390, y, message, f"s {widget}")


def _travel(control: Control) -> str:
    """The object that turns a value into a slider's travel, as `to_normalized` does."""
    assert control.minimum is not None
    assert control.maximum is not None
    x = f"($f1 {-control.minimum:+g}) / {control.maximum - control.minimum:g}"
    return f"expr pow({x}, 0.333333)" if control.curve == "cubic" else f"expr {x}"
