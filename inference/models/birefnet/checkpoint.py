"""Load a network from a file of weights, after checking all of it."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inference.errors import CheckpointError
from inference.models.birefnet.config import PATCH_GRIDS, BiRefNetConfig, PatchOrder
from inference.models.birefnet.network import BiRefNet, image_to_patches
from inference.models.birefnet.safetensors_file import TensorEntry, find_checkpoint, read_header

#: Patch orders by the SHA-256 of the file; they override the order that a caller gives.
KNOWN_PATCH_ORDERS: Mapping[str, PatchOrder] = MappingProxyType(
    dict.fromkeys(
        (
            "566ed80c3d95f87ada6864d4cbe2290a1c5eb1c7bb0b123e984f60f76b02c3a7",  # RMBG-2.0
            "9ab37426bf4de0567af6b5d21b16151357149139362e6e8992021b8ce356a154",  # BiRefNet
            "4417d89795250e698c3cb0ae8df15743810065f646f48a694fdfa7ca052d0815",  # BiRefNet_lite
        ),
        PatchOrder.COLUMNS_ROWS_COLORS,
    )
)
_FLOAT_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
_INTEGER_TYPES = frozenset({"I64", "I32"})
_MAX_NAMED_KEYS = 3  # keys that a message lists before it only counts
_COLORS = 3


def load_network(
    path: Path,
    config: BiRefNetConfig,
    *,
    patch_order: PatchOrder | None = None,
    sha256: str | None = None,
) -> BiRefNet:
    """Load a checkpoint into a network in eval mode, float32 on the CPU.

    Args:
        path: a safetensors file, or a folder that holds `model.safetensors`.
        config: the network's shape; a checkpoint in the other patch order is permuted to fit it.
        patch_order: of the checkpoint, used if its SHA-256 is not known.
        sha256: the expected one, lower-case hexadecimal; None accepts any.

    Raises:
        CheckpointError: the file cannot be used; the message says why, and what to do.
    """
    file = find_checkpoint(path)
    network = _empty_network(file, config)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 is not None and digest != sha256:
        raise CheckpointError(
            f"{file} is not the expected file: its SHA-256 is {digest}, expected {sha256}. "
            "Fetch it again, or correct the expected hash if you mean to use this file."
        )
    order = KNOWN_PATCH_ORDERS.get(digest, patch_order)
    if order is None:
        raise CheckpointError(
            f"{file} is not a known checkpoint, and a file does not show its patch order: with the "
            "wrong one every matte is wrong. Set RMBG_PATCH_ORDER: columns-rows-colors for "
            "RMBG-2.0 and BiRefNet's weights of before November 2024, else colors-rows-columns; "
            "`rmbg models check MODEL` compares the two."
        )
    return _fill(network, permute_patch_order(_read_tensors(file), order, config.patch_order))


def load_in_both_orders(
    path: Path, config: BiRefNetConfig
) -> Iterator[tuple[PatchOrder, BiRefNet]]:
    """Load a checkpoint as if it were in each of the two patch orders, one after the other.

    Raises:
        CheckpointError: the file cannot be used.
    """
    file = find_checkpoint(path)
    for order in PatchOrder:
        network = _empty_network(file, config)
        state = permute_patch_order(_read_tensors(file), order, config.patch_order)
        yield order, _fill(network, state)


def _empty_network(file: Path, config: BiRefNetConfig) -> BiRefNet:
    """Make a network without weights, whose layout the file has."""
    with torch.device("meta"):
        network = BiRefNet(config)
    _check_layout(file, read_header(file), network.state_dict())
    return network


def _fill(network: BiRefNet, state: dict[str, Tensor]) -> BiRefNet:
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _check_layout(file: Path, entries: dict[str, TensorEntry], layout: dict[str, Tensor]) -> None:
    """Refuse a file whose keys, shapes or number types differ from the network's."""
    if missing := [key for key in layout if key not in entries]:
        raise CheckpointError(
            f"{file} lacks {_name_keys(missing)}. It is not a checkpoint of this model: choose the "
            "model that it belongs to, or fetch it again."
        )
    if unexpected := [key for key in entries if key not in layout]:
        raise CheckpointError(
            f"{file} has {_name_keys(unexpected)}, unknown to this model. Choose the model that it "
            "belongs to."
        )
    for key, like in layout.items():
        entry, shape = entries[key], tuple(like.shape)
        if entry.shape != shape:
            raise CheckpointError(
                f"{file}: {key} has the shape {list(entry.shape)}, expected {list(shape)}. Choose "
                "the model that the checkpoint belongs to."
            )
        if entry.dtype not in (_FLOAT_TYPES if like.is_floating_point() else _INTEGER_TYPES):
            raise CheckpointError(
                f"{file}: {key} is of type {entry.dtype}, which this model cannot use. Take a "
                "checkpoint in float32 or float16."
            )


def _name_keys(keys: list[str]) -> str:
    rest = f" and {len(keys) - _MAX_NAMED_KEYS} more" if len(keys) > _MAX_NAMED_KEYS else ""
    return f"the key{'s' if len(keys) > 1 else ''} {', '.join(keys[:_MAX_NAMED_KEYS])}{rest}"


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """Read all tensors; floats become float32, integers int64."""
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Fetch it again.") from error
    return {
        name: value.float() if value.is_floating_point() else value.long()
        for name, value in state.items()
    }


def permute_patch_order(
    state: dict[str, Tensor], source: PatchOrder, target: PatchOrder
) -> dict[str, Tensor]:
    """Convert a checkpoint of one patch order for a network that runs in the other.

    Only the inputs of `decoder.ipt_blk{5,4,3,2}.conv1` are reordered.
    """
    if source is target:
        return state
    permuted = dict(state)
    for level, grid in PATCH_GRIDS.items():
        name = f"decoder.ipt_blk{level}.conv1.weight"
        permuted[name] = state[name][:, _channel_permutation(grid, source, target)].contiguous()
    return permuted


def _channel_permutation(grid: int, source: PatchOrder, target: PatchOrder) -> Tensor:
    """Return, for every channel in the target order, its number in the source order."""
    # Each tile of this picture is one numbered pixel, so its patches show the order of channels.
    numbers = torch.arange(_COLORS * grid * grid).view(1, _COLORS, grid, grid)
    in_source = image_to_patches(numbers, grid, source).flatten()
    in_target = image_to_patches(numbers, grid, target).flatten()
    return in_source.argsort()[in_target]
