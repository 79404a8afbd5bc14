"""The ways to run a loaded network, and which of them a device takes."""

from enum import StrEnum
from pathlib import Path as FilePath
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from inference.models.birefnet.errors import GpuFaultError, GpuOutOfMemoryError
from inference.models.birefnet.fast import triton_kernel
from inference.models.birefnet.fast.artifacts import compiler_folder
from inference.models.birefnet.fast.graphs import CapturedGraphs
from inference.models.birefnet.fast.network import FAST_STRIDE, FastBiRefNet
from inference.models.birefnet.network import BiRefNet


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
        with compiler_folder(self._cache) as kept:
            if self._graphs:
                self._captured = CapturedGraphs(self._run, self._network)
            else:
                self._run(self._network.example(1))
        if self._cache is not None and not kept:
            why = f"{self._cache} cannot be made, or is not its owner's alone"
            self.reason = joined(self.reason, f"what was compiled is not kept: {why}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, 1, side, side)."""
        if self._captured is not None:
            return self._captured(pixels)
        if len(pixels) in self._known:
            return self._run(pixels)
        with compiler_folder(self._cache):
            return self._run(pixels)

    def _run(self, pixels: Tensor) -> Tensor:
        self._known.add(len(pixels))
        self._network.prepare(len(pixels))
        logits: Tensor = self._compiled(pixels)
        return logits


def choose_path(compile_: str, device: torch.device, side: int) -> tuple[ExecutionPath, str]:
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
    return ExecutionPath.GRAPHED, deformable_note(device)


def deformable_note(device: torch.device) -> str:
    """What the deformable convolution has to do without on this device; empty if nothing."""
    why = triton_kernel.reason_unusable() if device.type == "cuda" else None
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
        return FastRunner(fast, joined(reason, f"torch.compile failed: {_cause(error)}"))
    return runner


def joined(*reasons: str) -> str:
    """Those that there are, as one."""
    return "; ".join(filter(None, reasons))


def _cause(error: Exception) -> str:
    """What went wrong beneath the compiler's own error, in a line."""
    inner = getattr(error, "inner_exception", error)  # of torch's BackendCompilerFailed
    first = (str(inner).splitlines() or [""])[0]
    return f"{type(inner).__name__}: {first}"
