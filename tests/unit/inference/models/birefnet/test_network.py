"""The network's layout, and the edges of what it takes; its answers are in test_golden.py."""

import json

import pytest
import torch

from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_input
from inference.models.birefnet.network import BiRefNet, deform_conv2d
from tests.support.paths import DATA


def test_keys_shapes_and_types_are_rmbg_2_0s() -> None:
    published = json.loads((DATA / "golden_model" / "rmbg2_keys.json").read_text())
    with torch.device("meta"):
        state = BiRefNet(PRESETS["rmbg-2.0"]).state_dict()
    assert len(published) == 754
    assert {
        key: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for key, value in state.items()
    } == published


# At 32 the coarsest maps are a single pixel, at 96 the half-scale ones are odd.
@pytest.mark.parametrize("size", [32, 96, 160])
def test_every_multiple_of_32_will_do(size: int, tiny_network: BiRefNet) -> None:
    with torch.inference_mode():
        logits = tiny_network(torch.from_numpy(golden_input(size)))
    assert logits.shape == (1, 1, size, size)
    assert torch.isfinite(logits).all()


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
