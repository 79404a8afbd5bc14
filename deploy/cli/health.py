"""`rmbg health`: is one process well? For a container's health check: status 0, or 1 with why."""

from typing import Annotated, Final

import typer
import urllib3

from deploy.local.errors import NotReadyError
from deploy.local.probes import http_ok, worker_online
from tasks.errors import QueueUnavailableError
from tasks.fleet import STARTS_SECONDS, Fleet
from tasks.runtime import Runtime
from tasks.settings import Settings

app = typer.Typer(help="Is one process well? For containers.", no_args_is_help=True)

#: A picture may bring a worker down three times before it is given up. More is not a picture.
MOST_STARTS: Final = 5
_SECONDS: Final = 3.0


@app.command()
def worker(
    name: Annotated[str, typer.Argument(help="Celery's name of it, such as gpu0@host.")],
) -> None:
    """A model worker: its parent lives, its model answers, and its process does not keep dying."""
    settings = Settings.load()
    try:
        with Runtime.from_settings(settings, redis_timeout=_SECONDS) as runtime:
            reason = trouble(runtime.registry, name)
    except QueueUnavailableError as error:
        reason = str(error)
    _answer(reason, name)


@app.command()
def io(
    name: Annotated[str, typer.Argument(help="Celery's name of it, such as io@host.")],
) -> None:
    """An I/O worker: it answers a ping."""
    try:
        worker_online(Settings.load(), name)(0)
    except NotReadyError as error:
        _answer(str(error), name)
    _answer("", name)


@app.command()
def api(
    url: Annotated[str, typer.Argument(help="Its address.")] = "http://127.0.0.1:8000",
) -> None:
    """An API: it answers at all. Whether the service can work is `/healthz/ready`'s matter."""
    try:
        http_ok(f"{url.rstrip('/')}/healthz/live")(0)
    except (NotReadyError, urllib3.exceptions.HTTPError) as error:
        _answer(str(error), url)
    _answer("", url)


def trouble(fleet: Fleet, name: str) -> str:
    """What is wrong with a model worker; empty if nothing is.

    A drained worker is well: it does what it was told.
    """
    found = next((each for each in fleet.workers() if each.name == name), None)
    if found is None or not found.alive:
        return "it does not say that it lives"
    starts = fleet.starts(name)
    if starts > MOST_STARTS:
        return f"its process was started {starts} times in {STARTS_SECONDS / 60:.0f} min"
    if not found.ready:
        return "its model does not answer (yet)"
    return ""


def _answer(reason: str, name: str) -> None:
    typer.echo(f"{name}: {reason or 'well'}", err=bool(reason))
    raise typer.Exit(bool(reason))
