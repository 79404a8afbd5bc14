"""`celery jobs`: list, show, requeue, cancel and purge jobs, and manage dead letters."""

import time
from dataclasses import asdict
from typing import Any

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import redis_keys
from tasks.cli.output import (
    MISSING_NOTE,
    BulkChange,
    CommandOutput,
    OutputCommand,
    Table,
    UnknownJobError,
    UnknownQueueError,
    confirm,
    duration,
    local_time,
    yes_option,
)
from tasks.cli.stuck import stuck
from tasks.cli.workers import drain, undrain, workers
from tasks.errors import QueueUnavailableError
from tasks.jobs import routing
from tasks.jobs.job import Job, Status
from tasks.redis_client import redis_errors
from tasks.runtime import Runtime, runtime_of

_TIME_FIELDS = ("created_at", "started_at", "finished_at", "expires_at", "deadline")
_REQUEUE_RULE = "Only failed and canceled jobs can be requeued, until their pictures expire."
_CANCEL_RULE = "Only queued and processing jobs can be canceled."
_RECORDS_PER_READ = 500
_NO_DEAD_LETTERS = "There are no dead letters: nothing to do."
_DEAD_LETTER_RULE = "It is no dead letter; see them with: celery -A tasks.app jobs dead list"


def job_document(job: Job) -> dict[str, Any]:
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
@click.pass_context
def list_jobs(ctx: click.Context, status: tuple[str, ...], limit: int) -> CommandOutput:
    """List jobs, the newest first, and the number of jobs in each status."""
    runtime = runtime_of(ctx.obj.app)
    found = runtime.job_store.read_newest(map(Status, status or Status), limit)
    jobs = found.jobs
    counts = runtime.job_store.counts()
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    return CommandOutput(
        {
            "jobs": [job_document(job) for job in jobs],
            "counts": {status.value: count for status, count in counts.items()},
            "unreadable": list(found.unreadable),
        },
        lines=[*_jobs_table(jobs, time.time()).lines(), f"{len(jobs)} shown; {summary}"],
        notes=found.notes(),
    )


def _jobs_table(jobs: list[Job], now: float) -> Table:
    table = Table(("TASK", "STATUS", "AGE", "PRIORITY", "QUEUE", "WORKER", "ATTEMPTS", "ERROR"))
    for job in jobs:
        table.rows.append(
            (
                job.task_id,
                job.status.value,
                duration(now - job.created_at),
                job.priority.name.lower(),
                job.queue,
                job.worker or "-",
                str(job.attempts),
                job.error.type if job.error else "-",
            )
        )
    return table


@click.command("show", cls=OutputCommand)
@click.argument("task_id", metavar="ID")
@click.pass_context
def show(ctx: click.Context, task_id: str) -> CommandOutput:
    """Show everything about one job."""
    store = runtime_of(ctx.obj.app).job_store
    job = store.get(task_id)
    if job is None:
        raise UnknownJobError(
            f"There is no job {task_id!r}: it was never submitted here, or its record has expired. "
            "Find ids with: celery -A tasks.app jobs list"
        )
    document = {
        **job_document(job),
        "leased": store.has_lease(task_id),
        "jobs_ahead": store.position(job),
    }
    width = max(map(len, document))
    return CommandOutput(
        document, lines=[f"{name:{width}}  {value}" for name, value in document.items()]
    )


