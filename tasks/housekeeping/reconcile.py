"""The reconciler: bring messages, leases and deadlines back in step with the job records."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import structlog
from redis import Redis
from redis.exceptions import LockError, RedisError

from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.housekeeping.missing_messages import MissingMessageDetector
from tasks.jobs import routing
from tasks.jobs.job import Job, Status
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import Dispatch, JobStore, ReleaseOutcome
from tasks.lua_scripts import add_to_counter
from tasks.redis_client import RedisLock, redis_errors
from tasks.webhooks.deliveries import DeliveryStore
from tasks.worker_registry import WorkerRegistry

#: How long a queued job stays in quarantine: by then an operator may have repaired its record, or
#: a process of the version that wrote it may be running.
_QUARANTINE_SECONDS: Final = 60
#: Interval at which one quarantined job is logged and counted again.
_LOG_INTERVAL_SECONDS: Final = 600
#: Approximate number of members of a set that one pass checks.
_SCAN_COUNT: Final = 200
_INDEX_SETS: Final = (
    *(redis_keys.index_key(status) for status in Status),
    redis_keys.DUE_JOBS,
    redis_keys.JOB_DEADLINES,
    redis_keys.DEAD_LETTERS,
)
#: Most aged jobs of an owner that wait on one list, so that no batch becomes urgent as a whole.
MAX_AGED: Final = 2
#: Owners whose jobs on one list one pass ages. The others' turn is later, and so are their jobs.
_AGED_OWNERS: Final = 100
RECONCILE_SECONDS: Final = 2.0
#: Expiry of the lock: how long a pass that died delays the next one.
_LOCK_SECONDS: Final = 5.0
#: Jobs that one step of a pass processes at most.
_MAX_PER_STEP: Final = 500
#: How long one step may take, so that the lock does not expire; the next pass continues there.
_STEP_SECONDS: Final = 1.5
#: Messages that are sent between two looks at the clock.
_SENDS_PER_BATCH: Final = 50
#: How long a job waits at each priority level before it is raised.
AGING_SECONDS: Final = 60.0
#: Due jobs that a pass routes one by one to a GPU; the others go to the shared queue.
_ROUTED: Final = 8
_Item = TypeVar("_Item")

_log = structlog.get_logger(__name__)


class Quarantine:
    """The jobs that a step could not process lately, since their records are damaged."""

    def __init__(self, client: Redis, job_store: JobStore, clock: Callable[[], float]) -> None:
        self._client = client
        self._job_store = job_store
        self._clock = clock
        self._logged: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._logged)

    @contextmanager
    def guard(self, task_id: str, step: str) -> Iterator[None]:
        """Quarantine a job that the block cannot process; the step continues with others."""
        try:
            yield
        except (QueueUnavailableError, RedisError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a record holds
            self.add(task_id, step, f"{error}")

    def add(self, task_id: str, step: str, reason: str) -> None:
        """Quarantine a job for a reason; one that is queued leaves its list for a while.

        The log and the metrics name the step that could not process it.
        """
        self._job_store.quarantine(task_id, self._clock() + _QUARANTINE_SECONDS)
        now = time.monotonic()
        self._logged = {
            each: at for each, at in self._logged.items() if now - at < _LOG_INTERVAL_SECONDS
        }
        if task_id in self._logged:
            return
        self._logged[task_id] = now
        with redis_errors():
            add_to_counter(self._client, f"skipped:{step}")
        _log.error("job.skipped", task_id=task_id, step=step, reason=reason)

    def sort_last(self, task_ids: Sequence[str]) -> list[str]:
        """Return the jobs in another order: those that were quarantined lately come last."""
        return sorted(task_ids, key=self._logged.__contains__)


class Reconciler:
    """Runs passes, one at a time behind a lock; a pass that is repeated does no harm.

    A job waits `aging_seconds` at each priority level before it is raised.
    """

    def __init__(
        self,
        client: Redis,
        job_store: JobStore,
        dispatcher: JobDispatcher,
        registry: WorkerRegistry,
        router: Router,
        *,
        aging_seconds: float = AGING_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._job_store = job_store
        self._dispatcher = dispatcher
        self._registry = registry
        self._router = router
        self._missing = MissingMessageDetector(client, clock=registry.now)
        self._deliveries = DeliveryStore(client)
        self._quarantine = Quarantine(client, job_store, clock)
        self._aging_seconds = aging_seconds
        self._clock = clock
        #: How far each index set has been pruned, as a cursor of ZSCAN.
        self._cursors: dict[str, int] = {}
        #: Monotonic time at which a step leaves the rest to the next pass.
        self._until = 0.0

    def run_once(self) -> bool:
        """Run one pass; False if another process runs one, or Redis does not answer."""
        try:
            with redis_errors():
                return self._pass()
        except QueueUnavailableError as error:
            _log.warning("reconciler.redis_away", reason=str(error))
        except LockError:
            # The lock expired: another process has taken over.
            _log.warning("reconciler.overtaken")
        return False

    def _pass(self) -> bool:
        lock = RedisLock(
            self._client, redis_keys.RECONCILER_LOCK, timeout=_LOCK_SECONDS, thread_local=False
        )
        if not lock.acquire(blocking=False):
            return False
        for step in (
            self._release_orphans,
            self._fail_overdue,
            self._move_backlogs,
            self._resend_missing,
            self._send_due,
            self._raise_aged,
            self._prune,
        ):
            self._attempt(step)
            lock.reacquire()
        lock.release()
        return True

    def _attempt(self, step: Callable[[], None]) -> None:
        """Run one step; its failure does not keep the other steps from running."""
        self._until = time.monotonic() + _STEP_SECONDS
        try:
            step()
        except (QueueUnavailableError, RedisError):
            raise
        except Exception:  # noqa: BLE001 - whatever a record or a message holds
            _log.exception("reconciler.step_failed", step=step.__name__)

    def _release_orphans(self) -> None:
        """Return jobs to the queue whose lease expired, since their worker is gone."""
        orphans = self._job_store.without_lease(self._job_store.ids(Status.PROCESSING))
        orphans = self._quarantine.sort_last(orphans)[:_MAX_PER_STEP]
        recorded = self._job_store.recorded(orphans)
        for task_id in self._in_time(orphans):
            with self._quarantine.guard(task_id, "release"):
                if task_id in recorded:
                    outcome = self._job_store.release(task_id)
                    if outcome is not ReleaseOutcome.NONE:
                        self._count("lease_expired", [task_id], outcome=outcome.value)
                else:
                    self._job_store.forget(task_id)

    def _fail_overdue(self) -> None:
        overdue = self._job_store.overdue(_MAX_PER_STEP + len(self._quarantine))
        for task_id in self._in_time(self._quarantine.sort_last(overdue)):
            with self._quarantine.guard(task_id, "overdue"):
                if self._job_store.fail_overdue(task_id):
                    self._count("deadline_exceeded", [task_id])

    def _move_backlogs(self) -> None:
        """Send jobs that wait for a dead or drained GPU to their model's shared queue.

        And those that an earlier version sent by their priority to where owners take turns.
        """
        usable = {worker.queue for worker in self._registry.workers() if worker.usable}
        for name in self._job_store.lists():
            queue, _, level = name.rpartition("|")
            gone = queue.startswith(routing.GPU_PREFIX) and queue not in usable
            if gone or level != f"{int(routing.MESSAGE_PRIORITY)}":
                waiting = self._client.zrange(redis_keys.dispatched_key(name), 0, _MAX_PER_STEP - 1)
                self._send([str(each) for each in waiting], _shared_queue, "backlog_moved")

    def _resend_missing(self) -> None:
        known = self._missing.unknown
        missing = self._missing.find()
        for name in sorted(self._missing.unknown - known):
            _log.error("queue.unknown_message", list=name)
        self._send(missing, _shared_queue, "message_lost")

    def _send_due(self) -> None:
        due = self._job_store.due(_MAX_PER_STEP)
        # One by one, since each choice depends on the one before.
        for task_id in due[:_ROUTED]:
            self._send([task_id], self._route, "sent_again")
        self._send(due[_ROUTED:], _shared_queue, "sent_again")

    def _raise_aged(self) -> None:
        """Raise jobs that have waited too long behind more urgent ones of their owner."""
        for name in self._in_time(self._job_store.lists()):
            raised = self._job_store.raise_aged(
                name, seconds=self._aging_seconds, most=MAX_AGED, owners=_AGED_OWNERS
            )
            found = self._job_store.read(raised)
            for task_id, reason in found.unreadable.items():
                self._quarantine.add(task_id, "lift", reason)
            self._count("lifted", [job.task_id for job in found.jobs])

    def _prune(self) -> None:
        """Remove jobs and webhooks without a record from the next part of every index set."""
        lists = {redis_keys.dispatched_key(name): name for name in self._job_store.lists()}
        keys = (redis_keys.DELIVERIES_DEAD, *_INDEX_SETS, *lists)
        self._cursors = {key: self._cursors.get(key, 0) for key in keys}
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for key, cursor in self._cursors.items():
                pipe.zscan(key, cursor, count=_SCAN_COUNT)
            parts = list(zip(self._cursors, pipe.execute(), strict=True))
        for key, (cursor, members) in self._in_time(parts):
            ids = [member for member, _ in members]
            if key == redis_keys.DELIVERIES_DEAD:
                self._deliveries.forget_expired(ids)
            else:
                self._forget_expired(ids, lists.get(key, ""))
            self._cursors[key] = cursor

    def _forget_expired(self, task_ids: Sequence[str], list_name: str) -> None:
        """Forget those of the jobs that have no record, and the list that they are on, if empty."""
        if list_name and not task_ids:
            self._job_store.forget_list(list_name)
        for task_id in set(task_ids) - self._job_store.recorded(task_ids):
            self._job_store.forget(task_id, list_name=list_name)

    def _route(self, job: Job) -> str:
        return self._router.choose(job.model, excluded_worker=job.excluded_worker)

    def _in_time(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield items while the step has time."""
        for item in items:
            if time.monotonic() > self._until:
                return
            yield item

    def _send(self, task_ids: Sequence[str], queue_of: Callable[[Job], str], reason: str) -> None:
        """Send jobs' messages again; the pruner removes those without a record."""
        for start in self._in_time(range(0, len(task_ids), _SENDS_PER_BATCH)):
            found = self._job_store.read(task_ids[start : start + _SENDS_PER_BATCH])
            for task_id, why in found.unreadable.items():
                self._quarantine.add(task_id, "send", why)
            dispatches = [Dispatch(job.task_id, queue_of(job)) for job in found.jobs]
            self._count(reason, [job.task_id for job in self._dispatcher.send_all(dispatches)])

    def _count(self, reason: str, task_ids: Sequence[str], **facts: str) -> None:
        if task_ids:
            with redis_errors():
                add_to_counter(self._client, f"recovered:{reason}", len(task_ids))
        known = {job.task_id: job.log_context() for job in self._job_store.read(task_ids).jobs}
        for task_id in task_ids:
            context = known.get(task_id, {"task_id": task_id})
            _log.warning("job.recovered", by=reason, **context, **facts)


def _shared_queue(job: Job) -> str:
    return routing.model_queue(job.model)
