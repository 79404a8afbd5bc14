"""`rmbg models`: list the models and their licences, fetch them, write a network's raw logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from deploy.cli.output import exit_on_error, require_torch, say
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import MODELS, HubFile, ModelSpec, PypiFile, UrlFile, get_spec
from inference.models.weights import ProgressCallback, fetch_model
from tasks.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = typer.Typer(help="The models: list them, fetch them.", no_args_is_help=True)

#: Digits of a SHA-256 that are shown: enough to tell files apart.
_SHOWN_DIGITS: Final = 12
#: A photo with a clear subject.
SAMPLE: Final = Path(__file__).parents[1] / "local" / "sample.jpg"
#: Shares of undecided pixels that differ by less than 2 % do not tell which order is right.
_CLEAR: Final = 0.98


@app.command("list")
def list_models() -> None:
    """List the models: licence, source, and whether the file is on this machine."""
    folder = Settings.load().model_dir
    width = max(map(len, MODELS))
    for spec in MODELS.values():
        use = "yes" if spec.commercial_use else "no, ask"
        here = "; on this machine" if _is_there(folder / spec.file_name) else ""
        _print_line(f"{spec.name:{width}}  {spec.licence}; commercial use: {use}{here}", "bold")
        for line in _describe(spec):
            _print_line(f"  {line}")
    _print_line(
        f"The models' folder is {folder} (RMBG_MODEL_DIR). Where a commit is not pinned, none "
        "could be verified: then a file is checked by its SHA-256 if that is known, else the hub "
        "is trusted."
    )


def _is_there(path: Path) -> bool:
    """Return whether a file exists, as far as this user may see."""
    try:
        return path.exists()
    except OSError:
        return False


def _print_line(text: str, style: str = "") -> None:
    """Print a line whole, however narrow the terminal: a shortened name or commit is no use."""
    Console().print(text, style=style, markup=False, highlight=False, soft_wrap=True)


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
    if spec.next_better:
        say(f"Finer, and slower: {spec.next_better}. See docs/choosing-a-model.md.")
    if spec.patch_order is not None and spec.sha256 is None and find_spec("torch"):
        # No hash says which file this is, so its patch order is looked at.
        with exit_on_error():
            _check_patch_order(spec, path, SAMPLE)
    if spec.commercial_use:
        say(f"Licence: {spec.licence}, {spec.licence_url}")
    else:
        say(
            f"Licence: {spec.licence}: commercial use needs its authors' permission. "
            f"See {spec.licence_url}"
        )


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A BiRefNet of the list; see `rmbg models list`.")],
    photo: Annotated[
        Path | None, typer.Argument(help="A photo with a clear subject; a sample if not given.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The file; else the one of the model folder.")
    ] = None,
) -> None:
    """Cut a photo out in both patch orders, and say which is right for a file of weights."""
    with exit_on_error():
        spec = get_spec(name)
        if spec.patch_order is None:
            raise ModelError(f"{name} is no BiRefNet: it has no patch order to be checked.")
        path = weights or Settings.load().model_file(spec.file_name)
        if weights is None and not _is_there(path):
            raise ModelError(
                f"There is no {path} to be checked. Fetch it first: rmbg models fetch {name}"
            )
        _check_patch_order(spec, path, photo or SAMPLE)


def _check_patch_order(spec: ModelSpec, path: Path, photo: Path) -> None:
    """Print how decided a checkpoint is in either patch order, and a warning if the table is wrong.

    Raises:
        ModelError: the file cannot be used.
        InferenceError: the photo cannot be decoded.
    """
    with require_torch():
        from inference.decode import decode  # noqa: PLC0415 - imports numpy
        from inference.models.birefnet.order_check import (  # noqa: PLC0415 - imports torch
            undecided_shares,
        )
    shares = undecided_shares(path, PRESETS[spec.name], decode(photo.read_bytes()).rgb)
    say(f"{path}: undecided pixels of {photo.name} (between 5 and 95 %) in either patch order")
    for order, share in shares.items():
        say(f"  {order.value}: {share:.2%}")
    best, worst = sorted(shares, key=lambda order: shares[order])
    if shares[best] > _CLEAR * shares[worst]:
        say("The two are too close to tell: try a photo with a clear subject and fine edges.")
    elif best is spec.patch_order:
        say(f"{best.value} is right, as the table of models says.")
    else:
        say(
            f"Warning: {best.value} is right, but the table of models has {spec.patch_order} "
            f"({spec.patch_order_known_from}). Set RMBG_PATCH_ORDER={best.value} for this file."
        )


def _describe(spec: ModelSpec) -> Iterator[str]:
    """Yield what a model is, its patch order if it has one, and where its file comes from."""
    use = f", {spec.use}" if spec.use else ""
    yield f"{spec.title}: {spec.input_size}²{use}"
    if spec.patch_order:
        yield f"patch order {spec.patch_order} ({spec.patch_order_known_from})"
    digest = f"{spec.sha256[:_SHOWN_DIGITS]}…" if spec.sha256 else "unknown"
    yield f"{_source(spec)}; SHA-256 {digest}"


def _source(spec: ModelSpec) -> str:
    if isinstance(spec.source, HubFile):
        return f"{spec.source.repo}, commit {spec.source.revision or 'not pinned'}"
    if isinstance(spec.source, PypiFile):
        return f"PyPI, {spec.source.project} {spec.source.version}"
    if isinstance(spec.source, UrlFile):
        return spec.source.url
    return "a file of your own (RMBG_MODEL_PATH)"


@contextmanager
def _progress_bar(spec: ModelSpec) -> Iterator[ProgressCallback]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True),
    ) as progress:
        # Seen once something arrives: what is here already is not fetched.
        bar = progress.add_task(f"fetching {spec.name}", total=None, visible=False)

        def report(done: int, total: int | None) -> None:
            progress.update(bar, completed=done, total=total, visible=True)

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
        typer.Option(
            parser=PatchOrder,
            metavar="|".join(PatchOrder),
            help="Patch order of the weights; needed unless they are known.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "rmbg-2.0",
) -> None:
    """Write a network's raw logits, (height, width) float32, computed in float32 on the CPU.

    Either from --keys-from golden --seed SEED --size N (in the patch order columns-rows-colors
    unless --patch-order says otherwise), or from --weights FILE --input FILE --patch-order ORDER.
    """
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use {', '.join(PRESETS)}.")
    with require_torch():
        from inference.models.birefnet import golden  # noqa: PLC0415 - imports torch
    with exit_on_error():
        if keys_from and weights is None and picture is None:
            values = golden.golden_logits(
                PRESETS[model], seed, size, patch_order or PatchOrder.COLUMNS_ROWS_COLORS
            )
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
