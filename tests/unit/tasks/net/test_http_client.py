"""Calls to real servers on loopback, opened for the test by the operator's list."""

import io
import os
import socket
import ssl
import struct
import threading
import time
from unittest.mock import Mock

import pytest
import trustme

from tasks.errors import UrlNotAllowedError, UrlTimeoutError, UrlTooLargeError, UrlUnreachableError
from tasks.net.http_client import Deadline, HttpClient, HttpResponse
from tasks.net.url_guard import AllowList, UrlGuard
from tests.support.serving import Handle, Request, answer, serving

MOST = 1000


def _client(connect_seconds: float = 3.0) -> HttpClient:
    """A client to which only the host 127.0.0.1 is open, though other names lead there too."""
    guard = UrlGuard(AllowList(frozenset({"127.0.0.1"})), lambda _host, _port: ["127.0.0.1"])
    return HttpClient(guard, connect_seconds=connect_seconds)


def _fetch(port: int, path: str = "/", *, connect_seconds: float = 3.0, **options: float) -> bytes:
    return _fetch_with(_client(connect_seconds), f"http://127.0.0.1:{port}{path}", **options)


def _fetch_with(client: HttpClient, url: str, *, seconds: float = 10, most: int = MOST) -> bytes:
    file = io.BytesIO()
    got = client.fetch(url, file, max_bytes=most, seconds=seconds)
    assert got.length == len(file.getvalue())
    return file.getvalue()


def _post(port: int, deadline: Deadline, **options: float) -> HttpResponse:
    url = f"http://127.0.0.1:{port}/"
    return _client(**options).post(url, b"{}", {"X-Own": "1"}, deadline=deadline)


def test_a_file_of_the_largest_size_comes_with_its_type_and_name() -> None:
    file = io.BytesIO()
    with serving(answer(200, b"x" * MOST, Content_Type="image/jpeg; x=y")) as port:
        url = f"http://127.0.0.1:{port}/a/b%20c.jpg?d"
        got = _client().fetch(url, file, max_bytes=MOST, seconds=10)
    assert (got.length, got.media_type, got.file_name) == (MOST, "image/jpeg", "b c.jpg")
    assert file.getvalue() == b"x" * MOST
    with serving(answer(200, Content_Type="x" * 60_000)) as port:
        got = _client().fetch(f"http://127.0.0.1:{port}/", file, max_bytes=MOST, seconds=10)
    assert got.media_type == "x" * 255


def test_a_compressed_answer_is_not_blown_up_and_a_proxy_of_the_environment_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(answer(200, b"\x1f\x8bsmall", Content_Encoding="gzip")) as port:
        assert _fetch(port) == b"\x1f\x8bsmall"


def test_a_host_is_looked_up_once_a_request_and_called_by_its_name() -> None:
    hosts: list[str] = []
    look_up = Mock(side_effect=[["127.0.0.1"], ["127.0.0.1"], ["10.0.0.1"]])

    def handle(request: Request) -> None:
        hosts.append(request.headers["Host"])
        (answer(302, Location="/") if request.path == "/moved" else answer(200))(request)

    client = HttpClient(UrlGuard(AllowList.parse("127.0.0.0/8"), look_up))
    with serving(handle) as port:
        _fetch_with(client, f"http://shop.example:{port}/")
        look_up.assert_called_once_with("shop.example", port)  # the next might have another answer
        assert hosts == [f"shop.example:{port}"]
        with pytest.raises(UrlUnreachableError):  # the name has turned private
            _fetch_with(client, f"http://shop.example:{port}/moved")
    assert len(hosts) == 2


def test_certificates_are_checked_against_the_original_name() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("shop.example").configure_cert(server)
    server.sni_callback = Mock(return_value=None)

    def trusting() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    open_ = UrlGuard(AllowList.parse("127.0.0.0/8"), lambda _host, _port: ["127.0.0.1"])
    with serving(answer(200, b"safe"), tls=server) as port:
        calling = HttpClient(open_, trusting)
        assert _fetch_with(calling, f"https://shop.example:{port}/") == b"safe"
        for client, host in ((calling, "other"), (HttpClient(open_), "shop")):
            with pytest.raises(UrlUnreachableError):
                _fetch_with(client, f"https://{host}.example:{port}/")
    names = [call.args[1] for call in server.sni_callback.call_args_list]
    assert names == ["shop.example", "other.example", "shop.example"]


