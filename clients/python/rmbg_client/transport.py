"""How requests are sent: attempts, pauses and time limits, for blocking and asynchronous clients.

A call of the API is written once, as a generator (`calls.py`): it yields what is to be sent or
waited for, and is resumed with the answer. The two drivers here carry that out.
"""

import asyncio
import ipaddress
import json
import random
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from typing import IO, Any, Final, TypeAlias, TypeVar, cast

import httpx2 as httpx

from rmbg_client.errors import NoAnswerError, ServiceError
from rmbg_client.pictures import Body
from rmbg_client.service_errors import SERVICE_ERRORS

T = TypeVar("T")
C = TypeVar("C", httpx.Client, httpx.AsyncClient)

#: Statuses of a service, or a proxy, that will answer otherwise soon.
_TRANSIENT_STATUSES: Final = frozenset({408, 423, 429, 502, 503, 504})
#: A request with the same idempotency key is being accepted.
_IN_PROGRESS: Final = "idempotency_in_progress"
_CONNECT_SECONDS: Final = 5.0
_SUCCESS: Final = range(200, 300)
#: Of a body that is no refusal of the service's own.
_MOST_ERROR_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a request is tried again: after a pause that doubles, varied by up to half.

    By default, the attempts go on for more than 30 s: as long as the service reserves an
    idempotency key for a process that died.

    Attributes:
        attempts: most attempts at one request, the first one included; 1: no retries.
        first_pause: seconds after the first attempt.
        longest_pause: seconds; an answer that asks for a longer pause ends the attempts.
    """

    attempts: int = 8
    first_pause: float = 0.5
    longest_pause: float = 30.0
    #: Returns numbers from 0 up to 1, for the jitter.
    random: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts counts the first one too: give 1 for no retries.")

    def pause(self, failures: int) -> float:
        """Return the pause after so many failures, in seconds."""
        doubled = self.first_pause * 2.0 ** min(failures - 1, 30)
        return min(doubled, self.longest_pause) * (0.5 + self.random() / 2)

    def next_pause(self, error: NoAnswerError | ServiceError, attempts: int) -> float | None:
        """Return the pause before the next attempt; None if there is none."""
        if attempts >= self.attempts or not may_pass(error):
            return None
        asked = getattr(error, "retry_after", None) or 0.0
        return None if asked > self.longest_pause else max(asked, self.pause(attempts))


def may_pass(error: Exception) -> bool:
    """Return whether sending the same request again may help."""
    if isinstance(error, ServiceError):
        return error.status in _TRANSIENT_STATUSES or error.type == _IN_PROGRESS
    return isinstance(error, NoAnswerError)


def checked_url(url: str) -> str:
    """Return a service's address without a slash at its end."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parts = httpx.URL("")
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ValueError(f"{url!r} is no address of a service. Give one as http://HOST:PORT.")
    return url.rstrip("/")


