"""What operators look at and change: workers, queues, failed jobs, dead letters and webhooks.

The celery commands and the operators' API both act through these functions.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from tasks.errors import (
    QueueUnavailableError,
    UnknownWorkerError,
    WorkerNotDrainedError,
)
from tasks.jobs import routing
from tasks.queue_metrics import queue_lists
from tasks.runtime import Runtime
from tasks.webhooks.deliveries import DeliveryState
from tasks.worker_registry import Worker, WorkerRegistry

#: The outcome of a change that found no record.
MISSING: Final = "missing"
#: Why a worker is drained, unless its operator gives a reason.
DEFAULT_REASON: Final = "by an operator"

WorkerState = Literal["ready", "busy", "not-ready", "drained", "silent"]


def worker_state(worker: Worker, silent: Mapping[str, float]) -> WorkerState:
    """Return what a worker is doing; `silent` are those that ended without a shutdown."""
    if worker.drained:
        return "drained"
    if worker.name in silent or not worker.alive:
        return "silent"
    if not worker.ready:
        return "not-ready"
    return "busy" if worker.running else "ready"


def drain_worker(registry: WorkerRegistry, name: str, reason: str = DEFAULT_REASON) -> None:
    """Let a worker finish its job and take no other.

    Raises:
        UnknownWorkerError: there is no worker of that name.
    """
    _require_worker(registry, name)
    registry.drain(name, reason or DEFAULT_REASON)


def undrain_worker(registry: WorkerRegistry, name: str) -> None:
    """Let a drained worker take jobs again, also one that has ended.

    Raises:
        UnknownWorkerError: there is no worker of that name.
        WorkerNotDrainedError: it takes jobs already.
    """
    if registry.undrain(name):
        return
    _require_worker(registry, name)
    raise WorkerNotDrainedError(f"The worker {name} is not drained: nothing to do.")


def _require_worker(registry: WorkerRegistry, name: str) -> None:
    known = {worker.name for worker in registry.workers()} | set(registry.silent())
    if name not in known:
        choice = ", ".join(sorted(known)) or "none is running"
        raise UnknownWorkerError(f"There is no worker {name!r}. Model workers: {choice}.")


def requeue_job(runtime: Runtime, task_id: str, now: float) -> str:
    """Queue a failed or canceled job again: `requeued`, else its status, `expired` or `missing`.

    Raises:
        UnreadableRecordError: its record is damaged.
    """
    job = runtime.job_store.get(task_id)
    if job is None:
        runtime.job_store.forget(task_id)
        return MISSING
    if job.expires_at <= now:
        return "expired"
    outcome = runtime.job_store.requeue(task_id)
    if outcome == "requeued":
        # If its message cannot be sent, the reconciler does it: the record says that it is due.
        with suppress(QueueUnavailableError):
            queue = runtime.router.choose(job.model, excluded_worker=job.excluded_worker)
            runtime.dispatcher.send_again(job.task_id, queue=queue)
    return outcome


def drop_dead_letter(runtime: Runtime, task_id: str) -> str:
    """Take a job off the dead letters: `dropped`, else its status, or `missing`."""
    if runtime.job_store.drop_dead(task_id):
        return "dropped"
    job = runtime.job_store.get(task_id)
    return job.status.value if job else MISSING


def replay_delivery(runtime: Runtime, webhook_id: str, now: float) -> str:
    """Send a webhook again under its id: `replayed`, or `missing`."""
    return "replayed" if runtime.deliveries.replay(webhook_id, now) else MISSING


def drop_delivery(runtime: Runtime, webhook_id: str) -> str:
    """Give a pending or dead webhook up: `dropped`, else its state, or `missing`."""
    row = runtime.deliveries.get(webhook_id)
    if row is None:
        return MISSING
    return DeliveryState.DROPPED if runtime.deliveries.drop(webhook_id) else row.state


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue of jobs now.

    Attributes:
        name: of the queue.
        waiting: jobs by the name of their priority level.
        running: jobs that the workers of it run.
        expected_seconds: what a new job would wait there at the workers' speed; None if no worker
            takes from it.
    """

    name: str
    waiting: Mapping[str, int]
    running: int
    expected_seconds: float | None


def queue_states(runtime: Runtime, workers: Iterable[Worker]) -> list[QueueState]:
    """Return all queues with jobs or workers, by name."""
    workers = list(workers)
    waiting: dict[str, dict[str, int]] = {}
    for each in queue_lists(runtime.redis, workers):
        waiting.setdefault(each.queue, {})[each.level] = each.jobs
    totals = {name: sum(levels.values()) for name, levels in waiting.items()}
    return [
        QueueState(name, levels, *_pace(name, totals, workers))
        for name, levels in sorted(waiting.items())
    ]


def _pace(
    queue: str, totals: Mapping[str, int], workers: Iterable[Worker]
) -> tuple[int, float | None]:
    """Return how many jobs a queue's workers run, and the seconds that a new job would wait.

    A worker takes from its own queue before its model's shared one.
    """
    takers = [each for each in workers if queue in {each.queue, routing.model_queue(each.model)}]
    running = sum(each.running for each in takers)
    usable = [each for each in takers if each.usable]
    if not usable:
        return running, None
    own = {each.queue for each in usable if each.queue} | {queue}
    before = sum(totals.get(name, 0) for name in own) + sum(each.running for each in usable)
    mean = sum(each.seconds for each in usable) / len(usable)
    # Of as many jobs as there are idle workers, each is begun at once.
    return running, max(0, before - len(usable) + 1) * mean / len(usable)
