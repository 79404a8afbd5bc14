"""The fast path against the reference path, part by part and whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.fast.deformable import deformable
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.network import BiRefNet, deform_conv2d


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
    size: int, batch: int, order: PatchOrder
) -> None:
    network = golden_network(replace(PRESETS["birefnet-tiny"], patch_order=order), "tiny")
    pictures = _pictures(size, batch)
    difference = _fast(network, size, batch)(pictures) - network(pictures)
    assert difference.abs().max() <= 1e-4


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_mix(tiny_network: BiRefNet) -> None:
    fast, pictures = _fast(tiny_network, 128, 4), _pictures(128, 4)
    fast.prepare(1)
    together = fast(pictures)
    for index in range(4):
        assert (fast(pictures[index : index + 1]) - together[index]).abs().max() <= 1e-4


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (1, 5), (40, 40)])
def test_the_operator_equals_the_reference(kernel: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(kernel * width)
    x, offset, modulator = (
        scale * torch.randn(2, channels, height, width, generator=generator)
        for scale, channels in ((1, 5), (4, 2 * kernel**2), (1, kernel**2))
    )
    offset[0, :, 0, 0] = 1e9  # leads nowhere
    weight = torch.randn(6, 5, kernel, kernel, generator=generator) / kernel
    bias = torch.randn(6, generator=generator)
    expected = deform_conv2d(x, offset, 2 * torch.sigmoid(modulator), weight)
    expected = torch.relu(expected + bias.view(-1, 1, 1))
    rows = [
        part.permute(0, 2, 3, 1).flatten(0, 2) for part in (x, torch.cat((offset, modulator), 1))
    ]
    taps = weight.permute(2, 3, 1, 0).flatten(0, 2)
    answer = deformable(*rows, taps, bias, height, width)
    torch.testing.assert_close(
        answer.view(2, height, width, 6).permute(0, 3, 1, 2), expected, atol=2e-4, rtol=1e-4
    )


def test_torch_finds_the_operator_well_formed() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((24, 4), (24, 27), (36, 8), (8,))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(deformable, (*tensors, 4, 6), test_utils=checks)


@torch.inference_mode()
def test_torch_compile_sees_one_graph(tiny_network: BiRefNet) -> None:
    fast = _fast(tiny_network, 64, 1)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(fast)(_pictures(64, 1))
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0, explained.break_reasons
