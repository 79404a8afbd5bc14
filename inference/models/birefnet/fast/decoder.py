"""The decoder, folded: pixels as rows where it multiplies matrices, channels_last elsewhere."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.blocks import (
    DecoderBlock,
    DeformableBranch,
    DeformablePyramid,
    resize,
)
from inference.models.birefnet.config import PATCH_GRIDS, BiRefNetConfig, PatchOrder
from inference.models.birefnet.decoder import Decoder
from inference.models.birefnet.fast.deformable import deformable
from inference.models.birefnet.fast.folding import Conv, cut, fold, plain, scale_and_shift
from inference.models.birefnet.fast.tail import Tail

_ATTENDED_LEVELS = (4, 3, 2)


def to_rows(x: Tensor) -> Tensor:
    """(batch, channels, height, width) to (batch * height * width, channels)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class FastBranch(nn.Module):
    """A deformable branch of the pyramid, and its share of the convolution behind all branches."""

    weight: Tensor
    bias: Tensor
    narrow: Tensor

    def __init__(self, branch: DeformableBranch, narrow: Tensor) -> None:
        super().__init__()
        conv = branch.atrous_conv
        self.places = Conv(
            torch.cat((conv.offset_conv.weight, conv.modulator_conv.weight)),
            torch.cat((_bias(conv.offset_conv), _bias(conv.modulator_conv))),
        )
        scale, shift = scale_and_shift(branch.bn)
        weight = conv.regular_conv.weight * scale.view(-1, 1, 1, 1)
        self.register_buffer("weight", weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous())
        self.register_buffer("bias", shift)
        self.register_buffer("narrow", narrow)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """(batch * pixels, inner): what is to be added to the other branches' shares."""
        places = to_rows(self.places(x))
        height, width = x.shape[-2:]
        wide: Tensor = deformable(rows, places, self.weight, self.bias, height, width)
        return wide @ self.narrow


class FastPyramid(nn.Module):
    """The pyramid without the concatenation of its branches; the pooled one is a bias."""

    pool: Tensor
    pool_bias: Tensor
    pool_narrow: Tensor
    bias: Tensor

    def __init__(self, pyramid: DeformablePyramid) -> None:
        super().__init__()
        joined = fold(pyramid.conv1, pyramid.bn1)
        branches = [pyramid.aspp1, *pyramid.aspp_deforms]
        narrow = [
            part.t().contiguous() for part in joined.weight[:, :, 0, 0].chunk(len(branches) + 1, 1)
        ]
        self.branches = nn.ModuleList(
            FastBranch(cast("DeformableBranch", branch), share)
            for branch, share in zip(branches, narrow, strict=False)
        )
        conv, norm = cast("nn.Conv2d", pyramid.global_avg_pool[1]), pyramid.global_avg_pool[2]
        pool = fold(conv, cast("nn.BatchNorm2d", norm))
        self.register_buffer("pool", pool.weight[:, :, 0, 0].t().contiguous())
        self.register_buffer("pool_bias", pool.bias)
        self.register_buffer("pool_narrow", narrow[-1])
        self.register_buffer("bias", joined.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inner, height, width) to the same."""
        batch, inner, height, width = x.shape
        rows = to_rows(x)
        pooled = F.relu(torch.addmm(self.pool_bias, x.mean((2, 3)), self.pool))
        constant = torch.addmm(self.bias, pooled, self.pool_narrow)
        total = constant.repeat_interleave(height * width, dim=0)
        for branch in self.branches:
            total = total.add_(branch(x, rows))
        return total.relu_().view(batch, height, width, inner).permute(0, 3, 1, 2)


class FastBlock(nn.Module):
    """A decoder block up to its last convolution, over inputs that are never concatenated."""

    def __init__(self, block: DecoderBlock, channels: list[int]) -> None:
        super().__init__()
        self.conv_in = cut(fold(block.conv_in, block.bn_in), channels)
        self.pyramid = FastPyramid(block.dec_att)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Maps of one size to (batch, inner, height, width)."""
        first, *others = (conv(part) for conv, part in zip(self.conv_in, parts, strict=True))
        for other in others:
            first = first.add_(other)
        out: Tensor = self.pyramid(first.relu_())
        return out


