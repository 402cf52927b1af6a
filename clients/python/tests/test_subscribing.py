"""How a subscription goes on when its connection breaks."""

from __future__ import annotations

import json
import unittest
from typing import Any, Optional

from eventstream import wire
from eventstream.errors import CannotResume, ConnectionBroken, ProtocolError, SubscriptionRefused, UsageError
from eventstream.subscribing import Request, Subscribing
from eventstream.types import Dropped, Event, EventClass, FromTime, Gap, Item, Position, Reconnected

from . import fake

GREETING = fake.control("$esc/ok", version=1)
GRANT = fake.control("$esc/ok", sub=1)


def refusal(code: str, **more: Any) -> bytes:
    return fake.control("$esc/error", code=code, message="why", at_byte=0, sub=1, fatal=False, **more)


class Core(unittest.TestCase):
    def begin(self, **request: Any) -> dict[str, Any]:
        """A granted subscription; returns what was asked."""
        self.state = Subscribing(Request("a/#", **request))
        return self.connect()

    def connect(self, *answers: bytes) -> dict[str, Any]:
        self.state.connection_made()
        hello, asked = wire.Decoder().feed(self.state.take_output())
        self.assertEqual((hello.topic, asked.topic), ("$esc/hello", "$esc/subscribe"))
        self.state.receive(GREETING + b"".join(answers or (GRANT,)))
        request: dict[str, Any] = json.loads(asked.payload)
        return request

    def items(self) -> list[Item]:
        return list(iter(self.state.next_item, None))

    def offsets(self) -> list[Optional[int]]:
        items = self.items()
        return [item.offset for item in items if isinstance(item, Event)]

    def done(self) -> list[bytes]:
        return [frame.payload[4:] for frame in wire.Decoder().feed(self.state.take_output())]


class Requests(Core):
    def test_what_is_asked_is_what_was_given(self) -> None:
        self.assertEqual(self.begin(), {"sub": 1, "filter": "a/#", "start": "live"})
        self.assertTrue(self.state.is_granted)
        asked = self.begin(
            classes=[EventClass.BATCH, EventClass.REALTIME],
            start=FromTime(5),
            group="g",
            key="topic",
            max_in_flight=3,
            ack_wait_ms=100,
            max_deliveries=2,
            slow="disconnect",
        )
        expected = {"classes": ["batch", "realtime"], "start": {"time_ns": 5}, "group": "g", "key": "topic"}
        self.assertEqual({key: asked[key] for key in expected}, expected)
        self.assertEqual([asked[key] for key in ("max_in_flight", "ack_wait_ms", "max_deliveries")], [3, 100, 2])
        self.assertEqual(asked["slow"], "disconnect")

    def test_contradictions_are_refused_here(self) -> None:
        wrong: list[dict[str, Any]] = [
            {"durable": "a", "group": "b"},
            {"durable": "no space"},
            {"group": "x" * 65},
            {"durable": ".hidden"},
            {"key": "topic"},
            {"durable": "d", "key": "topic"},
            {"durable": "d", "ack_wait_ms": 100},
            {"max_deliveries": 3},
            {"max_in_flight": 3},
            {"start": "early"},
        ]
        for request in wrong:
            with self.subTest(request), self.assertRaises(UsageError):
                Request("a", **request)

    def test_a_refusal_has_the_engines_code_and_position(self) -> None:
        self.state = Subscribing(Request("a", start=Position(3, 9)))
        with self.assertRaises(SubscriptionRefused) as caught:
            self.connect(refusal("truncated", first_valid={"epoch": 2, "offset": 8}))
        self.assertEqual((caught.exception.code, caught.exception.first_valid), ("truncated", (2, 8)))
        self.assertIn("first_valid", str(caught.exception))
        for code in ("durable_in_use", "no_log", "unheard_of"):
            with self.assertRaises(SubscriptionRefused):
                self.connect(refusal(code))


class Live(Core):
    def test_it_goes_on_live_and_says_so(self) -> None:
        self.begin()
        dropped_four = fake.control("$esc/dropped", sub=1, count=4)
        self.state.receive(fake.delivered(fake.NOT_LOGGED, b"1", epoch=0) + dropped_four)
        self.state.connection_lost()
        self.assertEqual(self.connect()["start"], "live")
        self.state.receive(fake.delivered(7, b"2"))
        first, dropped, notice, second = self.items()
        assert isinstance(first, Event) and isinstance(second, Event)
        self.assertEqual((first.payload, first.offset, second.payload, second.offset), (b"1", None, b"2", 7))
        self.assertEqual((dropped, notice), (Dropped(4), Reconnected(truncated=False)))

    def test_nothing_in_it_is_done(self) -> None:
        self.begin()
        with self.assertRaises(UsageError):
            self.state.done([])

    def test_errors_afterwards_end_the_connection_or_the_subscription(self) -> None:
        self.begin()
        with self.assertRaises(ConnectionBroken):
            self.state.receive(fake.control("$esc/error", code="slow_subscriber", message="slow", fatal=True))
        nothing_of_ours = fake.ack((1, 0, 0, bytes(16)))
        for wrong in (refusal("no_such_sub"), GRANT, fake.control("$esc/dropped", sub=1), nothing_of_ours):
            self.begin()
            with self.assertRaises(ProtocolError):
                self.state.receive(wrong)


