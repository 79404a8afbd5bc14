"""`rmbg bench`: time the service, the foreground estimation, and BiRefNet's execution paths."""

import json
import statistics
import timeit
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.cli.output import exit_on_error, require_torch, say
from deploy.client import ClientError
from deploy.local.service import StackError
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS
from tasks.settings import Settings

if TYPE_CHECKING:
    from inference.models.birefnet.bench import (
        BenchmarkSettings,
        Measurement,
        OperationTime,
        Roofline,
    )

app = typer.Typer(help="Time the image processing on this machine.", no_args_is_help=True)

_MODELS: Final = ", ".join(PRESETS)
_PATHS: Final = ("reference", "fast", "graphed")
_PATHS_ON_CPU: Final = ("reference", "fast")
_WORKERS: Final = (1, 2, 4, 8, 16)
#: Of a profile, so many kernels or operations are printed, with so many characters of a name.
_PROFILE_ROWS, _PROFILE_NAME = 25, 52


@app.command("model")
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
        list[int] | None, typer.Option(min=1, help="Pictures in a batch; may be repeated.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=64, help="Side of a picture; default: the model's own.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Batches to time.")] = 10,
    check: Annotated[
        bool, typer.Option(help="Compare each path with the float32 reference first.")
    ] = False,
    loop: Annotated[
        bool, typer.Option(help="Time preprocessing and the resized mattes, too.")
    ] = False,
    profile: Annotated[
        bool, typer.Option(help="Print what takes the time of one picture, by kernel.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the compiler's output, for the next run.")
    ] = None,
) -> None:
    """Time a BiRefNet with generated weights, and compare it with the device's roofline.

    Measures every combination of path, precision and batch. Default on a GPU: all of them, one
    after the other; on the CPU: reference and fast in fp32, in turn.
    """
    side = _check_size(model, size)
    with require_torch():
        from inference.models.birefnet.bench import BenchmarkSettings  # noqa: PLC0415 - torch
        from inference.models.birefnet.device import (  # noqa: PLC0415 - imports torch
            choose_device,
            choose_dtype,
        )
    failures: list[ModelError] = []
    try:
        chosen = choose_device(device)
        on_gpu = chosen.type == "cuda"
        paths = _check_paths(path or (_PATHS if on_gpu else _PATHS_ON_CPU))
        batches = batch or ([1, 2, 4, 8] if on_gpu else [1])
        # On a GPU each path alone: its memory is measured, and the GPU's speed does not drift.
        groups = [[one] for one in paths] if on_gpu else [paths]
        for name in precision or (["fp16", "bf16"] if on_gpu else ["auto"]):
            dtype = choose_dtype(name, chosen)
            settings = BenchmarkSettings(
                PRESETS[model], chosen, dtype, side, loop=loop, cache=cache
            )
            dtype_name = str(dtype).removeprefix("torch.")
            title = f"{model}, {chosen}, {side}², {dtype_name}, median of {runs}"
            failures += _print_tables(title, settings, groups, batches, runs, check=check)
            if profile:
                _print_profiles(title, settings, paths, runs)
    except ModelError as error:
        failures.append(error)
    for failure in failures:
        say(str(failure))
    if failures:
        raise typer.Exit(1)


@app.command("service")
def bench_service(
    *,
    quick: Annotated[
        bool, typer.Option(help="Less than 4 minutes on two cores, instead of about 15.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Model to serve; see `rmbg models list`.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Model workers; default: that of `rmbg up`.")
    ] = None,
    rembg: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The program `rembg` to compare with."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all figures as JSON.")
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(min=1, help="Instead: the memory of each process over so many pictures."),
    ] = None,
) -> None:
    """Measure a service of its own: pictures a second, processor time, memory; as Markdown.

    Beside it, in turn: the model alone, and `rembg s` if its program is given, for instance from
    an environment with `rembg[cpu,cli]`.
    """
    with require_torch():
        from deploy.bench.memory import measure_memory, memory_table  # noqa: PLC0415 - numpy
        from deploy.bench.processes import machine  # noqa: PLC0415 - an optional extra
        from deploy.bench.service import Plan, markdown, measure  # noqa: PLC0415 - the same

    settings = Settings.load(**({"model": model} if model else {}))
    up_options = ("--workers", str(workers)) if workers else ()
    try:
        with exit_on_error():
            if pictures is not None:
                readings = measure_memory(
                    settings.model, pictures, up_options=up_options, progress=say
                )
                typer.echo(memory_table(readings))
                return
            report = measure(
                settings,
                Plan.of(quick=quick),
                machine=machine(),
                up_options=up_options,
                rembg=rembg,
                progress=say,
            )
    except (StackError, ClientError) as error:
        say(str(error))
        raise typer.Exit(1) from error
    typer.echo(markdown(report))
    if json_file is not None:
        json_file.write_text(json.dumps(report.facts(), indent=1) + "\n", encoding="utf-8")


