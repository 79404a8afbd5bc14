"""The engine: sizes, batches, devices, and its pixels against PIL's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from inference.errors import ModelError
from inference.models.base import MattingModel
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.device import choose_dtype
from inference.models.birefnet.engine import (
    BiRefNetModel,
    load_birefnet,
    logits_to_matte,
    resize_levels,
    resize_matte,
)
from inference.models.birefnet.golden import golden_network

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


@pytest.fixture(scope="module")
def engine() -> MattingModel:
    network = golden_network(PRESETS["birefnet-tiny"], "tiny")
    return BiRefNetModel("birefnet-tiny", network, _CPU, torch.float32)


@pytest.mark.parametrize(("height", "width"), [(300, 451), (97, 64), (1300, 900)])
@pytest.mark.parametrize("side", [128, 320])
def test_the_resize_is_within_one_level_of_pils(height: int, width: int, side: int) -> None:
    picture = _picture(height, height, width)
    ours = resize_levels(torch.tensor(picture).permute(2, 0, 1)[None].float(), side)
    pil = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    difference = ours[0].permute(1, 2, 0).numpy() - np.asarray(pil, np.float32)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(300, 451), (97, 64), (1300, 900)])
def test_the_matte_is_within_two_levels_of_pils(height: int, width: int) -> None:
    matte = np.float32(_picture(height, 256, 256)[..., 0]) / 255
    ours = resize_matte(torch.tensor(matte)[None, None], height, width)[0, 0].numpy()
    pil = Image.fromarray(matte).resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(ours - np.clip(np.asarray(pil), 0, 1)).max() <= 2 / 255


def test_mattes_have_their_pictures_sizes(engine: MattingModel) -> None:
    pictures = [_picture(1, 60, 90), _picture(2, 200, 33)]
    mattes = engine.matte(pictures)
    assert [matte.shape for matte in mattes] == [(60, 90), (200, 33)]
    assert all(matte.dtype == np.float32 for matte in mattes)
    assert all(matte.min() >= 0 and matte.max() <= 1 for matte in mattes)


def test_a_faint_matte_is_not_stretched() -> None:
    logits = torch.linspace(-4, -3, 64 * 64).view(1, 1, 64, 64)  # a picture without a subject
    matte = logits_to_matte(logits, 100, 80)
    assert 0.017 < matte.min() < matte.max() < 0.048


def test_a_batch_is_the_same_as_one_by_one(engine: MattingModel) -> None:
    pictures = [_picture(seed, 60 + 40 * seed, 200 - 30 * seed) for seed in range(4)]
    together = engine.matte(pictures)
    for picture, matte in zip(pictures, together, strict=True):
        (alone,) = engine.matte([picture])
        assert np.abs(matte - alone).max() <= 1e-4
    assert engine.matte([]) == []


def test_a_read_only_picture_will_do(engine: MattingModel) -> None:
    picture = _picture(3, 40, 40)
    picture.flags.writeable = False
    assert engine.matte([picture])[0].shape == (40, 40)


def test_stages_are_marked_in_order(engine: MattingModel) -> None:
    seen: list[str] = []

    @contextmanager
    def record(stage: str) -> Iterator[None]:
        seen.append(f"{stage} begins")
        yield
        seen.append(f"{stage} ends")

    engine.warm_up()
    engine.matte([_picture(4, 40, 40)], record)
    assert seen == ["preprocess begins", "preprocess ends", "inference begins", "inference ends"]


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01)])
def test_narrow_precisions_stay_close(
    precision: str, tolerance: float, engine: MattingModel
) -> None:
    network = golden_network(PRESETS["birefnet-tiny"], "tiny")
    narrow = BiRefNetModel("birefnet-tiny", network, _CPU, choose_dtype(precision, _CPU))
    picture = _picture(5, 128, 128)
    difference = np.abs(narrow.matte([picture])[0] - engine.matte([picture])[0])
    assert 0 < difference.mean() <= tolerance


def test_an_overflow_is_no_matte() -> None:
    network = golden_network(PRESETS["birefnet-tiny"], "tiny")
    network.decoder.conv_out1[0].weight.fill_(60_000)
    narrow = BiRefNetModel("birefnet-tiny", network, _CPU, torch.float16)
    with pytest.raises(ModelError, match="use precision=bf16 or fp32"):
        narrow.warm_up()


def test_a_checkpoint_on_disk_becomes_an_engine(tmp_path: Path, engine: MattingModel) -> None:
    config = PRESETS["birefnet-tiny"]
    save_file(golden_network(config, "tiny").state_dict(), tmp_path / "model.safetensors")
    loaded = load_birefnet(
        "mine", tmp_path, config, patch_order=PatchOrder.BIREFNET, device="cpu", precision="fp32"
    )
    picture = _picture(6, 50, 70)
    assert loaded.name == "mine"
    assert np.abs(loaded.matte([picture])[0] - engine.matte([picture])[0]).max() <= 1e-4
