"""The whole pipeline: what a result is, its colors, and what of its input it never holds."""

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from inference.errors import InvalidImageError, InvalidOptionError
from inference.models.base import Alpha, MattingModel, Rgb, StageHook, no_stages
from inference.options import Options, OutputFormat
from inference.pipeline import Result, remove_background
from tests.support import ciede2000
from tests.support.icc_profiles import BLUE, GREEN, RED, rgb_profile

Encode = Callable[..., bytes]

_STAGES = ["decode", "preprocess", "inference", "compose", "encode"]
_FILES = [OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPG]
_WHITE = (255, 255, 255, 255)
_SECRET = b"shot at 52.5163 N, 13.3777 E by Jane Doe"


def _read(result: Result) -> Image.Image:
    image = Image.open(io.BytesIO(result.data))
    image.load()
    return image


@pytest.mark.parametrize("name", _FILES)
def test_a_result_is_what_it_says(
    name: OutputFormat, photo: Image.Image, encode_as: Encode, ellipse_model: MattingModel
) -> None:
    options = Options(output_format=name, matte_color=_WHITE if name == "jpg" else None)
    result = remove_background(encode_as(photo, "JPEG"), options, ellipse_model)
    image = _read(result)
    assert (result.format, result.width, result.height) == (name, 96, 64)
    assert image.size == (96, 64)
    assert image.get_format_mimetype() == name.media_type
    corner, middle = image.getpixel((0, 0)), image.getpixel((48, 32))
    assert corner == ((0, 0, 0, 0) if name != "jpg" else (255, 255, 255))
    assert middle != corner


def test_the_stages_come_in_order(
    photo: Image.Image, encode_as: Encode, ellipse_model: MattingModel
) -> None:
    entered: list[str] = []

    def hook(stage: str) -> AbstractContextManager[None]:
        entered.append(stage)
        return nullcontext()

    remove_background(encode_as(photo, "PNG"), Options(), ellipse_model, stages=hook)
    assert entered == _STAGES


@pytest.mark.parametrize("last", _STAGES)
def test_a_job_can_be_ended_before_each_stage(
    last: str, photo: Image.Image, encode_as: Encode, ellipse_model: MattingModel
) -> None:
    class Canceled(Exception):  # noqa: N818 - as a caller's own would be
        pass

    def hook(stage: str) -> AbstractContextManager[None]:
        if stage == last:
            raise Canceled
        return nullcontext()

    with pytest.raises(Canceled):
        remove_background(encode_as(photo, "PNG"), Options(), ellipse_model, stages=hook)


def test_the_inputs_own_alpha_multiplies_the_matte(
    photo: Image.Image, encode_as: Encode, ellipse_model: MattingModel
) -> None:
    image = photo.copy()
    image.putalpha(Image.linear_gradient("L").resize(photo.size))
    plain, own = (
        np.asarray(_read(remove_background(encode_as(each, "PNG"), Options(), ellipse_model)))
        for each in (photo, image)
    )
    expected = plain[..., 3] / 255 * np.asarray(image)[..., 3]
    assert np.abs(own[..., 3] - expected).max() <= 0.51