def test_redirections_are_followed_up_to_a_number() -> None:
    def count_down(request: Request) -> None:
        left = int(request.path.strip("/"))
        (answer(302, Location=f"/{left - 1}") if left else answer(200, b"there"))(request)

    with serving(count_down) as port:
        assert _fetch(port, "/3") == b"there"
        with pytest.raises(UrlUnreachableError, match="more than 3 times"):
            _fetch(port, "/4")


@pytest.mark.parametrize(
    "location",
    ["http://10.0.0.1/", "http://localhost:6379/", "//10.0.0.1/x", "file:///etc/passwd"],
)
def test_each_redirection_is_checked(location: str) -> None:
    with serving(answer(302, Location=location)) as port, pytest.raises(UrlNotAllowedError):
        _fetch(port)


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ("/Ångström 漢.jpg?ü=1 ".encode(), "/%C3%85ngstr%C3%B6m%20%E6%BC%A2.jpg?%C3%BC=1"),
        (b"/M\xfcller.jpg", "/M%FCller.jpg"),
        (b"/signed?token=" + b"a" * 3900, "/signed?token=" + "a" * 3900),
    ],
    ids=["UTF-8", "Latin-1", "long"],
)
def test_a_redirection_is_read_as_browsers_do(sent: bytes, path: str) -> None:
    asked: list[str] = []

    def handle(request: Request) -> None:
        asked.append(request.path)
        if request.path == "/":
            head = b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: %s\r\n\r\n"
            request.wfile.write(head % sent)
        else:
            answer(200, b"there")(request)

    with serving(handle) as port:
        assert _fetch(port) == b"there"
    assert asked == ["/", path]


def test_servers_are_told_who_asks_and_for_what() -> None:
    seen = []

    def handle(request: Request) -> None:
        seen.append((request.headers["User-Agent"], request.headers["Accept"]))
        answer(200)(request)

    client = HttpClient(_client().guard, user_agent="shop/1.0 (a@shop.example)")
    with serving(handle) as port:
        _fetch_with(client, f"http://127.0.0.1:{port}/")
        client.post(f"http://127.0.0.1:{port}/", b"{}", {}, deadline=Deadline(15))
    pictures = "image/png,image/jpeg,image/*;q=0.9,*/*;q=0.5"
    assert seen == [("shop/1.0 (a@shop.example)", accepted) for accepted in (pictures, "*/*")]


def _said(head: bytes) -> Handle:
    return lambda request: request.wfile.write(head)


def _repeated(head: bytes, piece: bytes) -> Handle:
    def handle(request: Request) -> None:
        request.wfile.write(head)
        while True:
            request.wfile.write(piece * 1000)

    return handle


