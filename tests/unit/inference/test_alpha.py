"""The subject's alpha: what a picture's own transparency says, and what hides in it."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.alpha import combine_alpha, is_cut_out
from inference.decode import Picture, decode
from inference.models.base import Alpha, Rgb
from inference.options import Options
from inference.pipeline import remove_background
from tests.support.cutouts import cut_out
from tests.support.models import FakeModel
from tests.support.pictures import picture_file, read_picture

_HIDDEN = (0, 255)
_EXACT = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}}
_SIZE = (96, 64)


def _shape(*, frame: bool = False) -> Image.Image:
    """The alpha of a ring with soft edges, in the middle; or that of a picture with a hole."""
    image = Image.new("L", (_SIZE[0] * 4, _SIZE[1] * 4), 255 if frame else 0)
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 20, 300, 240), fill=0 if frame else 255)
    draw.ellipse((150, 90, 230, 170), fill=0)
    return image.resize(_SIZE)


def _hiding(colors: Image.Image, alpha: Image.Image, hidden: int) -> Image.Image:
    """A picture with a color of its own where nothing can be seen."""
    picture = Image.composite(
        colors, Image.new("RGB", _SIZE, (hidden,) * 3), alpha.point(lambda level: (level > 0) * 255)
    )
    picture.putalpha(alpha)
    return picture


def _file(colors: Image.Image, hidden: int, name: str) -> bytes:
    """A cutout with hidden colors; in a GIF, what is half transparent is left out."""
    if name != "GIF":
        return picture_file(_hiding(colors, _shape(), hidden), name, **_EXACT.get(name, {}))
    indexed = colors.quantize(255, dither=Image.Dither.NONE)
    palette = indexed.getpalette() or []
    indexed.putpalette(palette + [hidden] * (768 - len(palette)))
    indexed.paste(255, mask=_shape().point(lambda level: (level < 255) * 255))
    return picture_file(indexed, "GIF", transparency=255)


def _bright(rgb: Rgb) -> Alpha:
    """The matte of a model that takes what is bright for the subject."""
    return (rgb.mean(axis=2) > 127).astype(np.float32)


@pytest.mark.parametrize("source", ["PNG", "WEBP", "AVIF", "GIF", "TIFF"])
@pytest.mark.parametrize("level", [0, 128, 255, None])
def test_what_has_been_cut_out_is_returned_whatever_hides_in_it(
    source: str, level: int | None, photo: Image.Image
) -> None:
    colors = photo if level is None else Image.new("RGB", _SIZE, (level,) * 3)
    files = [_file(colors, hidden, source) for hidden in _HIDDEN]
    model = FakeModel(find=_bright)
    cutouts = [
        np.asarray(read_picture(remove_background(file, Options(), model).data), int)
        for file in files
    ]
    assert model.calls == 0
    for file, cutout in zip(files, cutouts, strict=True):
        given = decode(file)
        assert np.array_equal(cutout[..., 3], given.alpha)
        seen = cutout[..., 3] > 0
        assert np.array_equal(cutout[seen][:, :3], given.rgb[seen])
    lossy = 12 if source == "AVIF" else 0
    assert np.abs(np.subtract(*cutouts))[cutouts[0][..., 3] > 127].max() <= lossy


@pytest.mark.parametrize("options", [{}, {"matte_color": [0, 0, 255, 0]}, {"crop": True}])
def test_a_cutout_cut_out_again_stays_as_it_is(options: dict[str, object]) -> None:
    once, pixels = cut_out(find=_soft, refine=True, **options)
    twice, again = cut_out(once.data, find=_nothing, refine=True, **options)
    assert np.array_equal(again, pixels)
    assert twice.foreground == once.foreground


def _soft(rgb: Rgb) -> Alpha:
    """A disc with a wide rim, in the middle."""
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    away = np.hypot(y - rgb.shape[0] / 2, x - rgb.shape[1] / 2)
    return np.clip(1.5 - away / 60, 0, 1).astype(np.float32)


def _nothing(rgb: Rgb) -> Alpha:
    return np.zeros(rgb.shape[:2], np.float32)


def test_a_region_of_a_cutout_holds_what_of_it_lies_there() -> None:
    whole = _hiding(Image.new("RGB", _SIZE), _shape(), 0)
    _, pixels = cut_out(whole, roi="0 0 50% 100%")
    expected = np.asarray(whole)[..., 3].copy()
    expected[:, 48:] = 0
    assert np.array_equal(pixels[..., 3], expected)


@pytest.mark.parametrize(("clear", "expected"), [(24, False), (26, True)])
def test_a_quarter_of_the_border_has_to_be_transparent(clear: int, *, expected: bool) -> None:
    alpha = np.full((26, 26), 255, np.uint8)  # whose border has a hundred pixels
    alpha[0, :clear] = 12  # the most that counts as none of the subject
    alpha[1:-1, 1:-1] = 0
    assert is_cut_out(Picture(np.zeros((26, 26, 3), np.uint8), alpha)) is expected


@pytest.mark.parametrize("level", [0, 128, 255, None])
def test_a_model_sees_what_can_be_seen_on_a_ground_that_it_stands_out_from(
    level: int | None, photo: Image.Image
) -> None:
    colors = photo if level is None else Image.new("RGB", _SIZE, (level,) * 3)
    seen: list[Rgb] = []

    def find(rgb: Rgb) -> Alpha:
        seen.append(rgb)
        return np.full(rgb.shape[:2], 0.5, np.float32)

    frame = _shape(frame=True)
    results = [
        cut_out(_hiding(colors, frame, hidden), find=find, refine=refine)[1]
        for refine, hidden in product((True, False), _HIDDEN)
    ]
    assert all(np.array_equal(each, seen[0]) for each in seen)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[2], results[3])
    own = np.asarray(frame)
    assert np.array_equal(seen[0][own == 255], np.asarray(colors)[own == 255])
    (ground,) = np.unique(seen[0][own == 0])
    assert level is None or abs(int(ground) - level) >= 127
    assert np.abs(results[0][..., 3] - own / 255 * 128).max() <= 0.51, "the alphas are multiplied"


def test_an_alpha_that_is_opaque_everywhere_says_nothing(photo: Image.Image) -> None:
    assert _pixels(photo.convert("RGBA")).tolist() == _pixels(photo).tolist()


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return cut_out(picture, find=_bright, refine=True)[1]


@pytest.mark.parametrize(("level", "expected"), [(0.0, 0), (0.5, 128), (1.0, 255), (1 / 255, 1)])
def test_the_matte_is_rounded_to_the_nearest_level(level: float, expected: int) -> None:
    assert (combine_alpha(np.full((2, 2), level, np.float32), None) == expected).all()
