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
from inference.models.birefnet.golden import golden_network, golden_state
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


@pytest.fixture(scope="session")
def build_full_size(
    full_size_state: dict[str, Tensor],
) -> Callable[[PatchOrder, PatchOrder], BiRefNet]:
    """Networks of full size that share the stand-in weights."""

    def build(runs_in: PatchOrder, taken_for: PatchOrder) -> BiRefNet:
        with torch.device("meta"):
            network = BiRefNet(replace(PRESETS["rmbg-2.0"], patch_order=runs_in))
        state = permute_patch_order(full_size_state, taken_for, runs_in)
        network.load_state_dict(state, assign=True)
        return network.eval()

    return build


@pytest.fixture(scope="session")
def tiny_network() -> BiRefNet:
    return golden_network(PRESETS["birefnet-tiny"], "tiny")
