"""The network's layout, and its behaviour at the edges of what it takes."""

from typing import Any

import pytest
import torch

from inference.models.birefnet.checkpoint import permute_patch_order
from inference.models.birefnet.config import PATCH_GRIDS, PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_input, golden_state
from inference.models.birefnet.network import BiRefNet, image_to_patches


def _layout(name: str) -> dict[str, tuple[list[int], str]]:
    with torch.device("meta"):
        state = BiRefNet(PRESETS[name]).state_dict()
    return {
        key: (list(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in state.items()
    }


def test_keys_shapes_and_types_are_rmbg_2_0s(published_keys: dict[str, dict[str, Any]]) -> None:
    expected = {key: (spec["shape"], spec["dtype"]) for key, spec in published_keys.items()}
    assert len(expected) == 754
    assert _layout("rmbg-2.0") == expected


def test_the_light_network_derives_its_channels_from_its_backbone() -> None:
    layout = _layout("birefnet-lite")
    # From Swin-T's 96: laterals 192..1536, an eighth of each injected.
    assert layout["decoder.lateral_block4.conv.weight"][0] == [768, 768, 1, 1]
    assert layout["squeeze_module.0.conv_in.weight"][0] == [64, 2880, 3, 3]
    assert layout["decoder.ipt_blk5.conv_out.weight"][0] == [192, 64, 3, 3]
    assert layout["decoder.conv_out1.0.weight"][0] == [1, 96 + 24, 1, 1]
    assert layout["bb.layers.0.blocks.0.attn.relative_position_index"] == ([49, 49], "int64")


def test_the_tiny_network_has_the_size_that_was_meant() -> None:
    with torch.device("meta"):
        network = BiRefNet(PRESETS["birefnet-tiny"])
    assert 3.1e6 < sum(p.numel() for p in network.parameters()) < 3.2e6


# At 32 the coarsest maps are a single pixel, at 96 the half-scale ones are odd.
@pytest.mark.parametrize("size", [32, 96, 160])
def test_every_multiple_of_32_will_do(size: int, tiny_network: BiRefNet) -> None:
    with torch.inference_mode():
        logits = tiny_network(torch.from_numpy(golden_input(size)))
    assert logits.shape == (1, 1, size, size)
    assert torch.isfinite(logits).all()


def test_a_batch_is_the_same_as_one_by_one(tiny_network: BiRefNet) -> None:
    pictures = torch.cat([torch.from_numpy(golden_input(128, seed)) for seed in "abc"])
    with torch.inference_mode():
        together = tiny_network(pictures)
        alone = torch.cat([tiny_network(one) for one in pictures.split(1)])
    assert (together - alone).abs().max() <= 1e-4
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("grid", sorted(PATCH_GRIDS.values()))
def test_patch_orders_are_what_they_say(grid: int) -> None:
    side = 2 * grid
    image = torch.arange(3 * side * side, dtype=torch.float32).view(1, 3, side, side)
    ours = image_to_patches(image, grid, PatchOrder.BIREFNET)
    rmbgs = image_to_patches(image, grid, PatchOrder.RMBG_2_0)
    color, row, col = 2, grid - 1, 1
    tile = image[0, color, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
    assert torch.equal(ours[0, (color * grid + row) * grid + col], tile)
    assert torch.equal(rmbgs[0, (col * grid + row) * 3 + color], tile)


def test_permuting_there_and_back_changes_nothing_else() -> None:
    state = golden_state(PRESETS["birefnet-tiny"], "permute")
    there = permute_patch_order(state, PatchOrder.RMBG_2_0, PatchOrder.BIREFNET)
    back = permute_patch_order(there, PatchOrder.BIREFNET, PatchOrder.RMBG_2_0)
    changed = {name for name in state if not torch.equal(state[name], there[name])}
    assert changed == {f"decoder.ipt_blk{level}.conv1.weight" for level in PATCH_GRIDS}
    assert all(torch.equal(state[name], back[name]) for name in state)
