"""Attention windows without masks and without padding, worked out once for a size of map.

The reference pads a map to whole windows, rolls it by half a window and masks pairs of tokens that
the roll alone made neighbours. The same sums come of smaller windows: along each axis, a shifted
map is half a window, whole windows, half a window. And all tokens of the padding are alike: they
have one key and one value, the bias of the projection, so their weights add up to that of a single
token whose position bias is the log of the sum of theirs.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Extent:
    """A window's length along one axis, in tokens."""

    #: Tokens of the map.
    real: int
    #: The same and the padding behind them.
    total: int


@dataclass(frozen=True, slots=True)
class WindowShape:
    """What windows must share to be attended to in one call."""

    rows: Extent
    cols: Extent

    @property
    def tokens(self) -> int:
        """Of the map, in one window."""
        return self.rows.real * self.cols.real

    @property
    def padded(self) -> bool:
        """Is there padding to attend to?"""
        return self.tokens < self.rows.total * self.cols.total


@dataclass(frozen=True, slots=True)
class WindowGroup:
    """Windows of one shape; they follow each other in the plan's order."""

    shape: WindowShape
    count: int


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How the tokens of a map are shared out among windows."""

    groups: tuple[WindowGroup, ...]
    #: (groups' windows' tokens) int64: for each place, the token's number in the map, row by row.
    order: tuple[Tensor, ...]

    def batched(self, batch: int) -> Tensor:
        """The order of a whole batch, (batch * tokens) int64: in each group, picture by picture."""
        size = sum(part.numel() for part in self.order)
        firsts = size * torch.arange(batch)[:, None]
        return torch.cat([(firsts + part).flatten() for part in self.order])


def plan_windows(rows: int, cols: int, window: int, shift: int) -> WindowPlan:
    """Share out a map of rows x cols tokens; `shift` is 0 or half a window."""
    by_row, by_col = _extents(rows, window, shift), _extents(cols, window, shift)
    groups, order = [], []
    for row, col in product(by_row, by_col):
        at_row = torch.tensor(by_row[row])[:, None] + torch.arange(row.real)
        at_col = torch.tensor(by_col[col])[:, None] + torch.arange(col.real)
        tokens = at_row[:, None, :, None] * cols + at_col[None, :, None, :]
        groups.append(WindowGroup(WindowShape(row, col), len(at_row) * len(at_col)))
        order.append(tokens.flatten())
    return WindowPlan(tuple(groups), tuple(order))


def _extents(length: int, window: int, shift: int) -> dict[Extent, list[int]]:
    """The windows along one axis: where those of each extent start."""
    padded = length + -length % window
    starts = list(range(shift, padded - window + 1, window))
    spans = [(start, window) for start in starts]
    if shift:
        spans = [(0, shift), *spans, (padded - window + shift, window - shift)]
    found: dict[Extent, list[int]] = {}
    for start, total in spans:
        if (real := min(total, length - start)) > 0:  # else it is padding alone
            found.setdefault(Extent(real, total), []).append(start)
    return found


def window_bias(table: Tensor, window: int, shape: WindowShape) -> Tensor:
    """What is added to the attention's logits in windows of one shape.

    Args:
        table: ((2 window - 1)**2, heads), by relative position.
        window: side of a whole window.
        shape: of these.

    Returns:
        (1, heads, tokens, keys), where there is one key more than tokens for padding.
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
