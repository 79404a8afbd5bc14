"""A checkpoint in either patch order loads, and one of other keys, shapes or types is refused."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.errors import CheckpointError
from inference.models.birefnet.checkpoint import load_network
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_input, golden_state
from inference.models.birefnet.network import BiRefNet

_TINY = PRESETS["birefnet-tiny"]

_NORM = "bb.norm0.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return golden_state(_TINY, "tiny")


@pytest.fixture
def save(tmp_path: Path) -> Callable[[dict[str, Tensor]], Path]:
    def save_at(tensors: dict[str, Tensor]) -> Path:
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        return path

    return save_at


def _load(path: Path, sha256: str | None = None) -> BiRefNet:
    return load_network(path, _TINY, patch_order=PatchOrder.BIREFNET, sha256=sha256)


def _logits(network: BiRefNet) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(torch.from_numpy(golden_input(64)))
    return logits


def test_a_file_or_its_folder_loads(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path], tiny_network: BiRefNet
) -> None:
    path = save(state)
    expected = _logits(tiny_network)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # Not bit by bit: where a tensor lies in memory decides how its sums are split.
    torch.testing.assert_close(_logits(_load(path, digest)), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(_logits(_load(path.parent)), expected, atol=1e-4, rtol=0)


def test_a_float16_checkpoint_is_widened(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path], tiny_network: BiRefNet
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    network = _load(save(half))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert (_logits(network) - _logits(tiny_network)).abs().max() < 0.05


def test_the_checkpoints_patch_order_is_heeded(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save(state)
    answers = [_logits(load_network(path, _TINY, patch_order=order)) for order in PatchOrder]
    assert (answers[0] - answers[1]).abs().max() > 0.05


def test_an_unknown_patch_order_is_not_guessed(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    with pytest.raises(CheckpointError, match="Say which it is"):
        load_network(save(state), _TINY)


def test_a_missing_key_is_named(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save({key: value for key, value in state.items() if key != _NORM})
    with pytest.raises(CheckpointError, match=rf"lacks the key {re.escape(_NORM)}\."):
        _load(path)


def test_many_missing_keys_are_counted(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save({key: value for key, value in state.items() if not key.startswith("bb.")})
    with pytest.raises(CheckpointError, match=r"lacks the keys bb\..* and \d+ more\."):
        _load(path)


def test_an_unexpected_key_is_named(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save(state | {"refiner.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"has the key refiner\.weight, unknown"):
        _load(path)


def test_a_wrong_shape_is_named(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save(state | {_NORM: torch.zeros(17)})
    message = rf"{re.escape(_NORM)} has the shape \[17\], expected \[16\]"
    with pytest.raises(CheckpointError, match=message):
        _load(path)


def test_a_wrong_type_is_named(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save(state | {_NORM: torch.zeros(16, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=rf"{re.escape(_NORM)} is of type I8"):
        _load(path)


def test_another_hash_is_named(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save(state)
    with pytest.raises(CheckpointError, match="expected " + "0" * 64):
        _load(path, "0" * 64)


def test_a_damaged_file_is_refused_before_it_is_loaded(
    state: dict[str, Tensor], save: Callable[[dict[str, Tensor]], Path]
) -> None:
    path = save(state)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated"):
        _load(path)
