"""The engine: sizes, batches, devices, and its pixels against PIL's."""

from copy import deepcopy
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ModelError
from inference.models.base import MattingModel
from inference.models.birefnet.device import choose_dtype
from inference.models.birefnet.engine import (
    BiRefNetModel,
    cuda_can_resize,
    logits_to_matte,
    resize_levels,
    resize_matte,
)
from inference.models.birefnet.network import BiRefNet

_CPU = torch.device("cpu")


def _picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth areas, hard edges and noise: where resizing filters differ."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).copy()
    smooth[height // 3 : height // 2, width // 4 : width // 2] = 255
    noisy = smooth[: height // 4]
    noisy[:] = rng.integers(0, 256, noisy.shape, np.uint8)
    return smooth


@pytest.mark.parametrize(("height", "width"), [(300, 451), (97, 64), (1300, 900)])
def test_resizing_is_close_to_pils(height: int, width: int) -> None:
    picture = _picture(height, height, width)
    for side in (128, 320):
        ours = resize_levels(torch.tensor(picture).permute(2, 0, 1)[None].float(), side)
        pil = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        difference = ours[0].permute(1, 2, 0).numpy() - np.asarray(pil, np.float32)
        assert np.abs(difference).max() <= 1
    matte = np.float32(_picture(height, 256, 256)[..., 0]) / 255
    resized = resize_matte(torch.tensor(matte)[None, None], height, width)[0, 0].numpy()
    expected = Image.fromarray(matte).resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(resized - np.clip(np.asarray(expected), 0, 1)).max() <= 2 / 255


@pytest.mark.parametrize(("mode", "taps"), [("bicubic", 2), ("bilinear", 1)])
def test_what_cuda_is_given_to_resize_fits_into_its_shared_memory(mode: str, taps: int) -> None:
    sides = (1, 2, 15, 16, 21, 22, 31, 32, 33, 64, 1024, 65_535)
    given = [
        (shape, (height, width))
        for shape, height, width in product(product((1024, 65_535), repeat=2), sides, sides)
        if cuda_can_resize((1, 1, *shape), height, width, mode)
    ]
    for shape, size in given:
        # As torch counts: floats of a block that is 32 pixels wide and, at least, one high.
        down, across = (
            1 + 2 * ceil(taps * max(1, before / after))
            for before, after in zip(shape, size, strict=True)
        )
        assert 32 * across + 33 * down <= 48 * 1024 / 4, (shape, size)
    assert ((1024, 1024), (32, 32)) in given, "what fits is left to the GPU"
    assert ((1024, 1024), (21, 1024)) not in given or mode == "bilinear"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (21, 21), (2, 3000), (64, 9)])
def test_mattes_of_small_pictures_are_the_same_from_a_gpu(height: int, width: int) -> None:
    logits = torch.linspace(-9, 9, 1024 * 1024).view(1, 1, 1024, 1024)
    expected = logits_to_matte(logits, height, width)
    assert np.abs(logits_to_matte(logits.cuda(), height, width) - expected).max() < 1e-3


def test_a_faint_matte_is_not_stretched() -> None:
    logits = torch.linspace(-4, -3, 64 * 64).view(1, 1, 64, 64)  # a picture without a subject
    matte = logits_to_matte(logits, 100, 80)
    assert 0.017 < matte.min() < matte.max() < 0.048


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_narrow_precisions_stay_close(
    precision: str, tolerance: float, engine: MattingModel, tiny_network: BiRefNet
) -> None:
    dtype = choose_dtype(precision, _CPU)
    narrow = BiRefNetModel("birefnet-tiny", deepcopy(tiny_network), _CPU, dtype)
    picture = _picture(5, 128, 128)
    difference = np.abs(narrow.matte([picture])[0] - engine.matte([picture])[0])
    assert 0 < difference.mean() <= tolerance


def test_an_overflow_is_no_matte(tiny_network: BiRefNet) -> None:
    network = deepcopy(tiny_network)
    network.decoder.conv_out1[0].weight.fill_(60_000)
    narrow = BiRefNetModel("birefnet-tiny", network, _CPU, torch.float16)
    with pytest.raises(ModelError, match="use precision=bf16 or fp32"):
        narrow.warm_up()
