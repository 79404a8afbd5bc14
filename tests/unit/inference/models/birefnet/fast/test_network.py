"""The fast path against the reference path, part by part and whole."""

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.models.birefnet.config import PatchOrder
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.golden import golden_input
from inference.models.birefnet.network import BiRefNet


def _pictures(size: int, batch: int) -> Tensor:
    return torch.from_numpy(
        np.concatenate([golden_input(size, f"picture {n}") for n in range(batch)])
    )


def _fast(network: BiRefNet, size: int, batch: int) -> FastBiRefNet:
    fast = FastBiRefNet(network, size)
    fast.prepare(batch)
    return fast


@pytest.mark.parametrize(("size", "batch"), [(64, 1), (192, 2)])
@pytest.mark.parametrize("order", PatchOrder)
@torch.inference_mode()
def test_the_tiny_network_answers_as_the_reference(
    size: int, batch: int, order: PatchOrder, tiny_networks: dict[PatchOrder, BiRefNet]
) -> None:
    network, pictures = tiny_networks[order], _pictures(size, batch)
    difference = _fast(network, size, batch)(pictures) - network(pictures)
    assert difference.abs().max() <= 1e-4


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_mix(tiny_network: BiRefNet) -> None:
    fast, pictures = _fast(tiny_network, 128, 4), _pictures(128, 4)
    fast.prepare(1)
    together = fast(pictures)
    for index in range(4):
        assert (fast(pictures[index : index + 1]) - together[index]).abs().max() <= 1e-4


@torch.inference_mode()
def test_torch_compile_sees_one_graph(tiny_network: BiRefNet) -> None:
    fast = _fast(tiny_network, 64, 1)
    torch.compiler.reset()
    compiled = torch.compile(fast, backend="eager", fullgraph=True, dynamic=False)
    picture = _pictures(64, 1)
    torch.testing.assert_close(compiled(picture), fast(picture))
