"""What the OSC server needs of the instrument, and the instrument of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from streamer.controls import Value
from streamer.cues import Cue
from streamer.models.errors import StreamerError

Told: TypeAlias = Callable[[StreamerError | None], None]
"""Called once, on any thread, when something slow has ended: with None, or with why it failed."""
Status: TypeAlias = Mapping[str, int | float | str]


class Listener(Protocol):
    """One who hears what happens, whoever caused it; on any thread, and quick to return."""

    def changed(self, voice: int, control: str, value: Value) -> None:
        """A control was set, even if to the value that it had; voice 0 for the master's."""

    def voices_changed(self) -> None:
        """A voice was added or removed."""

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        """A change that took a while has failed."""


class Instrument(Protocol):
    """What is played. Every call is quick; what takes a while is told later.

    Whatever cannot be done raises a `StreamerError` of one line, and nothing has changed then.
    """

    def perform(self, cues: Sequence[Cue], at: float | None = None, told: Told | None = None) -> None:
        """Take cues, all at one moment: at a Unix time, or as soon as can be.

        cues: where two are for one control, the later one holds.
        told: for the slow ones among them (model, reset).
        """

    def get(self, control: str, voice: int = 0) -> Value:
        """A control's value; with voice 0, of a voice's control, that of the lowest-numbered voice."""

    def voices(self) -> Mapping[int, str]:
        """Names by number, in order of number."""

    def add_voice(
        self,
        model: str,
        name: str = "",
        values: Mapping[str, Value] | None = None,
        told: Told | None = None,
    ) -> int:
        """Begin to add a voice, and return its number."""

    def remove_voice(self, number: int) -> None:
        """Fade a voice out and remove it."""

    def models(self) -> Sequence[str]:
        """The names of the models."""

    def bookmarks(self) -> Sequence[str]:
        """The names of the bookmarks."""

    def save_bookmark(self, name: str, voice: int, told: Told) -> None:
        """Keep this moment of a voice."""

    def recall_bookmark(self, name: str, voice: int, told: Told) -> None:
        """Have a voice go on from a bookmark."""

    def prime(self, voice: int, source: str, seconds: float, told: Told) -> None:
        """Have a voice go on from the last seconds of a sound, a file's name or "input"."""

    def continue_from_here(self, voice: int, told: Told) -> None:
        """Have a voice's generator take up from where scrub points to."""

    def clear_schedule(self) -> None:
        """Drop all cues that lie in the future."""

    def panic(self) -> None:
        """Silence, at once."""

    def status(self) -> Status:
        """What a performer watches, in the order to be shown."""

    def voice_status(self, voice: int) -> Status:
        """The same of one voice."""

    def listen(self, listener: Listener) -> None:
        """Tell a listener from now on."""


class Midi(Protocol):
    """What binds controls to a MIDI controller's knobs."""

    def learn(self, voice: int, control: str, value: Value | None, told: Told) -> None:
        """Bind a control to the knob that moves next; with a value, to the key that sets it."""

    def forget(self, voice: int, control: str, told: Told) -> None:
        """Unbind a control."""
