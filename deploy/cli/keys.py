"""`rmbg keys`: add, list and revoke API keys, and rotate their webhook secrets."""

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.output import exit_on_error, say
from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks.api_keys import OLD_SECRET_SECONDS, ApiKeys, Owner
from tasks.runtime import Runtime
from tasks.settings import Settings

app = typer.Typer(help="API keys: add, list, revoke.", no_args_is_help=True)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(s|sec|second|min|minute|h|hour)\Z")
#: By the first letter of the unit.
_PER_MINUTE: Final = {"s": 60.0, "m": 1.0, "h": 1 / 60}

Name = Annotated[str, typer.Argument(help="The key's name; see `rmbg keys list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def add(
    name: Annotated[
        str, typer.Argument(help="The key's name: letters, digits, dots, dashes, underscores.")
    ],
    *,
    rate: Annotated[
        str | None, typer.Option(help="Pictures it may submit, such as 60/min; default: no limit.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Models it may use, separated by commas; default: all.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(help="Webhook URL of its tasks, unless a task names another.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a key and show it once; Redis keeps only its SHA-256."""
    if not _NAME.match(name):
        raise typer.BadParameter(
            "a name has up to 64 letters, digits, dots, dashes and underscores, "
            "and begins with a letter or a digit"
        )
    if webhook_url is not None and not webhook_url.startswith(("http://", "https://")):
        raise typer.BadParameter("--webhook-url has to begin with https:// or http://")
    per_minute = None if rate is None else _parse_rate(rate)
    allowed = None if models is None else _parse_models(models)
    with exit_on_error(as_json=as_json):
        owner, key = _api_keys().add(
            name, rate_per_minute=per_minute, models=allowed, webhook_url=webhook_url
        )
    if as_json:
        secrets = {"key": key, "webhook_secret": owner.webhook_secret}
        typer.echo(json.dumps({**_document(owner), **secrets}))
        return
    say("Store both now: the key cannot be shown again.")
    typer.echo(f"key             {key}")
    typer.echo(f"webhook secret  {owner.webhook_secret}")


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """List the valid keys and their limits."""
    with exit_on_error(as_json=as_json):
        owners = _api_keys().list()
    if as_json:
        typer.echo(json.dumps({"keys": [_document(owner) for owner in owners]}))
        return
    table = Table("name", "id", "rate", "models", "webhook", "since")
    for owner in owners:
        rate = "any" if owner.rate_per_minute is None else f"{owner.rate_per_minute:g}/min"
        models = "all" if owner.models is None else ", ".join(owner.models)
        since = f"{datetime.fromtimestamp(owner.created_at, UTC):%Y-%m-%d}"
        table.add_row(owner.name, owner.id, rate, models, owner.webhook_url or "-", since)
    Console().print(table)
    if not owners:
        say("There are no keys. Add one: rmbg keys add NAME")


@app.command()
def revoke(name: Name, *, as_json: AsJson = False) -> None:
    """Refuse all further requests with a key; jobs that it submitted still run."""
    with exit_on_error(as_json=as_json):
        owner = _api_keys().revoke(name)
    if as_json:
        typer.echo(json.dumps(_document(owner)))
    else:
        say(f"{name} is revoked.")


@app.command("rotate-secret")
def rotate_secret(name: Name, *, as_json: AsJson = False) -> None:
    """Give a key a new webhook secret; for one day webhooks are signed with the old one too."""
    with exit_on_error(as_json=as_json):
        owner = _api_keys().rotate_secret(name)
    if as_json:
        typer.echo(json.dumps({**_document(owner), "webhook_secret": owner.webhook_secret}))
        return
    hours = OLD_SECRET_SECONDS // 3600
    say(f"Webhooks are signed with both secrets for {hours} hours, then with the new one only.")
    typer.echo(f"webhook secret  {owner.webhook_secret}")


def _api_keys() -> ApiKeys:
    return Runtime(Settings.load()).api_keys


def _parse_rate(text: str) -> float:
    """Return the pictures a minute."""
    found = _RATE.match(text.strip())
    if not found or float(found[1]) <= 0:
        raise typer.BadParameter("give a number and a unit of time, such as 60/min or 2/s")
    return float(found[1]) * _PER_MINUTE[found[2][0]]


def _parse_models(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        try:
            get_spec(name)
        except ModelError as error:
            raise typer.BadParameter(str(error)) from error
    return names


def _document(owner: Owner) -> dict[str, Any]:
    """Return an owner without the key's hash and the webhook secrets."""
    created_at = datetime.fromtimestamp(owner.created_at, UTC)
    return {
        "id": owner.id,
        "name": owner.name,
        "rate_per_minute": owner.rate_per_minute,
        "models": owner.models,
        "webhook_url": owner.webhook_url,
        "created_at": created_at.isoformat(timespec="seconds"),
        "revoked": owner.revoked,
    }
