"""The table of `rmbg bench model`, for a terminal of 80 columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from inference.models.birefnet.measuring.side_by_side import Measurement


@dataclass(frozen=True, slots=True)
class Floor:
    """What the arithmetic of one picture alone would take."""

    milliseconds: float
    gflop: float
    tflops: float
    #: Where the device's throughput comes from.
    source: str


def print_table(
    title: str, rows: Sequence["Measurement"], floor: Floor, baseline: Sequence["Measurement"]
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


def _cells(row: "Measurement", first: "Measurement | None", floor: Floor) -> list[str]:
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


def _notes(rows: Sequence["Measurement"], floor: Floor, over: str) -> list[str]:
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
