"""Networks and figures that several tests share; the large one is made once."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.models.birefnet.checkpoint import permute_patch_order
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.engine import BiRefNetModel
from inference.models.birefnet.golden import golden_state
from inference.models.birefnet.network import BiRefNet
from tests.support.paths import DATA

_GOLDEN = DATA / "golden_model"


@pytest.fixture(scope="session")
def published_keys() -> dict[str, dict[str, Any]]:
    keys: dict[str, dict[str, Any]] = json.loads((_GOLDEN / "rmbg2_keys.json").read_text())
    return keys


@pytest.fixture(scope="session")
def published_logits() -> Mapping[str, NDArray[np.float32]]:
    with np.load(_GOLDEN / "rmbg2_golden_public.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def full_size_state() -> dict[str, Tensor]:
    """885 MB of stand-in weights, in RMBG-2.0's patch order as the published logits are."""
    return golden_state(PRESETS["rmbg-2.0"], "public")


def network_in_order(name: str, order: PatchOrder, state: dict[str, Tensor]) -> BiRefNet:
    """Make a network that runs in a patch order, with weights that it shares with others."""
    with torch.device("meta"):
        network = BiRefNet(replace(PRESETS[name], patch_order=order))
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="session")
def build_network() -> Callable[[str, PatchOrder, dict[str, Tensor]], BiRefNet]:
    return network_in_order


@pytest.fixture(scope="session")
def build_full_size(full_size_state: dict[str, Tensor]) -> Callable[[PatchOrder], BiRefNet]:
    """Networks of full size, each with the stand-in weights in the order that it runs in."""

    def build(order: PatchOrder) -> BiRefNet:
        state = permute_patch_order(full_size_state, PatchOrder.COLUMNS_ROWS_COLORS, order)
        return network_in_order("rmbg-2.0", order, state)

    return build


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Tensor]:
    return golden_state(PRESETS["birefnet-tiny"], "tiny")


@pytest.fixture(scope="session")
def tiny_networks(tiny_state: dict[str, Tensor]) -> dict[PatchOrder, BiRefNet]:
    """The tiny network in either order, with the same tensors: so the two answer differently."""
    return {order: network_in_order("birefnet-tiny", order, tiny_state) for order in PatchOrder}


@pytest.fixture(scope="session")
def tiny_network(tiny_networks: dict[PatchOrder, BiRefNet]) -> BiRefNet:
    return tiny_networks[PatchOrder.COLORS_ROWS_COLUMNS]


@pytest.fixture(scope="session")
def engine(tiny_network: BiRefNet) -> BiRefNetModel:
    """The tiny network on the CPU."""
    return BiRefNetModel("birefnet-tiny", tiny_network, torch.device("cpu"), torch.float32)
