"""The execution paths of a loaded network, and the choice of one for a device."""

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from os import getuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

from inference.errors import GpuFaultError, GpuOutOfMemoryError
from inference.models.birefnet.fast import deformable
from inference.models.birefnet.fast.network import FAST_STRIDE, FastBiRefNet
from inference.models.birefnet.network import BiRefNet

_WARM_UP_RUNS: Final = 3
_ROOT_UID: Final = 0
_GROUP_OR_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class ExecutionPath(StrEnum):
    """The ways to run a network, from the simplest to the fastest."""

    #: The network as it was loaded.
    REFERENCE = "reference"
    #: `FastBiRefNet`, operator by operator.
    FAST = "fast"
    #: `FastBiRefNet`, compiled by torch.compile and captured as CUDA graphs of some batch sizes.
    GRAPHED = "graphed"


@dataclass(frozen=True, slots=True)
class Runner:
    """A network on its device: pictures in, logits out."""

    #: Maps (batch, 3, side, side) to (batch, 1, side, side), in the network's precision.
    run: Callable[[Tensor], Tensor]
    path: ExecutionPath
    #: Why it is not a faster path, or what it lacks; empty if nothing.
    reason: str


def choose_execution_path(
    compile_: str, device: torch.device, side: int
) -> tuple[ExecutionPath, str]:
    """Choose the path for a device and a picture's side, and say why it is not a faster one.

    `compile_` is `auto`, or `off` for the reference path.
    """
    if compile_ == "off":
        return ExecutionPath.REFERENCE, "it was asked for"
    if side % FAST_STRIDE:
        return ExecutionPath.REFERENCE, f"{side} pixels are no multiple of {FAST_STRIDE}"
    if device.type == "cpu":
        return ExecutionPath.FAST, "compiling for a CPU takes minutes and gains almost nothing"
    return ExecutionPath.GRAPHED, deformable_fallback_reason(device)


def deformable_fallback_reason(device: torch.device) -> str:
    """Say why a GPU cannot use the kernel of the deformable convolution; empty if it can."""
    problem = deformable.triton_unusable_reason() if device.type == "cuda" else None
    return f"deformable convolution without its own kernel: {problem}" if problem else ""


def make_runner(
    path: ExecutionPath,
    network: BiRefNet,
    device: torch.device,
    dtype: torch.dtype,
    *,
    side: int,
    cache: Path | None,
    reason: str = "",
    batches: Sequence[int] = (1,),
) -> Runner:
    """Make the runner of a path, warmed up; the fast path replaces one that cannot be compiled.

    The network is moved to the device and the precision. Graphs are captured for these batch sizes:
    by default of one picture, as the service runs them; each further one costs a worker memory, and
    its start time.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    if path is ExecutionPath.REFERENCE:
        return Runner(network.to(device, dtype), path, reason)
    fast = FastBiRefNet(network, side).to(device, dtype)
    if path is ExecutionPath.GRAPHED:
        try:
            return _make_graphed(fast, cache, reason, batches)
        except (GpuFaultError, GpuOutOfMemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the compiler raises, the fast path remains
            failure = f"torch.compile failed: {_compiler_error_line(error)}"
            reason = _join_reasons(reason, failure)
    return Runner(partial(_prepare_and_run, fast, fast), ExecutionPath.FAST, reason)


def _make_graphed(
    network: FastBiRefNet, cache: Path | None, reason: str, batches: Sequence[int]
) -> Runner:
    """Compile the network and capture it as CUDA graphs; `cache` keeps the compiled code."""
    compiled = cast("nn.Module", torch.compile(network, fullgraph=True, dynamic=False))
    with compiler_cache_folder(cache) as kept:
        graphs = CapturedGraphs(partial(_prepare_and_run, network, compiled), network, batches)
    if cache is not None and not kept:
        problem = f"{cache} cannot be made, or is not its owner's alone"
        reason = _join_reasons(reason, f"compiled code is not kept: {problem}")
    return Runner(graphs, ExecutionPath.GRAPHED, reason)


def _prepare_and_run(network: FastBiRefNet, module: nn.Module, pixels: Tensor) -> Tensor:
    network.prepare(len(pixels))
    return module(pixels)


def _join_reasons(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _compiler_error_line(error: Exception) -> str:
    """Return the first line of the error that the compiler's own error wraps."""
    inner = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
    first = (str(inner).splitlines() or [""])[0]
    return f"{type(inner).__name__}: {first}"


@contextmanager
def compiler_cache_folder(folder: Path | None) -> Iterator[bool]:
    """Have torch's compiler keep its code in a folder, and use what an earlier start kept there.

    Torch names each product by everything that it depends on: the graph, torch itself, the device.
    Whoever may write to the folder may run code as the worker, so it is made for its owner alone,
    and a folder that others own, may write to or may replace is not used. A temporary folder
    replaces it: torch's default has a name that anybody may have taken before.

    Yields:
        Whether the code is kept; if not, the next start compiles again.
    """
    if folder is not None and _is_private(folder):
        with temporary_cache_dir(str(folder.resolve())):
            yield True
    else:
        with TemporaryDirectory(prefix="rmbg-compiled-") as own, temporary_cache_dir(own):
            yield False


def _is_private(folder: Path) -> bool:
    """Make a folder, and return whether nobody else owns it, may write to it or may replace it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own, *above = (path.stat() for path in (folder.resolve(), *folder.resolve().parents))
    except OSError:
        return False
    ours = own.st_uid == getuid() and not own.st_mode & _GROUP_OR_OTHERS_WRITE
    return ours and all(
        state.st_uid in {getuid(), _ROOT_UID}
        and (not state.st_mode & _GROUP_OR_OTHERS_WRITE or state.st_mode & stat.S_ISVTX)
        for state in above
    )


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    """A CUDA graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    logits: Tensor


class CapturedGraphs:
    """Runs batches of any size as captured pieces; the last piece is padded.

    Args:
        run: the network; it is called on the current stream.
        network: provides example pictures.
        batches: sizes of the pieces.
    """

    def __init__(
        self, run: Callable[[Tensor], Tensor], network: FastBiRefNet, batches: Sequence[int]
    ) -> None:
        self._captured: dict[int, _CapturedGraph] = {}
        pool = torch.cuda.graph_pool_handle()
        for batch in sorted(batches, reverse=True):  # the others fit into the largest one's memory
            try:
                self._captured[batch] = _capture_graph(run, network.example(batch), pool)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        if not self._captured:
            raise torch.OutOfMemoryError("no batch fits into the memory as a CUDA graph")

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map (batch, 3, side, side) to (batch, 1, side, side)."""
        largest = max(self._captured)
        logits = [self._replay(part) for part in torch.split(pixels, largest)]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _replay(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        captured = self._captured[smallest_fitting_batch(count, tuple(self._captured))]
        captured.pixels[:count].copy_(pixels, non_blocking=True)
        captured.graph.replay()
        return captured.logits[:count].clone()  # the next replay overwrites them


def smallest_fitting_batch(count: int, sizes: tuple[int, ...]) -> int:
    """Return the smallest of the sizes that is at least `count`."""
    return min(size for size in sizes if size >= count)


def _capture_graph(run: Callable[[Tensor], Tensor], pixels: Tensor, pool: Any) -> _CapturedGraph:  # noqa: ANN401 - torch has no type for it
    """Run on a separate stream until nothing is allocated for the first time, then capture."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            run(pixels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        logits = run(pixels)
    return _CapturedGraph(graph, pixels, logits)
