"""BiRefNet as published: the decoder with its deformable pyramid, and the whole network."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch code uses

from inference.models.birefnet.config import PATCH_GRIDS, BiRefNetConfig, PatchOrder
from inference.models.birefnet.swin import Swin

#: The levels that have a lateral connection and an outline attention, coarsest first.
ATTENDED_LEVELS = (4, 3, 2)

_GRADIENT_CHANNELS = 16  # of the maps that the outline attention is made of ("gdt")


def deform_conv2d(x: Tensor, offset: Tensor, modulator: Tensor, weight: Tensor) -> Tensor:
    """Compute a deformable convolution of stride 1 with zeros outside the map ("same" padding).

    Args:
        x: (batch, channels, height, width).
        offset: (batch, 2 * kernel**2, height, width), pixels; (dy, dx) pairs, taps row by row.
        modulator: (batch, kernel**2, height, width), the factor of each tap's sample.
        weight: (outputs, channels, kernel, kernel).

    Returns:
        (batch, outputs, height, width), in x's precision; sums over kernel rows are float32.
    """
    batch, _, height, width = x.shape
    outputs, channels, kernel, _ = weight.shape
    source = x.float()
    offset = offset.float().view(batch, kernel, kernel, 2, height, width)
    modulator = modulator.float().view(batch, kernel, kernel, 1, height * width)
    total = torch.zeros(batch, outputs, height * width, device=x.device)
    # One kernel row at a time limits the memory: all 49 taps at once would take 0.8 GB at 1024.
    for row in range(kernel):
        at = _tap_positions(offset[:, row], row - kernel // 2)
        columns = _sample_bilinear(source, at).view(batch, kernel, channels, -1) * modulator[:, row]
        taps = weight[:, :, row].transpose(1, 2).reshape(outputs, kernel * channels)
        total += taps @ columns.view(batch, kernel * channels, -1).to(taps.dtype)
    return total.view(batch, outputs, height, width).to(x.dtype)


def _tap_positions(offset: Tensor, row: int) -> Tensor:
    """Return where one kernel row samples: (batch, taps, height, width, 2), (x, y) in pixels."""
    kernel, (height, width) = offset.shape[1], offset.shape[-2:]
    taps = torch.arange(kernel, device=offset.device).view(-1, 1, 1) - kernel // 2
    rows = torch.arange(height, device=offset.device).view(-1, 1) + row
    cols = torch.arange(width, device=offset.device)
    return torch.stack((offset[:, :, 1] + cols + taps, offset[:, :, 0] + rows), dim=-1)


def _sample_bilinear(x: Tensor, at: Tensor) -> Tensor:
    """Sample x bilinearly: (batch * taps, channels, height, width)."""
    taps, (height, width) = at.shape[1], x.shape[-2:]
    # Taps go into the batch, because torch's CPU kernel runs in parallel over it.
    source = x[:, None].expand(-1, taps, -1, -1, -1).flatten(0, 1)
    # The units of align_corners=False, which are defined for a side of one pixel too.
    size = torch.tensor((width, height), device=x.device)
    grid = ((2 * at + 1) / size - 1).flatten(0, 1)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class DeformableConv2d(nn.Module):
    """A deformable convolution whose offsets and modulators come from two plain convolutions."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        taps, pad = kernel * kernel, kernel // 2
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, kernel, padding=pad)
        self.modulator_conv = nn.Conv2d(in_channels, taps, kernel, padding=pad)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, kernel, padding=pad, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        modulator = 2 * torch.sigmoid(self.modulator_conv(x))
        return deform_conv2d(x, self.offset_conv(x), modulator, self.regular_conv.weight)


def resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resize bilinearly with aligned corners, as in the network's training."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class DeformableBranch(nn.Module):
    """One branch of the pyramid: deformable convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.atrous_conv = DeformableConv2d(in_channels, out_channels, kernel)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return F.relu(self.bn(self.atrous_conv(x)))


class DeformablePyramid(nn.Module):
    """Pyramid pooling with deformable kernels instead of dilated ones ("ASPPDeformable")."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        inner, wide, kernels = config.inner_channels, config.aspp_channels, config.aspp_kernels
        self.aspp1 = DeformableBranch(inner, wide, 1)
        self.aspp_deforms = nn.ModuleList(DeformableBranch(inner, wide, side) for side in kernels)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d((len(kernels) + 2) * wide, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inner, height, width) to that shape."""
        branches = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        pooled = self.global_avg_pool(x).expand_as(branches[0])
        return F.relu(self.bn1(self.conv1(torch.cat([*branches, pooled], dim=1))))


class DecoderBlock(nn.Module):
    """A convolution to few channels, the pyramid, and a convolution to many channels."""

    def __init__(self, in_channels: int, out_channels: int, config: BiRefNetConfig) -> None:
        super().__init__()
        inner = config.inner_channels
        self.conv_in = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.dec_att = DeformablePyramid(config)
        self.conv_out = nn.Conv2d(inner, out_channels, 3, padding=1)
        self.bn_in = nn.BatchNorm2d(inner)
        self.bn_out = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        x = F.relu(self.bn_in(self.conv_in(x)))
        return self.bn_out(self.conv_out(self.dec_att(x)))


def input_block(in_channels: int, out_channels: int, inner: int) -> nn.Sequential:
    """Make the two convolutions, with nothing between them, from patches into a decoder level."""
    conv1 = nn.Conv2d(in_channels, inner, 3, padding=1)
    return nn.Sequential(
        OrderedDict(conv1=conv1, conv_out=nn.Conv2d(inner, out_channels, 3, padding=1))
    )


def image_to_patches(image: Tensor, grid: int, order: PatchOrder) -> Tensor:
    """Cut a picture into grid x grid tiles and stack them along the channels.

    Maps (batch, 3, height, width), with sides divisible by `grid`, to
    (batch, 3 * grid**2, height / grid, width / grid).
    """
    batch, colors, height, width = image.shape
    tiles = image.view(batch, colors, grid, height // grid, grid, width // grid)
    if order is PatchOrder.COLORS_ROWS_COLUMNS:
        tiles = tiles.permute(0, 1, 2, 4, 3, 5)  # color, row, column
    else:
        tiles = tiles.permute(0, 4, 2, 1, 3, 5)  # column, row, color
    return tiles.reshape(batch, colors * grid * grid, height // grid, width // grid)


class Decoder(nn.Module):
    """Levels 4 (coarsest) to 1, named as in the checkpoints."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        self.patch_order = config.patch_order
        x1, x2, x3, x4 = config.lateral_channels
        injected = {5: x4 // 8, 4: x4 // 8, 3: x3 // 8, 2: x2 // 8, 1: x1 // 8}
        for level, grid in PATCH_GRIDS.items():
            block = input_block(3 * grid * grid, injected[level], config.inner_channels)
            self.add_module(f"ipt_blk{level}", block)
        for level, below, out in ((4, x4, x3), (3, x3, x2), (2, x2, x1), (1, x1, x1 // 2)):
            wide = below + injected[level + 1]
            self.add_module(f"decoder_block{level}", DecoderBlock(wide, out, config))
        self.ipt_blk1 = input_block(3, injected[1], config.inner_channels)
        self.conv_out1 = nn.Sequential(nn.Conv2d(x1 // 2 + injected[1], 1, 1))
        for level, channels in zip(ATTENDED_LEVELS, (x3, x2, x1), strict=True):
            self._add_attended(level, channels)

    def _add_attended(self, level: int, channels: int) -> None:
        """Add the lateral connection and the outline attention of level 4, 3 or 2."""
        thin = _GRADIENT_CHANNELS
        lateral = nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, channels, 1)))
        self.add_module(f"lateral_block{level}", lateral)
        convs = nn.Sequential(
            nn.Conv2d(channels, thin, 3, padding=1), nn.BatchNorm2d(thin), nn.ReLU()
        )
        self.add_module(f"gdt_convs_{level}", convs)
        self.add_module(f"gdt_convs_attn_{level}", nn.Sequential(nn.Conv2d(thin, 1, 1)))
        # Only training uses these two, but every checkpoint holds them.
        self.add_module(f"conv_ms_spvn_{level}", nn.Conv2d(channels, 1, 1))
        self.add_module(f"gdt_convs_pred_{level}", nn.Sequential(nn.Conv2d(thin, 1, 1)))

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Map (batch, 3, height, width) and x1..x4, finest first, to (batch, 1, height, width)."""
        p = maps[-1]
        for level in ATTENDED_LEVELS:
            p = self._run(f"decoder_block{level}", self._inject(image, p, level + 1))
            p = p * self._outlines(p, level)
            finer = maps[level - 2]
            p = resize(p, finer.shape[-2:]) + self._run(f"lateral_block{level}", finer)
        return self._logits(image, self._run("decoder_block1", self._inject(image, p, 2)))

    def _run(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(name)(x)

    def _inject(self, image: Tensor, p: Tensor, level: int) -> Tensor:
        """Concatenate a level's features with the picture's patches."""
        patches = image_to_patches(image, PATCH_GRIDS[level], self.patch_order)
        return torch.cat((p, self._run(f"ipt_blk{level}", patches)), dim=1)

    def _outlines(self, p: Tensor, level: int) -> Tensor:
        """Return the outline attention of a level: (batch, 1, height, width), 0..1."""
        gradient = self._run(f"gdt_convs_{level}", p)
        return torch.sigmoid(self._run(f"gdt_convs_attn_{level}", gradient))

    def _logits(self, image: Tensor, p: Tensor) -> Tensor:
        """Apply the last 1x1 convolution to upsampled features and the injected picture.

        A 1x1 convolution commutes with bilinear upsampling and composes with the convolution
        before it, so each part is reduced to one channel first: an equal sum in another order,
        without two wide maps at full size.
        """
        weight, bias = self.conv_out1[0].parameters()
        conv1, conv_out = self.ipt_blk1
        inner, inner_bias = conv_out.parameters()
        for_features, for_picture = weight[:, : p.shape[1]], weight[:, p.shape[1] :]
        narrow = torch.einsum("po,ochw->pchw", for_picture[:, :, 0, 0], inner)
        constant = for_picture[:, :, 0, 0] @ inner_bias + bias
        picture = F.conv2d(conv1(image), narrow, constant, padding=1)
        return resize(F.conv2d(p, for_features), image.shape[-2:]) + picture


#: Sides of the input must be divisible by this.
STRIDE = 32


class BiRefNet(nn.Module):
    """The network of RMBG-2.0 and BiRefNet, for inference, with the checkpoints' own keys."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        self.config = config
        x1, x2, x3, x4 = config.lateral_channels
        self.bb = Swin(config.swin)
        self.squeeze_module = nn.Sequential(DecoderBlock(x1 + x2 + x3 + x4, x4, config))
        self.decoder = Decoder(config)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the matte's logits, (batch, 1, height, width); the matte is their sigmoid.

        Args:
            image: (batch, 3, height, width), ImageNet-normalized; sides are multiples of 32.
        """
        x1, x2, x3, x4 = self._encode(image)
        context = [resize(x, x4.shape[-2:]) for x in (x1, x2, x3)]
        x4 = self.squeeze_module(torch.cat([*context, x4], dim=1))
        return self.decoder(image, [x1, x2, x3, x4])

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Concatenate the maps of both scales of the backbone along the channels."""
        height, width = image.shape[-2:]
        full = self.bb(image)
        half = self.bb(resize(image, (height // 2, width // 2)))
        pairs = zip(full, half, strict=True)
        return [torch.cat((x, resize(y, x.shape[-2:])), dim=1) for x, y in pairs]
