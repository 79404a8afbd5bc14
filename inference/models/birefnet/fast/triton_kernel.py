"""The deformable convolution on CUDA: sampling and matrix product in one Triton kernel.

An implicit GEMM over pixels as rows: a program makes a tile of (pixels, outputs), and for each tap
gathers the samples of a slice of channels, rounds them to the weights' precision and multiplies.
The samples, 411 MB for a 7x7 kernel at 1024 in half precision, never exist in memory. Coordinates,
bilinear shares and sums are float32 in every precision.

Triton comes with the CUDA builds of torch. Without a card, `TRITON_INTERPRET=1` in the environment
before the import runs the same program on the CPU, slowly; so the tests do.
"""

import math
from functools import cache

import torch
from torch import Tensor

_PIXELS, _OUTPUTS, _CHANNELS = 64, 256, 32  # of a program's tile, and of a slice of channels
_LEAST = 16  # the shortest side that a matrix product takes


@cache
def reason_unusable() -> str | None:
    """Why the kernel cannot run in this process; None if it can."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        _try_once(torch.device("cuda", torch.cuda.current_device()))
    except ImportError:
        return "Triton is not installed"
    except Exception as error:  # noqa: BLE001 - whatever a compiler raises, there is another way
        return f"Triton failed: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return None


def usable() -> bool:
    """May `deformable` be called with tensors on CUDA?"""
    return reason_unusable() is None


def deformable(  # noqa: PLR0917 - an operator's parameters are positional
    x: Tensor, places: Tensor, weight: Tensor, bias: Tensor, height: int, width: int
) -> Tensor:
    """`rmbg::deformable`; parameters and result are described there."""
    from inference.models.birefnet.fast.triton_program import deformable_program  # noqa: PLC0415 - Triton may be absent

    channels, outputs = x.shape[1], weight.shape[1]
    across = min(_OUTPUTS, max(_LEAST, 1 << (outputs - 1).bit_length()))
    slice_of_channels = min(_CHANNELS, max(_LEAST, 1 << (channels - 1).bit_length()))
    out = x.new_empty(len(x), outputs)
    grid = (-(-len(x) // _PIXELS), -(-outputs // across))
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
        SIDE=math.isqrt(places.shape[1] // 3),
        PIXELS=_PIXELS,
        OUTPUTS=across,
        CHANNELS=slice_of_channels,
        num_warps=8,
    )
    return out


def _try_once(device: torch.device) -> None:
    """Compile and run the smallest case."""
    x, weight = (torch.ones(16, 16, device=device) for _ in range(2))
    places, bias = torch.zeros(16, 3, device=device), torch.zeros(16, device=device)
    if not torch.allclose(deformable(x, places, weight, bias, 4, 4), torch.full_like(x, 16)):
        raise RuntimeError("its sum is wrong")
