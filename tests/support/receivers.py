"""Receivers of webhooks on loopback, which behave as a test says and keep what they get."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: Answers one request; called with the request and how many came before it.
Behaviour = Callable[[BaseHTTPRequestHandler, int], None]


@dataclass
class Receiver:
    """What came in.

    Attributes:
        let_go: set by a test to free the requests that `holding` holds up, else at the end.
    """

    url: str
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
        request.send_response(statuses[min(before, len(statuses) - 1)])
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "2")
        request.end_headers()
        request.wfile.write(b"ok")

    return behave


_OK = answering(200)


def holding(first: bytes = b"", *, then: Behaviour = _OK) -> Behaviour:
    """Write some bytes, and no more until the test lets go."""

    def behave(request: BaseHTTPRequestHandler, before: int) -> None:
        request.wfile.write(first)
        request.server.got.let_go.wait(60)  # type: ignore[attr-defined]
        then(request, before)

    return behave


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    behave: Behaviour
    got: Receiver

    def handle_error(self, *_: object) -> None:
        pass  # the sender breaks off where it should


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        got = self.server.got
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with got.changed:
            before = len(got.bodies)
            got.bodies.append(body)
            got.headers.append({name.lower(): value for name, value in self.headers.items()})
            got.changed.notify_all()
        self.server.behave(self, before)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiver(behave: Behaviour, port: int = 0) -> Iterator[Receiver]:
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.behave = behave
        server.got = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.got
        finally:
            server.got.let_go.set()
            server.shutdown()
            thread.join()
