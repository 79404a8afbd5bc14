"""The Swin Transformer backbone: four stages of windowed self-attention.

Feature maps travel as (batch, rows, columns, channels) inside, and leave as NCHW.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.config import SwinConfig

# Added to the logits of token pairs that a cyclic shift made neighbors: their weight becomes 0 in
# every precision, and, unlike with -inf, no row can become NaN.
_MASKED_LOGIT = -100.0
PATCH_SIDE = 4  # pixels on a side of one token of the first stage


def split_windows(x: Tensor, window: int) -> Tensor:
    """Split (batch, rows, columns, dim) into (batch * windows, window**2, dim), row by row."""
    batch, rows, cols, dim = x.shape
    x = x.view(batch, rows // window, window, cols // window, window, dim)
    return x.transpose(2, 3).reshape(-1, window * window, dim)


def join_windows(windows: Tensor, window: int, shape: torch.Size) -> Tensor:
    """Undo `split_windows`; `shape` is the map's (batch, rows, columns)."""
    batch, rows, cols = shape
    x = windows.view(batch, rows // window, cols // window, window, window, -1)
    return x.transpose(2, 3).reshape(batch, rows, cols, -1)


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for every pair of tokens: (window**2, window**2) int64."""
    at = torch.arange(window)
    rows, cols = (grid.flatten() for grid in torch.meshgrid(at, at, indexing="ij"))
    row_delta = rows[:, None] - rows[None, :] + window - 1
    col_delta = cols[:, None] - cols[None, :] + window - 1
    return row_delta * (2 * window - 1) + col_delta


def shift_mask(rows: int, cols: int, window: int, device: torch.device) -> Tensor:
    """Return a mask that separates tokens which a shift by half a window brought together.

    `rows` and `cols` count the map's tokens before it is padded to whole windows.

    Returns:
        (windows, window**2, window**2) float32, 0 or -100.
    """
    row_zone = _shift_zones(rows + -rows % window, window, device)
    col_zone = _shift_zones(cols + -cols % window, window, device)
    zone = (3 * row_zone[:, None] + col_zone[None, :])[None, :, :, None]
    zone = split_windows(zone, window).squeeze(-1)
    apart = zone[:, :, None] != zone[:, None, :]
    return apart.float() * _MASKED_LOGIT


def _shift_zones(length: int, window: int, device: torch.device) -> Tensor:
    """Mark tokens along an axis: 0 in whole windows, 1 and 2 in the halves of the last one."""
    at = torch.arange(length, device=device)
    return (at >= length - window).long() + (at >= length - window // 2).long()


class PatchEmbed(nn.Module):
    """The convolution that turns 4x4 pixels into a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH_SIDE, stride=PATCH_SIDE)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3, height, width) to (batch, height / 4, width / 4, dim)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int, shift: int) -> None:
        super().__init__()
        self.window, self.heads, self.shift = window, heads, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, rows, columns, dim) to that shape; the mask comes from `shift_mask`."""
        rows, cols = x.shape[1:3]
        qkv = self._padded(self.qkv(x)).roll((-self.shift, -self.shift), dims=(1, 2))
        windows = self._attend(split_windows(qkv, self.window), mask if self.shift else None)
        joined = join_windows(windows, self.window, qkv.shape[:3])
        return self.proj(joined.roll((self.shift, self.shift), dims=(1, 2))[:, :rows, :cols])

    def _padded(self, qkv: Tensor) -> Tensor:
        """Pad to whole windows with the projection of a zero token, which is the bias.

        The padding is part of the trained behavior, because other tokens attend to it. Padding
        after the projection saves a third of it where windows are large compared with the map.
        """
        batch, rows, cols, channels = qkv.shape
        bottom, right = -rows % self.window, -cols % self.window
        if not bottom and not right:
            return qkv
        bias = self.qkv.bias.to(qkv.dtype)
        padded = bias.expand(batch, rows + bottom, cols + right, channels).contiguous()
        padded[:, :rows, :cols] = qkv
        return padded

    def _attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows: (windows, tokens, 3 dim) to (windows, tokens, dim)."""
        windows, tokens, channels = qkv.shape
        heads = qkv.view(windows, tokens, 3, self.heads, channels // (3 * self.heads))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        bias = self._bias(mask, windows)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).reshape(windows, tokens, channels // 3)

    def _bias(self, mask: Tensor | None, windows: int) -> Tensor:
        """Return what is added to the attention's logits: (1 or windows, heads, tokens, tokens)."""
        table = self.relative_position_bias_table[self.relative_position_index]
        bias = table.permute(2, 0, 1)[None].contiguous()
        if mask is None:
            return bias
        return (bias + mask[:, None].to(bias.dtype)).repeat(windows // len(mask), 1, 1, 1)


class Block(nn.Module):
    """Attention over windows, shifted by half a window in every second block, and the MLP."""

    def __init__(self, dim: int, window: int, heads: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(dim, 4 * dim), gelu=nn.GELU(), fc2=nn.Linear(4 * dim, dim))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (batch, rows, columns, dim) to that shape."""
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Halves the resolution: four neighbors become one token of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, rows, columns, dim) to (batch, ceil(rows/2), ceil(columns/2), 2 dim)."""
        rows, cols = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, cols % 2, 0, rows % 2))
        corners = [x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    """Blocks of one resolution, and the step to the next coarser one."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        self.window = window
        shifts = [0 if index % 2 == 0 else window // 2 for index in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, window, heads, shift) for shift in shifts)
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, rows, columns, dim) to that shape."""
        mask = shift_mask(x.shape[1], x.shape[2], self.window, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Swin(nn.Module):
    """The backbone: a picture in, four feature maps out."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList()
        shapes = zip(config.dims, config.depths, config.num_heads, strict=True)
        for index, (dim, depth, heads) in enumerate(shapes):
            self.layers.append(Stage(dim, depth, heads, config.window, last=dim == config.dims[-1]))
            self.add_module(f"norm{index}", nn.LayerNorm(dim))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (batch, 3, height, width) to maps of 1/4, 1/8, 1/16 and 1/32 of it, NCHW."""
        x = self.patch_embed(x)
        maps = []
        for index, stage in enumerate(self.layers):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{index}")(x).permute(0, 3, 1, 2).contiguous())
            downsample = stage.downsample
            x = downsample(x) if isinstance(downsample, PatchMerging) else x
        return maps
