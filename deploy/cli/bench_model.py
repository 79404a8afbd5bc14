"""`rmbg bench model`: the ways to run a BiRefNet on this machine, side by side."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.bench_table import Floor, print_table
from deploy.cli.torch_needed import torch_needed
from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS

if TYPE_CHECKING:
    import torch

    from inference.models.birefnet.measuring.contender import Setting
    from inference.models.birefnet.measuring.side_by_side import Measurement

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
    with torch_needed():
        from inference.models.birefnet import device as devices  # noqa: PLC0415 - imports torch
        from inference.models.birefnet.measuring.contender import (  # noqa: PLC0415 - the same
            Setting,
        )
    failures: list[ModelError] = []
    try:
        chosen = devices.choose_device(device)
        gpu = chosen.type == "cuda"
        ways = _known(path or (_PATHS if gpu else _PATHS[:2]))
        batches = batch or ([1, 2, 4, 8] if gpu else [1])
        for name in precision or (["fp16", "bf16"] if gpu else ["auto"]):
            dtype = devices.choose_dtype(name, chosen)
            setting = Setting(PRESETS[model], chosen, dtype, side, loop=loop, cache=cache)
            # On a GPU each alone: its memory is what is asked, and its speed does not drift.
            together = [[way] for way in ways] if gpu else [ways]
            title = f"{model}, {chosen}, {side}², {_short(dtype)}, median of {runs}"
            groups = [
                partial(_rows, setting, group, batches, runs, check=check) for group in together
            ]
            failures += _print_all(title, groups, _floor(setting))
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
    title: str, groups: "Sequence[Callable[[], Iterator[Measurement]]]", floor: Floor
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
    setting: "Setting", paths: Sequence[str], batches: Sequence[int], runs: int, *, check: bool
) -> "Iterator[Measurement]":
    from inference.models.birefnet.fast.runners import ExecutionPath  # noqa: PLC0415 - imports torch
    from inference.models.birefnet.measuring.side_by_side import measure  # noqa: PLC0415 - the same

    ways = [ExecutionPath(path) for path in paths]
    return measure(setting, ways, batches=batches, runs=runs, check=check)


def _floor(setting: "Setting") -> Floor:
    """For one picture; the work of a batch is as many times that."""
    from inference.models.birefnet.measuring.floor import count_flops, find_peak  # noqa: PLC0415

    flops = count_flops(setting.config, 1, setting.size)
    peak = find_peak(setting.device, setting.dtype)
    return Floor(peak.milliseconds(flops), flops / 1e9, peak.tflops, peak.source)


def _short(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")
