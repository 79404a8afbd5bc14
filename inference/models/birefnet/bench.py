"""Benchmark the execution paths of a network: time, memory, and distance from the roofline."""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from inference.models.base import Alpha, Rgb
from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.device import synchronize, translate_gpu_errors
from inference.models.birefnet.engine import logits_to_matte, preprocess
from inference.models.birefnet.fast.runners import (
    ExecutionPath,
    deformable_fallback_reason,
    make_runner,
)
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.network import BiRefNet

_PROC_SELF = Path("/proc/self")
_WARM_UPS_ON_GPU = 3
#: Dense half-precision tensor throughput by the makers' data sheets, TFLOP/s, by a part of the
#: GPU's name; the first match counts.
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
#: Side of the matrices by which the peak is measured, by device type.
_GEMM_SIDE: Mapping[str, int] = MappingProxyType({"cpu": 2048, "cuda": 8192})
_GEMM_RUNS = 5
#: Height and width of the small pictures whose mattes are compared, pixels.
_SMALL_SIDES = ((20, 20), (20, 600))


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """What all compared paths have in common."""

    config: BiRefNetConfig
    device: torch.device
    dtype: torch.dtype
    #: Side of a picture, pixels: a multiple of 64, or of 32 for the reference path.
    size: int
    #: Whether to time preprocessing and mattes too, not only the network.
    loop: bool = False
    #: Folder for compiled code.
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measurements of one path for one batch size."""

    #: The execution path that ran.
    path: str
    #: Why it is not the requested one, or lacks something; empty if it does not.
    reason: str
    batch: int
    #: Median of the network alone.
    milliseconds: float
    #: Median with preprocessing and mattes; None if not measured.
    loop_milliseconds: float | None
    #: Peak memory while it ran: what torch reserved on the GPU, or what the process held.
    peak_bytes: int
    #: From weights in memory to the first logits.
    start_seconds: float
    #: Largest difference of a matte from the float32 reference's, 0..1, those of two small pictures
    #: included; None if not compared.
    alpha_error: float | None

    @property
    def images_per_second(self) -> float:
        """Pictures per second through the network alone."""
        return 1000 * self.batch / self.milliseconds


@dataclass(frozen=True, slots=True)
class Roofline:
    """The time that the arithmetic of one picture takes at the device's peak throughput."""

    #: The arithmetic of one picture.
    gflop: float
    #: The peak throughput, TFLOP/s.
    tflops: float
    #: How the peak throughput is known.
    source: str

    @property
    def milliseconds(self) -> float:
        """That time."""
        return self.gflop / self.tflops


@dataclass(frozen=True, slots=True)
class OperationTime:
    """What one kernel of a GPU, or operation of the CPU, takes of one picture's time."""

    name: str
    milliseconds: float
    calls: float


@dataclass(frozen=True, slots=True)
class ExpectedMattes:
    """What the float32 reference answers on the CPU."""

    #: For the golden input.
    logits: Tensor
    #: Small pictures, each with its matte at its own size.
    small: Sequence[tuple[Rgb, Alpha]]

    @classmethod
    def compute(cls, config: BiRefNetConfig, size: int) -> "ExpectedMattes":
        """Run the reference, for pictures that are resized to a side of `size` pixels."""
        network, cpu = golden_network(config), torch.device("cpu")
        noise = np.random.default_rng(1)
        small = []
        for height, width in _SMALL_SIDES:
            picture = noise.integers(0, 256, (height, width, 3), np.uint8)
            logits = network(preprocess(picture, size, cpu))
            small.append((picture, logits_to_matte(logits, height, width)))
        return cls(network(torch.from_numpy(golden_input(size))), small)


@dataclass(frozen=True, slots=True)
class Timings:
    """The measurements of one path and batch size, round by round."""

    milliseconds: list[float] = field(default_factory=list)
    loop_milliseconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


