"""Bytes to frames and back. The only module that knows the layout of version 1 of the protocol.

Invariants: what `encode` returns, the engine's parser takes; whatever way a stream is cut into pieces, `Decoder` gives
the same frames, and after it has raised it gives none.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Iterator, Optional

from .errors import ProtocolError, UsageError
from .types import Acknowledgement, Event, EventClass, Priority, Status, reason_name

VERSION = 1

FLAG_ID = 0x80
FLAG_TIME = 0x40
FLAG_ACK = 0x20
FLAG_DELIVERY = 0x10
FLAG_RESERVED = 0x08
PRIORITY_MASK = 0x07

ID_BYTES = 16
LENGTH_BYTES = 4
FRAME_BYTES_MAX = 16 << 20
"""What an engine may be configured to take at most."""
_RECEIVED_BYTES_MAX = FRAME_BYTES_MAX + 1024
"""A delivered frame has 28 bytes more than the published one."""

RESERVED_PREFIX = "$esc/"
HELLO = "$esc/hello"
OK = "$esc/ok"
ERROR = "$esc/error"
ACK = "$esc/ack"
SUBSCRIBE = "$esc/subscribe"
DONE = "$esc/done"
GAP = "$esc/gap"
DROPPED = "$esc/dropped"

_HEAD = struct.Struct(">IBH")
_TIME = struct.Struct(">Q")
_DELIVERY = struct.Struct(">IBBHIQQ")
_ACKNOWLEDGEMENT = struct.Struct(">BBQ16s")
_SUB = struct.Struct(">I")
_NOT_LOGGED = (1 << 64) - 1
_DUPLICATE = 0x80


@dataclass(frozen=True)
class Delivery:
    """What the engine adds to an event for a subscriber."""

    sub: int
    event_class: EventClass
    count: int
    node: int
    epoch: int
    offset: Optional[int]
    received_time_ns: int


@dataclass(frozen=True)
class Frame:
    """One frame as it was received."""

    topic: str
    payload: bytes
    priority: Priority
    id: Optional[bytes]
    sent_time_ns: Optional[int]
    delivery: Optional[Delivery]


def topic_bytes(topic: str) -> bytes:
    """A topic that may be published, encoded. Its length is limited further by the engine's configuration."""
    encoded = topic.encode()
    if not 1 <= len(encoded) <= 0xFFFF:
        raise UsageError(f"a topic has 1 to 65535 bytes, this one {len(encoded)}")
    if "\0" in topic:
        raise UsageError("a topic must not contain a NUL")
    if topic.startswith(RESERVED_PREFIX):
        raise UsageError(f"topics that start with {RESERVED_PREFIX} are the protocol's own: publish to another")
    if not {"+", "#"}.isdisjoint(topic.split("/")):
        raise UsageError("`+` and `#` as a level stand for others in filters: publish to a topic without them")
    return encoded


def encode(
    topic: bytes,
    payload: bytes,
    priority: int,
    *,
    event_id: Optional[bytes] = None,
    sent_time_ns: Optional[int] = None,
    flags: int = 0,
) -> bytes:
    """One frame."""
    optional = b""
    if event_id is not None:
        if len(event_id) != ID_BYTES:
            raise UsageError(f"an event id has {ID_BYTES} bytes, this one {len(event_id)}")
        flags |= FLAG_ID
        optional = event_id
    if sent_time_ns is not None:
        flags |= FLAG_TIME
        optional += _TIME.pack(sent_time_ns)
    length = _HEAD.size - LENGTH_BYTES + len(optional) + len(topic) + len(payload)
    if length > FRAME_BYTES_MAX:
        raise UsageError(f"a frame has at most {FRAME_BYTES_MAX} bytes, this one {length}: split the payload")
    return b"".join((_HEAD.pack(length, flags | priority, len(topic)), optional, topic, payload))


def encode_control(topic: str, payload: dict[str, Any]) -> bytes:
    """A request."""
    return encode(topic.encode(), json.dumps(payload).encode(), Priority.CRITICAL)


