"""Colors of a result, against those that a profile means; and every way up."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image, ImageCms

from inference.models.base import Alpha, MattingModel, Rgb, StageHook, no_stages
from inference.options import Options
from inference.pipeline import remove_background
from tests.support import ciede2000
from tests.support.icc_profiles import BLUE, GREEN, RED, rgb_profile

Encode = Callable[..., bytes]


class _Everything:
    """The whole picture is the subject."""

    name = "everything"

    def warm_up(self) -> None: ...

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            return [np.ones(image.shape[:2], np.float32) for image in images]


def _pixels(data: bytes, model: MattingModel, options: Options | None = None) -> np.ndarray:
    result = remove_background(data, options or Options(), model)
    with Image.open(io.BytesIO(result.data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Pairs 1, 7, 13, 17 and 25 of the paper's table 1.
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_the_yardstick(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    found = ciede2000.difference(np.array(first, float), np.array(second, float))
    assert found == pytest.approx(expected, abs=5e-5)


def test_a_wide_gamut_photo_keeps_its_colors(photo: Image.Image, encode_as: Encode) -> None:
    # Encoded by arithmetic into primaries other than sRGB's, with a curve of its own.
    mix = np.array([[0.8, 0.2, 0.0], [0.05, 0.95, 0.0], [0.02, 0.08, 0.9]])
    light = ciede2000.linear(np.asarray(photo)) @ mix.T
    stored = np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    data = encode_as(Image.fromarray(stored), "PNG", icc_profile=_profile_of(mix))
    unmanaged = ciede2000.difference(ciede2000.lab(stored), ciede2000.lab(np.asarray(photo)))
    assert unmanaged.mean() > 3, "the profile matters"
    result = _pixels(data, _Everything())
    error = ciede2000.difference(ciede2000.lab(result[..., :3]), ciede2000.lab(np.asarray(photo)))
    assert error.mean() <= 1


def _profile_of(mix: np.ndarray) -> bytes:
    """sRGB's own profile, with the primaries that undo `mix` and a curve of gamma 2.2."""
    primaries = np.array([RED, GREEN, BLUE]).T @ np.linalg.inv(mix)
    return rgb_profile(*map(tuple, primaries.T))


def test_an_srgb_profile_and_none_are_the_same(photo: Image.Image, encode_as: Encode) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, tagged = encode_as(photo, "PNG"), encode_as(photo, "PNG", icc_profile=srgb)
    assert np.array_equal(_pixels(plain, _Everything()), _pixels(tagged, _Everything()))


def test_all_eight_orientations_give_one_result(
    photo: Image.Image, encode_as: Encode, ellipse_model: MattingModel
) -> None:
    options = Options(crop=True, max_side=40)
    results = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode_as(_stored_as(photo, orientation), "PNG", exif=exif)
        results.append(_pixels(data, ellipse_model, options))
    assert all(np.array_equal(each, results[0]) for each in results)


def _stored_as(photo: Image.Image, orientation: int) -> Image.Image:
    """The rows that are shown as `photo` under an orientation (Exif 3.0, 4.6.5.1.6)."""
    rows = np.asarray(photo)
    flips = {
        1: rows,
        2: rows[:, ::-1],
        3: rows[::-1, ::-1],
        4: rows[::-1],
        5: rows.swapaxes(0, 1),
        6: np.rot90(rows, 1),
        7: rows[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(rows, -1),
    }
    return Image.fromarray(np.ascontiguousarray(flips[orientation]))
