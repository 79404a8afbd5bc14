"""A TCP proxy before Redis that misbehaves at one command, and lets all others pass."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit

from tests.support.listening import CHUNK, listening


class Fault(Enum):
    """What happens to the next command that holds the marker."""

    NONE = auto()
    #: Redis executes it, and its answer is lost.
    LOSE_ANSWER = auto()
    #: It reaches Redis late, when the test says so; all others pass.
    DELAY = auto()
    #: It and all that is sent afterwards reach Redis late, in the order in which it was sent.
    STALL = auto()


@dataclass
class RedisProxy:
    """Passes bytes on to a port.

    Attributes:
        target: Redis's port.
        url: the URL that leads through it.
        marker: stands in the command that is to suffer.
        fault: for the next such command.
    """

    target: int
    marker: bytes
    url: str = ""
    fault: Fault = Fault.NONE
    met: threading.Event = field(default_factory=threading.Event)
    _held: list[tuple[socket.socket, bytes]] = field(default_factory=list)
    _stalled: bool = False
    servers: list[socket.socket] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        """What was held goes to Redis now, piece by piece, and each piece is answered."""
        with self._lock:
            self._stalled = False
            for server, data in self._held:
                server.sendall(data)
                server.settimeout(10)
                assert server.recv(CHUNK)
            self._held.clear()

    def connect(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        self.servers.append(server)
        with client, contextlib.suppress(OSError):
            answered = True
            while data := client.recv(CHUNK):
                answered = answered and self._forward(server, data)
                if answered:
                    client.sendall(server.recv(CHUNK))

    def _forward(self, server: socket.socket, data: bytes) -> bool:
        """Is its answer to be passed back?"""
        with self._lock:
            fault = self.fault if self.marker in data else Fault.NONE
            if fault is not Fault.NONE:
                self.fault = Fault.NONE
                self._stalled = fault is Fault.STALL
                self.met.set()
            if self._stalled or fault is Fault.DELAY:
                self._held.append((server, data))
                return False
            server.sendall(data)
            return fault is not Fault.LOSE_ANSWER


@contextlib.contextmanager
def redis_proxy(url: str, marker: bytes) -> Iterator[RedisProxy]:
    """The proxy before the server of a URL."""
    parts = urlsplit(url)
    proxy = RedisProxy(parts.port or 6379, marker)
    with listening(proxy.connect) as port:
        place = f"{parts.netloc.rpartition(':')[0]}:{port}"
        proxy.url = parts._replace(netloc=place).geturl()
        yield proxy
        for server in proxy.servers:
            server.close()
