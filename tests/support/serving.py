"""HTTP servers on loopback, which answer as a test says."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


class Request(BaseHTTPRequestHandler):
    """A request of any method, whose body has been read."""

    body: bytes


#: Answers a request; one that writes nothing breaks the connection off.
Handle = Callable[[Request], None]


def answer(
    status: int, body: bytes = b"", **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer each request with this."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return handle


def busy_and_losing_an_answer(url: str, keys: list[str]) -> Handle:
    """Stand before a service: first busy, then its answer is lost, then it is passed on.

    Args:
        url: the service's address.
        keys: takes the idempotency key of each request.
    """

    def handle(request: Request) -> None:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            answer(503, b"<html>", Retry_After="1")(request)
            return
        # The service takes the picture, and its first answer is lost on the way.
        got = requests.post(
            url + request.path, request.body, headers=dict(request.headers), timeout=30
        )
        if len(keys) > 2:
            replayed = got.headers["Idempotency-Replayed"]
            answer(got.status_code, got.content, Idempotency_Replayed=replayed)(request)

    return handle


@contextmanager
def serving(handle: Handle, *, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[int]:
    """Its port, of 127.0.0.1."""

    class Handler(Request):
        def _handle(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            handle(self)

        do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, *_: object) -> None: ...  # clients break off where they should

    with Server(("127.0.0.1", port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
