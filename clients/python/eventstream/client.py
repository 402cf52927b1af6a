"""The blocking client: publishes by a thread of its own, and opens subscriptions.

The thread has the only publishing connection, made when there is something to publish. Callers hand it events under a
lock; it runs what settles them without that lock. Invariant: each future is resolved exactly once, at the latest by
`close`.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Optional, Sequence

from .errors import Closed, ConnectionBroken, EventStreamError, Unreachable, UsageError
from .publishing import EventIds, Message, Publishing, Result, Settle
from .reconnect import Attempts, Policy
from .sockets import Link, Waker
from .subscribing import Request
from .subscription import Subscription
from .types import Acknowledgement, EventClass, Priority, Start


class Client:
    """Publishes events, each acknowledged, and subscribes to them. May be used from any number of threads.

    A connection that breaks is made again, and what is unacknowledged is sent again under the same ids: where the
    engine deduplicates, it is processed once. After `give_up_after` seconds without an engine what waits fails with
    `Unreachable`; None waits for ever. At most `max_outstanding` events are unacknowledged; `publish` waits for room.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8081,
        *,
        max_outstanding: int = 1024,
        give_up_after: Optional[float] = 30.0,
    ) -> None:
        if max_outstanding < 1:
            raise UsageError("max_outstanding is at least 1")
        self._host, self._port = host, port
        self._policy = Policy(give_up_after=give_up_after)
        self._max_outstanding = max_outstanding
        self._ids = EventIds()
        self._lock = threading.Lock()
        """Of what follows; never held while waiting or settling."""
        self._room = threading.Condition(self._lock)
        self._work = threading.Condition(self._lock)
        self._state = Publishing()
        self._unsettled = 0
        self._thread: Optional[threading.Thread] = None
        self._is_waiting = False
        """The thread waits for its connection, and has to be woken for what is published."""
        self._is_closed = False
        self._closing = threading.Event()
        self._waker: Optional[Waker] = None

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        priority: Priority = Priority.MEDIUM,
        event_id: Optional[bytes] = None,
    ) -> Future[Acknowledgement]:
        """Hands an event over; waits only for room. The future says what has become of it.

        The id is made here unless it is given: 16 bytes, the same for each attempt to publish the same thing.
        """
        future: Future[Acknowledgement] = Future()
        future.set_running_or_notify_cancel()  # what is handed over is not taken back
        with self._lock:
            self._wait_for_room()
            message = Message.of(topic, payload, priority, event_id or self._ids.next())
            self._state.publish(message, _settles(future))
            self._unsettled += 1
            self._start_thread()
            self._work.notify()
            is_waiting, self._is_waiting = self._is_waiting, False
        if is_waiting:
            self._wake()
        return future

    def flush(self, timeout: Optional[float] = None) -> None:
        """Waits until nothing is unacknowledged any more, and the futures' callbacks have run."""
        with self._lock:
            self._not_from_callback()
            if not self._room.wait_for(lambda: self._unsettled == 0, timeout):
                raise TimeoutError(f"{self._unsettled} events are unacknowledged after {timeout} s: wait for longer")

    def close(self) -> None:
        """Ends it at once: `flush` first. What is unacknowledged fails with `Closed`. Subscriptions stay open."""
        with self._lock:
            self._is_closed = True
            self._closing.set()
            self._work.notify()
            self._room.notify_all()
            thread = self._thread
        self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Waits for what was published, unless there was an exception."""
        try:
            if failure is None:
                self.flush()
        finally:
            self.close()

    def subscribe(
        self,
        filter: str,
        *,
        classes: Optional[Sequence[EventClass]] = None,
        start: Start = "live",
        durable: Optional[str] = None,
        group: Optional[str] = None,
        key: Optional[str] = None,
        max_in_flight: Optional[int] = None,
        ack_wait_ms: Optional[int] = None,
        max_deliveries: Optional[int] = None,
        slow: Optional[str] = None,
        resume_stream: str = "default",
    ) -> Subscription:
        """Returns when the engine has granted it, on a connection of its own: see the protocol for what each means.

        `resume_stream` is where a subscription from "earliest", "latest" or a time goes on after its connection broke:
        the stream of `storage.streams` that its topics are in.
        """
        request = Request(
            filter, classes, start, durable, group, key, max_in_flight, ack_wait_ms, max_deliveries, slow, resume_stream
        )
        return Subscription(self._host, self._port, self._policy, request)

    def _wait_for_room(self) -> None:
        while self._unsettled >= self._max_outstanding and not self._is_closed:
            self._not_from_callback()
            self._room.wait()
        if self._is_closed:
            raise Closed("the client is closed: make another to publish")

    def _not_from_callback(self) -> None:
        if threading.current_thread() is self._thread:
            raise UsageError("a callback of a future cannot wait for others to be settled: wait in another thread")

    def _wake(self) -> None:
        if self._waker is not None:
            self._waker.wake()

    def _start_thread(self) -> None:
        if self._thread is None:
            self._waker = Waker()
            self._thread = threading.Thread(
                target=self._run, args=(self._waker,), name="eventstream-publisher", daemon=True
            )
            self._thread.start()

    def _run(self, waker: Waker) -> None:
        attempts = Attempts(self._policy)
        while self._wait_for_work():
            attempts.begin(time.monotonic())
            try:
                self._serve(attempts, waker)
            except ConnectionBroken as error:
                self._retry(attempts, error)
            except EventStreamError as error:
                self._fail(error)
                attempts.succeeded()
        self._fail(Closed("the client was closed before the engine acknowledged this event: it may have been taken in"))
        waker.close()

    def _wait_for_work(self) -> bool:
        with self._lock:
            self._work.wait_for(lambda: self._is_closed or self._state.outstanding > 0)
            return not self._is_closed

    def _serve(self, attempts: Attempts, waker: Waker) -> None:
        """One connection, until it breaks or the client is closed."""
        link = Link(self._host, self._port, waker)
        try:
            with self._lock:
                self._state.connection_made()
            while self._exchange(link):
                if self._state.is_greeted:
                    attempts.succeeded()
        finally:
            with self._lock:
                self._is_waiting = False
                self._state.connection_lost()
            link.close()

    def _exchange(self, link: Link) -> bool:
        with self._lock:
            if self._is_closed:
                return False
            if not link.has_unsent:
                link.send(self._state.take_output())
            self._is_waiting = True
        link.wait(None)
        try:
            with self._lock:
                self._is_waiting = False
                self._state.receive(self._transfer(link))
        finally:
            self._settle()
        return True

    def _transfer(self, link: Link) -> bytes:
        try:
            return link.transfer()
        except ConnectionBroken as error:
            raise ConnectionBroken(self._state.ended_by or str(error)) from error

    def _retry(self, attempts: Attempts, error: ConnectionBroken) -> None:
        with self._lock:
            is_needed = self._state.outstanding > 0
        if not is_needed:
            attempts.succeeded()
            return
        delay = attempts.next_delay(time.monotonic())
        if delay is not None:
            self._closing.wait(delay)
            return
        failure = Unreachable(f"no acknowledgement within `give_up_after`: {error}. Is the engine running?")
        failure.__cause__ = error
        self._fail(failure)
        attempts.succeeded()

    def _fail(self, error: EventStreamError) -> None:
        with self._lock:
            self._state.fail_all(error)
        self._settle()

    def _settle(self) -> None:
        """Without the lock: futures run callbacks."""
        with self._lock:
            settlements = self._state.take_settlements()
        for settle, result in settlements:
            settle(result)
        if settlements:
            with self._lock:
                self._unsettled -= len(settlements)
                self._room.notify_all()


def _settles(future: Future[Acknowledgement]) -> Settle:
    def settle(result: Result) -> None:
        if isinstance(result, Acknowledgement):
            future.set_result(result)
        else:
            future.set_exception(result)

    return settle
