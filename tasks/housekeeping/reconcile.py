"""The reconciler: bring messages, leases and deadlines back in step with the job records."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, TypeVar

import structlog
from redis import Redis
from redis.exceptions import LockError, RedisError

from tasks import redis_keys
from tasks.errors import QueueUnavailableError
from tasks.housekeeping.missing_messages import MissingMessageDetector
from tasks.jobs import routing
from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import Dispatch, JobStore, ReleaseOutcome
from tasks.redis_client import RedisLock, add_to_counter, redis_errors
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
#: Most aged jobs that wait on one list, so that a batch cannot become urgent as a whole.
MAX_AGED: Final = 2
#: Jobs that are checked on one list in one pass, by the turns of their owners.
_FIRST_PER_LIST: Final = 16
#: The priority above each level.
_PRIORITY_ABOVE: Final = {
    f"{int(Priority.LOW)}": Priority.NORMAL,
    f"{int(Priority.NORMAL)}": Priority.HIGH,
}
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
#: How long the next job of an owner waits while only others have jobs on the level above: its own
#: more urgent jobs are its own to order, those of others take turns with it.
OTHERS_SECONDS: Final = 5.0
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

    A job waits `aging_seconds` at each priority level before it is raised; one that is its owner's
    next waits `OTHERS_SECONDS` while only others have jobs on the level above.
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
        self._missing = MissingMessageDetector(client)
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
        """Send jobs that wait for a dead or drained GPU to their model's shared queue."""
        usable = {worker.queue for worker in self._registry.workers() if worker.usable}
        for name in self._job_store.lists():
            queue = name.rpartition("|")[0]
            if queue.startswith(routing.GPU_PREFIX) and queue not in usable:
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
        """Raise the effective priority of the next jobs of each list that waited too long."""
        found = [each for name in self._job_store.lists() for each in self._aged_on(name)]
        self._count("lifted", [job.task_id for job in self._dispatcher.send_all(found)])

    def _aged_on(self, name: str) -> Iterator[Dispatch]:
        """Yield the messages that raise jobs of a list by one level, as many as may be raised."""
        queue, _, level = name.rpartition("|")
        above = _PRIORITY_ABOVE.get(level)
        if above is None:
            return
        higher = f"{queue}|{int(above)}"
        first = self._job_store.next_jobs(name, _FIRST_PER_LIST)
        if not first:
            return
        with redis_errors():
            raised = self._client.scard(redis_keys.aged_key(higher))
        for job in islice(self._aged(first, higher), max(0, MAX_AGED - raised)):
            yield Dispatch(job.task_id, queue, above, after=job.dispatch_seq)

    def _aged(self, task_ids: list[str], higher: str) -> Iterator[Job]:
        """Yield those that have been queued for too long below the level of the list `higher`."""
        levels = list(Priority)
        found = self._job_store.read(task_ids)
        for task_id, reason in found.unreadable.items():
            self._quarantine.add(task_id, "lift", reason)
        turns = redis_keys.turns_key(higher)
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.zcard(turns)
            for job in found.jobs:
                pipe.zscore(redis_keys.index_key(Status.QUEUED), job.task_id)
                pipe.zscore(turns, job.owner)
            others, *scores = pipe.execute()
        served: set[str] = set()
        for job, entered, turn in zip(found.jobs, scores[::2], scores[1::2], strict=True):
            waits_for_others = others and turn is None and job.owner not in served
            seconds = min(OTHERS_SECONDS, self._aging_seconds)
            raised = levels.index(job.priority) - levels.index(job.effective_priority)
            wait = (seconds if waits_for_others else self._aging_seconds) * (raised + 1)
            if entered is not None and self._clock() - float(entered) >= wait:
                served.add(job.owner)
                yield job

    def _prune(self) -> None:
        """Remove jobs without a record from the next part of every index set."""
        lists = {redis_keys.dispatched_key(name): name for name in self._job_store.lists()}
        self._cursors = {key: self._cursors.get(key, 0) for key in (*_INDEX_SETS, *lists)}
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for key, cursor in self._cursors.items():
                pipe.zscan(key, cursor, count=_SCAN_COUNT)
            parts = list(zip(self._cursors, pipe.execute(), strict=True))
        for key, (cursor, members) in self._in_time(parts):
            task_ids = [member for member, _ in members]
            if key in lists and not task_ids:
                self._job_store.forget_list(lists[key])
            for task_id in set(task_ids) - self._job_store.recorded(task_ids):
                self._job_store.forget(task_id, list_name=lists.get(key, ""))
            self._cursors[key] = cursor

    def _route(self, job: Job) -> str:
        return self._router.choose(
            job.model, job.effective_priority, excluded_worker=job.excluded_worker
        )

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
