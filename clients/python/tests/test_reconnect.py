"""Delays double up to a limit, are drawn from their upper half, and end in time."""

from __future__ import annotations

import random
import unittest

from eventstream.reconnect import Attempts, Policy


class Delays(unittest.TestCase):
    def test_they_double_up_to_the_limit_and_begin_anew_after_success(self) -> None:
        attempts = Attempts(Policy(1.0, 5.0, None), random.Random(1))
        for _ in range(2):
            for full in (1, 2, 4, 5, 5, 5):
                delay = attempts.next_delay(0.0)
                assert delay is not None
                self.assertTrue(full / 2 <= delay <= full, (full, delay))
            attempts.succeeded()

    def test_they_differ_between_clients(self) -> None:
        delays = {Attempts(Policy()).next_delay(0.0) for _ in range(10)}
        self.assertGreater(len(delays), 5)

    def test_they_end_when_it_has_been_tried_for_long_enough(self) -> None:
        attempts = Attempts(Policy(1.0, 5.0, 10.0))
        attempts.begin(100.0)
        attempts.begin(105.0)
        delay = attempts.next_delay(109.8)
        assert delay is not None
        self.assertLessEqual(delay, 0.2 + 1e-9)
        self.assertIsNone(attempts.next_delay(110.0))
        attempts.succeeded()
        self.assertIsNotNone(attempts.next_delay(111.0))
