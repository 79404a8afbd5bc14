"""A checkpoint on disk, by its registered name, through the whole pixel pipeline."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state
from inference.models.load import load_model
from inference.models.registry import get_spec
from inference.options import Options
from inference.pipeline import remove_background
from inference.refine import ForegroundEstimator
from tests.support.pictures import picture_file, read_picture


def test_a_checkpoint_cuts_a_picture_out(tmp_path: Path, photo: Image.Image) -> None:
    save_file(golden_state(PRESETS["birefnet-tiny"], "tiny"), tmp_path / "model.safetensors")
    model = load_model(get_spec("birefnet-tiny"), tmp_path, device="cpu", precision="fp32")
    model.warm_up()
    entered: list[str] = []

    def enter(stage: str) -> AbstractContextManager[None]:
        entered.append(stage)
        return nullcontext()

    result = remove_background(picture_file(photo, "JPEG"), Options(), model, stages=enter)
    cutout = read_picture(result.data)
    assert (cutout.mode, cutout.size) == ("RGBA", (96, 64))
    assert len(np.unique(np.asarray(cutout)[..., 3])) > 10
    assert entered == ["decode", "preprocess", "inference", "compose", "encode"]
    assert isinstance(model, ForegroundEstimator)
