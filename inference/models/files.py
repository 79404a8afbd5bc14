"""Checking that a file of weights is the one that the registry means."""

import hashlib
from pathlib import Path

from inference.models.registry import ModelSpec


def find_fault(spec: ModelSpec, path: Path) -> str | None:
    """Why the file is not the model's, in words to follow its name; None when it is.

    The size is compared first, so that a broken download of a large file is found at once.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if spec.size_bytes is not None and size != spec.size_bytes:
        return f"has {size:,} bytes where {spec.size_bytes:,} are expected"
    if spec.sha256 is not None and _sha256(path) != spec.sha256:
        return f"has another SHA-256 than {spec.sha256}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
