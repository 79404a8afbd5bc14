"""The subject's alpha: what a picture's own transparency says, and what hides in it."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from inference.alpha import feather, is_cut_out, move_edge
from inference.decode import Picture, decode
from inference.models.base import Alpha, Rgb
from inference.options import Options
from tests.support.cutouts import cut_out
from tests.support.pictures import BLUE, RED, SUBJECT, picture_file

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


@pytest.mark.parametrize("source", ["PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("level", [0, 128, 255, None])
def test_what_has_been_cut_out_is_returned_whatever_hides_in_it(
    source: str, level: int | None, photo: Image.Image
) -> None:
    colors = photo if level is None else Image.new("RGB", _SIZE, (level,) * 3)
    files = [
        picture_file(_hiding(colors, _shape(), hidden), source, **_EXACT.get(source, {}))
        for hidden in _HIDDEN
    ]
    cutouts = [cut_out(file, find=_nothing, refine=True)[1].astype(int) for file in files]
    for file, cutout in zip(files, cutouts, strict=True):
        given = decode(file)
        assert np.array_equal(cutout[..., 3], given.alpha)
        seen = cutout[..., 3] > 0
        assert np.array_equal(cutout[seen][:, :3], given.rgb[seen])
    lossy = 12 if source == "AVIF" else 0
    assert np.abs(np.subtract(*cutouts))[cutouts[0][..., 3] > 127].max() <= lossy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"matte_color": [0, 0, 255, 0]},
        {"matte_color": [255, 255, 255, 255], "canvas": "200x200", "scale": 85},
        {"canvas": "200x200", "scale": 80, "shadow": "drop", "shadow_opacity": 35},
        {"crop": True, "crop_margin": "5%"},
    ],
)
def test_a_cutout_is_laid_out_as_its_photo_was(options: dict[str, object]) -> None:
    once, pixels = cut_out(find=_soft, refine=True, **options)
    cutout, _ = cut_out(find=_soft, refine=True)
    again, own = cut_out(cutout.data, find=_nothing, refine=True, **options)
    assert np.array_equal(own, pixels)
    assert again.foreground == once.foreground


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
    plain, opaque = (
        cut_out(each, find=_soft, refine=True)[1] for each in (photo, photo.convert("RGBA"))
    )
    assert np.array_equal(plain, opaque)


def _disc(radius: float, size: int = 101) -> NDArray[np.uint8]:
    y, x = np.mgrid[:size, :size] - size // 2
    return np.where(np.hypot(x, y) <= radius, np.uint8(255), np.uint8(0))


@pytest.mark.parametrize(("threshold", "least"), [(1, 3), (50, 128), (100, 255)])
def test_a_threshold_makes_the_edge_hard(threshold: int, least: int) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (2, 1))
    hard = move_edge(ramp, Options(mask_threshold=threshold))
    assert np.array_equal(hard, np.where(ramp >= least, 255, 0))


@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 10, 30])
def test_an_offset_moves_the_edge_by_as_many_pixels_in_every_direction(pixels: int) -> None:
    dot = _disc(0)
    grown = move_edge(dot, Options(mask_offset=pixels))
    y, x = np.nonzero(grown)
    away = np.hypot(y - 50, x - 50)
    assert np.ptp(x) == np.ptp(y) == 2 * pixels
    assert away.max() <= max(1.09 * pixels + 1, 1.42 * min(pixels, 2))
    assert len(y) >= np.pi * pixels**2
    assert np.array_equal(move_edge(grown, Options(mask_offset=-pixels)), dot)


def test_an_offset_takes_the_extreme_of_the_neighborhood_of_soft_edges_too() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (23, 31), np.uint8)
    window = np.argwhere(move_edge(_disc(0), Options(mask_offset=4))) - 50
    wide = np.pad(alpha.astype(int), 4, constant_values=-1)
    around = np.stack([wide[4 + y : 27 + y, 4 + x : 35 + x] for y, x in window])
    assert np.array_equal(move_edge(alpha, Options(mask_offset=4)), around.max(axis=0))
    inverse = 255 - move_edge(255 - alpha, Options(mask_offset=4))
    assert np.array_equal(move_edge(alpha, Options(mask_offset=-4)), inverse)


def test_a_subject_that_the_picture_cuts_is_not_shrunk_there() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:, 20:40] = 255
    shrunk = move_edge(alpha, Options(mask_offset=-5))
    assert np.array_equal(np.argwhere(shrunk)[[0, -1]], [[15, 25], [39, 34]])


def test_a_feathered_edge_fades_within_the_pixels_that_were_asked_for() -> None:
    faded = feather(np.repeat(np.uint8([[0, 255]]), 50, axis=1), 10)[0].astype(int)
    assert (np.diff(faded) >= 0).all()
    assert 115 <= faded[49] <= 127 < faded[50] <= 140
    assert faded[38] < 10
    assert faded[61] > 245


def test_edges_are_made_before_the_rest_and_enter_what_is_told_of_the_result() -> None:
    result, pixels = cut_out(find=_soft, mask_threshold=50, mask_offset=3, crop=True)
    assert set(np.unique(pixels[..., 3])) == {0, 255}
    plain, _ = cut_out(find=_soft, mask_threshold=50, crop=True)
    assert (result.width, result.height) == (plain.width + 6, plain.height + 6)
    assert result.coverage > plain.coverage


def test_a_feather_shows_the_subject_and_an_offset_the_picture() -> None:
    _, faded = cut_out(refine=True, mask_feather=8)
    outside = faded[SUBJECT.top - 3 : SUBJECT.top, 100]
    assert (outside[:, 3] > 20).all()
    assert np.abs(outside[:, :3].astype(int) - RED).max() <= 12
    _, grown = cut_out(refine=True, mask_offset=4)
    assert grown[SUBJECT.top - 3, 100].tolist() == [*BLUE, 255]


def test_nothing_that_the_pictures_own_transparency_hides_becomes_visible() -> None:
    whole = _hiding(Image.new("RGB", _SIZE, "red"), _shape(), 255)
    _, pixels = cut_out(whole, mask_offset=5, mask_feather=5)
    assert not pixels[np.asarray(whole)[..., 3] == 0].any()
