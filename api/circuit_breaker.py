"""Circuit breakers for Redis and S3: fail at once while a server is known not to answer.

A server that refuses connections costs a caller next to nothing. One that accepts them and stays
silent costs each caller a timeout; with a breaker the first callers pay, and the others do not.
"""

import io
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, cast

import urllib3
from redis import ConnectionPool, Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError, ResponseError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError
from urllib3.util.wait import wait_for_read

from api.call_queue import CallQueue
from tasks.object_store import CONNECTIONS, STALE_RETRIES
from tasks.redis_address import RedisAddress
from tasks.redis_client import client_options

#: After a failure calls are refused for this long; then one caller probes.
OPEN_SECONDS: Final = 1.0
#: Longest silence of S3. With it and `CONNECT_SECONDS` a request ends within 5 s while S3 hangs.
READ_SECONDS: Final = 4.0
#: Longest that a call waits for its answer while S3 answers or takes bytes of other calls.
ANSWER_SECONDS: Final = 30.0
#: Calls of a process to S3 at once, and the longest that another one waits for its turn.
CALLS: Final = 8
QUEUE_SECONDS: Final = 60.0
#: A body is sent in blocks of this size, each of which S3 has to take within `READ_SECONDS`.
_BLOCK_BYTES: Final = 2**16
#: Bytes that the kernel takes before S3 does: what is sent is to be on its way.
_SEND_BUFFER_BYTES: Final = 2**18
#: Kernels on the way take some megabytes more, so S3 has longer to answer a large body.
_ANSWER_BYTES_PER_SECOND: Final = 2 * 2**20
CONNECT_SECONDS: Final = 2.0
#: Connections of a process to Redis, more than it has threads: redis-py's own bound is 100, beyond
#: which calls fail as if Redis did not answer.
REDIS_CONNECTIONS: Final = 512
#: How long Redis may take to answer the check that a caller makes after its own failure.
CHECK_SECONDS: Final = 1.0
#: What a call that the server did not answer ends with; any other error is an answer.
_NO_ANSWER: Final = (RedisConnectionError, RedisTimeoutError, HTTPError)


class CircuitOpenError(RedisConnectionError, HTTPError):
    """The breaker is open: nothing was sent. Both redis-py and urllib3 treat it as theirs."""


@dataclass(slots=True)
class Call:
    """A call that is made.

    Attributes:
        moved_at: when the server last took bytes of it; at first, when it began.
    """

    moved_at: float


