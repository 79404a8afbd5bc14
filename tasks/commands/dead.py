"""`jobs dead`: jobs that were given up after too many crashes or losses."""

import click

from tasks.commands.answer import Answer, AnsweringCommand, Table, confirm, instant, yes_option
from tasks.commands.changes import MISSING, Changes
from tasks.commands.changing import requeue_jobs
from tasks.commands.listing import job_document
from tasks.jobs import Job
from tasks.runtime import Runtime, runtime_of

_NOTHING = "There are no dead letters: nothing to do."
_RULE = "It is no dead letter; see them with: celery -A tasks.app jobs dead list"


@click.group("dead")
def dead() -> None:
    """The dead letters: jobs that brought their workers down, or were lost, once too often."""


@dead.command("list", cls=AnsweringCommand)
@click.pass_context
def list_dead(ctx: click.Context) -> Answer:
    """List the dead letters, the oldest first, with their reasons."""
    store = runtime_of(ctx.obj.app).job_store
    found = store.read(store.dead())
    lines = _table(found.jobs).lines()
    if not lines and not found.unreadable:
        lines = ["There are no dead letters."]
    return Answer(
        {
            "jobs": [job_document(job) for job in found.jobs],
            "unreadable": list(found.unreadable),
        },
        lines=lines,
        notes=found.notes(),
    )


def _table(jobs: list[Job]) -> Table:
    table = Table(("TASK", "ENDED", "REASON", "CRASHES", "LOSSES", "WORKER", "MESSAGE"))
    for job in jobs:
        table.rows.append(
            (
                job.task_id,
                instant(job.finished_at) or "-",
                job.error.type if job.error else "-",
                str(job.crashes),
                str(job.losses),
                job.worker or "-",
                job.error.message if job.error else "-",
            )
        )
    return table


@dead.command("requeue", cls=AnsweringCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them; asks first.")
@yes_option
@click.pass_context
def requeue_dead(ctx: click.Context, task_ids: tuple[str, ...], every: bool, yes: bool) -> Answer:  # noqa: FBT001 - click passes by name
    """Begin dead letters anew."""
    runtime = runtime_of(ctx.obj.app)
    chosen = _choose(runtime, task_ids, every=every)
    if every and chosen:
        confirm(f"Requeue all {len(chosen)} dead letters?", yes=yes)
    letters = set(runtime.job_store.dead())
    others = Changes("requeued", _RULE).apply(
        [each for each in chosen if each not in letters], lambda each: _state(runtime, each)
    )
    answer = requeue_jobs(
        runtime, tuple(each for each in chosen if each in letters), nothing=_NOTHING
    )
    return _joined(answer, others) if others.answer().failed else answer


def _joined(answer: Answer, others: Changes) -> Answer:
    more = others.answer()
    document = {name: [*answer.document[name], *more.document[name]] for name in answer.document}
    notes = [note for note in (*answer.notes, *more.notes) if note != _NOTHING]
    return Answer(document, lines=answer.lines, notes=notes, failed=True)


@dead.command("drop", cls=AnsweringCommand)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@yes_option
@click.pass_context
def drop_dead(ctx: click.Context, task_ids: tuple[str, ...], every: bool, yes: bool) -> Answer:  # noqa: FBT001 - click passes by name
    """Take jobs off the dead letters; they stay failed, until their records expire."""
    runtime = runtime_of(ctx.obj.app)
    chosen = _choose(runtime, task_ids, every=every)
    if chosen:
        confirm(f"Drop {len(chosen)} dead letters?", yes=yes)
    changes = Changes("dropped", _RULE).apply(chosen, lambda each: _drop(runtime, each))
    return changes.answer(nothing=_NOTHING)


def _choose(runtime: Runtime, task_ids: tuple[str, ...], *, every: bool) -> tuple[str, ...]:
    if bool(task_ids) == every:
        raise click.UsageError("Give ids, or --all.")
    return tuple(runtime.job_store.dead()) if every else task_ids


def _drop(runtime: Runtime, task_id: str) -> str:
    return "dropped" if runtime.job_store.drop_dead(task_id) else _state(runtime, task_id)


def _state(runtime: Runtime, task_id: str) -> str:
    job = runtime.job_store.get(task_id)
    return job.status.value if job else MISSING
