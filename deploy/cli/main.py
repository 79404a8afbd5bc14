"""The entry point of `rmbg`: registers all commands, and defines `rmbg up` and `rmbg version`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from deploy.cli import bench, health, keys, models
from deploy.cli.bucket import bucket, restore
from deploy.cli.mcp import mcp
from deploy.cli.output import say
from deploy.local.screen import Screen
from deploy.local.stack import UpOptions
from deploy.local.up import run_up
from inference.version import __version__
from tasks.errors import SettingsError
from tasks.log import log_to_stderr


class _Commands(TyperGroup):
    """Loads `remove` when it is asked for, with the HTTP client that no other command needs."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - typer publishes no type
        if cmd_name == "remove" and cmd_name not in self.commands:
            from deploy.cli.remove import remove  # noqa: PLC0415 - see above

            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command()(remove)
            self.add_command(typer.main.get_command(alone), cmd_name)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - the same
        first, *others = super().list_commands(ctx)
        return list(dict.fromkeys([first, "remove", *others]))


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _all_commands() -> None:
    """Self-hosted background removal."""
    log_to_stderr()


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
        int,
        typer.Option(
            min=0,
            max=64,
            help="Model workers, which share the CPU cores, and take turns on several GPUs; "
            "0: as many as suit.",
        ),
    ] = 0,
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
        float | None,
        typer.Option(
            min=1,
            help="How long the start may take, in seconds: 120, on a GPU 900, unless it is set.",
        ),
    ] = None,
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
