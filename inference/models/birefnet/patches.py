"""The image patches that the decoder takes in, and the two orders they come in."""

import torch
from torch import Tensor

from inference.models.birefnet.config import PATCH_GRIDS, PatchOrder

_COLOURS = 3


def image_to_patches(image: Tensor, grid: int, order: PatchOrder) -> Tensor:
    """Cuts a picture into grid x grid tiles and stacks them along the channels.

    Args:
        image: (batch, 3, height, width), sides divisible by `grid`.
        grid: tiles on a side.
        order: how the tiles follow each other.

    Returns:
        (batch, 3 * grid**2, height / grid, width / grid).
    """
    batch, colours, height, width = image.shape
    tiles = image.view(batch, colours, grid, height // grid, grid, width // grid)
    if order is PatchOrder.BIREFNET:
        tiles = tiles.permute(0, 1, 2, 4, 3, 5)  # colour, row, column
    else:
        tiles = tiles.permute(0, 4, 2, 1, 3, 5)  # column, row, colour
    return tiles.reshape(batch, colours * grid * grid, height // grid, width // grid)


def permute_patch_order(
    state: dict[str, Tensor], source: PatchOrder, target: PatchOrder
) -> dict[str, Tensor]:
    """A checkpoint written for one patch order, made to fit a network that runs in the other.

    Only the inputs of `decoder.ipt_blk{5,4,3,2}.conv1` are reordered; all else is passed through.
    """
    if source is target:
        return state
    permuted = dict(state)
    for level, grid in PATCH_GRIDS.items():
        name = f"decoder.ipt_blk{level}.conv1.weight"
        permuted[name] = state[name][:, _permutation(grid, source, target)].contiguous()
    return permuted


def _permutation(grid: int, source: PatchOrder, target: PatchOrder) -> Tensor:
    """For every channel in the target order, its number in the source order."""
    # The order of the channels is read off a picture whose every tile is one numbered pixel.
    numbers = torch.arange(_COLOURS * grid * grid).view(1, _COLOURS, grid, grid)
    in_source = image_to_patches(numbers, grid, source).flatten()
    in_target = image_to_patches(numbers, grid, target).flatten()
    return in_source.argsort()[in_target]
