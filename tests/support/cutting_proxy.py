"""A TCP proxy that breaks connections at given bytes."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.support.listening import CHUNK, listening, pass_on


@dataclass
class CuttingProxy:
    """Passes bytes on to a port, and does something once so many went to the server.

    Attributes:
        target: the server's port.
        cuts: total bytes after which something happens, and what, which is
            called with the port of the proxy's end of that connection; the connection ends with it.
    """

    target: int
    cuts: list[tuple[int, Callable[[int], None]]]
    passed: int = 0
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, client: socket.socket) -> None:
        pass_on(client, self.target, self._forward)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while data := client.recv(CHUNK):
            server.sendall(data)
            if self._count(len(data), server):
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                return

    def _count(self, size: int, server: socket.socket) -> bool:
        with self._lock:
            self.passed += size
            if self.done == len(self.cuts) or self.passed < self.cuts[self.done][0]:
                return False
            act = self.cuts[self.done][1]
            self.done += 1
        act(server.getsockname()[1])
        return True


@contextlib.contextmanager
def cutting_proxy(
    target: int, cuts: list[tuple[int, Callable[[int], None]]]
) -> Iterator[tuple[CuttingProxy, int]]:
    """The proxy, and its own port."""
    proxy = CuttingProxy(target, cuts)
    with listening(proxy.connect) as port:
        yield proxy, port
