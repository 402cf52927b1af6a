"""Where a subscription is and how it goes on: the subscribing half of the protocol, without sockets or a clock.

How it goes on after its connection broke depends on who knows the position:

    live             nobody: it goes on live, and says `Reconnected`
    logged           this module: from behind the last event received, and nothing is handed out twice
    durable, group   the engine: what was not done comes again, except what the engine had not heard of

Invariant of a logged subscription: the events handed out are those of its stream from its start on, each once and in
order, except where a `Gap` or `Reconnected` stands between them.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Optional, Sequence

from . import wire
from .errors import CannotResume, ConnectionBroken, ProtocolError, SubscriptionRefused, UsageError
from .types import Dropped, Event, EventClass, FromTime, Gap, Item, Position, Reconnected, Start

_SUB = 1
"""Each subscription has a connection of its own, so that one that is not read holds up no other."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_MAX_IN_FLIGHT = 1024
"""The engine's default."""


@dataclass(frozen=True)
class Request:
    """What is asked for. None leaves the choice to the engine."""

    filter: str
    classes: Optional[Sequence[EventClass]] = None
    start: Start = "live"
    durable: Optional[str] = None
    group: Optional[str] = None
    key: Optional[str] = None
    max_in_flight: Optional[int] = None
    ack_wait_ms: Optional[int] = None
    max_deliveries: Optional[int] = None
    slow: Optional[str] = None
    resume_stream: str = "default"

    def __post_init__(self) -> None:
        if self.durable is not None and self.group is not None:
            raise UsageError("a subscription is either durable or a group's: leave one of them out")
        for name in (self.durable, self.group):
            if name is not None and not _NAME.fullmatch(name):
                raise UsageError(f"{name!r} is no name: 1 to 64 letters, digits, `_`, `.` and `-`, the first no dot")
        for_groups = (self.key, self.ack_wait_ms, self.max_deliveries)
        if self.group is None and any(value is not None for value in for_groups):
            raise UsageError("key, ack_wait_ms and max_deliveries are for groups: name the group")
        if self.max_in_flight is not None and not self.is_kept_by_engine:
            raise UsageError("max_in_flight bounds what is delivered and not done: name a durable one or a group")
        if isinstance(self.start, str) and self.start not in ("live", "earliest", "latest"):
            raise UsageError(f"start {self.start!r}: it is \"live\", \"earliest\", \"latest\", a Position or FromTime")

    @property
    def is_kept_by_engine(self) -> bool:
        return self.durable is not None or self.group is not None

    @property
    def is_logged(self) -> bool:
        """By positions that are kept here."""
        return self.start != "live" and not self.is_kept_by_engine

    def payload(self, start: Start) -> dict[str, Any]:
        """Of `$esc/subscribe`."""
        optional = {
            "classes": None if self.classes is None else [item.wire_name for item in self.classes],
            "durable": self.durable,
            "group": self.group,
            "key": self.key,
            "max_in_flight": self.max_in_flight,
            "ack_wait_ms": self.ack_wait_ms,
            "max_deliveries": self.max_deliveries,
            "slow": self.slow,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        return {"sub": _SUB, "filter": self.filter, "start": _start_on_wire(start), **given}


def _start_on_wire(start: Start) -> Any:
    if isinstance(start, Position):
        return {"epoch": start.epoch, "offset": start.offset, "stream": start.stream}
    if isinstance(start, FromTime):
        return {"time_ns": start.time_ns}
    return start


class Subscribing:
    """Over any number of connections, one after the other."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._items: deque[Item] = deque()
        self._resume: Optional[Position] = None
        """Where a logged subscription goes on."""
        self._is_mixed = False
        """Its offsets are not those of one stream."""
        self._done: OrderedDict[tuple[int, int, str], None] = OrderedDict()
        """Done, and possibly unheard of by the engine. A topic is in one stream, so this names a record."""
        self._was_granted = False
        self._disconnect()

    def _disconnect(self) -> None:
        self._decoder = wire.Decoder()
        self._output: list[bytes] = []
        self._is_connected = False
        self._is_granted = False
        self._is_greeted = False
        self._is_truncated = False
        self._was_resumed = False

    @property
    def is_granted(self) -> bool:
        """The engine delivers on this connection."""
        return self._is_granted

    def connection_made(self) -> None:
        """A new connection."""
        if self._is_mixed:
            raise CannotResume
        self._disconnect()
        self._is_connected = True
        self._output.append(wire.encode_hello())
        self._subscribe()

    def _subscribe(self) -> None:
        start = self._resume if self._resume is not None else self._request.start
        self._output.append(wire.encode_control(wire.SUBSCRIBE, self._request.payload(start)))

    def connection_lost(self) -> None:
        """What the engine delivers again is not handed out from here."""
        if self._request.is_kept_by_engine:
            self._items.clear()
        self._disconnect()

    def take_output(self) -> bytes:
        """Bytes to be sent, once."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def next_item(self) -> Optional[Item]:
        """The next one to hand out, if there is one."""
        return self._items.popleft() if self._items else None

    def done(self, events: Sequence[Event]) -> None:
        """These will not be delivered again. Of a durable or group subscription."""
        if not self._request.is_kept_by_engine:
            raise UsageError("only durable and group subscriptions have events done: name one in subscribe()")
        offsets: list[int] = []
        for event in events:
            if event.offset is None:
                raise UsageError("an event that is not logged cannot be done")
            offsets.append(event.offset)
            self._done[event.epoch, event.offset, event.topic] = None
        # The engine has no more than this under way, so no older one can be unheard of.
        while len(self._done) > (self._request.max_in_flight or _MAX_IN_FLIGHT):
            self._done.popitem(last=False)
        if self._is_granted and offsets:
            self._output.append(wire.encode_done(_SUB, offsets))

    def receive(self, data: bytes) -> None:
        """Bytes of this connection. `ConnectionBroken`: try another; any other error ends the subscription."""
        for frame in self._decoder.feed(data):
            if frame.delivery is not None:
                self._delivered(wire.event_of(frame, frame.delivery))
            elif frame.topic == wire.OK:
                self._answered()
            elif frame.topic == wire.ERROR:
                self._refused(wire.decode_json(frame.payload))
            else:
                self._noticed(frame)

    def _delivered(self, event: Event) -> None:
        if self._request.is_kept_by_engine and event.offset is not None:
            if (event.epoch, event.offset, event.topic) in self._done:
                self._output.append(wire.encode_done(_SUB, [event.offset]))
                return
        if self._request.is_logged and event.offset is not None:
            if self._resume is not None and event.offset < self._resume.offset:
                if self._was_resumed:
                    return
                self._is_mixed = True
            self._advance(event.epoch, event.offset + 1)
        self._items.append(event)

    @property
    def _stream(self) -> str:
        start = self._request.start
        return start.stream if isinstance(start, Position) else self._request.resume_stream

    def _advance(self, epoch: int, offset: int) -> None:
        self._resume = Position(epoch, offset, self._stream)

    def _answered(self) -> None:
        if not self._is_greeted:
            self._is_greeted = True
            return
        if self._is_granted:
            raise ProtocolError("an answer that nobody asked for")
        is_live = not self._request.is_logged and not self._request.is_kept_by_engine
        if self._was_granted and (is_live or self._is_truncated):
            self._items.append(Reconnected(truncated=self._is_truncated))
        self._was_resumed = self._resume is not None
        self._is_granted = self._was_granted = True

    def _refused(self, error: dict[str, Any]) -> None:
        code, message = str(error.get("code")), str(error.get("message"))
        if not self._is_greeted:
            raise ProtocolError(f"the engine does not take this client ({code}): {message}")
        if self._is_granted:
            if error.get("fatal") is True:
                raise ConnectionBroken(f"the engine ends the connection ({code}): {message}")
            raise ProtocolError(f"the engine refuses what this client sends ({code}): {message}")
        first_valid = _first_valid(error)
        if code == "truncated" and self._resume is not None and first_valid is not None:
            self._is_truncated = True
            self._advance(*first_valid)
            self._subscribe()
        elif code == "durable_in_use" and self._was_granted:
            # The connection that broke: the engine has not noticed yet.
            raise ConnectionBroken(f"the engine still has the last connection: {message}")
        else:
            raise SubscriptionRefused(code, message, first_valid)

    def _noticed(self, frame: wire.Frame) -> None:
        payload = wire.decode_json(frame.payload)
        try:
            if frame.topic == wire.GAP:
                gap = Gap(payload["stream"], payload["epoch"], payload["from"], payload["to"], payload["count"])
                if self._request.is_logged:
                    self._is_mixed |= gap.stream != self._stream
                    self._advance(gap.epoch, gap.end)
                self._items.append(gap)
            elif frame.topic == wire.DROPPED:
                self._items.append(Dropped(payload["count"]))
            else:
                raise ProtocolError(f"a frame of topic {frame.topic} that nobody asked for")
        except KeyError as error:
            raise ProtocolError(f"a frame of topic {frame.topic} without {error}") from error


def _first_valid(error: dict[str, Any]) -> Optional[tuple[int, int]]:
    place = error.get("first_valid")
    if isinstance(place, dict) and isinstance(place.get("epoch"), int) and isinstance(place.get("offset"), int):
        return place["epoch"], place["offset"]
    return None
