"""The client over asyncio: the same halves of the protocol as the blocking one, driven by a task.

Everything here belongs to the event loop it was made in. Invariant: each future is resolved exactly once, at the latest
by `close`, unless its owner has cancelled it; the event is out all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import AsyncIterator, Optional, Sequence

from .errors import Closed, ConnectionBroken, EventStreamError, Unreachable, UsageError
from .publishing import EventIds, Message, Publishing, Result, Settle
from .reconnect import Attempts, Policy
from .sockets import CONNECT_SECONDS, READ_BYTES, prepare
from .subscribing import Request, Subscribing
from .types import Acknowledgement, Event, EventClass, Item, Priority, Start


class AsyncClient:
    """Publishes events, each acknowledged, and subscribes to them. Made and used inside a running event loop.

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
        self._state = Publishing()
        self._has_room = asyncio.Event()
        self._has_output = asyncio.Event()
        self._task: Optional[asyncio.Task[None]] = None
        self._is_closed = False

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        priority: Priority = Priority.MEDIUM,
        event_id: Optional[bytes] = None,
    ) -> asyncio.Future[Acknowledgement]:
        """Hands an event over; waits only for room. The future says what has become of it.

        The id is made here unless it is given: 16 bytes, the same for each attempt to publish the same thing.
        """
        await self._below(self._max_outstanding)
        if self._is_closed:
            raise Closed("the client is closed: make another to publish")
        message = Message.of(topic, payload, priority, event_id or self._ids.next())
        future: asyncio.Future[Acknowledgement] = asyncio.get_running_loop().create_future()
        self._state.publish(message, _settles(future))
        self._has_output.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def flush(self) -> None:
        """Waits until nothing is unacknowledged any more. For a limit: `asyncio.wait_for`."""
        await self._below(1)

    async def close(self) -> None:
        """Ends it at once: `flush` first. What is unacknowledged fails with `Closed`. Subscriptions stay open."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._fail(Closed("the client was closed before the engine acknowledged this event: it may have been taken in"))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, failure: object, *_: object) -> None:
        """Waits for what was published, unless there was an exception."""
        try:
            if failure is None:
                await self.flush()
        finally:
            await self.close()

    async def subscribe(
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
    ) -> AsyncSubscription:
        """Returns when the engine has granted it, on a connection of its own: see `Client.subscribe`."""
        request = Request(
            filter, classes, start, durable, group, key, max_in_flight, ack_wait_ms, max_deliveries, slow, resume_stream
        )
        subscription = AsyncSubscription(self._host, self._port, self._policy, request)
        await subscription.establish()
        return subscription

    async def _below(self, count: int) -> None:
        while self._state.outstanding >= count:
            self._has_room.clear()
            await self._has_room.wait()

    async def _run(self) -> None:
        attempts = Attempts(self._policy)
        while True:
            while self._state.outstanding == 0:
                self._has_output.clear()
                await self._has_output.wait()
            attempts.begin(time.monotonic())
            try:
                await self._serve(attempts)
            except ConnectionBroken as error:
                await self._retry(attempts, error)
            except EventStreamError as error:
                self._fail(error)
                attempts.succeeded()

    async def _serve(self, attempts: Attempts) -> None:
        """One connection, until it breaks."""
        reader, writer = await _connect(self._host, self._port)
        self._state.connection_made()
        self._has_output.set()
        writing = asyncio.create_task(self._write(writer))
        try:
            while True:
                try:
                    data = await _read(reader)
                except ConnectionBroken as error:
                    raise ConnectionBroken(self._state.ended_by or str(error)) from error
                try:
                    self._state.receive(data)
                finally:
                    self._settle()
                if self._state.is_greeted:
                    attempts.succeeded()
        finally:
            writing.cancel()
            self._state.connection_lost()
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        # Who reads learns of a broken connection, and why it broke.
        with contextlib.suppress(OSError):
            while True:
                await self._has_output.wait()
                self._has_output.clear()
                writer.write(self._state.take_output())
                await writer.drain()

    async def _retry(self, attempts: Attempts, error: ConnectionBroken) -> None:
        if self._state.outstanding == 0:
            attempts.succeeded()
            return
        delay = attempts.next_delay(time.monotonic())
        if delay is not None:
            await asyncio.sleep(delay)
            return
        failure = Unreachable(f"no acknowledgement within `give_up_after`: {error}. Is the engine running?")
        failure.__cause__ = error
        self._fail(failure)
        attempts.succeeded()

    def _fail(self, error: EventStreamError) -> None:
        self._state.fail_all(error)
        self._settle()

    def _settle(self) -> None:
        for settle, result in self._state.take_settlements():
            settle(result)
        self._has_room.set()


class AsyncSubscription(AsyncIterator[Item]):
    """Iterate over it, in one task, for `Event`s and the notices between them. Ends when closed."""

    def __init__(self, host: str, port: int, policy: Policy, request: Request) -> None:
        self._host, self._port = host, port
        self._attempts = Attempts(policy)
        self._state = Subscribing(request)
        self._reader: Optional[asyncio.StreamReader] = None
        self._writer: Optional[asyncio.StreamWriter] = None
        self._closing = asyncio.Event()

    async def establish(self) -> None:
        """Until the engine has granted it."""
        try:
            while not self._state.is_granted:
                await self._step()
        except BaseException:
            await self.close()
            raise

    async def __anext__(self) -> Item:
        while not self._closing.is_set():
            item = self._state.next_item()
            if item is not None:
                return item
            await self._step()
        raise StopAsyncIteration

    def done(self, *events: Event) -> None:
        """These need not be delivered again. Of a durable or group subscription."""
        self._state.done(events)
        self._send()

    async def close(self) -> None:
        """Ends the subscription, and an iteration in another task. A durable one keeps its position."""
        self._closing.set()
        self._drop_connection()

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _step(self) -> None:
        try:
            if self._reader is None:
                self._attempts.begin(time.monotonic())
                self._reader, self._writer = await _connect(self._host, self._port)
                self._state.connection_made()
            else:
                self._state.receive(await _read(self._reader))
                if self._state.is_granted:
                    self._attempts.succeeded()
            self._send()
        except ConnectionBroken as error:
            await self._lost(error)
        except EventStreamError:
            await self.close()
            raise

    async def _lost(self, error: ConnectionBroken) -> None:
        self._drop_connection()
        self._state.connection_lost()
        if self._closing.is_set():
            return
        delay = self._attempts.next_delay(time.monotonic())
        if delay is None:
            await self.close()
            raise Unreachable(f"no subscription within `give_up_after`: {error}. Is the engine running?") from error
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), delay)

    def _send(self) -> None:
        output = self._state.take_output()
        if output and self._writer is not None:
            self._writer.write(output)

    def _drop_connection(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def _connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_SECONDS)
        prepare(writer.get_extra_info("socket"))
    except (OSError, asyncio.TimeoutError) as error:
        raise ConnectionBroken(f"{host}:{port}: {error}") from error
    return reader, writer


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        data = await reader.read(READ_BYTES)
    except OSError as error:
        raise ConnectionBroken(str(error)) from error
    if not data:
        raise ConnectionBroken("the engine has ended the connection")
    return data


def _settles(future: asyncio.Future[Acknowledgement]) -> Settle:
    def settle(result: Result) -> None:
        if future.done():
            return  # its owner has cancelled it
        if isinstance(result, Acknowledgement):
            future.set_result(result)
        else:
            future.set_exception(result)

    return settle
