"""Time and memory of one call, on a GPU by its own accounts."""

import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from inference.models.birefnet.device import finish

_PROCESS = Path("/proc/self")
_WARM_UPS_ON_GPU = 3


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the one that events and streams are made for."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def median_milliseconds(run: Callable[[], object], device: torch.device, runs: int) -> float:
    """The median time of a call, after a warm-up."""
    warm_up(run, device)
    return statistics.median(milliseconds(run, device) for _ in range(runs))


def warm_up(run: Callable[[], object], device: torch.device) -> None:
    """Call it until nothing is done for the first time."""
    for _ in range(_WARM_UPS_ON_GPU if device.type == "cuda" else 1):
        run()
    finish(device)


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """The time of one call; a GPU is timed by its own events."""
    return _time_on_gpu(run) if device.type == "cuda" else _time_on_cpu(run)


def _time_on_cpu(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)


def _time_on_gpu(run: Callable[[], object]) -> float:
    began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    began.record()
    run()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended))


def forget_peak(device: torch.device) -> None:
    """Count the peak of memory from here on; where the system can't, the process's is kept."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM: proc(5)
    except OSError:
        return


def peak_bytes(device: torch.device) -> int:
    """Of what torch holds of the GPU, or of all that this process held.

    Held, not allocated: what a recorded graph works in counts as free once it is recorded.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        status = (_PROCESS / "status").read_text(encoding="ascii")
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
