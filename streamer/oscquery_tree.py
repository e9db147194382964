"""The instrument's addresses as OSCQuery describes them: a tree of JSON objects, from the table of controls.

Pure: an instrument in, dictionaries out. After the OSCQuery proposal 1.0 (Vidvox): every node has FULL_PATH,
DESCRIPTION, ACCESS; a branch CONTENTS; a control TYPE, and RANGE, CLIPMODE, VALUE, UNIT where they apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from streamer.controls import CONTROLS, PREFIX, Control, Value
from streamer.models.errors import StreamerError

Node: TypeAlias = dict[str, Any]

ATTRIBUTES = ("FULL_PATH", "DESCRIPTION", "ACCESS", "CONTENTS", "TYPE", "RANGE", "CLIPMODE", "VALUE", "UNIT")
"""What may be asked for one by one."""

_ROOT = PREFIX.rstrip("/")
_VOICES = PREFIX + "voice"
_TYPES = {"float": "f", "int": "i", "bool": "T", "trigger": "I", "string": "s"}
_UNITS = {"s": "time.second", "ms": "time.ms", "amplitude": "gain.linear", "times": "time.speed"}
"""Our units by the proposal's names; the others have none there."""
_NO_ACCESS, _WRITE, _READ_WRITE = 0, 2, 3


class Readable(Protocol):
    """What the tree shows of the instrument."""

    def get(self, control: str, voice: int = 0) -> Value:
        """A control's value; raises `StreamerError` where that voice is gone."""

    def voices(self) -> Mapping[int, str]:
        """Names by number."""

    def models(self) -> Sequence[str]:
        """The names that the control `model` takes."""


def node_at(instrument: Readable, path: str) -> Node | None:
    """Everything at and below a path such as "/streamer/voice/1"; None where nothing is."""
    node = _branch("/", "everything", [_streamer(instrument)])
    for step in path.split("/"):
        if step:
            node = node.get("CONTENTS", {}).get(step)
        if node is None:
            return None
    return node


def voice_path(number: int) -> str:
    """Where a voice's controls are."""
    return f"{_VOICES}/{number}"


def control_path(control: Control, voice: int) -> str:
    """A control's address: the voice's, or the master's."""
    return control.voice_address(voice) if control.scope == "voice" else control.address


def _streamer(instrument: Readable) -> Node:
    masters = [_control(instrument, each, 0) for each in CONTROLS if each.scope == "master"]
    voices = [_voice(instrument, number, name) for number, name in instrument.voices().items()]
    return _branch(
        _ROOT, "a real-time neural synthesiser", [*masters, _branch(_VOICES, "the voices", voices)]
    )


def _voice(instrument: Readable, number: int, name: str) -> Node:
    controls = [_control(instrument, each, number) for each in CONTROLS if each.scope == "voice"]
    return _branch(voice_path(number), name, controls)


def _branch(path: str, description: str, children: Iterable[Node]) -> Node:
    contents = {child["FULL_PATH"].rpartition("/")[2]: child for child in children}
    return {"FULL_PATH": path, "DESCRIPTION": description, "ACCESS": _NO_ACCESS, "CONTENTS": contents}


def _control(instrument: Readable, control: Control, voice: int) -> Node:
    trigger = control.type == "trigger"
    node = {
        "FULL_PATH": control_path(control, voice),
        "DESCRIPTION": control.description,
        "ACCESS": _WRITE if trigger else _READ_WRITE,
        "TYPE": _TYPES[control.type],
    }
    if control.type in ("float", "int"):
        node |= {"RANGE": [{"MIN": control.minimum, "MAX": control.maximum}], "CLIPMODE": ["both"]}
    if control.type == "string":
        node |= {"RANGE": [{"VALS": list(instrument.models())}], "CLIPMODE": ["none"]}
    if control.unit in _UNITS:
        node["UNIT"] = [_UNITS[control.unit]]
    return node if trigger else node | _value(instrument, control, voice)


def _value(instrument: Readable, control: Control, voice: int) -> Node:
    try:
        return {"VALUE": [instrument.get(control.name, voice)]}
    except StreamerError:  # the voice went away just now
        return {}
