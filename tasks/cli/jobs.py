"""`celery jobs`: list, show, requeue, cancel and purge jobs, and manage dead letters."""

import time
from dataclasses import asdict, replace
from typing import Any

import click

from tasks.cli.output import (
    CommandError,
    CommandOutput,
    OutputCommand,
    change_each,
    confirm,
    duration,
    fact_lines,
    local_time,
    table_lines,
    yes_option,
)
from tasks.cli.stuck import stuck
from tasks.cli.workers import drain, undrain, workers
from tasks.housekeeping.clock_check import ClockCheck
from tasks.jobs import routing
from tasks.jobs.job import Job, Status
from tasks.jobs.store import ReadRecords
from tasks.operations import MISSING, drop_dead_letter, requeue_job
from tasks.runtime import Runtime

_TIME_FIELDS = ("created_at", "started_at", "finished_at", "expires_at", "deadline")
_RECORDS_PER_READ = 500
_NO_DEAD_LETTERS = "There are no dead letters: nothing to do."
_DEAD_LETTER_RULE = "It is no dead letter; see them with: celery -A tasks.app jobs dead list"


def _job_document(job: Job) -> dict[str, Any]:
    """Return a record for `--json`: times in ISO 8601, the priority by name."""
    values = {name: value for name, value in asdict(job).items() if value is not None}
    times = {name: local_time(values[name]) for name in _TIME_FIELDS if name in values}
    return {**values, **times, "priority": job.priority.name.lower()}


@click.command("list", cls=OutputCommand)
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    multiple=True,
    help="Show only jobs with this status; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
def list_jobs(runtime: Runtime, status: tuple[str, ...], limit: int) -> CommandOutput:
    """List jobs, the newest first, and the number of jobs in each status."""
    found = runtime.job_store.read_newest(map(Status, status or Status), limit)
    counts = runtime.job_store.counts()
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    now = time.time()
    rows = [
        {
            "TASK": job.task_id,
            "STATUS": job.status,
            "AGE": duration(now - job.created_at),
            "PRIORITY": job.priority.name.lower(),
            "QUEUE": job.queue,
            "WORKER": job.worker,
            "ATTEMPTS": job.attempts,
            "ERROR": job.error and job.error.type,
        }
        for job in found.jobs
    ]
    lines = [*table_lines(rows), f"{len(rows)} shown; {summary}"]
    return _listing(found, lines, counts={status.value: count for status, count in counts.items()})


def _listing(found: ReadRecords, lines: list[str], **facts: object) -> CommandOutput:
    documents = [_job_document(job) for job in found.jobs]
    return CommandOutput(
        {"jobs": documents, **facts, "unreadable": list(found.unreadable)},
        lines=lines,
        notes=found.notes(),
    )


@click.command("show", cls=OutputCommand)
@click.argument("task_id", metavar="ID")
def show(runtime: Runtime, task_id: str) -> CommandOutput:
    """Show everything about one job."""
    store = runtime.job_store
    job = store.get(task_id)
    if job is None:
        raise CommandError(
            "unknown_job",
            f"There is no job {task_id!r}: it was never submitted here, or its record has expired. "
            "Find ids with: celery -A tasks.app jobs list",
        )
    document = {
        **_job_document(job),
        "leased": store.has_lease(task_id),
        "jobs_ahead": store.position(job),
    }
    return CommandOutput(document, lines=fact_lines(document.items()))


