"""`rmbg bench`: time the foreground estimation, and a BiRefNet on each of its execution paths."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.output import require_torch
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS

if TYPE_CHECKING:
    import torch

    from inference.models.birefnet.bench import BenchmarkSettings, Measurement


@dataclass(frozen=True, slots=True)
class Roofline:
    """What the arithmetic of one picture alone would take."""

    milliseconds: float
    gflop: float
    tflops: float
    #: Where the device's throughput comes from.
    source: str


def print_table(
    title: str, rows: Sequence["Measurement"], floor: Roofline, baseline: Sequence["Measurement"]
) -> None:
    """One row for each path and size of batch, against the baseline's first path."""
    loop, error = rows[0].loop_milliseconds is not None, rows[0].alpha_error is not None
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("path", no_wrap=True)
    for name in _columns(loop=loop, error=error):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        first = next((one for one in baseline if one.batch == row.batch), None)
        table.add_row(row.path, *_cells(row, first, floor))
    console = Console(highlight=False)
    console.print(table)
    for note in _notes(rows, floor, baseline[0].path):
        console.print(note, markup=False)


def _columns(*, loop: bool, error: bool) -> list[str]:
    names = ["batch", "ms", *(["loop ms"] if loop else []), "images/s", "gain", "MiB", "floor"]
    return [*names, "start", *(["error"] if error else [])]


def _cells(row: "Measurement", first: "Measurement | None", floor: Roofline) -> list[str]:
    return [
        f"{row.batch}",
        f"{row.milliseconds:,.1f}",
        *([] if row.loop_milliseconds is None else [f"{row.loop_milliseconds:,.1f}"]),
        f"{row.images_per_second:,.2f}",
        "" if first is None else f"{first.milliseconds / row.milliseconds:.2f}x",
        f"{row.peak_bytes / 2**20:,.0f}",
        f"{row.batch * floor.milliseconds / row.milliseconds:.0%}",
        f"{row.start_seconds:,.1f}",
        *([] if row.alpha_error is None else [f"{255 * row.alpha_error:.3f}"]),
    ]


def _notes(rows: Sequence["Measurement"], floor: Roofline, over: str) -> list[str]:
    """What the columns mean, and what was run another way than was asked."""
    reasons = dict.fromkeys(f"{row.path}: {row.reason}." for row in rows if row.reason)
    notes = [
        f"gain: over {over}. floor: share that the arithmetic alone would take,",
        f"{floor.milliseconds:,.1f} ms for {floor.gflop:,.1f} GFLOP a picture.",
        f"Peak: {floor.tflops:,.3f} TFLOP/s, {floor.source}.",
        "MiB: most while it ran, of what torch holds of the GPU, or of the whole process.",
        "start: seconds from weights in memory to the first answer.",
    ]
    if rows[0].loop_milliseconds is not None:
        notes.append("loop: with pictures made ready and mattes at their size.")
    if rows[0].alpha_error is not None:
        notes.append("error: the matte's largest against float32, in 1/255.")
    return [*notes, *reasons, ""]


_MODELS = ", ".join(PRESETS)

_PATHS = ("reference", "fast", "compiled", "graphed")


def bench_model(
    *,
    model: Annotated[str, typer.Option(help=f"One of {_MODELS}.")] = "birefnet-tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        list[str] | None, typer.Option(help="auto, fp32, fp16 or bf16; may be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(_PATHS)}; may be repeated.")
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
    loop: Annotated[bool, typer.Option(help="Time pictures in and mattes out, too.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for what a compiler makes, for the next run.")
    ] = None,
) -> None:
    """Time a BiRefNet with stand-in weights, beside the floor by arithmetic.

    Every combination of path, precision and batch: on a GPU all there are, one after the other; on
    the CPU reference and fast in fp32, one by one in turn, unless others are named.
    """
    side = _side(model, size)
    with require_torch():
        from inference.models.birefnet import device as devices  # noqa: PLC0415 - imports torch
        from inference.models.birefnet.bench import BenchmarkSettings  # noqa: PLC0415 - imports torch
    failures: list[ModelError] = []
    try:
        chosen = devices.choose_device(device)
        gpu = chosen.type == "cuda"
        ways = _known(path or (_PATHS if gpu else _PATHS[:2]))
        batches = batch or ([1, 2, 4, 8] if gpu else [1])
        for name in precision or (["fp16", "bf16"] if gpu else ["auto"]):
            dtype = devices.choose_dtype(name, chosen)
            setting = BenchmarkSettings(PRESETS[model], chosen, dtype, side, loop=loop, cache=cache)
            # On a GPU each alone: its memory is what is asked, and its speed does not drift.
            together = [[way] for way in ways] if gpu else [ways]
            title = f"{model}, {chosen}, {side}², {_short(dtype)}, median of {runs}"
            groups = [
                partial(_rows, setting, group, batches, runs, check=check) for group in together
            ]
            failures += _print_all(title, groups, _roofline(setting))
    except ModelError as error:
        failures.append(error)
    for failure in failures:
        Console(stderr=True).print(str(failure), markup=False)
    if failures:
        raise typer.Exit(1)


def _side(model: str, size: int | None) -> int:
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use one of {_MODELS}.")
    side = size or PRESETS[model].input_size
    if side % 64:
        raise typer.BadParameter("Give a size that is a multiple of 64.")
    return side


def _known(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in _PATHS:
            raise typer.BadParameter(f"There is no path {name!r}: use one of {', '.join(_PATHS)}.")
    return names


def _print_all(
    title: str, groups: "Sequence[Callable[[], Iterator[Measurement]]]", floor: Roofline
) -> list[ModelError]:
    """A table for each group, as soon as it is measured, and what went wrong.

    What was measured before a failure is shown all the same.
    """
    failures, baseline = [], None
    for measure_group in groups:
        rows = []
        try:
            for row in measure_group():
                rows.append(row)  # noqa: PERF402 - those before a failure are kept
        except ModelError as error:
            failures.append(error)
        if rows:
            baseline = baseline or rows
            print_table(title, rows, floor, baseline)
    return failures


def _rows(
    setting: "BenchmarkSettings",
    paths: Sequence[str],
    batches: Sequence[int],
    runs: int,
    *,
    check: bool,
) -> "Iterator[Measurement]":
    from inference.models.birefnet.bench import compare_paths  # noqa: PLC0415 - the same
    from inference.models.birefnet.fast.runners import ExecutionPath  # noqa: PLC0415 - imports torch

    ways = [ExecutionPath(path) for path in paths]
    return compare_paths(setting, ways, batches=batches, runs=runs, check=check)


def _roofline(setting: "BenchmarkSettings") -> Roofline:
    """For one picture; the work of a batch is as many times that."""
    from inference.models.birefnet.bench import count_flops, find_peak_throughput  # noqa: PLC0415

    flops = count_flops(setting.config, 1, setting.size)
    peak = find_peak_throughput(setting.device, setting.dtype)
    return Roofline(peak.milliseconds(flops), flops / 1e9, peak.tflops, peak.source)


def _short(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


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
    with require_torch():
        from inference.refine_bench import benchmark_refine  # noqa: PLC0415 - imports numpy
    try:
        milliseconds, soft = benchmark_refine(width, height, device, runs)
    except ModelError as error:
        Console(stderr=True).print(str(error), markup=False)
        raise typer.Exit(1) from error
    table = Table("picture", "device", "soft pixels", "time", title="refine")
    table.add_row(f"{width}x{height}", device, f"{soft:.1%}", f"{milliseconds:,.1f} ms")
    Console().print(table)
