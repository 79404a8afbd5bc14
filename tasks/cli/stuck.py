"""`celery jobs stuck`: find jobs that do not advance, with the remedy for each."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final, cast

import click

from tasks import redis_keys
from tasks.cli.output import CommandOutput, OutputCommand, duration, table_lines
from tasks.errors import UnreadableRecordError
from tasks.housekeeping.missing_messages import MissingMessageDetector
from tasks.jobs import routing
from tasks.jobs.job import Status
from tasks.redis_client import redis_errors
from tasks.runtime import Runtime

#: A message in transit from a list to a worker is in neither for less than this.
_RECHECK_SECONDS: Final = 0.5
_RECONCILER: Final = (
    "the reconciler repairs it within seconds: does an I/O worker run? rmbg doctor tells, and how "
    "to start one"
)
_UNKNOWN_MESSAGE: Final = (
    "the oldest message of this list was not sent by the service: its sender should use another "
    "database; the worker that takes it drops it, and may exit"
)
_RECORDS_PER_READ: Final = 500


@dataclass(frozen=True, slots=True)
class StuckJob:
    """One problem.

    Attributes:
        name: a job's id, a worker's name, or a list as `<queue>|<priority>`.
        problem: a stable word for it.
        seconds: how long it has lasted.
        advice: the remedy.
    """

    name: str
    problem: str
    seconds: float
    advice: str


def _without_worker(runtime: Runtime, older_than: float) -> Iterator[StuckJob]:
    """Find the models whose jobs wait while no live worker has them."""
    served = {each.model for each in runtime.registry.workers() if each.alive}
    since = dict(_scores(runtime, redis_keys.index_key(Status.QUEUED)))
    waits: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(since), _RECORDS_PER_READ):
        for job in runtime.job_store.read(list(since)[start : start + _RECORDS_PER_READ]).jobs:
            if job.model not in served:
                waits[job.model].append(time.time() - since[job.task_id])
    for model, seconds in sorted(waits.items()):
        if max(seconds) > older_than:
            yield StuckJob(
                routing.model_queue(model),
                "no_worker",
                max(seconds),
                f"{len(seconds)} job(s) wait for {model}: start a worker with RMBG_MODEL={model}, "
                f"or celery -A tasks.app jobs purge --queue {routing.model_queue(model)}",
            )


def _unreadable(runtime: Runtime) -> Iterator[StuckJob]:
    """Find damaged records, which the reconciler quarantines."""
    for status in (Status.QUEUED, Status.PROCESSING):
        since = dict(_scores(runtime, redis_keys.index_key(status)))
        for start in range(0, len(since), _RECORDS_PER_READ):
            found = runtime.job_store.read(list(since)[start : start + _RECORDS_PER_READ])
            for task_id, reason in found.unreadable.items():
                yield StuckJob(
                    task_id,
                    "unreadable_record",
                    time.time() - since[task_id],
                    f"{reason}. {UnreadableRecordError.ADVICE.format(task_id)}. "
                    f"Or: celery -A tasks.app jobs cancel {task_id}",
                )


def _without_lease(runtime: Runtime) -> Iterator[StuckJob]:
    for task_id, since in _scores(runtime, redis_keys.index_key(Status.PROCESSING)):
        if not runtime.job_store.has_lease(task_id):
            yield StuckJob(task_id, "processing_without_lease", time.time() - since, _RECONCILER)


def _without_message(runtime: Runtime, older_than: float) -> Iterator[StuckJob]:
    queued = dict(_scores(runtime, redis_keys.index_key(Status.QUEUED)))
    detector = MissingMessageDetector(runtime.redis, clock=runtime.registry.now)
    detector.find()
    time.sleep(_RECHECK_SECONDS)
    missing = detector.find()
    for name in sorted(detector.unknown):
        yield StuckJob(name, "unknown_message", 0.0, _UNKNOWN_MESSAGE)
    for task_id in missing:
        waited = time.time() - queued.get(task_id, time.time())
        if waited > older_than:
            yield StuckJob(task_id, "queued_without_message", waited, _RECONCILER)


def _overdue(runtime: Runtime, key: str, problem: str, older_than: float) -> Iterator[StuckJob]:
    for task_id, due in _scores(runtime, key):
        late = time.time() - due
        if late > older_than:
            yield StuckJob(task_id, problem, late, _RECONCILER)


def _stuck_workers(runtime: Runtime) -> Iterator[StuckJob]:
    for name, seconds in runtime.registry.silent().items():
        yield StuckJob(name, "worker_silent", seconds, "restart it; its jobs went to other workers")
    for worker in runtime.registry.workers():
        if worker.alive and not worker.ready:
            yield StuckJob(
                worker.name,
                "worker_not_ready",
                0.0,
                "its model is loading or does not answer: see its log",
            )


def _scores(runtime: Runtime, key: str) -> list[tuple[str, float]]:
    with redis_errors():
        found = runtime.redis.zrange(key, 0, -1, withscores=True)
    return cast("list[tuple[str, float]]", found)


@click.command("stuck", cls=OutputCommand)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds after which something counts as stuck.",
)
def stuck(runtime: Runtime, older_than: float) -> CommandOutput:
    """Show jobs and workers that do not advance, with the remedy for each."""
    found = [
        *_unreadable(runtime),
        *_without_lease(runtime),
        *_without_message(runtime, older_than),
        *_overdue(runtime, redis_keys.DUE_JOBS, "due_not_sent", older_than),
        *_overdue(runtime, redis_keys.JOB_DEADLINES, "overdue", older_than),
        *_stuck_workers(runtime),
        *_without_worker(runtime, older_than),
    ]
    lines = table_lines(
        [
            {
                "WHAT": each.name,
                "PROBLEM": each.problem,
                "SINCE": duration(each.seconds),
                "WHAT TO DO": each.advice,
            }
            for each in found
        ]
    )
    return CommandOutput(
        {"stuck": [asdict(each) for each in found]}, lines=lines or ["Nothing is stuck."]
    )
