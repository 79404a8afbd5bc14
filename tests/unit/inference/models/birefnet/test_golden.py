"""Our network against what the original code answers with the same weights and input."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from inference.models.birefnet.config import PatchOrder
from inference.models.birefnet.fast.network import FastBiRefNet
from inference.models.birefnet.golden import golden_input, golden_tensor
from inference.models.birefnet.network import BiRefNet

BuildFullSize = Callable[[PatchOrder], BiRefNet]

_TOLERANCE = 1e-3  # of logits whose standard deviation is 1.15
_FAST_TOLERANCE = 2e-3
_HALF = 2 / 255


def _max_error(network: BiRefNet, size: int, logits: Mapping[str, NDArray[np.float32]]) -> float:
    with torch.inference_mode():
        answer = network(torch.from_numpy(golden_input(size)))[0, 0].numpy()
    return float(np.abs(answer - logits[f"logits_{size}"]).max())


def test_equals_the_original(
    build_full_size: BuildFullSize, published_logits: Mapping[str, NDArray[np.float32]]
) -> None:
    network = build_full_size(PatchOrder.COLUMNS_ROWS_COLORS)
    assert _max_error(network, 256, published_logits) <= _TOLERANCE


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
@pytest.mark.parametrize("size", [512, 1024])
def test_equals_the_original_at_larger_sizes(
    size: int,
    build_full_size: BuildFullSize,
    published_logits: Mapping[str, NDArray[np.float32]],
) -> None:
    network = build_full_size(PatchOrder.COLORS_ROWS_COLUMNS)
    assert _max_error(network, size, published_logits) <= _TOLERANCE


def test_stand_in_weights_depend_on_their_seed_alone() -> None:
    name = "decoder.conv_out1.0.weight"
    first, again, other = (golden_tensor(seed, name, (4, 3)) for seed in "aab")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
