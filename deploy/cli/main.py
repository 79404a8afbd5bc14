"""The entry point of `rmbg`."""

import typer
from rich.console import Console

from deploy.cli import bench, health, keys, models
from deploy.cli.bucket import bucket
from deploy.cli.doctor import doctor
from deploy.cli.logits import logits
from deploy.cli.remove import remove
from deploy.cli.restore import restore
from deploy.cli.up import up
from inference.version import __version__
from tasks.errors import SettingsError

app = typer.Typer(
    help="Self-hosted background removal.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command()(up)
app.command()(remove)
app.command()(restore)
app.command()(doctor)
app.command()(bucket)
models.app.command()(logits)
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
app.add_typer(keys.app, name="keys")
app.add_typer(health.app, name="health")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; a wrong setting is a line for each, not a traceback."""
    try:
        app()
    except SettingsError as error:
        Console(stderr=True).print(str(error), markup=False)
        raise SystemExit(2) from error