@app.command("gpu-share")
def bench_gpu_share(
    *,
    model: Annotated[str, typer.Option(help=f"One of {_MODELS}.")] = "rmbg-2.0",
    device: Annotated[str, typer.Option(help="cuda, cuda:N or cpu.")] = "cuda",
    workers: Annotated[
        list[int] | None, typer.Option(min=1, help="Workers; may be repeated.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each client.")] = 20,
) -> None:
    """Measure services of 1, 2, 4, 8 and 16 workers that share one GPU; as Markdown.

    The weights are made up. Each service has two clients for each worker.
    """
    _check_size(model, None)
    with require_torch():
        from deploy.bench.gpu_share import measure_shares, share_table  # noqa: PLC0415 - torch
    shares = []
    try:
        with exit_on_error():
            counts = workers or _WORKERS
            for share in measure_shares(model, device, counts, pictures, progress=say):
                shares.append(share)  # noqa: PERF402 - those before a failure are kept
    except (StackError, ClientError) as error:
        say(str(error))
        raise typer.Exit(1) from error
    finally:
        if shares:
            typer.echo(share_table(shares))


@app.command("refine")
def bench_refine(
    *,
    width: Annotated[int, typer.Option(min=2, help="Of the picture, pixels.")] = 3000,
    height: Annotated[int, typer.Option(min=2, help="Of the picture, pixels.")] = 2000,
    device: Annotated[str, typer.Option(help="cpu (numpy), cuda or cuda:N (torch).")] = "cpu",
    runs: Annotated[int, typer.Option(min=1, help="Pictures to time.")] = 10,
) -> None:
    """Time the foreground estimation on a generated picture with a soft-edged subject."""
    with require_torch(), exit_on_error():
        milliseconds, soft_share = _time_refine(width, height, device, runs)
    table = Table("picture", "device", "soft pixels", "time", title="refine")
    table.add_row(f"{width}x{height}", device, f"{soft_share:.1%}", f"{milliseconds:,.1f} ms")
    Console().print(table)


@app.command("control")
def bench_control(
    *,
    quick: Annotated[bool, typer.Option(help="Measure less, in about 3 minutes.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all figures as JSON.")
    ] = None,
) -> None:
    """Time the service around models that only sleep, and what grows with its queue.

    Starts a service of its own, on free ports. Prints tables in Markdown.
    """
    try:
        from benchmarks import control  # noqa: PLC0415 - not installed with the service
    except ModuleNotFoundError as error:
        say(f"{error}. This benchmark is part of the source: run it there, after `make install`.")
        raise typer.Exit(1) from error
    control.run(quick=quick, output=json_file)


def _time_refine(width: int, height: int, device: str, runs: int) -> tuple[float, float]:
    """Return the median in milliseconds, and the share of soft pixels, 0..1.

    The picture is noise, with a soft-edged disc as its subject.
    """
    import numpy as np  # noqa: PLC0415 - an optional extra

    from inference.refine import NEGLIGIBLE_ALPHA, estimate_foreground  # noqa: PLC0415 - numpy

    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    rim = 0.05  # of the radius: about a tenth of the picture is soft
    alpha = np.clip((0.7 - np.hypot(rows, columns)) / rim + 0.5, 0, 1).astype(np.float32)
    estimate: Callable[[], object] = partial(estimate_foreground, rgb, alpha)
    if device != "cpu":
        import torch  # noqa: PLC0415 - the measurement on the CPU does without

        from inference import refine_torch  # noqa: PLC0415 - imports torch
        from inference.models.birefnet import device as devices  # noqa: PLC0415 - imports torch

        chosen = devices.choose_device(device)
        # An engine's matte is on the GPU already.
        pixels, matte = torch.tensor(rgb, device=chosen), torch.tensor(alpha, device=chosen)

        def estimate_on_gpu() -> None:
            refine_torch.estimate_foreground(pixels, matte)
            devices.synchronize(chosen)

        estimate = estimate_on_gpu

    estimate()  # to warm up
    seconds = statistics.median(timeit.repeat(estimate, number=1, repeat=runs))
    soft = (alpha > NEGLIGIBLE_ALPHA) & (alpha < 1 - NEGLIGIBLE_ALPHA)
    return 1000 * seconds, float(soft.mean())


def _check_size(model: str, size: int | None) -> int:
    """Return the side of a picture."""
    if model not in PRESETS:
        raise typer.BadParameter(f"There is no BiRefNet {model!r}: use one of {_MODELS}.")
    side = size or PRESETS[model].input_size
    if side % 64:
        raise typer.BadParameter("Give a size that is a multiple of 64.")
    return side