class Logged(Core):
    def test_it_goes_on_behind_the_last_event(self) -> None:
        for start in ("earliest", "latest", FromTime(1), Position(1, 4, "default")):
            self.begin(start=start)
            self.state.receive(fake.delivered(4) + fake.delivered(6))
            self.state.connection_lost()
            self.assertEqual(self.connect()["start"], {"epoch": 1, "offset": 7, "stream": "default"})
            # Whatever comes twice is handed out once.
            self.state.receive(fake.delivered(6) + fake.delivered(7) + fake.delivered(9, epoch=2))
            self.assertEqual(self.offsets(), [4, 6, 7, 9])
            self.state.connection_lost()
            self.assertEqual(self.connect()["start"], {"epoch": 2, "offset": 10, "stream": "default"})
            self.assertEqual(self.items(), [])

    def test_before_the_first_event_it_begins_where_it_was_to_begin(self) -> None:
        self.begin(start="latest")
        self.state.connection_lost()
        self.assertEqual(self.connect()["start"], "latest")
        self.assertEqual(self.items(), [])

    def test_it_goes_on_in_the_stream_it_is_in(self) -> None:
        for request in ({"start": Position(1, 0, "orders")}, {"start": "earliest", "resume_stream": "orders"}):
            self.begin(**request)
            self.state.receive(fake.delivered(0))
            self.state.connection_lost()
            self.assertEqual(self.connect()["start"], {"epoch": 1, "offset": 1, "stream": "orders"})

    def test_it_goes_on_behind_a_gap(self) -> None:
        self.begin(start="earliest")
        gap = {"stream": "default", "epoch": 1, "from": 3, "to": 8, "count": 5}
        self.state.receive(fake.delivered(2) + fake.control("$esc/gap", sub=1, **gap))
        self.state.connection_lost()
        self.assertEqual(self.connect()["start"], {"epoch": 1, "offset": 8, "stream": "default"})
        self.assertEqual(self.items()[1:], [Gap("default", 1, 3, 8, 5)])

    def test_what_was_cut_off_the_log_is_told(self) -> None:
        self.begin(start="earliest")
        self.state.receive(fake.delivered(5))
        self.state.connection_lost()
        self.connect(refusal("truncated", first_valid={"epoch": 2, "offset": 5}))
        (again,) = wire.Decoder().feed(self.state.take_output())
        self.assertEqual(json.loads(again.payload)["start"], {"epoch": 2, "offset": 5, "stream": "default"})
        self.assertFalse(self.state.is_granted)
        self.state.receive(GRANT + fake.delivered(5, b"new", epoch=2))
        _, notice, event = self.items()
        assert isinstance(event, Event)
        self.assertEqual((notice, event.payload), (Reconnected(truncated=True), b"new"))

    def test_several_streams_have_no_position(self) -> None:
        gap = {"stream": "orders", "epoch": 1, "from": 5, "to": 8, "count": 3}
        for second in (fake.delivered(1), fake.control("$esc/gap", sub=1, **gap)):
            self.begin(start="earliest")
            self.state.receive(fake.delivered(4) + second + fake.delivered(9))
            self.state.connection_lost()
            with self.assertRaises(CannotResume):
                self.state.connection_made()
            self.assertEqual(len(self.items()), 3)


class Durable(Core):
    def test_what_was_not_done_comes_again_and_what_was_done_does_not(self) -> None:
        for name in ({"durable": "d"}, {"group": "g"}):
            self.begin(start="earliest", **name)
            self.state.receive(b"".join(fake.delivered(offset) for offset in range(4)))
            first, second = self.state.next_item(), self.state.next_item()
            assert isinstance(first, Event) and isinstance(second, Event)
            self.state.done([first])
            self.assertEqual(self.done(), [bytes(8)])
            self.state.connection_lost()
            self.assertEqual(self.items(), [])
            self.state.done([second])
            self.assertEqual(self.state.take_output(), b"")
            self.assertEqual(self.connect()["start"], "earliest")
            self.state.receive(b"".join(fake.delivered(offset, count=2) for offset in range(4)))
            # What the engine had not heard of is told again.
            self.assertEqual(self.done(), [bytes(8), bytes(7) + b"\1"])
            self.assertEqual(self.offsets(), [2, 3])

    def test_the_same_offset_of_another_topic_is_another_record(self) -> None:
        self.begin(durable="d")
        self.state.receive(fake.delivered(1))
        first = self.state.next_item()
        assert isinstance(first, Event)
        self.state.done([first])
        self.state.receive(fake.delivered(1, topic=b"a/other") + fake.delivered(1, epoch=2))
        self.assertEqual(self.offsets(), [1, 1])

    def test_no_more_is_remembered_than_can_be_under_way(self) -> None:
        self.begin(durable="d", max_in_flight=2)
        self.state.receive(b"".join(fake.delivered(offset) for offset in range(3)))
        self.state.done([item for item in self.items() if isinstance(item, Event)])
        self.state.receive(b"".join(fake.delivered(offset) for offset in range(3)))
        self.assertEqual(self.offsets(), [0])

    def test_the_connection_that_broke_may_still_have_its_name(self) -> None:
        self.begin(durable="d")
        self.state.connection_lost()
        with self.assertRaises(ConnectionBroken):
            self.connect(refusal("durable_in_use"))
        self.state.connection_lost()
        self.connect()
        self.assertTrue(self.state.is_granted)
