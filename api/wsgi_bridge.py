"""Runs the Flask application for requests that an event loop reads.

A request's head is judged first, in a short call of the application that stops before the handler
(`ApiFlask`): whoever is refused gets the answer while still sending. Then the body is read into a
temporary file, with a deadline and a least rate. Only then does the handler run, in a thread.

The chunk of a tus upload is handed on in parts of `PART_BYTES` as it arrives, each as a request of
its own, so that what has come is kept when the client or this process dies.
"""

import asyncio
import hashlib
import io
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self, cast
from urllib.parse import SplitResult, unquote_to_bytes

import structlog
from flask import Flask, Request, Response, request
from werkzeug.routing import MapAdapter

from api.body_reader import REFUSALS, BodyReader, BodyShares, End, Receive
from api.callers import OWNER, TRUSTED_PROXIES, caller_of, client_address, client_network, given_key
from api.places import OnWait, Places, TimeShares, Turns
from tasks.api_keys import ANONYMOUS, Owner
from tasks.uploads.store import PART_BYTES

#: Configuration key of the URL from which an application makes all URLs, in its parts, or None.
PUBLIC_ADDRESS: Final = "RMBG_PUBLIC_ADDRESS"
#: Key of a scope's extension that is its `ConnectionHandle`.
CONNECTION: Final = "rmbg.connection"
#: Keys of the environ. The application stops before the handler, and says that it would go on.
_HEAD_ONLY: Final = "rmbg.head_only"
_GO_ON: Final = "rmbg.go_on"
#: Bytes of the largest body that is read.
MAX_BODY: Final = "rmbg.max_body"
#: Type of the error to answer with: the body could not be read.
REFUSAL: Final = "rmbg.refusal"
#: Bytes that are left of an upload's chunk which is handed on in parts, this part included.
ANNOUNCED: Final = "rmbg.announced"
#: Set while more parts follow: what the application answers is not the request's answer.
INTERMEDIATE: Final = "rmbg.intermediate"
#: The id of the request, once the head was judged.
REQUEST_ID: Final = "rmbg.request_id"
#: The context of the request's variables, whichever threads it runs in.
_CONTEXT: Final = "rmbg.context"
#: The `OnWait` of a request's calls; absent where they run even if the client has gone.
_ON_WAIT: Final = "rmbg.on_wait"
#: When the request's head had arrived, by `time.perf_counter`.
STARTED: Final = "rmbg.started"

#: A client that takes nothing of its answer for this long is cut off.
SEND_SECONDS: Final = 30.0
#: A body up to this size is read before the head is judged: one call does for both.
_SMALL_BODY_BYTES: Final = 2**16
#: A body stays in memory up to this size.
_MEMORY_BYTES: Final = 2**16
#: Larger bodies of a process that are read, or wait for their handler, at once: each has a file.
MAX_BODIES: Final = 1024
#: An answer of known length up to this size is made in one call.
_ANSWER_BYTES: Final = 2**20
#: An answer is sent in slices of this size, each of which the client has to take in time.
_SLICE_BYTES: Final = 2**18
#: A body up to this size is sent without a look at whether the client takes it.
_SMALL_ANSWER_BYTES: Final = 2**16
#: What each call, and each piece of an answer, takes of the event loop.
_LOOP_SECONDS: Final = 0.0004
#: How the name of a share begins that is for finding out whose the keys of an address are.
_NEW_KEYS: Final = "new keys "
#: Keys whose owners are remembered, so that each owner has turns of its own.
_KNOWN_KEYS: Final = 4096
#: Threads of their own for what has to answer when all others are busy.
_HEALTH_THREADS: Final = 2
_HEALTH_PATHS: Final = ("/healthz/", "/metrics")
_UPLOADS: Final = "/api/v1/uploads"

_log = structlog.get_logger(__name__)

Environ = dict[str, Any]
Send = Callable[[dict[str, Any]], Any]


class ApiFlask(Flask):
    """A Flask application that can judge a request by its head, and knows its public URL."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Make all URLs from the public URL, if one is set, instead of from the header `Host`."""
        adapter = super().create_url_adapter(request)
        public: SplitResult | None = self.config.get(PUBLIC_ADDRESS)
        if adapter is not None and public is not None:
            adapter.url_scheme, adapter.server_name = public.scheme, public.netloc
            adapter.script_name = f"{public.path.rstrip('/')}/"
        return adapter

    def dispatch_request(self) -> Any:  # noqa: ANN401 - Flask's
        """Run the handler, unless only the head was to be judged."""
        environ = request.environ
        if not environ.get(_HEAD_ONLY):
            return super().dispatch_request()
        if request.routing_exception is not None:
            self.raise_routing_exception(request)
        environ[_GO_ON] = True
        return Response(status=204)


