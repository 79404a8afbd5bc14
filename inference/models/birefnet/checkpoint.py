"""From a file of weights to a network: everything is checked before anything is loaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inference.models.birefnet.config import BiRefNetConfig, PatchOrder
from inference.models.birefnet.errors import (
    CheckpointFormatError,
    CheckpointHashError,
    CheckpointKeysError,
    CheckpointShapeError,
    PatchOrderUnknownError,
)
from inference.models.birefnet.network import BiRefNet
from inference.models.birefnet.patches import permute_patch_order
from inference.models.birefnet.safetensors_file import TensorEntry, find_checkpoint, read_header

#: Patch orders by the SHA-256 of the file: what a checkpoint is outranks what anybody says it is.
KNOWN_PATCH_ORDERS: Mapping[str, PatchOrder] = MappingProxyType(
    {"566ed80c3d95f87ada6864d4cbe2290a1c5eb1c7bb0b123e984f60f76b02c3a7": PatchOrder.RMBG_2_0}
)

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_INTEGERS = frozenset({"I64", "I32"})
_NAMED = 3  # keys that a message names before it only counts


def load_network(
    path: Path,
    config: BiRefNetConfig,
    *,
    patch_order: PatchOrder | None = None,
    sha256: str | None = None,
) -> BiRefNet:
    """The network with a checkpoint's weights, in eval mode, float32 on the CPU.

    Args:
        path: a safetensors file, or a folder that holds `model.safetensors`.
        config: the network; a checkpoint in the other patch order is permuted to fit it.
        patch_order: the checkpoint's, used where its SHA-256 is not a known one.
        sha256: the file that is expected, lower-case hexadecimal; None accepts any.

    Raises:
        CheckpointError: of a class that says what is wrong; its message says what to do.
    """
    file = find_checkpoint(path)
    with torch.device("meta"):
        network = BiRefNet(config)
    _check_layout(file, read_header(file), network.state_dict())
    digest = _sha256(file)
    if sha256 is not None and digest != sha256:
        raise CheckpointHashError(
            f"{file} is not the expected file: its SHA-256 is {digest}, expected {sha256}. "
            "Fetch it again, or correct the expected hash if you mean to use this file."
        )
    order = _patch_order(file, digest, patch_order)
    state = permute_patch_order(_read(file), order, config.patch_order)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _check_layout(file: Path, entries: dict[str, TensorEntry], layout: dict[str, Tensor]) -> None:
    """Same keys, shapes and kinds of numbers, or an error that names the first that differ."""
    if missing := [key for key in layout if key not in entries]:
        raise CheckpointKeysError(
            f"{file} lacks {_listing(missing)}. It is not a checkpoint of this model: choose the "
            "model that it belongs to, or fetch it again."
        )
    if unexpected := [key for key in entries if key not in layout]:
        raise CheckpointKeysError(
            f"{file} has {_listing(unexpected)}, unknown to this model. Choose the model that it "
            "belongs to."
        )
    for key, like in layout.items():
        entry, shape = entries[key], tuple(like.shape)
        if entry.shape != shape:
            raise CheckpointShapeError(
                f"{file}: {key} has the shape {list(entry.shape)}, expected {list(shape)}. Choose "
                "the model that the checkpoint belongs to."
            )
        if entry.dtype not in (_FLOATS if like.is_floating_point() else _INTEGERS):
            raise CheckpointShapeError(
                f"{file}: {key} is of type {entry.dtype}, which this model cannot use. Take a "
                "checkpoint in float32 or float16."
            )


def _listing(keys: list[str]) -> str:
    rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"the key{'s' if len(keys) > 1 else ''} {', '.join(keys[:_NAMED])}{rest}"


def _patch_order(file: Path, digest: str, told: PatchOrder | None) -> PatchOrder:
    order = KNOWN_PATCH_ORDERS.get(digest, told)
    if order is None:
        raise PatchOrderUnknownError(
            f"{file} is not a known checkpoint, and its patch order cannot be seen from outside: "
            "with the wrong one every matte is wrong. Say which it is: rmbg-2.0 for weights "
            "derived from RMBG-2.0, birefnet for those of BiRefNet."
        )
    return order


def _read(file: Path) -> dict[str, Tensor]:
    """All tensors; float32 whatever the file holds, and integers int64."""
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise CheckpointFormatError(f"{file} cannot be read: {error}. Fetch it again.") from error
    return {
        name: value.float() if value.is_floating_point() else value.long()
        for name, value in state.items()
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