def test_a_result_stands_upright(
    photo: Image.Image, encode_as: Encode, ellipse_model: MattingModel
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    result = remove_background(encode_as(photo, "JPEG", exif=exif), Options(), ellipse_model)
    assert (result.width, result.height) == (64, 96)
    assert _read(result).size == (64, 96)


def test_a_size_that_the_format_cannot_hold_is_found_before_the_model_runs(
    encode_as: Encode,
) -> None:
    class Unused:
        name = "unused"

        def warm_up(self) -> None: ...

        def matte(self, *_: object) -> list[Alpha]:
            pytest.fail("the model ran")

    data = encode_as(Image.new("L", (16_384, 2)), "PNG")
    with pytest.raises(InvalidOptionError, match="holds at most 16,383 pixels"):
        remove_background(data, Options(output_format=OutputFormat.WEBP), Unused())


def test_what_is_no_picture_is_refused(ellipse_model: MattingModel) -> None:
    with pytest.raises(InvalidImageError):
        remove_background(b"hello", Options(), ellipse_model)


def _with_secrets(photo: Image.Image, name: str, encode_as: Encode) -> bytes:
    """The photo with the same words in every place that its format has for words."""
    exif = Image.Exif()
    exif[0x010E] = _SECRET.decode()
    exif.get_ifd(0x8825)[29] = _SECRET.decode()
    if name == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", _SECRET.decode())
        text.add_itxt("XML:com.adobe.xmp", _SECRET.decode())
        return encode_as(photo, "PNG", exif=exif, pnginfo=text, icc_profile=_SECRET, dpi=(300, 300))
    if name == "GIF":
        return encode_as(photo, "GIF", comment=_SECRET)
    if name == "TIFF":
        return encode_as(photo, "TIFF", exif=exif, icc_profile=_SECRET, artist=_SECRET.decode())
    extra = {"comment": _SECRET} if name == "JPEG" else {}
    return encode_as(photo, name, exif=exif, xmp=_SECRET, icc_profile=_SECRET, **extra)


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF"])
@pytest.mark.parametrize("target", _FILES)
def test_no_metadata_of_the_input_reaches_a_result(
    source: str,
    target: OutputFormat,
    photo: Image.Image,
    encode_as: Encode,
    ellipse_model: MattingModel,
) -> None:
    data = _with_secrets(photo, source, encode_as)
    assert _SECRET in data
    options = Options(output_format=target, matte_color=_WHITE if target == "jpg" else None)
    result = remove_background(data, options, ellipse_model)
    image = _read(result)
    assert _SECRET not in result.data
    assert not dict(image.getexif())
    own = {"srgb"}, {"loop", "background", "timestamp", "duration"}, {"jfif", "jfif_version"}
    allowed = set().union(*own, {"jfif_unit", "jfif_density"})
    assert set(image.info) <= allowed


def test_the_version_is_to_be_had_without_numpy() -> None:
    script = (
        "import sys, inference.version, inference.options, inference.probe;"
        "import inference.errors, inference.models.registry, inference.models.weights;"
        "sys.exit(bool({'numpy', 'torch', 'onnxruntime', 'isal'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class _Matte:
    """A model whose matte rises from one value at the left to another at the right."""

    name = "matte"

    def __init__(self, left: float, right: float) -> None:
        self._ends = left, right

    def warm_up(self) -> None: ...

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            return [_ramp(*self._ends, image.shape) for image in images]


def _ramp(left: float, right: float, shape: tuple[int, ...]) -> Alpha:
    return np.tile(np.linspace(left, right, shape[1], dtype=np.float32), (shape[0], 1))


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
    result = _pixels(data, _Matte(1.0, 1.0))
    error = ciede2000.difference(ciede2000.lab(result[..., :3]), ciede2000.lab(np.asarray(photo)))
    assert error.mean() <= 1


def _profile_of(mix: np.ndarray) -> bytes:
    """sRGB's own profile, with the primaries that undo `mix` and a curve of gamma 2.2."""
    primaries = np.array([RED, GREEN, BLUE]).T @ np.linalg.inv(mix)
    return rgb_profile(*map(tuple, primaries.T))


def test_an_srgb_profile_and_none_are_the_same(photo: Image.Image, encode_as: Encode) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, tagged = encode_as(photo, "PNG"), encode_as(photo, "PNG", icc_profile=srgb)
    assert np.array_equal(_pixels(plain, _Matte(1.0, 1.0)), _pixels(tagged, _Matte(1.0, 1.0)))


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


def test_soft_edges_are_refined_unless_that_is_refused(encode_as: Encode) -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).rotate(90).convert("RGB")
    data, model = encode_as(picture, "PNG"), _Matte(0.1, 0.9)
    refined, plain = _pixels(data, model), _pixels(data, model, Options(refine=False))
    np.testing.assert_array_equal(refined[..., 3], plain[..., 3])
    assert (refined[..., :3] != plain[..., :3]).any()
    columns = plain[0, :, 0].astype(int)
    assert columns[-1] > columns[0] + 200, "the plain cutout keeps the photo's own colors"
