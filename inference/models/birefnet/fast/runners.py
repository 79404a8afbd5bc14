"""The execution paths of a loaded network, and the choice of one for a device."""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from os import getuid
from pathlib import Path
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir

from inference.errors import GpuFaultError, GpuOutOfMemoryError
from inference.models.birefnet.fast import deformable
from inference.models.birefnet.fast.network import FAST_STRIDE, FastBiRefNet
from inference.models.birefnet.network import BiRefNet

_ROOT_UID = 0

_GROUP_OR_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def compiler_cache_folder(folder: Path | None) -> Iterator[bool]:
    """Have torch's compiler keep its products there, and take what an earlier start kept.

    Torch names each product by all that it depends on: the graph, torch itself, the device. Where
    the folder won't do, a passing one of our own is used: torch's default has a name that anybody
    may have taken before.

    Yields:
        Whether the products are kept; if not, the next start compiles again.
    """
    if folder is not None and _is_private(folder):
        with temporary_cache_dir(str(folder.resolve())):
            yield True
    else:
        with TemporaryDirectory(prefix="rmbg-compiled-") as own, temporary_cache_dir(own):
            yield False


def _is_private(folder: Path) -> bool:
    """Is it ours, and nobody else's to write to or to replace? It is made if it is not there."""
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


#: Batches that graphs are recorded for, largest first so that the others fit into its memory.
CAPTURED_BATCHES: Final = (8, 4, 2, 1)

_WARM_UP_RUNS: Final = 3


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    graph: torch.cuda.CUDAGraph
    given: Tensor
    answer: Tensor