class CircuitBreaker:
    """What one server's last calls came to, for all threads of a process.

    Closed: calls pass. One without an answer opens the breaker, unless the server answered another
    call in the meantime, or took bytes of one, and so is merely slow.
    Open: calls are refused for `OPEN_SECONDS`.
    Half-open: then one call passes as a probe. Its outcome closes or opens the breaker; the others
    are refused until then.

    A caller whose own call failed often has something to put right at once, such as a write of
    unknown outcome. Its next call is not refused before a short check has failed too.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reason = ""
        self._open_until: float | None = None  # None: closed
        self._prober: int | None = None  # the thread whose call is the probe
        self._opener: int | None = None  # the thread whose call opened the breaker
        self._alive_at = -math.inf

    @contextmanager
    def call(
        self, drop_idle: Callable[[], object], check: Callable[[], bool] | None = None
    ) -> Iterator["Call"]:
        """Make a call in the block, unless the breaker is open, and record what came of it.

        Args:
            drop_idle: closes the client's idle connections. It is called when the breaker opens:
                they are likely to be dead too, and one probe after the other would meet them.
            check: asks the server for a sign of life, within a second or so.

        Raises:
            CircuitOpenError: the server does not answer, as far as is known.
        """
        call = Call(self._clock())
        self._admit(call.moved_at, check)
        try:
            yield call
        except _NO_ANSWER as error:
            if isinstance(error, MaxRetryError) and isinstance(error.reason, ResponseError):
                # urllib3 retries no more because of statuses, which the server answered with.
                self.record_success()
            elif self.record_failure(str(error), since=call.moved_at, silent=_is_silence(error)):
                self._opener = threading.get_ident()
                drop_idle()
            raise
        except Exception:
            self.record_success()
            raise
        except BaseException:
            self._end_probe()
            raise
        self.record_success()

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for a probe."""
        return self._open_until is not None

    def silence(self, since: float) -> float:
        """Return for how long the server has given no sign of life, at most since a time."""
        return self._clock() - max(since, self._alive_at)

    def record_moved(self, call: "Call") -> None:
        """Note that the server took bytes of a call: it lives."""
        call.moved_at = self._alive_at = self._clock()

    def record_success(self) -> None:
        """Close the breaker: the server answered."""
        with self._lock:
            self._alive_at = self._clock()
            self._open_until = None
            self._prober = None

    def record_failure(self, reason: str, *, since: float, silent: bool = True) -> bool:
        """Open the breaker, unless the server has given a sign of life since a time of the clock.

        After silence it stays open for `OPEN_SECONDS`. A connection that was refused or cut off
        cost nothing, and the server may be back at once: the next call is a probe.

        Returns:
            Whether it was opened.
        """
        with self._lock:
            if self._prober == threading.get_ident():
                self._prober = None
            if self._alive_at > since:
                return False
            self._reason = reason
            self._open_until = self._clock() + (OPEN_SECONDS if silent else 0.0)
            return True

    def _admit(self, now: float, check: Callable[[], bool] | None) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._open_until is None or self._prober == me:
                return
            if now >= self._open_until and self._prober is None:
                self._prober = me
                return
            if check is None or self._opener != me:
                raise CircuitOpenError(self._reason)
            self._opener = None
        began = self._clock()
        if not check():
            self.record_failure(self._reason, since=began)
            raise CircuitOpenError(self._reason)
        self.record_success()

    def _end_probe(self) -> None:
        with self._lock:
            if self._prober == threading.get_ident():
                self._prober = None


def _is_silence(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, is a time limit that was reached."""
    kinds = (RedisTimeoutError, TimeoutError, Urllib3TimeoutError)
    causes = (error, *error.args, getattr(error, "reason", None)) if error else ()
    return any(isinstance(each, kinds) for each in causes)


class BreakerRedis(Redis):
    """A client of Redis behind a breaker."""

    breaker: CircuitBreaker

    @classmethod
    def connect(cls, where: RedisAddress | str, breaker: CircuitBreaker) -> Self:
        """Build a client as `tasks.redis_client.connect` does, behind a breaker."""
        options = client_options() | {"max_connections": REDIS_CONNECTIONS}
        client = cast("Self", cls.from_pool(RedisAddress.of(where).pool(**options)))
        client.breaker = breaker
        return client

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis's signature
        """Send a command and read its reply."""
        with _redis_call(self.breaker, self.connection_pool):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # redis leaves it so

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - redis's signature
        shard_hint: str | None = None,
    ) -> "BreakerPipeline":
        """Make a pipeline behind this client's breaker."""
        made = BreakerPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.breaker = self.breaker
        return made


class BreakerPipeline(Pipeline):
    """Several commands in one round trip, behind a breaker."""

    breaker: CircuitBreaker

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis's signature
        """Send the commands and read their replies."""
        with _redis_call(self.breaker, self.connection_pool):
            return super().execute(raise_on_error)


def _redis_call(breaker: CircuitBreaker, pool: ConnectionPool) -> AbstractContextManager[Call]:
    return breaker.call(
        lambda: pool.disconnect(inuse_connections=False), lambda: _answers_ping(pool)
    )


def _answers_ping(pool: ConnectionPool) -> bool:
    """Return whether Redis answers a PING on a connection of its own within `CHECK_SECONDS`."""
    limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), CHECK_SECONDS)
    connection = pool.connection_class(**{**pool.connection_kwargs, **limits})
    try:
        connection.connect()
        connection.send_command("PING")
        connection.read_response()
    except RedisError:
        return False
    else:
        return True
    finally:
        connection.disconnect()


