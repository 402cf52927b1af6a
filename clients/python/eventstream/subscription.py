"""A subscription over a blocking socket.

It has a connection of its own, read by the thread that takes its items: nothing is read ahead for a subscriber that is
slow, and the engine sees that. `done` and `close` may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from typing import Iterator, Optional

from .errors import ConnectionBroken, EventStreamError, Unreachable
from .reconnect import Attempts, Policy
from .sockets import Link, Waker
from .subscribing import Request, Subscribing
from .types import Event, Item

_LONG_SECONDS = 3600.0
"""A wait without a limit is made of such ones."""


class Subscription(Iterator[Item]):
    """Iterate over it for `Event`s and the notices between them: `Gap`, `Dropped`, `Reconnected`. Ends when closed."""

    def __init__(self, host: str, port: int, policy: Policy, request: Request) -> None:
        self._host, self._port = host, port
        self._attempts = Attempts(policy)
        self._retry_at = 0.0
        self._turn = threading.RLock()
        """Of the thread that reads."""
        self._lock = threading.Lock()
        """Of what follows; never held while waiting."""
        self._state = Subscribing(request)
        self._link: Optional[Link] = None
        self._waker = Waker()
        self._is_closed = threading.Event()
        try:
            while not self._state.is_granted:
                self._step(_LONG_SECONDS)
        except BaseException:
            self.close()
            raise

    def __next__(self) -> Item:
        while True:
            item = self.next(_LONG_SECONDS)
            if item is not None:
                return item
            if self._is_closed.is_set():
                raise StopIteration

    def next(self, timeout: float) -> Optional[Item]:
        """The next item; None when there is none within so many seconds, or the subscription is closed."""
        deadline = time.monotonic() + timeout
        with self._turn:
            while not self._is_closed.is_set():
                with self._lock:
                    item = self._state.next_item()
                if item is not None:
                    return item
                left = deadline - time.monotonic()
                if left < 0:
                    break
                self._step(left)
        return None

    def done(self, *events: Event) -> None:
        """These need not be delivered again. Of a durable or group subscription."""
        with self._lock:
            self._state.done(events)
            self._send()
        self._waker.wake()

    def close(self) -> None:
        """Ends the subscription, and an iteration in another thread. A durable one keeps its position."""
        self._is_closed.set()
        self._waker.wake()
        with self._turn, self._lock:
            self._drop_link()
            self._waker.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _step(self, seconds: float) -> None:
        """Waits for something to happen to the connection, or makes one."""
        try:
            if self._link is None:
                self._connect(seconds)
            else:
                self._link.wait(seconds)
                self._receive(self._link)
        except ConnectionBroken as error:
            self._lost(error)
        except EventStreamError:
            self.close()
            raise

    def _connect(self, seconds: float) -> None:
        now = time.monotonic()
        self._attempts.begin(now)
        if now < self._retry_at:
            self._is_closed.wait(min(seconds, self._retry_at - now))
            return
        link = Link(self._host, self._port, self._waker)
        with self._lock:
            self._link = link
            self._state.connection_made()
            self._send()

    def _receive(self, link: Link) -> None:
        with self._lock:
            data = link.transfer()
            if data:
                self._state.receive(data)
            self._send()
            if self._state.is_granted:
                self._attempts.succeeded()

    def _send(self) -> None:
        if self._link is not None and not self._link.has_unsent:
            self._link.send(self._state.take_output())

    def _lost(self, error: ConnectionBroken) -> None:
        with self._lock:
            self._drop_link()
            self._state.connection_lost()
        now = time.monotonic()
        delay = self._attempts.next_delay(now)
        if delay is None:
            self.close()
            raise Unreachable(f"no subscription within `give_up_after`: {error}. Is the engine running?") from error
        self._retry_at = now + delay

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
