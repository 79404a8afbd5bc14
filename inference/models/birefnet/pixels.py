"""Pictures to what the network sees, and its answer to mattes, on the network's device."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.base import Alpha, Rgb

# Mean and standard deviation of ImageNet's training pictures, per channel, on a 0..1 scale.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def prepare(image: Rgb, side: int, device: torch.device) -> Tensor:
    """A picture as the network was trained on them: squashed to a square, then normalised.

    The antialiased bilinear resize is within one level of PIL's; without antialiasing it would be
    up to 16 levels off.

    Returns:
        (1, 3, side, side) float32 on `device`.
    """
    pixels = upload(image, device)
    levels = resize_levels(pixels.permute(2, 0, 1)[None].float(), side)
    mean = torch.tensor(_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=device).view(1, 3, 1, 1)
    return (levels / 255 - mean) / std


def upload(pixels: Rgb, device: torch.device) -> Tensor:
    """The same on the device; by pinned memory, which a GPU reads by itself."""
    copy = torch.tensor(pixels)  # a copy: the array may be read-only
    if device.type == "cpu":
        return copy
    return copy.pin_memory().to(device, non_blocking=True)


def download(matte: Tensor) -> Alpha:
    """The same as an array; waits for the device."""
    if matte.device.type == "cpu":
        return np.ascontiguousarray(matte.numpy())
    pinned = torch.empty(matte.shape, dtype=matte.dtype, pin_memory=True)
    pinned.copy_(matte, non_blocking=True)
    torch.cuda.current_stream(matte.device).synchronize()
    return pinned.numpy().copy()  # pinned memory is scarce; the matte may be kept for long


def resize_levels(levels: Tensor, side: int) -> Tensor:
    """(1, 3, height, width) float to (1, 3, side, side), on the same scale."""
    return F.interpolate(levels, size=(side, side), mode="bilinear", antialias=True)


def to_matte(logits: Tensor, height: int, width: int) -> Alpha:
    """One picture's matte at its own size.

    Bicubic with antialiasing, on floats; it may overshoot at hard edges, hence the clamp. No
    stretching to the full range: that would make up a subject where there is none.

    Args:
        logits: (1, 1, side, side), of any precision.
        height: of the picture, pixels.
        width: of the picture, pixels.

    Returns:
        (height, width), 0..1.
    """
    matte = resize_matte(logits.float().sigmoid(), height, width)
    return download(matte[0, 0])


def resize_matte(matte: Tensor, height: int, width: int) -> Tensor:
    """(1, 1, side, side) to (1, 1, height, width), within 0..1."""
    resized = F.interpolate(matte, size=(height, width), mode="bicubic", antialias=True)
    return resized.clamp_(0, 1)
