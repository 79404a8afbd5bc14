"""Results that may be used again, in two levels: this process's memory, then Redis.

What Redis has is written by the very script that ends a job, so that at every moment an equal job
finds either one that runs or its result.
"""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from cachetools import TTLCache
from redis import Redis

from inference.pipeline_version import PIPELINE_VERSION
from tasks import keys
from tasks.connection import redis_errors
from tasks.jobs import Job, Status
from tasks.meters import meters
from tasks.scripts import load_scripts
from tasks.store import JobStore

#: The first level: entries of one process, and seconds that one stays.
NEAR_ENTRIES: Final = 1000
NEAR_SECONDS: Final = 600
#: The second level, give or take: what was made together does not end together.
FAR_SECONDS: Final = 3600
JITTER_SECONDS: Final = 300


def cache_key(
    *, owner: str, sha256: str, options: Mapping[str, Any], model: str, revision: str
) -> str:
    """The same for jobs of one owner that give the same result.

    Args:
        owner: its id: nobody learns what another uploaded.
        sha256: of the picture's file.
        options: `Options.to_dict()`; a background is in it by its digest.
        model: its name.
        revision: which weights they are.
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


def cache_seconds(retention: float) -> int:
    """How long a new job's result will be used again: drawn anew for each, kept within reason.

    Args:
        retention: seconds that its pictures are kept.
    """
    drawn = FAR_SECONDS + random.uniform(-JITTER_SECONDS, JITTER_SECONDS)  # noqa: S311 - no secret
    return max(1, int(min(drawn, retention)))


class ResultCache:
    """Finds a job that has the result. Raises `QueueUnavailableError` when Redis is away."""

    def __init__(
        self, client: Redis, store: JobStore, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._uncache = load_scripts(client)["uncache"]
        self._near: TTLCache[str, Job] = TTLCache(NEAR_ENTRIES, NEAR_SECONDS)
        self._lock = threading.Lock()

    def find(self, key: str) -> Job | None:
        """A job whose result may be copied, or None; its objects may have gone all the same."""
        with self._lock:
            near = self._near.get(key)
        if near is not None and near.expires_at > self._clock():
            _count("memory", hit=True)
            return near
        _count("memory", hit=False)
        with redis_errors():
            task_id = self._client.get(keys.cached_key(key))
        found = self.remember(key, str(task_id)) if task_id else None
        _count("redis", hit=found is not None)
        return found

    def remember(self, key: str, task_id: str) -> Job | None:
        """Read a job whose result Redis knows; None if it is of no use any more."""
        job = next(iter(self._store.get_many([task_id])), None)
        if job is None or job.status is not Status.SUCCEEDED or job.expires_at <= self._clock():
            self.forget(key, task_id)
            return None
        with self._lock:
            self._near[key] = job
        return job

    def forget(self, key: str, task_id: str) -> None:
        """Drop a job whose result cannot be copied."""
        with self._lock:
            self._near.pop(key, None)
        with redis_errors():
            self._uncache(args=[key, task_id])


def _count(level: str, *, hit: bool) -> None:
    meters().cache.labels(level, "hit" if hit else "miss").inc()
