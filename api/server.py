"""The HTTP server: an event loop reads requests, so that a slow client holds no thread.

gunicorn starts and replaces the processes; in each, uvicorn parses HTTP and `WsgiBridge` runs the
Flask application in threads, once a request has arrived. What uvicorn leaves open is bounded here:
the time and the size of a request's head, and the number of connections.
"""

import asyncio
import ctypes
import os
import resource
import signal
import threading
from collections import Counter
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import h11
from h11._receivebuffer import ReceiveBuffer, blank_line_regex
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn_worker import UvicornWorker

from api.auth import SERVICES_EXTENSION
from api.callers import client_network
from api.inputs import FETCHES
from api.settings import ApiSettings
from api.waiting import WAITING_REQUESTS
from api.wsgi_bridge import CONNECTION, MAX_BODIES, SEND_SECONDS, WsgiBridge

if TYPE_CHECKING:
    from collections.abc import Callable

#: A request's head has to be complete within this time of its first byte, or of the connection.
HEAD_SECONDS: Final = 10.0
#: Largest head: the request line and all header fields.
MAX_HEAD_BYTES: Final = 2**16
#: Most lines of a head, and of the trailers of a body. Each costs the event loop 3 µs: 15,000 short
#: ones in 60 kB took it 46 ms.
MAX_HEAD_LINES: Final = 100
#: Chunks of a body that may have any size; if there are more, they need so many bytes on average.
#: Each costs the event loop 12 µs, however small it is: 10 MB in chunks of a byte took it 20 s.
_FREE_CHUNKS: Final = 4096
_BYTES_A_CHUNK: Final = 256
#: A connection that is kept alive may be silent for this long between two requests.
KEEP_ALIVE_SECONDS: Final = 15
#: Most connections of a process, and of one address to it; above that the one that has waited the
#: longest, for a request or its turn, is closed for each new one.
MAX_CONNECTIONS: Final = 4096
MAX_CONNECTIONS_PER_ADDRESS: Final = 2048
#: Files that a process has open beside its connections and their bodies: of each thread a picture
#: and two connections, downloads, logs.
_OTHER_FILES: Final = 1024
#: Of the files that are left, one in five is for bodies.
_BODIES_SHARE: Final = 5
#: Threads that run requests: enough for those that wait for a task's end or a picture, and for
#: others.
_THREADS: Final = WAITING_REQUESTS + FETCHES + 48
#: How often a process looks whether gunicorn's master lives.
_PARENT_SECONDS: Final = 1.0
#: Requests that are running may end within this time of a SIGTERM.
_GRACEFUL_SECONDS: Final = 15


#: glibc's parameters by their numbers in malloc.h, and their values here (docs/adr/0025). Threads
#: share two arenas; what is larger than 256 KiB is given back as soon as it is free, as is the end
#: of an arena. By default each of 16 arenas keeps up to 64 MiB of what large bodies once took.
_MEMORY_PARAMETERS: Final = ((-8, 2), (-3, 2**18), (-1, 2**18))


class ConnectionTable:
    """The connections of one process by address, and those that may be closed for a new one."""

    def __init__(self, limit: int, per_address: int) -> None:
        #: Called when the process is asked to end, once for each connection.
        self.on_shutdown: Callable[[], object] = lambda: None
        self._limit = limit
        self._per_address = per_address
        self._count: Counter[str] = Counter()
        # Ordered by the time since which each waits for a request, or that one for its turn.
        self._waiting: dict[Connection, None] = {}

    def add(self, connection: "Connection") -> None:
        """Add a connection; over a limit, close the one that has waited longest.

        What it waits for may be its request, or that one's turn: without the latter the new
        connections of others would be closed, where one client's requests wait in great number.
        """
        self._count[connection.address] += 1
        self._waiting[connection] = None
        if self._count[connection.address] > self._per_address:
            self._close_oldest(connection.address)
        elif self._count.total() > self._limit:
            self._close_oldest(None)

    def remove(self, connection: "Connection") -> None:
        """Remove a connection that was closed."""
        self._waiting.pop(connection, None)
        self._count[connection.address] -= 1
        if not self._count[connection.address]:
            del self._count[connection.address]

    def mark(self, connection: "Connection", *, waiting: bool) -> None:
        """Say whether a connection waits, so that it may be closed."""
        self._waiting.pop(connection, None)
        if waiting:
            self._waiting[connection] = None

    def _close_oldest(self, address: str | None) -> None:
        for each in self._waiting:
            if address in {None, each.address}:
                self._waiting.pop(each)
                each.make_room()
                return


