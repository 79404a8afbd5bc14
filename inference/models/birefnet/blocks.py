"""What the squeeze module and the decoder are built of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.deformable import DeformableConv2d


def resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, corner pixels on corner pixels, as the network was trained."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class DeformableBranch(nn.Module):
    """One branch of the pyramid."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.atrous_conv = DeformableConv2d(in_channels, out_channels, kernel)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
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
        """(batch, inner, height, width) to the same."""
        branches = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        pooled = self.global_avg_pool(x).expand_as(branches[0])
        return F.relu(self.bn1(self.conv1(torch.cat([*branches, pooled], dim=1))))


class DecoderBlock(nn.Module):
    """Narrow, look around with the pyramid, widen."""

    def __init__(self, in_channels: int, out_channels: int, config: BiRefNetConfig) -> None:
        super().__init__()
        inner = config.inner_channels
        self.conv_in = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.dec_att = DeformablePyramid(config)
        self.conv_out = nn.Conv2d(inner, out_channels, 3, padding=1)
        self.bn_in = nn.BatchNorm2d(inner)
        self.bn_out = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        x = F.relu(self.bn_in(self.conv_in(x)))
        out: Tensor = self.bn_out(self.conv_out(self.dec_att(x)))
        return out


class LateralBlock(nn.Module):
    """A 1x1 convolution from an encoder map into the decoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same."""
        out: Tensor = self.conv(x)
        return out


class InputBlock(nn.Module):
    """Brings the picture's own pixels into a decoder level; two convolutions, nothing between."""

    def __init__(self, in_channels: int, out_channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, inner, 3, padding=1)
        self.conv_out = nn.Conv2d(inner, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        out: Tensor = self.conv_out(self.conv1(x))
        return out
