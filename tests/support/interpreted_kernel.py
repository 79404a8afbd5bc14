"""Run by a test with TRITON_INTERPRET=1: prints how far the Triton program is from torch's way."""

import sys

import torch

from inference.models.birefnet.fast import deformable
from inference.models.birefnet.fast.deformable import deformable_by_embedding_bag

kernel, channels, outputs, batch, height, width = map(int, sys.argv[1:7])
dtype = getattr(torch, sys.argv[7])
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(kernel)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


rows, depth = batch * height * width, kernel**2 * channels
places = 3 * _normal(rows, 3 * kernel**2)
places[0, :2] = 1e9  # leads nowhere
# The interpreter keeps what is no number in any case; a card does only where the program says so.
places[1, 0] = places[2, 1] = places[3, -1] = torch.nan
arguments = (
    _normal(rows, channels).to(dtype),
    places if dtype is torch.float32 else places.clamp(-6e4, 6e4).to(dtype),
    (_normal(depth, outputs) / depth**0.5).to(dtype),
    _normal(outputs).to(dtype),
    height,
    width,
)
exact = deformable_by_embedding_bag(
    *(a.float() if isinstance(a, torch.Tensor) else a for a in arguments)
)
answer = deformable.deformable_triton(*arguments).float()
assert exact[1:4].isnan().all()
assert torch.equal(answer.isnan(), exact.isnan())
print((answer - exact).nan_to_num(0).abs().max().item())  # noqa: T201