def connection_table(limit: int, proxies: int) -> ConnectionTable:
    """Return a process's table; behind trusted proxies, these bound the connections of an address.

    All connections are theirs then.
    """
    return ConnectionTable(limit, limit if proxies else min(limit, MAX_CONNECTIONS_PER_ADDRESS))


class _BoundedBuffer(ReceiveBuffer):
    """What a client has sent; a head, or trailers, of too many lines or bytes are not parsed."""

    #: Whether such ones came. The parser alone bounds a head that has not come whole.
    too_large = False

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines up to the first blank one, if that has come.

        Raises:
            h11.RemoteProtocolError: they are too many, or too long.
        """
        blank = blank_line_regex.search(self._data, self._multiple_lines_search)
        end = blank.end() if blank else 0
        # The blank line at the end is not counted.
        if end > MAX_HEAD_BYTES or self._data.count(b"\n", 0, end) > MAX_HEAD_LINES + 1:
            self.too_large = True
            raise h11.RemoteProtocolError("The head or the trailers are too large.")
        return super().maybe_extract_lines()


class BoundedParser(h11.Connection):
    """Parses HTTP, and takes no body in tiny chunks, nor one whose end depends on who reads it."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self._receive_buffer: _BoundedBuffer = _BoundedBuffer()
        self._chunks = self._bytes = 0
        #: Whether a request's body has two ends; see `_has_two_ends`.
        self.two_ends = False

    @property
    def too_small_chunks(self) -> bool:
        """Whether the body's chunks cost more than what they bring."""
        return self._chunks > _FREE_CHUNKS + self._bytes // _BYTES_A_CHUNK

    @property
    def too_large_head(self) -> bool:
        """Whether a head or trailers have too many lines or bytes."""
        return self._receive_buffer.too_large or len(self._receive_buffer) > MAX_HEAD_BYTES

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event.

        Raises:
            h11.RemoteProtocolError: what came is no HTTP, or such a body.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            self.two_ends = _has_two_ends(event)
            if self.two_ends:
                raise h11.RemoteProtocolError("The body's end depends on who reads it.")
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self.too_small_chunks:
                raise h11.RemoteProtocolError("The body comes in tiny chunks.")
        return event


def _has_two_ends(request: h11.Request) -> bool:
    """Return whether a proxy in front may see another end of a request's body (RFC 9112, 6.1).

    The proxy and this server would then disagree about where the next request begins.
    """
    names = {name for name, _ in request.headers}
    return b"transfer-encoding" in names and (
        b"content-length" in names or request.http_version < b"1.1"
    )


class Connection(H11Protocol):
    """One connection, with a bound on the time and the size of each request's head."""

    def __init__(self, *args: Any, table: ConnectionTable, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **options)
        self.conn: BoundedParser = BoundedParser()
        self.address = ""
        self._table = table
        self._seen: object = None
        #: The client has gone.
        self.lost = False
        self._wait: asyncio.Future[None] | None = None
        self._head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.address = client_network(self.client[0]) if self.client else ""
        self._table.add(self)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head_arrived()
        self._table.remove(self)
        self.lost = True
        if self._wait is not None:
            self._wait.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request, or begin one that has come already."""
        super().on_response_complete()
        self._follow()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(SEND_SECONDS, self._drop_unsent)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, a head without end, and what `BoundedParser` refuses."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.abort()  # its answer has begun
        elif self.conn.two_ends:
            self._refuse(
                400,
                "The request has Transfer-Encoding beside Content-Length, or in HTTP/1.0. Send the "
                "body's length alone, or chunks in HTTP/1.1.",
            )
        elif self.conn.too_small_chunks:
            self._refuse(
                400,
                f"The body's chunks have less than {_BYTES_A_CHUNK} bytes on average. Send larger "
                "ones, or the body's length.",
            )
        elif self.conn.too_large_head:
            self._refuse(
                431,
                f"The request's head has more than 64 KiB or {MAX_HEAD_LINES} lines; send less.",
            )
        else:
            super().send_400_response(msg)

    def shutdown(self) -> None:
        """Close the connection once its answer is complete: the process is asked to end."""
        super().shutdown()
        self._table.on_shutdown()

    def abort(self) -> None:
        """Close the connection at once, and drop what has not been sent."""
        self.transport.abort()

    def may_be_closed(self) -> None:
        """Allow to close the connection for a new one: its request is refused already."""
        self._table.mark(self, waiting=True)

    def on_wait(self, wait: asyncio.Future[None]) -> None:
        """Cancel a wait once the client has gone, or now if it has.

        Without this, calls of clients that have gone would accumulate: the limit of connections
        does not count them any more.
        """
        self._wait = wait
        if self.lost:
            wait.cancel()
        elif not wait.done():
            self._table.mark(self, waiting=True)
            wait.add_done_callback(self._begins)

    def make_room(self) -> None:
        """Close this connection, to make room for a new one.

        If its request waits for its turn, it is answered 503 first.
        """
        waits = self._wait is not None and not self._wait.done()
        if waits and self.cycle and not self.cycle.response_started:
            self._refuse(
                503,
                "Too many of your requests wait. Send fewer at once, and this one again later.",
                "retry-after: 5\r\n",
            )
        else:
            self.abort()

    def _begins(self, _: asyncio.Future[Any]) -> None:
        self._table.mark(self, waiting=False)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: Java's client offers HTTP/2 with each first request, and goes on without."""

    def _follow(self) -> None:
        """Note whether the connection waits for a request's head, and since when."""
        if self.scope is not self._seen:
            self._seen = self.scope
            extensions: dict[Any, Any] = {CONNECTION: self}
            # The request's task runs after this.
            self.scope["extensions"] = extensions
            self._head_arrived()
            self._table.mark(self, waiting=False)
        if self.transport.is_closing() or not self.cycle or not self.cycle.response_complete:
            return
        self._table.mark(self, waiting=True)
        if self.conn.trailing_data[0] and self._head_deadline is None:
            self._await_head()

    def _drop_unsent(self) -> None:
        """Close a connection that has an answer's end unsent: to close it gently would wait."""
        if self.cycle and self.cycle.response_complete and self.transport.get_write_buffer_size():
            self.abort()

    def _await_head(self) -> None:
        late = partial(self._refuse, 408, "The request's head did not arrive within 10 s.")
        self._head_deadline = self.loop.call_later(HEAD_SECONDS, late)

    def _head_arrived(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _refuse(self, status: int, sentence: str, header: str = "") -> None:
        self._head_arrived()
        if self.transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(sentence)}\r\n"
            f"{header}connection: close\r\n\r\n"
        )
        self.transport.write((head + sentence).encode("ascii"))
        self.transport.close()


