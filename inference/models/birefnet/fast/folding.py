"""BatchNorm folded into the convolution before it, and convolutions cut along their inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


class Conv(nn.Module):
    """A stride 1, "same"-padded convolution whose weights are made, not trained.

    Args:
        weight: (outputs, inputs, kernel, kernel).
        bias: (outputs).
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height, width)."""
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a BatchNorm multiplies by and adds when it does not learn, each (channels)."""
    if norm.running_var is None or norm.running_mean is None:
        raise TypeError("a BatchNorm without statistics cannot be folded")
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Conv:
    """The convolution and the BatchNorm behind it as one."""
    scale, shift = scale_and_shift(norm)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return Conv(conv.weight * scale.view(-1, 1, 1, 1), bias)


def plain(conv: nn.Conv2d) -> Conv:
    """A convolution as it is."""
    return Conv(conv.weight, conv.bias)


def cut(conv: Conv, channels: Sequence[int]) -> nn.ModuleList:
    """The summands of a convolution over concatenated inputs; the first carries the bias."""
    weights = torch.split(conv.weight, list(channels), dim=1)
    biases = [conv.bias, *[None] * (len(weights) - 1)]
    return nn.ModuleList(Conv(*pair) for pair in zip(weights, biases, strict=True))
