"""What is unacknowledged, and what has to be sent: the publishing half of the protocol, without sockets or a clock.

Invariants: a publication is settled exactly once, by its acknowledgement or an error; until then each new connection
sends it again, in the order of publishing, with the same bytes and so under the same id. Nothing is settled inside a
call of this module: settlements are taken, and run by whoever holds no lock.
"""

from __future__ import annotations

import secrets
import struct
import time
from dataclasses import dataclass
from typing import Callable, Optional, Union

from . import wire
from .errors import EventStreamError, ProtocolError, PublishRefused
from .types import Acknowledgement, Priority

Result = Union[Acknowledgement, EventStreamError]
Settle = Callable[[Result], None]
Settlement = tuple[Settle, Result]

_MALFORMED = "malformed"


class EventIds:
    """Ids of one producer: eight random bytes, and eight that count."""

    def __init__(self) -> None:
        self._producer = secrets.token_bytes(8)
        self._sequence = 0

    def next(self) -> bytes:
        event_id = self._producer + struct.pack(">Q", self._sequence)
        self._sequence += 1
        return event_id


@dataclass(frozen=True)
class Message:
    """An event as it goes out, each time the same."""

    event_id: bytes
    frame: bytes

    @classmethod
    def of(cls, topic: str, payload: bytes, priority: Priority, event_id: bytes) -> Message:
        frame = wire.encode(
            wire.topic_bytes(topic),
            payload,
            priority,
            event_id=event_id,
            sent_time_ns=time.time_ns(),
            flags=wire.FLAG_ACK,
        )
        return cls(event_id, frame)


@dataclass
class _Publication:
    message: Message
    settle: Settle
    start: int = 0
    """Of its frame in the stream of this connection."""


class Publishing:
    """Over any number of connections, one after the other."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Publication] = {}
        """By the number of the publication, in order."""
        self._numbers = 0
        self._settlements: list[Settlement] = []
        self._disconnect()

    def _disconnect(self) -> None:
        self._asked: dict[int, int] = {}
        """Ordinal of a frame on this connection to the number of its publication."""
        self._ordinals = 0
        self._output: list[bytes] = []
        self._position = 0
        self._is_writing = False
        self._decoder = wire.Decoder()
        self._is_greeted = False
        self._ended_by: Optional[str] = None

    @property
    def outstanding(self) -> int:
        """Published, and neither acknowledged nor failed."""
        return len(self._waiting)

    @property
    def is_greeted(self) -> bool:
        """The engine has answered on this connection."""
        return self._is_greeted

    @property
    def ended_by(self) -> Optional[str]:
        """Why the engine ends this connection, if it has said so."""
        return self._ended_by

    def publish(self, message: Message, settle: Settle) -> None:
        """Takes a message over. Sent now if there is a connection, else by the next one."""
        number = self._numbers
        self._numbers += 1
        publication = _Publication(message, settle)
        self._waiting[number] = publication
        if self._is_writing:
            self._send(number, publication)

    def connection_made(self) -> None:
        """A new connection: everything unacknowledged goes out again."""
        self._disconnect()
        self._is_writing = True
        self._append(wire.encode_hello())
        for number, publication in self._waiting.items():
            self._send(number, publication)

    def connection_lost(self) -> None:
        self._disconnect()

    def take_output(self) -> bytes:
        """Bytes to be sent, once."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def take_settlements(self) -> list[Settlement]:
        """What came out since the last call."""
        settlements, self._settlements = self._settlements, []
        return settlements

    def receive(self, data: bytes) -> None:
        """Bytes of this connection. An error means that no connection is of use."""
        for frame in self._decoder.feed(data):
            if frame.topic == wire.ACK:
                self._acknowledged(frame.payload)
            elif frame.topic == wire.OK:
                self._is_greeted = True
            elif frame.topic == wire.ERROR:
                self._refused(wire.decode_json(frame.payload))
            else:
                raise ProtocolError(f"a frame of topic {frame.topic} that nobody asked for")

    def fail_all(self, error: EventStreamError) -> None:
        """Gives up what is unacknowledged, and the connection."""
        self._settlements += [(publication.settle, error) for publication in self._waiting.values()]
        self._waiting.clear()
        self._disconnect()

    def _send(self, number: int, publication: _Publication) -> None:
        publication.start = self._position
        self._asked[self._ordinals] = number
        self._ordinals += 1
        self._append(publication.message.frame)

    def _append(self, data: bytes) -> None:
        self._position += len(data)
        self._output.append(data)

    def _acknowledged(self, payload: bytes) -> None:
        for ordinal, answer in wire.decode_acknowledgements(payload):
            number = self._asked.get(ordinal)
            publication = None if number is None else self._waiting[number]
            if number is None or publication is None or publication.message.event_id != answer.event_id:
                raise ProtocolError(f"an acknowledgement of frame {ordinal}, which did not ask for it")
            del self._asked[ordinal], self._waiting[number]
            self._settlements.append((publication.settle, answer))

    def _refused(self, error: dict[str, object]) -> None:
        """The engine reads no further, answers what it has taken in, and ends the connection."""
        code, message = str(error.get("code")), str(error.get("message"))
        if not self._is_greeted or error.get("fatal") is not True:
            raise ProtocolError(f"the engine does not take this client ({code}): {message}")
        self._ended_by = f"the engine ends the connection ({code}): {message}"
        self._is_writing = False
        self._output.clear()
        if code != _MALFORMED:
            return
        at_byte = error.get("at_byte")
        for ordinal, number in self._asked.items():
            publication = self._waiting[number]
            end = publication.start + len(publication.message.frame)
            if isinstance(at_byte, int) and publication.start <= at_byte < end:
                del self._asked[ordinal], self._waiting[number]
                self._settlements.append((publication.settle, PublishRefused(code, message)))
                return
        raise ProtocolError(f"the engine refuses this client's stream: {message}")
