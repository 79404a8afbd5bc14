"""BiRefNet on the fast path, for square pictures of one side."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.decoder import DecoderBlock, resize
from inference.models.birefnet.fast.decoder import FastDecoder
from inference.models.birefnet.fast.swin import FastSwin
from inference.models.birefnet.network import BiRefNet

#: Sides must be divisible by this, so that no map of either scale that is halved has an odd side.
FAST_STRIDE = 64


class FastBiRefNet(nn.Module):
    """A network made from a loaded `BiRefNet`, with which it shares its largest tensors.

    Args:
        network: in eval mode, float32 on the CPU.
        side: of the square pictures, pixels; a multiple of 64.
    """

    def __init__(self, network: BiRefNet, side: int) -> None:
        super().__init__()
        if side % FAST_STRIDE:
            raise ValueError(f"a side of {side} pixels is no multiple of {FAST_STRIDE}")
        self.config, self.side = network.config, side
        with torch.no_grad():
            window = network.config.swin.window
            self.backbone = FastSwin(network.bb, window, (side, side // 2))
            squeeze = cast("DecoderBlock", network.squeeze_module[0])
            self.decoder = FastDecoder(network.decoder, squeeze, network.config)
            coarse = side // 32
            for index in range(4):
                long = coarse << (3 - index)
                self.register_buffer(
                    f"context_{index}", _interpolation_matrix(long // 2, long, coarse)
                )
        self.eval().requires_grad_(requires_grad=False)

    def prepare(self, batch: int) -> None:
        """Prepare for a batch size, on the device; required before `forward`."""
        self.backbone.prepare(batch)

    def example(self, batch: int) -> Tensor:
        """Return a batch of gray pictures, on the network's device and in its precision."""
        like = self.backbone.patch.weight
        return like.new_zeros(batch, 3, self.side, self.side)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the matte's logits.

        Args:
            image: (batch, 3, side, side), ImageNet-normalized.

        Returns:
            (batch, 1, side, side); the matte is their sigmoid.
        """
        image = image.contiguous(memory_format=torch.channels_last)
        halved = resize(image, (self.side // 2, self.side // 2))
        full, half = self.backbone([image, halved])
        logits: Tensor = self.decoder(image, full, half, self._context(full, half))
        return logits

    def _context(self, full: list[Tensor], half: list[Tensor]) -> Tensor:
        """Concatenate all maps of both scales, resized to the coarsest, along the channels."""
        parts = []
        for index, (large, small) in enumerate(zip(full, half, strict=True)):
            parts.append(resize(large, full[-1].shape[-2:]))
            along = self.get_buffer(f"context_{index}")
            rows = torch.einsum("oh,bchw->bcow", along, small)
            parts.append(torch.einsum("ow,bchw->bcho", along, rows))
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


def _interpolation_matrix(short: int, long: int, coarse: int) -> Tensor:
    """Return a matrix that resizes a line from `short` to `long` and then to `coarse`."""
    line = torch.eye(short, dtype=torch.float64)[None]
    for length in (long, coarse):
        line = F.interpolate(line, size=length, mode="linear", align_corners=True)
    return line[0].t().float().contiguous()
