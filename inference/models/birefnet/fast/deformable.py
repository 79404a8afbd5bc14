"""Modulated deformable convolution over rows of channels, as one operator for torch.compile.

The operator `rmbg::deformable` takes pixels as rows: (batch * height * width, channels).
Coordinates, bilinear shares and sums are float32 in every precision.

On the CPU, sampling is a weighted sum of four rows of a table, which `embedding_bag` does in one
pass, and one matrix product per chunk of pixels sums the products.

On CUDA, one Triton kernel samples and multiplies, as an implicit GEMM over pixels as rows: a
program makes a tile of (pixels, outputs), and for each tap gathers the samples of a slice of
channels, rounds them to the weights' precision and multiplies. The samples, 411 MB for a 7x7
kernel at 1024 in half precision, never exist in memory. Triton comes with the CUDA builds of
torch. Without a GPU, `TRITON_INTERPRET=1` in the environment before the import runs the kernel on
the CPU, slowly; the tests do so.
"""

import math
from functools import cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

#: Bytes of samples held at once on the CPU: what fits into its caches.
_CHUNK_BYTES: Final = 8 << 20
_MIN_CHUNK_PIXELS: Final = 256
_CHUNK_PIXELS_ON_GPU: Final = 8192
#: A map's zero border, in pixels: samples end one pixel outside, and read one pixel further.
_BORDER_BEFORE, _BORDER_AFTER = 1, 2
# The Triton kernel's tile of pixels and outputs, and its slice of channels. A slice is
# of so many bytes: with more, the kernel would exceed some cards' shared memory in float32.
_TILE_PIXELS, _TILE_OUTPUTS, _SLICE_BYTES = 64, 256, 64
_MIN_TILE_SIDE = 16  # the shortest side of Triton's matrix products
#: Warps of 32 threads that work on one tile.
KERNEL_WARPS: Final = 8


