"""The reconciler: bring messages, leases and deadlines back in step with the job records."""

import math
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
from tasks.jobs.model import Job, Priority, Status
from tasks.jobs.routing import JobDispatcher, Router
from tasks.jobs.store import Dispatch, JobStore, ReleaseOutcome
from tasks.redis_client import redis_errors
from tasks.runtime import Runtime
from tasks.worker_registry import WorkerRegistry

#: A queued job is looked at again after so long: by then somebody may have mended its record, or
#: a process of the version that wrote it is running.
_QUARANTINE_SECONDS: Final = 60

#: Each is told and counted once in so long, however many passes meet it.
_LOG_INTERVAL_SECONDS: Final = 600

_log = structlog.get_logger(__name__)


class Quarantine:
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
        self._store.quarantine(task_id, self._clock() + _QUARANTINE_SECONDS)
        now = time.monotonic()
        self._told = {
            each: at for each, at in self._told.items() if now - at < _LOG_INTERVAL_SECONDS
        }
        if task_id in self._told:
            return
        self._told[task_id] = now
        with redis_errors():
            self._client.hincrby(redis_keys.COUNTERS, f"skipped:{step}", 1)
        _log.error("job.skipped", task_id=task_id, step=step, reason=reason)

    def last(self, task_ids: Sequence[str]) -> list[str]:
        """The same jobs, those that were skipped lately behind the others."""
        return sorted(task_ids, key=self._told.__contains__)


#: Members of a set looked at in one pass, about.
_SCAN_COUNT: Final = 200

_INDEX_SETS: Final = (
    *(redis_keys.index_key(status) for status in Status),
    redis_keys.DUE_JOBS,
    redis_keys.JOB_DEADLINES,
    redis_keys.DEAD_LETTERS,
)


