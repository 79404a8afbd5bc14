"""What can be checked of a model's file before its engine is loaded."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.models.registry import ModelSpec, get_spec
from inference.models.weights import check_weights, find_weights_problem

_EMPTY = (2).to_bytes(8, "little") + b"{}"


@pytest.fixture
def spec() -> ModelSpec:
    """A BiRefNet whose file has no tensors."""
    digest = hashlib.sha256(_EMPTY).hexdigest()
    return replace(get_spec("rmbg-2.0"), size_bytes=len(_EMPTY), sha256=digest)


def test_a_file_or_its_folder_will_do(spec: ModelSpec, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(_EMPTY)
    for path in (file, tmp_path):
        assert find_weights_problem(spec, path) is None
        check_weights(spec, path)


def test_an_onnx_folder_holds_the_file_of_the_registry(u2netp_file: Path) -> None:
    check_weights(get_spec("u2netp"), u2netp_file.parent)


def test_a_folder_without_the_file(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.safetensors\. Run: rmbg models fetch"):
        check_weights(spec, tmp_path)


def test_a_hash_is_left_to_the_loader_of_a_large_file(spec: ModelSpec, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(_EMPTY)
    other = replace(spec, sha256="0" * 64)
    check_weights(other, file)
    assert "another SHA-256" in (find_weights_problem(other, file) or "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04" + bytes(20), "is a pickle"),
        (_EMPTY[:5], "is truncated"),
        (_EMPTY + b"more", "has 14 bytes where 10 are expected"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str, spec: ModelSpec, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(data)
    with pytest.raises(ModelError, match=words):
        check_weights(spec, file)
