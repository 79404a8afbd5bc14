"""`rmbg bucket` creates the bucket; `rmbg restore` rebuilds from it the jobs that Redis lost."""

import json
from typing import Annotated

import typer

from deploy.cli.output import exit_on_error, say
from tasks.jobs.restore import Restorer, RestoreReport
from tasks.runtime import Runtime
from tasks.settings import Settings


def bucket(
    *,
    shorten: Annotated[
        bool,
        typer.Option(
            "--shorten",
            help="Let the rules delete sooner than before; after RMBG_RETENTION_HOURS was lowered, "
            "once the pictures from before have expired.",
        ),
    ] = False,
) -> None:
    """Create the private bucket, with lifecycle rules that delete expired objects.

    May be run again. Exits with 1 if the object store does not answer.
    """
    settings = Settings.load()
    with exit_on_error(hint=f"({settings.s3_endpoint}) The remedy: rmbg doctor"):
        Runtime(settings).object_store.ensure_bucket(shorten=shorten)
    typer.echo(f"The bucket {settings.s3_bucket} is ready.")


def restore(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; needs --yes to restore.")
    ] = False,
) -> None:
    """Rebuild job records that Redis lost from the originals in the bucket, and queue the jobs.

    May be run again at any time: jobs that have a record are left alone.
    """
    runtime = Runtime(Settings.load())
    restorer = Restorer(
        job_store=runtime.job_store,
        object_store=runtime.object_store,
        dispatcher=runtime.dispatcher,
        router=runtime.router,
    )
    with exit_on_error(as_json=as_json, hint="Jobs restored so far stay restored; run this again."):
        report = restorer.find()
        owners = sorted({job.owner for job in report.lost})
        without_key = [owner for owner in owners if runtime.api_keys.get(owner) is None]
        if without_key and not as_json:
            say(
                f"These owners have no API key in Redis: {', '.join(without_key)}. Nobody can "
                "fetch their jobs, and the service sends none of their webhooks. If you have an "
                "export of the keys, import it first: rmbg keys import FILE"
            )
        confirmed = bool(report.lost) and (yes or (not as_json and _confirm(report)))
        restored = [job.task_id for job in report.lost if confirmed and restorer.restore(job)]
    if as_json:
        document = {
            "lost": [job.task_id for job in report.lost],
            "restored": restored,
            "recorded": report.recorded,
            "expired": report.expired,
            "unreadable": report.unreadable,
            "owners_without_key": without_key,
        }
        typer.echo(json.dumps(document))
    else:
        _print_report(report, restored)
    if report.lost and not confirmed:
        say("Nothing was restored. Answer y, or use --yes, to restore the lost jobs.")
        raise typer.Exit(1)


def _confirm(report: RestoreReport) -> bool:
    for job in report.lost:
        typer.echo(f"lost  {job.task_id}  {job.model}  {job.file_stem}")
    try:
        return typer.confirm(f"Queue these {len(report.lost)} jobs again?", err=True)
    except typer.Abort:
        typer.echo(err=True)
        return False


def _print_report(report: RestoreReport, restored: list[str]) -> None:
    for task_id in restored:
        typer.echo(f"restored  {task_id}")
    say(
        f"{len(restored)} of {len(report.lost)} lost jobs restored; {report.recorded} originals "
        f"have their records, {report.expired} have expired."
    )
    if report.unreadable:
        say(
            f"{len(report.unreadable)} originals have no readable manifest, and were left alone: "
            f"{', '.join(report.unreadable[:5])} …"
        )
