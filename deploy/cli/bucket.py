"""`rmbg bucket` creates the bucket; `rmbg restore` rebuilds from it the jobs that Redis lost."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from tasks.errors import ObjectStoreUnavailableError, TaskError
from tasks.jobs.model import Job
from tasks.jobs.restore import Restorer, RestoreReport
from tasks.runtime import Runtime
from tasks.settings import Settings


def bucket() -> None:
    """Make the bucket, private, with rules by which the store itself drops what is too old.

    May be run again. Exits with 1 if the store does not answer.
    """
    settings = Settings.load()
    try:
        Runtime.from_settings(settings).object_store.ensure_bucket()
    except ObjectStoreUnavailableError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"The bucket {settings.s3_bucket} is there.")


def restore(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer in one JSON document; needs --yes to restore.")
    ] = False,
) -> None:
    """Make the records that Redis lost anew, from the originals in the bucket, and queue them.

    May be run again at any time: a job with a record is left alone.
    """
    console = Console(stderr=True, soft_wrap=True)
    restorer = _restorer(Runtime.from_settings(Settings.load()))
    try:
        findings = restorer.find()
        agreed = bool(findings.lost) and (yes or (not as_json and _ask(findings)))
        restored = [job.task_id for job in findings.lost if agreed and restorer.restore(job)]
    except TaskError as error:
        _report_failure(error, console, as_json=as_json)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(_document(findings, restored)))
    else:
        _report(findings, restored, console)
    if findings.lost and not agreed:
        console.print("Nothing was restored. Answer y, or give --yes, to go on.")
        raise typer.Exit(1)


def _restorer(runtime: Runtime) -> Restorer:
    return Restorer(
        store=runtime.job_store,
        objects=runtime.object_store,
        dispatcher=runtime.dispatcher,
        router=runtime.router,
    )


def _ask(findings: RestoreReport) -> bool:
    for job in findings.lost:
        typer.echo(_line("lost", job))
    try:
        return typer.confirm(f"Queue these {len(findings.lost)} jobs again?", err=True)
    except typer.Abort:
        typer.echo(err=True)
        return False


def _line(word: str, job: Job) -> str:
    return f"{word}  {job.task_id}  {job.model}  {job.file_stem}"


def _document(findings: RestoreReport, restored: list[str]) -> dict[str, Any]:
    return {
        "lost": [job.task_id for job in findings.lost],
        "restored": restored,
        "recorded": findings.recorded,
        "expired": findings.expired,
        "unreadable": findings.unreadable,
    }


def _report(findings: RestoreReport, restored: list[str], console: Console) -> None:
    for task_id in restored:
        typer.echo(f"restored  {task_id}")
    console.print(
        f"{len(restored)} of {len(findings.lost)} lost jobs restored; {findings.recorded} "
        f"originals have their records, {findings.expired} have expired."
    )
    if findings.unreadable:
        console.print(
            f"{len(findings.unreadable)} originals do not say whose they are, and were left "
            f"alone: {', '.join(findings.unreadable[:5])} …",
            markup=False,
        )


def _report_failure(error: TaskError, console: Console, *, as_json: bool) -> None:
    message = f"{error} What was restored so far stays: run this again."
    if as_json:
        typer.echo(json.dumps({"error": {"type": error.code, "message": message}}))
    else:
        console.print(message, markup=False)
