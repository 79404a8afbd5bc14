"""`rmbg keys`: API keys, their quotas and webhook secrets, and a copy of all of them."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TextIO

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.output import exit_on_error, say
from inference.errors import ModelError
from inference.models.registry import get_spec
from tasks.api_keys import ANONYMOUS, OLD_SECRET_SECONDS, ApiKeys, Owner
from tasks.errors import KeyNameError, KeysFileError
from tasks.quotas import Usage
from tasks.runtime import Runtime
from tasks.settings import Settings

app = typer.Typer(help="API keys: add, list, revoke, export, import.", no_args_is_help=True)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(s|sec|second|min|minute|h|hour)\Z")
_BYTES: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]?)i?B?\Z", re.IGNORECASE)
_COUNT: Final = re.compile(r"\d{1,15}\Z")
#: The largest number that the headers which state limits can hold.
_MOST: Final = 10**15 - 1
#: By the first letter of the unit, as a power of 1024.
_POWERS: Final = "kmgt"
#: In place of a quota: the one that the settings give to each owner.
_DEFAULT: Final = "default"
#: By the first letter of the unit.
_PER_MINUTE: Final = {"s": 60.0, "m": 1.0, "h": 1 / 60}

Name = Annotated[str, typer.Argument(help="The key's name; see `rmbg keys list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
MaxBytes = Annotated[
    str | None, typer.Option(help="Most that it may have stored, such as 500MB or 20GB of 2^30.")
]
MaxUploads = Annotated[str | None, typer.Option(help="Most unfinished uploads.")]
MaxPending = Annotated[str | None, typer.Option(help="Most jobs queued or running.")]


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
    max_bytes: MaxBytes = None,
    max_uploads: MaxUploads = None,
    max_pending: MaxPending = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="Let it look after the service, at /ops.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add a key and show it once; Redis keeps only its SHA-256.

    A quota of 0 is no limit; without one, the service's own holds.
    """
    if not _NAME.match(name):
        raise typer.BadParameter(
            "a name has up to 64 letters, digits, dots, dashes and underscores, "
            "and begins with a letter or a digit"
        )
    if webhook_url is not None and not webhook_url.startswith(("http://", "https://")):
        raise typer.BadParameter("--webhook-url has to begin with https:// or http://")
    per_minute = None if rate is None else _parse_rate(rate)
    allowed = None if models is None else _parse_models(models)
    quotas = _parse_quotas(max_bytes, max_uploads, max_pending)
    with exit_on_error(as_json=as_json):
        owner, key = _api_keys().add(
            name,
            rate_per_minute=per_minute,
            models=allowed,
            webhook_url=webhook_url,
            operator=operator,
            **quotas,
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
    """List the valid keys with their limits, and what each has of its quotas."""
    with exit_on_error(as_json=as_json):
        runtime = Runtime(Settings.load())
        owners = [(owner, runtime.quotas.usage(owner)) for owner in runtime.api_keys.list()]
        anonymous = runtime.quotas.usage(ANONYMOUS)
    if as_json:
        documents = [{**_document(owner), "usage": _usage(usage)} for owner, usage in owners]
        typer.echo(json.dumps({"keys": documents, "anonymous": {"usage": _usage(anonymous)}}))
        return
    if not owners:
        say("There are no keys. Add one: rmbg keys add NAME")
    if anonymous.bytes or anonymous.kept_uploads or anonymous.pending:
        # Of requests without a key.
        owners.append((ANONYMOUS, anonymous))
    if owners:
        Console().print(_table(owners))


def _table(owners: Iterable[tuple[Owner, Usage]]) -> Table:
    table = Table()
    for column in ("name", "has", "rate", "models", "id", "webhook", "since"):
        table.add_column(column, overflow="fold", no_wrap=column in {"name", "has"})
    for owner, usage in owners:
        rate = "any" if owner.rate_per_minute is None else f"{owner.rate_per_minute:g}/min"
        models = "all" if owner.models is None else ", ".join(owner.models)
        since = f"{datetime.fromtimestamp(owner.created_at, UTC):%Y-%m-%d}"
        facts = (owner.id, owner.webhook_url or "-", since) if owner.id else ("-", "-", "-")
        name = f"{owner.name}\n(operator)" if owner.operator else owner.name
        table.add_row(name, _has(usage), rate, models, *facts)
    return table


def _has(usage: Usage) -> str:
    """Return what an owner has of each quota, a line for each."""
    quota = usage.quota
    lines = (
        (_size(usage.bytes), _size(quota.max_bytes) if quota.max_bytes else "", ""),
        (str(usage.uploads), str(quota.max_uploads or ""), " uploads"),
        (str(usage.pending), str(quota.max_pending or ""), " pending"),
    )
    return "\n".join(f"{used}{limit and f'/{limit}'}{unit}" for used, limit, unit in lines)


@app.command("set-quotas")
def set_quotas(
    name: Name,
    *,
    max_bytes: MaxBytes = None,
    max_uploads: MaxUploads = None,
    max_pending: MaxPending = None,
    as_json: AsJson = False,
) -> None:
    """Change a key's quotas: a number, 0 for no limit, or `default` for the service's own."""
    quotas = _parse_quotas(max_bytes, max_uploads, max_pending)
    if not quotas:
        raise typer.BadParameter("name a quota: --max-bytes, --max-uploads or --max-pending")
    with exit_on_error(as_json=as_json):
        owner = _api_keys().set_quotas(name, **quotas)
    if as_json:
        typer.echo(json.dumps(_document(owner)))
    else:
        say(f"The quotas of {name} are changed; its next request finds them.")


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


@app.command("export")
def export_keys() -> None:
    """Print all valid keys, for `import` after Redis has lost them; also their webhook secrets."""
    with exit_on_error():
        records = _api_keys().export()
    typer.echo(json.dumps({"keys": records}, indent=1))
    say("This holds webhook secrets, and of keys the SHA-256 alone: let nobody else read it.")


@app.command("import")
def import_keys(
    file: Annotated[typer.FileText, typer.Argument(help="What `export` printed; - reads it here.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Record the keys of an export that Redis has lost; those that it knows stay as they are.

    Exits with 1 if another key has the name of one.
    """
    api_keys, imported, refused = _api_keys(), [], []
    with exit_on_error(as_json=as_json):
        for record in _read_export(file):
            try:
                owner, is_new = api_keys.restore(record)
            except KeyNameError as error:
                refused.append(str(error))
                continue
            if is_new:
                imported.append(owner.name)
    if as_json:
        typer.echo(json.dumps({"imported": imported, "refused": refused}))
    else:
        for name in imported:
            typer.echo(f"imported  {name}")
        for reason in refused or ([] if imported else ["No key was missing."]):
            say(reason)
    if refused:
        raise typer.Exit(1)


def _read_export(file: TextIO) -> list[dict[str, str]]:
    try:
        return list(json.load(file)["keys"])
    except (KeyError, TypeError, ValueError) as error:
        raise KeysFileError(f"{file.name} is no file of `rmbg keys export`.") from error


def _api_keys() -> ApiKeys:
    return Runtime(Settings.load()).api_keys


def _parse_rate(text: str) -> float:
    """Return the pictures a minute."""
    found = _RATE.match(text.strip())
    rate = float(found[1]) * _PER_MINUTE[found[2][0]] if found else 0.0
    if not 0 < rate <= _MOST:
        raise typer.BadParameter("give a number and a unit of time, such as 60/min or 2/s")
    return rate


def _parse_quotas(
    max_bytes: str | None, max_uploads: str | None, max_pending: str | None
) -> dict[str, int | None]:
    """Return the quotas that are given; None for `default`."""
    given = {"max_bytes": max_bytes, "max_uploads": max_uploads, "max_pending": max_pending}
    return {
        name: None if text == _DEFAULT else _parse_quota(name, text)
        for name, text in given.items()
        if text is not None
    }


def _parse_quota(name: str, text: str) -> int:
    if name != "max_bytes":
        if not _COUNT.match(text):
            raise typer.BadParameter(f"{text!r}: give a whole number, 0 for no limit, or default")
        return int(text)
    found = _BYTES.match(text.strip())
    power = _POWERS.find(found[2].lower() or "-") + 1 if found else 0
    size = float(found[1]) * 1024.0**power if found else -1.0
    if not 0 <= size <= _MOST:
        raise typer.BadParameter(
            f"{text!r}: give a size such as 500MB, at most 900TB, 0 for no limit, or default"
        )
    return round(size)


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit of which there is one."""
    power = min(len(_POWERS), max(0, count.bit_length() - 1) // 10)
    unit = f"{_POWERS[power - 1].upper()}B" if power else ""
    return f"{count / 1024**power:.4g}{unit}"


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
        "max_bytes": owner.max_bytes,
        "max_uploads": owner.max_uploads,
        "max_pending": owner.max_pending,
        "webhook_url": owner.webhook_url,
        "operator": owner.operator,
        "created_at": created_at.isoformat(timespec="seconds"),
        "revoked": owner.revoked,
    }


def _usage(usage: Usage) -> dict[str, dict[str, int]]:
    """Return what an owner has, and its limits; 0: none."""
    quota = usage.quota
    return {
        "bytes": {"used": usage.bytes, "limit": quota.max_bytes},
        "uploads": {"used": usage.uploads, "limit": quota.max_uploads},
        "pending": {"used": usage.pending, "limit": quota.max_pending},
    }
