"""Checking that a file of weights is the one that the registry means."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from inference.errors import ModelError
from inference.models.birefnet.safetensors_file import FILE_NAME, read_header
from inference.models.registry import ModelSpec

#: Called with the bytes fetched so far, and their total where it is known.
Progress = Callable[[int, int | None], None]


def weights_file(spec: ModelSpec, path: Path) -> Path:
    """The file itself: `path`, or the one of the usual name in the folder `path`."""
    usual = FILE_NAME if spec.engine == "birefnet" else spec.file_name
    return path / usual if path.is_dir() else path


def find_fault(spec: ModelSpec, path: Path, *, hashed: bool = True) -> str | None:
    """Why the file is not the model's, in words to follow its name; None when it is.

    The size is compared first, so that a broken download of a large file is found at once.

    Args:
        spec: the model's facts.
        path: its file of weights, or the folder that holds it.
        hashed: whether to compare the SHA-256 too, for which all of the file is read.

    Raises:
        OSError: the file cannot be read.
    """
    file = weights_file(spec, path)
    if not file.is_file():
        return "is missing" if file == path else f"holds no {file.name}"
    size = file.stat().st_size
    if spec.size_bytes is not None and size != spec.size_bytes:
        return f"has {size:,} bytes where {spec.size_bytes:,} are expected"
    if hashed and spec.sha256 is not None and sha256_of(file) != spec.sha256:
        return f"has another SHA-256 than {spec.sha256}"
    return None


def check_weights(spec: ModelSpec, path: Path) -> None:
    """All that can be told of a model's file without its engine's library, in a moment.

    A BiRefNet's hash, keys and shapes are left to its loader, which has to read them anyway.

    Raises:
        ModelError: the file will not do; the message says what to do.
    """
    file = weights_file(spec, path)
    if spec.engine == "birefnet" and file.is_file():
        read_header(file)
    try:
        fault = find_fault(spec, path, hashed=spec.engine == "onnx")
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror}.") from error
    if fault is not None:
        raise ModelError(f"The model file {path} {fault}. {_remedy(spec)}")


def sha256_of(file: Path) -> str:
    """Lower-case hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remedy(spec: ModelSpec) -> str:
    if spec.source is None:
        return "Name its file by RMBG_MODEL_PATH."
    return f"Run: rmbg models fetch {spec.name}"
