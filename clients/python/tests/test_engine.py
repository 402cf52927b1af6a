"""Against the real engine: whatever happens to it, everything is acknowledged, and in the log once, under its id."""

from __future__ import annotations

import asyncio
import threading
import time
import unittest
from concurrent.futures import Future

from eventstream import (
    Acknowledgement,
    AsyncClient,
    Client,
    Closed,
    Event,
    Item,
    Position,
    Priority,
    PublishRefused,
    Reconnected,
    Status,
    Subscription,
    SubscriptionRefused,
    UdpPublisher,
    Unreachable,
    UsageError,
)

from eventstream.types import Start

from .engine import PATIENCE, Engine, free_port, needs_engine

ROUNDS = 3


def payload(number: int) -> bytes:
    return b"%d." % number + b"x" * (number % 500)


@needs_engine
class Publishing(unittest.TestCase):
    def test_each_class_has_its_status(self) -> None:
        with Engine() as engine:
            with Client(port=engine.port) as client:
                by_priority = {priority: client.publish("t", b"x", priority=priority) for priority in Priority}
                again = client.publish("t", b"x", event_id=by_priority[Priority.LOW].result(PATIENCE).event_id)
            told = {priority: future.result(PATIENCE) for priority, future in by_priority.items()}
            engine.drain()
        for priority, answer in told.items():
            expected = Status.PROCESSED if priority >= Priority.HIGH else Status.DURABLE
            self.assertEqual((answer.status, answer.reason, answer.duplicate, answer.ok), (expected, None, False, True))
        self.assertTrue(again.result().duplicate)

    def test_kills_lose_nothing_and_change_no_id(self) -> None:
        with Engine() as engine:
            futures: list[Future[Acknowledgement]] = []
            stop = threading.Event()

            def publish(client: Client) -> None:
                while not stop.is_set():
                    futures.append(client.publish("t", payload(len(futures))))

            with Client(port=engine.port, max_outstanding=200, give_up_after=None) as client:
                publishing = threading.Thread(target=publish, args=(client,))
                publishing.start()
                for _ in range(ROUNDS):
                    self.wait_for_more(futures, 300)
                    engine.kill()
                    engine.start()
                self.wait_for_more(futures, 300)
                stop.set()
                publishing.join(PATIENCE)
                client.flush(PATIENCE)
            self.check(engine, [future.result(0) for future in futures])

    def wait_for_more(self, futures: list[Future[Acknowledgement]], count: int) -> None:
        deadline, wanted = time.monotonic() + PATIENCE, len(futures) + count
        while len(futures) < wanted:
            self.assertLess(time.monotonic(), deadline, "the client publishes no more")
            time.sleep(0.001)

    def check(self, engine: Engine, answers: list[Acknowledgement]) -> None:
        """All are durable, and in the log once, in their order."""
        engine.drain()
        self.assertEqual({answer.status for answer in answers}, {Status.DURABLE})
        records = dict(engine.logged())
        self.assertEqual(len(records), len(engine.logged()), "an id is there twice")
        self.assertEqual(records, {answer.event_id: payload(number) for number, answer in enumerate(answers)})

    def test_asyncio_the_same(self) -> None:
        async def run(engine: Engine) -> list[Acknowledgement]:
            futures: list[asyncio.Future[Acknowledgement]] = []
            async with AsyncClient(port=engine.port, max_outstanding=200, give_up_after=None) as client:
                for _ in range(ROUNDS):
                    for _ in range(400):
                        futures.append(await client.publish("t", payload(len(futures))))
                    engine.kill()
                    await asyncio.sleep(0.1)  # in which the client tries in vain
                    engine.start()
                await asyncio.wait_for(client.flush(), PATIENCE)
            return list(await asyncio.gather(*futures))

        with Engine() as engine:
            self.check(engine, asyncio.run(run(engine)))

    def test_what_the_engine_refuses_fails_alone(self) -> None:
        with Engine() as engine, Client(port=engine.port) as client:
            before = [client.publish("t", b"x") for _ in range(50)]
            wrong = [client.publish("t" * 300, b"x"), client.publish("t", bytes(70_000))]
            after = [client.publish("t", b"x") for _ in range(50)]
            for future in wrong:
                with self.assertRaises(PublishRefused):
                    future.result(PATIENCE)
            self.assertEqual({future.result(PATIENCE).status for future in before + after}, {Status.DURABLE})
            ledger = engine.drain()
            self.assertEqual(sum(ledger["events"]["processed"].values()), 100)

    def test_no_more_is_outstanding_than_allowed(self) -> None:
        with Engine() as engine, Client(port=engine.port, max_outstanding=3) as client:
            futures = []
            for number in range(200):
                futures.append(client.publish("t", payload(number)))
                self.assertLessEqual(sum(not future.done() for future in futures), 3)

    def test_callbacks_may_publish_but_not_wait(self) -> None:
        with Engine() as engine, Client(port=engine.port, max_outstanding=1) as client:
            errors: list[Exception] = []
            told = threading.Event()

            def call(_: Future[Acknowledgement]) -> None:
                try:
                    client.flush()
                except UsageError as error:
                    errors.append(error)
                told.set()

            client.publish("t", b"x").add_done_callback(call)
            self.assertTrue(told.wait(PATIENCE))
            self.assertEqual(len(errors), 1)


