"""`rmbg bench`: how fast the pixel work runs on this machine."""

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
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 1,
    size: Annotated[
        int | None, typer.Option(min=32, help="Side of a picture; the model's own by default.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Batches to time.")] = 10,
) -> None:
    """Time a BiRefNet with stand-in weights, beside the floor by arithmetic."""
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use one of {_MODELS}.")
    side = size or PRESETS[model].input_size
    if side % 32:
        raise typer.BadParameter("Give a size that is a multiple of 32.")
    with torch_needed():
        from inference.models.birefnet import device as devices  # noqa: PLC0415 - imports torch
        from inference.models.birefnet.measure import measure  # noqa: PLC0415 - imports torch
    try:
        chosen = devices.choose_device(device)
        dtype = devices.choose_dtype(precision, chosen)
        result = measure(PRESETS[model], chosen, dtype, batch=batch, size=side, runs=runs)
    except ModelError as error:
        Console(stderr=True).print(str(error), markup=False)
        raise typer.Exit(1) from error
    setting = f"{model}, {chosen}, {str(dtype).removeprefix('torch.')}, batch {batch}, {side}²"
    Console().print(_table(setting, result, runs))


def _table(setting: str, result: "Measurement", runs: int) -> Table:
    table = Table("measure", "value", "", title=setting)
    table.columns[1].justify = "right"
    memory = f"{result.peak_bytes / 2**20:,.0f} MiB"
    table.add_row("time of a batch", f"{result.milliseconds:,.1f} ms", f"median of {runs}")
    table.add_row("throughput", f"{result.images_per_second:,.2f} images/s", "")
    table.add_row("peak memory", memory, "of the GPU's tensors, or of this process on the CPU")
    table.add_row("arithmetic", f"{result.flops / 1e9:,.1f} GFLOP", "matrix products, convolutions")
    table.add_row("device's peak", f"{result.peak.tflops:,.3f} TFLOP/s", result.peak.source)
    table.add_row("floor", f"{result.floor_milliseconds:,.1f} ms", "the arithmetic at that peak")
    table.add_row("share reached", f"{result.share:.0%}", "of the peak")
    return table


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
