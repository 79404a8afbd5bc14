"""An HTTP client for outsiders' URLs: it connects to the checked address, within limits."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from tasks.errors import (
    OutboundRequestError,
    UrlTimeoutError,
    UrlTooLargeError,
    UrlUnreachableError,
)
from tasks.net.url_guard import PinnedTarget, UrlGuard

_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_CHUNK_BYTES: Final = 2**16
_USER_AGENT: Final = "rmbg-queue"


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """What a GET brought.

    Attributes:
        data: the body.
        media_type: as the server declares it, without parameters.
        file_name: last part of the path of the final address.
    """

    data: bytes = field(repr=False)
    media_type: str
    file_name: str


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came of a POST.

    Attributes:
        status: of HTTP.
        body: its first bytes.
        retry_after: that header's text, if it came.
        ms: milliseconds from look-up to answer.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None
    ms: int


class Deadline:
    """One limit over look-ups, connections and bodies; it can be made to expire early.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._seconds = seconds
        self._expired = threading.Event()
        self._connected: socket.socket | None = None

    def spent(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began

    def left(self) -> float:
        """Return the seconds that are left; none once it has expired."""
        return 0.0 if self._expired.is_set() else self._seconds - self.spent()

    def check(self) -> None:
        """Raise `UrlTimeoutError` once no time is left."""
        if self.left() <= 0:
            raise UrlTimeoutError(f"The address took longer than {self._seconds:g} s.")

    def expire(self) -> None:
        """Let it end now, from any thread: the connection that it watches is shut down."""
        self._expired.set()
        connected = self._connected
        if connected is not None:
            _shut_down_socket(connected)

    @contextmanager
    def watch(self, connected: socket.socket) -> Iterator[None]:
        """Shut a connection down when the time is up, whatever it is doing.

        It takes the socket, since a connection lets go of its own once the headers are there.
        """
        self._connected = connected
        timer = threading.Timer(max(0.0, self.left()), _shut_down_socket, [connected])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._connected = None


@dataclass(frozen=True, slots=True)
class HttpClient:
    """Calls what its guard lets through.

    Attributes:
        guard: checks every address, that of a redirection too.
        tls: how certificates are verified.
    """

    guard: UrlGuard
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def fetch(
        self,
        url: str,
        *,
        max_bytes: int,
        seconds: float,
        connect_seconds: float = 3.0,
        redirects: int = 3,
    ) -> FetchedFile:
        """GET a file.

        Args:
            url: of the outsider.
            max_bytes: most that its body may have.
            seconds: that all of it may take, look-ups and redirections included.
            connect_seconds: that one connection may take.
            redirects: most that are followed; each is checked like the first address.

        Raises:
            NetError: the reason, fit for the outsider.
        """
        deadline = Deadline(seconds)
        for _ in range(redirects + 1):
            target = self.guard.check(url)
            with self._answer("GET", target, deadline, connect_seconds) as answer:
                if answer.status not in _REDIRECT_STATUSES:
                    return _to_fetched_file(answer, target, max_bytes, deadline)
                url = _redirect_url(url, answer.headers.get("Location", ""))
        raise UrlUnreachableError(f"The address redirects more than {redirects} times.")

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        deadline: Deadline,
        connect_seconds: float = 3.0,
        max_answer_bytes: int = 500,
    ) -> HttpResponse:
        """POST a body; whatever the status, and never following a redirection.

        An answer that breaks off once its status is there is an answer.

        Raises:
            NetError: no answer came, or it took too long.
        """
        target = self.guard.check(url)
        with self._answer(
            "POST", target, deadline, connect_seconds, body=body, headers=headers
        ) as answer:
            beginning = _read_start(answer, max_answer_bytes)
            deadline.check()
            ms = round(deadline.spent() * 1000)
            return HttpResponse(answer.status, beginning, answer.headers.get("Retry-After"), ms)

    @contextmanager
    def _answer(
        self,
        method: str,
        target: PinnedTarget,
        deadline: Deadline,
        connect_seconds: float,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        connection = self._connect(target, deadline, connect_seconds)
        sent = {
            "User-Agent": _USER_AGENT,
            "Accept-Encoding": "identity",
            **(headers or {}),
            "Host": target.host_header,
            "Connection": "close",
        }
        # Each read has a limit of its own, and the watch ends a server that only drips.
        with deadline.watch(connection.sock), _request_errors(deadline):
            try:
                connection.request(method, target.path, body, sent, preload_content=False)
                yield connection.getresponse()
            finally:
                connection.close()

    def _connect(
        self, target: PinnedTarget, deadline: Deadline, connect_seconds: float
    ) -> HTTPConnection:
        """A connection to the first of the checked addresses that takes one."""
        for address in target.addresses:
            connection = self._connection(target, address)
            connection.timeout = max(0.001, min(connect_seconds, deadline.left()))
            try:
                connection.connect()
            except (HTTPError, HTTPException, OSError):
                connection.close()
                continue
            # It would set its own timeout, that of connecting, again before it reads.
            connection.timeout = max(0.001, deadline.left())
            connection.sock.settimeout(connection.timeout)
            return connection
        deadline.check()
        raise UrlUnreachableError("The address's host takes no connection.")

    def _connection(self, target: PinnedTarget, address: str) -> HTTPConnection:
        if target.scheme == "http":
            return HTTPConnection(address, target.port)
        return HTTPSConnection(
            address,
            target.port,
            ssl_context=self.tls(),
            server_hostname=target.host,
        )


def _shut_down_socket(connected: socket.socket) -> None:
    with suppress(OSError):  # it may just have been closed
        connected.shutdown(socket.SHUT_RDWR)


@contextmanager
def _request_errors(deadline: Deadline) -> Iterator[None]:
    try:
        yield
    except OutboundRequestError:
        raise
    except (HTTPError, HTTPException, OSError) as error:
        deadline.check()
        raise UrlUnreachableError("The address's host broke off or did not speak HTTP.") from error


def _redirect_url(url: str, location: str) -> str:
    """The next address; not checked yet."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise UrlUnreachableError("The address redirects to a malformed one.") from None


def _to_fetched_file(
    answer: BaseHTTPResponse, target: PinnedTarget, max_bytes: int, deadline: Deadline
) -> FetchedFile:
    if answer.status != _OK:
        raise UrlUnreachableError(f"The address answered with status {answer.status}.")
    data = b"".join(_chunks(answer, max_bytes + 1))
    if len(data) > max_bytes:
        raise UrlTooLargeError(f"The file at the address is larger than {max_bytes / 2**20:g} MB.")
    # A cut-off connection may look like an early end.
    deadline.check()
    if answer.length_remaining:
        raise UrlUnreachableError("The address's host broke off.")
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return FetchedFile(data, media_type, PurePosixPath(unquote(urlsplit(target.path).path)).name)


def _chunks(answer: BaseHTTPResponse, most: int) -> Iterator[bytes]:
    """The body, raw, until it ends or `most` bytes are there."""
    had = 0
    while had < most:
        piece = answer.read1(min(_CHUNK_BYTES, most - had), decode_content=False)
        if not piece:
            return
        had += len(piece)
        yield piece


def _read_start(answer: BaseHTTPResponse, most: int) -> bytes:
    """The first `most` bytes, or as many as came."""
    pieces = []
    with suppress(HTTPError, HTTPException, OSError):
        for piece in _chunks(answer, most):
            pieces.append(piece)  # noqa: PERF402 - what came before an error counts
    return b"".join(pieces)[:most]
