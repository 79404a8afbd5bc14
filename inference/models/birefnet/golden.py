"""Deterministic stand-in weights, and the logits of a network for comparison with another one's.

Real weights are large, and some are gated. Every stand-in tensor is a function of (seed, key,
shape) alone, so any two implementations can be compared. Offset and modulator convolutions and
BatchNorm statistics are not zero, as they are after a default initialisation, which hides
mistakes.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.errors import ModelError
from inference.models.birefnet.checkpoint import load_network
from inference.models.birefnet.config import BiRefNetConfig, PatchOrder
from inference.models.birefnet.network import STRIDE, BiRefNet
from inference.models.birefnet.swin import relative_position_index

_THREADS = 2
_BATCH_DIMENSIONS = 4


def golden_tensor(seed: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """Make one tensor of a stand-in checkpoint: float32, or int64 for the two integer buffers."""
    if name.endswith("relative_position_index"):
        return relative_position_index(math.isqrt(shape[0]))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    rng = _rng(seed, name)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):  # must be positive, so it is drawn differently
        return torch.from_numpy(np.float32(0.5) + rng.random(shape, dtype=np.float32))
    return torch.from_numpy(_scale_noise(name, noise))


def golden_network(config: BiRefNetConfig, seed: str = "public") -> BiRefNet:
    """Make a network with stand-in weights in its own patch order: eval mode, float32, CPU."""
    with torch.device("meta"):
        network = BiRefNet(config)
    network.load_state_dict(golden_state(config, seed), assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def golden_state(config: BiRefNetConfig, seed: str = "public") -> dict[str, Tensor]:
    """Make all tensors of a stand-in checkpoint for a network of this shape."""
    with torch.device("meta"):
        layout = BiRefNet(config).state_dict()
    shapes = [tuple(like.shape) for like in layout.values()]
    with ThreadPoolExecutor(_THREADS) as pool:  # numpy draws outside the interpreter lock
        tensors = pool.map(partial(golden_tensor, seed), layout, shapes)
    return dict(zip(layout, tensors, strict=True))


def golden_input(size: int, seed: str = "public") -> NDArray[np.float32]:
    """Make a smooth random picture with a little noise, normalized: (1, 3, size, size)."""
    coarse = _rng(seed, f"input/{size}").standard_normal((3, 9, 9))
    at = np.linspace(0, 8, size)
    low = np.clip(at.astype(int), 0, 7)
    part = at - low
    rows = coarse[:, low] * (1 - part)[None, :, None] + coarse[:, low + 1] * part[None, :, None]
    smooth = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    noise = _rng(seed, f"noise/{size}").standard_normal((3, size, size))
    return (smooth + 0.1 * noise)[None].astype(np.float32)


def _rng(seed: str, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))


def _scale_noise(name: str, noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale noise as in a trained network, so that signals neither vanish nor explode."""
    if name.endswith("running_mean"):
        return np.float32(0.1) * noise
    if name.endswith("relative_position_bias_table"):
        return np.float32(0.2) * noise
    if name.endswith("bias"):
        return np.float32(0.05) * noise
    if noise.ndim == 1:  # the scale of a LayerNorm or BatchNorm
        return np.float32(1) + np.float32(0.1) * noise
    fan_in = math.prod(noise.shape[1:])
    gain = 0.5 if "offset_conv" in name or "modulator_conv" in name else 1.2
    return np.float32(gain / fan_in**0.5) * noise


def golden_logits(
    config: BiRefNetConfig,
    seed: str,
    size: int,
    order: PatchOrder = PatchOrder.COLUMNS_ROWS_COLORS,
) -> NDArray[np.float32]:
    """Compute the logits of stand-in weights and input, (size, size), in a patch order.

    Raises:
        ModelError: `size` is not a multiple of 32.
    """
    _check_sides(size)
    network = golden_network(replace(config, patch_order=order), seed)
    return _run_network(network, torch.from_numpy(golden_input(size, seed)))


def checkpoint_logits(
    config: BiRefNetConfig, weights: Path, picture: Path, order: PatchOrder | None
) -> NDArray[np.float32]:
    """Compute a checkpoint's logits for the input in a .npy file.

    The input is (3 or batch x 3, height, width), normalized, with sides that are multiples of 32.
    `order` is the checkpoint's; None if its SHA-256 is known.

    Returns:
        (height, width) float32 of one picture, (batch, height, width) of several.

    Raises:
        ModelError: the weights or the input cannot be used.
    """
    pixels = _read_array(picture)
    return _run_network(load_network(weights, config, patch_order=order), pixels)


def _read_array(path: Path) -> Tensor:
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} cannot be read as a .npy array: {error}.") from error
    if pixels.ndim == _BATCH_DIMENSIONS - 1:
        pixels = pixels[None]
    if pixels.ndim != _BATCH_DIMENSIONS or pixels.shape[1] != 3:  # noqa: PLR2004 - red, green, blue
        raise ModelError(f"{path} has the shape {pixels.shape}: give (batch, 3, height, width).")
    _check_sides(*pixels.shape[2:])
    return torch.from_numpy(pixels.astype(np.float32))


def _check_sides(*sides: int) -> None:
    if any(side <= 0 or side % STRIDE for side in sides):
        shown = " x ".join(map(str, sides))
        raise ModelError(f"The sides are {shown} pixels: each must be a multiple of {STRIDE}.")


@torch.inference_mode()
def _run_network(network: BiRefNet, pixels: Tensor) -> NDArray[np.float32]:
    logits = network(pixels)[:, 0].numpy()
    return logits[0] if len(logits) == 1 else logits
