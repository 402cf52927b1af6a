"""Frames are packed into datagrams that are neither too large nor late."""

from __future__ import annotations

import socket
import time
import unittest

from eventstream import Closed, UdpPublisher, UsageError
from eventstream.wire import Decoder, Frame

from .fake import PATIENCE


class Datagrams(unittest.TestCase):
    def setUp(self) -> None:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind(("127.0.0.1", 0))
        self.receiver.settimeout(PATIENCE)
        self.addCleanup(self.receiver.close)

    def publisher(self, **options: float) -> UdpPublisher:
        options = {"linger": 3600.0, **options}
        limit = int(options.get("datagram_bytes", 1452))
        return UdpPublisher("127.0.0.1", self.receiver.getsockname()[1], datagram_bytes=limit, linger=options["linger"])

    def receive(self) -> tuple[int, list[Frame]]:
        data = self.receiver.recv(1 << 16)
        return len(data), Decoder().feed(data)

    def test_they_are_filled_and_not_overfilled(self) -> None:
        with self.publisher(datagram_bytes=200) as publisher:
            for number in range(10):
                publisher.publish("t", b"%08d" % number)
        frames = []
        # A frame of 40 bytes, five of which fit exactly.
        for _ in range(2):
            length, packed = self.receive()
            self.assertEqual((length, len(packed)), (200, 5))
            frames += packed
        self.assertEqual([frame.payload for frame in frames], [b"%08d" % number for number in range(10)])
        sequences = [int.from_bytes(frame.id[8:], "big") for frame in frames if frame.id is not None]
        self.assertEqual(sequences, list(range(10)))

    def test_a_large_frame_goes_alone(self) -> None:
        with self.publisher(datagram_bytes=200) as publisher:
            for size in (1, 5000, 1):
                publisher.publish("t", bytes(size))
            with self.assertRaises(UsageError):
                publisher.publish("t", bytes(65507))
        self.assertEqual([[len(f.payload) for f in self.receive()[1]] for _ in range(3)], [[1], [5000], [1]])

    def test_flush_sends_at_once_and_linger_in_time(self) -> None:
        with self.publisher() as publisher:
            publisher.publish("t", b"1")
            publisher.flush()
            self.assertEqual([frame.payload for frame in self.receive()[1]], [b"1"])
        with self.publisher(linger=0.02) as publisher:
            begun = time.monotonic()
            publisher.publish("t", b"1")
            publisher.publish("t", b"2")
            self.assertEqual([frame.payload for frame in self.receive()[1]], [b"1", b"2"])
            self.assertGreaterEqual(time.monotonic() - begun, 0.02)
            publisher.publish("t", b"3")
            self.assertEqual([frame.payload for frame in self.receive()[1]], [b"3"])

    def test_that_nobody_listens_is_no_error_and_loses_nothing_later(self) -> None:
        port = self.receiver.getsockname()[1]
        self.receiver.close()
        with UdpPublisher("127.0.0.1", port) as publisher:
            publisher.publish("t", b"lost")
            publisher.flush()
            time.sleep(0.01)
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.receiver.bind(("127.0.0.1", port))
            self.receiver.settimeout(PATIENCE)
            self.addCleanup(self.receiver.close)
            publisher.publish("t", b"heard")
            publisher.flush()
            self.assertEqual([frame.payload for frame in self.receive()[1]], [b"heard"])
        publisher.close()
        with self.assertRaises(Closed):
            publisher.publish("t", b"")
