"""A blocking connection that can be waited for together with a wake-up from another thread."""

from __future__ import annotations

import selectors
import socket
from typing import Optional

from .errors import ConnectionBroken

CONNECT_SECONDS = 10.0
READ_BYTES = 1 << 16
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""An engine whose machine is gone ends no connection: ask after so many silent seconds, so often."""


def prepare(connection: socket.socket) -> None:
    """Small frames at once, and an end for connections whose other side is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Waker:
    """Ends a wait from another thread."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def wake(self) -> None:
        try:
            self._writer.send(b"w")
        except (BlockingIOError, OSError):
            pass  # full: it will wake; closed: nobody waits

    def clear(self) -> None:
        try:
            while self.reader.recv(1024):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


class Link:
    """One connection, whose socket never blocks. `wait` is one thread's; the rest needs the owner's lock."""

    def __init__(self, host: str, port: int, waker: Waker) -> None:
        try:
            self._socket = socket.create_connection((host, port), CONNECT_SECONDS)
        except OSError as error:
            raise ConnectionBroken(f"{host}:{port}: {error}") from error
        self._waker = waker
        self._unsent = memoryview(b"")
        self._selector = selectors.DefaultSelector()
        try:
            self._socket.setblocking(False)
            prepare(self._socket)
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._selector.register(waker.reader, selectors.EVENT_READ)
        except OSError as error:
            self.close()
            raise ConnectionBroken(str(error)) from error

    @property
    def has_unsent(self) -> bool:
        return len(self._unsent) > 0

    def send(self, data: bytes) -> None:
        """Sends what the socket takes; `transfer` sends the rest. Only when nothing is unsent."""
        self._unsent = memoryview(data)
        self._send_unsent()

    def wait(self, timeout: Optional[float]) -> None:
        """Until there is something to transfer, a wake-up, or the timeout."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.has_unsent else 0)
        if self._selector.get_key(self._socket).events != wanted:
            self._selector.modify(self._socket, wanted)
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._waker.reader:
                self._waker.clear()

    def transfer(self) -> bytes:
        """Sends what is unsent and returns what has come, as far as both go without waiting."""
        self._send_unsent()
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ConnectionBroken(str(error)) from error
        if not data:
            raise ConnectionBroken("the engine has ended the connection")
        return data

    def _send_unsent(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            # What the engine has said before it ended the connection is still to be read, and tells why.
            self._unsent = memoryview(b"")

    def close(self) -> None:
        self._selector.close()
        self._socket.close()
