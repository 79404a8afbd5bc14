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
    """What came in."""

    url: str
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

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


@contextmanager
def receiver(behave: Behaviour, port: int = 0) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with got.changed:
                before = len(got.bodies)
                got.bodies.append(body)
                got.headers.append({name.lower(): value for name, value in self.headers.items()})
                got.changed.notify_all()
            behave(self, before)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # the sender breaks off where it should

    with Server(("127.0.0.1", port), Handler) as server:
        got = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield got
        finally:
            server.shutdown()
            thread.join()
