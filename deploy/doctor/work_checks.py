"""The workers, the queues and the dead letters, as the records know them."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from deploy.doctor.findings import Finding, fail, ok, warn
from tasks import names
from tasks.fleet import Fleet, Worker
from tasks.jobs import Job, Status
from tasks.settings import Settings
from tasks.store import JobStore

_JOBS: Final = "celery -A tasks.app jobs"
#: A job that waits longer deserves a look.
_LONG_SECONDS: Final = 300
_FULL: Final = 0.8
_ANSWER_SECONDS: Final = 1.5
_BLOCK: Final = 500


def check_workers(fleet: Fleet, settings: Settings) -> Iterator[Finding]:
    """One line for each model worker, and one if none can do the model's jobs."""
    workers = fleet.workers()
    for worker in workers:
        yield _worker(worker)
    for name, seconds in fleet.silent().items():
        text = f"{name} fell silent {seconds:.0f} s ago"
        yield warn("workers", text, "start it again, unless it was taken away on purpose")
    usable = [worker for worker in workers if worker.usable and worker.model == settings.model]
    if not usable:
        yield fail(
            "workers",
            f"no worker is ready for {settings.model}: its jobs wait",
            f"start one: celery -A tasks.app worker -n gpu0@%h -c 1 "
            f"-Q {names.gpu_queue(settings.host, 0)},{names.model_queue(settings.model)}",
        )


def _worker(worker: Worker) -> Finding:
    text = f"{worker.name}: {worker.model or 'unknown model'}, {worker.seconds:.2f} s a job"
    if worker.drained:
        return warn(
            "workers",
            f"{worker.name} is drained: {worker.drained}",
            f"when it is well again: {_JOBS} undrain {worker.name}",
        )
    if not worker.alive:
        return warn("workers", f"{worker.name} does not say that it lives", "start it again")
    if not worker.ready:
        advice = "wait while its model loads; if that lasts, see its log"
        return warn("workers", f"{worker.name} lives, but its model does not answer", advice)
    return ok("workers", f"{text}, {'busy' if worker.running else 'ready'}")


def check_io_worker(app: Celery) -> Finding:
    """Somebody takes from the I/O queue, and so runs the reconciler."""
    try:
        answers = app.control.inspect(timeout=_ANSWER_SECONDS).active_queues() or {}
    except (OperationalError, RedisError, OSError) as error:
        answers, why = {}, f" ({type(error).__name__})"
    else:
        why = ""
    found = [
        worker
        for worker, queues in answers.items()
        if any(queue["name"] == names.IO_QUEUE for queue in queues)
    ]
    if found:
        return ok("workers.io", f"{', '.join(sorted(found))} keeps records and messages in step")
    return fail(
        "workers.io",
        f"no I/O worker answers{why}: what is lost is not found, what is due is not sent",
        "start one: celery -A tasks.app worker -n io@%h -Q io -P threads",
    )


def check_queues(store: JobStore, fleet: Fleet, settings: Settings) -> Iterator[Finding]:
    """How much waits, for how long, and whether somebody takes it."""
    queued, unreadable = _queued(store)
    if unreadable:
        text = f"{len(unreadable)} jobs that wait have records that cannot be read"
        yield fail("queues.records", text, f"see {_JOBS} stuck")
    running = store.counts()[Status.PROCESSING]
    yield _depth(len(queued) + len(unreadable), running, settings.max_pending)
    if queued:
        yield _oldest(queued)
    models = {worker.model for worker in fleet.workers() if worker.usable}
    for model, number in sorted(Counter(job.model for job in queued).items()):
        if model not in models:
            text = f"{number} jobs wait for {model}, which no ready worker serves"
            yield fail("queues", text, f"start a worker for {model}, or cancel them: {_JOBS} purge")


def _queued(store: JobStore) -> tuple[list[Job], list[str]]:
    """The jobs that wait, and the ids of those whose records cannot be read."""
    ids = store.ids(Status.QUEUED)
    blocks = [store.read(ids[start : start + _BLOCK]) for start in range(0, len(ids), _BLOCK)]
    jobs = [job for block in blocks for job in block.jobs]
    return jobs, [task_id for block in blocks for task_id in block.unreadable]


def _depth(queued: int, running: int, most: int) -> Finding:
    text = f"{queued} jobs wait, {running} run"
    if most and queued + running > _FULL * most:
        advice = "add workers; at RMBG_MAX_PENDING, uploads are answered with 503"
        return warn("queues.depth", f"{text}, of {most} at most", advice)
    return ok("queues.depth", text)


def _oldest(queued: list[Job]) -> Finding:
    oldest = min(queued, key=lambda job: job.created_at)
    seconds = time.time() - oldest.created_at
    text = f"the oldest, {oldest.task_id}, waits for {seconds:.0f} s"
    if seconds > _LONG_SECONDS:
        return warn("queues.oldest", text, f"see {_JOBS} stuck; if that is empty, add workers")
    return ok("queues.oldest", text)


def check_dead_letters(store: JobStore) -> Finding:
    """Jobs that were given up."""
    number = len(store.dead())
    if number:
        advice = f"see {_JOBS} dead list, then dead requeue or dead drop"
        return warn("dead_letters", f"{number} jobs were given up", advice)
    return ok("dead_letters", "none")
