"""Puts the records and the messages in step again, whatever died between them."""

import time
from collections.abc import Callable
from typing import Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from tasks import keys, names
from tasks.dispatch import Dispatcher
from tasks.errors import QueueUnavailableError
from tasks.jobs import Job, Status
from tasks.store import JobStore

INTERVAL_SECONDS: Final = 2.0
#: A queued job's message is looked for after this long.
QUEUED_SECONDS: Final = 10.0
_LOCK: Final = f"{keys.PREFIX}reconciler"
_PRIORITY_SEPARATOR: Final = "\x06\x16"
_PRIORITY_STEPS: Final = (0, 3, 6, 9)

_log = structlog.get_logger(__name__)


class Reconciler:
    """One pass at a time over all workers' records; each pass may be repeated without harm."""

    def __init__(
        self,
        client: Redis,
        store: JobStore,
        dispatcher: Dispatcher,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock

    def run_once(self) -> int:
        """How many jobs were sent again; 0 as well when another process is at it."""
        try:
            if not self._client.set(_LOCK, "1", nx=True, px=int(INTERVAL_SECONDS * 900)):
                return 0
            return self._recover_processing() + self._recover_queued()
        except (RedisError, QueueUnavailableError) as error:
            _log.warning("reconciler.redis_away", reason=str(error))
            return 0

    def _recover_processing(self) -> int:
        """Jobs whose worker is gone: their lease ran out."""
        sent = 0
        for task_id in self._store.ids(Status.PROCESSING):
            if self._client.exists(keys.lease_key(task_id)):
                continue
            if self._store.release(task_id):
                sent += self._send(task_id, Status.QUEUED, "lease_expired")
            elif self._store.get(task_id) is None:
                self._store.forget(task_id, Status.PROCESSING)
        return sent

    def _recover_queued(self) -> int:
        """Jobs that wait although no message of their queue is left anywhere."""
        waiting = self._store.ids(Status.QUEUED, entered_before=self._clock() - QUEUED_SECONDS)
        if not waiting or self._client.hlen("unacked"):
            return 0
        jobs = [job for task_id in waiting if (job := self._queued(task_id))]
        empty = {queue: self._is_empty(queue) for queue in {job.queue for job in jobs}}
        return sum(
            self._send(job.task_id, Status.QUEUED, "message_lost")
            for job in jobs
            if empty[job.queue]
        )

    def _queued(self, task_id: str) -> Job | None:
        job = self._store.get(task_id)
        if job is None:
            self._store.forget(task_id, Status.QUEUED)
        return job

    def _is_empty(self, queue: str) -> bool:
        lists = [
            f"{queue}{_PRIORITY_SEPARATOR}{step}" if step else queue for step in _PRIORITY_STEPS
        ]
        return not any(self._client.llen(name) for name in lists)

    def _send(self, task_id: str, expected: Status, reason: str) -> int:
        job = self._store.get(task_id)
        if job is None or job.status is not expected:
            return 0
        # The queue it was bound to may have died with its worker.
        self._dispatcher.send(job.evolve(queue=names.model_queue(job.model)))
        _log.warning("job.sent_again", reason=reason, **job.log_context())
        return 1
