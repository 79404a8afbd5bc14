"""What a pass cannot see to: told and counted now and then, and put behind everything else."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from tasks import keys
from tasks.connection import redis_errors
from tasks.errors import QueueUnavailableError
from tasks.store import JobStore

#: A queued job is looked at again after so long: by then somebody may have mended its record, or
#: a process of the version that wrote it is running.
_ASIDE_SECONDS: Final = 60
#: Each is told and counted once in so long, however many passes meet it.
_QUIET_SECONDS: Final = 600

_log = structlog.get_logger(__name__)


class Skipped:
    """The jobs that a step stumbled over lately.

    Args:
        client: Redis.
        store: the records.
        clock: gives unix seconds.
    """

    def __init__(self, client: Redis, store: JobStore, clock: Callable[[], float]) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._told: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._told)

    @contextmanager
    def guard(self, task_id: str, step: str) -> Iterator[None]:
        """Whatever is wrong with this one job, the others come next."""
        try:
            yield
        except (QueueUnavailableError, RedisError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a record holds
            self.note(task_id, step, f"{error}")

    def note(self, task_id: str, step: str, reason: str) -> None:
        """Go on without a job; one that is queued leaves its list for a while."""
        self._store.quarantine(task_id, self._clock() + _ASIDE_SECONDS)
        now = time.monotonic()
        self._told = {each: at for each, at in self._told.items() if now - at < _QUIET_SECONDS}
        if task_id in self._told:
            return
        self._told[task_id] = now
        with redis_errors():
            self._client.hincrby(keys.COUNTERS, f"skipped:{step}", 1)
        _log.error("job.skipped", task_id=task_id, step=step, reason=reason)

    def last(self, task_ids: Sequence[str]) -> list[str]:
        """The same jobs, those that were skipped lately behind the others."""
        return sorted(task_ids, key=self._told.__contains__)
