"""Find a file of weights, and read its header before any tensor is loaded.

Format: https://huggingface.co/docs/safetensors - eight bytes with the header's length (unsigned,
little endian), the header in JSON, then the tensors' bytes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import CheckpointError

#: The name of the weights in a model's folder.
FILE_NAME = "model.safetensors"

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's limit
_USE_SAFETENSORS = (
    "Only safetensors is read, because it cannot run code. Take the model's model.safetensors, or "
    "convert the file on a machine where you trust it."
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor as the header describes it; dtype is the format's name, such as `F16`."""

    shape: tuple[int, ...]
    dtype: str


def find_checkpoint(path: Path) -> Path:
    """Return the file itself: `path`, or `model.safetensors` in the folder `path`.

    Raises:
        CheckpointError: the file does not exist, or a folder above it cannot be searched.
    """
    try:
        file = path / FILE_NAME if path.is_dir() else path
        found = file.is_file()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not found:
        raise CheckpointError(
            f"There are no weights at {file}. Name a .safetensors file, or a folder that holds "
            f"{FILE_NAME}."
        )
    return file


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read which tensors a safetensors file holds, and check that the file is complete.

    Raises:
        CheckpointError: the file cannot be read, is not safetensors, or ends before its last tensor
            does; the message says which.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            _refuse_other_formats(path, start)
            length = int.from_bytes(start, "little")
            if length > _MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} is not a safetensors file. {_USE_SAFETENSORS}")
            raw = file.read(length)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    needed = _LENGTH_BYTES + length
    if len(raw) < length:
        raise _truncated_error(path, size, needed)
    try:
        header: dict[str, Any] = json.loads(raw)
        header.pop("__metadata__", None)
        needed += max((entry["data_offsets"][1] for entry in header.values()), default=0)
        entries = {
            name: TensorEntry(tuple(entry["shape"]), entry["dtype"])
            for name, entry in header.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: its header cannot be read. {_USE_SAFETENSORS}"
        ) from error
    if size < needed:
        raise _truncated_error(path, size, needed)
    return entries


def _refuse_other_formats(path: Path, start: bytes) -> None:
    """Refuse, by name, the kinds of files that people mistake for safetensors."""
    if len(start) < _LENGTH_BYTES:
        raise _truncated_error(path, len(start), _LENGTH_BYTES)
    # torch.save writes a zip archive, older versions a bare pickle of protocol 2 or later.
    if start.startswith(b"PK\x03\x04") or (start[0] == 0x80 and start[1] in range(2, 6)):  # noqa: PLR2004 - pickle's opcode PROTO and its versions
        raise CheckpointError(f"{path} is a pickle (torch.save). {_USE_SAFETENSORS}")
    if start == b"version ":
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository."
        )


def _truncated_error(path: Path, size: int, needed: int) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated: {size:,} bytes where at least {needed:,} are needed. "
        "Fetch or copy it again."
    )
