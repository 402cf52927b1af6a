"""The examples run as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path

from . import fake
from .engine import PATIENCE, Engine, needs_engine
from .fake import FakeEngine, Peer

HERE = Path(__file__).resolve().parent.parent


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(HERE / "examples" / arguments[0]), *arguments[1:]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def said(*arguments: str) -> str:
    with start(*arguments) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return output


class Examples(unittest.TestCase):
    @needs_engine
    def test_publish_and_udp(self) -> None:
        with Engine() as engine:
            self.assertEqual(said("publish.py", str(engine.port)), "Counter({'DURABLE': 10000})\n")
            self.assertIn("sent", said("udp.py", str(engine.udp_port)))
            ledger = engine.drain()
        self.assertEqual(ledger["events"]["processed"]["transactional"], 10_000)
        # Of datagrams some may be lost to a full socket, and are counted.
        self.assertGreater(ledger["events"]["processed"]["realtime"], 0)

    def test_subscribe(self) -> None:
        def script(peer: Peer) -> None:
            self.assertEqual(peer.grant()["filter"], "a/#")
            peer.send(fake.delivered(0, b"hello"))
            peer.wait_for_end()

        with FakeEngine(script) as engine, start("subscribe.py", "a/#", str(engine.port)) as process:
            assert process.stdout is not None and process.stderr is not None
            try:
                self.assertEqual(process.stdout.readline(), "a/b TRANSACTIONAL b'hello'\n")
            finally:
                process.terminate()