class WithoutEngine(unittest.TestCase):
    def test_it_gives_up_and_can_begin_anew(self) -> None:
        with Client(port=free_port(), give_up_after=0.2) as client:
            for _ in range(2):
                with self.assertRaises(Unreachable) as caught:
                    client.publish("t", b"x").result(PATIENCE)
                self.assertIn("Is the engine running?", str(caught.exception))

    def test_closing_fails_what_waits(self) -> None:
        client = Client(port=free_port(), give_up_after=None, max_outstanding=1)
        future = client.publish("t", b"x")
        with self.assertRaises(TimeoutError):
            client.flush(0.05)
        blocked: list[BaseException] = []

        def publish() -> None:
            try:
                client.publish("t", b"y")
            except Closed as error:
                blocked.append(error)

        waiting = threading.Thread(target=publish)
        waiting.start()
        client.close()
        waiting.join(PATIENCE)
        self.assertEqual(len(blocked), 1)
        self.assertIsInstance(future.exception(PATIENCE), Closed)
        with self.assertRaises(Closed):
            client.publish("t", b"x")

    def test_asyncio_closing_fails_what_waits(self) -> None:
        async def run() -> None:
            client = AsyncClient(port=free_port(), give_up_after=None)
            future = await client.publish("t", b"x")
            cancelled = await client.publish("t", b"x")
            cancelled.cancel()
            await client.close()
            with self.assertRaises(Closed):
                await future
            with self.assertRaises(Closed):
                await client.publish("t", b"x")

        asyncio.run(run())

    def test_asyncio_gives_up(self) -> None:
        async def run() -> None:
            async with AsyncClient(port=free_port(), give_up_after=0.2) as client:
                for _ in range(2):
                    with self.assertRaises(Unreachable):
                        await (await client.publish("t", b"x"))

        asyncio.run(run())


def subscribe(client: Client, filter: str, start: Start = "live") -> Subscription:
    """Where the engine serves none, the test is skipped."""
    try:
        return client.subscribe(filter, start=start)
    except SubscriptionRefused as refusal:
        if refusal.code == "unsupported":
            raise unittest.SkipTest("this engine serves no subscriptions") from refusal
        raise


def taken(subscription: Subscription, count: int) -> list[Item]:
    items: list[Item] = []
    while len(items) < count:
        item = subscription.next(PATIENCE)
        assert item is not None, f"only {len(items)} of {count} come"
        items.append(item)
    return items


