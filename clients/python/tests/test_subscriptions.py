"""Subscriptions over real sockets, blocking and asyncio, against an engine that does what the test says."""

from __future__ import annotations

import asyncio
import threading
import unittest
from typing import Awaitable, Callable, Optional

from eventstream import (
    AsyncClient,
    AsyncSubscription,
    Client,
    Event,
    EventClass,
    Item,
    Priority,
    ProtocolError,
    Reconnected,
    Subscription,
    SubscriptionRefused,
    Unreachable,
)

from . import fake
from .fake import FakeEngine, Peer


EARLIER = Event("a", b"", None, None, Priority.LOW, EventClass.BATCH, 1, 0, 1, offset=9, received_time_ns=0, sub=1)


def offsets(items: list[Item]) -> list[Optional[int]]:
    return [item.offset for item in items if isinstance(item, Event)]


class Blocking(unittest.TestCase):
    def take(self, subscription: Subscription, count: int) -> list[Item]:
        taken = []
        for _ in range(count):
            item = subscription.next(fake.PATIENCE)
            assert item is not None
            taken.append(item)
        return taken

    def test_a_logged_one_goes_on_where_it_was(self) -> None:
        starts: list[object] = []

        def first(peer: Peer) -> None:
            starts.append(peer.grant()["start"])
            event = fake.delivered(2)
            peer.send(fake.delivered(0), fake.delivered(1), event[: len(event) // 2])

        def second(peer: Peer) -> None:
            starts.append(peer.grant()["start"])
            peer.send(fake.delivered(1), fake.delivered(2))
            peer.wait_for_end()

        with FakeEngine(first, second) as engine:
            with Client(port=engine.port) as client, client.subscribe("a/#", start="earliest") as subscription:
                self.assertEqual(offsets(self.take(subscription, 3)), [0, 1, 2])
                self.assertIsNone(subscription.next(0.01))
        self.assertEqual(starts, ["earliest", {"epoch": 1, "offset": 2, "stream": "default"}])

    def test_a_live_one_says_that_it_was_away(self) -> None:
        def script(peer: Peer) -> None:
            peer.grant()
            peer.send(fake.delivered(fake.NOT_LOGGED))

        with FakeEngine(script, script) as engine, Client(port=engine.port) as client:
            with client.subscribe("a/#") as subscription:
                first, notice, second = self.take(subscription, 3)
        self.assertEqual((notice, offsets([first, second])), (Reconnected(truncated=False), [None, None]))

    def test_done_reaches_the_engine_while_nobody_reads(self) -> None:
        def script(peer: Peer) -> None:
            self.assertEqual(peer.grant()["durable"], "d")
            peer.send(*(fake.delivered(offset) for offset in range(3)))
            self.assertEqual(peer.read_done(), [0, 1, 2])
            peer.send(fake.delivered(3))
            self.assertEqual(peer.read_done(), [3])
            peer.wait_for_end()

        with FakeEngine(script) as engine, Client(port=engine.port) as client:
            with client.subscribe("a/#", durable="d") as subscription:
                events = [item for item in self.take(subscription, 3) if isinstance(item, Event)]
                subscription.done(*events)
                last = self.take(subscription, 1)[0]
                assert isinstance(last, Event)
                subscription.done(last)

    def test_closing_it_ends_an_iteration_in_another_thread(self) -> None:
        def script(peer: Peer) -> None:
            peer.grant()
            peer.send(fake.delivered(0))
            peer.wait_for_end()

        with FakeEngine(script) as engine:
            subscription = Client(port=engine.port).subscribe("a/#")
            taken: list[Item] = []
            has_one = threading.Event()

            def read() -> None:
                for item in subscription:
                    taken.append(item)
                    has_one.set()

            reading = threading.Thread(target=read)
            reading.start()
            self.assertTrue(has_one.wait(fake.PATIENCE))
            subscription.close()
            reading.join(fake.PATIENCE)
            self.assertFalse(reading.is_alive())
        self.assertEqual(offsets(taken), [0])
        self.assertEqual(list(subscription), [])

    def test_refusals_and_strangers_are_errors_at_once(self) -> None:
        def refuse(peer: Peer) -> None:
            peer.greet()
            peer.asked()
            peer.send(fake.control("$esc/error", code="no_log", message="no directory", sub=1, fatal=False))
            peer.wait_for_end()

        with FakeEngine(refuse) as engine, self.assertRaises(SubscriptionRefused) as caught:
            Client(port=engine.port).subscribe("a", start="earliest")
        self.assertIn("storage.directory", str(caught.exception))
        with FakeEngine(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n")) as engine:
            with self.assertRaises(ProtocolError):
                Client(port=engine.port).subscribe("a")

    def test_without_an_engine_it_gives_up(self) -> None:
        with FakeEngine() as engine:
            pass
        with self.assertRaises(Unreachable):
            Client(port=engine.port, give_up_after=0.2).subscribe("a")


class Asyncio(unittest.TestCase):
    """The same with the driver that differs."""

    def run_with(self, engine: FakeEngine, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async def run() -> None:
            async with AsyncClient(port=engine.port, give_up_after=5.0) as client:
                await work(client)

        asyncio.run(asyncio.wait_for(run(), fake.PATIENCE))

    async def take(self, subscription: AsyncSubscription, count: int) -> list[Item]:
        return [await subscription.__anext__() for _ in range(count)]

    def test_a_durable_one_goes_on_where_the_engine_says(self) -> None:
        def first(peer: Peer) -> None:
            peer.grant()
            peer.send(fake.delivered(0), fake.delivered(1))
            self.assertEqual(peer.read_done(), [0])

        def busy(peer: Peer) -> None:
            peer.greet()
            peer.asked()
            peer.send(fake.control("$esc/error", code="durable_in_use", message="so it is", sub=1, fatal=False))
            peer.wait_for_end()

        def last(peer: Peer) -> None:
            self.assertEqual(peer.grant()["start"], "earliest")
            peer.send(fake.delivered(0, count=2), fake.delivered(1, count=2))
            self.assertEqual(peer.read_done(), [0])
            peer.wait_for_end()

        async def work(client: AsyncClient) -> None:
            async with await client.subscribe("a/#", start="earliest", durable="d") as subscription:
                items = await self.take(subscription, 2)
                assert isinstance(items[0], Event)
                subscription.done(items[0])
                (again,) = await self.take(subscription, 1)
                assert isinstance(again, Event)
                self.assertEqual((again.offset, again.delivery), (1, 2))

        with FakeEngine(first, busy, last) as engine:
            self.run_with(engine, work)

    def test_waiting_for_an_item_can_be_cut_short(self) -> None:
        def script(peer: Peer) -> None:
            peer.grant()
            peer.send(fake.delivered(0)[:9])
            topic, _, _ = peer.read()
            self.assertEqual(topic, "$esc/done")
            peer.send(fake.delivered(0)[9:])
            peer.wait_for_end()

        async def work(client: AsyncClient) -> None:
            async with await client.subscribe("a/#", group="g") as subscription:
                with self.assertRaises(asyncio.TimeoutError):
                    await asyncio.wait_for(subscription.__anext__(), 0.05)
                subscription.done(EARLIER)
                self.assertEqual(offsets(await self.take(subscription, 1)), [0])

        with FakeEngine(script) as engine:
            self.run_with(engine, work)

    def test_closing_it_ends_an_iteration_in_another_task(self) -> None:
        async def work(client: AsyncClient) -> None:
            subscription = await client.subscribe("a/#")

            async def read() -> int:
                return len([item async for item in subscription])

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            await subscription.close()
            self.assertEqual(await reading, 0)

        def script(peer: Peer) -> None:
            peer.grant()
            peer.wait_for_end()

        with FakeEngine(script) as engine:
            self.run_with(engine, work)

    def test_without_an_engine_it_gives_up(self) -> None:
        async def run() -> None:
            with self.assertRaises(Unreachable):
                await AsyncClient(port=engine.port, give_up_after=0.2).subscribe("a")

        with FakeEngine() as engine:
            pass
        asyncio.run(run())
