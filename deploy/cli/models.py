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
from inference.models.fetch import HubAccess, fetch_model
from inference.models.fetch import Progress as Report
from inference.models.registry import MODELS, HubFile, ModelSpec, PypiFile, get_spec
from tasks.settings import Settings

app = typer.Typer(help="The models: list them, fetch them.", no_args_is_help=True)

_SHOWN_DIGITS = 12  # of a hash: enough to tell files apart


@app.command("list")
def list_models() -> None:
    """Show every model, its licence, which file it is, and whether it lies here."""
    folder = Settings.load().model_dir
    table = Table("model", "licence", "commercial", "what it is", "here", show_lines=True)
    for at in (0, 1):
        table.columns[at].no_wrap = True  # what people choose by
    for spec in MODELS.values():
        table.add_row(
            spec.name,
            spec.licence,
            "yes" if spec.commercial_use else "no, ask",
            _description(spec),
            "yes" if (folder / spec.file_name).exists() else "-",
        )
    console = Console()
    console.print(table)
    console.print(
        f"Models lie in {folder} (RMBG_MODEL_DIR). Where a commit is not pinned, none could be "
        "verified: a known SHA-256 still tells the file, an unknown one leaves it to the hub.",
        soft_wrap=True,
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A model's name; see `rmbg models list`.")],
    folder: Annotated[
        Path | None, typer.Option("--into", help="Folder of the models (RMBG_MODEL_DIR).")
    ] = None,
) -> None:
    """Fetch a model and check that it is the right file."""
    console = Console(stderr=True)
    settings = Settings.load()
    try:
        spec = get_spec(name)
        with _bar(spec, console) as report:
            path = fetch_model(
                spec, folder or settings.model_dir, progress=report, hub=_hub(settings)
            )
    except ModelError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    console.print(f"{spec.name}: {path}", markup=False, soft_wrap=True)
    console.print(_terms(spec), markup=False, soft_wrap=True)


def _description(spec: ModelSpec) -> str:
    order = f", {spec.patch_order} patch order" if spec.patch_order else ""
    digest = f"{spec.sha256[:_SHOWN_DIGITS]}…" if spec.sha256 else "unknown"
    return f"{spec.title}: {spec.input_size}²{order}\n{_source(spec)}\nSHA-256 {digest}"


def _source(spec: ModelSpec) -> str:
    if isinstance(spec.source, HubFile):
        commit = spec.source.revision
        return f"{spec.source.repo}, commit {commit or 'not pinned'}"
    if isinstance(spec.source, PypiFile):
        return f"PyPI, {spec.source.project} {spec.source.version}"
    return "a file of your own, by RMBG_MODEL_PATH"


def _terms(spec: ModelSpec) -> str:
    if spec.commercial_use:
        return f"Licence: {spec.licence}, {spec.licence_url}"
    return (
        f"Licence: {spec.licence}: commercial use needs its authors' permission. "
        f"See {spec.licence_url}"
    )


def _hub(settings: Settings) -> HubAccess:
    token = settings.hf_token
    return HubAccess(
        token=token.get_secret_value() if token else None, offline=settings.hf_hub_offline
    )


@contextmanager
def _bar(spec: ModelSpec, console: Console) -> Iterator[Report]:
    with Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console
    ) as progress:
        bar = progress.add_task(f"fetching {spec.name}", total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(bar, completed=done, total=total)

        yield report
