"""The fast backbone against the reference, for windows that need no mask or padding."""

import pytest
import torch

from inference.models.birefnet.config import SwinConfig
from inference.models.birefnet.fast.swin import FastSwin
from inference.models.birefnet.swin import Swin


@pytest.mark.parametrize("window", [7, 12])
@pytest.mark.parametrize("side", [64, 160, 256])
@torch.inference_mode()
def test_windows_without_masks_and_padding_attend_alike(window: int, side: int) -> None:
    generator = torch.Generator().manual_seed(window * side)
    config = SwinConfig(embed_dim=8, depths=(2, 2, 3, 2), num_heads=(1, 2, 2, 4), window=window)
    swin = Swin(config).eval()
    for parameter in swin.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    sides = (side, 96)
    pictures = [torch.randn(2, 3, one, one, generator=generator) for one in sides]
    fast = FastSwin(swin, window, sides)
    fast.prepare(2)
    for maps, picture in zip(fast(pictures), pictures, strict=True):
        for ours, reference in zip(maps, swin(picture), strict=True):
            torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
