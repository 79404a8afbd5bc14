"""Our network against what the original code answers with the same weights and input."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.models.birefnet.config import PatchOrder
from inference.models.birefnet.golden import golden_input
from inference.models.birefnet.network import BiRefNet

# The group keeps the large weights in one process when tests run in several.
pytestmark = pytest.mark.xdist_group("golden")

#: Of the order that the network runs in, and the order that its weights are taken to be in.
BuildFullSize = Callable[[PatchOrder, PatchOrder], BiRefNet]

_TOLERANCE = 1e-3  # of logits whose standard deviation is 1.15


def _max_error(network: BiRefNet, size: int, logits: Mapping[str, NDArray[np.float32]]) -> float:
    with torch.inference_mode():
        answer = network(torch.from_numpy(golden_input(size)))[0, 0].numpy()
    return float(np.abs(answer - logits[f"logits_{size}"]).max())


@pytest.mark.parametrize("order", PatchOrder)
def test_equals_the_original_in_either_patch_order(
    order: PatchOrder,
    build_full_size: BuildFullSize,
    published_logits: Mapping[str, NDArray[np.float32]],
) -> None:
    network = build_full_size(order, PatchOrder.RMBG_2_0)
    assert _max_error(network, 256, published_logits) <= _TOLERANCE


def test_the_wrong_patch_order_is_far_off(
    build_full_size: BuildFullSize, published_logits: Mapping[str, NDArray[np.float32]]
) -> None:
    network = build_full_size(PatchOrder.BIREFNET, PatchOrder.BIREFNET)
    assert _max_error(network, 256, published_logits) > 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [512, 1024])
def test_equals_the_original_at_larger_sizes(
    size: int,
    build_full_size: BuildFullSize,
    published_logits: Mapping[str, NDArray[np.float32]],
) -> None:
    network = build_full_size(PatchOrder.BIREFNET, PatchOrder.RMBG_2_0)
    assert _max_error(network, size, published_logits) <= _TOLERANCE