def encode_hello() -> bytes:
    """What each connection begins with."""
    return encode_control(HELLO, {"version": VERSION, "client": "eventstream-python"})


def encode_done(sub: int, offsets: list[int]) -> bytes:
    """These records of a subscription are done."""
    payload = _SUB.pack(sub) + struct.pack(f">{len(offsets)}Q", *offsets)
    return encode(DONE.encode(), payload, Priority.CRITICAL)


def decode_acknowledgements(payload: bytes) -> Iterator[tuple[int, Acknowledgement]]:
    """Ordinal and content of each answer in an `$esc/ack` frame."""
    if not payload or len(payload) % _ACKNOWLEDGEMENT.size:
        raise ProtocolError(f"an acknowledgement frame of {len(payload)} bytes")
    for head, reason, ordinal, event_id in _ACKNOWLEDGEMENT.iter_unpack(payload):
        try:
            status = Status(head & ~_DUPLICATE)
        except ValueError as error:
            raise ProtocolError(f"an acknowledgement with status {head:#x}: use a newer client") from error
        yield ordinal, Acknowledgement(event_id, status, reason_name(status, reason), bool(head & _DUPLICATE))


def event_of(frame: Frame, delivery: Delivery) -> Event:
    """A delivered frame, as it is handed out."""
    return Event(
        topic=frame.topic,
        payload=frame.payload,
        id=frame.id,
        sent_time_ns=frame.sent_time_ns,
        priority=frame.priority,
        event_class=delivery.event_class,
        delivery=delivery.count,
        node=delivery.node,
        epoch=delivery.epoch,
        offset=delivery.offset,
        received_time_ns=delivery.received_time_ns,
        sub=delivery.sub,
    )


class Decoder:
    """A stream's bytes, in any pieces, to its frames."""

    def __init__(self) -> None:
        self._carry = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        self._carry += data
        carry, position = self._carry, 0
        frames: list[Frame] = []
        while len(carry) - position >= LENGTH_BYTES:
            length = int.from_bytes(carry[position : position + LENGTH_BYTES], "big")
            if not _HEAD.size - LENGTH_BYTES < length <= _RECEIVED_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes: this is not an EventStreamCore engine")
            end = position + LENGTH_BYTES + length
            if len(carry) < end:
                break
            frames.append(_parse(bytes(carry[position:end])))
            position = end
        del carry[:position]
        return frames


def decode_json(payload: bytes) -> dict[str, Any]:
    """A control frame's payload."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise ProtocolError(f"a control frame that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError("a control frame that is no JSON object")
    return value


def _parse(frame: bytes) -> Frame:
    try:
        return _parse_fields(frame)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"a frame that cannot be read ({error}): this is not an EventStreamCore engine") from error


def _parse_fields(frame: bytes) -> Frame:
    _, head, topic_length = _HEAD.unpack_from(frame)
    position = _HEAD.size
    event_id: Optional[bytes] = None
    sent_time_ns: Optional[int] = None
    delivery: Optional[Delivery] = None
    if head & FLAG_RESERVED:
        raise ValueError("a reserved flag")
    if head & FLAG_ID:
        event_id = frame[position : position + ID_BYTES]
        position += ID_BYTES
    if head & FLAG_TIME:
        (sent_time_ns,) = _TIME.unpack_from(frame, position)
        position += _TIME.size
    if head & FLAG_DELIVERY:
        delivery = _delivery(frame, position)
        position += _DELIVERY.size
    end = position + topic_length
    if topic_length == 0 or end > len(frame):
        raise ValueError("its topic does not fit")
    priority = Priority(min(head & PRIORITY_MASK, Priority.CRITICAL))
    return Frame(frame[position:end].decode(), frame[end:], priority, event_id, sent_time_ns, delivery)


def _delivery(frame: bytes, position: int) -> Delivery:
    sub, event_class, count, node, epoch, offset, received = _DELIVERY.unpack_from(frame, position)
    place = None if offset == _NOT_LOGGED else offset
    return Delivery(sub, EventClass(event_class), count, node, epoch, place, received)
