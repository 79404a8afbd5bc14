"""`rmbg models`: list the models and their licences, fetch them, write a network's raw logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from deploy.cli.output import require_torch
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import MODELS, HubFile, ModelSpec, PypiFile, get_spec
from inference.models.weights import HubAccess, fetch_model
from inference.models.weights import ProgressCallback as Report
from tasks.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class KeysFrom(StrEnum):
    """Where weights and input come from when no files are given."""

    GOLDEN = "golden"


def logits(
    *,
    out: Annotated[Path, typer.Option(help="The .npy file to write.")],
    keys_from: Annotated[
        KeysFrom | None, typer.Option(help="Make weights and input up from the seed.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Seed of made-up weights and input.")] = "public",
    size: Annotated[int, typer.Option(help="Side of the made-up input, a multiple of 32.")] = 256,
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors file, or a folder that holds one.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--input", help="A .npy file, (batch, 3, height, width), normalised."),
    ] = None,
    patch_order: Annotated[
        PatchOrder | None, typer.Option(help="Of the weights; needed unless they are known.")
    ] = None,
    model: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "rmbg-2.0",
) -> None:
    """Write the network's raw logits, (height, width) float32, computed in float32 on the CPU.

    Either from --keys-from golden --seed SEED --size N, in RMBG-2.0's patch order, or from
    --weights FILE --input FILE --patch-order ORDER.
    """
    console = Console(stderr=True)
    try:
        answer = _compute_logits(
            model=model,
            keys_from=keys_from,
            seed=seed,
            size=size,
            weights=weights,
            picture=picture,
            patch_order=patch_order,
        )
        _save_logits(out, answer)
    except ModelError as error:
        console.print(str(error), markup=False)
        raise typer.Exit(1) from error
    console.print(f"{out}: {answer.shape}, standard deviation {answer.std():.4f}", markup=False)


def _compute_logits(
    *,
    model: str,
    keys_from: KeysFrom | None,
    seed: str,
    size: int,
    weights: Path | None,
    picture: Path | None,
    patch_order: PatchOrder | None,
) -> "NDArray[np.float32]":
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use {', '.join(PRESETS)}.")
    with require_torch():
        from inference.models.birefnet import golden  # noqa: PLC0415 - imports torch
    if keys_from is KeysFrom.GOLDEN and weights is None and picture is None:
        return golden.golden_logits(PRESETS[model], seed, size)
    if keys_from is None and weights is not None and picture is not None:
        return golden.checkpoint_logits(PRESETS[model], weights, picture, patch_order)
    raise typer.BadParameter(
        "Give either --keys-from golden (with --seed and --size), or --weights and --input."
    )


def _save_logits(path: Path, answer: "NDArray[np.float32]") -> None:
    import numpy as np  # noqa: PLC0415 - the command line starts without it

    try:
        with path.open("wb") as file:  # a file object, or numpy appends ".npy" to other names
            np.save(file, answer)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}.") from error


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
