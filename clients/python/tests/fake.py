"""An engine that says what a test tells it to, with the bytes of the protocol's description and not the client's."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any, Callable, Optional

PATIENCE = 20.0
"""Only a test that fails waits for so long."""
NOT_LOGGED = (1 << 64) - 1


def frame(topic: bytes, payload: bytes, head: int = 4, optional: bytes = b"") -> bytes:
    body = struct.pack(">BH", head, len(topic)) + optional + topic + payload
    return struct.pack(">I", len(body)) + body


def control(topic: str, **payload: Any) -> bytes:
    return frame(topic.encode(), json.dumps(payload).encode())


def ack(*answers: tuple[int, int, int, bytes]) -> bytes:
    """Of (status, reason, ordinal, id) each."""
    return frame(b"$esc/ack", b"".join(struct.pack(">BBQ16s", *answer) for answer in answers))


def delivered(offset: int, payload: bytes = b"", *, topic: bytes = b"a/b", epoch: int = 1, count: int = 1) -> bytes:
    """An event of the transactional class, with an id and a time."""
    place = struct.pack(">IBBHIQQ", 1, 1, count, 0, epoch, offset, 77)
    return frame(topic, payload, 0x80 | 0x40 | 0x10 | 2, b"i" * 16 + struct.pack(">Q", 55) + place)


class Peer:
    """One accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(PATIENCE)

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def read(self) -> tuple[str, bytes, bytes]:
        """Topic, payload and id of the next frame."""
        body = self._exactly(struct.unpack(">I", self._exactly(4))[0])
        head, length = struct.unpack_from(">BH", body)
        at = 3 + (16 if head & 0x80 else 0) + (8 if head & 0x40 else 0)
        event_id = body[3:19] if head & 0x80 else b""
        return body[at : at + length].decode(), body[at + length :], event_id

    def greet(self) -> None:
        topic, payload, _ = self.read()
        assert topic == "$esc/hello" and json.loads(payload)["version"] == 1, (topic, payload)
        self.send(control("$esc/ok", version=1, max_frame=1 << 20, features=["ack", "subscribe"], run_id="r"))

    def asked(self) -> dict[str, Any]:
        """The next subscribe request."""
        topic, payload, _ = self.read()
        assert topic == "$esc/subscribe", topic
        request: dict[str, Any] = json.loads(payload)
        return request

    def grant(self) -> dict[str, Any]:
        """Greets and grants the subscription; returns what was asked."""
        self.greet()
        request = self.asked()
        self.send(control("$esc/ok", sub=request["sub"]))
        return request

    def read_done(self) -> list[int]:
        topic, payload, _ = self.read()
        assert topic == "$esc/done", topic
        return [offset for (offset,) in struct.iter_unpack(">Q", payload[4:])]

    def wait_for_end(self) -> None:
        """Until the client ends the connection."""
        try:
            while True:
                self.read()
        except (EOFError, ConnectionError):
            pass


Script = Callable[[Peer], None]


class FakeEngine:
    """Runs one script for each connection, in order; each ends its connection. Then it accepts no more."""

    def __init__(self, *scripts: Script) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._failure: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, args=(scripts,))
        self._thread.start()

    def _run(self, scripts: tuple[Script, ...]) -> None:
        try:
            for script in scripts:
                connection, _ = self._listener.accept()
                with connection:
                    script(Peer(connection))
        except BaseException as failure:
            self._failure = failure
        finally:
            self._listener.close()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.join()
        if self._failure is not None and kind is None:
            raise AssertionError(f"the script of a connection failed: {self._failure!r}") from self._failure
