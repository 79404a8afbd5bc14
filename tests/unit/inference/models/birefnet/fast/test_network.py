"""The fast path against the reference path."""

import numpy as np
import pytest
import torch

from inference.models.birefnet.config import PatchOrder
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.golden import golden_input
from inference.models.birefnet.network import BiRefNet


@pytest.mark.parametrize(("size", "batch"), [(64, 1), (192, 2)])
@pytest.mark.parametrize("order", PatchOrder)
@torch.inference_mode()
def test_the_tiny_network_answers_as_the_reference(
    size: int, batch: int, order: PatchOrder, tiny_networks: dict[PatchOrder, BiRefNet]
) -> None:
    inputs = [golden_input(size, f"picture {number}") for number in range(batch)]
    pictures = torch.from_numpy(np.concatenate(inputs))
    fast = FastBiRefNet(tiny_networks[order], size)
    fast.prepare(batch)
    difference = fast(pictures) - tiny_networks[order](pictures)
    assert difference.abs().max() <= 1e-4


# Python 3.13.0 has a fault that torch warns of.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@torch.inference_mode()
def test_torch_compile_sees_one_graph(tiny_network: BiRefNet) -> None:
    fast, picture = FastBiRefNet(tiny_network, 64), torch.from_numpy(golden_input(64))
    fast.prepare(1)
    torch.compiler.reset()
    compiled = torch.compile(fast, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(picture), fast(picture))