def make_http(kind: type[C], url: str) -> C:
    """Return an HTTP client that takes the environment's proxy, unless the service is on loopback.

    A proxy would look for that service on its own machine.

    Raises:
        ValueError: it cannot use the proxy or the certificates that the environment names.
    """
    try:
        if _is_loopback(httpx.URL(url).host):
            return kind(trust_env=False, verify=httpx.create_ssl_context())
        return kind()
    except ImportError as error:
        raise ValueError(
            "The environment names a SOCKS proxy, which needs: pip install 'httpx2[socks]'. "
            "Or unset ALL_PROXY, HTTP_PROXY and HTTPS_PROXY."
        ) from error
    except OSError as error:
        raise ValueError(
            "The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: "
            f"{error.strerror}."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_key(key: str | None) -> str | None:
    """Return an API key that a header can carry."""
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ValueError("This API key has characters that no key has. Copy it again.")
    return key


@dataclass(frozen=True, slots=True)
class Send:
    """A request.

    Attributes:
        address: of the service's own if it begins with a slash; else whole, and sent without a key.
        seconds: the time limit of the exchange, body and answer included.
        sink: takes the answer's body, if it is a success; emptied before each attempt.
    """

    method: str
    address: str
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    sink: IO[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: its status, headers, and body unless a sink took it."""

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def data(self) -> dict[str, Any]:
        """The `data` of the service's envelope.

        Raises:
            NoAnswerError: this is no answer of the service's; a wrong address leads to such.
        """
        try:
            return dict(json.loads(self.content)["data"])
        except (ValueError, LookupError, TypeError):
            raise NoAnswerError("What answered is no rmbg service. Check its address.") from None


#: A call of the API: yields what is to be done, and returns its result.
Call: TypeAlias = Generator[Send | Sleep, Any, T]


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One attempt at a request: its arguments, its time limit, and how its answer is read."""

    send: Send
    base: str
    key: str | None
    clock: Callable[[], float]
    end: float

    def check(self) -> None:
        """Raise `NoAnswerError` once the time limit is over."""
        if self.clock() > self.end:
            raise NoAnswerError(f"No complete answer within {self.send.seconds:g} s.")

    @property
    def url(self) -> str:
        """The whole address."""
        return f"{self.base}{self.send.address}" if self.is_own else self.send.address

    @property
    def is_own(self) -> bool:
        """Whether it is an address of the service itself, which gets the key."""
        return self.send.address.startswith("/")

    def arguments(self, stack: ExitStack) -> dict[str, Any]:
        key = {"X-API-Key": self.key} if self.is_own and self.key else {}
        body = self.send.body.arguments(stack, self.check) if self.send.body else {}
        return {
            "method": self.send.method,
            "url": self.url,
            "headers": {**self.send.headers, **key},
            "timeout": httpx.Timeout(self.send.seconds, connect=_CONNECT_SECONDS),
            **({"params": self.send.query} if self.send.query else {}),
            **body,
        }

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn what httpx raises while there is no answer into an error that names the server."""
        try:
            yield
        except httpx.TransportError as error:
            what = str(error) or type(error).__name__
            # Not the path: that of a signed address is a secret.
            url = httpx.URL(self.url)
            server = f"{url.scheme}://{url.netloc.decode()}"
            raise NoAnswerError(f"No answer from {server}: {what}. Is it running?") from error

    def sink(self, status: int) -> IO[bytes] | None:
        """Return where a success goes, if not into memory, emptied."""
        if status not in _SUCCESS or self.send.sink is None:
            return None
        self.send.sink.seek(0)
        self.send.sink.truncate()
        return self.send.sink

    def answer(self, response: httpx.Response, content: bytes) -> Answer:
        if response.status_code not in _SUCCESS:
            raise refusal(response.status_code, response.headers, content)
        return Answer(response.status_code, response.headers, content)


class _Reader:
    """Takes an answer's body piece by piece, into memory or a file."""

    def __init__(self, exchange: _Exchange, status: int) -> None:
        self._exchange = exchange
        self._sink = exchange.sink(status)
        self._bound = None if status in _SUCCESS else _MOST_ERROR_BYTES
        self._content = bytearray()

    def take(self, piece: bytes) -> bool:
        """Keep a piece; return whether another is wanted."""
        self._exchange.check()
        if self._sink is not None:
            self._sink.write(piece)
            return True
        self._content += piece
        return self._bound is None or len(self._content) < self._bound

    @property
    def content(self) -> bytes:
        return bytes(self._content)


def refusal(status: int, headers: Mapping[str, str], content: bytes) -> ServiceError:
    """Return the error that an answer stands for."""
    try:
        body = json.loads(content)
        found, message = body["error"], str(body["message"])
        fields, kind, code = found["fields"], found["type"], int(body["code"])
        request_id = str(body["request_id"])
    except (ValueError, LookupError, TypeError):
        message = f"HTTP {status}, and the answer is not the service's own."
        fields, kind, code, request_id = {}, "", 0, ""
    return SERVICE_ERRORS.get(kind, ServiceError)(
        message,
        status=status,
        code=code,
        fields=fields,
        request_id=request_id,
        retry_after=_retry_after(headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read seconds, or a date by the answer's own clock; None if it is neither."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers["Date"])
    except (ValueError, LookupError, TypeError):
        return None
    return max(0.0, wait.total_seconds())


def attempts(send: Send, policy: RetryPolicy) -> Call[Answer]:
    """Send a request until it is answered with success, or its attempts are used up.

    Raises:
        ServiceError: the service refused it.
        NoAnswerError: there was no answer.
    """
    number = 0
    while True:
        number += 1
        try:
            answer: Answer = yield send
        except (NoAnswerError, ServiceError) as error:
            pause = policy.next_pause(error, number)
            if pause is None:
                raise
        else:
            return answer
        yield Sleep(pause)


@dataclass(frozen=True, slots=True)
class BlockingDriver:
    """Carries calls out, blocking."""

    base: str
    key: str | None
    http: httpx.Client
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def run(self, call: Call[T]) -> T:
        """Carry a call out, and return its result."""
        resume: Callable[[], Send | Sleep] = partial(next, call)
        while True:
            try:
                todo = resume()
            except StopIteration as end:
                return cast("T", end.value)
            try:
                answer = self._do(todo)
            except (NoAnswerError, ServiceError) as error:
                resume = partial(call.throw, error)
            else:
                resume = partial(call.send, answer)

    def _do(self, todo: Send | Sleep) -> Answer | None:
        if isinstance(todo, Sleep):
            self.sleep(todo.seconds)
            return None
        exchange = _Exchange(todo, self.base, self.key, self.clock, self.clock() + todo.seconds)
        with (
            exchange.told(),
            ExitStack() as stack,
            self.http.stream(**exchange.arguments(stack)) as response,
        ):
            reader = _Reader(exchange, response.status_code)
            for piece in response.iter_bytes():
                if not reader.take(piece):
                    break
            return exchange.answer(response, reader.content)


@dataclass(frozen=True, slots=True)
class AsyncDriver:
    """Carries calls out on an event loop."""

    base: str
    key: str | None
    http: httpx.AsyncClient
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    async def run(self, call: Call[T]) -> T:
        """Carry a call out, and return its result."""
        resume: Callable[[], Send | Sleep] = partial(next, call)
        while True:
            try:
                todo = resume()
            except StopIteration as end:
                return cast("T", end.value)
            try:
                answer = await self._do(todo)
            except (NoAnswerError, ServiceError) as error:
                resume = partial(call.throw, error)
            else:
                resume = partial(call.send, answer)

    async def _do(self, todo: Send | Sleep) -> Answer | None:
        if isinstance(todo, Sleep):
            await self.sleep(todo.seconds)
            return None
        exchange = _Exchange(todo, self.base, self.key, self.clock, self.clock() + todo.seconds)
        with exchange.told(), ExitStack() as stack:
            async with self.http.stream(**exchange.arguments(stack)) as response:
                reader = _Reader(exchange, response.status_code)
                async for piece in response.aiter_bytes():
                    if not reader.take(piece):
                        break
                return exchange.answer(response, reader.content)
