"""The backbone, in window order: tokens are (batch * tokens, channels) throughout."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.fast.order import StageOrders, StagePlan, plan_stage
from inference.models.birefnet.fast.windows import WindowPlan, WindowShape, window_bias
from inference.models.birefnet.swin import Block, PatchMerging, Stage, Swin

_PATCH = 4  # pixels on a side of one token of the first stage
#: Rows of tokens that go through both linear layers at once on the CPU, so that what lies between
#: the two stays near the processor.
_CHUNK = 1024


class FastBlock(nn.Module):
    """One block, with its position biases made for every shape of window that it will meet."""

    def __init__(self, block: Block, shapes: set[WindowShape]) -> None:
        super().__init__()
        attention = block.attn
        self.heads = attention.heads
        self.norm1, self.qkv, self.proj = block.norm1, attention.qkv, attention.proj
        self.norm2, self.fc1, self.fc2 = block.norm2, block.mlp.fc1, block.mlp.fc2
        table = attention.relative_position_bias_table.detach()
        for shape in shapes:
            self.register_buffer(_name(shape), window_bias(table, attention.window, shape))

    def forward(self, x: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """(batch * tokens, dim), in the plan's order, to the same; x is overwritten."""
        attended = self._attend(self.qkv(self.norm1(x)), plan, batch)
        x = x.add_(self.proj(attended))
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return x.add_(self._mlp(x))
        for part in torch.split(x, _CHUNK):
            part.add_(self._mlp(part))
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out

    def _attend(self, qkv: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """(tokens, 3 dim) to (tokens, dim), group by group."""
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
        bias = self.get_buffer(_name(shape))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return attended.transpose(1, 2).reshape(-1, dim)


def _name(shape: WindowShape) -> str:
    rows, cols = shape.rows, shape.cols
    return f"bias_{rows.real}_{rows.total}_{cols.real}_{cols.total}"


class FastStage(nn.Module):
    """Blocks of one resolution, for the maps of both scales."""

    def __init__(self, stage: Stage, plans: list[StagePlan]) -> None:
        super().__init__()
        self.depth = len(stage.blocks)
        by_shift = [
            {group.shape for plan in plans for group in plan.windows[shifted].groups}
            for shifted in (0, 1)
        ]
        self.blocks = nn.ModuleList(
            FastBlock(cast("Block", block), by_shift[index % 2])
            for index, block in enumerate(stage.blocks)
        )

    def forward(self, x: Tensor, plan: StagePlan, orders: StageOrders, batch: int) -> Tensor:
        """Tokens row by row, to tokens in the last block's order."""
        for index, (block, order) in enumerate(zip(self.blocks, orders.enter, strict=True)):
            x = block(x.index_select(0, order), plan.windows[index % 2], batch)
        return x


class FastSwin(nn.Module):
    """The backbone for pictures of a few known sides.

    Args:
        swin: the reference; its linear layers are shared, not copied.
        window: side of an attention window, tokens.
        sides: of the square pictures that it will see, pixels; multiples of 32.
    """

    def __init__(self, swin: Swin, window: int, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.patch, self.patch_norm = swin.patch_embed.proj, swin.patch_embed.norm
        tokens = {side: [side // _PATCH >> index for index in range(4)] for side in sides}
        self._plans = {
            side: [plan_stage(length, length, window) for length in lengths]
            for side, lengths in tokens.items()
        }
        self._orders: dict[tuple[int, int], list[StageOrders]] = {}
        self.stages, self.merges, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, stage in enumerate(swin.layers):
            if not isinstance(stage, Stage):
                raise TypeError("a backbone is made of stages")
            self.stages.append(FastStage(stage, [plans[index] for plans in self._plans.values()]))
            self.norms.append(swin.get_submodule(f"norm{index}"))
            if isinstance(stage.downsample, PatchMerging):
                self.merges.append(stage.downsample)

    def prepare(self, batch: int) -> None:
        """Make the gathers for batches of this size; `forward` needs them."""
        device = self.patch.weight.device
        for side, plans in self._plans.items():
            if (side, batch) not in self._orders:
                stages = zip(self.stages, plans, strict=True)
                self._orders[side, batch] = [
                    plan.orders(cast("FastStage", stage).depth, batch, device)
                    for stage, plan in stages
                ]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(batch, 3, side, side) to 1/4, 1/8, 1/16 and 1/32 of it, NCHW in channels_last."""
        batch, side = image.shape[0], image.shape[-1]
        plans, orders = self._plans[side], self._orders[side, batch]
        x = self.patch(image).permute(0, 2, 3, 1)
        x = self.patch_norm(x).reshape(-1, x.shape[-1])
        maps = []
        for index, stage in enumerate(self.stages):
            plan, order = plans[index], orders[index]
            x = stage(x, plan, order, batch)
            rows = self.norms[index](x.index_select(0, order.leave))
            maps.append(rows.view(batch, plan.rows, plan.cols, -1).permute(0, 3, 1, 2))
            if order.merge is not None and index < len(self.merges):
                x = self._merge(x.index_select(0, order.merge), self.merges[index])
        return maps

    @staticmethod
    def _merge(x: Tensor, merging: nn.Module) -> Tensor:
        """(4 tokens, dim) to (tokens, 2 dim); neighbours lie beside each other already."""
        four = x.view(-1, 4 * x.shape[1])
        out: Tensor = merging.get_submodule("reduction")(merging.get_submodule("norm")(four))
        return out
