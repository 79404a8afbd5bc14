"""Models by their registered names: what each of them does with pictures."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from inference.models.base import MattingModel
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.refine import ForegroundEstimator


@pytest.fixture(params=["u2netp", "birefnet-tiny"])
def model(request: pytest.FixtureRequest, tmp_path: Path, u2netp_file: Path) -> MattingModel:
    if request.param == "u2netp":
        path = u2netp_file
    else:
        path = tmp_path
        save_file(golden_state(PRESETS["birefnet-tiny"], "tiny"), path / "model.safetensors")
    return load_model(get_spec(request.param), path, device="cpu", precision="fp32")


def test_each_picture_gets_its_own_matte_at_its_own_size(model: MattingModel) -> None:
    sizes = [(60, 200), (300, 140), (140, 80)]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    for picture in pictures:
        picture.flags.writeable = False
    entered: list[str] = []

    def enter(stage: str) -> AbstractContextManager[None]:
        entered.append(stage)
        return nullcontext()

    model.warm_up()
    together = model.matte(pictures, enter)
    assert entered == ["preprocess", "inference"]
    assert [matte.shape for matte in together] == sizes
    for picture, matte in zip(pictures, together, strict=True):
        assert matte.dtype == np.float32
        assert 0 <= matte.min() < matte.max() <= 1
        (alone,) = model.matte([picture])
        assert np.abs(matte - alone).max() <= 1e-4
    assert model.matte([]) == []
    assert isinstance(model, ForegroundEstimator) == (model.name == "birefnet-tiny")
