"""The fast path's network: a decoder with folded norms, and the whole network."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch code uses

from inference.models.birefnet.config import PATCH_GRIDS, BiRefNetConfig, PatchOrder
from inference.models.birefnet.fast.deformable import deformable
from inference.models.birefnet.fast.swin import FastSwin
from inference.models.birefnet.network import (
    ATTENDED_LEVELS,
    BiRefNet,
    Decoder,
    DecoderBlock,
    DeformableBranch,
    DeformablePyramid,
    resize,
)


class FixedConv(nn.Module):
    """A convolution of stride 1 and "same" padding with given weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = nn.Buffer(weight)
        self.bias = None if bias is None else nn.Buffer(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height, width)."""
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution and the BatchNorm in eval mode behind it."""
    if norm.running_var is None or norm.running_mean is None:
        raise TypeError("a BatchNorm without statistics cannot be folded")
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return conv.weight * scale.view(-1, 1, 1, 1), bias


def freeze_conv(conv: nn.Conv2d) -> FixedConv:
    """Copy a convolution unchanged."""
    return FixedConv(conv.weight, conv.bias)


def split_by_input(weight: Tensor, bias: Tensor | None, channels: Sequence[int]) -> nn.ModuleList:
    """Split a convolution over concatenated inputs into summands; the first has the bias."""
    weights = torch.split(weight, list(channels), dim=1)
    biases = [bias, *[None] * (len(weights) - 1)]
    return nn.ModuleList(FixedConv(*pair) for pair in zip(weights, biases, strict=True))


def to_rows(x: Tensor) -> Tensor:
    """Reshape (batch, channels, height, width) to (batch * height * width, channels)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class FastDeformableBranch(nn.Module):
    """A deformable branch of the pyramid, with its part of the convolution behind all branches."""

    def __init__(self, branch: DeformableBranch, narrow: Tensor) -> None:
        super().__init__()
        conv = branch.atrous_conv
        self.places = FixedConv(
            torch.cat((conv.offset_conv.weight, conv.modulator_conv.weight)),
            torch.cat(cast("list[Tensor]", [conv.offset_conv.bias, conv.modulator_conv.bias])),
        )
        weight, bias = fold_batch_norm(conv.regular_conv, branch.bn)
        self.weight = nn.Buffer(weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous())
        self.bias = nn.Buffer(bias)
        self.narrow = nn.Buffer(narrow)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return this branch's summand of the pyramid's output, (batch * pixels, inner)."""
        places = to_rows(self.places(x))
        height, width = x.shape[-2:]
        return deformable(rows, places, self.weight, self.bias, height, width) @ self.narrow