class Candidate:
    """A network with stand-in weights on one execution path.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """

    def __init__(
        self, settings: BenchmarkSettings, path: ExecutionPath, batches: Sequence[int] = (1,)
    ) -> None:
        self._settings = settings
        device = settings.device
        reason = "" if path is ExecutionPath.REFERENCE else deformable_fallback_reason(device)
        network = golden_network(settings.config)
        started = time.perf_counter()
        self.runner = make_runner(
            path,
            network,
            device,
            settings.dtype,
            side=settings.size,
            cache=settings.cache,
            reason=reason,
            batches=batches,
        )
        self.runner.run(self._pixels(1))
        synchronize(device)
        #: From weights in memory to the first logits: what a worker's start waits for.
        self.start_seconds = time.perf_counter() - started

    def error(self, expected: ExpectedMattes) -> float:
        """Return the largest difference of its mattes from those that are expected, 0..1."""
        matte = self.runner.run(self._pixels(1)).float().sigmoid().cpu()
        errors = [float((matte - expected.logits.sigmoid()).abs().max())]
        for picture, right in expected.small:
            (found,) = self._loop([picture])
            errors.append(float(np.abs(found - right).max()))
        return max(errors)

    def warm_up(self, batch: int) -> None:
        """Warm up for batches of this size."""
        warm_up_call(partial(self.runner.run, self._pixels(batch)), self._settings.device)

    def measure(self, batch: int, timings: Timings) -> None:
        """Run one round and add it to the timings."""
        pixels, device = self._pixels(batch), self._settings.device
        reset_peak_memory(device)
        timings.milliseconds.append(time_call(partial(self.runner.run, pixels), device))
        timings.peaks.append(peak_memory_bytes(device))
        if self._settings.loop:
            side = self._settings.size
            # Half as wide again as the network's input, so that it is resized.
            picture = np.random.default_rng(0).integers(0, 256, (side, 3 * side // 2, 3), np.uint8)
            pictures: list[Rgb] = [picture] * batch
            timings.loop_milliseconds.append(time_call(partial(self._loop, pictures), device))

    def profile(self, runs: int) -> list[OperationTime]:
        """Return what takes the time of one picture, the longest first."""
        self.warm_up(1)
        pixels, device = self._pixels(1), self._settings.device
        on_gpu = device.type == "cuda"
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiled:
            for _ in range(runs):
                self.runner.run(pixels)
            synchronize(device)
        found = [
            OperationTime(
                each.key,
                (each.self_device_time_total if on_gpu else each.self_cpu_time_total) / 1000 / runs,
                each.count / runs,
            )
            for each in profiled.key_averages()
        ]
        return sorted(found, key=lambda each: -each.milliseconds)

    def _pixels(self, batch: int) -> Tensor:
        settings = self._settings
        picture = torch.from_numpy(golden_input(settings.size)).to(settings.device, settings.dtype)
        return picture.repeat(batch, 1, 1, 1)

    def _loop(self, pictures: list[Rgb]) -> list[Alpha]:
        """Do what the engine does with a batch."""
        size, device = self._settings.size, self._settings.device
        batch = torch.cat([preprocess(picture, size, device) for picture in pictures])
        logits = self.runner.run(batch.to(self._settings.dtype))
        return [
            logits_to_matte(one, *picture.shape[:2])
            for one, picture in zip(torch.split(logits, 1), pictures, strict=True)
        ]


@torch.inference_mode()
def compare_paths(
    settings: BenchmarkSettings,
    paths: Sequence[ExecutionPath],
    *,
    batches: Sequence[int],
    runs: int,
    check: bool = False,
) -> Iterator[Measurement]:
    """Time a network with stand-in weights: medians of `runs` rounds, after a warm-up.

    In each round every path runs once, so that a drift of the machine's speed affects all alike.
    All paths are in memory together: measure one alone to see how much it needs. With `check`,
    mattes of each are compared with the float32 reference's first.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    expected = ExpectedMattes.compute(settings.config, settings.size) if check else None
    torch.compiler.reset()  # else code compiled before would shorten the start
    with translate_gpu_errors(settings.device), use_device(settings.device):
        candidates = [Candidate(settings, path, batches) for path in paths]
        errors = [None if expected is None else each.error(expected) for each in candidates]
        for batch in batches:
            for candidate in candidates:
                candidate.warm_up(batch)
            measured = [Timings() for _ in candidates]
            for _ in range(runs):
                for candidate, timings in zip(candidates, measured, strict=True):
                    candidate.measure(batch, timings)
            for candidate, timings, error in zip(candidates, measured, errors, strict=True):
                loops = timings.loop_milliseconds
                yield Measurement(
                    path=candidate.runner.path.value,
                    reason=candidate.runner.reason,
                    batch=batch,
                    milliseconds=statistics.median(timings.milliseconds),
                    loop_milliseconds=statistics.median(loops) if loops else None,
                    peak_bytes=max(timings.peaks),
                    start_seconds=candidate.start_seconds,
                    alpha_error=error,
                )


@torch.inference_mode()
def profile_path(
    settings: BenchmarkSettings, path: ExecutionPath, runs: int
) -> list[OperationTime]:
    """Return what takes the time of one picture on a path, the longest first: means of `runs`.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    with translate_gpu_errors(settings.device), use_device(settings.device):
        return Candidate(settings, path).profile(runs)


def find_roofline(settings: BenchmarkSettings) -> Roofline:
    """Count the arithmetic of one picture, and find the peak throughput of the device.

    The peak is that of the data sheet if there is one, else that of a large matrix product.
    """
    gflop = count_flops(settings.config, settings.size) / 1e9
    device, dtype = settings.device, settings.dtype
    if device.type == "cuda" and dtype is not torch.float32:
        card = torch.cuda.get_device_name(device)
        for name, tflops in _DATA_SHEET_TFLOPS.items():
            if name in card:
                return Roofline(gflop, tflops, f"data sheet of the {name}")
    side = _GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    multiply = partial(torch.matmul, left, right)
    with use_device(device):
        warm_up_call(multiply, device)
        milliseconds = statistics.median(time_call(multiply, device) for _ in range(_GEMM_RUNS))
    tflops = 2 * side**3 / milliseconds / 1e9
    return Roofline(gflop, tflops, f"measured on a {side}² matrix product")


def count_flops(config: BiRefNetConfig, size: int) -> int:
    """Count the operations of one picture's matrix products and convolutions without computing.

    A multiply-add counts as two.
    """
    with torch.device("meta"):
        network, picture = BiRefNet(config).eval(), torch.empty(1, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            network(picture)
    return int(counter.get_total_flops())


def use_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU current, so that events and streams are made for it."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def warm_up_call(run: Callable[[], object], device: torch.device) -> None:
    """Call until nothing is done for the first time any more."""
    for _ in range(_WARM_UPS_ON_GPU if device.type == "cuda" else 1):
        run()
    synchronize(device)


def time_call(run: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call in milliseconds; a GPU is timed by its own events."""
    if device.type == "cpu":
        begun = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - begun)
    started = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    finished = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    started.record()
    run()
    finished.record()
    finished.synchronize()
    return float(started.elapsed_time(finished))


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of peak memory; a system that cannot do this keeps the old peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROC_SELF / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM: proc(5)
    except OSError:
        return


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of what torch reserved on the GPU, or of what this process held.

    Reserved, not allocated: the memory that a captured graph works in does not count as allocated.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        status = (_PROC_SELF / "status").read_text(encoding="ascii")
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
