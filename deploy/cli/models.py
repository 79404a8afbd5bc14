"""`rmbg models`: list the models and their licences, fetch them, write a network's raw logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from deploy.cli.output import exit_on_error, require_torch, say
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import MODELS, HubFile, ModelSpec, PypiFile, get_spec
from inference.models.weights import ProgressCallback, fetch_model
from tasks.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = typer.Typer(help="The models: list them, fetch them.", no_args_is_help=True)

#: Digits of a SHA-256 that are shown: enough to tell files apart.
_SHOWN_DIGITS: Final = 12


@app.command("list")
def list_models() -> None:
    """List the models: licence, source, and whether the file is on this machine."""
    folder = Settings.load().model_dir
    table = Table("model", "licence", "commercial", "what it is", "here", show_lines=True)
    for column in table.columns[:2]:
        column.no_wrap = True
    for spec in MODELS.values():
        table.add_row(
            spec.name,
            spec.licence,
            "yes" if spec.commercial_use else "no, ask",
            _describe(spec),
            "yes" if (folder / spec.file_name).exists() else "-",
        )
    Console().print(table)
    Console().print(
        f"The models' folder is {folder} (RMBG_MODEL_DIR). Where a commit is not pinned, none "
        "could be verified: then a file is checked by its SHA-256 if that is known, else the hub "
        "is trusted.",
        soft_wrap=True,
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The model's name; see `rmbg models list`.")],
    folder: Annotated[
        Path | None, typer.Option("--into", help="Folder of the models (RMBG_MODEL_DIR).")
    ] = None,
) -> None:
    """Fetch a model, and check that it is the right file."""
    settings = Settings.load()
    with exit_on_error():
        spec = get_spec(name)
        with _progress_bar(spec) as progress:
            path = fetch_model(spec, folder or settings.model_dir, progress=progress)
    say(f"{spec.name}: {path}")
    if spec.commercial_use:
        say(f"Licence: {spec.licence}, {spec.licence_url}")
    else:
        say(
            f"Licence: {spec.licence}: commercial use needs its authors' permission. "
            f"See {spec.licence_url}"
        )


def _describe(spec: ModelSpec) -> str:
    order = f", {spec.patch_order} patch order" if spec.patch_order else ""
    digest = f"{spec.sha256[:_SHOWN_DIGITS]}…" if spec.sha256 else "unknown"
    return f"{spec.title}: {spec.input_size}²{order}\n{_source(spec)}\nSHA-256 {digest}"


def _source(spec: ModelSpec) -> str:
    if isinstance(spec.source, HubFile):
        return f"{spec.source.repo}, commit {spec.source.revision or 'not pinned'}"
    if isinstance(spec.source, PypiFile):
        return f"PyPI, {spec.source.project} {spec.source.version}"
    return "a file of your own (RMBG_MODEL_PATH)"


@contextmanager
def _progress_bar(spec: ModelSpec) -> Iterator[ProgressCallback]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task(f"fetching {spec.name}", total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(bar, completed=done, total=total)

        yield report


@app.command()
def logits(
    *,
    out: Annotated[Path, typer.Option(help="The .npy file to write.")],
    keys_from: Annotated[
        Literal["golden"] | None, typer.Option(help="Generate weights and input from the seed.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seed of generated weights and input.")] = "public",
    size: Annotated[int, typer.Option(help="Side of the generated input, a multiple of 32.")] = 256,
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file, or a folder that holds one.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--input", help="A .npy file, (batch, 3, height, width), normalised."),
    ] = None,
    patch_order: Annotated[
        PatchOrder | None,
        typer.Option(help="Patch order of the weights; needed unless they are known."),
    ] = None,
    model: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "rmbg-2.0",
) -> None:
    """Write a network's raw logits, (height, width) float32, computed in float32 on the CPU.

    Either from --keys-from golden --seed SEED --size N, in RMBG-2.0's patch order, or from
    --weights FILE --input FILE --patch-order ORDER.
    """
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use {', '.join(PRESETS)}.")
    with require_torch():
        from inference.models.birefnet import golden  # noqa: PLC0415 - imports torch
    with exit_on_error():
        if keys_from and weights is None and picture is None:
            values = golden.golden_logits(PRESETS[model], seed, size)
        elif not keys_from and weights is not None and picture is not None:
            values = golden.checkpoint_logits(PRESETS[model], weights, picture, patch_order)
        else:
            raise typer.BadParameter(
                "Give either --keys-from golden (with --seed and --size), or --weights and --input."
            )
        _save_array(out, values)
    say(f"{out}: {values.shape}, standard deviation {values.std():.4f}")


def _save_array(path: Path, array: "NDArray[np.float32]") -> None:
    import numpy as np  # noqa: PLC0415 - the command line starts without it

    try:
        with path.open("wb") as file:  # given a path, numpy appends ".npy" to other suffixes
            np.save(file, array)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}.") from error
