"""Networks that several tests share; the tiny one is made once."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.engine import BiRefNetModel
from inference.models.birefnet.golden import golden_state
from inference.models.birefnet.network import BiRefNet

BuildNetwork = Callable[[str, PatchOrder, dict[str, Tensor]], BiRefNet]


@pytest.fixture(scope="session")
def build_network() -> BuildNetwork:
    """Make a network that runs in a patch order, with weights that it shares with others."""

    def build(name: str, order: PatchOrder, state: dict[str, Tensor]) -> BiRefNet:
        with torch.device("meta"):
            network = BiRefNet(replace(PRESETS[name], patch_order=order))
        network.load_state_dict(state, assign=True)
        return network.eval().requires_grad_(requires_grad=False)

    return build


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Tensor]:
    return golden_state(PRESETS["birefnet-tiny"], "tiny")


@pytest.fixture(scope="session")
def tiny_networks(
    tiny_state: dict[str, Tensor], build_network: BuildNetwork
) -> dict[PatchOrder, BiRefNet]:
    """The tiny network in either order, with the same tensors: so the two answer differently."""
    return {order: build_network("birefnet-tiny", order, tiny_state) for order in PatchOrder}


@pytest.fixture(scope="session")
def tiny_network(tiny_networks: dict[PatchOrder, BiRefNet]) -> BiRefNet:
    return tiny_networks[PatchOrder.COLORS_ROWS_COLUMNS]


@pytest.fixture(scope="session")
def engine(tiny_network: BiRefNet) -> BiRefNetModel:
    """The tiny network on the CPU."""
    return BiRefNetModel("birefnet-tiny", tiny_network, torch.device("cpu"), torch.float32)