class FastDeformablePyramid(nn.Module):
    """The pyramid without the concatenation of its branches; the pooled branch is a bias."""

    def __init__(self, pyramid: DeformablePyramid) -> None:
        super().__init__()
        joined, bias = fold_batch_norm(pyramid.conv1, pyramid.bn1)
        branches = [pyramid.aspp1, *pyramid.aspp_deforms]
        *narrow, pool_narrow = (
            part.t().contiguous() for part in joined[:, :, 0, 0].chunk(len(branches) + 1, 1)
        )
        self.branches = nn.ModuleList(
            FastDeformableBranch(cast("DeformableBranch", branch), share)
            for branch, share in zip(branches, narrow, strict=True)
        )
        conv, norm = cast("nn.Conv2d", pyramid.global_avg_pool[1]), pyramid.global_avg_pool[2]
        pool, pool_bias = fold_batch_norm(conv, cast("nn.BatchNorm2d", norm))
        self.pool = nn.Buffer(pool[:, :, 0, 0].t().contiguous())
        self.pool_bias = nn.Buffer(pool_bias)
        self.pool_narrow = nn.Buffer(pool_narrow)
        self.bias = nn.Buffer(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inner, height, width) to that shape."""
        batch, inner, height, width = x.shape
        rows = to_rows(x)
        pooled = F.relu(torch.addmm(self.pool_bias, x.mean((2, 3)), self.pool))
        constant = torch.addmm(self.bias, pooled, self.pool_narrow)
        total = constant.repeat_interleave(height * width, dim=0)
        for branch in self.branches:
            total = total.add_(branch(x, rows))
        return total.relu_().view(batch, height, width, inner).permute(0, 3, 1, 2)


class FastDecoderBlock(nn.Module):
    """A decoder block up to its last convolution; its inputs are never concatenated."""

    def __init__(self, block: DecoderBlock, channels: list[int]) -> None:
        super().__init__()
        self.conv_in = split_by_input(*fold_batch_norm(block.conv_in, block.bn_in), channels)
        self.pyramid = FastDeformablePyramid(block.dec_att)

    def forward(self, parts: list[Tensor]) -> Tensor:
        """Map inputs of one size to (batch, inner, height, width)."""
        first, *others = (conv(part) for conv, part in zip(self.conv_in, parts, strict=True))
        for other in others:
            first = first.add_(other)
        return self.pyramid(first.relu_())


class FastDecoder(nn.Module):
    """The decoder with folded convolutions, and `squeeze`, the block before it."""

    def __init__(self, decoder: Decoder, squeeze: DecoderBlock, config: BiRefNetConfig) -> None:
        super().__init__()
        self._colors_first = config.patch_order is PatchOrder.COLORS_ROWS_COLUMNS
        self.squeeze = nn.Sequential(
            FastDecoderBlock(squeeze, [sum(config.lateral_channels)]),
            FixedConv(*fold_batch_norm(squeeze.conv_out, squeeze.bn_out)),
        )
        self.inject, self.blocks, self.attentions = (nn.ModuleDict() for _ in range(3))
        self.lateral_full, self.lateral_half = nn.ModuleDict(), nn.ModuleDict()
        for level in (*ATTENDED_LEVELS, 1):
            self._add_block(decoder, level)
        for level in ATTENDED_LEVELS:
            self._add_attended(decoder, level)
        self.tail = FusedTail(decoder)

    def _add_block(self, decoder: Decoder, level: int) -> None:
        name = str(level)
        block = cast("DecoderBlock", decoder.get_submodule(f"decoder_block{level}"))
        source = decoder.get_submodule(f"ipt_blk{level + 1}")
        conv1, conv_out = (cast("nn.Conv2d", conv) for conv in source.children())
        self.inject[name] = nn.Sequential(freeze_conv(conv1), freeze_conv(conv_out))
        injected = conv_out.out_channels
        channels = [block.conv_in.in_channels - injected, injected]
        self.blocks[name] = inner = nn.Sequential(FastDecoderBlock(block, channels))
        if level > 1:  # the fused tail contains the last one's
            inner.append(FixedConv(*fold_batch_norm(block.conv_out, block.bn_out)))

    def _add_attended(self, decoder: Decoder, level: int) -> None:
        name = str(level)
        lateral = cast("nn.Conv2d", decoder.get_submodule(f"lateral_block{level}.conv"))
        halves = [lateral.in_channels // 2] * 2
        full, half = split_by_input(lateral.weight, lateral.bias, halves)
        self.lateral_full[name], self.lateral_half[name] = full, half
        conv, norm, _ = decoder.get_submodule(f"gdt_convs_{level}").children()
        attention = cast("nn.Conv2d", decoder.get_submodule(f"gdt_convs_attn_{level}.0"))
        folded = fold_batch_norm(cast("nn.Conv2d", conv), cast("nn.BatchNorm2d", norm))
        layers = FixedConv(*folded), nn.ReLU(), freeze_conv(attention), nn.Sigmoid()
        self.attentions[name] = nn.Sequential(*layers)

    def forward(
        self, image: Tensor, full: list[Tensor], half: list[Tensor], context: Tensor
    ) -> Tensor:
        """Map (batch, 3, side, side) to logits, (batch, 1, side, side).

        Args:
            image: the picture.
            full: the backbone's maps of the picture, finest first.
            half: those of the halved picture; each has half the side of its counterpart.
            context: (batch, channels, side / 32, side / 32): all maps at the coarsest size.
        """
        p = self.squeeze([context])
        for level in ATTENDED_LEVELS:
            name = str(level)
            p = self._block(image, p, level)
            p = p.mul_(self.attentions[name](p))
            # Both are upsampled to one size, so their sum is upsampled once.
            p = p.add_(self.lateral_half[name](half[level - 2]))
            p = resize(p, full[level - 2].shape[-2:]).add_(self.lateral_full[name](full[level - 2]))
        return self.tail(image, self._block(image, p, 1))

    def _block(self, image: Tensor, p: Tensor, level: int) -> Tensor:
        patches = self._patches(image, PATCH_GRIDS[level + 1])
        return self.blocks[str(level)]([p, self.inject[str(level)](patches)])

    def _patches(self, image: Tensor, grid: int) -> Tensor:
        """Do what `image_to_patches` does, in channels_last."""
        batch, colors, height, width = image.shape
        tiles = image.reshape(batch, colors, grid, height // grid, grid, width // grid)
        order = (0, 3, 5, 1, 2, 4) if self._colors_first else (0, 3, 5, 4, 2, 1)
        rows = tiles.permute(order).reshape(batch, height // grid, width // grid, -1)
        return rows.permute(0, 3, 1, 2)


class FusedTail(nn.Module):
    """The last convolutions, fused: from the last pyramid's output and the picture to logits.

    Only additions lie between these convolutions and the logits, and a convolution after another
    is one convolution, so neither the picture's 48 or so channels nor the hundreds of features
    exist at full size. Two 3x3 convolutions differ from their 5x5 only on the outermost pixels,
    where the second one sees zeros instead of the first one's output for pixels outside; those
    pixels are computed by the two.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        block = cast("DecoderBlock", decoder.get_submodule("decoder_block1"))
        weight, bias = fold_batch_norm(block.conv_out, block.bn_out)
        last, last_bias = (value.detach() for value in decoder.conv_out1[0].parameters())
        for_features, for_picture = last[:, : len(weight), 0, 0], last[:, len(weight) :, 0, 0]
        # The last 1x1 convolution, applied to the outputs of the ones before it.
        narrow = torch.einsum("po,ochw->pchw", for_features, weight)
        self.features = FixedConv(narrow, for_features @ bias)
        conv1, conv_out = (cast("nn.Conv2d", conv) for conv in decoder.ipt_blk1)
        narrow = torch.einsum("po,ochw->pchw", for_picture, conv_out.weight)
        constant = for_picture @ cast("Tensor", conv_out.bias) + last_bias
        first, second = freeze_conv(conv1), FixedConv(narrow, constant)
        self.exact = nn.Sequential(first, second)
        self.fused = _fuse_convs(first, second)

    def forward(self, image: Tensor, p: Tensor) -> Tensor:
        """Map the picture and (batch, inner, side / 4, side / 4) to (batch, 1, side, side)."""
        picture = self.fused(image)
        # A strip of three pixels holds everything that the outermost line depends on.
        picture[:, :, 0] = self.exact(image[:, :, :3])[:, :, 0]
        picture[:, :, -1] = self.exact(image[:, :, -3:])[:, :, -1]
        picture[:, :, :, 0] = self.exact(image[:, :, :, :3])[:, :, :, 0]
        picture[:, :, :, -1] = self.exact(image[:, :, :, -3:])[:, :, :, -1]
        return resize(self.features(p), image.shape[-2:]).add_(picture)


