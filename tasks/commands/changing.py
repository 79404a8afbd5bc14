"""`jobs requeue`, `jobs cancel` and `jobs purge`."""

import time

import click
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tasks import keys, names
from tasks.commands.answer import Answer, AnsweringCommand, confirm, yes_option
from tasks.commands.changes import MISSING, Changes
from tasks.commands.errors import UnknownQueueError
from tasks.commands.operations import send_requeued
from tasks.connection import redis_errors
from tasks.errors import QueueUnavailableError
from tasks.jobs import Status
from tasks.runtime import Runtime, runtime_of

_REQUEUE_RULE = "Only failed and canceled jobs can be requeued, until their pictures expire."
_CANCEL_RULE = "Only queued and processing jobs can be canceled."
_RECORDS_AT_ONCE = 500


@click.command("requeue", cls=AnsweringCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--failed", is_flag=True, help="All failed jobs; asks first.")
@yes_option
@click.pass_context
def requeue(ctx: click.Context, task_ids: tuple[str, ...], failed: bool, yes: bool) -> Answer:  # noqa: FBT001 - click passes by name
    """Begin failed or canceled jobs anew, with their attempts counted from zero."""
    if bool(task_ids) == failed:
        raise click.UsageError("Give ids, or --failed for all failed jobs.")
    runtime = runtime_of(ctx.obj.app)
    if failed:
        task_ids = tuple(runtime.job_store.ids(Status.FAILED))
        if task_ids:
            confirm(f"Requeue all {len(task_ids)} failed jobs?", yes=yes)
    return requeue_jobs(runtime, task_ids, nothing="No job has failed: nothing to do.")


def requeue_jobs(runtime: Runtime, task_ids: tuple[str, ...], *, nothing: str) -> Answer:
    """Requeue and send each."""
    changes = Changes("requeued", _REQUEUE_RULE)
    return changes.apply(task_ids, lambda each: _requeue(runtime, each)).answer(nothing=nothing)


def _requeue(runtime: Runtime, task_id: str) -> str:
    job = runtime.job_store.get(task_id)
    if job is None:
        runtime.job_store.forget(task_id)
        return MISSING
    if job.expires_at <= time.time():
        return "expired"
    outcome = runtime.job_store.requeue(task_id)
    if outcome == "requeued":
        send_requeued(runtime, job)
    return outcome


@click.command("cancel", cls=AnsweringCommand)
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@yes_option
@click.pass_context
def cancel(ctx: click.Context, task_ids: tuple[str, ...], yes: bool) -> Answer:  # noqa: FBT001 - click passes by name
    """End jobs for good, also one that a worker is busy with: its result is discarded."""
    store = runtime_of(ctx.obj.app).job_store
    confirm(f"Cancel {', '.join(task_ids)}?", yes=yes)
    # One that is canceled already is refused: nothing was done about it.
    ended = {job.task_id for job in store.read(task_ids).jobs if job.status.final}
    changes = Changes("canceled", _CANCEL_RULE)
    return changes.apply(
        task_ids,
        lambda each: _state(store.cancel(each), was_final=each in ended),
    ).answer()


def _state(outcome: str, *, was_final: bool) -> str:
    return f"{outcome} already" if was_final else outcome


@click.command("purge", cls=AnsweringCommand)
@click.option("--queue", help="Jobs that wait in this queue, and its messages.")
@click.option(
    "--status", type=click.Choice([Status.QUEUED.value]), help="Every job that waits, anywhere."
)
@yes_option
@click.pass_context
def purge(ctx: click.Context, queue: str | None, status: str | None, yes: bool) -> Answer:  # noqa: FBT001 - click passes by name
    """Cancel waiting jobs. Their records say so: stock `celery purge` is undone, this is not."""
    if (queue is None) == (status is None):
        raise click.UsageError("Give either --queue QUEUE or --status queued.")
    runtime = runtime_of(ctx.obj.app)
    if queue is not None:
        _require_queue(runtime, queue)
    task_ids = _waiting(runtime, queue)
    where = f"in the queue {queue}" if queue else "in all queues"
    confirm(f"Cancel {len(task_ids)} jobs that wait {where}?", yes=yes)
    changes = Changes("canceled", "It was begun meanwhile: cancel it by its id if it is to end.")
    changes.apply(task_ids, lambda each: runtime.job_store.cancel(each, only=Status.QUEUED))
    messages = _empty(runtime, queue) if queue else 0
    answer = changes.answer(nothing=f"No job waits {where}: nothing to do.", messages=messages)
    if not queue:
        return answer
    return Answer(
        answer.document,
        lines=[*answer.lines, f"{messages} messages removed from {queue}"],
        notes=answer.notes,
        failed=answer.failed,
    )


def _require_queue(runtime: Runtime, queue: str) -> None:
    """Only queues that carry jobs: the others' messages are nobody's to drop here."""
    with redis_errors():
        lists = {str(name).rpartition("|")[0] for name in runtime.redis.smembers(keys.LISTS)}
    workers = runtime.registry.workers()
    served = {worker.queue for worker in workers} | {
        names.model_queue(worker.model) for worker in workers if worker.model
    }
    known = {name for name in lists | served if names.is_model_queue(name)}
    if queue not in known:
        choice = ", ".join(sorted(known)) or "none, since there is neither a job nor a worker"
        raise UnknownQueueError(f"There is no queue {queue!r}. Queues with jobs: {choice}.")


def _waiting(runtime: Runtime, queue: str | None) -> list[str]:
    """The ids of queued jobs, of one queue or of all."""
    task_ids = runtime.job_store.ids(Status.QUEUED)
    if queue is None:
        return task_ids
    blocks = range(0, len(task_ids), _RECORDS_AT_ONCE)
    return [
        task_id
        for start in blocks
        for task_id in runtime.job_store.waiting_in(
            queue, task_ids[start : start + _RECORDS_AT_ONCE]
        )
    ]


def _empty(runtime: Runtime, queue: str) -> int:
    """Remove a queue's messages of every priority; a job submitted meanwhile is sent again."""
    try:
        with runtime.celery_app.connection_for_write() as connection:
            return int(connection.default_channel.queue_purge(queue))
    except (OperationalError, RedisError, OSError) as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error
