"""A checkpoint on disk, by its registered name, through the whole pixel pipeline."""

import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inference.errors import ModelError
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state
from inference.models.load import load_model
from inference.models.registry import MODELS, get_spec
from inference.options import Options
from inference.pipeline import remove_background
from inference.refine import ForegroundEstimator


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(golden_state(PRESETS["birefnet-tiny"], "tiny"), path)
    return path


def _jpeg(width: int, height: int) -> bytes:
    rng = np.random.default_rng(width)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def test_a_checkpoint_cuts_a_picture_out(checkpoint: Path) -> None:
    entered: list[str] = []

    def hook(stage: str) -> AbstractContextManager[None]:
        entered.append(stage)
        return nullcontext()

    model = load_model(get_spec("birefnet-tiny"), checkpoint.parent, device="cpu", precision="fp32")
    model.warm_up()
    result = remove_background(_jpeg(90, 60), Options(), model, stages=hook)
    with Image.open(io.BytesIO(result.data)) as cutout:
        assert (cutout.mode, cutout.size) == ("RGBA", (90, 60))
        assert len(np.unique(np.asarray(cutout)[..., 3])) > 10
    assert entered == ["decode", "preprocess", "inference", "compose", "encode"]
    assert isinstance(model, ForegroundEstimator)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="lacks the keys"):
        load_model(get_spec("birefnet"), checkpoint, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="cuda was asked for, but"):
        load_model(get_spec("birefnet-tiny"), checkpoint, device="cuda")


def test_only_rmbg_2_0_needs_a_license_for_commerce() -> None:
    assert [s.name for s in MODELS.values() if not s.commercial_use] == ["rmbg-2.0"]
