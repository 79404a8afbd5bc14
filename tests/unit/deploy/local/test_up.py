"""The self-check of `rmbg up` accepts a cutout and nothing else."""

import io

import pytest
from PIL import Image

from deploy.local.service import SelfCheckError
from deploy.local.up import check_cutout

SIZE = (40, 30)


def _cutout(
    size: tuple[int, int] = SIZE,
    *,
    low: int = 0,
    high: int = 255,
    mode: str = "RGBA",
    form: str = "PNG",
) -> bytes:
    image = Image.new("RGBA", size, (200, 0, 0, low))
    image.paste((200, 0, 0, high), (5, 5, 20, 20))
    file = io.BytesIO()
    image.convert(mode).save(file, form)
    return file.getvalue()


def test_a_cutout_passes_the_self_check() -> None:
    check_cutout(_cutout(), SIZE)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (_cutout((40, 31)), "40×31"),
        (_cutout(mode="RGB"), "PNG RGB"),
        (_cutout(form="WEBP"), "WEBP"),
        (_cutout(low=255), "from 255 to 255"),
        (_cutout(high=0), "from 0 to 0"),
        (b"<html>", "no image"),
    ],
    ids=["size", "no alpha", "format", "opaque", "clear", "no image"],
)
def test_anything_else_fails_the_self_check(data: bytes, complaint: str) -> None:
    with pytest.raises(SelfCheckError, match=complaint):
        check_cutout(data, SIZE)