class CapturedGraphs:
    """Runs batches of any size in recorded pieces; the last piece is filled up.

    Args:
        run: the network; it is called on the current stream.
        network: gives pictures of the right kind.
        batches: sizes to record.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        network: FastBiRefNet,
        batches: tuple[int, ...] = CAPTURED_BATCHES,
    ) -> None:
        self._recordings: dict[int, _CapturedGraph] = {}
        pool = torch.cuda.graph_pool_handle()
        for batch in batches:
            try:
                self._recordings[batch] = _capture_graph(run, network.example(batch), pool)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        if not self._recordings:
            raise torch.OutOfMemoryError("no batch fits into the memory as a CUDA graph")

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, 1, side, side)."""
        largest = max(self._recordings)
        answers = [self._replay(part) for part in torch.split(pixels, largest)]
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def _replay(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        recording = self._recordings[smallest_fitting_batch(count, tuple(self._recordings))]
        recording.given[:count].copy_(pixels, non_blocking=True)
        recording.graph.replay()
        return recording.answer[:count].clone()  # the next replay writes there again


def smallest_fitting_batch(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of the sizes that is at least `count`."""
    return min(size for size in sizes if size >= count)


def _capture_graph(run: Callable[[Tensor], Tensor], given: Tensor, pool: Any) -> _CapturedGraph:  # noqa: ANN401 - torch names no type for it
    """Run on a stream of its own until nothing is allocated for the first time, then record."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            run(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        answer = run(given)
    return _CapturedGraph(graph, given, answer)


class ExecutionPath(StrEnum):
    """From the plainest to the quickest."""

    REFERENCE = "reference"
    #: Operator by operator, through `FastBiRefNet`.
    FAST = "fast"
    #: The same, made into one piece by torch.compile.
    COMPILED = "compiled"
    #: The same, recorded as CUDA graphs for a few sizes of batch.
    GRAPHED = "graphed"


class Runner(Protocol):
    """A network on its device that answers with logits."""

    #: What is run.
    path: ExecutionPath
    #: Why it is not a quicker path; empty if there is none.
    reason: str

    def warm_up(self) -> None:
        """Do all that only the first batches would have to wait for."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, 1, side, side), in the network's precision."""
        ...


class ReferenceRunner:
    """The network as it was loaded."""

    path = ExecutionPath.REFERENCE

    def __init__(self, network: BiRefNet, reason: str = "") -> None:
        self._network, self.reason = network, reason

    def warm_up(self) -> None:
        """Nothing to do."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, 1, side, side)."""
        logits: Tensor = self._network(pixels)
        return logits


class FastRunner:
    """The fast network, operator by operator."""

    path = ExecutionPath.FAST

    def __init__(self, network: FastBiRefNet, reason: str = "") -> None:
        self._network, self.reason = network, reason

    def warm_up(self) -> None:
        """Nothing to do."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, 1, side, side)."""
        self._network.prepare(len(pixels))
        logits: Tensor = self._network(pixels)
        return logits


class CompiledRunner:
    """The fast network by torch.compile, whose products are kept between starts.

    Args:
        network: on its device, in its precision.
        cache: folder for what the compiler made; None keeps nothing.
        graphs: record CUDA graphs too.
        reason: why it is not a quicker path.
    """

    def __init__(
        self, network: FastBiRefNet, cache: FilePath | None, *, graphs: bool, reason: str = ""
    ) -> None:
        self.path = ExecutionPath.GRAPHED if graphs else ExecutionPath.COMPILED
        self.reason = reason
        self._network, self._cache, self._graphs = network, cache, graphs
        self._captured: CapturedGraphs | None = None
        self._known: set[int] = set()  # sizes of batches that are compiled
        self._compiled = cast("nn.Module", torch.compile(network, fullgraph=True, dynamic=False))

    def warm_up(self) -> None:
        """Compile, or take what an earlier start compiled; record the graphs."""
        with compiler_cache_folder(self._cache) as kept:
            if self._graphs:
                self._captured = CapturedGraphs(self._run, self._network)
            else:
                self._run(self._network.example(1))
        if self._cache is not None and not kept:
            why = f"{self._cache} cannot be made, or is not its owner's alone"
            self.reason = join_reasons(self.reason, f"what was compiled is not kept: {why}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, 1, side, side)."""
        if self._captured is not None:
            return self._captured(pixels)
        if len(pixels) in self._known:
            return self._run(pixels)
        with compiler_cache_folder(self._cache):
            return self._run(pixels)

    def _run(self, pixels: Tensor) -> Tensor:
        self._known.add(len(pixels))
        self._network.prepare(len(pixels))
        logits: Tensor = self._compiled(pixels)
        return logits


def choose_execution_path(
    compile_: str, device: torch.device, side: int
) -> tuple[ExecutionPath, str]:
    """Which path to take, and why not a quicker one.

    Args:
        compile_: `auto`, or `off` for the reference path.
        device: where it is to run.
        side: of a picture, pixels.
    """
    if compile_ == "off":
        return ExecutionPath.REFERENCE, "it was asked for"
    if side % FAST_STRIDE:
        return ExecutionPath.REFERENCE, f"{side} pixels are no multiple of {FAST_STRIDE}"
    if device.type == "cpu":
        return ExecutionPath.FAST, "on a CPU compiling takes minutes and gains nothing to speak of"
    return ExecutionPath.GRAPHED, deformable_fallback_reason(device)


def deformable_fallback_reason(device: torch.device) -> str:
    """What the deformable convolution has to do without on this device; empty if nothing."""
    why = deformable.triton_unusable_reason() if device.type == "cuda" else None
    return f"deformable convolution without its own kernel: {why}" if why else ""


def make_runner(
    path: ExecutionPath,
    network: BiRefNet,
    device: torch.device,
    dtype: torch.dtype,
    *,
    side: int,
    cache: FilePath | None,
    reason: str = "",
) -> Runner:
    """A runner of this path, warm; a path that cannot be compiled is replaced by one that need not.

    The network's own tensors go to the device and into the precision.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    if path is ExecutionPath.REFERENCE:
        return ReferenceRunner(network.to(device, dtype), reason)
    fast = FastBiRefNet(network, side).to(device, dtype)
    if path is ExecutionPath.FAST:
        return FastRunner(fast, reason)
    graphs = path is ExecutionPath.GRAPHED
    runner = CompiledRunner(fast, cache, graphs=graphs, reason=reason)
    try:
        runner.warm_up()
    except (GpuFaultError, GpuOutOfMemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a compiler raises, there is another way
        return FastRunner(
            fast, join_reasons(reason, f"torch.compile failed: {_compiler_error_line(error)}")
        )
    return runner


def join_reasons(*reasons: str) -> str:
    """Those that there are, as one."""
    return "; ".join(filter(None, reasons))


def _compiler_error_line(error: Exception) -> str:
    """What went wrong beneath the compiler's own error, in a line."""
    inner = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
    first = (str(inner).splitlines() or [""])[0]
    return f"{type(inner).__name__}: {first}"