def _fuse_convs(first: FixedConv, second: FixedConv) -> FixedConv:
    """Fuse two 3x3 convolutions into a 5x5 that is equal except at the border."""
    kernels = first.weight.detach().permute(1, 0, 2, 3)
    # Correlating one kernel with the other one flipped convolves the two.
    weight = F.conv2d(kernels, second.weight.flip(2, 3), padding=2).permute(1, 0, 2, 3)
    bias = second.weight.sum((2, 3)) @ cast("Tensor", first.bias) + cast("Tensor", second.bias)
    return FixedConv(weight, bias)


#: Sides must be divisible by this, so that no map of either scale that is halved has an odd side.
FAST_STRIDE = 64


class FastBiRefNet(nn.Module):
    """A network made from a loaded `BiRefNet`, with which it shares its largest tensors.

    Args:
        network: in eval mode, float32 on the CPU.
        side: of the square pictures, pixels; a multiple of 64.
    """

    def __init__(self, network: BiRefNet, side: int) -> None:
        super().__init__()
        if side % FAST_STRIDE:
            raise ValueError(f"a side of {side} pixels is no multiple of {FAST_STRIDE}")
        self.side = side
        with torch.no_grad():
            window = network.config.swin.window
            self.backbone = FastSwin(network.bb, window, (side, side // 2))
            squeeze = cast("DecoderBlock", network.squeeze_module[0])
            self.decoder = FastDecoder(network.decoder, squeeze, network.config)
            coarse = side // 32
            for index in range(4):
                long = coarse << (3 - index)
                matrix = _interpolation_matrix(long // 2, long, coarse)
                self.register_buffer(f"context_{index}", matrix)
        self.eval().requires_grad_(requires_grad=False)

    def prepare(self, batch: int) -> None:
        """Prepare for a batch size, on the device; required before `forward`."""
        self.backbone.prepare(batch)

    def example(self, batch: int) -> Tensor:
        """Return a batch of gray pictures, on the network's device and in its precision."""
        like = self.backbone.patch.weight
        return like.new_zeros(batch, 3, self.side, self.side)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the matte's logits.

        Args:
            image: (batch, 3, side, side), ImageNet-normalized.

        Returns:
            (batch, 1, side, side); the matte is their sigmoid.
        """
        image = image.contiguous(memory_format=torch.channels_last)
        halved = resize(image, (self.side // 2, self.side // 2))
        full, half = self.backbone([image, halved])
        return self.decoder(image, full, half, self._context(full, half))

    def _context(self, full: list[Tensor], half: list[Tensor]) -> Tensor:
        """Concatenate all maps of both scales, resized to the coarsest, along the channels."""
        parts = []
        for index, (large, small) in enumerate(zip(full, half, strict=True)):
            parts.append(resize(large, full[-1].shape[-2:]))
            along = self.get_buffer(f"context_{index}")
            rows = torch.einsum("oh,bchw->bcow", along, small)
            parts.append(torch.einsum("ow,bchw->bcho", along, rows))
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


def _interpolation_matrix(short: int, long: int, coarse: int) -> Tensor:
    """Return a matrix that resizes a line from `short` to `long` and then to `coarse`."""
    line = torch.eye(short, dtype=torch.float64)[None]
    for length in (long, coarse):
        line = F.interpolate(line, size=length, mode="linear", align_corners=True)
    return line[0].t().float().contiguous()