@click.command("requeue", cls=OutputCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--failed", is_flag=True, help="Requeue all failed jobs; asks first.")
@yes_option
def requeue(runtime: Runtime, task_ids: tuple[str, ...], failed: bool, yes: bool) -> CommandOutput:
    """Queue failed or canceled jobs again, with their attempts counted from zero."""
    if bool(task_ids) == failed:
        raise click.UsageError("Give ids, or --failed for all failed jobs.")
    if failed:
        task_ids = tuple(runtime.job_store.ids(Status.FAILED))
        if task_ids:
            confirm(f"Requeue all {len(task_ids)} failed jobs?", yes=yes)
    return _requeue_each(runtime, task_ids, nothing="No job has failed: nothing to do.")


def _requeue_each(runtime: Runtime, task_ids: tuple[str, ...], *, nothing: str) -> CommandOutput:
    return change_each(
        task_ids,
        lambda each: requeue_job(runtime, each, time.time()),
        done="requeued",
        rule="Only failed and canceled jobs can be requeued, until their pictures expire.",
        nothing=nothing,
    )


@click.command("cancel", cls=OutputCommand)
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@yes_option
def cancel(runtime: Runtime, task_ids: tuple[str, ...], yes: bool) -> CommandOutput:
    """Cancel jobs. If a worker runs one, its result is discarded."""
    store = runtime.job_store
    confirm(f"Cancel {', '.join(task_ids)}?", yes=yes)
    # A job that was canceled before is refused, since this command changed nothing.
    ended = {job.task_id for job in store.read(task_ids).jobs if job.status.final}

    def change(task_id: str) -> str:
        outcome = store.cancel(task_id)
        return f"{outcome} already" if task_id in ended else outcome

    rule = "Only queued and processing jobs can be canceled."
    return change_each(task_ids, change, done="canceled", rule=rule)


@click.command("purge", cls=OutputCommand)
@click.option("--queue", help="Cancel the jobs that wait in this queue, and remove its messages.")
@click.option(
    "--status", type=click.Choice([Status.QUEUED.value]), help="Cancel every waiting job."
)
@yes_option
def purge(runtime: Runtime, queue: str | None, status: str | None, yes: bool) -> CommandOutput:
    """Cancel waiting jobs, records included. Messages that `celery purge` removes come back."""
    if (queue is None) == (status is None):
        raise click.UsageError("Give either --queue QUEUE or --status queued.")
    if queue is not None:
        _require_queue(runtime, queue)
    task_ids = _queued_on(runtime, queue)
    where = f"in the queue {queue}" if queue else "in all queues"
    confirm(f"Cancel {len(task_ids)} jobs that wait {where}?", yes=yes)
    output = change_each(
        task_ids,
        lambda each: runtime.job_store.cancel(each, only=Status.QUEUED),
        done="canceled",
        rule="A worker has begun it meanwhile; cancel it by its id.",
        nothing=f"No job waits {where}: nothing to do.",
    )
    messages, lines = 0, output.lines
    if queue:
        messages = _empty_lists(runtime, queue)
        lines = [*lines, f"{messages} messages removed from {queue}"]
    return replace(output, document={**output.document, "messages": messages}, lines=lines)


def _require_queue(runtime: Runtime, queue: str) -> None:
    """Raise `CommandError` unless a queue carries jobs."""
    lists = {name.rpartition("|")[0] for name in runtime.job_store.lists()}
    workers = runtime.registry.workers()
    served = {worker.queue for worker in workers} | {
        routing.model_queue(worker.model) for worker in workers if worker.model
    }
    known = {name for name in lists | served if routing.is_model_queue(name)}
    if queue not in known:
        choice = ", ".join(sorted(known)) or "none, since there is neither a job nor a worker"
        raise CommandError(
            "unknown_queue", f"There is no queue {queue!r}. Queues with jobs: {choice}."
        )


def _queued_on(runtime: Runtime, queue: str | None) -> list[str]:
    """Return the ids of the queued jobs of one queue, or of all."""
    task_ids = runtime.job_store.ids(Status.QUEUED)
    if queue is None:
        return task_ids
    return [
        task_id
        for start in range(0, len(task_ids), _RECORDS_PER_READ)
        for task_id in runtime.job_store.waiting_in(
            queue, task_ids[start : start + _RECORDS_PER_READ]
        )
    ]


def _empty_lists(runtime: Runtime, queue: str) -> int:
    """Remove a queue's messages; the reconciler resends that of a job submitted meanwhile."""
    with routing.broker_errors(), runtime.celery_app.connection_for_write() as connection:
        return int(connection.default_channel.queue_purge(queue))


@click.group("dead")
def dead() -> None:
    """Look after dead letters: jobs that crashed or were lost too often."""


@dead.command("list", cls=OutputCommand)
def list_dead(runtime: Runtime) -> CommandOutput:
    """List the dead letters, the oldest first, with their reasons."""
    found = runtime.job_store.read(runtime.job_store.dead())
    lines = table_lines(
        [
            {
                "TASK": job.task_id,
                "ENDED": local_time(job.finished_at),
                "REASON": job.error and job.error.type,
                "CRASHES": job.crashes,
                "LOSSES": job.losses,
                "WORKER": job.worker,
                "MESSAGE": job.error and job.error.message,
            }
            for job in found.jobs
        ]
    )
    if not lines and not found.unreadable:
        lines = ["There are no dead letters."]
    return _listing(found, lines)


@dead.command("requeue", cls=OutputCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Requeue all dead letters; asks first.")
@yes_option
def requeue_dead(
    runtime: Runtime, task_ids: tuple[str, ...], every: bool, yes: bool
) -> CommandOutput:
    """Queue dead letters again."""
    chosen = _chosen_dead(runtime, task_ids, every=every)
    if every and chosen:
        confirm(f"Requeue all {len(chosen)} dead letters?", yes=yes)
    letters = set(runtime.job_store.dead())
    others = change_each(
        [each for each in chosen if each not in letters],
        lambda each: _current_state(runtime, each),
        done="requeued",
        rule=_DEAD_LETTER_RULE,
    )
    output = _requeue_each(
        runtime, tuple(each for each in chosen if each in letters), nothing=_NO_DEAD_LETTERS
    )
    if not others.failed:
        return output
    return replace(
        output,
        document={name: output.document[name] + others.document[name] for name in output.document},
        notes=[note for note in (*output.notes, *others.notes) if note != _NO_DEAD_LETTERS],
        failed=True,
    )


@dead.command("drop", cls=OutputCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Drop all dead letters.")
@yes_option
def drop_dead(runtime: Runtime, task_ids: tuple[str, ...], every: bool, yes: bool) -> CommandOutput:
    """Remove jobs from the dead letters; they stay failed until their records expire."""
    chosen = _chosen_dead(runtime, task_ids, every=every)
    if chosen:
        confirm(f"Drop {len(chosen)} dead letters?", yes=yes)
    return change_each(
        chosen,
        lambda each: drop_dead_letter(runtime, each),
        done="dropped",
        rule=_DEAD_LETTER_RULE,
        nothing=_NO_DEAD_LETTERS,
    )


def _chosen_dead(runtime: Runtime, task_ids: tuple[str, ...], *, every: bool) -> tuple[str, ...]:
    if bool(task_ids) == every:
        raise click.UsageError("Give ids, or --all.")
    return tuple(runtime.job_store.dead()) if every else task_ids


def _current_state(runtime: Runtime, task_id: str) -> str:
    job = runtime.job_store.get(task_id)
    return job.status.value if job else MISSING


@click.command("trust-clock", cls=OutputCommand)
def trust_clock(runtime: Runtime) -> CommandOutput:
    """Go on erasing and ending what has expired, after a jump of the clock that was right."""
    ClockCheck(runtime.redis).confirm()
    return CommandOutput({"trusted": True}, lines=["trusted  erasing goes on in a few seconds"])


@click.group("jobs")
def jobs() -> None:
    """Look after the jobs and the workers that run them.

    The record is the truth about a job, and its message only carries the id: use these commands
    instead of `celery purge` and `celery control revoke`.
    """


_OF_JOBS = (list_jobs, show, requeue, cancel, purge, dead, stuck)
for _command in (*_OF_JOBS, drain, undrain, workers, trust_clock):
    jobs.add_command(_command)
