"""`rmbg doctor` checks the whole installation; `rmbg health` checks one process, for containers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from deploy.doctor import CheckResult, Level, run_checks
from deploy.local.probes import http_ok, worker_online
from deploy.local.service import NotReadyError, Probe
from tasks.errors import QueueUnavailableError
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker_registry import STARTS_SECONDS, WorkerRegistry

app = typer.Typer(help="Check one process, for a container's health check.", no_args_is_help=True)

#: A job that crashes its worker restarts the model's process up to three times before it is given
#: up. More starts than this are not a job's fault.
MAX_STARTS: Final = 5

_REDIS_SECONDS: Final = 3.0
_COLORS: Final[Mapping[Level, str]] = MappingProxyType(
    {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
)
_LEVEL_WIDTH: Final = 5
_SUBJECT_WIDTH: Final = 14


def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check settings, Redis, object store, model, workers and queues, and say what to do.

    Exits with 1 if a check fails; a warning is no failure.
    """
    console = Console(soft_wrap=True)
    results = []
    for result in run_checks():
        results.append(result)
        if not as_json:
            _print(result, console)
    levels = list(Level)
    worst = max((result.level for result in results), key=levels.index)
    if as_json:
        findings = [asdict(result) for result in results]
        typer.echo(json.dumps({"level": worst.value, "findings": findings}))
    if worst is Level.FAIL:
        raise typer.Exit(1)


def _print(result: CheckResult, console: Console) -> None:
    line = Text.assemble(
        (f"{result.level.value:{_LEVEL_WIDTH}}", _COLORS[result.level]),
        f"{result.subject:{_SUBJECT_WIDTH}}  {result.text}",
    )
    console.print(line)
    if result.advice:
        console.print(Text(f"{'':{_LEVEL_WIDTH + _SUBJECT_WIDTH}}  → {result.advice}"))


@app.command()
def worker(
    name: Annotated[str, typer.Argument(help="The worker's Celery name, such as gpu0@host.")],
) -> None:
    """Check a model worker: its heartbeat, its model, and that its process stays up."""
    settings = Settings.load()
    try:
        with Runtime(settings, redis_timeout=_REDIS_SECONDS) as runtime:
            reason = unhealthy_reason(runtime.registry, name)
    except QueueUnavailableError as error:
        reason = str(error)
    _exit(name, reason)


@app.command()
def io(
    name: Annotated[str, typer.Argument(help="The worker's Celery name, such as io@host.")],
) -> None:
    """Check an I/O worker: it answers a ping."""
    _probe(name, worker_online(Settings.load(), name))


@app.command()
def api(
    url: Annotated[str, typer.Argument(help="The API's address.")] = "http://127.0.0.1:8000",
) -> None:
    """Check that an API answers; `/healthz/ready` checks Redis and the object store, too."""
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter("an address begins with http:// or https://")
    _probe(url, http_ok(f"{url.rstrip('/')}/healthz/live"))


def unhealthy_reason(registry: WorkerRegistry, name: str) -> str:
    """Return what is wrong with a model worker; empty if nothing is.

    A drained worker is healthy.
    """
    worker = next((each for each in registry.workers() if each.name == name), None)
    if worker is None or not worker.alive:
        return "no heartbeat"
    starts = registry.count_starts(name)
    if starts > MAX_STARTS:
        return f"its process was started {starts} times in {STARTS_SECONDS / 60:.0f} min"
    if not worker.ready:
        return "its model does not answer"
    return ""


def _probe(name: str, probe: Probe) -> NoReturn:
    try:
        probe(0)
    except NotReadyError as error:
        _exit(name, str(error))
    _exit(name)


def _exit(name: str, reason: str = "") -> NoReturn:
    typer.echo(f"{name}: {reason or 'healthy'}", err=bool(reason))
    raise typer.Exit(bool(reason))
