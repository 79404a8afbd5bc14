"""Finds what the reconciler or a worker should have seen to."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from tasks import keys
from tasks.connection import redis_errors
from tasks.errors import UnreadableRecordError
from tasks.jobs import Status
from tasks.runtime import Runtime
from tasks.worker.lost import LostMessages

#: A message on its way from a list to a worker is in neither for less than this.
_LOOK_AGAIN_SECONDS: Final = 0.5
_RECONCILER: Final = (
    "the reconciler sees to it within seconds: is an I/O worker running? "
    "(celery -A tasks.app worker -n io@%h -Q io -P threads)"
)
_FOREIGN: Final = (
    "what this list begins with was not sent by the service: whatever puts it there should use "
    "another database; the worker that takes it drops it, and may end over it"
)
_RECORDS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Stuck:
    """One thing that does not go on.

    Attributes:
        name: a job's id, a worker's name, or a list as `<queue>|<priority>`.
        problem: what is wrong with it, a stable word.
        seconds: since when.
        advice: what to do.
    """

    name: str
    problem: str
    seconds: float
    advice: str


def find_stuck(runtime: Runtime, older_than: float) -> list[Stuck]:
    """Everything that has been stuck for longer than so many seconds.

    Raises:
        QueueUnavailableError: Redis does not answer.
    """
    return [
        *_unreadable(runtime),
        *_without_lease(runtime),
        *_without_message(runtime, older_than),
        *_late(runtime, keys.DUE, "due_not_sent", older_than),
        *_late(runtime, keys.DEADLINES, "overdue", older_than),
        *_workers(runtime),
    ]


def _unreadable(runtime: Runtime) -> Iterator[Stuck]:
    """The reconciler passes over them: nobody else can tell what was meant."""
    for status in (Status.QUEUED, Status.PROCESSING):
        since = dict(_scores(runtime, keys.index_key(status)))
        for start in range(0, len(since), _RECORDS_AT_ONCE):
            found = runtime.job_store.read(list(since)[start : start + _RECORDS_AT_ONCE])
            for task_id, reason in found.unreadable.items():
                waited = time.time() - since[task_id]
                yield Stuck(task_id, "unreadable_record", waited, _mending(task_id, reason))


def _mending(task_id: str, reason: str) -> str:
    advice = UnreadableRecordError.ADVICE.format(task_id)
    return f"{reason}. {advice}. Or: celery -A tasks.app jobs cancel {task_id}"


def _without_lease(runtime: Runtime) -> Iterator[Stuck]:
    for task_id, since in _scores(runtime, keys.index_key(Status.PROCESSING)):
        if not runtime.job_store.has_lease(task_id):
            yield Stuck(task_id, "processing_without_lease", time.time() - since, _RECONCILER)


def _without_message(runtime: Runtime, older_than: float) -> Iterator[Stuck]:
    queued = dict(_scores(runtime, keys.index_key(Status.QUEUED)))
    search = LostMessages(runtime.redis)
    search.find()
    time.sleep(_LOOK_AGAIN_SECONDS)
    lost = search.find()
    for name in sorted(search.foreign):
        yield Stuck(name, "foreign_message", 0.0, _FOREIGN)
    for task_id in lost:
        waited = time.time() - queued.get(task_id, time.time())
        if waited > older_than:
            yield Stuck(task_id, "queued_without_message", waited, _RECONCILER)


def _late(runtime: Runtime, key: str, problem: str, older_than: float) -> Iterator[Stuck]:
    for task_id, due in _scores(runtime, key):
        late = time.time() - due
        if late > older_than:
            yield Stuck(task_id, problem, late, _RECONCILER)


def _workers(runtime: Runtime) -> Iterator[Stuck]:
    for name, seconds in runtime.registry.silent().items():
        yield Stuck(name, "worker_silent", seconds, "start it again; its jobs went to others")
    for worker in runtime.registry.workers():
        if worker.alive and not worker.ready:
            yield Stuck(
                worker.name,
                "worker_not_ready",
                0.0,
                "its model is loading, or does not answer: see its log",
            )


def _scores(runtime: Runtime, key: str) -> list[tuple[str, float]]:
    with redis_errors():
        found = runtime.redis.zrange(key, 0, -1, withscores=True)
    return cast("list[tuple[str, float]]", found)