@torch.library.custom_op("rmbg::deformable", mutates_args=())
def deformable(  # noqa: PLR0917 - an operator's parameters are positional
    x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> Tensor:
    """Convolve, add the bias, and set negative values to zero.

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
    if x.is_cuda and triton_unusable_reason() is None:
        return deformable_triton(x, places, weight, bias, height, width)
    return deformable_by_embedding_bag(x, places, weight, bias, height, width)


@deformable.register_fake
def _(x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:  # noqa: ARG001, PLR0917 - the operator's signature
    return x.new_empty(x.shape[0], weight.shape[1])


def deformable_by_embedding_bag(  # noqa: PLR0917 - an operator's parameters are positional
    x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> Tensor:
    """Compute `deformable` by torch's operators, on any device."""
    taps, channels = places.shape[1] // 3, x.shape[1]
    border = (0, 0, _BORDER_BEFORE, _BORDER_AFTER, _BORDER_BEFORE, _BORDER_AFTER)
    table = F.pad(x.float().view(-1, height, width, channels), border).view(-1, channels)
    out = x.new_empty(x.shape[0], weight.shape[1])
    chunk = max(_MIN_CHUNK_PIXELS, _CHUNK_BYTES // (4 * taps * channels))
    if x.device.type != "cpu":
        chunk = _CHUNK_PIXELS_ON_GPU
    starts = _pixel_positions(len(x), height, width, x.device)
    for first in range(0, len(x), chunk):
        part = slice(first, first + chunk)
        rows, shares = _corner_rows_and_shares(places[part].float(), starts[part], height, width)
        samples = F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")
        columns = samples.view(-1, taps * channels).to(weight.dtype)
        torch.addmm(bias, columns, weight, out=out[part])
    return out.relu_()


def _pixel_positions(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return each pixel's row, column and picture number: (count, 3) float32."""
    number = torch.arange(count, device=device)
    inside = number % (height * width)
    return torch.stack((inside // width, inside % width, number // (height * width)), 1).float()


def _corner_rows_and_shares(
    places: Tensor, pixels: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return the four rows of the padded table that every sample is made of, and their weights.

    Returns:
        (pixels * taps, 4) int32 and float32.
    """
    taps = places.shape[1] // 3
    side, wide = math.isqrt(taps), width + _BORDER_BEFORE + _BORDER_AFTER
    at = places[:, : 2 * taps].reshape(-1, taps, 2) + _tap_offsets(side, places.device)
    at += pixels[:, None, :2]
    # Further outside than one pixel there are only zeros: samples may be clamped to there.
    at[..., 0].clamp_(0, height + 1)
    at[..., 1].clamp_(0, width + 1)
    whole = at.floor()
    part = at.sub_(whole)
    # NaN is no row number, but the weights keep it, so that an overflow shows in the result.
    whole.nan_to_num_()
    first = (whole[..., 0] * wide + whole[..., 1]).int()
    # Added as integers: float32 has no odd numbers beyond 2**24.
    first += pixels[:, 2:].int() * ((height + _BORDER_BEFORE + _BORDER_AFTER) * wide)
    # Made on the device: a CUDA graph cannot capture a copy from the host.
    corners = torch.arange(4, dtype=torch.int32, device=places.device)
    corners = corners % 2 + corners // 2 * wide
    modulator = places[:, 2 * taps :].sigmoid() * 2
    low = modulator * part[..., 0]
    by_row = torch.stack((modulator - low, low), -1)
    by_col = torch.stack((1 - part[..., 1], part[..., 1]), -1)
    shares = by_row[..., :, None] * by_col[..., None, :]
    return (first[..., None] + corners).view(-1, 4), shares.view(-1, 4)


def _tap_offsets(side: int, device: torch.device) -> Tensor:
    """Return the taps' offsets in the padded table: (side**2, 2) float32."""
    along = torch.arange(side, device=device) - side // 2 + _BORDER_BEFORE
    return torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).view(-1, 2).float()


@cache
def triton_unusable_reason() -> str | None:
    """Say why the Triton kernel cannot run in this process; None if it can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        _try_triton(torch.device("cuda", torch.cuda.current_device()))
    except ImportError:
        return "Triton is not installed"
    except Exception as error:  # noqa: BLE001 - whatever the compiler raises, torch's operators remain
        return f"Triton failed: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return None


def deformable_triton(  # noqa: PLR0917 - an operator's parameters are positional
    x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> Tensor:
    """Run the Triton kernel; `deformable` describes parameters and result."""
    from inference.models.birefnet.fast.triton_program import deformable_program  # noqa: PLC0415 - Triton may be absent

    channels, outputs = x.shape[1], weight.shape[1]
    constants = kernel_constants(places.shape[1] // 3, channels, outputs, x.element_size())
    out = x.new_empty(len(x), outputs)
    grid = (-(-len(x) // constants["PIXELS"]), -(-outputs // constants["OUTPUTS"]))
    deformable_program[grid](
        x.contiguous(),
        places.contiguous(),
        weight.contiguous(),
        bias,
        out,
        len(x),
        height,
        width,
        channels,
        outputs,
        **constants,
        num_warps=KERNEL_WARPS,
    )
    return out


def kernel_constants(taps: int, channels: int, outputs: int, item_size: int) -> dict[str, int]:
    """Return what the Triton kernel is compiled for.

    Args:
        taps: of the convolution, a square of 1 or more.
        channels: of the pixels.
        outputs: channels of the result.
        item_size: bytes of a number.
    """
    return {
        "SIDE": math.isqrt(taps),
        "PIXELS": _TILE_PIXELS,
        "OUTPUTS": _tile_side(outputs, _TILE_OUTPUTS),
        "CHANNELS": _tile_side(channels, _SLICE_BYTES // item_size),
    }


def _tile_side(length: int, most: int) -> int:
    return min(most, max(_MIN_TILE_SIDE, 1 << (length - 1).bit_length()))


def _try_triton(device: torch.device) -> None:
    """Compile and run the smallest case."""
    x, weight = (torch.ones(16, 16, device=device) for _ in range(2))
    places, bias = torch.zeros(16, 3, device=device), torch.zeros(16, device=device)
    if not torch.allclose(deformable_triton(x, places, weight, bias, 4, 4), torch.full_like(x, 16)):
        raise RuntimeError("its sum is wrong")
