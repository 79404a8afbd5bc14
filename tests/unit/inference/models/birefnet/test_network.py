"""The network's layout, its deformable convolution, and the edges of what it takes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.models.birefnet.checkpoint import permute_patch_order
from inference.models.birefnet.config import PATCH_GRIDS, PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_input
from inference.models.birefnet.network import BiRefNet, deform_conv2d, image_to_patches


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


# At 32 the coarsest maps are a single pixel, at 96 the half-scale ones are odd.
@pytest.mark.parametrize("size", [32, 96, 160])
def test_every_multiple_of_32_will_do(size: int, tiny_network: BiRefNet) -> None:
    with torch.inference_mode():
        logits = tiny_network(torch.from_numpy(golden_input(size)))
    assert logits.shape == (1, 1, size, size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("grid", sorted(PATCH_GRIDS.values()))
def test_patch_orders_are_what_they_say(grid: int) -> None:
    side = 2 * grid
    image = torch.arange(3 * side * side, dtype=torch.float32).view(1, 3, side, side)
    ours = image_to_patches(image, grid, PatchOrder.COLORS_ROWS_COLUMNS)
    rmbgs = image_to_patches(image, grid, PatchOrder.COLUMNS_ROWS_COLORS)
    color, row, col = 2, grid - 1, 1
    tile = image[0, color, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
    assert torch.equal(ours[0, (color * grid + row) * grid + col], tile)
    assert torch.equal(rmbgs[0, (col * grid + row) * 3 + color], tile)


def test_permuting_there_and_back_changes_nothing_else(tiny_state: dict[str, Tensor]) -> None:
    old, new = PatchOrder
    there = permute_patch_order(tiny_state, old, new)
    back = permute_patch_order(there, new, old)
    changed = {name for name in tiny_state if not torch.equal(tiny_state[name], there[name])}
    assert changed == {f"decoder.ipt_blk{level}.conv1.weight" for level in PATCH_GRIDS}
    assert all(torch.equal(tiny_state[name], back[name]) for name in tiny_state)


def _bilinear(x: NDArray[np.float64], row: float, col: float) -> NDArray[np.float64]:
    """All channels at one place; outside the map lies zero."""
    total = np.zeros(x.shape[0])
    top, left = math.floor(row), math.floor(col)
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
            total += x[:, r, c] * (1 - abs(row - r)) * (1 - abs(col - c))
    return total


def _by_definition(
    x: NDArray[np.float64],
    offset: NDArray[np.float64],
    modulator: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    (_, height, width), kernel = x.shape, weight.shape[-1]
    out = np.zeros((weight.shape[0], height, width))
    for row, col, tap in np.ndindex(height, width, kernel * kernel):
        i, j = divmod(tap, kernel)
        at_row = row + i - kernel // 2 + offset[2 * tap, row, col]
        at_col = col + j - kernel // 2 + offset[2 * tap + 1, row, col]
        sample = _bilinear(x, at_row, at_col) * modulator[tap, row, col]
        out[:, row, col] += weight[:, :, i, j] @ sample
    return out


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (1, 5), (1, 1)])
def test_the_deformable_convolution_equals_its_definition(
    kernel: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(100 * kernel + width)
    x = rng.standard_normal((2, 3, height, width))
    offset = 3 * rng.standard_normal((2, 2 * kernel**2, height, width))  # many lead outside
    modulator = 2 * rng.random((2, kernel**2, height, width))
    weight = rng.standard_normal((4, 3, kernel, kernel))
    arguments = (torch.from_numpy(a.astype(np.float32)) for a in (x, offset, modulator, weight))
    answer = deform_conv2d(*arguments).numpy()
    for index in range(2):
        expected = _by_definition(x[index], offset[index], modulator[index], weight)
        np.testing.assert_allclose(answer[index], expected, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type_and_places(dtype: torch.dtype) -> None:
    # On a map this wide, float16 coordinates would be off by an eighth of a pixel.
    x = torch.linspace(0, 1, 300).view(1, 1, 1, 300)
    offset = torch.full((1, 2, 1, 300), 0.3)
    offset[:, 0] = 0
    weight, modulator = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 300)
    exact = deform_conv2d(x, offset, modulator, weight)
    answer = deform_conv2d(x.to(dtype), offset, modulator, weight.to(dtype))
    assert answer.dtype == dtype
    rounding = torch.finfo(dtype).eps
    assert (answer.float() - exact)[..., :-1].abs().max() <= rounding
