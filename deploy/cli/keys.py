"""`rmbg keys`: who may use the service, how much, and who no longer."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks.accounts.api_keys import OLD_SECRET_SECONDS, ApiKeys, Owner
from tasks.errors import TaskError
from tasks.runtime import Runtime
from tasks.settings import Settings

app = typer.Typer(help="API keys: add, list, revoke.", no_args_is_help=True)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(s|sec|second|min|minute|h|hour)\Z")
_PER_MINUTE: Final = {"s": 60.0, "m": 1.0, "h": 1 / 60}

Name = Annotated[str, typer.Argument(help="The key's name; see `rmbg keys list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in one JSON document.")]


def _rate(text: str) -> float:
    found = _RATE.match(text.strip())
    if not found or float(found[1]) <= 0:
        raise typer.BadParameter("write a number and a time, such as 60/min or 2/s")
    return float(found[1]) * _PER_MINUTE[found[2][0]]


def _model_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        try:
            get_spec(name)
        except ModelError as error:
            raise typer.BadParameter(str(error)) from error
    return names


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, dots and dashes: who it is for.")],
    *,
    rate: Annotated[
        str | None, typer.Option(help="Pictures it may submit, such as 60/min; else any number.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Models it may use, separated by commas; else all.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(help="Where its tasks report to, unless a task says otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once; Redis keeps its SHA-256 alone."""
    if not _NAME.match(name):
        raise typer.BadParameter("a name has up to 64 letters, digits, dots and dashes")
    if webhook_url is not None and not webhook_url.startswith(("http://", "https://")):
        raise typer.BadParameter("--webhook-url should begin with https://")
    per_minute = None if rate is None else _rate(rate)
    allowed = None if models is None else _model_names(models)
    with _reported(as_json=as_json):
        owner, key = _keys().add(
            name, rate_per_minute=per_minute, models=allowed, webhook_url=webhook_url
        )
    if as_json:
        secret = {"key": key, "webhook_secret": owner.webhook_secret}
        typer.echo(json.dumps({**_document(owner), **secret}))
        return
    _say("Keep both now: the key cannot be shown again.")
    typer.echo(f"key             {key}")
    typer.echo(f"webhook secret  {owner.webhook_secret}")


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """Show whose keys are good, and what they allow."""
    with _reported(as_json=as_json):
        owners = _keys().list()
    if as_json:
        typer.echo(json.dumps({"keys": [_document(owner) for owner in owners]}))
        return
    table = Table("name", "id", "rate", "models", "webhook", "since")
    for owner in owners:
        table.add_row(*_row(owner))
    Console().print(table)
    if not owners:
        _say("There are no keys. `rmbg keys add NAME` makes one.")


@app.command()
def revoke(name: Name, *, as_json: AsJson = False) -> None:
    """Take no more requests with a key, from now on; what it began goes on to its end."""
    with _reported(as_json=as_json):
        owner = _keys().revoke(name)
    if as_json:
        typer.echo(json.dumps(_document(owner)))
    else:
        _say(f"{name} is revoked.")


@app.command("rotate-secret")
def rotate_secret(name: Name, *, as_json: AsJson = False) -> None:
    """Sign a key's webhooks with a new secret, and for a day with the old one beside it."""
    with _reported(as_json=as_json):
        owner = _keys().rotate_secret(name)
    if as_json:
        typer.echo(json.dumps({**_document(owner), "webhook_secret": owner.webhook_secret}))
        return
    _say(f"Both secrets sign for {OLD_SECRET_SECONDS // 3600} hours; then the new one alone.")
    typer.echo(f"webhook secret  {owner.webhook_secret}")


def _keys() -> ApiKeys:
    return Runtime.from_settings(Settings.load()).api_keys


def _say(sentence: str) -> None:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _reported(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except TaskError as error:
        if as_json:
            typer.echo(json.dumps({"error": {"type": error.code, "message": str(error)}}))
        else:
            _say(str(error))
        raise typer.Exit(1) from error


def _document(owner: Owner) -> dict[str, Any]:
    """What may be shown of an owner: neither its key nor its secrets."""
    return {
        "id": owner.id,
        "name": owner.name,
        "rate_per_minute": owner.rate_per_minute,
        "models": None if owner.models is None else list(owner.models),
        "webhook_url": owner.webhook_url,
        "created_at": datetime.fromtimestamp(owner.created_at, UTC).isoformat(timespec="seconds"),
        "revoked": owner.revoked,
    }


def _row(owner: Owner) -> tuple[str, ...]:
    rate = "any" if owner.rate_per_minute is None else f"{owner.rate_per_minute:g}/min"
    since = datetime.fromtimestamp(owner.created_at, UTC).strftime("%Y-%m-%d")
    models = "all" if owner.models is None else ", ".join(owner.models)
    return owner.name, owner.id, rate, models, owner.webhook_url or "-", since
