"""Calls to real servers on loopback, opened for the test by the operator's list."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from tasks.errors import UrlNotAllowedError, UrlTimeoutError, UrlTooLargeError, UrlUnreachableError
from tasks.net.http_client import Deadline, HttpClient
from tasks.net.url_guard import AllowList, UrlGuard

Handle = Callable[[BaseHTTPRequestHandler], None]
MOST = 1000


@contextmanager
def serving(handle: Handle, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            handle(self)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            handle(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients break off here
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def answer(status: int, body: bytes = b"", **headers: str) -> Handle:
    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return handle


def client(*hosts: str, connect_seconds: float = 3.0) -> HttpClient:
    """Names lead to loopback; only those named, and 127.0.0.1, are open."""
    allow = AllowList(frozenset(hosts or {"127.0.0.1"}))
    guard = UrlGuard(allow, lambda _host, _port: ["127.0.0.1"])
    return HttpClient(guard, connect_seconds=connect_seconds)


def fetch(port: int, path: str = "/", seconds: float = 10) -> bytes:
    url = f"http://127.0.0.1:{port}{path}"
    return client().fetch(url, max_bytes=MOST, seconds=seconds).data


def test_a_file_comes_with_its_type_and_name() -> None:
    with serving(answer(200, b"picture", Content_Type="image/jpeg; x=y")) as port:
        got = client().fetch(f"http://127.0.0.1:{port}/a/b%20c.jpg?d", max_bytes=7, seconds=10)
    assert (got.data, got.media_type, got.file_name) == (b"picture", "image/jpeg", "b c.jpg")


def test_the_connection_goes_to_the_checked_address_under_the_original_name() -> None:
    seen: list[str | None] = []
    looked_up: list[str] = []

    def changing(host: str, _port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1" if len(looked_up) == 1 else "10.0.0.1"]

    def handle(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["Host"])
        answer(200, b"x")(request)

    with serving(handle) as port:
        pinned = HttpClient(UrlGuard(AllowList.parse("127.0.0.0/8"), changing))
        pinned.fetch(f"http://shop.example:{port}/", max_bytes=MOST, seconds=10)
    assert seen == [f"shop.example:{port}"]
    assert looked_up == ["shop.example"], "a second look-up could have another answer"


def test_a_name_that_turns_private_is_refused_the_next_time() -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    changing = HttpClient(
        UrlGuard(AllowList.parse("127.0.0.0/8"), lambda _host, _port: next(answers))
    )
    with serving(answer(302, Location="/again")) as port, pytest.raises(UrlNotAllowedError):
        changing.fetch(f"http://shop.example:{port}/", max_bytes=MOST, seconds=10)


def test_certificates_are_checked_against_the_original_name() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example").configure_cert(server)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)  # type: ignore[assignment]

    def trusting() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    open_ = UrlGuard(AllowList.parse("127.0.0.0/8"), lambda _host, _port: ["127.0.0.1"])
    with serving(answer(200, b"safe"), server) as port:
        calling = HttpClient(open_, trusting)
        good = calling.fetch(f"https://shop.example:{port}/", max_bytes=MOST, seconds=10)
        with pytest.raises(UrlUnreachableError):
            calling.fetch(f"https://other.example:{port}/", max_bytes=MOST, seconds=10)
        with pytest.raises(UrlUnreachableError):
            HttpClient(open_).fetch(f"https://shop.example:{port}/", max_bytes=MOST, seconds=10)
    assert good.data == b"safe"
    assert names == ["shop.example", "other.example", "shop.example"]


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/",
        "http://localhost:6379/",
        "//10.0.0.1/x",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user@127.0.0.1/",
    ],
)
def test_each_redirection_is_checked(location: str) -> None:
    with serving(answer(302, Location=location)) as port, pytest.raises(UrlNotAllowedError):
        fetch(port)


def test_a_malformed_redirection_is_the_servers_fault() -> None:
    with serving(answer(302, Location="http://[")) as port, pytest.raises(UrlUnreachableError):
        fetch(port)


def test_redirections_are_followed_up_to_a_number() -> None:
    def count_down(request: BaseHTTPRequestHandler) -> None:
        left = int(request.path.strip("/"))
        (answer(302, Location=f"/{left - 1}") if left else answer(200, b"there"))(request)

    with serving(count_down) as port:
        assert fetch(port, "/3") == b"there"
        with pytest.raises(UrlUnreachableError, match="more than 3 times"):
            fetch(port, "/4")


@pytest.mark.parametrize("status", [204, 304, 404, 500])
def test_another_status_is_no_file(status: int) -> None:
    with serving(answer(status)) as port, pytest.raises(UrlUnreachableError, match=str(status)):
        fetch(port)


def test_too_many_bytes_are_not_read() -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 65536)

    with serving(endless) as port, pytest.raises(UrlTooLargeError):
        fetch(port)


def test_the_limit_itself_is_allowed() -> None:
    with serving(answer(200, b"x" * MOST)) as port:
        assert len(fetch(port)) == MOST


def test_a_compressed_answer_is_not_blown_up() -> None:
    with serving(answer(200, b"\x1f\x8bsmall", Content_Encoding="gzip")) as port:
        assert fetch(port) == b"\x1f\x8bsmall"


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "],
    ids=["body", "headers"],
)
def test_a_server_that_drips_is_cut_off(beginning: bytes) -> None:
    ended = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(beginning)
        while not ended.wait(0.05):
            request.wfile.write(b"x")

    with serving(drip) as port:
        try:
            with pytest.raises(UrlTimeoutError):
                fetch(port, seconds=0.5)
        finally:
            ended.set()


def test_a_body_that_breaks_off_is_no_file() -> None:
    def half(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "900")
        request.end_headers()
        request.wfile.write(b"x" * 100)

    with serving(half) as port, pytest.raises(UrlUnreachableError):
        fetch(port)


def test_what_does_not_speak_http_is_no_file() -> None:
    with (
        serving(lambda request: request.wfile.write(b"-ERR unknown command\r\n")) as port,
        pytest.raises(UrlUnreachableError),
    ):
        fetch(port)


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UrlUnreachableError, match="no connection"):
            fetch(taken.getsockname()[1])


def test_a_post_tells_the_status_and_the_beginning_of_the_answer() -> None:
    slow = answer(503, b"y" * 2000, Retry_After="7")
    with serving(slow) as port:
        got = client().post(
            f"http://127.0.0.1:{port}/", b"{}", {"X-Own": "1"}, deadline=Deadline(15)
        )
    assert (got.status, got.body, got.retry_after) == (503, b"y" * 500, "7")


def test_an_answer_may_take_longer_than_a_connection() -> None:
    def slow(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.5)
        answer(200)(request)

    with serving(slow) as port:
        url = f"http://127.0.0.1:{port}/"
        got = client(connect_seconds=0.2).post(url, b"", {}, deadline=Deadline(15))
        assert got.status == 200
        assert client(connect_seconds=0.2).fetch(url, max_bytes=1, seconds=15).data == b""


def test_a_deadline_that_expires_early_ends_a_request() -> None:
    ended, deadline, began = threading.Event(), Deadline(15), time.monotonic()
    with serving(lambda _request: ended.wait(30)) as port:  # type: ignore[arg-type,return-value]
        timer = threading.Timer(0.2, deadline.expire)
        timer.start()
        try:
            with pytest.raises(UrlTimeoutError):
                client().post(f"http://127.0.0.1:{port}/", b"", {}, deadline=deadline)
            assert time.monotonic() - began < 5
        finally:
            ended.set()
            timer.join()


def test_a_post_does_not_follow() -> None:
    with serving(answer(301, Location="http://127.0.0.1/")) as port:
        assert (
            client().post(f"http://127.0.0.1:{port}/", b"", {}, deadline=Deadline(15)).status == 301
        )


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(answer(200, b"direct")) as port:
        assert fetch(port) == b"direct"
