"""The backbone in window order: tokens are (batch * tokens, channels) throughout."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.fast.windows import (
    StageOrders,
    StagePlan,
    WindowPlan,
    WindowShape,
    plan_stage,
    window_bias,
)
from inference.models.birefnet.swin import PATCH_SIDE, Block, PatchMerging, Stage, Swin

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
        self.norm2, self.fc1, self.fc2 = block.norm2, block.mlp.fc1, block.mlp.fc2
        table = attention.relative_position_bias_table.detach()
        for shape in shapes:
            self.register_buffer(_bias_name(shape), window_bias(table, attention.window, shape))

    def forward(self, x: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """Map (batch * tokens, dim), in the plan's order, to that shape; x is overwritten."""
        attended = self._attend(self.qkv(self.norm1(x)), plan, batch)
        x = x.add_(self.proj(attended))
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return x.add_(self._mlp(x))
        for part in torch.split(x, _CHUNK_ROWS):
            part.add_(self._mlp(part))
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out

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
            windows = len(heads)
            key = torch.cat((key, pad_key.expand(windows, -1, -1, -1)), dim=2)
            value = torch.cat((value, pad_value.expand(windows, -1, -1, -1)), dim=2)
        bias = self.get_buffer(_bias_name(shape))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).reshape(-1, dim)


def _bias_name(shape: WindowShape) -> str:
    rows, cols = shape.rows, shape.cols
    return f"bias_{rows.real}_{rows.total}_{cols.real}_{cols.total}"


class FastStage(nn.Module):
    """The blocks of one resolution, for the maps of all scales at once."""

    def __init__(self, stage: Stage, plan: StagePlan) -> None:
        super().__init__()
        self.depth = len(stage.blocks)
        by_shift = [{group.shape for group in windows.groups} for windows in plan.windows]
        self.blocks = nn.ModuleList(
            FastSwinBlock(cast("Block", block), by_shift[index % 2])
            for index, block in enumerate(stage.blocks)
        )

    def forward(self, x: Tensor, plan: StagePlan, orders: StageOrders, batch: int) -> Tensor:
        """Map tokens row by row to tokens in the last block's order."""
        for index, (block, order) in enumerate(zip(self.blocks, orders.enter, strict=True)):
            x = block(x.index_select(0, order), plan.windows[index % 2], batch)
        return x


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
        lengths = [[side // PATCH_SIDE >> index for side in sides] for index in range(4)]
        self._plans = [plan_stage([(n, n) for n in of_stage], window) for of_stage in lengths]
        self._orders: dict[int, list[StageOrders]] = {}
        self.stages, self.merges, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, (stage, plan) in enumerate(zip(swin.layers, self._plans, strict=True)):
            if not isinstance(stage, Stage):
                raise TypeError("a backbone is made of stages")
            self.stages.append(FastStage(stage, plan))
            self.norms.append(swin.get_submodule(f"norm{index}"))
            if isinstance(stage.downsample, PatchMerging):
                self.merges.append(stage.downsample)

    def prepare(self, batch: int) -> None:
        """Compute the token orders for batches of this size; `forward` needs them."""
        if batch not in self._orders:
            device = self.patch.weight.device
            stages = zip(self.stages, self._plans, strict=True)
            self._orders[batch] = [
                plan.orders(cast("FastStage", stage).depth, batch, device) for stage, plan in stages
            ]

    def forward(self, images: list[Tensor]) -> list[list[Tensor]]:
        """Map one batch at every side, each (batch, 3, side, side), in the order of `sides`.

        Returns:
            For each side, maps of 1/4, 1/8, 1/16 and 1/32 of it, NCHW in channels_last.
        """
        batch = len(images[0])
        x = torch.cat([self._embed(image) for image in images])
        maps: list[list[Tensor]] = [[] for _ in images]
        for index, (stage, plan) in enumerate(zip(self.stages, self._plans, strict=True)):
            order = self._orders[batch][index]
            x = stage(x, plan, order, batch)
            rows = self.norms[index](x.index_select(0, order.leave))
            for of_side, one in zip(maps, _split_maps(rows, plan, batch), strict=True):
                of_side.append(one)
            if order.merge is not None and index < len(self.merges):
                x = self._merge(x.index_select(0, order.merge), self.merges[index])
        return maps

    def _embed(self, image: Tensor) -> Tensor:
        """Map (batch, 3, side, side) to (batch * tokens, channels)."""
        tokens = self.patch(image).permute(0, 2, 3, 1)
        out: Tensor = self.patch_norm(tokens).reshape(-1, tokens.shape[-1])
        return out

    @staticmethod
    def _merge(x: Tensor, merging: nn.Module) -> Tensor:
        """Merge (4 tokens, dim) into (tokens, 2 dim); the four neighbors follow each other."""
        four = x.view(-1, 4 * x.shape[1])
        out: Tensor = merging.get_submodule("reduction")(merging.get_submodule("norm")(four))
        return out


def _split_maps(rows: Tensor, plan: StagePlan, batch: int) -> list[Tensor]:
    """Split (tokens of all maps, channels) into one (batch, channels, rows, cols) per map."""
    parts = torch.split(rows, [batch * height * width for height, width in plan.maps])
    return [
        part.view(batch, height, width, -1).permute(0, 3, 1, 2)
        for part, (height, width) in zip(parts, plan.maps, strict=True)
    ]
