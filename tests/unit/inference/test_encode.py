import io

import numpy as np
import pytest
from PIL import Image

from inference.encode import encode
from inference.options import Options, OutputFormat

_WHITE = (255, 255, 255, 255)


@pytest.fixture
def cutout(photo: Image.Image) -> np.ndarray:
    image = photo.copy()
    image.putalpha(Image.radial_gradient("L").resize(photo.size).point(lambda level: 255 - level))
    pixels = np.array(image)
    pixels[:16] = 0
    return pixels


def _read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_png_is_lossless(cutout: np.ndarray) -> None:
    image = _read(encode(cutout, Options()))
    assert image.format == "PNG"
    assert np.array_equal(np.asarray(image), cutout)


def test_webp_keeps_the_alpha_and_hides_nothing(cutout: np.ndarray) -> None:
    image = _read(encode(cutout, Options(output_format=OutputFormat.WEBP)))
    pixels = np.asarray(image)
    assert (image.format, image.mode) == ("WEBP", "RGBA")
    assert np.array_equal(pixels[..., 3], cutout[..., 3])
    weight = cutout[..., 3:] / 255
    assert (np.abs(pixels[..., :3].astype(int) - cutout[..., :3]) * weight).mean() < 5


def test_jpg_keeps_colors_at_full_resolution(photo: Image.Image) -> None:
    options = Options(output_format=OutputFormat.JPG, matte_color=_WHITE)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)  # columns of one pixel: half resolution would blend them
    image = _read(encode(pixels, options))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert np.abs(np.asarray(image, int) - pixels).mean() < 12
    assert np.abs(np.asarray(_read(encode(np.asarray(photo), options)), int) - photo).mean() < 5


@pytest.mark.parametrize("name", [OutputFormat.WEBP, OutputFormat.JPG])
def test_a_higher_quality_is_larger_and_nearer(name: OutputFormat, photo: Image.Image) -> None:
    pixels = np.asarray(photo)
    results = [
        encode(pixels, Options(output_format=name, matte_color=_WHITE, quality=quality))
        for quality in (20, 60, 95)
    ]
    errors = [np.abs(np.asarray(_read(each), int) - pixels).mean() for each in results]
    assert sorted(results, key=len) == results
    assert sorted(errors, reverse=True) == errors
