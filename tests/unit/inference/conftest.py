import pytest
from PIL import Image

from tests.support.paths import DATA


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """96 x 64, with fine structure and strong colors."""
    with Image.open(DATA / "coffee.jpg") as image:
        return image.convert("RGB").resize((96, 64), Image.Resampling.LANCZOS)
