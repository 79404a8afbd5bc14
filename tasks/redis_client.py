"""Redis clients that fail within a known time, and the translation of their errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tasks.errors import QueueUnavailableError
from tasks.settings import Settings

#: Timeout of a probe of Redis or the object store.
PROBE_SECONDS = 1.0


def probe_redis(settings: Settings) -> None:
    """Raise `QueueUnavailableError` unless Redis answers in time."""
    client = connect(settings.redis_url.get_secret_value(), timeout=PROBE_SECONDS)
    with redis_errors(), client:
        client.ping()


def client_options(*, timeout: float = 3.0) -> dict[str, Any]:
    """Return the options of a Redis client that fails within `timeout` seconds."""
    return {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 3.0),
        "socket_keepalive": True,
        "health_check_interval": 10,
        # No retries: a script whose answer was lost has run, and a silent Redis stays silent.
        "retry": Retry(NoBackoff(), 0),
    }


def connect(url: str, *, timeout: float = 3.0) -> Redis:
    """Build a client that fails within `timeout` seconds instead of hanging."""
    return Redis.from_url(url, **client_options(timeout=timeout))


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn the Redis client's errors into `QueueUnavailableError`."""
    try:
        yield
    except RedisError as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error
