"""The pixels of one PIPELINE_VERSION do not change unnoticed; see README.md."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.models.base import MattingModel
from inference.options import Options
from inference.pipeline import remove_background
from inference.version import PIPELINE_VERSION
from tests.support.paths import DATA

_HERE = Path(__file__).parent

# Levels, mean over the picture. Processors round a network's sums each in its own way, which is
# worth a hundredth of a level; a bilinear resize of the matte instead of a bicubic one moves it by
# 0.16, another resize of the input by 0.13 to 7; unrefined edges move the colors by 0.29 to 1.3.
_ALPHA_TOLERANCE = 0.1
_COLOR_TOLERANCE = 0.2


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_cutouts_stay_as_they_were(
    name: str, u2netp: MattingModel, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    result = remove_background((DATA / f"{name}.jpg").read_bytes(), Options(), u2netp)
    golden = _HERE / f"{name}-u2netp-v{PIPELINE_VERSION}.png"
    (tmp_path / golden.name).write_bytes(result.data)
    with Image.open(tmp_path / golden.name) as image:
        cutout = np.asarray(image, int)
        if request.config.getoption("--regold"):
            image.save(golden, optimize=True)
    with Image.open(golden) as image:
        expected = np.asarray(image, int)
    assert cutout.shape == expected.shape
    difference = np.abs(cutout - expected)
    seen = np.minimum(cutout[..., 3], expected[..., 3]) > 127
    assert difference[..., 3].mean() <= _ALPHA_TOLERANCE, f"see {tmp_path / golden.name}"
    assert difference[seen][:, :3].mean() <= _COLOR_TOLERANCE, f"see {tmp_path / golden.name}"
