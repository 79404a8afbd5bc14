import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from inference.models.base import Alpha, Rgb, StageHook, no_stages
from tests.support.paths import DATA

PHOTOS = DATA

#: A picture's file in a format, with what Pillow's writer takes.
Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """96 x 64, with fine structure and strong colors."""
    with Image.open(PHOTOS / "coffee.jpg") as image:
        return image.convert("RGB").resize((96, 64), Image.Resampling.LANCZOS)


@pytest.fixture(scope="session")
def encode_as() -> Encode:
    def encode_as(image: Image.Image, name: str, **parameters: object) -> bytes:
        file = io.BytesIO()
        image.save(file, name, **parameters)
        return file.getvalue()

    return encode_as


class EllipseModel:
    """A `MattingModel` whose subject is always the ellipse that fills the picture."""

    name = "ellipse"

    def warm_up(self) -> None:
        pass

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"):
            pass
        with stages("inference"):
            return [_ellipse(*image.shape[:2]) for image in images]


def _ellipse(height: int, width: int) -> Alpha:
    rows, cols = np.mgrid[:height, :width]
    distance = np.hypot(2 * (rows + 0.5) / height - 1, 2 * (cols + 0.5) / width - 1)
    alpha: Alpha = np.clip((1 - distance) * 5, 0, 1).astype(np.float32)
    return alpha


@pytest.fixture
def ellipse_model() -> EllipseModel:
    return EllipseModel()
