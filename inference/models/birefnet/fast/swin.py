"""The backbone in window order: tokens are (batch * tokens, channels) throughout."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.fast.windows import (
    StageOrders,
    WindowPlan,
    WindowShape,
    plan_orders,
    plan_windows,
    window_bias,
)
from inference.models.birefnet.swin import PATCH_SIDE, Block, Stage, Swin

#: Tokens that go through both linear layers at once on the CPU, so that the values between the two
#: layers stay in its cache.
_CHUNK_ROWS = 1536


class FastSwinBlock(nn.Module):
    """One block, with its position biases computed for every window shape that it meets."""

    def __init__(self, block: Block, shapes: set[WindowShape]) -> None:
        super().__init__()
        attention = block.attn
        self.heads = attention.heads
        self.norm1, self.qkv, self.proj = block.norm1, attention.qkv, attention.proj
        self.norm2, self.mlp = block.norm2, block.mlp
        table = attention.relative_position_bias_table.detach()
        for shape in shapes:
            self.register_buffer(_bias_name(shape), window_bias(table, attention.window, shape))

    def forward(self, x: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """Map (batch * tokens, dim), in the plan's order, to that shape; x is overwritten."""
        x = x.add_(self.proj(self._attend(self.qkv(self.norm1(x)), plan, batch)))
        whole = x.device.type != "cpu" or torch.compiler.is_compiling()
        for part in (x,) if whole else torch.split(x, _CHUNK_ROWS):
            part.add_(self.mlp(self.norm2(part)))
        return x

    def _attend(self, qkv: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """Attend within windows, group by group: (tokens, 3 dim) to (tokens, dim)."""
        sizes = [batch * group.count * group.shape.tokens for group in plan.groups]
        parts = [
            self._attend_group(part, group.shape)
            for part, group in zip(torch.split(qkv, sizes), plan.groups, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_group(self, qkv: Tensor, shape: WindowShape) -> Tensor:
        dim = qkv.shape[1] // 3
        heads = qkv.view(-1, shape.tokens, 3, self.heads, dim // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if shape.padded:
            _, pad_key, pad_value = self.qkv.bias.view(3, 1, self.heads, 1, -1)
            key = torch.cat((key, pad_key.expand(len(heads), -1, -1, -1)), dim=2)
            value = torch.cat((value, pad_value.expand(len(heads), -1, -1, -1)), dim=2)
        bias = self.get_buffer(_bias_name(shape))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).reshape(-1, dim)


def _bias_name(shape: WindowShape) -> str:
    rows, cols = shape.rows, shape.cols
    return f"bias_{rows.real}_{rows.total}_{cols.real}_{cols.total}"


class FastStage(nn.Module):
    """The blocks of one resolution, for the maps of all scales at once.

    Args:
        stage: the reference; its linear layers are shared, not copied.
        norm: applied to the maps that leave the backbone.
        window: side of an attention window, tokens.
        maps: (rows, cols) in tokens, of each scale.
    """

    def __init__(
        self, stage: Stage, norm: nn.Module, window: int, maps: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.norm, self.downsample = norm, stage.downsample
        self._maps = maps
        self._windows = plan_windows(maps, window, 0), plan_windows(maps, window, window // 2)
        self._orders: dict[int, StageOrders] = {}
        shapes = [{group.shape for group in plan.groups} for plan in self._windows]
        self.blocks = nn.ModuleList(
            FastSwinBlock(cast("Block", block), shapes[index % 2])
            for index, block in enumerate(stage.blocks)
        )

    def prepare(self, batch: int, device: torch.device) -> None:
        """Compute the token orders for batches of this size; `forward` needs them."""
        if batch not in self._orders:
            depth = len(self.blocks)
            self._orders[batch] = plan_orders(self._maps, self._windows, depth, batch, device)

    def forward(self, x: Tensor, batch: int) -> tuple[list[Tensor], Tensor]:
        """Map tokens, row by row, to maps of each scale and to the next stage's tokens.

        The maps are (batch, channels, rows, cols). Behind the last stage there are no next tokens.
        """
        orders = self._orders[batch]
        for index, (block, order) in enumerate(zip(self.blocks, orders.enter, strict=True)):
            x = block(x.index_select(0, order), self._windows[index % 2], batch)
        tokens = self.norm(x.index_select(0, orders.leave))
        parts = torch.split(tokens, [batch * rows * cols for rows, cols in self._maps])
        maps = [
            part.view(batch, rows, cols, -1).permute(0, 3, 1, 2)
            for part, (rows, cols) in zip(parts, self._maps, strict=True)
        ]
        if self.downsample is not None and orders.merge is not None:
            # The four neighbors that become one token follow each other.
            x = x.index_select(0, orders.merge).view(-1, 4 * x.shape[1])
            x = self.downsample.reduction(self.downsample.norm(x))
        return maps, x


class FastSwin(nn.Module):
    """The backbone for one picture at several sides, which go through it together.

    The weights are read once for all sides, and small maps share matrix products with large ones.

    Args:
        swin: the reference; its linear layers are shared, not copied.
        window: side of an attention window, tokens.
        sides: of the square pictures, pixels; multiples of 32.
    """

    def __init__(self, swin: Swin, window: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.patch, self.patch_norm = swin.patch_embed.proj, swin.patch_embed.norm
        self.stages = nn.ModuleList()
        for index, stage in enumerate(swin.layers):
            maps = [(side // PATCH_SIDE >> index,) * 2 for side in sides]
            norm = swin.get_submodule(f"norm{index}")
            self.stages.append(FastStage(cast("Stage", stage), norm, window, maps))

    def prepare(self, batch: int) -> None:
        """Compute the token orders for batches of this size; `forward` needs them."""
        for stage in self.stages:
            cast("FastStage", stage).prepare(batch, self.patch.weight.device)

    def forward(self, images: list[Tensor]) -> list[list[Tensor]]:
        """Map one batch at every side, each (batch, 3, side, side), in the order of `sides`.

        Returns:
            For each side, maps of 1/4, 1/8, 1/16 and 1/32 of it, NCHW in channels_last.
        """
        x = torch.cat([self._embed(image) for image in images])
        maps: list[list[Tensor]] = [[] for _ in images]
        for stage in self.stages:
            of_stage, x = stage(x, len(images[0]))
            for of_side, one in zip(maps, of_stage, strict=True):
                of_side.append(one)
        return maps

    def _embed(self, image: Tensor) -> Tensor:
        """Map (batch, 3, side, side) to (batch * tokens, channels)."""
        tokens = self.patch_norm(self.patch(image).permute(0, 2, 3, 1))
        return tokens.reshape(-1, tokens.shape[-1])
