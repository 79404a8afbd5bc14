"""`rmbg models`: which models there are, under which licence, and how to get them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from inference.errors import ModelError
from inference.models.fetch import Progress as Report
from inference.models.fetch import fetch_model
from inference.models.registry import MODELS, ModelSpec, get_spec
from tasks.settings import Settings

app = typer.Typer(help="The models: list them, fetch them.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Show every model, its licence, and whether it lies here."""
    folder = Settings.load().model_dir
    table = Table("model", "what", "input", "licence", "commercial use", "here")
    for spec in MODELS.values():
        table.add_row(
            spec.name,
            spec.title,
            f"{spec.input_size}²",
            spec.licence,
            "yes" if spec.commercial_use else "no: ask its authors",
            "yes" if (folder / spec.file_name).exists() else "-",
        )
    console = Console()
    console.print(table)
    console.print(f"Models lie in {folder} (RMBG_MODEL_DIR).")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A model's name; see `rmbg models list`.")],
    folder: Annotated[
        Path | None, typer.Option("--into", help="Folder of the models (RMBG_MODEL_DIR).")
    ] = None,
) -> None:
    """Fetch a model and check that it is the right file."""
    console = Console(stderr=True)
    try:
        spec = get_spec(name)
        with _bar(spec, console) as report:
            path = fetch_model(spec, folder or Settings.load().model_dir, progress=report)
    except ModelError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    console.print(f"{spec.name}: {path} ({spec.licence})", markup=False)


@contextmanager
def _bar(spec: ModelSpec, console: Console) -> Iterator[Report]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console
    ) as progress:
        bar = progress.add_task(f"fetching {spec.name}", total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(bar, completed=done, total=total)

        yield report
