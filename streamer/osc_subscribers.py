"""Who hears what: ports registered for replies, subscriptions to changes and meters, and who has gone."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TypeAlias

from streamer.controls import shown
from streamer.models.errors import ControlError
from streamer.osc_tcp import Connection
from streamer.osc_udp import Address

MAX_SUBSCRIBERS = 32
MAX_RATE = 100.0
"""Meters a second that can be asked for."""
DEFAULT_RATE = 4.0
STATUS_SECONDS = 0.25
"""Between two status messages, at the least."""
PATIENCE = 5.0
"""Seconds after which a subscriber is dropped if the network says that nobody is there."""
_MAX_PATTERN = 256
# A receiver that is there has been sent several messages, for some time, without a refusal.
_SENT_IN_PEACE, _SECONDS_IN_PEACE = 10, 3.0

Peer: TypeAlias = Address | Connection
"""Where a message comes from, or goes to: a UDP address, or a TCP connection."""


@dataclass
class Subscriber:
    """One who hears of changes.

    Attributes:
        target: where messages go.
        rate: meters a second; 0 for none.
        pattern: of the addresses wanted; None for all.
    """

    target: Peer
    rate: float = DEFAULT_RATE
    pattern: re.Pattern[str] | None = None
    _next_meters: float = field(default=0.0, init=False)
    _next_status: float = field(default=0.0, init=False)
    _sent: int = field(default=0, init=False)
    _refused_since: float = field(default=math.inf, init=False)
    _refused_last: float = field(default=-math.inf, init=False)

    def wants(self, address: str) -> bool:
        """Whether a message of this address is to be sent; counts it as sent, too."""
        wanted = self.pattern is None or self.pattern.match(address) is not None
        self._sent += wanted
        return wanted

    @property
    def next_meters(self) -> float:
        """When meters are due, by the monotonic clock; never, without a rate."""
        return self._next_meters if self.rate else math.inf

    def take_meters(self, now: float) -> bool:
        """Whether meters are due; the next are then, at the same time for all of this rate."""
        if now < self.next_meters:
            return False
        self._next_meters = (now * self.rate // 1 + 1) / self.rate
        return True

    def take_status(self, now: float) -> bool:
        """Whether a status message is due along with the meters."""
        if now < self._next_status:
            return False
        self._next_status = now + STATUS_SECONDS * 0.9  # it follows the meters' grid
        return True

    def refused(self, now: float) -> bool:
        """The network says that nobody listens there; return whether it has said so for long enough."""
        there = self._sent > _SENT_IN_PEACE and now - self._refused_last > _SECONDS_IN_PEACE
        self._refused_since = now if there else min(self._refused_since, now)
        self._refused_last, self._sent = now, 0
        return now - self._refused_since > PATIENCE


def read_pattern(text: str) -> re.Pattern[str] | None:
    """What `*`, `?` and `[abc]` in a subscription mean; `*` stands for slashes, too.

    Raises:
        ControlError: it is too long.
    """
    if len(text) > _MAX_PATTERN:
        raise ControlError(f"a pattern has at most {_MAX_PATTERN} characters, unlike {shown(text)}")
    return None if text in ("", "*") else re.compile(translate(text))


class Subscribers:
    """All of them, by the peer from which they subscribed; bounded."""

    def __init__(self) -> None:
        self._by_sender: dict[Peer, Subscriber] = {}  # those heard from last are last

    def __len__(self) -> int:
        return len(self._by_sender)

    def __iter__(self) -> Iterator[Subscriber]:
        return iter(tuple(self._by_sender.values()))

    def __contains__(self, sender: Peer) -> bool:
        return sender in self._by_sender

    def reply_to(self, sender: Peer) -> Peer:
        """Where a sender wants to hear replies."""
        subscriber = self._by_sender.get(sender)
        return sender if subscriber is None else subscriber.target

    def heard_from(self, sender: Peer) -> None:
        """A sender is alive."""
        if sender in self._by_sender:
            self._by_sender[sender] = self._by_sender.pop(sender)

    def add(self, sender: Peer, subscriber: Subscriber) -> list[Subscriber]:
        """Take one in, and return those that had to go: the quietest, where there is no room.

        One entry a target, so that a patch that is opened again and again does not fill the table.
        """
        self._keep(lambda each: each.target != subscriber.target)
        self._by_sender.pop(sender, None)
        gone = []
        while len(self._by_sender) >= MAX_SUBSCRIBERS:
            gone.append(self._by_sender.pop(next(iter(self._by_sender))))
        self._by_sender[sender] = subscriber
        return gone

    def remove(self, sender: Peer) -> None:
        """End a sender's subscription, if it has one."""
        self._by_sender.pop(sender, None)

    def refused(self, target: Address) -> None:
        """The network says that nobody listens there; whoever has been refused for long is dropped."""
        now = time.monotonic()
        self._keep(lambda each: each.target != target or not each.refused(now))

    def next_meters(self) -> float:
        """When the next meters are due, by the monotonic clock."""
        return min((each.next_meters for each in self._by_sender.values()), default=math.inf)

    def _keep(self, stays: Callable[[Subscriber], bool]) -> None:
        self._by_sender = {sender: each for sender, each in self._by_sender.items() if stays(each)}