class FastDecoder(nn.Module):
    """Levels 4 (coarsest) to 1.

    Args:
        decoder: the reference.
        squeeze: the block before it.
        config: of both.
    """

    def __init__(self, decoder: Decoder, squeeze: DecoderBlock, config: BiRefNetConfig) -> None:
        super().__init__()
        self._birefnet_order = config.patch_order is PatchOrder.BIREFNET
        self.squeeze = FastBlock(squeeze, [sum(config.lateral_channels)])
        self.squeeze_out = fold(squeeze.conv_out, squeeze.bn_out)
        self.inject, self.blocks, self.outs = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.lateral_full, self.lateral_half, self.looks = (
            nn.ModuleDict(),
            nn.ModuleDict(),
            nn.ModuleDict(),
        )
        for level in (*_ATTENDED_LEVELS, 1):
            self._add_block(decoder, level)
        for level in _ATTENDED_LEVELS:
            self._add_attended(decoder, level)
        self.tail = Tail(decoder)

    def _add_block(self, decoder: Decoder, level: int) -> None:
        name = str(level)
        block = cast("DecoderBlock", decoder.get_submodule(f"decoder_block{level}"))
        source = decoder.get_submodule(f"ipt_blk{level + 1}")
        convs = [cast("nn.Conv2d", source.get_submodule(part)) for part in ("conv1", "conv_out")]
        self.inject[name] = nn.Sequential(*map(plain, convs))
        injected = convs[1].out_channels
        self.blocks[name] = FastBlock(block, [block.conv_in.in_channels - injected, injected])
        if level > 1:  # the tail has the last one's
            self.outs[name] = fold(block.conv_out, block.bn_out)

    def _add_attended(self, decoder: Decoder, level: int) -> None:
        name = str(level)
        lateral = cast("nn.Conv2d", decoder.get_submodule(f"lateral_block{level}.conv"))
        full, half = cut(plain(lateral), [lateral.in_channels // 2] * 2)
        self.lateral_full[name], self.lateral_half[name] = full, half
        gradient = decoder.get_submodule(f"gdt_convs_{level}")
        conv, norm = gradient.get_submodule("0"), gradient.get_submodule("1")
        attention = cast("nn.Conv2d", decoder.get_submodule(f"gdt_convs_attn_{level}.0"))
        folded = fold(cast("nn.Conv2d", conv), cast("nn.BatchNorm2d", norm))
        self.looks[name] = nn.Sequential(folded, nn.ReLU(), plain(attention), nn.Sigmoid())

    def forward(
        self, image: Tensor, full: list[Tensor], half: list[Tensor], context: Tensor
    ) -> Tensor:
        """Logits.

        Args:
            image: (batch, 3, side, side).
            full: the backbone's maps of the picture, finest first.
            half: those of the halved picture; each has half the side of its counterpart.
            context: (batch, channels, side / 32, side / 32): all maps at the coarsest size.

        Returns:
            (batch, 1, side, side).
        """
        p = self.squeeze_out(self.squeeze([context]))
        for level in _ATTENDED_LEVELS:
            name = str(level)
            p = self.outs[name](self._block(image, p, level))
            p = p.mul_(self.looks[name](p))
            # Both were to be upsampled to the same size: once will do for their sum.
            p = p.add_(self.lateral_half[name](half[level - 2]))
            p = resize(p, full[level - 2].shape[-2:]).add_(self.lateral_full[name](full[level - 2]))
        out: Tensor = self.tail(image, self._block(image, p, 1))
        return out

    def _block(self, image: Tensor, p: Tensor, level: int) -> Tensor:
        patches = self._patches(image, PATCH_GRIDS[level + 1])
        out: Tensor = self.blocks[str(level)]([p, self.inject[str(level)](patches)])
        return out

    def _patches(self, image: Tensor, grid: int) -> Tensor:
        """`image_to_patches` in channels_last."""
        batch, colours, height, width = image.shape
        tiles = image.reshape(batch, colours, grid, height // grid, grid, width // grid)
        order = (0, 3, 5, 1, 2, 4) if self._birefnet_order else (0, 3, 5, 4, 2, 1)
        rows = tiles.permute(order).reshape(batch, height // grid, width // grid, -1)
        return rows.permute(0, 3, 1, 2)


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise TypeError("the convolutions of offsets and modulators have a bias")
    return conv.bias
