"""BiRefNet: the backbone at two scales, the squeeze module, and the decoder."""

import torch
from torch import Tensor, nn

from inference.models.birefnet.config import BiRefNetConfig
from inference.models.birefnet.decoder import Decoder, DecoderBlock, resize
from inference.models.birefnet.swin import Swin

#: Sides of the input must be divisible by this.
STRIDE = 32


class BiRefNet(nn.Module):
    """The network of RMBG-2.0 and BiRefNet, for inference, with the checkpoints' own keys."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        self.config = config
        x1, x2, x3, x4 = config.lateral_channels
        self.bb = Swin(config.swin)
        self.squeeze_module = nn.Sequential(DecoderBlock(x1 + x2 + x3 + x4, x4, config))
        self.decoder = Decoder(config)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the matte's logits.

        Args:
            image: (batch, 3, height, width), ImageNet-normalized; sides are multiples of 32.

        Returns:
            (batch, 1, height, width); the matte is their sigmoid.
        """
        x1, x2, x3, x4 = self._encode(image)
        context = [resize(x, x4.shape[-2:]) for x in (x1, x2, x3)]
        x4 = self.squeeze_module(torch.cat([*context, x4], dim=1))
        logits: Tensor = self.decoder(image, [x1, x2, x3, x4])
        return logits

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Concatenate the maps of both scales of the backbone along the channels."""
        height, width = image.shape[-2:]
        full = self.bb(image)
        half = self.bb(resize(image, (height // 2, width // 2)))
        pairs = zip(full, half, strict=True)
        return [torch.cat((x, resize(y, x.shape[-2:])), dim=1) for x, y in pairs]
