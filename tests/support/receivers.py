"""Receivers of webhooks on loopback, which behave as a test says and keep what they get."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.serving import Request, answer, serving

#: Answers one request; called with the request and how many came before it.
Behaviour = Callable[[BaseHTTPRequestHandler, int], None]


@dataclass
class Receiver:
    """What came in.

    Attributes:
        let_go: set by a test to free the requests that `holding` holds up, else at the end.
    """

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    let_go: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, number: int, seconds: float = 30) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.bodies) >= number, seconds)

    @property
    def ids(self) -> list[str]:
        return [each["webhook-id"] for each in self.headers]


def answering(*statuses: int, **headers: str) -> Behaviour:
    """One status after the other; the last one for good."""

    def behave(request: BaseHTTPRequestHandler, before: int) -> None:
        answer(statuses[min(before, len(statuses) - 1)], b"ok", **headers)(request)

    return behave


_OK = answering(200)


def holding(first: bytes = b"", *, then: Behaviour = _OK) -> Behaviour:
    """Write some bytes, and no more until the test lets go."""

    def behave(request: BaseHTTPRequestHandler, before: int) -> None:
        request.wfile.write(first)
        request.server.got.let_go.wait(60)  # type: ignore[attr-defined]
        then(request, before)

    return behave


@contextmanager
def receiver(behave: Behaviour, port: int = 0) -> Iterator[Receiver]:
    got = Receiver()

    def handle(request: Request) -> None:
        with got.changed:
            before = len(got.bodies)
            got.bodies.append(request.body)
            got.headers.append({name.lower(): value for name, value in request.headers.items()})
            got.changed.notify_all()
        request.server.got = got  # type: ignore[attr-defined]
        behave(request, before)

    with serving(handle, port=port) as bound:
        got.url = f"http://127.0.0.1:{bound}/hook"
        try:
            yield got
        finally:
            got.let_go.set()
