"""`rmbg doctor` checks the whole installation; `rmbg health` checks one process, for containers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Annotated, Final

import typer
import urllib3
from rich.console import Console
from rich.text import Text

from deploy.doctor import CheckResult, Level, run_checks
from deploy.local.probes import http_ok, worker_online
from deploy.local.service import NotReadyError
from tasks.errors import QueueUnavailableError
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker_registry import STARTS_SECONDS, WorkerRegistry

_COLORS: Final[Mapping[Level, str]] = MappingProxyType(
    {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
)

_WIDTH: Final = 14


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in one JSON document.")] = False,
) -> None:
    """Check settings, Redis, the store, the model, the workers and the queues.

    Exits with 1 if something fails; a warning is no failure.
    """
    console = Console(soft_wrap=True)
    findings = []
    for finding in run_checks():
        findings.append(finding)
        if not as_json:
            _print(finding, console)
    if as_json:
        typer.echo(json.dumps(_document(findings)))
    if _worst(findings) is Level.FAIL:
        raise typer.Exit(1)


def _print(finding: CheckResult, console: Console) -> None:
    line = Text.assemble(
        (f"{finding.level.value:5}", _COLORS[finding.level]),
        f"{finding.subject:{_WIDTH}}  {finding.text}",
    )
    console.print(line)
    if finding.advice:
        console.print(Text(f"{'':5}{'':{_WIDTH}}  → {finding.advice}"))


def _document(findings: list[CheckResult]) -> dict[str, object]:
    return {
        "level": _worst(findings).value,
        "findings": [asdict(finding) for finding in findings],
    }


def _worst(findings: list[CheckResult]) -> Level:
    levels = list(Level)
    return max((finding.level for finding in findings), key=levels.index)


app = typer.Typer(help="Is one process well? For containers.", no_args_is_help=True)

#: A picture may bring a worker down three times before it is given up. More is not a picture.
MAX_STARTS: Final = 5

_SECONDS: Final = 3.0


@app.command()
def worker(
    name: Annotated[str, typer.Argument(help="Celery's name of it, such as gpu0@host.")],
) -> None:
    """A model worker: its parent lives, its model answers, and its process does not keep dying."""
    settings = Settings.load()
    try:
        with Runtime.from_settings(settings, redis_timeout=_SECONDS) as runtime:
            reason = unhealthy_reason(runtime.registry, name)
    except QueueUnavailableError as error:
        reason = str(error)
    _exit_with(reason, name)


@app.command()
def io(
    name: Annotated[str, typer.Argument(help="Celery's name of it, such as io@host.")],
) -> None:
    """An I/O worker: it answers a ping."""
    try:
        worker_online(Settings.load(), name)(0)
    except NotReadyError as error:
        _exit_with(str(error), name)
    _exit_with("", name)


@app.command()
def api(
    url: Annotated[str, typer.Argument(help="Its address.")] = "http://127.0.0.1:8000",
) -> None:
    """An API: it answers at all. Whether the service can work is `/healthz/ready`'s matter."""
    try:
        http_ok(f"{url.rstrip('/')}/healthz/live")(0)
    except (NotReadyError, urllib3.exceptions.HTTPError) as error:
        _exit_with(str(error), url)
    _exit_with("", url)


def unhealthy_reason(fleet: WorkerRegistry, name: str) -> str:
    """What is wrong with a model worker; empty if nothing is.

    A drained worker is well: it does what it was told.
    """
    found = next((each for each in fleet.workers() if each.name == name), None)
    if found is None or not found.alive:
        return "it does not say that it lives"
    starts = fleet.starts(name)
    if starts > MAX_STARTS:
        return f"its process was started {starts} times in {STARTS_SECONDS / 60:.0f} min"
    if not found.ready:
        return "its model does not answer (yet)"
    return ""


def _exit_with(reason: str, name: str) -> None:
    typer.echo(f"{name}: {reason or 'well'}", err=bool(reason))
    raise typer.Exit(bool(reason))
