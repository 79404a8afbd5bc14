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
from torch.utils.flop_counter import FlopCounterMode

from inference.models.base import Alpha, Rgb
from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.device import synchronize, translate_gpu_errors
from inference.models.birefnet.engine import logits_to_matte, preprocess
from inference.models.birefnet.fast.runners import (
    ExecutionPath,
    Runner,
    deformable_fallback_reason,
    make_runner,
)
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.network import BiRefNet

_PROC_SELF = Path("/proc/self")

_WARM_UPS_ON_GPU = 3


def use_device(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the one that events and streams are made for."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def median_time(run: Callable[[], object], device: torch.device, runs: int) -> float:
    """The median time of a call, after a warm-up."""
    warm_up_call(run, device)
    return statistics.median(time_call(run, device) for _ in range(runs))


def warm_up_call(run: Callable[[], object], device: torch.device) -> None:
    """Call it until nothing is done for the first time."""
    for _ in range(_WARM_UPS_ON_GPU if device.type == "cuda" else 1):
        run()
    synchronize(device)


def time_call(run: Callable[[], object], device: torch.device) -> float:
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


def reset_peak_memory(device: torch.device) -> None:
    """Count the peak of memory from here on; where the system can't, the process's is kept."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROC_SELF / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM: proc(5)
    except OSError:
        return


def peak_memory_bytes(device: torch.device) -> int:
    """Of what torch holds of the GPU, or of all that this process held.

    Held, not allocated: what a recorded graph works in counts as free once it is recorded.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        status = (_PROC_SELF / "status").read_text(encoding="ascii")
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """What all that are compared have in common."""

    config: BiRefNetConfig
    device: torch.device
    dtype: torch.dtype
    #: Of a picture, pixels; a multiple of 32, off the reference path of 64.
    size: int
    #: Time whole pictures in and mattes out, too?
    loop: bool = False
    #: Folder for what a compiler makes.
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """What was measured for one size of batch, round by round."""

    milliseconds: list[float] = field(default_factory=list)
    loop_milliseconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def median(self) -> float:
        """Of the network alone, milliseconds."""
        return statistics.median(self.milliseconds)

    def median_of_loop(self) -> float | None:
        """With pictures in and mattes out, milliseconds; None if it was not measured."""
        return statistics.median(self.loop_milliseconds) if self.loop_milliseconds else None


class Candidate:
    """A network with stand-in weights, run on one path.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """

    def __init__(self, setting: BenchmarkSettings, path: ExecutionPath) -> None:
        self._setting = setting
        network = golden_network(setting.config)
        note = "" if path is ExecutionPath.REFERENCE else deformable_fallback_reason(setting.device)
        began = time.perf_counter()
        where = setting.device, setting.dtype
        self.run: Runner = make_runner(
            path, network, *where, side=setting.size, cache=setting.cache, reason=note
        )
        self.run(self._pixels(1))
        synchronize(setting.device)
        #: From weights in memory to the first answer: what a worker's start waits for.
        self.start_seconds = time.perf_counter() - began

    def error(self, expected: Tensor) -> float:
        """The largest difference between its matte and that of these logits, 0..1."""
        answer = self.run(self._pixels(1)).float().sigmoid().cpu()
        return float((answer - expected.sigmoid()).abs().max())

    def warm_up(self, batch: int) -> None:
        """For batches of this size."""
        warm_up_call(partial(self.run, self._pixels(batch)), self._setting.device)

    def measure(self, batch: int, rounds: Timings) -> None:
        """One round more."""
        pixels, device = self._pixels(batch), self._setting.device
        reset_peak_memory(device)
        rounds.milliseconds.append(time_call(partial(self.run, pixels), device))
        rounds.peaks.append(peak_memory_bytes(device))
        if self._setting.loop:
            pictures = [_random_picture(self._setting.size)] * batch
            rounds.loop_milliseconds.append(time_call(partial(self._loop, pictures), device))

    def _pixels(self, batch: int) -> Tensor:
        setting = self._setting
        picture = torch.from_numpy(golden_input(setting.size)).to(setting.device, setting.dtype)
        return picture.repeat(batch, 1, 1, 1)

    def _loop(self, pictures: list[Rgb]) -> list[Alpha]:
        """What the engine does with a batch."""
        size, device = self._setting.size, self._setting.device
        batch = torch.cat([preprocess(picture, size, device) for picture in pictures])
        logits = self.run(batch.to(self._setting.dtype))
        return [
            logits_to_matte(one, *picture.shape[:2])
            for one, picture in zip(torch.split(logits, 1), pictures, strict=True)
        ]


def _random_picture(side: int) -> Rgb:
    """Half as wide again as the network's own, so that it is resized."""
    return np.random.default_rng(0).integers(0, 256, (side, 3 * side // 2, 3), np.uint8)


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

_GEMM_SIDE: Mapping[str, int] = MappingProxyType({"cpu": 2048, "cuda": 8192})


@dataclass(frozen=True, slots=True)
class PeakThroughput:
    """What a device can do at most."""

    tflops: float
    #: Where the figure comes from.
    source: str

    def milliseconds(self, flops: int) -> float:
        """The time of so many operations."""
        return flops / self.tflops / 1e9


def find_peak_throughput(device: torch.device, dtype: torch.dtype) -> PeakThroughput:
    """By the data sheet where there is one, else by a large matrix product."""
    if device.type == "cuda" and dtype is not torch.float32:
        card = torch.cuda.get_device_name(device)
        for name, tflops in _DATA_SHEET_TFLOPS.items():
            if name in card:
                return PeakThroughput(tflops, f"data sheet of the {name}")
    side = _GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with use_device(device):
        took = median_time(lambda: left @ right, device, runs=5)
    return PeakThroughput(2 * side**3 / took / 1e9, f"measured on a {side}² matrix product")


def count_flops(config: BiRefNetConfig, batch: int, size: int) -> int:
    """Operations of one batch's matrix products and convolutions; nothing is computed.

    A multiply-add counts as two.
    """
    with torch.device("meta"):
        network, pictures = BiRefNet(config).eval(), torch.empty(batch, 3, size, size)
        with FlopCounterMode(display=False) as counter:
            network(pictures)
    return int(counter.get_total_flops())


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of one path for one size of batch."""

    #: How the network was run.
    path: str
    #: Why not as was asked; empty if it was.
    reason: str
    batch: int
    milliseconds: float
    #: The same with pictures as an engine gets them and mattes as it answers; None if not asked.
    loop_milliseconds: float | None
    #: Most while it ran: of what torch holds of the GPU, or of all that the process held.
    peak_bytes: int
    #: From weights in memory to the first answer.
    start_seconds: float
    #: Largest difference of one matte from the float32 reference's, 0..1; None if not compared.
    alpha_error: float | None

    @property
    def images_per_second(self) -> float:
        """Pictures through the network."""
        return 1000 * self.batch / self.milliseconds


@torch.inference_mode()
def compare_paths(
    setting: BenchmarkSettings,
    paths: Sequence[ExecutionPath],
    *,
    batches: Sequence[int],
    runs: int,
    check: bool = False,
) -> Iterator[Measurement]:
    """Time a network with stand-in weights: medians of `runs` rounds, after a warm-up.

    In each round every path runs once, so that a machine whose speed drifts is as fast for one as
    for the others. All of them are in memory together: measure one alone to see what it needs.

    Args:
        setting: what they have in common.
        paths: how the network is run.
        batches: pictures at once.
        runs: rounds.
        check: first compare one picture's matte with the float32 reference's.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    expected = _reference_logits(setting) if check else None
    torch.compiler.reset()  # what was compiled before would save a start its time
    with translate_gpu_errors(setting.device), use_device(setting.device):
        contenders = [Candidate(setting, path) for path in paths]
        errors = [None if expected is None else one.error(expected) for one in contenders]
        for batch in batches:
            rounds = _time_in_rounds(contenders, batch, runs)
            for contender, measured, error in zip(contenders, rounds, errors, strict=True):
                yield _summarize(contender, batch, measured, error)


def _reference_logits(setting: BenchmarkSettings) -> Tensor:
    logits: Tensor = golden_network(setting.config)(torch.from_numpy(golden_input(setting.size)))
    return logits


def _time_in_rounds(contenders: Sequence[Candidate], batch: int, runs: int) -> list[Timings]:
    for contender in contenders:
        contender.warm_up(batch)
    measured = [Timings() for _ in contenders]
    for _ in range(runs):
        for contender, rounds in zip(contenders, measured, strict=True):
            contender.measure(batch, rounds)
    return measured


def _summarize(
    contender: Candidate, batch: int, rounds: Timings, error: float | None
) -> Measurement:
    return Measurement(
        path=contender.run.path.value,
        reason=contender.run.reason,
        batch=batch,
        milliseconds=rounds.median(),
        loop_milliseconds=rounds.median_of_loop(),
        peak_bytes=max(rounds.peaks),
        start_seconds=contender.start_seconds,
        alpha_error=error,
    )
