"""`rmbg bench`: how fast the pixel work runs on this machine."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.bench_model import bench_model
from deploy.cli.torch_needed import torch_needed
from inference.errors import ModelError

app = typer.Typer(help="Measure the pixel work on this machine.", no_args_is_help=True)
app.command("model")(bench_model)


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
