"""Do Redis and the object store answer, now? Each question opens a connection of its own.

A pool's connections may look well long after nobody new gets in.
"""

from tasks.connection import connect, redis_errors
from tasks.settings import Settings
from tasks.storage import MinioStore

#: A server that does not answer within so many seconds counts as away.
PROBE_SECONDS = 1.0


def probe_redis(settings: Settings) -> None:
    """Raise `QueueUnavailableError`, which says why, unless Redis answers."""
    client = connect(settings.redis_url.get_secret_value(), timeout=PROBE_SECONDS)
    with redis_errors(), client:
        client.ping()


def probe_store(settings: Settings, *, seconds: float = PROBE_SECONDS) -> None:
    """Raise `StoreUnavailableError`, which says why, unless the store has the bucket."""
    MinioStore.for_probing(settings, seconds=seconds).ping()
