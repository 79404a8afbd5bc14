"""A TCP proxy that passes on so many bytes a second, of all its connections together."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.listening import CHUNK, listening, pass_on


@dataclass
class _ThrottlingProxy:
    """Passes bytes on to a port; those to the server share its rate."""

    target: int
    bytes_per_second: float
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _free_at: float = 0.0

    def connect(self, client: socket.socket) -> None:
        pass_on(client, self.target, self._forward)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while data := client.recv(CHUNK):
            self._await_room(len(data))
            server.sendall(data)

    def _await_room(self, size: int) -> None:
        with self._lock:
            now = time.monotonic()
            at = max(now, self._free_at)
            self._free_at = at + size / self.bytes_per_second
        time.sleep(at - now)


@contextlib.contextmanager
def throttling_proxy(target: int, bytes_per_second: float) -> Iterator[int]:
    """Its port."""
    with listening(_ThrottlingProxy(target, bytes_per_second).connect) as port:
        yield port