def judged_head_only() -> bool:
    """Return whether this call only let the request's head pass: it is no answer yet."""
    return _GO_ON in request.environ or INTERMEDIATE in request.environ


class ConnectionHandle(Protocol):
    """What the bridge does with a connection.

    Attributes:
        lost: the client has gone.
    """

    lost: bool

    def abort(self) -> None:
        """Close it at once."""

    def may_be_closed(self) -> None:
        """Allow to close it for a new one."""

    def on_wait(self, wait: asyncio.Future[None]) -> None:
        """Cancel a wait once the client has gone."""


@dataclass(slots=True)
class Answer:
    """A response, whose body may still have to be made; `close` is None where that is done."""

    status: int
    headers: list[tuple[bytes, bytes]]
    start: bytes
    rest: Iterator[bytes] | None
    close: Callable[[], None] | None

    def header(self, name: bytes) -> str | None:
        """Return a header's value."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)

    def next_piece(self) -> bytes | None:
        """Make the next piece of the body; at its end, close the response and return None."""
        piece = next(self.rest or iter(()), None)
        if piece is None:
            self.end()  # here, since another turn of a thread costs more than the rest of it
        return piece

    def end(self) -> None:
        """Close the response, once."""
        close, self.close = self.close, None
        if close is not None:
            close()


class WsgiBridge:
    """An ASGI application that runs a WSGI application in threads, which callers share."""

    def __init__(self, application: Flask, *, threads: int, bodies: int = MAX_BODIES) -> None:
        self._application = application
        #: One for each body that may be in a temporary file.
        self.bodies = Places(bodies)
        self._proxies: int = application.config.get(TRUSTED_PROXIES, 0)
        self._turns = Turns(threads)
        self._health_turns = Turns(_HEALTH_THREADS)
        self._time_shares = TimeShares()
        # The owners by the keys that were let in, and the digests of keys that nobody has; the
        # latest ones.
        self._owners: OrderedDict[str, Owner] = OrderedDict()
        self._refused_keys: OrderedDict[bytes, None] = OrderedDict()
        # The requests that wait until it is known whose their key is, by the key.
        self._identifying: dict[str, list[asyncio.Future[bool]]] = {}
        self.body_shares = BodyShares()
        self._threads = ThreadPoolExecutor(threads, "request")
        self._health_threads = ThreadPoolExecutor(_HEALTH_THREADS, "health")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._health_threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection = scope["extensions"][CONNECTION]
        environ = make_environ(scope)
        self._drop_prefix(environ)
        # A part of an upload's chunk is kept, whether its client is there or not.
        if not _is_chunk_of_upload(environ):
            environ[_ON_WAIT] = connection.on_wait
        try:
            await _Exchange(self, environ, connection, receive, send).run()
        except asyncio.CancelledError:
            if not connection.lost:
                raise

    def _drop_prefix(self, environ: Environ) -> None:
        """Drop the public URL's path from a request's, where a proxy has left it."""
        public: SplitResult | None = self._application.config.get(PUBLIC_ADDRESS)
        prefix = public.path.rstrip("/") if public else ""
        if prefix and f"{environ['PATH_INFO']}/".startswith(f"{prefix}/"):
            environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(prefix)

    async def call(self, environ: Environ, body: BinaryIO | None = None) -> Answer:
        """Run the application in a thread, and return its answer."""
        refusal = await self.identify(environ)
        if refusal is not None:
            return refusal
        if body is not None:
            environ["wsgi.input"] = body
        return await self._call(environ)

    async def _call(self, environ: Environ) -> Answer:
        answer = await self._in_share(environ, partial(_call, self._application, environ))
        self._note_owner(environ, answer.status)
        return cast("Answer", answer)

    async def identify(self, environ: Environ) -> Answer | None:
        """Find out whose a request's key is, if this process does not know; return its refusal.

        Until then a request would have to wait among those of its address: without end, where
        another client behind it sends more than an address may. So one request of each key is
        judged by its head at once, in a share of its own, and others of that key wait for it.
        """
        key = given_key(environ)
        while key and self._is_new(environ):
            others = self._identifying.get(key)
            if others is not None:
                judged: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                others.append(judged)
                environ.get(_ON_WAIT, _ignore)(judged)
                if await judged:
                    return None
                continue  # That client has gone.
            others = self._identifying[key] = []
            answer = None
            try:
                answer, goes_on = await self.judge_head(environ)
            finally:
                del self._identifying[key]
                for each in others:
                    if not each.done():
                        each.set_result(answer is not None)
            return None if goes_on else answer
        return None

    async def judge_head(self, environ: Environ) -> tuple[Answer, bool]:
        """Run the application up to the handler; return its answer, and whether it would go on."""
        before = environ.get(_HEAD_ONLY)
        environ[_HEAD_ONLY] = True
        answer = await self._call(environ)
        environ[_HEAD_ONLY] = before
        return answer, environ.pop(_GO_ON, False)

    def _is_new(self, environ: Environ) -> bool:
        """Return whether a request has a key of which this process does not know whose it is."""
        key = given_key(environ)
        return (
            key is not None
            and not _is_health_check(environ)
            and key not in self._owners
            and _digest(key) not in self._refused_keys
        )

    async def next_piece(self, environ: Environ, answer: Answer) -> bytes | None:
        """Make the next piece of an answer in a thread; at its end, close it and return None."""
        return cast("bytes | None", await self._in_share(environ, answer.next_piece))

    async def close(self, environ: Environ, answer: Answer) -> None:
        """Let go, in a thread, of what an answer still holds, and do not wait for a share first."""
        if answer.close is not None:
            _, seconds = await self._run(environ, answer.end)
            self._time_shares.spend(self._sharer(environ), seconds)

    async def _in_share(self, environ: Environ, function: Callable[[], Any]) -> Any:  # noqa: ANN401 - the function's
        """Run a function in a thread once its caller has time left, and return what it returns.

        Raises:
            asyncio.CancelledError: its client has gone before it began.
        """
        asks = not _is_health_check(environ)
        on_wait: OnWait = environ.get(_ON_WAIT, _ignore)
        sharer = self._sharer(environ)
        async with self._time_shares.turn(sharer, on_wait, asks=asks) as taken:
            found, seconds = await self._run(environ, function, on_wait)
            taken.append(seconds)
        if sharer.startswith(_NEW_KEYS):
            # Its address has no more time than it had, whichever keys it tries.
            self._time_shares.spend(sharer.removeprefix(_NEW_KEYS), seconds)
        return found

    def _sharer(self, environ: Environ) -> str:
        """Return whose share of the time a request takes: health checks have one of their own."""
        if _is_health_check(environ):
            return f"checks {client_network(client_address(environ, self._proxies))}"
        return f"{_NEW_KEYS * self._is_new(environ)}{self.caller(environ)}"

    async def _run(
        self, environ: Environ, function: Callable[[], Any], on_wait: OnWait = lambda _: None
    ) -> tuple[Any, float]:
        """Run a function in a thread; return what it returns, and what it took of the processor."""
        run = partial(environ[_CONTEXT].run, _timed, function)
        in_thread = asyncio.get_running_loop().run_in_executor
        health = _is_health_check(environ)
        turns, threads = (
            (self._health_turns, self._health_threads) if health else (self._turns, self._threads)
        )
        async with turns.turn(self._sharer(environ), on_wait):
            found, seconds = await in_thread(threads, run)
        return found, seconds + _LOOP_SECONDS

    def caller(self, environ: Environ) -> str:
        """Return what tells callers apart; a key that was let in before is known by its head."""
        known = self._owners.get(given_key(environ) or "")
        return caller_of({OWNER: known, **environ} if known else environ, self._proxies)

    def _note_owner(self, environ: Environ, status: int) -> None:
        """Remember the owner of a request's key, or that it has none."""
        key, owner = given_key(environ), cast("Owner", environ.get(OWNER, ANONYMOUS))
        if not key:
            return
        if not owner.anonymous:
            self._refused_keys.pop(_digest(key), None)
            _remember(self._owners, key, owner)
        elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
            _remember(self._refused_keys, _digest(key), None)
            if status == HTTPStatus.UNAUTHORIZED:
                # Revoked: whoever has it takes no more of its owner's shares.
                self._owners.pop(key, None)