def _reset(request: Request) -> None:
    """Close the connection so that the client's next read fails."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(request.connection.detach())


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_a_file_may_come_in_chunks_that_are_not_tiny_and_after_interim_responses() -> None:
    chunks = _INTERIM * 8 + _CHUNKED + (b"100\r\n" + bytes(256) + b"\r\n") * 6000 + b"0\r\n\r\n"
    with serving(_said(chunks)) as port:
        assert _fetch(port, most=2**21) == bytes(256 * 6000)
    tiny = _repeated(_CHUNKED, b"1\r\na\r\n")
    with serving(tiny) as port, pytest.raises(UrlUnreachableError, match="less than 256 bytes"):
        _fetch(port, most=2**21)


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        *((answer(status), str(status)) for status in (204, 404, 500)),
        (answer(302, Location="http://["), "malformed one"),
        (_repeated(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65), "larger than"),
        (_said(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"), "closed the connection early"),
        (_reset, "closed the connection early"),
        (_said(b"-ERR unknown command\r\n"), "does not speak HTTP"),
        (_repeated(b"", _INTERIM), "does not speak HTTP"),
        (_said(b"HTTP/1.1 200 OK\r\n" + 2 * (b"a: " + 40_000 * b"b" + b"\r\n")), "does not speak"),
        (_repeated(_CHUNKED + b"0\r\n", b"a:\n"), "does not speak HTTP"),
    ],
    ids=[
        *("204", "404", "500", "malformed", "endless", "cut off", "reset", "not HTTP"),
        *("interim responses", "large head", "trailers"),
    ],
)
def test_another_answer_is_no_file(handle: Handle, words: str) -> None:
    error = UrlTooLargeError if words == "larger than" else UrlUnreachableError
    with serving(handle) as port, pytest.raises(error, match=words):
        _fetch(port)


def test_a_carriage_return_ends_no_line_of_a_head() -> None:
    head = (
        b"HTTP/1.1 200 OK\r\na: b\rLocation: c\r\rContent-Length: 9\r\nContent-Length: 1\r\n\r\nx"
    )
    with serving(_said(head)) as port:
        assert _fetch(port) == b"x"


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port, expired = taken.getsockname()[1], Deadline(0)
        with pytest.raises(UrlUnreachableError, match="no connection"):
            _fetch(port)
        with pytest.raises(UrlTimeoutError):
            _post(port, expired)


def test_of_a_host_with_thousands_of_addresses_a_few_are_tried_with_one_context() -> None:
    tls = Mock(wraps=ssl.create_default_context)

    def client(closed: int) -> HttpClient:
        found = [f"127.0.0.{2 + each}" for each in range(closed)] + ["127.0.0.1"]
        return HttpClient(UrlGuard(AllowList.parse("127.0.0.0/8"), lambda *_: found), tls)

    with serving(answer(200, b"there")) as port:
        assert _fetch_with(client(7), f"http://many.example:{port}/") == b"there"
        for scheme in ("http", "https"):
            with pytest.raises(UrlUnreachableError, match="no connection"):
                _fetch_with(client(8), f"{scheme}://many.example:{port}/")
    tls.assert_called_once()


@pytest.mark.parametrize("head", [b"Content-Length: 900\r\n\r\n", b"X-Slow: "])
def test_a_server_that_drips_is_cut_off(head: bytes) -> None:
    ended = threading.Event()

    def drip(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
        while not ended.wait(0.05):
            request.wfile.write(b"x")

    with serving(drip) as port:
        with pytest.raises(UrlTimeoutError):
            _fetch(port, seconds=0.5)
        ended.set()


def test_a_post_reads_the_status_and_the_beginning_of_the_answer_and_does_not_follow() -> None:
    sent = []

    def flood(request: Request) -> None:
        head = b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\nRetry-After: 7\r\n\r\n"
        request.wfile.write(head)
        for _ in range(100):
            request.wfile.write(b"y" * 2**20)
            sent.append(1)

    with serving(flood) as port:
        got = _post(port, Deadline(15))
    assert (got.status, got.body, got.retry_after) == (301, b"y" * 500, "7")
    assert len(sent) < 50, "100 MiB are not read"


def test_an_answer_may_take_longer_than_a_connection() -> None:
    def slow(request: Request) -> None:
        time.sleep(0.5)
        answer(200)(request)

    with serving(slow) as port:
        assert _post(port, Deadline(15), connect_seconds=0.2).status == 200
        assert _fetch(port, connect_seconds=0.2) == b""


def test_a_deadline_that_expires_early_ends_a_request() -> None:
    ended, late, deadline = threading.Event(), threading.Event(), Deadline(600)

    def expire(_: Request) -> None:
        deadline.expire()
        if not ended.wait(30):
            late.set()

    with serving(expire) as port:
        with pytest.raises(UrlTimeoutError):
            _post(port, deadline)
        ended.set()
    assert not late.is_set(), "its connection is closed at once"
