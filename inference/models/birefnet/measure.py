"""How fast a network runs here, beside how fast its arithmetic alone could be."""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.device import finish, gpu_faults
from inference.models.birefnet.fast.runners import ExecutionPath, make_runner
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.network import BiRefNet

#: Dense half-precision tensor throughput by the makers' data sheets, TFLOP/s; the first name that
#: is part of the card's own counts.
_DATA_SHEET_TFLOPS: Mapping[str, float] = MappingProxyType(
    {
        "H200": 989.0,
        "H100": 989.0,
        "A100": 312.0,
        "L40S": 362.0,
        "L4": 121.0,
        "RTX 4090": 165.0,
        "T4": 65.0,
    }
)

_WARM_UPS = 3
_GEMM_SIDE: Mapping[str, int] = MappingProxyType({"cpu": 2048, "cuda": 8192})


@dataclass(frozen=True, slots=True)
class Peak:
    """What a device can do at most."""

    tflops: float
    #: Where the figure comes from.
    source: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured for one batch, and the floor under it."""

    milliseconds: float
    images_per_second: float
    #: Of the GPU's allocations, or of the whole process on the CPU.
    peak_bytes: int
    #: Floating-point operations of a batch, a multiply-add counted as two.
    flops: int
    peak: Peak
    #: How the network was run, and why not as was asked.
    path: str = ""
    #: Largest difference of one matte from the float32 reference's, 0..1; None if not compared.
    alpha_error: float | None = None

    @property
    def floor_milliseconds(self) -> float:
        """The time of a batch if every operation ran at the device's peak."""
        return self.flops / self.peak.tflops / 1e9

    @property
    def share(self) -> float:
        """Of the device's peak, 0..1."""
        return self.floor_milliseconds / self.milliseconds


@torch.inference_mode()
def measure(
    config: BiRefNetConfig,
    device: torch.device,
    path: ExecutionPath,
    dtype: torch.dtype,
    *,
    batches: Sequence[int],
    size: int,
    runs: int,
    check: bool = False,
    cache: Path | None = None,
) -> Iterator[Measurement]:
    """Time a network with stand-in weights: for each batch the median of `runs`, after a warm-up.

    Args:
        config: the network.
        device: where it runs.
        path: how it is run.
        dtype: of its weights and activations.
        batches: pictures at once.
        size: side of a picture, pixels; a multiple of 32, off the reference path of 64.
        runs: batches to time.
        check: first compare one picture's matte with the float32 reference's.
        cache: folder for what a compiler makes.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    peak = _peak(device, dtype)
    picture = torch.from_numpy(golden_input(size))
    expected = golden_network(config)(picture).sigmoid() if check else None
    with gpu_faults(device):
        _forget_peak(device)
        run = make_runner(path, golden_network(config), device, dtype, side=size, cache=cache)
        picture = picture.to(device, dtype)
        error = None if expected is None else _error(run(picture), expected)
        for batch in batches:
            pictures = picture.repeat(batch, 1, 1, 1)
            milliseconds = median_milliseconds(partial(run, pictures), device, runs)
            yield Measurement(
                milliseconds=milliseconds,
                images_per_second=1000 * batch / milliseconds,
                peak_bytes=_peak_bytes(device),
                flops=count_flops(config, batch, size),
                peak=peak,
                path=f"{run.path} ({run.reason})" if run.reason else run.path.value,
                alpha_error=error,
            )


def _error(logits: Tensor, expected: Tensor) -> float:
    """The largest difference between mattes, 0..1."""
    return float((logits.float().sigmoid().cpu() - expected).abs().max())


def _forget_peak(device: torch.device) -> None:
    """Count a GPU's peak memory from here on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def count_flops(config: BiRefNetConfig, batch: int, size: int) -> int:
    """Operations of one batch's matrix products and convolutions; nothing is computed."""
    with torch.device("meta"):
        network, pictures = BiRefNet(config).eval(), torch.empty(batch, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            network(pictures)
    return int(counter.get_total_flops())


def median_milliseconds(run: Callable[[], object], device: torch.device, runs: int) -> float:
    """The median time of a call; a GPU is timed by its own events."""
    for _ in range(_WARM_UPS if device.type == "cuda" else 1):
        run()
    finish(device)
    time_one = _time_on_gpu if device.type == "cuda" else _time_on_cpu
    return statistics.median(time_one(run) for _ in range(runs))


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


def _peak(device: torch.device, dtype: torch.dtype) -> Peak:
    if device.type == "cuda" and dtype is not torch.float32:
        card = torch.cuda.get_device_name(device)
        for name, tflops in _DATA_SHEET_TFLOPS.items():
            if name in card:
                return Peak(tflops, f"data sheet of the {name}")
    side = _GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    milliseconds = median_milliseconds(lambda: left @ right, device, runs=5)
    return Peak(2 * side**3 / milliseconds / 1e9, f"measured on a {side}² matrix product")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux
