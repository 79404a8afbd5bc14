"""Raw logits for anybody to compare with another implementation's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.errors import ModelError
from inference.models.birefnet.checkpoint import load_network
from inference.models.birefnet.config import BiRefNetConfig, PatchOrder
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.network import STRIDE, BiRefNet

_DIMENSIONS = 4


def golden_logits(config: BiRefNetConfig, seed: str, size: int) -> NDArray[np.float32]:
    """What the network answers with weights and input made from a seed, in RMBG-2.0's patch order.

    Returns:
        (size, size) float32.

    Raises:
        ModelError: `size` is no multiple of 32.
    """
    _check_sides(size)
    network = golden_network(replace(config, patch_order=PatchOrder.RMBG_2_0), seed)
    return _run(network, torch.from_numpy(golden_input(size, seed)))


def checkpoint_logits(
    config: BiRefNetConfig, weights: Path, picture: Path, order: PatchOrder | None
) -> NDArray[np.float32]:
    """What a checkpoint answers to a saved input.

    Args:
        config: the network.
        weights: a safetensors file or its folder.
        picture: a .npy file, (3 or batch x 3, height, width), normalised, sides multiples of 32.
        order: the checkpoint's patch order; None where its SHA-256 is a known one.

    Returns:
        (height, width) float32 of one picture, (batch, height, width) of several.

    Raises:
        ModelError: the weights or the input will not do.
    """
    pixels = _read_input(picture)
    return _run(load_network(weights, config, patch_order=order), pixels)


def _read_input(path: Path) -> Tensor:
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read as a .npy array: {error}.") from error
    if pixels.ndim == _DIMENSIONS - 1:
        pixels = pixels[None]
    if pixels.ndim != _DIMENSIONS or pixels.shape[1] != 3:  # noqa: PLR2004 - red, green, blue
        raise ModelError(f"{path} has the shape {pixels.shape}: give (batch, 3, height, width).")
    _check_sides(*pixels.shape[2:])
    return torch.from_numpy(pixels.astype(np.float32))


def _check_sides(*sides: int) -> None:
    if any(side <= 0 or side % STRIDE for side in sides):
        shown = " x ".join(map(str, sides))
        raise ModelError(f"A side of {shown} pixels will not do: take a multiple of {STRIDE}.")


@torch.inference_mode()
def _run(network: BiRefNet, pixels: Tensor) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = network(pixels)[:, 0].numpy()
    return logits[0] if len(logits) == 1 else logits
