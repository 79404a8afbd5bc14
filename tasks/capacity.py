"""Whether there is room for more pictures: in Redis, on the disk and in the object store.

What would keep something is refused while there is room left for the rest: accepted jobs, their
webhooks, and erasures.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from tasks import redis_keys
from tasks.errors import QueueUnavailableError, StoreFullError
from tasks.redis_client import redis_errors

#: Share of Redis's maxmemory above which nothing new is accepted.
REDIS_SHARE: Final = 0.9
#: Share of that above which an owner that keeps more there than all others gets no more.
_FILLING_SHARE: Final = 0.75
#: Free bytes of the disk below which nothing new is accepted. The embedded object store stops
#: writing at half of that.
FREE_BYTES: Final = 512 * 2**20
#: Seconds for which a measurement counts; it is one round trip to Redis.
_MEASURED_SECONDS: Final = 1.0
#: Seconds for which the object store counts as full after it has said so. The next picture asks it.
_FULL_SECONDS: Final = 10


class Store(StrEnum):
    """What can be full."""

    REDIS = "redis"
    DISK = "disk"
    OBJECTS = "objects"


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free on a folder's disk."""
    return shutil.disk_usage(folder).free


class Capacity:
    """Measures the room, once a second at most.

    Args:
        client: of the Redis that holds the records.
        folder: on the disk of Redis and the object store, if that is this machine's.
        free: measures a folder's disk.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: Redis,
        folder: Path | None,
        *,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._folder = folder
        self._free = free
        self._clock = clock
        self._measured: tuple[float, Mapping[Store, str]] = (-_MEASURED_SECONDS, {})
        #: Bytes that all may have in Redis, while most of them are used; else 0.
        self.scarce_bytes = 0.0

    def require_room(self) -> None:
        """Raise unless there is room for more.

        Raises:
            StoreFullError: there is none; its text, for the operator, says where and why.
            QueueUnavailableError: Redis does not answer.
        """
        now = self._clock()
        at, full = self._measured
        if now - at >= _MEASURED_SECONDS:
            full = self.full_stores()
            self._measured = (now, full)
        if full:
            raise StoreFullError(" ".join(full.values()))

    def full_stores(self) -> dict[Store, str]:
        """Measure, and return why there is no room, for each store that has none.

        Raises:
            QueueUnavailableError: Redis does not answer.
        """
        info, said_full = self._ask_redis()
        used, limit = _redis_bytes(info)
        self.scarce_bytes = limit if used > _FILLING_SHARE * limit else 0.0
        reasons = {
            Store.REDIS: redis_problem(info),
            Store.DISK: self._folder and disk_problem(self._folder, self._free),
            Store.OBJECTS: said_full and "The object store says that it is full.",
        }
        return {store: reason for store, reason in reasons.items() if reason}

    def note_full_object_store(self) -> None:
        """Record for all processes that the object store said that it is full."""
        self._measured = (-_MEASURED_SECONDS, {})
        # The object store says it again.
        with suppress(QueueUnavailableError), redis_errors():
            self._client.set(redis_keys.OBJECTS_FULL, "1", ex=_FULL_SECONDS)

    def _ask_redis(self) -> tuple[Mapping[str, Any], bool]:
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.info("memory", "persistence")
            pipe.exists(redis_keys.OBJECTS_FULL)
            info, said_full = pipe.execute(raise_on_error=False)
            if isinstance(said_full, Exception):
                raise said_full
        # A user of Redis that may not ask: then it says when it is full.
        return ({} if isinstance(info, ResponseError) else info), bool(said_full)


def redis_problem(info: Mapping[str, Any]) -> str:
    """Return why Redis has no room for more, by its own figures; empty if it has."""
    if info.get("aof_last_write_status", "ok") != "ok":
        return "Redis cannot write its append-only file: check its disk."
    used, limit = _redis_bytes(info)
    if not limit or used <= limit:
        return ""
    most = limit / REDIS_SHARE
    return (
        f"Redis uses {used / 2**20:,.0f} MiB of {most / 2**20:,.0f}, more than {REDIS_SHARE:.0%}: "
        "raise maxmemory, or shorten RMBG_RETENTION_HOURS."
    )


def _redis_bytes(info: Mapping[str, Any]) -> tuple[int, float]:
    """Return how many bytes Redis uses, and above how many nothing new is accepted; 0: no limit."""
    used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
    return used, REDIS_SHARE * int(info.get("maxmemory", 0))


def disk_problem(folder: Path, free: Callable[[Path], int] = free_bytes) -> str:
    """Return why a folder's disk has no room for more; empty if it has."""
    try:
        left = free(folder)
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}."
    if left >= FREE_BYTES:
        return ""
    return (
        f"The disk of {folder} has {left / 2**20:,.0f} MiB left, less than "
        f"{FREE_BYTES / 2**20:,.0f}: free some, or shorten RMBG_RETENTION_HOURS."
    )
