"""The self-check accepts a cutout, and nothing else."""

import io

import pytest
from PIL import Image

from deploy.local.service import SelfCheckError
from deploy.local.up import check_cutout

SIZE = (40, 30)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def cutout(size: tuple[int, int] = SIZE, low: int = 0, high: int = 255) -> Image.Image:
    image = Image.new("RGBA", size, (200, 0, 0, low))
    image.paste((200, 0, 0, high), (5, 5, 20, 20))
    return image


def test_a_cutout_passes() -> None:
    check_cutout(encoded(cutout()), SIZE)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        pytest.param(encoded(cutout((40, 31))), "40×31", id="another size"),
        pytest.param(encoded(cutout().convert("RGB")), "PNG RGB", id="no alpha"),
        pytest.param(encoded(cutout(), "WEBP"), "WEBP", id="another format"),
        pytest.param(encoded(cutout(low=255)), "from 255 to 255", id="all opaque"),
        pytest.param(encoded(cutout(high=0)), "from 0 to 0", id="all clear"),
        pytest.param(b"<html>", "no image", id="no image"),
    ],
)
def test_anything_else_is_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(SelfCheckError, match=complaint):
        check_cutout(data, SIZE)
