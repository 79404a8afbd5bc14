"""What is no complete safetensors file is refused with a message that says what it is."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference.errors import CheckpointError
from inference.models.birefnet.safetensors_file import (
    FILE_NAME,
    TensorEntry,
    find_checkpoint,
    read_header,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A header of less than 1,000 bytes, then 4,012 bytes of tensors."""
    path = tmp_path / FILE_NAME
    tensors = {"weight": torch.zeros(10, 100), "bias": torch.zeros(6, dtype=torch.float16)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_the_header_tells_shapes_and_types_and_no_metadata(checkpoint: Path) -> None:
    assert read_header(checkpoint) == {
        "weight": TensorEntry((10, 100), "F32"),
        "bias": TensorEntry((6,), "F16"),
    }


@pytest.mark.parametrize("name", ["", "absent.safetensors"])
def test_an_absent_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There are no weights at"):
        find_checkpoint(tmp_path / name)


def _zip_pickle() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(1)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_zip_pickle(), "is a pickle"),
        (pickle.dumps({"weight": [0.0] * 9}, protocol=2), "is a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html><html>Sign in</html>", "is not a safetensors file"),
        ((4).to_bytes(8, "little") + b"{{{{", "its header cannot be read"),
        ((2).to_bytes(8, "little") + b"[]", "its header cannot be read"),
    ],
    ids=["torch-save", "bare-pickle", "lfs-pointer", "web-page", "no-json", "no-header"],
)
def test_what_is_not_safetensors_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


# Cut within the length, the header, the tensors, and by a single byte.
@pytest.mark.parametrize("keep", [0, 5, 100, 2_000, -1])
def test_a_truncated_file_is_named(keep: int, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"is truncated: [\d,]+ bytes where"):
        read_header(checkpoint)
