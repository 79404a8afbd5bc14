"""The result cache in two levels: this process's memory, then Redis.

The entry in Redis is written by the Lua script that ends a job, so that an equal job always finds
either a running one or its result.
"""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from cachetools import TTLCache
from redis import Redis

from inference.version import PIPELINE_VERSION
from tasks import lua_scripts
from tasks.errors import UnreadableRecordError
from tasks.jobs.job import Job, Status
from tasks.jobs.store import JobStore, parse_record
from tasks.metrics import instruments
from tasks.redis_client import redis_errors

#: The first level: entries of one process, and seconds that an entry is kept.
MEMORY_ENTRIES: Final = 1000
MEMORY_SECONDS: Final = 600
#: The second level: seconds, with a random jitter, so that entries do not all expire at once.
REDIS_SECONDS: Final = 3600
JITTER_SECONDS: Final = 300


def cache_key(
    *, owner: str, sha256: str, options: Mapping[str, Any], model: str, revision: str
) -> str:
    """Return a digest that is equal for jobs of one owner with equal results.

    Args:
        owner: id; it keeps an owner from learning what another uploaded.
        sha256: of the uploaded file.
        options: `Options.to_dict()`, with the digest of a background picture.
        model: name.
        revision: of the weights.
    """
    parts = {
        "owner": owner,
        "sha256": sha256,
        "options": dict(options),
        "model": model,
        "revision": revision,
        "pipeline": PIPELINE_VERSION,
    }
    canonical = json.dumps(parts, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def cache_ttl(retention: float) -> int:
    """Return for how many seconds a new job's result may be reused, no longer than its pictures."""
    drawn = REDIS_SECONDS + random.uniform(-JITTER_SECONDS, JITTER_SECONDS)  # noqa: S311 - no secret
    return max(1, int(min(drawn, retention)))


class ResultCache:
    """Finds a job that has the result; raises `QueueUnavailableError` if Redis does not answer."""

    def __init__(
        self, client: Redis, job_store: JobStore, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._job_store = job_store
        self._clock = clock
        self._near: TTLCache[str, Job] = TTLCache(MEMORY_ENTRIES, MEMORY_SECONDS)
        self._lock = threading.Lock()

    def find(self, key: str) -> Job | None:
        """Return a job whose result may be copied, or None; its objects may be gone by then."""
        with self._lock:
            near = self._near.get(key)
        if near is not None and near.expires_at > self._clock():
            _count_lookup("memory", hit=True)
            return near
        _count_lookup("memory", hit=False)
        with redis_errors():
            answer = lua_scripts.JOBS.run(self._client, "cached_job", cache_key=key)
        found = None
        if answer:
            task_id, record = answer
            with suppress(UnreadableRecordError):
                found = parse_record(task_id, record)
            found = self._usable(key, str(task_id), found)
        _count_lookup("redis", hit=found is not None)
        return found

    def remember(self, key: str, task_id: str) -> Job | None:
        """Read a job that Redis names for a cache key; None, and forgotten, if it has no result."""
        return self._usable(key, task_id, next(iter(self._job_store.get_many([task_id])), None))

    def _usable(self, key: str, task_id: str, job: Job | None) -> Job | None:
        if job is None or job.status is not Status.SUCCEEDED or job.expires_at <= self._clock():
            self.forget(key, task_id)
            return None
        with self._lock:
            self._near[key] = job
        return job

    def forget(self, key: str, task_id: str) -> None:
        """Forget a job whose result cannot be copied."""
        with self._lock:
            self._near.pop(key, None)
        with redis_errors():
            lua_scripts.JOBS.run(self._client, "uncache", id=task_id, cache_key=key)


def _count_lookup(level: str, *, hit: bool) -> None:
    instruments().cache.labels(level, "hit" if hit else "miss").inc()