@dataclass(slots=True)
class _Exchange:
    """One request and its answer."""

    bridge: WsgiBridge
    environ: Environ
    connection: ConnectionHandle
    receive: Receive
    send: Send

    async def run(self) -> None:
        """Judge the head of a request with a body, read the body, and answer."""
        length = self.environ.get("CONTENT_LENGTH", "")
        if length in {"", "0"} and "HTTP_TRANSFER_ENCODING" not in self.environ:
            await self._respond(await self.bridge.call(self.environ))
            return
        small = length.isdigit() and int(length) <= _SMALL_BODY_BYTES
        reader = BodyReader(self.receive, _SMALL_BODY_BYTES)
        if not small or "HTTP_EXPECT" in self.environ:
            refusal = await self._judge_head()
            if refusal is not None:
                await self._refuse(refusal, reader)
                return
            reader.limit = self.environ.get(MAX_BODY, _SMALL_BODY_BYTES)
        if small:
            await self._take(reader)
            return
        with self.bridge.bodies.hold(self.bridge.caller(self.environ)) as placed:
            if placed:
                await self._take(reader)
                return
        # Without a place: it is read on, into no file.
        answer = await self.bridge.call({**self.environ, REFUSAL: "too_many_bodies"})
        await self._refuse(answer, reader)

    async def _take(self, reader: BodyReader) -> None:
        """Read the body, and answer the request."""
        with self.bridge.body_shares.share(self.bridge.caller(self.environ)) as reader.has_room:
            if _is_chunk_of_upload(self.environ):
                await self._hand_on_in_parts(reader)
                return
            with _spool() as file:
                end = await reader.read_into(file, reader.limit + 1)
                if await self._ended_well(end, reader):
                    await self._respond(await self._call_with(file, reader.length))

    async def _judge_head(self) -> Answer | None:
        """Return the refusal of a request by its head alone; None if it may send its body."""
        refusal = await self.bridge.identify(self.environ)
        if refusal is not None:
            return refusal
        answer, goes_on = await self.bridge.judge_head(self.environ)
        return None if goes_on else answer

    async def _ended_well(self, end: End, reader: BodyReader) -> bool:
        """Return whether the body is complete; else answer why not, if anybody is there."""
        if end is End.COMPLETE:
            return True
        if end is not End.DISCONNECTED:
            answer = await self.bridge.call({**self.environ, REFUSAL: REFUSALS[end]})
            await self._refuse(answer, reader, drain=end is not End.TOO_SLOW)
        return False

    async def _call_with(self, file: BinaryIO, length: int, **more: Any) -> Answer:  # noqa: ANN401 - values of the environ
        file.seek(0)
        environ = {**self.environ, "CONTENT_LENGTH": str(length), **more}
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return await self.bridge.call(environ, file)

    async def _hand_on_in_parts(self, reader: BodyReader) -> None:
        """Run the application for each part of an upload's chunk; answer as for the whole."""
        has_room = reader.has_room
        announced = self.environ.get("CONTENT_LENGTH")
        more: dict[str, Any] = {}
        first: Answer | None = None
        while True:
            with _spool() as file:
                before = reader.taken
                # The parts before are in no file any more.
                reader.has_room = lambda length, before=before: has_room(length - before)  # type: ignore[misc] # mypy takes it for a function of two
                end = await reader.read_into(file, PART_BYTES)
                length = file.tell()
                if announced is not None:
                    more[ANNOUNCED] = int(announced) - before
                if end is End.MORE:
                    more[INTERMEDIATE] = True
                else:
                    more.pop(INTERMEDIATE, None)
                answer = await self._call_with(file, length, **more)
            if answer.status not in {HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}:
                await self._refuse(answer, reader)
                return
            first = _with_offset(first, answer)
            if end is not End.MORE:
                break
            more |= _next_part(self.environ, first)
        if await self._ended_well(end, reader):
            await self._respond(first)

    async def _refuse(self, answer: Answer, reader: BodyReader, *, drain: bool = True) -> None:
        """Answer a client that is still sending, and read on until it has read the answer."""
        self.connection.may_be_closed()
        body = answer.start + b"".join(answer.rest or ())
        await self.bridge.close(self.environ, answer)
        headers = [*answer.headers, (b"connection", b"close")]
        await self._send(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if drain:
            await reader.drain()
        await self._send({"type": "http.response.body", "body": b""})

    async def _respond(self, answer: Answer) -> None:
        """Send a whole answer, for as long as its client takes it."""
        head = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        try:
            if await self._send(head):
                await self._send_body(answer)
        finally:
            await self.bridge.close(self.environ, answer)

    async def _send_body(self, answer: Answer) -> None:
        if answer.rest is None and len(answer.start) <= _SMALL_ANSWER_BYTES:
            await self._send({"type": "http.response.body", "body": answer.start})
            return
        gone = asyncio.ensure_future(self._disconnected())
        try:
            piece: bytes | None = answer.start
            while piece is not None and not gone.done():
                if not await self._send_slices(piece):
                    return
                if answer.rest is None:
                    break  # that was all: it does not stay until its caller has time left
                piece = await self.bridge.next_piece(self.environ, answer)
            if not gone.done():
                await self._send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _send_slices(self, piece: bytes) -> bool:
        """Send a piece of the body in slices; return False if the client takes nothing."""
        for at in range(0, len(piece), _SLICE_BYTES):
            cut = piece[at : at + _SLICE_BYTES]
            if not await self._send({"type": "http.response.body", "body": cut, "more_body": True}):
                return False
        return True

    async def _disconnected(self) -> None:
        """Return once the client has gone."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _send(self, message: dict[str, Any]) -> bool:
        """Send a message; return False, with the connection closed, if the client takes nothing."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.send(message)
        except TimeoutError:
            _log.info("request.not_read", path=self.environ["PATH_INFO"])
            self.connection.abort()
            return False
        return True


def _ignore(_: asyncio.Future[Any]) -> None: ...


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _remember(table: OrderedDict[Any, Any], key: object, value: object) -> None:
    """Set an entry of a table of the latest ones."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > _KNOWN_KEYS:
        table.popitem(last=False)


def _spool() -> Any:  # noqa: ANN401 - the class is private to tempfile
    return tempfile.SpooledTemporaryFile(_MEMORY_BYTES)


def _is_chunk_of_upload(environ: Environ) -> bool:
    """Return whether a request's body may be kept in part: a chunk without a checksum."""
    return (
        environ["PATH_INFO"].startswith(_UPLOADS)
        and environ.get("CONTENT_TYPE") == "application/offset+octet-stream"
        and "HTTP_UPLOAD_CHECKSUM" not in environ
    )


def _with_offset(first: Answer | None, answer: Answer) -> Answer:
    """Return the first part's answer, with the offset after this part."""
    if first is None:
        return answer
    name, offset = b"upload-offset", answer.header(b"upload-offset") or ""
    first.headers = [each for each in first.headers if each[0] != name]
    first.headers.append((name, offset.encode("ascii")))
    return first


def _next_part(environ: Environ, first: Answer) -> dict[str, Any]:
    """Return what the request for the next part has that the first one has not."""
    path = environ["PATH_INFO"]
    location = first.header(b"location")
    if location is not None:
        path = f"{_UPLOADS}/{location.rpartition('/')[2]}"
    offset = first.header(b"upload-offset")
    return {"REQUEST_METHOD": "PATCH", "PATH_INFO": path, "HTTP_UPLOAD_OFFSET": offset}


def _is_health_check(environ: Environ) -> bool:
    """Return whether a request is for what has to answer when all else is busy."""
    return str(environ["PATH_INFO"]).startswith(_HEALTH_PATHS)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the seconds of the processor that it took."""
    began = time.thread_time()
    return function(), time.thread_time() - began


def _call(application: Flask, environ: Environ) -> Answer:
    """Run the application, and gather what it answers as far as that needs no waiting."""
    head: list[Any] = []
    start = bytearray()

    def start_response(
        status: str, headers: list[tuple[str, str]], _: object = None, /
    ) -> Callable[[bytes], object]:
        head[:] = [int(status[:3]), [_encoded(*each) for each in headers]]
        return start.extend

    body: Iterable[bytes] = application(environ, start_response)
    close = getattr(body, "close", lambda: None)
    pieces = iter(body)
    start += next(pieces, b"")
    status, headers = head
    length = next((int(value) for name, value in headers if name == b"content-length"), None)
    if length is not None and length <= _ANSWER_BYTES:
        for piece in pieces:
            start += piece
        if length <= _SMALL_ANSWER_BYTES:
            close()  # here, since another turn of a thread costs more than all the rest of it
            return Answer(status, headers, bytes(start), None, None)
        return Answer(status, headers, bytes(start), None, close)
    if status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return Answer(status, headers, b"", None, close)
    return Answer(status, headers, bytes(start), pieces, close)


def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("latin-1"), value.encode("latin-1")


def make_environ(scope: dict[str, Any]) -> Environ:
    """Return a request's WSGI environ, by PEP 3333."""
    host, port = scope.get("server") or ("localhost", 80)
    client = scope.get("client") or ("", 0)
    environ: Environ = {
        STARTED: time.perf_counter(),
        _CONTEXT: Context(),
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REQUEST_URI": _request_uri(scope),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 0),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").upper().replace("-", "_")
        # A name with an underscore would be taken for the one with a hyphen.
        if b"_" in raw:
            continue
        key = name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"
        text = value.decode("latin-1")
        separator = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{text}" if key in environ else text
    return environ


def _request_uri(scope: dict[str, Any]) -> str:
    query = scope["query_string"].decode("latin-1")
    path = cast("bytes", scope["raw_path"]).decode("latin-1")
    return f"{path}?{query}" if query else path