class IndexPruner:
    """Walks round the sets, remembering how far it came in each."""

    def __init__(self, client: Redis, store: JobStore) -> None:
        self._client = client
        self._store = store
        self._cursors: dict[str, int] = {}

    def run_once(self, *, until: float = math.inf) -> int:
        """Look at one part of every set; how many jobs were dropped.

        Args:
            until: by the monotonic clock, when to leave what is left to the next pass.
        """
        dropped = 0
        lists = {redis_keys.dispatched_key(name): name for name in self._store.lists()}
        sets = [*_INDEX_SETS, *lists]
        self._cursors = {key: self._cursors.get(key, 0) for key in sets}
        for key, cursor, task_ids in self._parts(sets):
            if time.monotonic() > until:
                break
            if key in lists and not task_ids:
                self._store.forget_list(lists[key])
            gone = set(task_ids) - self._store.recorded(task_ids)
            for task_id in gone:
                self._store.forget(task_id, list_name=lists.get(key, ""))
            self._cursors[key] = cursor
            dropped += len(gone)
        return dropped

    def _parts(self, sets: Sequence[str]) -> Iterator[tuple[str, int, list[str]]]:
        """The next part of each set, and the cursor after it, in one round trip."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for key in sets:
                pipe.zscan(key, self._cursors[key], count=_SCAN_COUNT)
            answers = pipe.execute()
        for key, (cursor, members) in zip(sets, answers, strict=True):
            yield key, cursor, [member for member, _ in members]


#: Lifted jobs on one list.
MAX_AGED: Final = 2

#: Looked at on one list in one pass; the oldest stand first.
_OLDEST_PER_LIST: Final = 16

#: The step above each.
_PRIORITY_ABOVE: Final = {
    f"{int(Priority.LOW)}": Priority.NORMAL,
    f"{int(Priority.NORMAL)}": Priority.HIGH,
}


class PriorityAgeing:
    """Finds the jobs whose turn it is to be lifted.

    Args:
        client: Redis.
        store: the records.
        skipped: takes those that cannot be read.
        seconds: how long a job waits on each step.
        clock: gives unix seconds.
    """

    def __init__(
        self,
        client: Redis,
        store: JobStore,
        skipped: Quarantine,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._store = store
        self._skipped = skipped
        self._seconds = seconds
        self._clock = clock

    def find(self) -> list[Dispatch]:
        """The messages by which the oldest of them are lifted."""
        return [sending for name in self._store.lists() for sending in self._lift_from(name)]

    def _lift_from(self, name: str) -> Iterator[Dispatch]:
        queue, _, step = name.rpartition("|")
        above = _PRIORITY_ABOVE.get(step)
        if above is None:
            return
        free, oldest = self._look_at(name, f"{queue}|{int(above)}")
        ripe = (job for job, since in self._waiting(oldest) if self._is_ripe(job, since))
        for _, job in zip(range(free), ripe, strict=False):
            yield Dispatch(job.task_id, queue, above, after=job.dispatch_seq)

    def _look_at(self, name: str, above: str) -> tuple[int, list[str]]:
        """How many may be lifted from a list now, and its oldest jobs."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            pipe.scard(redis_keys.aged_key(above))
            pipe.zrange(redis_keys.dispatched_key(name), 0, _OLDEST_PER_LIST - 1)
            lifted, oldest = pipe.execute()
        return max(0, MAX_AGED - lifted), oldest

    def _waiting(self, task_ids: list[str]) -> Iterator[tuple[Job, float]]:
        """Those that are queued, and since when."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.zscore(redis_keys.index_key(Status.QUEUED), task_id)
            since = dict(zip(task_ids, pipe.execute(), strict=True))
        found = self._store.read(task_ids)
        for task_id, reason in found.unreadable.items():
            self._skipped.note(task_id, "lift", reason)
        for job in found.jobs:
            entered = since[job.task_id]
            if entered is not None:
                yield job, float(entered)

    def _is_ripe(self, job: Job, since: float) -> bool:
        steps = list(Priority)
        lifted = steps.index(job.priority) - steps.index(job.effective_priority)
        return self._clock() - since >= self._seconds * (lifted + 1)


RECONCILE_SECONDS: Final = 2.0

#: A pass that died holds up the next one for so long at most.
_LOCK_SECONDS: Final = 5.0

_LOCK_KEY: Final = f"{redis_keys.PREFIX}reconciler"

#: Looked at by one step of one pass.
_MAX_PER_STEP: Final = 500

#: A step takes as long as the machine's load makes it: what it has not done after so many seconds
#: is the next pass's, lest the lock runs out. So many are sent at once.
_STEP_SECONDS: Final = 1.5

_SENDS_PER_BATCH: Final = 50

#: A job that has waited for so long is raised one priority level.
AGEING_SECONDS: Final = 60.0

#: Of those that are due, so many are bound to a GPU; the others may wait for any.
_ROUTED: Final = 8

_Item = TypeVar("_Item")


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
        dispatcher: JobDispatcher,
        fleet: WorkerRegistry,
        router: Router,
        *,
        ageing_seconds: float = AGEING_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._store = store
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._router = router
        self._lost = MissingMessageDetector(client)
        self._skipped = Quarantine(client, store, clock)
        self._ageing = PriorityAgeing(client, store, self._skipped, ageing_seconds, clock)
        self._pruner = IndexPruner(client, store)
        self._until = 0.0

    @classmethod
    def from_runtime(cls, runtime: Runtime) -> "Reconciler":
        """Build a reconciler from a runtime's parts; nothing is sent before the first pass."""
        return cls(
            runtime.redis,
            runtime.job_store,
            runtime.dispatcher,
            runtime.registry,
            runtime.router,
        )

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
        lock = self._client.lock(_LOCK_KEY, timeout=_LOCK_SECONDS, thread_local=False)
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
        orphans = self._skipped.last(orphans)[:_MAX_PER_STEP]
        recorded = self._store.recorded(orphans)
        for task_id in self._in_time(orphans):
            with self._skipped.guard(task_id, "release"):
                if task_id in recorded:
                    outcome = self._store.release(task_id)
                    if outcome is not ReleaseOutcome.NONE:
                        self._count("lease_expired", [task_id], outcome=outcome.value)
                else:
                    self._store.forget(task_id)

    def _fail_overdue(self) -> None:
        overdue = self._store.overdue(_MAX_PER_STEP + len(self._skipped))
        for task_id in self._in_time(self._skipped.last(overdue)):
            with self._skipped.guard(task_id, "overdue"):
                if self._store.fail_overdue(task_id):
                    self._count("deadline_exceeded", [task_id])

    def _move_backlogs(self) -> None:
        """What waits for a GPU that is dead or drained goes to its model's shared queue."""
        usable = {worker.queue for worker in self._fleet.workers() if worker.usable}
        for name in self._store.lists():
            queue = name.rpartition("|")[0]
            if queue.startswith(routing.GPU_PREFIX) and queue not in usable:
                waiting = self._client.zrange(redis_keys.dispatched_key(name), 0, _MAX_PER_STEP - 1)
                self._send([str(each) for each in waiting], _shared_queue, "backlog_moved")

    def _resend_lost(self) -> None:
        known = self._lost.foreign
        lost = self._lost.find()
        for name in sorted(self._lost.foreign - known):
            _log.error("queue.foreign_message", list=name)
        self._send(lost, _shared_queue, "message_lost")

    def _send_due(self) -> None:
        due = self._store.due(_MAX_PER_STEP)
        # One by one: each choice depends on where the one before went.
        for task_id in due[:_ROUTED]:
            self._send([task_id], self._route, "sent_again")
        self._send(due[_ROUTED:], _shared_queue, "sent_again")

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
        for start in self._in_time(range(0, len(task_ids), _SENDS_PER_BATCH)):
            found = self._store.read(task_ids[start : start + _SENDS_PER_BATCH])
            for task_id, why in found.unreadable.items():
                self._skipped.note(task_id, "send", why)
            sendings = [Dispatch(job.task_id, queue_of(job)) for job in found.jobs]
            self._count(reason, [job.task_id for job in self._dispatcher.send_all(sendings)])

    def _count(self, reason: str, task_ids: Sequence[str], **facts: str) -> None:
        if task_ids:
            with redis_errors():
                self._client.hincrby(redis_keys.COUNTERS, f"recovered:{reason}", len(task_ids))
        known = {job.task_id: job.log_context() for job in self._store.read(task_ids).jobs}
        for task_id in task_ids:
            context = known.get(task_id, {"task_id": task_id})
            _log.warning("job.recovered", by=reason, **context, **facts)


def _shared_queue(job: Job) -> str:
    return routing.model_queue(job.model)
