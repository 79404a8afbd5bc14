"""Run by a test with TRITON_INTERPRET=1: prints how far the Triton program is from torch's way.

Each argument is a case: kernel, channels, outputs, batch, height, width and type.
"""

import sys

import torch

from inference.models.birefnet.fast import deformable
from inference.models.birefnet.fast.deformable import deformable_by_embedding_bag


def _difference(sizes: list[int], dtype: torch.dtype) -> float:
    kernel, channels, outputs, batch, height, width = sizes
    generator = torch.Generator().manual_seed(kernel)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    rows, depth = batch * height * width, kernel**2 * channels
    places = 3 * normal(rows, 3 * kernel**2)
    places[0, :2] = 1e9  # leads nowhere
    # The interpreter keeps NaN in any case; a card does only where the program says so.
    places[1, 0] = places[2, 1] = places[3, -1] = torch.nan
    arguments = (
        normal(rows, channels).to(dtype),
        places if dtype is torch.float32 else places.clamp(-6e4, 6e4).to(dtype),
        (normal(depth, outputs) / depth**0.5).to(dtype),
        normal(outputs).to(dtype),
        height,
        width,
    )
    exact = deformable_by_embedding_bag(
        *(a.float() if isinstance(a, torch.Tensor) else a for a in arguments)
    )
    answer = deformable.deformable_triton(*arguments).float()
    assert exact[1:4].isnan().all()
    assert torch.equal(answer.isnan(), exact.isnan())
    return (answer - exact).nan_to_num(0).abs().max().item()


torch.set_num_threads(1)
for case in sys.argv[1:]:
    *sizes, dtype = case.split()
    print(_difference([int(size) for size in sizes], getattr(torch, dtype)))  # noqa: T201