class ApiWorker(UvicornWorker):  # type: ignore[misc] # it publishes no types
    """A process of the API under gunicorn."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - gunicorn's
        proxies = ApiSettings.load().trusted_proxies
        connections, self._bodies = share_files(_raise_file_limit())
        self._table = connection_table(connections, proxies)
        self.CONFIG_KWARGS = {
            "loop": "asyncio",
            "http": partial(Connection, table=self._table),
            "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
            "ws": "none",
            "lifespan": "off",
            "interface": "asgi3",
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,
            "timeout_keep_alive": KEEP_ALIVE_SECONDS,
            "timeout_graceful_shutdown": _GRACEFUL_SECONDS,
        }
        super().__init__(*args, **options)

    wsgi: Any
    ppid: int

    def init_process(self) -> None:
        """Start to serve, with little memory kept that is free."""
        _give_memory_back()
        super().init_process()

    def init_signals(self) -> None:
        """End by an exit: uvicorn sends itself the signal again once it has ended gracefully."""
        super().init_signals()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, _exit)

    async def _serve(self) -> None:
        orphaned = asyncio.ensure_future(self._end_with_the_master())
        self._table.on_shutdown = self.wsgi.extensions[SERVICES_EXTENSION].waiter.ending.set
        with WsgiBridge(self.wsgi, threads=_THREADS, bodies=self._bodies) as bridge:
            self.wsgi = bridge
            await super()._serve()
        orphaned.cancel()

    async def _end_with_the_master(self) -> None:
        """End this process once gunicorn's master has died: it would hold the port."""
        while self.ppid == os.getppid():  # noqa: ASYNC110 - nothing tells that a parent has died
            await asyncio.sleep(_PARENT_SECONDS)
        # A thread may wait for a server that has gone too, and no master kills this process then.
        last = threading.Timer(_GRACEFUL_SECONDS + 5, os._exit, (1,))
        last.daemon = True
        last.start()
        os.kill(os.getpid(), signal.SIGTERM)


def _give_memory_back() -> None:
    """Have the C library give free memory back to the system, where it is glibc."""
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is not None:
        for number, value in _MEMORY_PARAMETERS:
            set_parameter(number, value)


def _exit(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def share_files(files: int) -> tuple[int, int]:
    """Return how many connections and how many bodies a process with so many open files may have.

    So a process refuses bodies and closes idle connections before it has no file left.
    """
    free = files - min(_OTHER_FILES, files // 2)
    bodies = min(MAX_BODIES, max(4, free // _BODIES_SHARE))
    return min(MAX_CONNECTIONS, free - bodies), bodies


def _raise_file_limit() -> int:
    """Allow this process as many open files as it needs, if it may; return how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + MAX_BODIES + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
