"""Bytes and frames: the same whatever pieces a stream comes in, and nothing else than the description says."""

from __future__ import annotations

import struct
import unittest

from eventstream import wire
from eventstream.errors import ProtocolError, UsageError
from eventstream.types import EventClass, Priority, Status

from . import fake


class Encoding(unittest.TestCase):
    def test_the_bytes_are_those_of_the_description(self) -> None:
        event_id = bytes(range(16))
        encoded = wire.encode(b"a/b", b"xyz", Priority.HIGH, event_id=event_id, sent_time_ns=5, flags=wire.FLAG_ACK)
        self.assertEqual(encoded, fake.frame(b"a/b", b"xyz", 0x80 | 0x40 | 0x20 | 3, event_id + struct.pack(">Q", 5)))
        self.assertEqual(wire.encode(b"t", b"", Priority.BATCH), b"\0\0\0\x04\0\0\x01t")
        self.assertEqual(wire.encode_done(7, [1, 2]), fake.frame(b"$esc/done", struct.pack(">IQQ", 7, 1, 2)))

    def test_what_the_engine_would_refuse_is_refused_here(self) -> None:
        for topic in ("", "a\0", "a/+/b", "#", "$esc/hello", "x" * 65536):
            with self.assertRaises(UsageError):
                wire.topic_bytes(topic)
        for topic in ("a+b", "a#", "$else", "x" * 65535, "ü"):
            self.assertEqual(wire.topic_bytes(topic), topic.encode())
        with self.assertRaises(UsageError):
            wire.encode(b"t", b"", 0, event_id=b"short")
        with self.assertRaises(UsageError):
            wire.encode(b"t", bytes(wire.FRAME_BYTES_MAX), 0)


class Decoding(unittest.TestCase):
    UNLOGGED = fake.delivered(fake.NOT_LOGGED, epoch=0, topic=b"c")
    STREAM = fake.delivered(3, b"p") + fake.control("$esc/ok", sub=1) + UNLOGGED

    def test_a_stream_gives_the_same_frames_in_any_pieces(self) -> None:
        whole = wire.Decoder().feed(self.STREAM)
        first, second, third = whole
        self.assertEqual(first.delivery, wire.Delivery(1, EventClass.TRANSACTIONAL, 1, 0, 1, 3, 77))
        self.assertEqual((first.topic, first.payload, first.id, first.sent_time_ns), ("a/b", b"p", b"i" * 16, 55))
        self.assertEqual((second.topic, second.payload, second.delivery), ("$esc/ok", b'{"sub": 1}', None))
        assert third.delivery is not None
        self.assertIsNone(third.delivery.offset)
        for cut in range(len(self.STREAM) + 1):
            decoder = wire.Decoder()
            self.assertEqual(decoder.feed(self.STREAM[:cut]) + decoder.feed(self.STREAM[cut:]), whole)
        decoder = wire.Decoder()
        self.assertEqual([f for byte in self.STREAM for f in decoder.feed(bytes([byte]))], whole)

    def test_what_is_no_frame_is_an_error(self) -> None:
        wrong = {
            "length": b"HTTP/1.1 400",
            "short": struct.pack(">IBH", 3, 0, 0),
            "no topic": fake.frame(b"", b"x"),
            "topic beyond": struct.pack(">IBH", 4, 0, 2) + b"a",
            "id beyond": struct.pack(">IBH", 4, 0x80, 1) + b"a",
            "delivery beyond": struct.pack(">IBH", 4, 0x10, 1) + b"a",
            "reserved": fake.frame(b"a", b"", 0x08),
            "utf-8": fake.frame(b"\xff", b""),
            "class": fake.frame(b"a", b"", 0x10, struct.pack(">IBBHIQQ", 1, 3, 1, 0, 1, 1, 1)),
        }
        for what, data in wrong.items():
            with self.subTest(what), self.assertRaises(ProtocolError):
                wire.Decoder().feed(data)

    def test_acknowledgements(self) -> None:
        answers = ((0x84, 0, 9, b"a" * 16), (5, 3, 10, b"b" * 16), (4, 200, 11, b"c" * 16))
        (frame,) = wire.Decoder().feed(fake.ack(*answers))
        (nine, first), (_, second), (_, third) = wire.decode_acknowledgements(frame.payload)
        self.assertEqual((nine, first.event_id, first.status), (9, b"a" * 16, Status.DEAD_LETTERED))
        self.assertTrue(first.duplicate and not first.ok and first.reason is None)
        self.assertEqual((second.status, second.reason, second.duplicate), (Status.LOST, "forgotten", False))
        self.assertEqual(third.reason, "reason 200")
        for payload in (b"", b"x" * 25, struct.pack(">BBQ16s", 9, 0, 0, b"")):
            with self.assertRaises(ProtocolError):
                list(wire.decode_acknowledgements(payload))
