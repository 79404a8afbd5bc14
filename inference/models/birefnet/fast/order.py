"""The orders that a stage's tokens travel in: one gather between blocks, none inside them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.models.birefnet.fast.windows import WindowPlan, plan_windows


@dataclass(frozen=True, slots=True)
class StageOrders:
    """Gathers of one stage, for one size of batch.

    Attributes:
        enter: for each block, from the order before it into the order of its windows.
        leave: from the last block's order to the rows of one map after the other.
        merge: the same, but with the four neighbours that become one token beside each other; None
            where a side is odd, which the last stage's alone may be.
    """

    enter: tuple[Tensor, ...]
    leave: Tensor
    merge: Tensor | None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The windows of a stage's blocks on all maps that go through it together."""

    #: (rows, cols) in tokens.
    maps: tuple[tuple[int, int], ...]
    #: Of unshifted and of shifted blocks; they take turns.
    windows: tuple[WindowPlan, WindowPlan]

    def orders(self, depth: int, batch: int, device: torch.device) -> StageOrders:
        """For a batch of so many pictures, on the device."""
        own = [plan.batched(batch) for plan in self.windows]
        inverse = [torch.argsort(order) for order in own]
        between = (inverse[1][own[0]], inverse[0][own[1]])  # into unshifted, into shifted
        enter = [own[0], *(between[index % 2] for index in range(1, depth))]
        leave = inverse[(depth - 1) % 2]
        return StageOrders(
            enter=tuple(order.to(device) for order in enter),
            leave=leave.to(device),
            merge=None if self._odd else leave[self._neighbours(batch)].to(device),
        )

    @property
    def _odd(self) -> bool:
        return any(rows % 2 or cols % 2 for rows, cols in self.maps)

    def _neighbours(self, batch: int) -> Tensor:
        """Numbers of the tokens, four by four: down the column, then the next column."""
        found, first = [], 0
        for rows, cols in self.maps:
            count = batch * rows * cols
            tokens = torch.arange(first, first + count)
            squares = tokens.view(batch, rows // 2, 2, cols // 2, 2)
            found.append(squares.permute(0, 1, 3, 4, 2).flatten())
            first += count
        return torch.cat(found)


def plan_stage(maps: Sequence[tuple[int, int]], window: int) -> StagePlan:
    """For maps of (rows, cols) tokens."""
    plain = plan_windows(maps, window, 0)
    return StagePlan(tuple(maps), (plain, plan_windows(maps, window, window // 2)))
