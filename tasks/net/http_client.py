"""An HTTP client for URLs of clients: it connects to the checked address, within limits."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from tasks.errors import (
    UrlTimeoutError,
    UrlTooLargeError,
    UrlUnreachableError,
)
from tasks.net.url_guard import PinnedTarget, UrlGuard

_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_CHUNK_BYTES: Final = 2**16
_NOT_ASCII: Final = 0x80
#: Asks a server that offers a picture in several formats for one without loss, or the usual one.
_ACCEPTED_PICTURES: Final = "image/png,image/jpeg,image/*;q=0.9,*/*;q=0.5"
_MAX_REDIRECTS: Final = 3
#: Addresses of a host that are tried; a name server may give thousands.
_MAX_ADDRESSES: Final = 8
#: Pieces of a file that may have any size; if there are more, they need so many bytes on average.
#: Each costs 10 µs: within the time of a fetch, a server that sends bytes one by one took 4 s.
_FREE_PIECES: Final = 4096
_BYTES_A_PIECE: Final = 256
#: Bytes of a response's head, with the responses `100 Continue` before it, and of its trailers:
#: http.client reads any number of these, and lines of 64 KiB.
_MAX_HEAD_BYTES: Final = 2**16
#: Characters of a media type (RFC 6838, 4.2), which the error of a file that is no picture names.
_MAX_MEDIA_TYPE: Final = 255
#: As much of the response to a POST is read.
_MAX_ANSWER_BYTES: Final = 500


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that GET fetched.

    Attributes:
        length: of the body, in bytes.
        media_type: as the server declares it, without parameters.
        file_name: last part of the final URL's path.
    """

    length: int
    media_type: str
    file_name: str


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The response to a POST.

    Attributes:
        status: HTTP status.
        body: its first bytes.
        retry_after: value of the header `Retry-After`, if there is one.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None


class _HeadLines:
    """The lines of a response's head or trailers, within a bound."""

    def __init__(self, file: BinaryIO) -> None:
        self.close = file.close
        self._file = file
        self._left = _MAX_HEAD_BYTES

    def readline(self, most: int) -> bytes:
        """Return the next line, of `most` bytes at most."""
        line = self._file.readline(most)
        self._left -= len(line)
        if self._left < 0:
            raise HTTPException(f"a head of more than {_MAX_HEAD_BYTES} bytes")
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        # Email's parser would end a line at each (RFC 9112, 2.2).
        return text.replace(b"\r", b" ") + line[len(text) :]


class _BoundedResponse(HTTPResponse):
    """A response whose head and trailers are bounded."""

    fp: Any

    def begin(self) -> None:
        """Read the response's head."""
        with self._bounded():
            super().begin()

    def _read_and_discard_trailer(self) -> None:
        with self._bounded():
            super()._read_and_discard_trailer()  # type: ignore[misc] # not published

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        file = self.fp
        self.fp = file and _HeadLines(file)
        try:
            yield
        finally:
            if self.fp is not None:  # it closes what is no HTTP
                self.fp = file


