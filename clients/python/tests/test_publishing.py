"""What is unacknowledged goes out again under the same id, and everything is settled once."""

from __future__ import annotations

import unittest
from typing import Union

from eventstream import wire
from eventstream.errors import Closed, EventStreamError, ProtocolError, PublishRefused
from eventstream.publishing import EventIds, Message, Publishing, Result
from eventstream.types import Acknowledgement, Priority, Status

from . import fake

GREETING = fake.control("$esc/ok", version=1)


class Core(unittest.TestCase):
    def setUp(self) -> None:
        self.state = Publishing()
        self.ids = EventIds()
        self.results: dict[bytes, list[Result]] = {}

    def publish(self, payload: bytes = b"") -> Message:
        message = Message.of("t", payload, Priority.LOW, self.ids.next())
        told = self.results.setdefault(message.event_id, [])
        self.state.publish(message, told.append)
        return message

    def settle(self) -> None:
        for settle, result in self.state.take_settlements():
            settle(result)

    def receive(self, *frames: bytes) -> None:
        try:
            self.state.receive(b"".join(frames))
        finally:
            self.settle()

    def connect(self) -> bytes:
        self.state.connection_made()
        output = self.state.take_output()
        hello = wire.encode_hello()
        self.assertTrue(output.startswith(hello))
        self.receive(GREETING)
        return output[len(hello) :]

    def told(self, message: Message) -> Union[Acknowledgement, EventStreamError]:
        (result,) = self.results[message.event_id]
        return result


class Publications(Core):
    def test_ids_are_of_one_producer_and_count(self) -> None:
        first, second = self.publish().event_id, self.publish().event_id
        self.assertEqual((len(first), first[:8], first[8:]), (16, second[:8], bytes(8)))
        self.assertEqual(second[8:], bytes(7) + b"\1")
        self.assertNotEqual(first[:8], EventIds().next()[:8])

    def test_each_is_sent_once_on_a_connection_and_settled_by_its_ordinal(self) -> None:
        first = self.publish(b"1")
        self.assertEqual(self.connect(), first.frame)
        second = self.publish(b"2")
        self.assertEqual(self.state.take_output(), second.frame)
        self.assertEqual(self.state.take_output(), b"")
        self.receive(fake.ack((3, 0, 1, second.event_id)))
        self.receive(fake.ack((0x81, 0, 0, first.event_id)))
        self.assertEqual(self.told(second), Acknowledgement(second.event_id, Status.PROCESSED, None, False))
        self.assertEqual(self.told(first), Acknowledgement(first.event_id, Status.DURABLE, None, True))
        self.assertEqual(self.state.outstanding, 0)

    def test_a_new_connection_gets_what_is_unacknowledged_in_order(self) -> None:
        messages = [self.publish(bytes([number])) for number in range(4)]
        self.connect()
        self.receive(fake.ack((1, 0, 2, messages[2].event_id)))
        self.state.connection_lost()
        while_away = self.publish(b"away")
        left = [messages[0], messages[1], messages[3], while_away]
        self.assertEqual(self.connect(), b"".join(message.frame for message in left))
        # Ordinals are counted anew.
        self.receive(fake.ack(*((1, 0, ordinal, message.event_id) for ordinal, message in enumerate(left))))
        self.assertTrue(all(len(results) == 1 for results in self.results.values()))

    def test_an_answer_to_nothing_is_an_error_and_loses_no_other(self) -> None:
        message = self.publish()
        good = (1, 0, 0, message.event_id)
        for bad in ((1, 0, 7, message.event_id), good, (1, 0, 1, b"x" * 16)):
            self.setUp()
            told: list[Result] = []
            for _ in range(2):
                self.state.publish(message, told.append)
            self.connect()
            with self.assertRaises(ProtocolError):
                self.receive(fake.ack(good, bad))
            self.assertEqual((len(told), self.state.outstanding), (1, 1))

    def test_failing_all_settles_each(self) -> None:
        messages = [self.publish() for _ in range(3)]
        self.connect()
        self.receive(fake.ack((3, 0, 1, messages[1].event_id)))
        error = Closed("closed")
        self.state.fail_all(error)
        self.settle()
        self.assertEqual([self.told(messages[0]), self.told(messages[2])], [error, error])
        self.assertEqual(self.state.outstanding, 0)


class Refusals(Core):
    def test_the_frame_that_is_malformed_fails_and_the_others_go_out_again(self) -> None:
        for place in ("its first byte", "its last byte"):
            with self.subTest(place):
                self.setUp()
                messages = [self.publish(bytes(10 * number)) for number in range(4)]
                self.connect()
                at = len(wire.encode_hello()) + sum(len(message.frame) for message in messages[:2])
                at += 0 if place == "its first byte" else len(messages[2].frame) - 1
                self.receive(fake.control("$esc/error", code="malformed", message="too long", at_byte=at, fatal=True))
                refused = self.told(messages[2])
                assert isinstance(refused, PublishRefused)
                self.assertEqual(refused.code, "malformed")
                # What came before is still answered; what is published now waits for the next connection.
                self.receive(fake.ack((3, 0, 0, messages[0].event_id)))
                later = self.publish(b"later")
                self.assertEqual(self.state.take_output(), b"")
                self.state.connection_lost()
                self.assertEqual(self.connect(), messages[1].frame + messages[3].frame + later.frame)

    def test_a_malformed_stream_without_a_culprit_is_an_error(self) -> None:
        self.publish()
        self.connect()
        with self.assertRaises(ProtocolError):
            self.receive(fake.control("$esc/error", code="malformed", message="?", at_byte=1, fatal=True))

    def test_other_ends_are_remembered_and_settle_nothing(self) -> None:
        message = self.publish()
        self.connect()
        self.assertIsNone(self.state.ended_by)
        self.receive(fake.control("$esc/error", code="acks_unread", message="read", at_byte=9, fatal=True))
        self.assertIn("acks_unread", self.state.ended_by or "")
        self.assertEqual(self.results[message.event_id], [])
        self.state.connection_lost()
        self.assertEqual(self.connect(), message.frame)

    def test_an_engine_that_refuses_the_greeting_is_an_error(self) -> None:
        self.state.connection_made()
        with self.assertRaises(ProtocolError):
            self.receive(fake.control("$esc/error", code="malformed", message="version", at_byte=0, fatal=True))
