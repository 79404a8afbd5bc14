"""A TCP proxy that passes on so many bytes a second, of all its connections together."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.listening import listening

_CHUNK = 2**16


@dataclass
class _ThrottlingProxy:
    """Passes bytes on to a port; those to the server share its rate."""

    target: int
    bytes_per_second: float
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _free_at: float = 0.0

    def connect(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self.target))
            with server:
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                while data := client.recv(_CHUNK):
                    self._await_room(len(data))
                    server.sendall(data)
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                back.join()

    def _await_room(self, size: int) -> None:
        with self._lock:
            now = time.monotonic()
            at = max(now, self._free_at)
            self._free_at = at + size / self.bytes_per_second
        time.sleep(at - now)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def throttling_proxy(target: int, bytes_per_second: float) -> Iterator[int]:
    """Its port."""
    with listening(_ThrottlingProxy(target, bytes_per_second).connect) as port:
        yield port
