"""Measure how long the foreground estimation takes on this machine."""

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inference.refine import NEGLIGIBLE_ALPHA, estimate_foreground


def benchmark_refine(width: int, height: int, device: str, runs: int) -> tuple[float, float]:
    """Time a made-up picture: a noisy one, with a disc for a subject, its rim soft.

    Args:
        width: of the picture, pixels.
        height: of the picture, pixels.
        device: `cpu` for numpy, else torch's name of a GPU.
        runs: pictures to time, after a warm-up.

    Returns:
        The median in milliseconds, and the share of soft pixels, 0..1.

    Raises:
        ModelError: the device is not there.
    """
    rgb, alpha = _synthetic_picture(width, height)
    run = _on_cpu(rgb, alpha) if device == "cpu" else _on_gpu(rgb, alpha, device)
    soft = float(((alpha > NEGLIGIBLE_ALPHA) & (alpha < 1 - NEGLIGIBLE_ALPHA)).mean())
    run()
    return statistics.median(_time_call(run) for _ in range(runs)), soft


def _synthetic_picture(width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    rim = 0.05  # of the radius: about a tenth of the picture is soft
    alpha = np.clip((0.7 - np.hypot(rows, columns)) / rim + 0.5, 0, 1)
    return rgb, alpha.astype(np.float32)


def _on_cpu(rgb: NDArray[np.uint8], alpha: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: estimate_foreground(rgb, alpha)


def _on_gpu(
    rgb: NDArray[np.uint8], alpha: NDArray[np.float32], device: str
) -> Callable[[], object]:
    """The picture's way to the GPU and back is not timed: its matte is there already."""
    import torch  # noqa: PLC0415 - the CPU's way does without

    from inference import refine_torch  # noqa: PLC0415 - imports torch
    from inference.models.birefnet.device import choose_device, synchronize  # noqa: PLC0415 - the same

    chosen = choose_device(device)
    pixels, matte = torch.tensor(rgb, device=chosen), torch.tensor(alpha, device=chosen)

    def run() -> None:
        refine_torch.estimate_foreground(pixels, matte)
        synchronize(chosen)

    return run


def _time_call(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)
