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

from inference.models.birefnet.checkpoint import permute_patch_order
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.golden import golden_input, golden_state
from inference.models.birefnet.network import BiRefNet
from tests.support.birefnet_reference import Reference
from tests.support.paths import DATA

BuildNetwork = Callable[[str, PatchOrder, dict[str, Tensor]], BiRefNet]
States = dict[str, dict[str, Tensor]]

_TOLERANCE = 1e-3  # of logits whose standard deviation is 1.15
_REFERENCE_TOLERANCE = 1e-4
_FAST_TOLERANCE = 2e-3
_HALF = 2 / 255
_REFERENCE = DATA / "golden_model" / "birefnet_reference_public.npz"
_OLD, _NEW = PatchOrder.COLUMNS_ROWS_COLORS, PatchOrder.COLORS_ROWS_COLUMNS


def _picture() -> Tensor:
    """A small picture that is not square, so that no side passes for the other."""
    return torch.from_numpy(golden_input(96)[..., :64].copy())


@pytest.fixture(scope="module")
def published() -> Mapping[str, NDArray[np.float32]]:
    """The original's logits, in the old order."""
    with np.load(DATA / "golden_model" / "rmbg2_golden_public.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def states() -> States:
    """Stand-in weights; the large ones, RMBG-2.0's too, are 885 MB."""
    return {name: golden_state(PRESETS[name], "public") for name in ("birefnet", "birefnet-lite")}


@pytest.fixture
def in_new_order(states: States, build_network: BuildNetwork) -> BiRefNet:
    """The large network with the same meaning, as its checkpoint is loaded in the new order."""
    return build_network("rmbg-2.0", _NEW, permute_patch_order(states["birefnet"], _OLD, _NEW))


_each_network = pytest.mark.parametrize("name", ["birefnet", "birefnet-lite"])
_each_order = pytest.mark.parametrize("order", PatchOrder)


@_each_network
@_each_order
def test_equals_the_reference_in_its_patch_order_alone(
    name: str, order: PatchOrder, states: States, build_network: BuildNetwork
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
    name: str, order: PatchOrder, states: States, request: pytest.FixtureRequest
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
    states: States, published: Mapping[str, NDArray[np.float32]]
) -> None:
    reference = Reference(states["birefnet"], PRESETS["rmbg-2.0"].swin.num_heads, _OLD)
    logits = reference.logits(torch.from_numpy(golden_input(256)))[0, 0].numpy()
    np.testing.assert_allclose(logits, published["logits_256"], atol=_REFERENCE_TOLERANCE)


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
    in_new_order: BiRefNet, published: Mapping[str, NDArray[np.float32]]
) -> None:
    fast = FastBiRefNet(in_new_order, 256)
    fast.prepare(1)
    picture, expected = (torch.from_numpy(a) for a in (golden_input(256), published["logits_256"]))
    logits = fast(picture)
    assert (logits[0, 0] - expected).abs().max() <= _FAST_TOLERANCE
    halved = _rounding_to_half(fast)(picture)
    assert (halved - logits).abs().max() > 0
    assert (halved.sigmoid() - expected.sigmoid()).abs().max() <= _HALF


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [512, 1024])
def test_equals_the_original(
    size: int, in_new_order: BiRefNet, published: Mapping[str, NDArray[np.float32]]
) -> None:
    with torch.inference_mode():
        answer = in_new_order(torch.from_numpy(golden_input(size)))[0, 0].numpy()
    assert np.abs(answer - published[f"logits_{size}"]).max() <= _TOLERANCE
