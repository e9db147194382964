"""A MIDI controller for tests: a virtual port on the service that the machine has."""

from __future__ import annotations

from typing import Any

import rtmidi


def midi_output(name: str) -> Any:
    """A device of this name with one open output port `out`, on ALSA's sequencer or else on JACK."""
    for api in rtmidi.get_compiled_api():
        try:
            device = rtmidi.MidiOut(api, name=name)
        except rtmidi.RtMidiError:
            continue
        device.open_virtual_port("out")
        return device
    raise RuntimeError("no MIDI service: start ALSA's sequencer or a JACK server")
