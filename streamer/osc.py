"""The OSC server: performers' programs set and move controls, and hear what was taken.

One thread, one loop, UDP and TCP. Everything received is bounded, checked and either played, refused with
`/streamer/error`, or counted and dropped; nothing stops the loop, and it waits for nothing but the network:
timetags are passed on to the instrument, and what is slow is told when it has ended. After scsynth's
`/notify`, `/status`, `/sync`, `/done`, `/fail`, and RNBO's listeners. `docs/osc.md` is the performer's view.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from streamer.controls import DEFAULT_PORT, PREFIX, REPLIES, Value, find, shown
from streamer.models.errors import ControlError, StreamerError
from streamer.osc_addresses import (
    MAX_ADDRESS,
    Route,
    UnknownAddressError,
    choose_voices,
    is_slow,
    read_address,
)
from streamer.osc_changes import Change, Echo, quantity, read_change, read_pairs, value_echo
from streamer.osc_codec import Argument, Message, UnreadablePacketError, read_packet, write_message
from streamer.osc_commands import HANDLERS, Call, check_count, voice_word
from streamer.osc_instrument import Instrument, Midi, Status, Told
from streamer.osc_publisher import Publisher
from streamer.osc_subscribers import DEFAULT_RATE, MAX_RATE, Peer, Subscriber, Subscribers, read_pattern
from streamer.osc_tcp import Connection
from streamer.osc_transport import Transport

MAX_AHEAD = 60.0
"""Seconds that a timetag may lie in the future."""
MAX_WAITING = 64
"""Slow changes that may be under way, and syncs that may wait for them."""
ERRORS_PER_SECOND = 20
"""Error replies in all; more are only counted."""
DUMPED_PER_SECOND = 60
"""Lines that `dump` prints; more are only counted."""

_BATCH = 32  # packets played before the sockets are read again and replies are due
_MAX_CUES = 1000  # that wait for the end of a batch; every control of sixteen voices is fewer
_ANSWERS = frozenset(reply.address for reply in REPLIES)  # never answered, lest two servers loop
_LONGEST_LINE = 300
_PAIRS = ("set", "voice/<n>/set")
_log = logging.getLogger(__name__)


@dataclass
class Counters:
    """Messages since the start.

    Attributes:
        unreadable: packets dropped since they were not OSC, damaged or too large.
        refused: messages that changed nothing and were answered with an error, if not too many.
    """

    unreadable: int = 0
    refused: int = 0


@dataclass(frozen=True)
class _Waiting:
    """A change that is played at the end of the batch, and who asked for it."""

    change: Change
    address: str
    sender: Peer


@dataclass(frozen=True)
class _Slow:
    """Something slow under way, and who waits for it.

    Attributes:
        done: what is sent when it has ended well, beside `echoes`, which are for those not subscribed.
    """

    address: str
    sender: Peer
    done: tuple[object, ...]
    echoes: tuple[Echo, ...]


class OscServer:
    """Serves an instrument over UDP and TCP.

    The sockets are bound when the object is made, so that a busy port is known at once; `start` begins to
    serve. Also a context manager that starts and closes. A `Listener` of the instrument.

    Args:
        instrument: what is played.
        port: 1..65535, or 0 for any free one; `port` then tells which.
        host: address to listen on; loopback by default, "0.0.0.0" for the whole network.
        midi: what binds MIDI controllers, if there is MIDI.
        tell: takes the lines that `/streamer/dump` asks for.

    Raises:
        StreamerError: the port is busy or cannot be had.
    """

    def __init__(
        self,
        instrument: Instrument,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
        midi: Midi | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.counters = Counters()
        self._instrument = instrument
        self._midi = midi
        self._tell = tell
        self._transport = Transport(host, port)
        self.port = self._transport.port
        self._subscribers = Subscribers()
        self._publisher = Publisher(instrument, self._subscribers, self._transport.send, self._own_status)
        self._errors = _Allowance(ERRORS_PER_SECOND)
        self._dumps: _Allowance | None = None
        # By moment (Unix time; None is now) and by what a later one of that sender replaces, in order.
        self._waiting: dict[float | None, dict[Hashable, _Waiting]] = {}
        self._waiting_cues = 0
        self._serials = itertools.count()
        self._slow: dict[int, _Slow] = {}
        self._syncs: deque[tuple[int, Argument, Peer]] = deque()
        # What other threads tell, until the loop looks at it.
        self._lock = threading.Lock()
        self._changed: dict[tuple[int, str], Value] = {}
        self._voices_changed = True
        self._failed: deque[tuple[int, str, str]] = deque(maxlen=MAX_WAITING)
        self._ended: deque[tuple[int, StreamerError | None]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="streamer-osc", daemon=True)
        self._own_commands: dict[str, Callable[[Message, Route, Peer], None]] = {
            "status": self._status,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "listen": self._listen,
            "unlisten": self._unsubscribe,
            "sync": self._sync,
            "dump": self._dump,
        }

    @property
    def lost(self) -> int:
        """Datagrams for which the system had no room, as far as it tells."""
        return self._transport.udp.lost

    def start(self) -> None:
        """Begin to serve, on a thread of its own."""
        self._instrument.listen(self)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port, within a second; may be called twice."""
        self._closing = True
        self._transport.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)
        self._transport.close()

    def __enter__(self) -> OscServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- from any thread ----------------------------------------------------------------------------------

    def changed(self, voice: int, control: str, value: Value) -> None:
        """Tell subscribers of a change; of several before they are told, the last."""
        with self._lock:
            self._changed[voice, control] = value
        self._wake()

    def voices_changed(self) -> None:
        """Tell subscribers which voices there are, and new ones' controls."""
        self._voices_changed = True
        self._wake()

    def failed(self, voice: int, control: str, value: Value, error: str) -> None:
        """Tell subscribers that a change which took a while has failed."""
        self._failed.append((voice, control, error))
        self._wake()

    def _end(self, serial: int, error: StreamerError | None) -> None:
        """Something slow has ended."""
        self._ended.append((serial, error))
        self._wake()

    def _wake(self) -> None:
        if threading.current_thread() is not self._thread:  # the loop looks by itself, after each batch
            self._transport.wake()

    # --- the loop -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            for work in (self._settle, self._publisher.publish_meters):
                self._guard(PREFIX + "status", None, work)
            self._transport.wait(self._patience())
            for packet, sender in self._transport.take(_BATCH):
                self._play_packet(packet, sender)
            self._flush()

    def _patience(self) -> float | None:
        """Seconds until the next meters are due; None while nobody wants any."""
        if not self._subscribers:
            return None
        due = self._subscribers.next_meters() - time.monotonic()
        return max(0.0, due) if due < threading.TIMEOUT_MAX else None

    def _play_packet(self, packet: bytes, sender: Peer) -> None:
        """Play all messages of a packet, or none if any part of it is damaged."""
        try:
            messages = read_packet(packet)
        except UnreadablePacketError:
            self.counters.unreadable += 1
            return
        self._subscribers.heard_from(sender)
        for message in messages:
            if self._dumps is not None and self._dumps.take():
                self._guard(message.address, None, partial(self._print, message, sender))
            self._guard(message.address, sender, partial(self._play, message, sender))

    def _guard(self, address: str, sender: Peer | None, action: Callable[[], None]) -> bool:
        """Do something that may fail; what it raises becomes an error reply and never ends the loop."""
        try:
            action()
        except StreamerError as error:
            self._refuse(address, error, sender)
        except Exception:  # a fault of ours or of the instrument: the sound and the other clients go on
            if self._errors.take():
                _log.exception("fault while handling %s", shown(address))
            self._refuse(address, "an internal fault, see streamer's terminal", sender)
        else:
            return True
        return False

    def _play(self, message: Message, sender: Peer) -> None:
        if message.address in _ANSWERS:
            return
        if len(message.address) > MAX_ADDRESS:
            raise UnknownAddressError(message.address)
        if message.fault:
            raise ControlError(message.fault)
        route = read_address(message.address)
        control = route.control
        if route.verb in _PAIRS:
            change = read_pairs(route.voice, message.arguments, self._instrument.voices())
            self._take(change, message, sender)
        elif control is None:
            self._run_command(message, route, sender)
        elif message.arguments or control.type == "trigger" or route.verb not in ("", "normalized"):
            change = read_change(route, message.arguments, self._instrument.voices())
            self._take(change, message, sender)
        else:
            self._tell_value(route, sender)

    def _print(self, message: Message, sender: Peer) -> None:
        origin = "TCP" if isinstance(sender, Connection) else f"{sender[0]}:{sender[1]}"
        moment = "" if message.time is None else f" @{message.time:.6f}"
        words = message.fault or " ".join(shown(argument) for argument in message.arguments)
        self._tell(f"OSC from {origin}{moment}: {shown(message.address)[1:-1]} {words}"[:_LONGEST_LINE])

    # --- changes ------------------------------------------------------------------------------------------

    def _take(self, change: Change, message: Message, sender: Peer) -> None:
        """Have a change played: at the end of the batch, with others of the same moment, or now if slow."""
        if message.time is not None and message.time - time.time() > MAX_AHEAD:
            ahead = message.time - time.time()
            raise ControlError(f"its timetag is {ahead:.0f} s ahead; {MAX_AHEAD:.0f} s are the most")
        if not change.cues:
            return
        if change.replaces is None and change.is_slow:
            self._flush()
            self._begin(
                lambda told: self._instrument.perform(change.cues, message.time, told),
                _Slow(message.address, sender, message.arguments, change.echoes if change.is_plain else ()),
            )
            return
        moment = self._waiting.setdefault(message.time, {})
        key = (sender, change.replaces) if change.replaces else next(self._serials)
        moment.pop(key, None)  # so that the last is in the last place
        moment[key] = _Waiting(change, message.address, sender)
        self._waiting_cues += len(change.cues)
        if self._waiting_cues > _MAX_CUES:
            self._flush()

    def _flush(self) -> None:
        """Play the changes that wait: one `perform` a moment."""
        waiting, self._waiting, self._waiting_cues = self._waiting, {}, 0
        for at, moment in waiting.items():
            self._perform(tuple(moment.values()), at)

    def _perform(self, changes: Sequence[_Waiting], at: float | None) -> None:
        if len(changes) == 1:
            (one,) = changes
            cues = one.change.cues
            if self._guard(one.address, one.sender, lambda: self._instrument.perform(cues, at)):
                self._confirm(one)
            return
        try:
            self._instrument.perform([cue for each in changes for cue in each.change.cues], at)
        except Exception:  # one of them cannot be had: find out which, and play the others
            for each in changes:
                self._perform((each,), at)
        else:
            for each in changes:
                self._confirm(each)

    def _confirm(self, taken: _Waiting) -> None:
        if not taken.change.is_plain or taken.sender not in self._subscribers:
            for echo in taken.change.echoes:
                self._reply(taken.sender, *echo)
        if taken.change.clamped and self._errors.take():
            self._reply(taken.sender, PREFIX + "error", taken.address, taken.change.clamped)

    def _tell_value(self, route: Route, sender: Peer) -> None:
        """Answer who asks for a control's value, of each voice that the address names."""
        self._flush()
        assert route.control is not None
        voices = choose_voices(route.voice, self._instrument.voices()) if route.voice else (0,)
        for voice in voices:
            value = self._instrument.get(route.control.name, voice)
            self._reply(sender, *value_echo(route, voice, value))

    # --- what is slow -------------------------------------------------------------------------------------

    def _begin(self, action: Callable[[Told], None], slow: _Slow) -> None:
        """Begin something slow; raise what it raises, and then nothing is under way."""
        if len(self._slow) == MAX_WAITING:
            raise ControlError(f"{MAX_WAITING} slow changes are under way; wait for them to end")
        serial = next(self._serials)
        self._slow[serial] = slow
        try:
            action(partial(self._end, serial))
        except Exception:
            del self._slow[serial]
            raise

    def _settle(self) -> None:
        """Pass on what other threads told, forget who has gone, and answer the syncs that can be answered."""
        self._forget_gone()
        if self._voices_changed:
            self._voices_changed = False
            self._guard(PREFIX + "voices", None, self._publisher.tell_voices)
        ended = [self._ended.popleft() for _ in range(len(self._ended))]  # before what it changed
        with self._lock:
            changed, self._changed = self._changed, {}
        for (voice, control), value in changed.items():
            self._publisher.tell_change(find(control), voice, value)
        while self._failed:
            voice, name, error = self._failed.popleft()
            self._publisher.broadcast(PREFIX + "error", find(name).voice_address(voice), error)
        for serial, outcome in ended:
            self._tell_ended(serial, outcome)
        while self._syncs and next(iter(self._slow), self._syncs[0][0]) >= self._syncs[0][0]:
            _, identity, sender = self._syncs.popleft()
            self._reply(sender, PREFIX + "synced", identity)

    def _forget_gone(self) -> None:
        while self._transport.gone:
            self._subscribers.remove(self._transport.gone.pop())
        while self._transport.refused:
            self._subscribers.refused(self._transport.refused.popleft())

    def _tell_ended(self, serial: int, error: StreamerError | None) -> None:
        slow = self._slow.pop(serial, None)
        if slow is None:  # told twice, or although it was refused
            return
        subscribed = slow.sender in self._subscribers
        if error is None:
            for echo in () if subscribed else slow.echoes:
                self._reply(slow.sender, *echo)
            self._reply(slow.sender, PREFIX + "done", slow.address, *slow.done)
        else:
            self._reply(slow.sender, PREFIX + "fail", slow.address, str(error))
            if not (subscribed and slow.echoes):  # of controls, subscribers hear from the instrument
                self._reply(slow.sender, PREFIX + "error", slow.address, str(error))

    # --- commands -----------------------------------------------------------------------------------------

    def _run_command(self, message: Message, route: Route, sender: Peer) -> None:
        check_count(route.verb, message.arguments)
        own = self._own_commands.get(route.verb)
        self._flush()
        if own is not None:
            own(message, route, sender)
            return
        HANDLERS[route.verb](
            Call(
                instrument=self._instrument,
                midi=self._midi,
                address=message.address,
                voice=route.voice,
                arguments=message.arguments,
                reply=partial(self._reply, sender),
                slow=lambda action, *done: self._begin(action, _Slow(message.address, sender, done, ())),
            )
        )

    def _listen(self, message: Message, route: Route, sender: Peer) -> None:
        if message.arguments and _port(message.arguments[0]) == 0:
            self._unsubscribe(message, route, sender)
        else:
            self._subscribe(message, route, sender)

    def _subscribe(self, message: Message, route: Route, sender: Peer) -> None:
        defaults: tuple[Argument, ...] = (0, DEFAULT_RATE, "*")
        port, rate, pattern = (*message.arguments, *defaults[len(message.arguments) :])
        subscriber = Subscriber(
            self._target(_port(port), sender),
            quantity(rate, "a rate", 0.0, MAX_RATE),
            read_pattern(str(pattern)),
        )
        for quietest in self._subscribers.add(sender, subscriber):
            self._send(quietest.target, PREFIX + "listening", 0)
        heard_at = 0 if isinstance(subscriber.target, Connection) else subscriber.target[1]
        self._send(subscriber.target, PREFIX + "listening", heard_at)
        self._publisher.tell_everything(subscriber)

    def _unsubscribe(self, message: Message, route: Route, sender: Peer) -> None:
        target = self._subscribers.reply_to(sender)
        self._subscribers.remove(sender)
        self._send(target, PREFIX + "listening", 0)

    def _target(self, port: int, sender: Peer) -> Peer:
        """Where a sender wants to hear; over TCP, always on its connection."""
        if port == 0 or isinstance(sender, Connection):
            return sender
        target = (sender[0], port)
        if self._transport.is_own(target):
            raise ControlError(f"port {port} is streamer's own; let the client receive on another")
        return target

    def _status(self, message: Message, route: Route, sender: Peer) -> None:
        if message.arguments:
            for voice in choose_voices(voice_word(message.arguments[0]), self._instrument.voices()):
                self._reply(sender, *self._publisher.voice_status_reply(voice))
        else:
            self._reply(sender, *self._publisher.status_reply())

    def _sync(self, message: Message, route: Route, sender: Peer) -> None:
        if len(self._syncs) == MAX_WAITING:
            raise ControlError("too many syncs wait already")
        self._syncs.append((next(self._serials), message.arguments[0], sender))

    def _dump(self, message: Message, route: Route, sender: Peer) -> None:
        on = quantity(message.arguments[0], "dump", 0.0, 1.0) >= 0.5
        self._dumps = _Allowance(DUMPED_PER_SECOND) if on else None
        self._reply(sender, PREFIX + "done", message.address, on)

    # --- replies ------------------------------------------------------------------------------------------

    def _own_status(self) -> Status:
        """What is added to the instrument's status."""
        return {
            "osc_listeners": len(self._subscribers),
            "osc_unreadable": self.counters.unreadable + self._transport.unreadable,
            "osc_refused": self.counters.refused,
            "osc_lost": self.lost,
            "osc_unsent": self._transport.udp.unsent,
        }

    def _refuse(self, address: str, error: StreamerError | str, sender: Peer | None) -> None:
        self.counters.refused += 1
        if sender is None or not self._errors.take():
            return
        about, text = address[:80], str(error)  # of an unknown address, the text is costly
        self._reply(sender, PREFIX + "error", about, text)
        if is_slow(address):
            self._reply(sender, PREFIX + "fail", about, text)

    def _reply(self, sender: Peer, address: object, *values: object) -> None:
        self._send(self._subscribers.reply_to(sender), str(address), *values)

    def _send(self, target: Peer, address: str, *values: object) -> None:
        self._transport.send(write_message(address, *values), target)


class _Allowance:
    """So many a second, saved up for one second at most."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(self._per_second, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _port(argument: Argument) -> int:
    return int(quantity(argument, "a port", 0, 65_535))