class _RetryUnlessSilent(urllib3.Retry):
    """Retries where a connection was dropped or a gateway found no server, not after a timeout."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *more: Any,  # noqa: ANN401 - urllib3's signature
        **named: Any,  # noqa: ANN401 - urllib3's signature
    ) -> Self:
        """Return the retries that are left; raise an error that is not to be retried."""
        # While a body is being sent, a timeout comes inside a ProtocolError.
        causes = (error, *error.args) if isinstance(error, ProtocolError) else (error,)
        if error and any(isinstance(each, (Urllib3TimeoutError, TimeoutError)) for each in causes):
            raise error
        return super().increment(method, url, response, error, *more, **named)


class _Body(io.BytesIO):
    """A body that is sent block by block, and tells when the next block is wanted."""

    def __init__(self, data: bytes, wanted: Callable[[], object]) -> None:
        super().__init__(data)
        self._wanted = wanted

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next block."""
        if self.tell():
            self._wanted()
        return super().read(size)


class _HttpConnection(HTTPConnection):
    """A connection that waits for an answer for as long as the server gives signs of life."""

    def __init__(self, breaker: CircuitBreaker, *args: Any, **options: Any) -> None:  # noqa: ANN401 - urllib3's
        super().__init__(*args, **options)
        self._breaker = breaker
        self._sent = 0

    def send(self, data: Any) -> None:  # noqa: ANN401 - http.client's
        """Send bytes, and count those since the last answer."""
        super().send(data)
        self._sent += len(data)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # as urllib3's
        """Return the answer, once its head has come."""
        silence = READ_SECONDS + self._sent / _ANSWER_BYTES_PER_SECOND
        self._sent = 0
        _await_answer(self.sock, self._breaker, silence)
        return super().getresponse()


class _HttpsConnection(_HttpConnection, HTTPSConnection):
    """The same over TLS."""


def _await_answer(connected: socket.socket, breaker: CircuitBreaker, longest: float) -> None:
    """Return once an answer has begun; raise after a silence of the whole server that long."""
    began, silence = time.monotonic(), 0.0
    while silence < longest and time.monotonic() - began < ANSWER_SECONDS:
        if wait_for_read(connected, longest - silence):
            return
        silence = breaker.silence(began)
    raise TimeoutError(f"no answer, and no sign of life for {silence:.1f} s")


class BreakerPool(urllib3.PoolManager):
    """Connections to S3 behind a breaker: few calls at once, and short timeouts.

    Args:
        breaker: opens while S3 is silent.
        caller: returns on whose behalf this thread calls; callers take turns.
        ca_certs: the file of the authorities to trust; None for the system's.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        caller: Callable[[], str] = lambda: "",
        ca_certs: str | None = None,
    ) -> None:
        super().__init__(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            maxsize=CONNECTIONS,
            retries=_RetryUnlessSilent(**STALE_RETRIES),
            blocksize=_BLOCK_BYTES,
            socket_options=[
                *HTTPConnection.default_socket_options,
                (socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES),
            ],
            ca_certs=ca_certs,
        )
        self._breaker = breaker
        self._caller = caller
        self._queue = CallQueue(CALLS, seconds=QUEUE_SECONDS)

    def _new_pool(self, scheme: str, *args: Any, **more: Any) -> urllib3.HTTPConnectionPool:  # noqa: ANN401 - urllib3's
        pool = super()._new_pool(scheme, *args, **more)
        kind = _HttpsConnection if scheme == "https" else _HttpConnection
        pool.ConnectionCls = cast("Any", partial(kind, self._breaker))
        return pool

    def urlopen(
        self,
        method: str,
        url: str,
        *args: Any,  # noqa: ANN401 - urllib3's signature
        **more: Any,  # noqa: ANN401 - urllib3's signature
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and read the head of its answer."""
        with (
            self._queue.turn(self._caller(), lambda: self._breaker.open),
            self._breaker.call(self._drop_idle) as call,
        ):
            body = more.get("body")
            if isinstance(body, bytes) and len(body) > _BLOCK_BYTES:
                more["headers"] = HTTPHeaderDict(more.get("headers") or {})
                more["headers"]["Content-Length"] = str(len(body))
                more["body"] = _Body(body, lambda: self._breaker.record_moved(call))
            return super().urlopen(method, url, *args, **more)

    def _drop_idle(self) -> None:
        self.clear()
        self._queue.look_again()