class Deadline:
    """The limit of a whole call: lookups, connections, bodies. Any thread can end it early."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._expired = threading.Event()
        self._connected: socket.socket | None = None

    def left(self) -> float:
        """Return the seconds that are left; none once it has expired."""
        return 0.0 if self._expired.is_set() else self._end - time.monotonic()

    def check(self) -> None:
        """Raise `UrlTimeoutError` once no time is left."""
        if self.left() <= 0:
            raise UrlTimeoutError(
                f"The address took longer than the limit of {self._seconds:g} s to answer."
            )

    def expire(self) -> None:
        """End it now, from any thread: the connection that it watches is shut down."""
        self._expired.set()
        connected = self._connected
        if connected is not None:
            _shut_down_socket(connected)

    @contextmanager
    def watch(self, connected: socket.socket) -> Iterator[None]:
        """Shut a connection's socket down when the time is up.

        It takes the socket, since a connection drops its reference once the headers have come.
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
    """Calls the URLs that its guard allows.

    Attributes:
        guard: checks each URL, also those of redirects.
        tls: returns the context that verifies certificates.
        connect_seconds: limit of one connection's setup.
        user_agent: value of the header `User-Agent`.
    """

    guard: UrlGuard
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    connect_seconds: float = 3.0
    user_agent: str = "rmbg-queue"

    def fetch(self, url: str, into: BinaryIO, *, max_bytes: int, seconds: float) -> FetchedFile:
        """GET a file of up to `max_bytes` within `seconds`, name lookups and redirects included.

        Its bytes are written `into` a file as they come. The URL of each redirect is checked like
        the first one.

        Raises:
            OutboundRequestError: its message is fit for the client.
        """
        deadline = Deadline(seconds)
        for _ in range(_MAX_REDIRECTS + 1):
            target = self._check(url, deadline)
            headers = {"Accept": _ACCEPTED_PICTURES}
            with self._answer("GET", target, deadline, headers=headers) as answer:
                if answer.status not in _REDIRECT_STATUSES:
                    return _write_body(answer, target, into, max_bytes, deadline)
                try:
                    url = urljoin(url, _readable(answer.headers.get("Location", "")))
                except ValueError:
                    raise UrlUnreachableError("The address redirects to a malformed one.") from None
        raise UrlUnreachableError(
            f"The address redirects more than {_MAX_REDIRECTS} times; give the final one."
        )

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, deadline: Deadline
    ) -> HttpResponse:
        """POST a body, and return the response of any status; redirects are not followed.

        A response whose body breaks off counts as a response.

        Raises:
            OutboundRequestError: no response came in time.
        """
        target = self._check(url, deadline)
        with self._answer("POST", target, deadline, body, headers) as answer:
            beginning = _read_start(answer, _MAX_ANSWER_BYTES)
            deadline.check()
            return HttpResponse(answer.status, beginning, answer.headers.get("Retry-After"))

    def _check(self, url: str, deadline: Deadline) -> PinnedTarget:
        try:
            return self.guard.check(url, seconds=deadline.left())
        except UrlUnreachableError:
            deadline.check()
            raise

    @contextmanager
    def _answer(
        self,
        method: str,
        target: PinnedTarget,
        deadline: Deadline,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        connection = self._connect(target, deadline)
        sent = {
            "User-Agent": self.user_agent,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **(headers or {}),
            "Host": target.host_header,
            "Connection": "close",
        }
        try:
            # The socket's timeout limits each read, and the watch the sum of them.
            with deadline.watch(connection.sock), closing(connection):
                connection.request(method, target.path, body, sent, preload_content=False)
                yield connection.getresponse()
        except (HTTPError, HTTPException, OSError) as error:
            deadline.check()
            raise UrlUnreachableError(
                "The host of the address closed the connection early or does not speak HTTP."
            ) from error

    def _connect(self, target: PinnedTarget, deadline: Deadline) -> HTTPConnection:
        """Connect to the first of the checked addresses that accepts the connection."""
        tls = None if target.scheme == "http" else self.tls()
        for address in target.addresses[:_MAX_ADDRESSES]:
            connection = _connection(target, address, tls)
            connection.response_class = _BoundedResponse
            connection.timeout = max(0.001, min(self.connect_seconds, deadline.left()))
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
        raise UrlUnreachableError("The host of the address accepts no connection.")


def _connection(target: PinnedTarget, address: str, tls: ssl.SSLContext | None) -> HTTPConnection:
    if tls is None:
        return HTTPConnection(address, target.port)
    return HTTPSConnection(address, target.port, ssl_context=tls, server_hostname=target.host)


def _shut_down_socket(connected: socket.socket) -> None:
    with suppress(OSError):  # already closed
        connected.shutdown(socket.SHUT_RDWR)


def _readable(location: str) -> str:
    """Return a header `Location` as an address, as browsers read it: raw UTF-8, spaces escaped.

    The URL standard also has bytes that are no UTF-8 escaped as they are.
    """
    sent = location.encode("latin-1")  # as http.client decodes headers
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        text = "".join(chr(byte) if byte < _NOT_ASCII else quote(bytes([byte])) for byte in sent)
    return text.strip().replace(" ", "%20")


def _write_body(
    answer: BaseHTTPResponse,
    target: PinnedTarget,
    into: BinaryIO,
    max_bytes: int,
    deadline: Deadline,
) -> FetchedFile:
    if answer.status != _OK:
        raise UrlUnreachableError(f"The address answered with HTTP status {answer.status}.")
    length = 0
    for chunk in _chunks(answer, max_bytes + 1):
        length += len(chunk)
        into.write(chunk)
    if length > max_bytes:
        raise UrlTooLargeError(
            f"The file at the address is larger than the limit of {max_bytes / 2**20:g} MB."
        )
    # A connection that the watch has shut down may look like the end of the body.
    deadline.check()
    if answer.length_remaining:
        raise UrlUnreachableError("The host of the address closed the connection early.")
    declared = answer.headers.get("Content-Type", "").partition(";")[0]
    media_type = declared.strip().lower()[:_MAX_MEDIA_TYPE]
    return FetchedFile(length, media_type, PurePosixPath(unquote(urlsplit(target.path).path)).name)


def _chunks(answer: BaseHTTPResponse, most: int) -> Iterator[bytes]:
    """Yield the raw body, up to `most` bytes, unless it comes in tiny pieces."""
    total = pieces = 0
    while total < most:
        piece = answer.read1(min(_CHUNK_BYTES, most - total), decode_content=False)
        if not piece:
            return
        total, pieces = total + len(piece), pieces + 1
        if pieces > _FREE_PIECES + total // _BYTES_A_PIECE:
            raise UrlUnreachableError(
                f"The address sends its file in pieces of less than {_BYTES_A_PIECE} bytes on "
                "average; send the file itself."
            )
        yield piece


def _read_start(answer: BaseHTTPResponse, most: int) -> bytes:
    """Return the first `most` bytes, or fewer if the body breaks off."""
    pieces = []
    with suppress(HTTPError, HTTPException, OSError):
        for piece in _chunks(answer, most):
            pieces.append(piece)  # noqa: PERF402 - the chunks before an error count
    return b"".join(pieces)[:most]
