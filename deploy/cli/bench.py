"""`rmbg bench`: how fast the pixel work runs on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.torch_needed import torch_needed
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS

if TYPE_CHECKING:
    from inference.models.birefnet.measure import Measurement

app = typer.Typer(help="Measure the pixel work on this machine.", no_args_is_help=True)

_MODELS = ", ".join(PRESETS)


@app.command("model")
def bench_model(
    *,
    model: Annotated[str, typer.Option(help=f"One of {_MODELS}.")] = "birefnet-tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        list[str] | None, typer.Option(help="auto, fp32, fp16 or bf16; may be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(help="reference, fast, compiled or graphed; may be repeated."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures at once; may be repeated.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=64, help="Side of a picture; the model's own by default.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Batches to time.")] = 10,
    check: Annotated[
        bool, typer.Option(help="Compare each with the float32 reference first.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what a compiler makes, for the next run.")
    ] = None,
) -> None:
    """Time a BiRefNet with stand-in weights, beside the floor by arithmetic.

    Every combination of path, precision and batch; on a GPU all there are, on the CPU reference and
    fast in fp32, one by one, unless others are named.
    """
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use one of {_MODELS}.")
    side = size or PRESETS[model].input_size
    if side % 64:
        raise typer.BadParameter("Give a size that is a multiple of 64.")
    with torch_needed():
        from inference.models.birefnet import device as devices  # noqa: PLC0415 - imports torch
        from inference.models.birefnet.fast.runners import ExecutionPath  # noqa: PLC0415 - the same
        from inference.models.birefnet.measure import measure  # noqa: PLC0415 - the same
    try:
        chosen = devices.choose_device(device)
        gpu = chosen.type == "cuda"
        table = _table(f"{model}, {chosen}, {side}², median of {runs}")
        for way in _paths(path or (list(ExecutionPath) if gpu else ["reference", "fast"])):
            for name in precision or (["fp16", "bf16"] if gpu else ["auto"]):
                dtype = devices.choose_dtype(name, chosen)
                results = measure(
                    PRESETS[model],
                    chosen,
                    ExecutionPath(way),
                    dtype,
                    batches=batch or ([1, 2, 4, 8] if gpu else [1]),
                    size=side,
                    runs=runs,
                    check=check,
                    cache=cache,
                )
                for result, count in zip(results, batch or [1, 2, 4, 8], strict=False):
                    _add_row(table, result, str(dtype).removeprefix("torch."), count)
    except ModelError as error:
        Console(stderr=True).print(str(error), markup=False)
        raise typer.Exit(1) from error
    Console().print(table)


def _paths(names: "list[str]") -> list[str]:
    known = ("reference", "fast", "compiled", "graphed")
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"There is no path {name!r}: use one of {', '.join(known)}.")
    return names


def _table(setting: str) -> Table:
    table = Table(title=setting, caption="memory: the GPU's tensors, or this process's so far")
    for name in ("path", "precision", "batch", "time", "images/s", "MiB", "floor", "share reached"):
        table.add_column(name)
    table.add_column("GFLOP")
    table.add_column("matte's error")
    return table


def _add_row(table: Table, result: "Measurement", precision: str, batch: int) -> None:
    error = result.alpha_error
    table.add_row(
        result.path,
        precision,
        str(batch),
        f"{result.milliseconds:,.1f} ms",
        f"{result.images_per_second:,.2f}",
        f"{result.peak_bytes / 2**20:,.0f}",
        f"{result.floor_milliseconds:,.1f} ms",
        f"{result.share:.0%}",
        f"{result.flops / 1e9:,.1f}",
        "" if error is None else f"{255 * error:.3f} / 255",
    )


@app.command("refine")
def bench_refine(
    *,
    width: Annotated[int, typer.Option(min=2, help="Of the picture, pixels.")] = 3000,
    height: Annotated[int, typer.Option(min=2, help="Of the picture, pixels.")] = 2000,
    device: Annotated[str, typer.Option(help="cpu (numpy), cuda or cuda:N (torch).")] = "cpu",
    runs: Annotated[int, typer.Option(min=1, help="Pictures to time.")] = 10,
) -> None:
    """Time the foreground estimation on a made-up picture with a soft-edged subject."""
    with torch_needed():
        from inference.refine_measure import measure_refine  # noqa: PLC0415 - imports numpy
    try:
        milliseconds, soft = measure_refine(width, height, device, runs)
    except ModelError as error:
        Console(stderr=True).print(str(error), markup=False)
        raise typer.Exit(1) from error
    table = Table("picture", "device", "soft pixels", "time", title="refine")
    table.add_row(f"{width}x{height}", device, f"{soft:.1%}", f"{milliseconds:,.1f} ms")
    Console().print(table)
