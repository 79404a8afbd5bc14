"""Modulated deformable convolution (Zhu et al., 2018, https://arxiv.org/abs/1811.11168).

Made of `grid_sample` and matrix products, so that it runs on any device and in any precision
without a compiled operator. Coordinates stay float32 whatever the network's precision: in float16
a coordinate of 200 is known to no better than an eighth of a pixel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


def deform_conv2d(x: Tensor, offset: Tensor, modulator: Tensor, weight: Tensor) -> Tensor:
    """A stride 1, "same"-padded deformable convolution; outside the map lies zero.

    Args:
        x: (batch, channels, height, width).
        offset: (batch, 2 * kernel**2, height, width), pixels; (dy, dx) pairs, taps row by row.
        modulator: (batch, kernel**2, height, width), what each tap's sample is multiplied by.
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
    # One kernel row at a time bounds the memory: all 49 taps at once would be 0.8 GB at 1024.
    for row in range(kernel):
        at = _positions(offset[:, row], row - kernel // 2)
        columns = _sample(source, at).view(batch, kernel, channels, -1) * modulator[:, row]
        taps = weight[:, :, row].transpose(1, 2).reshape(outputs, kernel * channels)
        total += taps @ columns.view(batch, kernel * channels, -1).to(taps.dtype)
    return total.view(batch, outputs, height, width).to(x.dtype)


def _positions(offset: Tensor, row: int) -> Tensor:
    """Where one kernel row's taps look: (batch, taps, height, width, 2), (x, y) in pixels."""
    kernel, (height, width) = offset.shape[1], offset.shape[-2:]
    taps = torch.arange(kernel, device=offset.device).view(-1, 1, 1) - kernel // 2
    rows = torch.arange(height, device=offset.device).view(-1, 1) + row
    cols = torch.arange(width, device=offset.device)
    return torch.stack((offset[:, :, 1] + cols + taps, offset[:, :, 0] + rows), dim=-1)


def _sample(x: Tensor, at: Tensor) -> Tensor:
    """Bilinear samples of x, (batch * taps, channels, height, width)."""
    taps, (height, width) = at.shape[1], x.shape[-2:]
    # Taps go into the batch, over which torch's CPU kernel shares out its work.
    source = x[:, None].expand(-1, taps, -1, -1, -1).flatten(0, 1)
    # The units of align_corners=False, which exist for a side of one pixel too.
    size = torch.tensor((width, height), device=x.device)
    grid = ((2 * at + 1) / size - 1).flatten(0, 1)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class DeformableConv2d(nn.Module):
    """A convolution whose taps move and fade by what two plain convolutions say."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        taps, pad = kernel * kernel, kernel // 2
        self.offset_conv = nn.Conv2d(in_channels, 2 * taps, kernel, padding=pad)
        self.modulator_conv = nn.Conv2d(in_channels, taps, kernel, padding=pad)
        self.regular_conv = nn.Conv2d(in_channels, out_channels, kernel, padding=pad, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        modulator = 2 * torch.sigmoid(self.modulator_conv(x))
        return deform_conv2d(x, self.offset_conv(x), modulator, self.regular_conv.weight)
