"""CUDA graphs: the work of a whole batch, recorded once, is started as one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from inference.models.birefnet.fast.network import FastBiRefNet

#: Batches that graphs are recorded for, largest first so that the others fit into its memory.
CAPTURED_BATCHES: Final = (8, 4, 2, 1)
_WARM_UPS: Final = 3


@dataclass(frozen=True, slots=True)
class _Recording:
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
        self._recordings: dict[int, _Recording] = {}
        pool = torch.cuda.graph_pool_handle()
        for batch in batches:
            try:
                self._recordings[batch] = _record(run, network.example(batch), pool)
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
        recording = self._recordings[smallest_that_holds(count, tuple(self._recordings))]
        recording.given[:count].copy_(pixels, non_blocking=True)
        recording.graph.replay()
        return recording.answer[:count].clone()  # the next replay writes there again


def smallest_that_holds(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of the sizes that is at least `count`."""
    return min(size for size in sizes if size >= count)


def _record(run: Callable[[Tensor], Tensor], given: Tensor, pool: Any) -> _Recording:  # noqa: ANN401 - torch names no type for it
    """Run on a stream of its own until nothing is allocated for the first time, then record."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        answer = run(given)
    return _Recording(graph, given, answer)
