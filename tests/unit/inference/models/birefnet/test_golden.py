"""Our network against what the original code answers with the same weights and input.

The original's published answers are in one patch order, of one backbone. For the rest there is a
reference by the published definition, which gives these answers too.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.golden import golden_input, golden_state, golden_tensor
from inference.models.birefnet.network import BiRefNet
from tests.support.birefnet_reference import Reference
from tests.support.paths import DATA

BuildFullSize = Callable[[PatchOrder], BiRefNet]
BuildNetwork = Callable[[str, PatchOrder, dict[str, Tensor]], BiRefNet]

_TOLERANCE = 1e-3  # of logits whose standard deviation is 1.15
_REFERENCE_TOLERANCE = 1e-4
_FAST_TOLERANCE = 2e-3
_HALF = 2 / 255
_REFERENCE = DATA / "golden_model" / "birefnet_reference_public.npz"


def _picture() -> Tensor:
    """A small picture that is not square, so that no side passes for the other."""
    return torch.from_numpy(golden_input(96)[..., :64].copy())


@pytest.fixture(scope="module")
def states(full_size_state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    lite = golden_state(PRESETS["birefnet-lite"], "public")
    return {"birefnet": full_size_state, "birefnet-lite": lite}


_each_network = pytest.mark.parametrize("name", ["birefnet", "birefnet-lite"])
_each_order = pytest.mark.parametrize("order", PatchOrder)


@_each_network
@_each_order
def test_equals_the_reference_in_its_patch_order_alone(
    name: str,
    order: PatchOrder,
    states: dict[str, dict[str, Tensor]],
    build_network: BuildNetwork,
) -> None:
    with torch.inference_mode():
        logits = build_network(name, order, states[name])(_picture())[0, 0].numpy()
    with np.load(_REFERENCE) as golden:
        apart = {each: np.abs(logits - golden[f"{name}/{each}"]).max() for each in PatchOrder}
    assert apart.pop(order) <= _REFERENCE_TOLERANCE
    assert min(apart.values()) > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@_each_network
@_each_order
def test_the_golden_logits_are_the_references(
    name: str,
    order: PatchOrder,
    states: dict[str, dict[str, Tensor]],
    request: pytest.FixtureRequest,
) -> None:
    reference = Reference(states[name], PRESETS[name].swin.num_heads, order)
    logits = reference.logits(_picture())[0, 0].numpy().astype(np.float32)
    with np.load(_REFERENCE) as file:
        golden = dict(file)
    if request.config.getoption("--regold"):
        golden[f"{name}/{order}"] = logits
        np.savez(_REFERENCE, **golden)
    np.testing.assert_allclose(golden[f"{name}/{order}"], logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_reference_equals_the_original(
    full_size_state: dict[str, Tensor], published_logits: Mapping[str, NDArray[np.float32]]
) -> None:
    heads = PRESETS["rmbg-2.0"].swin.num_heads
    reference = Reference(full_size_state, heads, PatchOrder.COLUMNS_ROWS_COLORS)
    logits = reference.logits(torch.from_numpy(golden_input(256)))[0, 0].numpy()
    np.testing.assert_allclose(logits, published_logits["logits_256"], atol=_REFERENCE_TOLERANCE)


def _rounding_to_half(fast: FastBiRefNet) -> FastBiRefNet:
    """Every tensor of weights, and what every module answers, as float16 would hold it."""
    for tensor in (*fast.parameters(), *fast.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.half().float()  # not in place: others hold the same memory

    def round_answer(_module: nn.Module, _given: object, answer: object) -> object:
        return tree_map_only(Tensor, lambda part: part.half().float(), answer)

    for module in fast.modules():
        module.register_forward_hook(round_answer)
    return fast


@torch.inference_mode()
def test_the_fast_path_equals_the_original_in_either_precision(
    build_full_size: BuildFullSize, published_logits: Mapping[str, NDArray[np.float32]]
) -> None:
    fast = FastBiRefNet(build_full_size(PatchOrder.COLORS_ROWS_COLUMNS), 256)
    fast.prepare(1)
    picture = torch.from_numpy(golden_input(256))
    logits = fast(picture)
    published = torch.from_numpy(published_logits["logits_256"])
    assert (logits[0, 0] - published).abs().max() <= _FAST_TOLERANCE
    halved = _rounding_to_half(fast)(picture)
    assert (halved - logits).abs().max() > 0
    assert (halved.sigmoid() - published.sigmoid()).abs().max() <= _HALF


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("size", "order"),
    [
        (256, PatchOrder.COLUMNS_ROWS_COLORS),
        *((side, PatchOrder.COLORS_ROWS_COLUMNS) for side in (512, 1024)),
    ],
)
def test_equals_the_original(
    size: int,
    order: PatchOrder,
    build_full_size: BuildFullSize,
    published_logits: Mapping[str, NDArray[np.float32]],
) -> None:
    with torch.inference_mode():
        answer = build_full_size(order)(torch.from_numpy(golden_input(size)))[0, 0].numpy()
    assert np.abs(answer - published_logits[f"logits_{size}"]).max() <= _TOLERANCE


def test_stand_in_weights_depend_on_their_seed_alone() -> None:
    name = "decoder.conv_out1.0.weight"
    first, again, other = (golden_tensor(seed, name, (4, 3)) for seed in "aab")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
