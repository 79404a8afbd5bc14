"""The decoder: from the coarsest map to logits at full size, the picture injected at each level."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.blocks import DecoderBlock, InputBlock, LateralBlock, resize
from inference.models.birefnet.config import PATCH_GRIDS, BiRefNetConfig
from inference.models.birefnet.patches import image_to_patches

_GRADIENT_CHANNELS = 16  # of the maps that attend to outlines ("gdt")
_ATTENDED_LEVELS = (4, 3, 2)


class Decoder(nn.Module):
    """Levels 4 (coarsest) to 1; a level is named as in the checkpoints."""

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__()
        self.patch_order = config.patch_order
        x1, x2, x3, x4 = config.lateral_channels
        injected = {5: x4 // 8, 4: x4 // 8, 3: x3 // 8, 2: x2 // 8, 1: x1 // 8}
        for level, grid in PATCH_GRIDS.items():
            block = InputBlock(3 * grid * grid, injected[level], config.inner_channels)
            self.add_module(f"ipt_blk{level}", block)
        for level, (below, out) in {
            4: (x4, x3),
            3: (x3, x2),
            2: (x2, x1),
            1: (x1, x1 // 2),
        }.items():
            wide = below + injected[level + 1]
            self.add_module(f"decoder_block{level}", DecoderBlock(wide, out, config))
        self.ipt_blk1 = InputBlock(3, injected[1], config.inner_channels)
        self.conv_out1 = nn.Sequential(nn.Conv2d(x1 // 2 + injected[1], 1, 1))
        for level, channels in zip(_ATTENDED_LEVELS, (x3, x2, x1), strict=True):
            self._add_attended(level, channels)

    def _add_attended(self, level: int, channels: int) -> None:
        """The lateral connection and the outline attention of levels 4, 3 and 2."""
        thin = _GRADIENT_CHANNELS
        self.add_module(f"lateral_block{level}", LateralBlock(channels))
        convs = nn.Sequential(
            nn.Conv2d(channels, thin, 3, padding=1), nn.BatchNorm2d(thin), nn.ReLU()
        )
        self.add_module(f"gdt_convs_{level}", convs)
        self.add_module(f"gdt_convs_attn_{level}", nn.Sequential(nn.Conv2d(thin, 1, 1)))
        # Only training runs these two; they are part of every checkpoint.
        self.add_module(f"conv_ms_spvn_{level}", nn.Conv2d(channels, 1, 1))
        self.add_module(f"gdt_convs_pred_{level}", nn.Sequential(nn.Conv2d(thin, 1, 1)))

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """(batch, 3, height, width) and x1..x4, finest first, to (batch, 1, height, width)."""
        p = maps[-1]
        for level in _ATTENDED_LEVELS:
            p = self._run(f"decoder_block{level}", self._inject(image, p, level + 1))
            p = p * self._outlines(p, level)
            finer = maps[level - 2]
            p = resize(p, finer.shape[-2:]) + self._run(f"lateral_block{level}", finer)
        return self._logits(image, self._run("decoder_block1", self._inject(image, p, 2)))

    def _run(self, name: str, x: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(name)(x)
        return out

    def _inject(self, image: Tensor, p: Tensor, level: int) -> Tensor:
        """The level's features and, beside them, the picture's patches."""
        patches = image_to_patches(image, PATCH_GRIDS[level], self.patch_order)
        return torch.cat((p, self._run(f"ipt_blk{level}", patches)), dim=1)

    def _outlines(self, p: Tensor, level: int) -> Tensor:
        """(batch, 1, height, width) in 0..1: where the level should look."""
        gradient = self._run(f"gdt_convs_{level}", p)
        return torch.sigmoid(self._run(f"gdt_convs_attn_{level}", gradient))

    def _logits(self, image: Tensor, p: Tensor) -> Tensor:
        """The last 1x1 convolution, over upsampled features and the injected picture.

        A 1x1 convolution commutes with bilinear upsampling and composes with the convolution
        before it, so each part is narrowed to one channel first: the same sum in another order,
        without two wide maps at full size.
        """
        weight, bias = self.conv_out1[0].parameters()
        inner, inner_bias = self.ipt_blk1.conv_out.parameters()
        for_features, for_picture = weight[:, : p.shape[1]], weight[:, p.shape[1] :]
        narrow = torch.einsum("po,ochw->pchw", for_picture[:, :, 0, 0], inner)
        constant = for_picture[:, :, 0, 0] @ inner_bias + bias
        picture = F.conv2d(self.ipt_blk1.conv1(image), narrow, constant, padding=1)
        return resize(F.conv2d(p, for_features), image.shape[-2:]) + picture
