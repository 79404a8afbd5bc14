"""The deformable convolution on the CPU against the reference path's."""

import pytest
import torch

from inference.models.birefnet.fast.deformable import deformable
from inference.models.birefnet.network import deform_conv2d


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (1, 5), (40, 40)])
def test_the_operator_equals_the_reference(kernel: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(kernel * width)
    x, offset, modulator = (
        scale * torch.randn(2, channels, height, width, generator=generator)
        for scale, channels in ((1, 5), (4, 2 * kernel**2), (1, kernel**2))
    )
    offset[0, :, 0, 0] = 1e9  # leads nowhere
    weight = torch.randn(6, 5, kernel, kernel, generator=generator) / kernel
    bias = torch.randn(6, generator=generator)
    expected = deform_conv2d(x, offset, 2 * torch.sigmoid(modulator), weight)
    expected = torch.relu(expected + bias.view(-1, 1, 1))
    rows = [
        part.permute(0, 2, 3, 1).flatten(0, 2) for part in (x, torch.cat((offset, modulator), 1))
    ]
    taps = weight.permute(2, 3, 1, 0).flatten(0, 2)
    answer = deformable(*rows, taps, bias, height, width)
    torch.testing.assert_close(
        answer.view(2, height, width, 6).permute(0, 3, 1, 2), expected, atol=2e-4, rtol=1e-4
    )
