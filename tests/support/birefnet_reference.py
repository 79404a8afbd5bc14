"""BiRefNet by its published definition, in float64: what the project's own network is held against.

Written from https://github.com/ZhengPeng7/BiRefNet (`models/birefnet.py`, `models/modules`,
`models/backbones/swin_v1.py`), as plainly as it can be: weights by their keys, a loop for each
window, patch and tap, nothing folded, fused or permuted. No code of `inference` is used.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that torch code uses

#: Pixels of the sides of the grids into which the picture is cut for decoder levels 5 to 2.
_GRIDS = {5: 32, 4: 16, 3: 8, 2: 4}


def columns_rows_colors(image: Tensor, grid: int) -> Tensor:
    """Stack patches as `get_patches_batch` did before commit 5198d3f: split, split, join."""
    height, width = image.shape[-2] // grid, image.shape[-1] // grid
    columns = image.split(width, dim=-1)
    return torch.cat([tile for each in columns for tile in each.split(height, dim=-2)], dim=1)


def colors_rows_columns(image: Tensor, grid: int) -> Tensor:
    """Stack patches as `b c (hg h) (wg w) -> b (c hg wg) h w` says since then."""
    height, width = image.shape[-2] // grid, image.shape[-1] // grid
    return torch.stack(
        [
            tile
            for color in image.unbind(1)
            for row in color.split(height, dim=-2)
            for tile in row.split(width, dim=-1)
        ],
        dim=1,
    )


#: Ways to stack the patches, by the names of the orders.
PATCHES = {
    "columns-rows-colors": columns_rows_colors,
    "colors-rows-columns": colors_rows_columns,
}


class Reference:
    """The network in eval mode.

    Args:
        state: all tensors, by the checkpoints' keys.
        heads: of the four stages of the backbone.
        order: of the picture's patches, one of `PATCHES`.
    """

    def __init__(self, state: Mapping[str, Tensor], heads: tuple[int, ...], order: str) -> None:
        self._state, self._heads, self._patches = state, heads, PATCHES[order]

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Compute (1, 1, height, width) of a normalized picture, (1, 3, height, width)."""
        image = image.double()
        half = _resize(image, [each // 2 for each in image.shape[-2:]])
        pairs = zip(self._backbone(image), self._backbone(half), strict=True)
        x1, x2, x3, x4 = (torch.cat((a, _resize(b, a.shape[-2:])), dim=1) for a, b in pairs)
        context = [_resize(each, x4.shape[-2:]) for each in (x1, x2, x3)]
        p = self._decoder_block("squeeze_module.0", torch.cat((*context, x4), dim=1))
        for level, finer in ((4, x3), (3, x2), (2, x1)):
            p = self._decoder_block(f"decoder.decoder_block{level}", self._inject(image, p, level))
            gradient = f"decoder.gdt_convs_{level}"
            outline = self._norm(f"{gradient}.1", self._conv(f"{gradient}.0", p)).relu()
            p = p * self._conv(f"decoder.gdt_convs_attn_{level}.0", outline).sigmoid()
            p = _resize(p, finer.shape[-2:])
            p = p + self._conv(f"decoder.lateral_block{level}.conv", finer)
        p = self._decoder_block("decoder.decoder_block1", self._inject(image, p, 1))
        p = torch.cat((_resize(p, image.shape[-2:]), self._simple("decoder.ipt_blk1", image)), 1)
        return self._conv("decoder.conv_out1.0", p)

    def _inject(self, image: Tensor, p: Tensor, level: int) -> Tensor:
        patches = self._patches(image, _GRIDS[level + 1])
        return torch.cat((p, self._simple(f"decoder.ipt_blk{level + 1}", patches)), dim=1)

    def _simple(self, name: str, x: Tensor) -> Tensor:
        return self._conv(f"{name}.conv_out", self._conv(f"{name}.conv1", x))

    def _decoder_block(self, name: str, x: Tensor) -> Tensor:
        x = self._norm(f"{name}.bn_in", self._conv(f"{name}.conv_in", x)).relu()
        x = self._conv(f"{name}.conv_out", self._pyramid(f"{name}.dec_att", x))
        return self._norm(f"{name}.bn_out", x)

    def _pyramid(self, name: str, x: Tensor) -> Tensor:
        branches = ["aspp1", *(f"aspp_deforms.{index}" for index in range(3))]
        maps = [self._deformable_branch(f"{name}.{each}", x) for each in branches]
        pooled = self._conv(f"{name}.global_avg_pool.1", x.mean(dim=(2, 3), keepdim=True))
        pooled = self._norm(f"{name}.global_avg_pool.2", pooled).relu().expand_as(maps[0])
        joined = self._conv(f"{name}.conv1", torch.cat((*maps, pooled), dim=1))
        return self._norm(f"{name}.bn1", joined).relu()

    def _deformable_branch(self, name: str, x: Tensor) -> Tensor:
        conv = f"{name}.atrous_conv"
        offset = self._conv(f"{conv}.offset_conv", x)[0]
        modulator = 2 * self._conv(f"{conv}.modulator_conv", x)[0].sigmoid()
        weight = self._get(f"{conv}.regular_conv.weight")
        kernel, (height, width) = weight.shape[-1], x.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        total = x.new_zeros(weight.shape[0], height, width)
        for tap in range(kernel * kernel):
            i, j = divmod(tap, kernel)
            at_row = rows + i - kernel // 2 + offset[2 * tap]
            at_column = columns + j - kernel // 2 + offset[2 * tap + 1]
            sample = _sample(x[0], at_row, at_column) * modulator[tap]
            total += torch.einsum("oc,chw->ohw", weight[:, :, i, j], sample)
        return self._norm(f"{name}.bn", total[None]).relu()

    def _backbone(self, image: Tensor) -> list[Tensor]:
        weight, bias = (
            self._get("bb.patch_embed.proj.weight"),
            self._get("bb.patch_embed.proj.bias"),
        )
        x = F.conv2d(image, weight, bias, stride=4)[0].permute(1, 2, 0)
        x = self._layer_norm("bb.patch_embed.norm", x)
        maps = []
        for stage, heads in enumerate(self._heads):
            name = f"bb.layers.{stage}"
            for index in range(self._count(f"{name}.blocks")):
                x = self._block(f"{name}.blocks.{index}", x, heads, shifted=index % 2 == 1)
            maps.append(self._layer_norm(f"bb.norm{stage}", x).permute(2, 0, 1)[None])
            if stage < len(self._heads) - 1:
                x = self._merge(f"{name}.downsample", x)
        return maps

    def _merge(self, name: str, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
        corners = x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]
        x = self._layer_norm(f"{name}.norm", torch.cat(corners, dim=-1))
        return F.linear(x, self._get(f"{name}.reduction.weight"))

    def _block(self, name: str, x: Tensor, heads: int, *, shifted: bool) -> Tensor:
        attended = self._attention(
            f"{name}.attn", self._layer_norm(f"{name}.norm1", x), heads, shifted=shifted
        )
        x = x + attended
        hidden = self._linear(f"{name}.mlp.fc1", self._layer_norm(f"{name}.norm2", x))
        return x + self._linear(f"{name}.mlp.fc2", F.gelu(hidden))

    def _attention(self, name: str, x: Tensor, heads: int, *, shifted: bool) -> Tensor:
        """Attend within windows; zeros beyond the map's end are tokens like others.

        Shifted windows need neither a roll nor a mask: what these leave together are the windows
        of a grid that is moved by half a window, cut off at the map's ends.
        """
        table = self._get(f"{name}.relative_position_bias_table")
        window = (int(table.shape[0] ** 0.5) + 1) // 2
        rows, columns, dim = x.shape
        x = F.pad(x, (0, 0, 0, -columns % window, 0, -rows % window))
        qkv = self._linear(f"{name}.qkv", x).unflatten(-1, (3, heads, dim // heads))
        joined = torch.empty_like(x)
        for rows_of in _windows(x.shape[0], window, shifted=shifted):
            for columns_of in _windows(x.shape[1], window, shifted=shifted):
                q, k, v = qkv[rows_of, columns_of].flatten(0, 1).permute(1, 2, 0, 3)
                at = torch.cartesian_prod(
                    torch.arange(rows_of.start, rows_of.stop),
                    torch.arange(columns_of.start, columns_of.stop),
                )
                apart = at[:, None] - at[None] + window - 1
                bias = table[apart[..., 0] * (2 * window - 1) + apart[..., 1]].permute(2, 0, 1)
                scores = q @ k.transpose(1, 2) / (dim // heads) ** 0.5 + bias
                answer = (scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1)
                joined[rows_of, columns_of] = answer.view(*joined[rows_of, columns_of].shape)
        return self._linear(f"{name}.proj", joined[:rows, :columns])

    def _count(self, prefix: str) -> int:
        at = prefix.count(".") + 1
        numbers = {key.split(".")[at] for key in self._state if key.startswith(f"{prefix}.")}
        return len(numbers)

    def _get(self, name: str) -> Tensor:
        return self._state[name].double()

    def _conv(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._get(f"{name}.weight"), self._state.get(f"{name}.bias")
        padding = weight.shape[-1] // 2
        return F.conv2d(x, weight, None if bias is None else bias.double(), padding=padding)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _layer_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return F.layer_norm(x, weight.shape, weight, bias)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            self._get(f"{name}.{each}").view(-1, 1, 1)
            for each in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _windows(length: int, window: int, *, shifted: bool) -> Iterator[slice]:
    starts = range(-(window - window // 2) if shifted else 0, length + 1, window)
    edges = sorted({0, *(each for each in starts if 0 < each < length), length})
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def _resize(x: Tensor, size: tuple[int, ...] | list[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sample all channels bilinearly at places in pixels; beyond the map lies zero."""
    height, width = x.shape[-2:]
    top, left = rows.floor(), columns.floor()
    total = torch.zeros(x.shape[0], *rows.shape, dtype=x.dtype)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            share = (1 - (rows - row).abs()) * (1 - (columns - column).abs()) * inside
            at = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
            total += x[:, *at] * share
    return total
