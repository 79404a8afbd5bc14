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

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height, width)."""
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> FixedConv:
    """Fold a BatchNorm in eval mode into the convolution before it."""
    if norm.running_var is None or norm.running_mean is None:
        raise TypeError("a BatchNorm without statistics cannot be folded")
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return FixedConv(conv.weight * scale.view(-1, 1, 1, 1), bias)


def freeze_conv(conv: nn.Conv2d) -> FixedConv:
    """Copy a convolution unchanged."""
    return FixedConv(conv.weight, conv.bias)


def split_by_input(conv: FixedConv, channels: Sequence[int]) -> nn.ModuleList:
    """Split a convolution over concatenated inputs into summands; the first has the bias."""
    weights = torch.split(conv.weight, list(channels), dim=1)
    biases = [conv.bias, *[None] * (len(weights) - 1)]
    return nn.ModuleList(FixedConv(*pair) for pair in zip(weights, biases, strict=True))


def to_rows(x: Tensor) -> Tensor:
    """Reshape (batch, channels, height, width) to (batch * height * width, channels)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class FastDeformableBranch(nn.Module):
    """A deformable branch of the pyramid, with its part of the convolution behind all branches."""

    weight: Tensor
    bias: Tensor
    narrow: Tensor

    def __init__(self, branch: DeformableBranch, narrow: Tensor) -> None:
        super().__init__()
        conv = branch.atrous_conv
        self.places = FixedConv(
            torch.cat((conv.offset_conv.weight, conv.modulator_conv.weight)),
            torch.cat(cast("list[Tensor]", [conv.offset_conv.bias, conv.modulator_conv.bias])),
        )
        folded = fold_batch_norm(conv.regular_conv, branch.bn)
        self.register_buffer("weight", folded.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous())
        self.register_buffer("bias", folded.bias)
        self.register_buffer("narrow", narrow)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return this branch's summand of the pyramid's output, (batch * pixels, inner)."""
        places = to_rows(self.places(x))
        height, width = x.shape[-2:]
        return deformable(rows, places, self.weight, self.bias, height, width) @ self.narrow


class FastDeformablePyramid(nn.Module):
    """The pyramid without the concatenation of its branches; the pooled branch is a bias."""

    pool: Tensor
    pool_bias: Tensor
    pool_narrow: Tensor
    bias: Tensor

    def __init__(self, pyramid: DeformablePyramid) -> None:
        super().__init__()
        joined = fold_batch_norm(pyramid.conv1, pyramid.bn1)
        branches = [pyramid.aspp1, *pyramid.aspp_deforms]
        *narrow, pool_narrow = (
            part.t().contiguous() for part in joined.weight[:, :, 0, 0].chunk(len(branches) + 1, 1)
        )
        self.branches = nn.ModuleList(
            FastDeformableBranch(cast("DeformableBranch", branch), share)
            for branch, share in zip(branches, narrow, strict=True)
        )
        conv, norm = cast("nn.Conv2d", pyramid.global_avg_pool[1]), pyramid.global_avg_pool[2]
        pool = fold_batch_norm(conv, cast("nn.BatchNorm2d", norm))
        self.register_buffer("pool", pool.weight[:, :, 0, 0].t().contiguous())
        self.register_buffer("pool_bias", pool.bias)
        self.register_buffer("pool_narrow", pool_narrow)
        self.register_buffer("bias", joined.bias)

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
        self.conv_in = split_by_input(fold_batch_norm(block.conv_in, block.bn_in), channels)
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
        self._birefnet_order = config.patch_order is PatchOrder.BIREFNET
        self.squeeze = nn.Sequential(
            FastDecoderBlock(squeeze, [sum(config.lateral_channels)]),
            fold_batch_norm(squeeze.conv_out, squeeze.bn_out),
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
            inner.append(fold_batch_norm(block.conv_out, block.bn_out))

    def _add_attended(self, decoder: Decoder, level: int) -> None:
        name = str(level)
        lateral = cast("nn.Conv2d", decoder.get_submodule(f"lateral_block{level}.conv"))
        full, half = split_by_input(freeze_conv(lateral), [lateral.in_channels // 2] * 2)
        self.lateral_full[name], self.lateral_half[name] = full, half
        conv, norm, _ = decoder.get_submodule(f"gdt_convs_{level}").children()
        attention = cast("nn.Conv2d", decoder.get_submodule(f"gdt_convs_attn_{level}.0"))
        folded = fold_batch_norm(cast("nn.Conv2d", conv), cast("nn.BatchNorm2d", norm))
        layers = folded, nn.ReLU(), freeze_conv(attention), nn.Sigmoid()
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
        order = (0, 3, 5, 1, 2, 4) if self._birefnet_order else (0, 3, 5, 4, 2, 1)
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
        out = fold_batch_norm(block.conv_out, block.bn_out)
        last, last_bias = (value.detach() for value in decoder.conv_out1[0].parameters())
        features, picture = last[:, : len(out.weight), 0, 0], last[:, len(out.weight) :, 0, 0]
        self.features = FixedConv(
            _narrow_outputs(features, out.weight), features @ cast("Tensor", out.bias)
        )
        conv1, conv_out = (cast("nn.Conv2d", conv) for conv in decoder.ipt_blk1)
        bias = picture @ cast("Tensor", conv_out.bias) + last_bias
        self.first = freeze_conv(conv1)
        self.second = FixedConv(_narrow_outputs(picture, conv_out.weight), bias)
        self.both = _fuse_convs(self.first, self.second)

    def forward(self, image: Tensor, p: Tensor) -> Tensor:
        """Map the picture and (batch, inner, side / 4, side / 4) to (batch, 1, side, side)."""
        logits = resize(self.features(p), image.shape[-2:])
        return logits.add_(self._picture(image))

    def _picture(self, image: Tensor) -> Tensor:
        out: Tensor = self.both(image)
        # A strip of three pixels holds everything that the outermost line depends on.
        out[:, :, 0] = self._exact(image[:, :, :3])[:, :, 0]
        out[:, :, -1] = self._exact(image[:, :, -3:])[:, :, -1]
        out[:, :, :, 0] = self._exact(image[:, :, :, :3])[:, :, :, 0]
        out[:, :, :, -1] = self._exact(image[:, :, :, -3:])[:, :, :, -1]
        return out

    def _exact(self, strip: Tensor) -> Tensor:
        return self.second(self.first(strip))


def _narrow_outputs(rows: Tensor, weight: Tensor) -> Tensor:
    """Apply a 1x1 convolution, (1, outputs), to the outputs of another one's weight."""
    return torch.einsum("po,ochw->pchw", rows, weight)


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
