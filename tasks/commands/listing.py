"""`jobs list` and `jobs show`."""

import time
from dataclasses import asdict
from typing import Any

import click

from tasks.commands.answer import Answer, AnsweringCommand, Table, instant, span
from tasks.commands.errors import UnknownJobError
from tasks.jobs import Job, Status
from tasks.runtime import runtime_of

_TIMES = ("created_at", "started_at", "finished_at", "expires_at", "deadline")


def job_document(job: Job) -> dict[str, Any]:
    """A record for programs: times in ISO 8601, the priority by its name."""
    values = {name: value for name, value in asdict(job).items() if value is not None}
    times = {name: instant(values[name]) for name in _TIMES if name in values}
    return {**values, **times, "priority": job.priority.name.lower()}


@click.command("list", cls=AnsweringCommand)
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    multiple=True,
    help="Only jobs of this status; may be given several times.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.pass_context
def list_jobs(ctx: click.Context, status: tuple[str, ...], limit: int) -> Answer:
    """List jobs, the newest first, and how many there are of each status."""
    runtime = runtime_of(ctx.obj.app)
    found = runtime.job_store.read_newest(map(Status, status or Status), limit)
    jobs = found.jobs
    counts = runtime.job_store.counts()
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    return Answer(
        {
            "jobs": [job_document(job) for job in jobs],
            "counts": {status.value: count for status, count in counts.items()},
            "unreadable": list(found.unreadable),
        },
        lines=[*_table(jobs, time.time()).lines(), f"{len(jobs)} shown; {summary}"],
        notes=found.notes(),
    )


def _table(jobs: list[Job], now: float) -> Table:
    table = Table(("TASK", "STATUS", "AGE", "PRIORITY", "QUEUE", "WORKER", "ATTEMPTS", "ERROR"))
    for job in jobs:
        table.rows.append(
            (
                job.task_id,
                job.status.value,
                span(now - job.created_at),
                job.priority.name.lower(),
                job.queue,
                job.worker or "-",
                str(job.attempts),
                job.error.type if job.error else "-",
            )
        )
    return table


@click.command("show", cls=AnsweringCommand)
@click.argument("task_id", metavar="ID")
@click.pass_context
def show(ctx: click.Context, task_id: str) -> Answer:
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
        "jobs_ahead": store.position(task_id),
    }
    width = max(map(len, document))
    return Answer(document, lines=[f"{name:{width}}  {value}" for name, value in document.items()])
