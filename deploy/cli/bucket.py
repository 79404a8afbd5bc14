"""`rmbg bucket`: makes the bucket ready, before anything else of the service starts."""

import typer

from tasks.errors import StoreUnavailableError
from tasks.runtime import Runtime
from tasks.settings import Settings


def bucket() -> None:
    """Make the bucket, private, with rules by which the store itself drops what is too old.

    May be run again. Exits with 1 if the store does not answer.
    """
    settings = Settings.load()
    try:
        Runtime.from_settings(settings).object_store.ensure_bucket()
    except StoreUnavailableError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"The bucket {settings.s3_bucket} is there.")
