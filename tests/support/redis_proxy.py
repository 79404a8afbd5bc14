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
class _Link:
    """A client's connection, and the one to Redis that belongs to it.

    Attributes:
        tail: the end of what the client has sent: the marker may come in two pieces.
        held: what it sends is kept for later.
        silent: Redis's answers are not passed back.
        answered: set when Redis says something.
    """

    client: socket.socket
    server: socket.socket
    tail: bytes = b""
    held: bool = False
    silent: bool = False
    answered: threading.Event = field(default_factory=threading.Event)

    def pass_back(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.server.recv(CHUNK):
                self.answered.set()
                if not self.silent:
                    self.client.sendall(data)
            self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with self.server, contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)


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
    links: list[_Link] = field(default_factory=list)
    _held: list[tuple[_Link, bytearray]] = field(default_factory=list)
    _stalled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        """What was held goes to Redis now, one connection's after another's, and is answered."""
        with self._lock:
            self._stalled = False
            for link, data in self._held:
                link.answered.clear()
                link.server.sendall(data)
                assert link.answered.wait(30)
            self._held.clear()

    def connect(self, client: socket.socket) -> None:
        link = _Link(client, socket.create_connection(("127.0.0.1", self.target)))
        self.links.append(link)
        threading.Thread(target=link.pass_back, daemon=True).start()
        with client, contextlib.suppress(OSError):
            while data := client.recv(CHUNK):
                self._forward(link, data)
        if not link.held:
            link.close()

    def _forward(self, link: _Link, data: bytes) -> None:
        with self._lock:
            sent = link.tail + data
            link.tail = sent[1 - len(self.marker) :]
            fault = self.fault if self.marker in sent else Fault.NONE
            if fault is not Fault.NONE:
                self.fault = Fault.NONE
                self._stalled = fault is Fault.STALL
                link.silent, link.held = True, fault is Fault.DELAY
                self.met.set()
            if self._stalled:
                link.silent = link.held = True
            if not link.held:
                link.server.sendall(data)
            elif self._held and self._held[-1][0] is link:
                self._held[-1][1].extend(data)
            else:
                self._held.append((link, bytearray(data)))


@contextlib.contextmanager
def redis_proxy(url: str, marker: bytes) -> Iterator[RedisProxy]:
    """The proxy before the server of a URL."""
    parts = urlsplit(url)
    proxy = RedisProxy(parts.port or 6379, marker)
    with listening(proxy.connect) as port:
        place = f"{parts.netloc.rpartition(':')[0]}:{port}"
        proxy.url = parts._replace(netloc=place).geturl()
        yield proxy
        for link in proxy.links:
            link.close()
