"""The entry point of `rmbg`: registers all commands, and defines `rmbg up` and `rmbg version`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli import bench, health, keys, models
from deploy.cli.bucket import bucket, restore
from deploy.cli.mcp import mcp
from deploy.cli.output import say
from deploy.cli.remove import remove
from deploy.local.screen import Screen
from deploy.local.stack import UpOptions
from deploy.local.up import run_up
from inference.version import __version__
from tasks.errors import SettingsError

app = typer.Typer(
    help="Self-hosted background removal.", no_args_is_help=True, pretty_exceptions_enable=False
)


@app.command()
def up(  # noqa: PLR0917 - typer makes the options of a command from its parameters
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes any free one.")
    ] = 8000,
    flower_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of Flower; 0 takes any free one.")
    ] = 5555,
    data: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of jobs, pictures and passwords.")
    ] = Path("data"),
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Model workers, which share the CPU cores.")
    ] = 1,
    model: Annotated[
        str | None, typer.Option(help="Model to serve; see `rmbg models list`.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="Your Redis or Valkey, instead of an embedded one.")
    ] = None,
    s3_endpoint: Annotated[
        str | None,
        typer.Option(
            help="Your S3 object store, instead of an embedded one; keys: RMBG_S3_ACCESS_KEY."
        ),
    ] = None,
    start_seconds: Annotated[
        float, typer.Option(min=1, help="How long the start may take, in seconds.")
    ] = 120.0,
    *,
    logs: Annotated[bool, typer.Option(help="Show the logs of all processes as lines.")] = False,
    flower: Annotated[bool, typer.Option(help="Run Flower, which shows tasks and workers.")] = True,
) -> None:
    """Run the service with all its servers on 127.0.0.1, until Ctrl-C."""
    options = UpOptions(
        port=port,
        flower_port=flower_port if flower else None,
        data=data,
        workers=workers,
        model=model,
        redis_url=redis_url,
        s3_endpoint=s3_endpoint,
        start_seconds=start_seconds,
    )
    raise typer.Exit(run_up(options, Screen(Console(), stream=logs)))


app.command()(remove)
app.command()(restore)
app.command()(health.doctor)
app.command()(mcp)
app.command()(bucket)
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(keys.app, name="keys")
app.add_typer(health.app, name="health")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; wrong settings print one line each and exit with 2."""
    try:
        app()
    except SettingsError as error:
        say(str(error))
        raise SystemExit(2) from error
