"""Circuit breakers for Redis and S3: fail at once while a server is known not to answer."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, Self, cast

import urllib3
from minio.error import S3Error
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from urllib3.exceptions import HTTPError

from tasks.errors import ObjectStoreUnavailableError, TaskError
from tasks.redis_client import client_options, probe_redis
from tasks.settings import Settings
from tasks.storage.object_store import CONNECTIONS, STALE_RETRIES, probe_object_store

#: After a probe without an answer, everybody is refused for so long.
PAUSE_SECONDS: Final = 1.0


class CircuitOpenError(Exception):
    """The server does not answer; nothing was sent to it."""


class CircuitBreaker:
    """One server's, for all threads of a process.

    Args:
        probe: asks the server over a connection of its own, with a short timeout; raises
            `TaskError` if it does not answer.
        trust: seconds for which an answer counts; without a newer one, the next caller probes.
        clock: in seconds, from any beginning.
    """

    def __init__(
        self,
        probe: Callable[[], None],
        *,
        trust: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._trust = trust
        self._clock = clock
        self._good_until = -math.inf
        self._bad_until = -math.inf
        self._reason = ""
        self._lock = threading.Lock()

    def check(self) -> None:
        """Pass, at the price of a look at the clock; or find out, as the first of many.

        Raises:
            ClosedError: the server does not answer.
        """
        if self._clock() >= self._good_until:
            self._find_out()

    def answered(self) -> None:
        """The server did."""
        self._good_until = self._clock() + self._trust

    def failed(self) -> None:
        """A call came to nothing: the next caller is to probe."""
        self._good_until = -math.inf

    def _find_out(self) -> None:
        self._refuse()
        # While it is known to be away, one asks, and the others need not wait for that.
        if not self._lock.acquire(blocking=not self._reason):
            raise CircuitOpenError(self._reason)
        try:
            if self._clock() >= self._good_until:
                self._refuse()
                self._ask()
        finally:
            self._lock.release()

    def _refuse(self) -> None:
        if self._clock() < self._bad_until:
            raise CircuitOpenError(self._reason)

    def _ask(self) -> None:
        try:
            self._probe()
        except TaskError as error:
            self._reason = str(error)
            self._bad_until = self._clock() + PAUSE_SECONDS
            raise CircuitOpenError(self._reason) from error
        self._reason = ""
        self.answered()


_AWAY = (RedisConnectionError, RedisTimeoutError)


class BreakerRedis(Redis):
    """Waits once for a Redis that does not answer, not once for each command."""

    gate: CircuitBreaker

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis's signature
        """As the base class; `ConnectionError` at once while Redis is known to be away."""
        _check_redis(self.gate)
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # redis leaves it so
        except _AWAY:
            self.gate.failed()
            raise

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - the base class's signature
        shard_hint: str | None = None,
    ) -> "BreakerPipeline":
        """As the base class, through the same gate."""
        made = BreakerPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )
        made.gate = self.gate
        return made


class BreakerPipeline(Pipeline):
    """Several commands in one round trip."""

    gate: CircuitBreaker

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - the same
        """As the base class; `ConnectionError` at once while Redis is known to be away."""
        _check_redis(self.gate)
        try:
            return super().execute(raise_on_error)
        except _AWAY:
            self.gate.failed()
            raise


def redis_breaker(settings: Settings) -> CircuitBreaker:
    """Redis's: whatever it answers counts until a call comes to nothing."""
    return CircuitBreaker(lambda: probe_redis(settings))


def connect_with_breaker(url: str, gate: CircuitBreaker) -> BreakerRedis:
    """`tasks.redis_client.connect`, through a gate."""
    client = cast("BreakerRedis", BreakerRedis.from_url(url, **client_options()))
    client.gate = gate
    return client


def _check_redis(gate: CircuitBreaker) -> None:
    try:
        gate.check()
    except CircuitOpenError as error:
        # What the probe said; `redis_errors` begins the sentence anew.
        raise RedisConnectionError(str(error).partition(": ")[2] or str(error)) from error


#: An answer of the store counts for so long, and a call that takes longer is looked after.
TRUST_SECONDS: Final = 1.0

#: A store that does not answer a probe within so many seconds counts as away.
_PROBE_SECONDS: Final = 2.0

#: Longest silence in a call, while the store answers otherwise.
_READ_SECONDS: Final = 20.0

#: More than gunicorn has threads, each with a call of its own.
_CALLS: Final = 128


class SilentStoreError(HTTPError):
    """The store does not answer, as far as is known."""


class _RetryUnlessSlow(urllib3.Retry):
    """Tries again where a connection was dropped, not where it was silent for its time."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: urllib3.BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *more: Any,  # noqa: ANN401 - urllib3's own
        **named: Any,  # noqa: ANN401 - the same
    ) -> Self:
        """What is left of the tries; raises what is not to be tried again."""
        if isinstance(error, urllib3.exceptions.TimeoutError):
            raise error
        return super().increment(method, url, response, error, *more, **named)


class BreakerPool(urllib3.PoolManager):
    """Connections to the store, behind a gate."""

    def __init__(self, gate: CircuitBreaker) -> None:
        super().__init__(
            timeout=urllib3.Timeout(connect=2, read=_READ_SECONDS),
            maxsize=CONNECTIONS,
            retries=_RetryUnlessSlow(**STALE_RETRIES),
        )
        self._gate = gate
        self._calls = ThreadPoolExecutor(_CALLS, thread_name_prefix="store")

    def urlopen(
        self,
        method: str,
        url: str,
        *args: Any,  # noqa: ANN401 - urllib3's own
        **more: Any,  # noqa: ANN401 - the same
    ) -> urllib3.BaseHTTPResponse:
        """As the base class; `SilentStoreError` soon, or at once, when the store is silent."""
        self._check()
        # In another thread, so that it can be left alone.
        call = self._calls.submit(super().urlopen, method, url, *args, **more)
        while not wait([call], TRUST_SECONDS).done:
            try:
                self._check()
            except SilentStoreError:
                call.cancel()
                raise
        answer = call.result()
        self._gate.answered()
        return answer

    def _check(self) -> None:
        try:
            self._gate.check()
        except CircuitOpenError as error:
            raise SilentStoreError(str(error)) from error


def object_store_breaker(settings: Settings) -> CircuitBreaker:
    """The store's: its silence is no sign of life."""
    return CircuitBreaker(lambda: _probe_object_store(settings), trust=TRUST_SECONDS)


def _probe_object_store(settings: Settings) -> None:
    try:
        probe_object_store(settings, seconds=_PROBE_SECONDS)
    except ObjectStoreUnavailableError as error:
        # That the bucket is not there, or may not be asked for, is an answer too.
        if error.__cause__ is not None and not isinstance(error.__cause__, S3Error):
            raise
