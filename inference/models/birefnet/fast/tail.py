"""The last convolutions as two: nothing but additions lies between them and the logits."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from inference.models.birefnet.blocks import DecoderBlock, resize
from inference.models.birefnet.decoder import Decoder
from inference.models.birefnet.fast.folding import Conv, fold


class Tail(nn.Module):
    """From the last pyramid's output and the picture to logits.

    Convolution after convolution is one convolution, so that neither the 48 or so channels of the
    picture nor the hundreds of features exist at full size. Two 3x3 convolutions differ from their
    5x5 on the outermost pixels alone, where the second sees zeros and not the first's answer for
    pixels outside; these are computed both ways.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        block = cast("DecoderBlock", decoder.get_submodule("decoder_block1"))
        out = fold(block.conv_out, block.bn_out)
        last, last_bias = (value.detach() for value in decoder.conv_out1[0].parameters())
        features, picture = last[:, : len(out.weight), 0, 0], last[:, len(out.weight) :, 0, 0]
        self.features = Conv(_narrow(features, out.weight), features @ cast("Tensor", out.bias))
        inject = decoder.ipt_blk1
        bias = picture @ cast("Tensor", inject.conv_out.bias) + last_bias
        self.first = Conv(inject.conv1.weight, inject.conv1.bias)
        self.second = Conv(_narrow(picture, inject.conv_out.weight), bias)
        self.both = _compose(self.first, self.second)

    def forward(self, image: Tensor, p: Tensor) -> Tensor:
        """The picture and (batch, inner, side / 4, side / 4) to (batch, 1, side, side)."""
        logits = resize(self.features(p), image.shape[-2:])
        return logits.add_(self._picture(image))

    def _picture(self, image: Tensor) -> Tensor:
        out: Tensor = self.both(image)
        # A strip three pixels wide holds all that the outermost line looks at.
        out[:, :, 0] = self._exact(image[:, :, :3])[:, :, 0]
        out[:, :, -1] = self._exact(image[:, :, -3:])[:, :, -1]
        out[:, :, :, 0] = self._exact(image[:, :, :, :3])[:, :, :, 0]
        out[:, :, :, -1] = self._exact(image[:, :, :, -3:])[:, :, :, -1]
        return out

    def _exact(self, strip: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(strip))
        return out


def _narrow(rows: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution, (1, outputs), after one of `weight`."""
    return torch.einsum("po,ochw->pchw", rows, weight)


def _compose(first: Conv, second: Conv) -> Conv:
    """3x3 after 3x3 as 5x5, where no border is near."""
    kernels = first.weight.detach().permute(1, 0, 2, 3)
    # Correlating one kernel with the other, turned round, lays them end to end.
    weight = F.conv2d(kernels, second.weight.flip(2, 3), padding=2).permute(1, 0, 2, 3)
    bias = second.weight.sum((2, 3)) @ cast("Tensor", first.bias) + cast("Tensor", second.bias)
    return Conv(weight, bias)
