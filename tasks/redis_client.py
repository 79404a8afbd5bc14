"""Access to Redis: clients, the translation of their errors, its clock, and locks."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import LockError, OutOfMemoryError, RedisError, ResponseError
from redis.lock import Lock

from tasks import redis_keys
from tasks.errors import QueueUnavailableError, RedisFullError
from tasks.lua_scripts import set_absent
from tasks.redis_address import RedisAddress, says_full
from tasks.settings import Settings

#: The Lua scripts call EXPIRETIME, which came with Redis 7.0. Every release of Valkey has it, and
#: tells a version of Redis that it is compatible with.
_MINIMUM_REDIS: Final = (7, 0)
_OTHER_MODES: Final = MappingProxyType(
    {
        "cluster": "it is a node of a cluster, which is not supported: use one server, with "
        "sentinels for failover",
        "sentinel": "it is a sentinel: write redis+sentinel://host:26379/mymaster",
    }
)
#: How long a comparison of this machine's clock with Redis's counts.
_COMPARED_SECONDS: Final = 5.0
#: Timeout of a probe of Redis or the object store.
PROBE_SECONDS = 1.0
#: How long Redis keeps what a probe writes.
_PROBE_KEPT_SECONDS: Final = 10

_log = structlog.get_logger(__name__)


def probe_redis(settings: Settings) -> None:
    """Raise `QueueUnavailableError` unless Redis can be used, and takes a write in time.

    A replica, a full server or one without a disk answers a `PING`, and takes no picture.
    """
    client = connect(settings.redis_address, timeout=PROBE_SECONDS)
    with redis_errors(), client:
        if problem := server_problem(client):
            raise QueueUnavailableError(f"{settings.redis_address}: {problem}")
        client.set(redis_keys.PROBE, "1", ex=_PROBE_KEPT_SECONDS)


def require_primary(client: Redis) -> None:
    """Send a write that leaves nothing: a replica answers all else, a full server takes this too.

    Raises:
        ServerNotReadyError: it is a replica, or not ready.
        RedisError: it does not answer.
    """
    with suppress(ResponseError):  # of rights, or a disk that is full
        client.delete(redis_keys.PROBE)


def server_problem(client: Redis) -> str:
    """Return why the service cannot work with a server; empty if it can, or if it does not tell."""
    try:
        info = client.info("server")
    except ResponseError:
        return ""
    version = str(info.get("redis_version", ""))
    mode = str(info.get("redis_mode", info.get("server_mode", "")))
    if mode in _OTHER_MODES:
        return _OTHER_MODES[mode]
    if version[:1].isdigit() and tuple(map(int, version.split(".")[:2])) < _MINIMUM_REDIS:
        return f"Redis {version} lacks EXPIRETIME: upgrade to Redis 7.0 or later, or to Valkey"
    return ""


def client_options(*, timeout: float = 3.0) -> dict[str, Any]:
    """Return the options of a Redis client that fails within `timeout` seconds."""
    return {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 3.0),
        "socket_keepalive": True,
        "health_check_interval": 10,
    }


def connect(where: RedisAddress | str, *, timeout: float = 3.0) -> Redis:
    """Build a client that fails within `timeout` seconds instead of hanging.

    With a URL its keys have no prefix.
    """
    return Redis.from_pool(RedisAddress.of(where).pool(**client_options(timeout=timeout)))


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn the Redis client's errors into `QueueUnavailableError`, or `RedisFullError` of them.

    Raises:
        LockError: as it is, since Redis has answered: a lock expired before it was used again.
    """
    try:
        yield
    except LockError:
        raise
    except OutOfMemoryError as error:
        raise RedisFullError(f"Redis is full, raise its maxmemory: {error}") from error
    except RedisError as error:
        if says_full(error):
            raise RedisFullError(f"Redis cannot write, check its disk: {error}") from error
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error


@contextmanager
def logged_if_away(event: str) -> Iterator[None]:
    """Log an event if Redis does not answer: the job matters more than what others learn of it."""
    try:
        yield
    except QueueUnavailableError as error:
        _log.warning(event, reason=str(error))


def pipeline_each(
    client: Redis, items: Sequence[str], ask: Callable[[Pipeline, str], object]
) -> list[Any]:
    """Ask Redis once for each item, in one round trip.

    Returns:
        The answers; an exception in place of an answer that is refused or is not UTF-8.

    Raises:
        RedisError: Redis does not answer, or refuses everything, as with full memory.
    """
    if not items:
        return []
    try:
        with client.pipeline(transaction=False) as pipe:
            for item in items:
                ask(pipe, item)
            answers = pipe.execute(raise_on_error=False)
    except UnicodeDecodeError as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return [
            *pipeline_each(client, items[:middle], ask),
            *pipeline_each(client, items[middle:], ask),
        ]
    for answer in answers:
        if isinstance(answer, ResponseError) and not concerns_one_record(answer):
            raise answer
    return answers


def concerns_one_record(error: ResponseError) -> bool:
    """Return whether an error is about one key, not about Redis itself, such as full memory."""
    # WRONGTYPE, about a key of another type, stands in place of ERR.
    return type(error) is ResponseError and (
        error.status_code == "ERR" or str(error).startswith("WRONGTYPE")
    )


class RedisClock:
    """Tells unix seconds by Redis's clock, which all hosts share.

    What lasts for seconds, such as a heartbeat, would be over at once for a host whose own clock is
    ahead.
    """

    def __init__(self, client: Redis, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        #: Redis's time less the monotonic one, and until when that counts.
        self._ahead = (0.0, -math.inf)

    def __call__(self) -> float:
        """Return the time.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        now = self._monotonic()
        ahead, until = self._ahead
        if now >= until:
            with redis_errors():
                seconds, microseconds = self._client.time()
            answered = self._monotonic()
            ahead = seconds + microseconds / 1e6 - (now + answered) / 2
            self._ahead = (ahead, answered + _COMPARED_SECONDS)
            now = answered
        return now + ahead


class RedisLock(Lock):
    """A lock of redis-py that can be taken while Redis is full: whoever holds it makes room."""

    def do_acquire(self, token: str | bytes) -> bool:
        """Take the lock, if nobody has it."""
        text = token if isinstance(token, str) else token.decode()
        return set_absent(self.redis, self.name, text, seconds=self.timeout or 0)
