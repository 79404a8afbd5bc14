"""A checkpoint in either patch order loads, and one of other keys, shapes or types is refused."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.errors import CheckpointError
from inference.models.birefnet.checkpoint import load_network
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_input
from inference.models.birefnet.network import BiRefNet

_TINY = PRESETS["birefnet-tiny"]

_NORM = "bb.norm0.weight"
Save = Callable[[dict[str, Tensor]], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save_at(tensors: dict[str, Tensor]) -> Path:
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        return path

    return save_at


def _load(path: Path, sha256: str | None = None) -> BiRefNet:
    return load_network(path, _TINY, patch_order=PatchOrder.COLORS_ROWS_COLUMNS, sha256=sha256)


def _logits(network: BiRefNet) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(torch.from_numpy(golden_input(64)))
    return logits


def test_a_file_or_its_folder_loads(
    tiny_state: dict[str, Tensor], save: Save, tiny_network: BiRefNet
) -> None:
    path = save(tiny_state)
    expected = _logits(tiny_network)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # Not bit by bit: where a tensor lies in memory decides how its sums are split.
    torch.testing.assert_close(_logits(_load(path, digest)), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(_logits(_load(path.parent)), expected, atol=1e-4, rtol=0)
    with pytest.raises(CheckpointError, match="expected " + "0" * 64):
        _load(path, "0" * 64)


def test_a_float16_checkpoint_is_widened(
    tiny_state: dict[str, Tensor], save: Save, tiny_network: BiRefNet
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in tiny_state.items()}
    network = _load(save(half))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert (_logits(network) - _logits(tiny_network)).abs().max() < 0.05


def test_the_checkpoints_patch_order_is_heeded_and_never_guessed(
    tiny_state: dict[str, Tensor], save: Save, tiny_networks: dict[PatchOrder, BiRefNet]
) -> None:
    path = save(tiny_state)
    answers = {order: _logits(load_network(path, _TINY, patch_order=order)) for order in PatchOrder}
    for order, answer in answers.items():
        expected = _logits(tiny_networks[order])
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)
    first, second = answers.values()
    assert (first - second).abs().max() > 0.05
    with pytest.raises(CheckpointError, match="Set RMBG_PATCH_ORDER"):
        load_network(path, _TINY)


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        (_NORM, {}, r"lacks the key bb\.norm0\.weight\."),
        ("bb.", {}, r"lacks the keys bb\..* and \d+ more\."),
        ("none", {"refiner.weight": torch.zeros(1)}, r"has the key refiner\.weight, unknown"),
        (_NORM, {_NORM: torch.zeros(17)}, r"norm0\.weight has the shape \[17\], expected \[16\]"),
        (_NORM, {_NORM: torch.zeros(16, dtype=torch.int8)}, r"norm0\.weight is of type I8"),
    ],
    ids=["missing", "many-missing", "unexpected", "shape", "type"],
)
def test_what_differs_from_the_network_is_named(
    removed: str, added: dict[str, Tensor], message: str, tiny_state: dict[str, Tensor], save: Save
) -> None:
    kept = {key: value for key, value in tiny_state.items() if not key.startswith(removed)}
    with pytest.raises(CheckpointError, match=message):
        _load(save(kept | added))
