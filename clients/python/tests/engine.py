"""The real engine as a child process: EVENTSTREAM_BIN names its binary. Started again, it has the same port."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path
from typing import Any, Optional

BINARY = os.environ.get("EVENTSTREAM_BIN")
PATIENCE = 60.0
"""Only a test that fails waits for so long."""

needs_engine = unittest.skipUnless(BINARY, "EVENTSTREAM_BIN names no engine")

_CONFIG = """
admin: {{enabled: false}}
listen: {{udp_address: 127.0.0.1, udp_port: 0, tcp_address: 127.0.0.1, tcp_port: {port}}}
control:
  socket: {folder}/control.sock
  dropping: {{queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}}
  emergency: {{queue_depth_percent: off, pool_used_percent: off, worker_latency_ms: off, loss_per_million: off}}
storage: {{directory: {folder}/data, fsync: always, segment_bytes: 1048576}}
limits: {{frame_bytes: 65536}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Engine:
    """Its log is kept over restarts, and goes with the object."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="esc-python-test-"))
        self.port = free_port()
        (self.folder / "config.yaml").write_text(_CONFIG.format(port=self.port, folder=self.folder))
        self._process: Optional[subprocess.Popen[str]] = None
        self.udp_port = 0

    def start(self) -> Engine:
        """Returns when it listens."""
        assert BINARY is not None
        # It must not outlive a test run that is killed.
        bound = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        command = [*bound, BINARY, "run", "--quiet", "--config", str(self.folder / "config.yaml")]
        command += ["--report", str(self.folder / "report.json")]
        with open(self.folder / "log", "a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        watch = threading.Timer(PATIENCE, self._process.kill)
        watch.start()
        for line in self._process.stdout:
            if line.startswith("READY "):
                watch.cancel()
                udp = next(word for word in line.split() if word.startswith("udp="))
                self.udp_port = int(udp.rsplit(":", 1)[1])
                return self
        raise AssertionError(f"the engine did not start: {(self.folder / 'log').read_text()}")

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def drain(self) -> dict[str, Any]:
        """SIGTERM; returns its ledger, which has to balance."""
        status = self._end(signal.SIGTERM)
        report = json.loads((self.folder / "report.json").read_text())
        ledger: dict[str, Any] = report["ledger"]
        assert status == 0 and ledger["balanced"] is True, (status, ledger)
        return ledger

    def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        status = self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def logged(self) -> list[tuple[bytes, bytes]]:
        """Id and payload of each record of the stream `default`, in order, after the engine has ended."""
        assert BINARY is not None
        command = [BINARY, "log", "export", "--directory", str(self.folder / "data")]
        exported = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        records = [json.loads(line) for line in exported.splitlines()]
        return [(bytes.fromhex(record["id"]), base64.b64decode(record["payload"])) for record in records]

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder)
