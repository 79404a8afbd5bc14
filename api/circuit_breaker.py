"""Circuit breakers for Redis and S3: fail at once while a server is known not to answer.

A server that refuses connections costs a caller next to nothing. One that accepts them and stays
silent costs each caller a timeout; with a breaker the first callers pay, and the others do not.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Self, cast

import urllib3
from redis import ConnectionPool, Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError, ResponseError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from tasks.object_store import CONNECTIONS, STALE_RETRIES
from tasks.redis_client import client_options

#: After a failure calls are refused for this long; then one caller probes.
OPEN_SECONDS: Final = 1.0
#: Longest silence of S3 in a call. With it and `CONNECT_SECONDS` a request ends within 5 s.
READ_SECONDS: Final = 4.0
CONNECT_SECONDS: Final = 2.0
#: How long Redis may take to answer the check that a caller makes after its own failure.
CHECK_SECONDS: Final = 1.0
#: What a call that the server did not answer ends with; any other error is an answer.
_NO_ANSWER: Final = (RedisConnectionError, RedisTimeoutError, HTTPError)


class CircuitOpenError(RedisConnectionError, HTTPError):
    """The breaker is open: nothing was sent. Both redis-py and urllib3 treat it as theirs."""


class CircuitBreaker:
    """What one server's last calls came to, for all threads of a process.

    Closed: calls pass. One without an answer opens the breaker, unless the server answered another
    call in the meantime, and so is merely slow.
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
        self._answered_at = -math.inf

    @contextmanager
    def call(
        self, drop_idle: Callable[[], object], check: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Make a call in the block, unless the breaker is open, and record what came of it.

        Args:
            drop_idle: closes the client's idle connections. It is called when the breaker opens:
                they are likely to be dead too, and one probe after the other would meet them.
            check: asks the server for a sign of life, within a second or so.

        Raises:
            CircuitOpenError: the server does not answer, as far as is known.
        """
        began = self._clock()
        self._admit(began, check)
        try:
            yield
        except _NO_ANSWER as error:
            if isinstance(error, MaxRetryError) and isinstance(error.reason, ResponseError):
                # urllib3 retries no more because of statuses, which the server answered with.
                self.record_success()
            elif self.record_failure(str(error), since=began, silent=_is_silence(error)):
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

    def record_success(self) -> None:
        """Close the breaker: the server answered."""
        with self._lock:
            self._answered_at = self._clock()
            self._open_until = None
            self._prober = None

    def record_failure(self, reason: str, *, since: float, silent: bool = True) -> bool:
        """Open the breaker, unless the server has answered since a time of the clock.

        After silence it stays open for `OPEN_SECONDS`. A connection that was refused or cut off
        cost nothing, and the server may be back at once: the next call is a probe.

        Returns:
            Whether it was opened.
        """
        with self._lock:
            if self._prober == threading.get_ident():
                self._prober = None
            if self._answered_at > since:
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
    def connect(cls, url: str, breaker: CircuitBreaker) -> Self:
        """As `tasks.redis_client.connect`, behind a breaker."""
        client = cast("Self", cls.from_url(url, **client_options()))
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


def _redis_call(breaker: CircuitBreaker, pool: ConnectionPool) -> AbstractContextManager[None]:
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


class BreakerPool(urllib3.PoolManager):
    """Connections to S3 with short timeouts, behind a breaker."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        super().__init__(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            maxsize=CONNECTIONS,
            retries=_RetryUnlessSilent(**STALE_RETRIES),
        )
        self._breaker = breaker

    def urlopen(
        self,
        method: str,
        url: str,
        *args: Any,  # noqa: ANN401 - urllib3's signature
        **more: Any,  # noqa: ANN401 - urllib3's signature
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and read the head of its answer."""
        with self._breaker.call(self.clear):
            return super().urlopen(method, url, *args, **more)
