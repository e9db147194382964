"""What subscribers are told without having asked: changes, voices that come and go, meters and the status."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamer.controls import CONTROLS, PREFIX, Control, Scope, Value
from streamer.osc_changes import Echo
from streamer.osc_codec import write_message
from streamer.osc_commands import voices_reply
from streamer.osc_instrument import Instrument, Status
from streamer.osc_subscribers import Peer, Subscriber, Subscribers

METERS = ("peak", "rms", "buffer_ms", "realtime_factor", "underruns")
"""What the meters tell, in this order: keys of the status."""


class Publisher:
    """Tells subscribers.

    Args:
        instrument: of which it tells.
        subscribers: who hears it, if the address fits their pattern.
        send: takes a packet, and where it goes.
        server_status: what is added to the instrument's status.
    """

    def __init__(
        self,
        instrument: Instrument,
        subscribers: Subscribers,
        send: Callable[[bytes, Peer], None],
        server_status: Callable[[], Status],
    ) -> None:
        self._instrument = instrument
        self._subscribers = subscribers
        self._send = send
        self._server_status = server_status
        self._known_voices: frozenset[int] = frozenset()
        self._first_voice = 0

    def broadcast(self, address: object, *values: object) -> None:
        """Tell everyone something."""
        hear = [each for each in self._subscribers if each.wants(str(address))]
        packet = write_message(str(address), *values) if hear else b""
        for each in hear:
            self._send(packet, each.target)

    def tell_change(self, control: Control, voice: int, value: Value) -> None:
        """Tell a control's value; voice 0 is the master."""
        for address in self._addresses(control, voice):
            self.broadcast(address, value)

    def tell_everything(self, subscriber: Subscriber) -> None:
        """Tell a new subscriber all values."""
        told = [voices_reply(self._instrument)]
        told += [(each.address, self._instrument.get(each.name)) for each in _valued("master")]
        for voice in self._instrument.voices():
            told += self._values_of(voice)
        for address, *values in told:
            if subscriber.wants(str(address)):
                self._send(write_message(str(address), *values), subscriber.target)

    def tell_voices(self) -> None:
        """Tell everyone which voices there are, and the values of those that are new."""
        voices = self._instrument.voices()
        new = [voice for voice in voices if voice not in self._known_voices]
        first = next(iter(voices), 0)
        if first != self._first_voice and first not in new:
            new.append(first)  # the short addresses are its own now
        self._known_voices, self._first_voice = frozenset(voices), first
        self.broadcast(*voices_reply(self._instrument))
        if self._subscribers:
            for voice in new:
                for echo in self._values_of(voice):
                    self.broadcast(*echo)

    def publish_meters(self) -> None:
        """Send meters to whom they are due, and the status along with them."""
        now = time.monotonic()
        due = [each for each in self._subscribers if each.take_meters(now)]
        if not due:
            return
        meters = self._meters()
        with_status = [*meters, self.status_reply()]
        for subscriber in due:
            for address, *values in with_status if subscriber.take_status(now) else meters:
                if subscriber.wants(str(address)):
                    self._send(write_message(str(address), *values), subscriber.target)

    def status_reply(self) -> Echo:
        """What a performer watches."""
        status = {**self._instrument.status(), **self._server_status()}
        return PREFIX + "status.reply", *_flat(status)

    def voice_status_reply(self, voice: int) -> Echo:
        """The same of one voice."""
        return f"{PREFIX}voice/{voice}/status.reply", *_flat(self._instrument.voice_status(voice))

    def _meters(self) -> list[Echo]:
        """The meters of the whole, then of each voice."""
        of_voices = (
            (f"voice/{each}/", self._instrument.voice_status(each)) for each in self._instrument.voices()
        )
        return [
            (f"{PREFIX}{of}meters", *(status[key] for key in METERS))
            for of, status in (("", self._instrument.status()), *of_voices)
        ]

    def _values_of(self, voice: int) -> list[Echo]:
        echoes: list[Echo] = []
        for control in _valued("voice"):
            value = self._instrument.get(control.name, voice)
            echoes += [(address, value) for address in self._addresses(control, voice)]
        return echoes

    def _addresses(self, control: Control, voice: int) -> tuple[str, ...]:
        """Where a change is told: the short addresses tell of the first voice."""
        if control.scope == "master":
            return (control.address,)
        own = control.voice_address(voice)
        return (own, control.address) if voice == self._first_voice else (own,)


def _valued(scope: Scope) -> list[Control]:
    """The controls that have a value."""
    return [control for control in CONTROLS if control.scope == scope and control.type != "trigger"]


def _flat(status: Status) -> list[object]:
    return [word for pair in status.items() for word in pair]
