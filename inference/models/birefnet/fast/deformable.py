"""Modulated deformable convolution over rows of channels, as one operator for torch.compile.

The operator `rmbg::deformable` takes pixels as rows: (batch * height * width, channels). On the
CPU, sampling is a weighted sum of four rows of a table, which `embedding_bag` does in one pass, and
the products are summed by one matrix product per chunk of pixels. On CUDA, a Triton kernel does
both without the table of samples; see `triton_kernel`. Coordinates are float32 in every precision.
"""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.fast import triton_kernel

#: Bytes of samples that are held at once on the CPU: what its caches can hold.
_CHUNK_BYTES: Final = 8 << 20
_MIN_CHUNK: Final = 256
#: A map's zero border, in pixels: samples end one pixel outside of it, and look one further.
_BEFORE, _AFTER = 1, 2


@torch.library.custom_op("rmbg::deformable", mutates_args=())
def deformable(  # noqa: PLR0917 - an operator's parameters are positional
    x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> Tensor:
    """Convolve, add the bias, and cut off below zero.

    Args:
        x: (batch * height * width, channels).
        places: (batch * height * width, 3 * kernel**2): a (dy, dx) pair in pixels for every tap,
            taps row by row, then every tap's modulator before its sigmoid.
        weight: (kernel**2 * channels, outputs).
        bias: (outputs).
        height: of the map.
        width: of the map.

    Returns:
        (batch * height * width, outputs), in x's precision.
    """
    if x.is_cuda and triton_kernel.usable():
        return triton_kernel.deformable(x, places, weight, bias, height, width)
    return deformable_by_bags(x, places, weight, bias, height, width)


@deformable.register_fake
def _(x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:  # noqa: ARG001, PLR0917 - the operator's signature
    return x.new_empty(x.shape[0], weight.shape[1])


def deformable_by_bags(  # noqa: PLR0917 - an operator's parameters are positional
    x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> Tensor:
    """`deformable` in torch's own operators, on any device."""
    taps, channels = places.shape[1] // 3, x.shape[1]
    table = x.float().view(-1, height, width, channels)
    table = F.pad(table, (0, 0, _BEFORE, _AFTER, _BEFORE, _AFTER)).view(-1, channels)
    out = x.new_empty(x.shape[0], weight.shape[1])
    chunk = (
        max(_MIN_CHUNK, _CHUNK_BYTES // (4 * taps * channels)) if x.device.type == "cpu" else 8192
    )
    starts = _pixels(len(x), height, width, x.device)
    for first in range(0, len(x), chunk):
        part = slice(first, first + chunk)
        rows, shares = _corners(places[part].float(), starts[part], height, width)
        samples = F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
        columns = samples.view(-1, taps * channels).to(weight.dtype)
        torch.addmm(bias, columns, weight, out=out[part])
    return out.relu_()


def _pixels(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """(count, 3) float32: every pixel's row and column, and the number of its picture."""
    number = torch.arange(count, device=device)
    inside = number % (height * width)
    return torch.stack((inside // width, inside % width, number // (height * width)), 1).float()


def _corners(places: Tensor, pixels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which four rows of the padded table every sample is made of, and of how much of each.

    Returns:
        (pixels * taps, 4) int32 and float32.
    """
    taps = places.shape[1] // 3
    side, wide = math.isqrt(taps), width + _BEFORE + _AFTER
    at = places[:, : 2 * taps].reshape(-1, taps, 2) + _tap_offsets(side, places.device)
    at += pixels[:, None, :2]
    # Beyond one pixel outside there is nothing but zeros: a sample there may stay at the border.
    at[..., 0].clamp_(0, height + 1)
    at[..., 1].clamp_(0, width + 1)
    whole = at.floor()
    part = at.sub_(whole)
    # No number leads to no row; the shares carry it on, so that an overflow shows in the answer.
    whole.nan_to_num_()
    first = (whole[..., 0] * wide + whole[..., 1]).int()
    # Pictures are added as integers: float32 has no odd numbers beyond 2**24.
    first += pixels[:, 2:].int() * ((height + _BEFORE + _AFTER) * wide)
    # Made on the device: a CUDA graph cannot be recorded over a copy from the host.
    corners = torch.arange(4, dtype=torch.int32, device=places.device)
    corners = corners % 2 + corners // 2 * wide
    modulator = places[:, 2 * taps :].sigmoid() * 2
    low = modulator * part[..., 0]
    by_row = torch.stack((modulator - low, low), -1)
    by_col = torch.stack((1 - part[..., 1], part[..., 1]), -1)
    shares = by_row[..., :, None] * by_col[..., None, :]
    return (first[..., None] + corners).view(-1, 4), shares.view(-1, 4)


def _tap_offsets(side: int, device: torch.device) -> Tensor:
    """(side**2, 2) float32: where taps look, counted in the padded table."""
    along = torch.arange(side, device=device) - side // 2 + _BEFORE
    return torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).view(-1, 2).float()