def _check_paths(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in _PATHS:
            raise typer.BadParameter(f"There is no path {name!r}: use one of {', '.join(_PATHS)}.")
    return names


def _print_tables(
    title: str,
    settings: "BenchmarkSettings",
    groups: Iterable[Sequence[str]],
    batches: Sequence[int],
    runs: int,
    *,
    check: bool,
) -> list[ModelError]:
    """Print a table for each group of paths as soon as it is measured; return the failures.

    What was measured before a failure is printed, too.
    """
    from inference.models.birefnet.bench import (  # noqa: PLC0415 - imports torch
        compare_paths,
        find_roofline,
    )
    from inference.models.birefnet.fast.runners import ExecutionPath  # noqa: PLC0415 - imports torch

    roofline = find_roofline(settings)
    failures, baseline = [], None
    for group in groups:
        rows = []
        paths = [ExecutionPath(path) for path in group]
        try:
            for row in compare_paths(settings, paths, batches=batches, runs=runs, check=check):
                rows.append(row)  # noqa: PERF402 - those before a failure are kept
        except ModelError as error:
            failures.append(error)
        if rows:
            baseline = baseline or rows
            _print_table(title, rows, baseline, roofline)
    return failures


def _print_profiles(
    title: str, settings: "BenchmarkSettings", paths: Sequence[str], runs: int
) -> None:
    from inference.models.birefnet.bench import profile_path  # noqa: PLC0415 - imports torch
    from inference.models.birefnet.fast.runners import ExecutionPath  # noqa: PLC0415 - imports torch

    for path in paths:
        found = profile_path(settings, ExecutionPath(path), runs)
        whole = sum(each.milliseconds for each in found)
        table = Table(box=None)
        table.add_column("kernel", no_wrap=True)
        for name in ("ms", "share", "calls"):
            table.add_column(name, justify="right")
        for each in found[:_PROFILE_ROWS]:
            table.add_row(*_profile_cells(each, whole))
        console = Console(highlight=False)
        # No title of the table's, which would be broken at its width.
        console.print(f"{title}: {path} by kernel", markup=False)
        console.print(table)


def _profile_cells(each: "OperationTime", whole: float) -> tuple[str, ...]:
    share = each.milliseconds / whole if whole else 0.0
    return (
        escape(each.name[:_PROFILE_NAME]),
        f"{each.milliseconds:,.2f}",
        f"{share:.1%}",
        f"{each.calls:,.0f}",
    )


def _print_table(
    title: str,
    rows: Sequence["Measurement"],
    baseline: Sequence["Measurement"],
    roofline: "Roofline",
) -> None:
    """Print one row for each path and batch; its gain is over the baseline's first path.

    The table fits into 80 columns.
    """
    first = {row.batch: row.milliseconds for row in reversed(baseline)}
    cells = [_cells(row, first.get(row.batch), roofline.milliseconds) for row in rows]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for name in cells[0]:
        table.add_column(name, justify="left" if name == "path" else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row.values())
    console = Console(highlight=False)
    console.print(table)
    for note in _notes(rows, baseline[0].path, roofline):
        console.print(note, markup=False)


def _cells(row: "Measurement", first: float | None, roof: float) -> dict[str, str]:
    """Return the cells of a row by the names of their columns; all times in milliseconds.

    Args:
        row: what was measured.
        first: the time of the path that is compared with; None if it was not measured.
        roof: the time that the arithmetic of one picture takes at the peak.
    """
    loop, error = row.loop_milliseconds, row.alpha_error
    cells = {
        "path": row.path,
        "batch": f"{row.batch}",
        "ms": f"{row.milliseconds:,.1f}",
        "loop ms": None if loop is None else f"{loop:,.1f}",
        "images/s": f"{row.images_per_second:,.2f}",
        "gain": "" if first is None else f"{first / row.milliseconds:.2f}x",
        "MiB": f"{row.peak_bytes / 2**20:,.0f}",
        "roof": f"{row.batch * roof / row.milliseconds:.0%}",
        "start": f"{row.start_seconds:,.1f}",
        "error": None if error is None else f"{255 * error:.3f}",
    }
    return {name: cell for name, cell in cells.items() if cell is not None}


def _notes(rows: Sequence["Measurement"], over: str, roofline: "Roofline") -> list[str]:
    """Explain the columns, and why a path ran in another way than its usual one."""
    reasons = dict.fromkeys(f"{row.path}: {row.reason}." for row in rows if row.reason)
    notes = [
        f"gain: speed-up over {over}.",
        "roof: share of the time that the arithmetic alone takes at the peak,",
        f"{roofline.milliseconds:,.1f} ms for {roofline.gflop:,.1f} GFLOP a picture.",
        f"Peak: {roofline.tflops:,.3f} TFLOP/s, {roofline.source}.",
        "MiB: peak memory, that torch holds of the GPU, or of the whole process.",
        "start: seconds from weights in memory to the first answer.",
    ]
    if rows[0].loop_milliseconds is not None:
        notes.append("loop: with preprocessing, and mattes resized to their pictures.")
    if rows[0].alpha_error is not None:
        notes.append("error: largest difference of a matte from float32, in 1/255.")
    return [*notes, *reasons, ""]
