"""Puts the records and the messages in step again, whatever died between them."""

from collections.abc import Callable
from typing import Final

import structlog
from redis import Redis

from tasks import keys, names
from tasks.dispatch import Dispatcher
from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet
from tasks.jobs import Status
from tasks.routing import Router
from tasks.store import JobStore, redis_errors
from tasks.worker.lost import LostMessages

INTERVAL_SECONDS: Final = 2.0
_LOCK: Final = f"{keys.PREFIX}reconciler"

_log = structlog.get_logger(__name__)


class Reconciler:
    """One pass at a time over all records; each pass may be repeated without harm."""

    def __init__(
        self,
        client: Redis,
        store: JobStore,
        dispatcher: Dispatcher,
        fleet: Fleet,
        router: Router,
    ) -> None:
        self._client = client
        self._store = store
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._router = router
        self._lost = LostMessages(client)

    def run_once(self) -> bool:
        """One pass; False when another process is at it, or Redis is away."""
        try:
            with redis_errors():
                ours = self._client.set(_LOCK, "1", nx=True, px=int(INTERVAL_SECONDS * 900))
            if ours:
                for step in self._steps():
                    step()
        except QueueUnavailableError as error:
            _log.warning("reconciler.redis_away", reason=str(error))
            return False
        return bool(ours)

    def _steps(self) -> tuple[Callable[[], None], ...]:
        return (
            self._release_orphans,
            self._fail_overdue,
            self._move_backlogs,
            self._resend_lost,
            self._send_due,
        )

    def _release_orphans(self) -> None:
        """Jobs in processing whose worker is gone: their lease ran out."""
        for task_id in self._store.ids(Status.PROCESSING):
            if self._store.has_lease(task_id):
                continue
            if self._store.get(task_id) is None:
                self._store.forget(task_id)
            else:
                outcome = self._store.release(task_id)
                self._count("lease_expired", task_id, outcome=outcome.value)

    def _fail_overdue(self) -> None:
        for task_id in self._store.overdue():
            if self._store.fail_overdue(task_id):
                self._count("deadline_exceeded", task_id)

    def _move_backlogs(self) -> None:
        """What waits for a GPU that is dead or drained goes to its model's shared queue."""
        usable = {worker.queue for worker in self._fleet.workers() if worker.usable}
        with redis_errors():
            lists = {str(name) for name in self._client.smembers(keys.LISTS)}
        for name in lists:
            queue = name.rpartition("|")[0]
            if queue.startswith(names.GPU_PREFIX) and queue not in usable:
                self._empty(name)

    def _empty(self, name: str) -> None:
        with redis_errors():
            waiting = self._client.zrange(keys.sent_key(name), 0, -1)
        for task_id in map(str, waiting):
            self._send_shared(task_id, "backlog_moved", name)

    def _resend_lost(self) -> None:
        for task_id in self._lost.find():
            self._send_shared(task_id, "message_lost")

    def _send_due(self) -> None:
        for task_id in self._store.due():
            job = self._store.get(task_id)
            if job is None:
                self._store.forget(task_id)
                continue
            queue = self._router.choose(job.model, job.priority, avoid=job.avoid)
            if self._dispatcher.send_again(task_id, queue=queue):
                self._count("sent_again", task_id, queue=queue)

    def _send_shared(self, task_id: str, reason: str, list_name: str = "") -> None:
        job = self._store.get(task_id)
        if job is None:
            self._store.forget(task_id, list_name=list_name)
        elif self._dispatcher.send_again(task_id, queue=names.model_queue(job.model)):
            self._count(reason, task_id)

    def _count(self, reason: str, task_id: str, **facts: str) -> None:
        with redis_errors():
            self._client.hincrby(keys.COUNTERS, f"recovered:{reason}", 1)
        _log.warning("job.recovered", by=reason, task_id=task_id, **facts)