@needs_engine
class Subscriptions(unittest.TestCase):
    def test_a_live_one_gets_each_class(self) -> None:
        with Engine() as engine, Client(port=engine.port) as client, subscribe(client, "s/#") as subscription:
            sent = {client.publish(f"s/{p.name}", b"x", priority=p).result(PATIENCE).event_id: p for p in Priority}
            for item in taken(subscription, len(Priority)):
                assert isinstance(item, Event) and item.id is not None
                priority = sent.pop(item.id)
                expected = "REALTIME" if priority >= Priority.HIGH else "TRANSACTIONAL" if priority else "BATCH"
                self.assertEqual((item.event_class.name, item.priority), (expected, priority))
                self.assertEqual((item.topic, item.payload, item.delivery), (f"s/{priority.name}", b"x", 1))
                self.assertEqual(item.offset is None, expected == "REALTIME")
                self.assertLessEqual(item.sent_time_ns or 0, item.received_time_ns)

    def test_one_from_the_log_gets_each_event_once_though_the_engine_is_killed(self) -> None:
        with Engine() as engine, Client(port=engine.port, max_outstanding=50) as client:
            with subscribe(client, "t", "earliest") as subscription:
                items: list[Item] = []
                for _ in range(ROUNDS):
                    begun = len(items)
                    for number in range(begun, begun + 300):
                        client.publish("t", payload(number))
                    items += taken(subscription, 150)
                    engine.kill()
                    engine.start()
                    client.flush(PATIENCE)
                    items += taken(subscription, begun + 300 - len(items))
                self.assertIsNone(subscription.next(0.1))
        payloads = [item.payload for item in items if isinstance(item, Event)]
        self.assertEqual(payloads, [payload(number) for number in range(300 * ROUNDS)])

    def test_a_live_one_says_when_it_was_away(self) -> None:
        with Engine() as engine, Client(port=engine.port) as client, subscribe(client, "t") as subscription:
            engine.kill()
            engine.start()
            self.assertEqual(taken(subscription, 1), [Reconnected(truncated=False)])
            client.publish("t", b"after")
            (event,) = taken(subscription, 1)
            assert isinstance(event, Event)
            self.assertEqual(event.payload, b"after")

    def test_a_position_that_never_was_is_refused_with_one_that_is(self) -> None:
        with Engine() as engine, Client(port=engine.port) as client:
            subscribe(client, "t", "earliest").close()
            with self.assertRaises(SubscriptionRefused) as caught:
                client.subscribe("t", start=Position(1, 1000))
            self.assertEqual((caught.exception.code, caught.exception.first_valid is None), ("truncated", False))

    def test_asyncio_gets_the_same(self) -> None:
        async def run(engine: Engine) -> list[bytes]:
            payloads: list[bytes] = []
            async with AsyncClient(port=engine.port) as client:
                async with await client.subscribe("t", start="earliest") as subscription:
                    for _ in range(ROUNDS):
                        for number in range(len(payloads), len(payloads) + 100):
                            await client.publish("t", payload(number))
                        for _ in range(100):
                            item = await subscription.__anext__()
                            assert isinstance(item, Event)
                            payloads.append(item.payload)
                        engine.kill()
                        engine.start()
            return payloads

        with Engine() as engine:
            with Client(port=engine.port) as client:
                subscribe(client, "t").close()
            payloads = asyncio.run(asyncio.wait_for(run(engine), PATIENCE))
            self.assertEqual(payloads, [payload(number) for number in range(100 * ROUNDS)])


@needs_engine
class Datagrams(unittest.TestCase):
    def test_each_event_arrives(self) -> None:
        with Engine() as engine:
            with UdpPublisher(port=engine.udp_port) as publisher:
                for number in range(200):
                    publisher.publish("t", payload(number), priority=Priority.LOW)
            # The socket's buffer has room for all of them, and is read to its end.
            ledger = engine.drain()
            self.assertEqual(ledger["events"]["accepted"], 200)
            self.assertEqual([data for _, data in engine.logged()], [payload(number) for number in range(200)])
