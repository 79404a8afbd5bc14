"""Find out the patch order of a checkpoint: the right one gives the more decided matte."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from inference.models.base import Rgb
from inference.models.birefnet.checkpoint import load_in_both_orders
from inference.models.birefnet.config import BiRefNetConfig, PatchOrder
from inference.models.birefnet.engine import preprocess

#: A pixel between these opacities is undecided.
_LOWEST: Final = 0.05
_HIGHEST: Final = 0.95
#: Side of the square that the photo is resized to: a quarter of the cost at 1024, and the wrong
#: order shows all the same.
CHECK_SIDE: Final = 512


def undecided_shares(path: Path, config: BiRefNetConfig, photo: Rgb) -> Mapping[PatchOrder, float]:
    """Cut a photo out in both patch orders; return each one's share of undecided pixels, 0 to 1.

    Most weights answer in the wrong order too, almost alike, so neither picture looks wrong; but
    at edges and in doubt they are more undecided. Computed in float32 on the CPU.

    Args:
        path: a safetensors file, or a folder that holds `model.safetensors`.
        config: the network's shape.
        photo: (height, width, 3) uint8, with a clear subject.

    Raises:
        CheckpointError: the file cannot be used.
    """
    side = min(CHECK_SIDE, config.input_size)
    pixels = preprocess(photo, side, torch.device("cpu"))
    shares = {}
    for order, network in load_in_both_orders(path, config):
        with torch.inference_mode():
            matte = torch.sigmoid(network(pixels))
        undecided = (matte > _LOWEST) & (matte < _HIGHEST)
        shares[order] = undecided.float().mean().item()
    return shares