@click.command("requeue", cls=OutputCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--failed", is_flag=True, help="Requeue all failed jobs; asks first.")
@yes_option
@click.pass_context
def requeue(
    ctx: click.Context,
    task_ids: tuple[str, ...],
    failed: bool,  # noqa: FBT001 - click passes by name
    yes: bool,  # noqa: FBT001 - click passes by name
) -> CommandOutput:
    """Queue failed or canceled jobs again, with their attempts counted from zero."""
    if bool(task_ids) == failed:
        raise click.UsageError("Give ids, or --failed for all failed jobs.")
    runtime = runtime_of(ctx.obj.app)
    if failed:
        task_ids = tuple(runtime.job_store.ids(Status.FAILED))
        if task_ids:
            confirm(f"Requeue all {len(task_ids)} failed jobs?", yes=yes)
    return requeue_jobs(runtime, task_ids, nothing="No job has failed: nothing to do.")


def requeue_jobs(runtime: Runtime, task_ids: tuple[str, ...], *, nothing: str) -> CommandOutput:
    """Requeue jobs, and send their messages."""
    changes = BulkChange("requeued", _REQUEUE_RULE)
    return changes.apply(task_ids, lambda each: _requeue_one(runtime, each)).output(nothing=nothing)


def _requeue_one(runtime: Runtime, task_id: str) -> str:
    job = runtime.job_store.get(task_id)
    if job is None:
        runtime.job_store.forget(task_id)
        return MISSING_NOTE
    if job.expires_at <= time.time():
        return "expired"
    outcome = runtime.job_store.requeue(task_id)
    if outcome == "requeued":
        _send_requeued(runtime, job)
    return outcome


def _send_requeued(runtime: Runtime, job: Job) -> None:
    """Send the message of a requeued job; if that fails, the reconciler sends it."""
    try:
        queue = runtime.router.choose(job.model, job.priority, excluded_worker=job.excluded_worker)
        runtime.dispatcher.send_again(job.task_id, queue=queue)
    except QueueUnavailableError:
        # Its record says that it is due.
        return


@click.command("cancel", cls=OutputCommand)
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@yes_option
@click.pass_context
def cancel(ctx: click.Context, task_ids: tuple[str, ...], yes: bool) -> CommandOutput:  # noqa: FBT001 - click passes by name
    """Cancel jobs. If a worker runs one, its result is discarded."""
    store = runtime_of(ctx.obj.app).job_store
    confirm(f"Cancel {', '.join(task_ids)}?", yes=yes)
    # A job that was canceled before is refused, since this command changed nothing.
    ended = {job.task_id for job in store.read(task_ids).jobs if job.status.final}
    changes = BulkChange("canceled", _CANCEL_RULE)
    return changes.apply(
        task_ids,
        lambda each: _cancel_note(store.cancel(each), was_final=each in ended),
    ).output()


def _cancel_note(outcome: str, *, was_final: bool) -> str:
    return f"{outcome} already" if was_final else outcome


@click.command("purge", cls=OutputCommand)
@click.option("--queue", help="Cancel the jobs that wait in this queue, and remove its messages.")
@click.option(
    "--status", type=click.Choice([Status.QUEUED.value]), help="Cancel every waiting job."
)
@yes_option
@click.pass_context
def purge(ctx: click.Context, queue: str | None, status: str | None, yes: bool) -> CommandOutput:  # noqa: FBT001 - click passes by name
    """Cancel waiting jobs, records included. Messages that `celery purge` removes come back."""
    if (queue is None) == (status is None):
        raise click.UsageError("Give either --queue QUEUE or --status queued.")
    runtime = runtime_of(ctx.obj.app)
    if queue is not None:
        _require_queue(runtime, queue)
    task_ids = _queued_on(runtime, queue)
    where = f"in the queue {queue}" if queue else "in all queues"
    confirm(f"Cancel {len(task_ids)} jobs that wait {where}?", yes=yes)
    changes = BulkChange("canceled", "A worker has begun it meanwhile; cancel it by its id.")
    changes.apply(task_ids, lambda each: runtime.job_store.cancel(each, only=Status.QUEUED))
    messages = _empty_lists(runtime, queue) if queue else 0
    output = changes.output(nothing=f"No job waits {where}: nothing to do.", messages=messages)
    if not queue:
        return output
    return CommandOutput(
        output.document,
        lines=[*output.lines, f"{messages} messages removed from {queue}"],
        notes=output.notes,
        failed=output.failed,
    )


def _require_queue(runtime: Runtime, queue: str) -> None:
    """Raise `UnknownQueueError` unless a queue carries jobs."""
    with redis_errors():
        lists = {
            str(name).rpartition("|")[0] for name in runtime.redis.smembers(redis_keys.QUEUE_LISTS)
        }
    workers = runtime.registry.workers()
    served = {worker.queue for worker in workers} | {
        routing.model_queue(worker.model) for worker in workers if worker.model
    }
    known = {name for name in lists | served if routing.is_model_queue(name)}
    if queue not in known:
        choice = ", ".join(sorted(known)) or "none, since there is neither a job nor a worker"
        raise UnknownQueueError(f"There is no queue {queue!r}. Queues with jobs: {choice}.")


def _queued_on(runtime: Runtime, queue: str | None) -> list[str]:
    """Return the ids of the queued jobs of one queue, or of all."""
    task_ids = runtime.job_store.ids(Status.QUEUED)
    if queue is None:
        return task_ids
    blocks = range(0, len(task_ids), _RECORDS_PER_READ)
    return [
        task_id
        for start in blocks
        for task_id in runtime.job_store.waiting_in(
            queue, task_ids[start : start + _RECORDS_PER_READ]
        )
    ]


def _empty_lists(runtime: Runtime, queue: str) -> int:
    """Remove a queue's messages; the reconciler resends that of a job submitted meanwhile."""
    try:
        with runtime.celery_app.connection_for_write() as connection:
            return int(connection.default_channel.queue_purge(queue))
    except (OperationalError, RedisError, OSError) as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error


@click.group("dead")
def dead() -> None:
    """Look after dead letters: jobs that crashed or were lost too often."""


@dead.command("list", cls=OutputCommand)
@click.pass_context
def list_dead(ctx: click.Context) -> CommandOutput:
    """List the dead letters, the oldest first, with their reasons."""
    store = runtime_of(ctx.obj.app).job_store
    found = store.read(store.dead())
    lines = _dead_letters_table(found.jobs).lines()
    if not lines and not found.unreadable:
        lines = ["There are no dead letters."]
    return CommandOutput(
        {
            "jobs": [job_document(job) for job in found.jobs],
            "unreadable": list(found.unreadable),
        },
        lines=lines,
        notes=found.notes(),
    )


def _dead_letters_table(jobs: list[Job]) -> Table:
    table = Table(("TASK", "ENDED", "REASON", "CRASHES", "LOSSES", "WORKER", "MESSAGE"))
    for job in jobs:
        table.rows.append(
            (
                job.task_id,
                local_time(job.finished_at) or "-",
                job.error.type if job.error else "-",
                str(job.crashes),
                str(job.losses),
                job.worker or "-",
                job.error.message if job.error else "-",
            )
        )
    return table


@dead.command("requeue", cls=OutputCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Requeue all dead letters; asks first.")
@yes_option
@click.pass_context
def requeue_dead(
    ctx: click.Context,
    task_ids: tuple[str, ...],
    every: bool,  # noqa: FBT001 - click passes by name
    yes: bool,  # noqa: FBT001 - click passes by name
) -> CommandOutput:
    """Queue dead letters again."""
    runtime = runtime_of(ctx.obj.app)
    chosen = _chosen_dead(runtime, task_ids, every=every)
    if every and chosen:
        confirm(f"Requeue all {len(chosen)} dead letters?", yes=yes)
    letters = set(runtime.job_store.dead())
    others = BulkChange("requeued", _DEAD_LETTER_RULE).apply(
        [each for each in chosen if each not in letters], lambda each: _current_state(runtime, each)
    )
    output = requeue_jobs(
        runtime, tuple(each for each in chosen if each in letters), nothing=_NO_DEAD_LETTERS
    )
    return _join_outputs(output, others) if others.output().failed else output


def _join_outputs(output: CommandOutput, others: BulkChange) -> CommandOutput:
    more = others.output()
    document = {name: [*output.document[name], *more.document[name]] for name in output.document}
    notes = [note for note in (*output.notes, *more.notes) if note != _NO_DEAD_LETTERS]
    return CommandOutput(document, lines=output.lines, notes=notes, failed=True)


@dead.command("drop", cls=OutputCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Drop all dead letters.")
@yes_option
@click.pass_context
def drop_dead(
    ctx: click.Context,
    task_ids: tuple[str, ...],
    every: bool,  # noqa: FBT001 - click passes by name
    yes: bool,  # noqa: FBT001 - click passes by name
) -> CommandOutput:
    """Remove jobs from the dead letters; they stay failed until their records expire."""
    runtime = runtime_of(ctx.obj.app)
    chosen = _chosen_dead(runtime, task_ids, every=every)
    if chosen:
        confirm(f"Drop {len(chosen)} dead letters?", yes=yes)
    changes = BulkChange("dropped", _DEAD_LETTER_RULE).apply(
        chosen, lambda each: _drop_dead_letter(runtime, each)
    )
    return changes.output(nothing=_NO_DEAD_LETTERS)


def _chosen_dead(runtime: Runtime, task_ids: tuple[str, ...], *, every: bool) -> tuple[str, ...]:
    if bool(task_ids) == every:
        raise click.UsageError("Give ids, or --all.")
    return tuple(runtime.job_store.dead()) if every else task_ids


def _drop_dead_letter(runtime: Runtime, task_id: str) -> str:
    return "dropped" if runtime.job_store.drop_dead(task_id) else _current_state(runtime, task_id)


def _current_state(runtime: Runtime, task_id: str) -> str:
    job = runtime.job_store.get(task_id)
    return job.status.value if job else MISSING_NOTE


@click.group("jobs")
def jobs() -> None:
    """Look after the jobs and the workers that run them.

    The record is the truth about a job, and its message only carries the id: use these commands
    instead of `celery purge` and `celery control revoke`.
    """


for _command in (list_jobs, show, requeue, cancel, purge, dead, stuck, drain, undrain, workers):
    jobs.add_command(_command)
