"""Puts the records and the messages in step again, whatever died between them."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import structlog
from redis import Redis
from redis.exceptions import LockError, RedisError

from tasks import keys, names
from tasks.connection import redis_errors
from tasks.dispatch import Dispatcher
from tasks.errors import QueueUnavailableError
from tasks.fleet import Fleet
from tasks.jobs import Job, Status
from tasks.routing import Router
from tasks.store import JobStore, Returned, Sending
from tasks.worker.ageing import Ageing
from tasks.worker.lost import LostMessages
from tasks.worker.prune import Pruner
from tasks.worker.skipped import Skipped

INTERVAL_SECONDS: Final = 2.0
#: A pass that died holds up the next one for so long at most.
_LOCK_SECONDS: Final = 5.0
_LOCK: Final = f"{keys.PREFIX}reconciler"
#: Looked at by one step of one pass.
_MOST: Final = 500
#: A step takes as long as the machine's load makes it: what it has not done after so many seconds
#: is the next pass's, lest the lock runs out. So many are sent at once.
_STEP_SECONDS: Final = 1.5
_AT_ONCE: Final = 50
#: Of those that are due, so many are bound to a GPU; the others may wait for any.
_ROUTED: Final = 8

_Item = TypeVar("_Item")

_log = structlog.get_logger(__name__)


class Reconciler:
    """One pass at a time over what needs it; each pass may be repeated without harm.

    Args:
        client: Redis.
        store: the records.
        dispatcher: sends messages.
        fleet: the workers.
        router: chooses queues.
        ageing_seconds: how long a job waits before it is lifted a step.
        clock: gives unix seconds.
    """

    def __init__(
        self,
        client: Redis,
        store: JobStore,
        dispatcher: Dispatcher,
        fleet: Fleet,
        router: Router,
        *,
        ageing_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._router = router
        self._lost = LostMessages(client)
        self._skipped = Skipped(client, store, clock)
        self._ageing = Ageing(client, store, self._skipped, ageing_seconds, clock)
        self._pruner = Pruner(client, store)
        self._until = 0.0

    def run_once(self) -> bool:
        """One pass; False when another process is at it, or Redis is away."""
        try:
            with redis_errors():
                return self._pass()
        except QueueUnavailableError as error:
            _log.warning("reconciler.redis_away", reason=str(error))
        except LockError:
            _log.warning("reconciler.overtaken")
        return False

    def _pass(self) -> bool:
        lock = self._client.lock(_LOCK, timeout=_LOCK_SECONDS, thread_local=False)
        if not lock.acquire(blocking=False):
            return False
        for step in self._steps():
            self._attempt(step)
            lock.reacquire()
        lock.release()
        return True

    def _attempt(self, step: Callable[[], None]) -> None:
        """One step; what it stumbles over must not keep the others from being made."""
        self._until = time.monotonic() + _STEP_SECONDS
        try:
            step()
        except (QueueUnavailableError, RedisError):
            raise
        except Exception:  # noqa: BLE001 - whatever a record or a message holds
            _log.exception("reconciler.step_failed", step=step.__name__)

    def _steps(self) -> tuple[Callable[[], None], ...]:
        return (
            self._release_orphans,
            self._fail_overdue,
            self._move_backlogs,
            self._resend_lost,
            self._send_due,
            self._lift_aged,
            self._prune,
        )

    def _release_orphans(self) -> None:
        """Jobs in processing whose worker is gone: their lease ran out."""
        orphans = self._store.without_lease(self._store.ids(Status.PROCESSING))
        orphans = self._skipped.last(orphans)[:_MOST]
        recorded = self._store.recorded(orphans)
        for task_id in self._in_time(orphans):
            with self._skipped.guard(task_id, "release"):
                if task_id in recorded:
                    outcome = self._store.release(task_id)
                    if outcome is not Returned.NONE:
                        self._count("lease_expired", [task_id], outcome=outcome.value)
                else:
                    self._store.forget(task_id)

    def _fail_overdue(self) -> None:
        overdue = self._store.overdue(_MOST + len(self._skipped))
        for task_id in self._in_time(self._skipped.last(overdue)):
            with self._skipped.guard(task_id, "overdue"):
                if self._store.fail_overdue(task_id):
                    self._count("deadline_exceeded", [task_id])

    def _move_backlogs(self) -> None:
        """What waits for a GPU that is dead or drained goes to its model's shared queue."""
        usable = {worker.queue for worker in self._fleet.workers() if worker.usable}
        for name in self._store.lists():
            queue = name.rpartition("|")[0]
            if queue.startswith(names.GPU_PREFIX) and queue not in usable:
                waiting = self._client.zrange(keys.sent_key(name), 0, _MOST - 1)
                self._send([str(each) for each in waiting], _shared, "backlog_moved")

    def _resend_lost(self) -> None:
        known = self._lost.foreign
        lost = self._lost.find()
        for name in sorted(self._lost.foreign - known):
            _log.error("queue.foreign_message", list=name)
        self._send(lost, _shared, "message_lost")

    def _send_due(self) -> None:
        due = self._store.due(_MOST)
        # One by one: each choice depends on where the one before went.
        for task_id in due[:_ROUTED]:
            self._send([task_id], self._route, "sent_again")
        self._send(due[_ROUTED:], _shared, "sent_again")

    def _lift_aged(self) -> None:
        lifted = self._dispatcher.send_all(self._ageing.find())
        self._count("lifted", [job.task_id for job in lifted])

    def _prune(self) -> None:
        self._pruner.run_once(until=self._until)

    def _route(self, job: Job) -> str:
        return self._router.choose(
            job.model, job.effective_priority, excluded_worker=job.excluded_worker
        )

    def _in_time(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """As many as the step has time for."""
        for item in items:
            if time.monotonic() > self._until:
                return
            yield item

    def _send(self, task_ids: Sequence[str], queue_of: Callable[[Job], str], reason: str) -> None:
        """Send jobs' messages again; those without a record are the pruner's."""
        for start in self._in_time(range(0, len(task_ids), _AT_ONCE)):
            found = self._store.read(task_ids[start : start + _AT_ONCE])
            for task_id, why in found.unreadable.items():
                self._skipped.note(task_id, "send", why)
            sendings = [Sending(job.task_id, queue_of(job)) for job in found.jobs]
            self._count(reason, [job.task_id for job in self._dispatcher.send_all(sendings)])

    def _count(self, reason: str, task_ids: Sequence[str], **facts: str) -> None:
        if task_ids:
            with redis_errors():
                self._client.hincrby(keys.COUNTERS, f"recovered:{reason}", len(task_ids))
        known = {job.task_id: job.log_context() for job in self._store.read(task_ids).jobs}
        for task_id in task_ids:
            context = known.get(task_id, {"task_id": task_id})
            _log.warning("job.recovered", by=reason, **context, **facts)


def _shared(job: Job) -> str:
    return names.model_queue(job.model)
