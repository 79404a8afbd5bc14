"""Attention windows without masks and padding, and the token orders between blocks.

The reference pads a map to whole windows, rolls it by half a window and masks pairs of tokens that
only the roll made neighbors. Smaller windows give equal sums: along each axis, a shifted map is
half a window, whole windows, half a window. All tokens of the padding are alike: they have one key
and one value, the bias of the projection, so their weights add up to that of a single token whose
position bias is the log of the sum of theirs.

Tokens travel in the order of their windows: one gather between blocks, none inside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Extent:
    """A window's length along one axis, in tokens."""

    #: Tokens of the map.
    real: int
    #: Tokens of the map and of the padding behind them.
    total: int


@dataclass(frozen=True, slots=True)
class WindowShape:
    """The shape that windows must share to be attended to in one call."""

    rows: Extent
    cols: Extent

    @property
    def tokens(self) -> int:
        """Tokens of the map in one window."""
        return self.rows.real * self.cols.real

    @property
    def padded(self) -> bool:
        """Whether the window has padding to attend to."""
        return self.tokens < self.rows.total * self.cols.total


@dataclass(frozen=True, slots=True)
class WindowGroup:
    """Windows of one shape, which follow each other in the plan's order."""

    shape: WindowShape
    count: int
    #: For each map, (windows * tokens) int64: the tokens' numbers, row by row.
    numbers: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The assignment of the tokens of several maps to windows."""

    groups: tuple[WindowGroup, ...]
    #: Tokens of each map.
    sizes: tuple[int, ...]

    def batched(self, batch: int) -> Tensor:
        """Return the order of a whole batch, (batch * tokens) int64: in each group, map by map.

        Numbers continue from picture to picture of one map, and then from map to map.
        """
        ends = list(accumulate(batch * size for size in self.sizes))
        pictures = [
            torch.arange(end - batch * size, end, size)[:, None]
            for end, size in zip(ends, self.sizes, strict=True)
        ]
        return torch.cat(
            [
                (firsts + numbers).flatten()
                for group in self.groups
                for firsts, numbers in zip(pictures, group.numbers, strict=True)
            ]
        )


def plan_windows(maps: Sequence[tuple[int, int]], window: int, shift: int) -> WindowPlan:
    """Assign the tokens of maps of (rows, cols) to windows; `shift` is 0 or half a window."""
    shared = [_windows_of_map(rows, cols, window, shift) for rows, cols in maps]
    nothing = torch.empty(0, dtype=torch.int64)
    groups = []
    for shape in dict.fromkeys(shape for windows in shared for shape in windows):
        numbers = tuple(windows.get(shape, nothing) for windows in shared)
        groups.append(WindowGroup(shape, sum(map(len, numbers)) // shape.tokens, numbers))
    return WindowPlan(tuple(groups), tuple(rows * cols for rows, cols in maps))


def _windows_of_map(rows: int, cols: int, window: int, shift: int) -> dict[WindowShape, Tensor]:
    """Return the numbers of one map's tokens for each window shape."""
    by_row = _extents_along_axis(rows, window, shift)
    by_col = _extents_along_axis(cols, window, shift)
    shared = {}
    for row, col in product(by_row, by_col):
        at_row = torch.tensor(by_row[row])[:, None] + torch.arange(row.real)
        at_col = torch.tensor(by_col[col])[:, None] + torch.arange(col.real)
        tokens = at_row[:, None, :, None] * cols + at_col[None, :, None, :]
        shared[WindowShape(row, col)] = tokens.flatten()
    return shared


def _extents_along_axis(length: int, window: int, shift: int) -> dict[Extent, list[int]]:
    """Return, for each extent along one axis, where its windows start."""
    padded = length + -length % window
    spans = [(start, window) for start in range(shift, padded - window + 1, window)]
    if shift:
        spans = [(0, shift), *spans, (padded - window + shift, window - shift)]
    found: dict[Extent, list[int]] = {}
    for start, total in spans:
        if (real := min(total, length - start)) > 0:  # else it is padding alone
            found.setdefault(Extent(real, total), []).append(start)
    return found


def window_bias(table: Tensor, window: int, shape: WindowShape) -> Tensor:
    """Compute what is added to the attention's logits in windows of one shape.

    Args:
        table: ((2 window - 1)**2, heads), by relative position.
        window: side of a whole window.
        shape: of these windows.

    Returns:
        (1, heads, tokens, keys); windows with padding have one key more than tokens.
    """
    rows, cols = torch.meshgrid(
        torch.arange(shape.rows.total), torch.arange(shape.cols.total), indexing="ij"
    )
    real = ((rows < shape.rows.real) & (cols < shape.cols.real)).flatten()
    row, col = rows.flatten(), cols.flatten()
    delta_row = row[real][:, None] - row[None] + window - 1
    delta_col = col[real][:, None] - col[None] + window - 1
    bias = table[(delta_row * (2 * window - 1) + delta_col).to(table.device)].permute(2, 0, 1)
    inside = bias[:, :, real]
    if shape.padded:
        outside = bias[:, :, ~real].float().logsumexp(-1, keepdim=True).to(bias.dtype)
        inside = torch.cat((inside, outside), dim=-1)
    return inside[None].contiguous()


@dataclass(frozen=True, slots=True)
class StageOrders:
    """The gathers of one stage for one batch size."""

    #: For each block, from the order before it into the order of its windows.
    enter: tuple[Tensor, ...]
    #: From the last block's order to row by row, map by map.
    leave: Tensor
    #: Like `leave`, but with the four neighbors that become one token after each other; None if a
    #: side is odd, which only the last stage's may be.
    merge: Tensor | None


def plan_orders(
    maps: Sequence[tuple[int, int]],
    windows: tuple[WindowPlan, WindowPlan],
    depth: int,
    batch: int,
    device: torch.device,
) -> StageOrders:
    """Compute the orders of a stage for a batch size.

    Args:
        maps: (rows, cols) in tokens, of all maps that go through the stage together.
        windows: of unshifted and of shifted blocks, which alternate.
        depth: number of blocks.
        batch: number of pictures.
        device: where the orders are needed.
    """
    own = [plan.batched(batch) for plan in windows]
    inverse = [torch.argsort(order) for order in own]
    between = (inverse[1][own[0]], inverse[0][own[1]])  # into unshifted, into shifted
    enter = [own[0], *(between[index % 2] for index in range(1, depth))]
    leave = inverse[(depth - 1) % 2]
    odd = any(rows % 2 or cols % 2 for rows, cols in maps)
    return StageOrders(
        enter=tuple(order.to(device) for order in enter),
        leave=leave.to(device),
        merge=None if odd else leave[_neighbors(maps, batch)].to(device),
    )


def _neighbors(maps: Sequence[tuple[int, int]], batch: int) -> Tensor:
    """Return the tokens' numbers in groups of four neighbors: down a column, then the next."""
    found, first = [], 0
    for rows, cols in maps:
        count = batch * rows * cols
        squares = torch.arange(first, first + count).view(batch, rows // 2, 2, cols // 2, 2)
        found.append(squares.permute(0, 1, 3, 4, 2).flatten())
        first += count
    return torch.cat(found)
