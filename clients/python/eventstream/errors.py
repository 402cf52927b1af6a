"""What can go wrong. Each message says what happened and what to do about it."""

from __future__ import annotations

from typing import Optional


class EventStreamError(Exception):
    """Everything that this package raises on purpose."""


class UsageError(EventStreamError, ValueError):
    """The caller asked for something that cannot be: correct the call."""


class Closed(EventStreamError):
    """The client was closed. What is still unacknowledged may or may not have been taken in."""


class Unreachable(EventStreamError, ConnectionError):
    """No connection for as long as `give_up_after` allows."""


class ConnectionBroken(EventStreamError, ConnectionError):
    """One connection ended. The client makes another; nobody sees this one but in the cause of `Unreachable`."""


class ProtocolError(EventStreamError):
    """The other side does not speak this protocol, or not this version of it."""


class PublishRefused(EventStreamError):
    """The engine refuses this event's frame as malformed. It was not taken in, and sending it again would not help."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(
            f"the engine refuses this event ({code}): {message}. Change the event, or the engine's `limits`; "
            "do not send it again as it is"
        )
        self.code = code


_ADVICE = {
    "bad_filter": "correct the filter: whole levels `+`, and `#` at the end",
    "bad_request": "the engine does not know what this client asks: use versions that belong together",
    "durable_in_use": "another connection has this durable name: close it, or use a group to share the work",
    "group_mismatch": "the group has another filter or other classes: ask for the same, or use another group name",
    "no_log": "the engine keeps no event log: set `storage.directory`, or subscribe live, without durable or group",
    "no_such_stream": "ask for a stream that is in the engine's `storage.streams`, or \"default\"",
    "realtime_not_logged": "realtime events are live only: leave the class out, or subscribe from \"live\"",
    "too_many_subscriptions": "close subscriptions that are not needed",
    "truncated": "the position is not in the log any more: go on from `first_valid`, or from \"earliest\"",
    "unsupported": "this engine does not serve subscriptions: use a newer one",
}


class SubscriptionRefused(EventStreamError):
    """The engine does not grant a subscription.

    `code` is the engine's; `first_valid` is (epoch, offset) where a refused position would be valid, if it said so.
    """

    def __init__(self, code: str, message: str, first_valid: Optional[tuple[int, int]] = None) -> None:
        advice = _ADVICE.get(code, "see the engine's log")
        super().__init__(f"subscription refused ({code}): {message}; {advice}")
        self.code = code
        self.first_valid = first_valid


class CannotResume(EventStreamError):
    """The connection broke, and no single position says where the subscription was."""

    def __init__(self) -> None:
        super().__init__(
            "the subscription reads several streams, each with offsets of its own, and its connection broke: subscribe "
            "with a durable name, whose positions the engine keeps, or once for each stream with Position(...)"
        )
