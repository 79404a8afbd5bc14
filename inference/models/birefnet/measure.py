"""How fast a network runs here, beside how fast its arithmetic alone could be."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch.utils.flop_counter import FlopCounterMode

from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.device import finish, gpu_faults
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
    dtype: torch.dtype,
    *,
    batch: int,
    size: int,
    runs: int,
) -> Measurement:
    """Time a network with stand-in weights: the median of `runs`, after a warm-up.

    Args:
        config: the network.
        device: where it runs.
        dtype: of its weights and activations.
        batch: pictures at once.
        size: side of a picture, pixels; a multiple of 32.
        runs: batches to time.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    peak = _peak(device, dtype)
    with gpu_faults(device):
        network = golden_network(config).to(device, dtype)
        pictures = torch.from_numpy(golden_input(size)).to(device, dtype).repeat(batch, 1, 1, 1)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        milliseconds = median_milliseconds(lambda: network(pictures), device, runs)
    return Measurement(
        milliseconds=milliseconds,
        images_per_second=1000 * batch / milliseconds,
        peak_bytes=_peak_bytes(device),
        flops=count_flops(config, batch, size),
        peak=peak,
    )


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
