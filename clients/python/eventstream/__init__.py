"""Clients of EventStreamCore: publish events and learn what became of each, subscribe to them.

The modules, from the bytes up; each uses only those above it:

    errors        what can go wrong, and what to do about it
    types         what is handed out: events, notices, acknowledgements
    wire          bytes to frames and back: the only place that knows the layout
    reconnect     when to try again, and when no more
    publishing    what is unacknowledged, and what has to be sent: no sockets, no clock
    subscribing   where a subscription is, and how it goes on: no sockets, no clock
    subscription  the second over a blocking socket
    client        the first over a thread of its own, and both together
    aio           both over asyncio
    udp           frames packed into datagrams
"""

from .aio import AsyncClient, AsyncSubscription
from .client import Client
from .errors import (
    CannotResume,
    Closed,
    ConnectionBroken,
    EventStreamError,
    ProtocolError,
    PublishRefused,
    SubscriptionRefused,
    Unreachable,
    UsageError,
)
from .subscription import Subscription
from .types import (
    Acknowledgement,
    Dropped,
    Event,
    EventClass,
    FromTime,
    Gap,
    Item,
    Position,
    Priority,
    Reconnected,
    Status,
)
from .udp import UdpPublisher

__all__ = [
    "Acknowledgement",
    "AsyncClient",
    "AsyncSubscription",
    "CannotResume",
    "Client",
    "Closed",
    "ConnectionBroken",
    "Dropped",
    "Event",
    "EventClass",
    "EventStreamError",
    "FromTime",
    "Gap",
    "Item",
    "Position",
    "Priority",
    "ProtocolError",
    "PublishRefused",
    "Reconnected",
    "Status",
    "Subscription",
    "SubscriptionRefused",
    "UdpPublisher",
    "Unreachable",
    "UsageError",
]
