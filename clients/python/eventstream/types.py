"""What is handed out and asked for. All of it is immutable, and none of it knows about connections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Optional, Union


class Priority(IntEnum):
    """Decides the class of topics without an entry in the configuration, and what is shed first."""

    BATCH = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class EventClass(IntEnum):
    """How the engine works on an event. Realtime is never logged."""

    REALTIME = 0
    TRANSACTIONAL = 1
    BATCH = 2

    @property
    def wire_name(self) -> str:
        return self.name.lower()


class Status(IntEnum):
    """What has become of an event."""

    DURABLE = 1
    """In the event log, and synced."""
    WRITTEN = 2
    """In the event log, whose policy is `never`."""
    PROCESSED = 3
    """Its handler has returned, and it is not logged."""
    DEAD_LETTERED = 4
    """In the dead letter queue."""
    LOST = 5
    """Nowhere: it may be published again."""


_REASONS = {
    Status.DEAD_LETTERED: (
        "rejected",
        "retries_exhausted",
        "retry_overflow",
        "handler_panic",
        "link_full",
        "shed_dropping",
        "shed_emergency",
    ),
    Status.LOST: (
        "shed_over_budget",
        "dead_letter_link_full",
        "forgotten",
        "log_refused",
        "dead_letter_disk",
        "log_disk",
    ),
}


def reason_name(status: Status, code: int) -> Optional[str]:
    """The engine's name for a reason; a number that is newer than this client is told as one."""
    if code == 0:
        return None
    names = _REASONS.get(status, ())
    return names[code - 1] if code <= len(names) else f"reason {code}"


@dataclass(frozen=True)
class Acknowledgement:
    """The engine's answer to one published event."""

    event_id: bytes
    status: Status
    reason: Optional[str]
    duplicate: bool
    """The engine had this id already; the status is what its first copy came to."""

    @property
    def ok(self) -> bool:
        """The event did what it was meant to."""
        return self.status <= Status.PROCESSED


@dataclass(frozen=True)
class Event:
    """One event, as a subscriber gets it."""

    topic: str
    payload: bytes
    id: Optional[bytes]
    sent_time_ns: Optional[int]
    """By the publisher's clock."""
    priority: Priority
    event_class: EventClass
    delivery: int
    """1 the first time."""
    node: int
    epoch: int
    offset: Optional[int]
    """In the log, together with `epoch`; None if the event is not logged."""
    received_time_ns: int
    """By the engine's clock."""
    sub: int


@dataclass(frozen=True)
class Gap:
    """Offsets `start` up to but without `end` are not kept any more: events that will not come."""

    stream: str
    epoch: int
    start: int
    end: int
    count: int


@dataclass(frozen=True)
class Dropped:
    """So many live events were dropped because they were not read in time."""

    count: int


@dataclass(frozen=True)
class Reconnected:
    """The connection broke, and events may be missing here: of a live subscription, or because what comes next in the
    log is not what came next before (`truncated`)."""

    truncated: bool


Item = Union[Event, Gap, Dropped, Reconnected]


@dataclass(frozen=True)
class Position:
    """A place in one stream of the log."""

    epoch: int
    offset: int
    stream: str = "default"


@dataclass(frozen=True)
class FromTime:
    """What was logged from then on, in nanoseconds since the UNIX epoch."""

    time_ns: int


Start = Union[str, Position, FromTime]
