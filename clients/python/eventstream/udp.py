"""Events over UDP: packed into datagrams, never acknowledged.

Invariant: a datagram has whole frames in the order of publishing, at most `datagram_bytes` of them unless a single one
is larger. The ids count, so that whoever reads them can tell what was lost.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Optional

from . import wire
from .errors import Closed, UsageError
from .publishing import EventIds
from .types import Priority

DATAGRAM_BYTES = 1452
"""What an Ethernet packet of 1500 bytes holds beside the headers of IPv6 and UDP."""
_DATAGRAM_BYTES_MAX = 65507


class UdpPublisher:
    """Sends a datagram when the next frame would not fit, `linger` seconds after its first frame, or when flushed.

    May be used from any number of threads.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8082,
        *,
        datagram_bytes: int = DATAGRAM_BYTES,
        linger: float = 0.005,
    ) -> None:
        if not 1 <= datagram_bytes <= _DATAGRAM_BYTES_MAX:
            raise UsageError(f"datagram_bytes is 1 to {_DATAGRAM_BYTES_MAX}")
        if linger <= 0:
            raise UsageError("linger is above 0 seconds: to send at once, call flush")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._address = address
        # Not connected: a connected socket reports that nobody listened instead of sending the next datagram.
        self._socket = socket.socket(family, kind, protocol)
        self._datagram_bytes = datagram_bytes
        self._linger = linger
        self._ids = EventIds()
        self._frames = bytearray()
        self._due: Optional[float] = None
        self._failure: Optional[OSError] = None
        """Of a datagram that was sent by time: for the next caller."""
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="eventstream-udp", daemon=True)
        self._thread.start()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        priority: Priority = Priority.MEDIUM,
        event_id: Optional[bytes] = None,
    ) -> None:
        """Packs an event. What the kernel or the network drops, nobody reports."""
        encoded = wire.topic_bytes(topic)
        with self._changed:
            if self._is_closed:
                raise Closed("the publisher is closed: make another")
            self._raise_failure()
            frame = wire.encode(
                encoded, payload, priority, event_id=event_id or self._ids.next(), sent_time_ns=time.time_ns()
            )
            if len(frame) > _DATAGRAM_BYTES_MAX:
                raise UsageError(f"no datagram holds a frame of {len(frame)} bytes: publish it over TCP")
            if len(self._frames) + len(frame) > self._datagram_bytes:
                self._send()
            if not self._frames:
                self._due = time.monotonic() + self._linger
                self._changed.notify()
            self._frames += frame

    def flush(self) -> None:
        """Sends what is packed."""
        with self._changed:
            self._raise_failure()
            self._send()

    def close(self) -> None:
        """Sends what is packed, and ends."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify()
            try:
                self._send()
            finally:
                self._socket.close()
        self._thread.join()

    def __enter__(self) -> UdpPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _send(self) -> None:
        datagram, self._due = bytes(self._frames), None
        self._frames.clear()
        if datagram:
            self._socket.sendto(datagram, self._address)

    def _send_late(self) -> None:
        try:
            self._send()
        except OSError as error:
            self._failure = error

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                now = time.monotonic()
                if self._due is not None and self._due <= now:
                    self._send_late()
                self._changed.wait(None if self._due is None else self._due - now)
