"""Cutting feature maps into attention windows and back, and what goes with it."""

import torch
from torch import Tensor

#: Added to the logits of token pairs that a cyclic shift made neighbours: their weight becomes 0
#: in every precision, and, unlike with -inf, no row can become NaN.
_FAR = -100.0


def split_windows(x: Tensor, window: int) -> Tensor:
    """(batch, rows, columns, dim) to (batch * windows, window**2, dim), row by row."""
    batch, rows, cols, dim = x.shape
    x = x.view(batch, rows // window, window, cols // window, window, dim)
    return x.transpose(2, 3).reshape(-1, window * window, dim)


def join_windows(windows: Tensor, window: int, shape: torch.Size) -> Tensor:
    """The inverse of `split_windows`; `shape` is the map's (batch, rows, columns)."""
    batch, rows, cols = shape
    x = windows.view(batch, rows // window, cols // window, window, window, -1)
    return x.transpose(2, 3).reshape(batch, rows, cols, -1)


def relative_position_index(window: int) -> Tensor:
    """(window**2, window**2) int64: the row of the bias table for every pair of tokens."""
    at = torch.arange(window)
    rows, cols = (grid.flatten() for grid in torch.meshgrid(at, at, indexing="ij"))
    row_delta = rows[:, None] - rows[None, :] + window - 1
    col_delta = cols[:, None] - cols[None, :] + window - 1
    return row_delta * (2 * window - 1) + col_delta


def shift_mask(rows: int, cols: int, window: int, device: torch.device) -> Tensor:
    """What keeps tokens apart that a shift by half a window brought together.

    Args:
        rows: of the map, in tokens, before padding.
        cols: the same, across.
        window: side of a window, in tokens.
        device: where the mask is needed.

    Returns:
        (windows, window**2, window**2) float32, 0 or -100, for a map padded to whole windows.
    """
    row_zone = _zones(rows + -rows % window, window, device)
    col_zone = _zones(cols + -cols % window, window, device)
    zone = (3 * row_zone[:, None] + col_zone[None, :])[None, :, :, None]
    zone = split_windows(zone, window).squeeze(-1)
    apart = zone[:, :, None] != zone[:, None, :]
    return apart.float() * _FAR


def _zones(length: int, window: int, device: torch.device) -> Tensor:
    """0 for the windows that stay whole, 1 and 2 for the two halves of the last one."""
    at = torch.arange(length, device=device)
    return (at >= length - window).long() + (at >= length - window // 2).long()
