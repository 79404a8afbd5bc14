"""Measure how long the foreground estimation takes on this machine.

Apart from the benchmark of networks, because on the CPU it needs no torch.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inference.refine import NEGLIGIBLE_ALPHA, estimate_foreground


def benchmark_refine(width: int, height: int, device: str, runs: int) -> tuple[float, float]:
    """Time the estimation on a synthetic picture: noise, with a soft-edged disc as its subject.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        device: `cpu` for numpy, else torch's name of a GPU.
        runs: calls to time, after a warm-up.

    Returns:
        The median in milliseconds, and the share of soft pixels, 0..1.

    Raises:
        ModelError: the device does not exist.
    """
    rgb, alpha = _synthetic_picture(width, height)
    if device == "cpu":
        milliseconds = _median_time(lambda: estimate_foreground(rgb, alpha), runs)
    else:
        milliseconds = _median_time(_prepare_on_gpu(rgb, alpha, device), runs)
    soft = (alpha > NEGLIGIBLE_ALPHA) & (alpha < 1 - NEGLIGIBLE_ALPHA)
    return milliseconds, float(soft.mean())


def _synthetic_picture(width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    rim = 0.05  # of the radius: about a tenth of the picture is soft
    alpha = np.clip((0.7 - np.hypot(rows, columns)) / rim + 0.5, 0, 1)
    return rgb, alpha.astype(np.float32)


def _prepare_on_gpu(
    rgb: NDArray[np.uint8], alpha: NDArray[np.float32], device: str
) -> Callable[[], object]:
    """Upload the picture and return the call to time; an engine's matte is on the GPU already."""
    import torch  # noqa: PLC0415 - the measurement on the CPU does without

    from inference import refine_torch  # noqa: PLC0415 - imports torch
    from inference.models.birefnet import device as devices  # noqa: PLC0415 - imports torch

    chosen = devices.choose_device(device)
    pixels, matte = torch.tensor(rgb, device=chosen), torch.tensor(alpha, device=chosen)

    def run() -> None:
        refine_torch.estimate_foreground(pixels, matte)
        devices.synchronize(chosen)

    return run


def _median_time(run: Callable[[], object], runs: int) -> float:
    """Return the median of some calls in milliseconds, after one more to warm up."""
    run()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)
