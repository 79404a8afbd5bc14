"""The whole pipeline: what a result is, and what of its input it never holds."""

import secrets
from collections import Counter
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from inference.errors import ImageTooLargeError, InferenceError, InvalidOptionError, ModelError
from inference.layout import Box
from inference.models.base import Alpha, Rgb
from inference.options import Options, OutputFormat
from inference.pipeline import remove_background
from inference.probe import ImageLimits
from tests.support.cutouts import cut_out
from tests.support.fuzzed_pictures import Fuzzed, fuzzed
from tests.support.models import FakeModel
from tests.support.pictures import (
    BLUE,
    RED,
    SUBJECT,
    find_red,
    picture_file,
    read_picture,
    subject_picture,
)

_STAGES = ["decode", "preprocess", "inference", "compose", "encode"]
_FILES = [OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.AVIF, OutputFormat.JPG]
_WHITE = [255, 255, 255, 255]
_SECRET = b"shot at 52.5163 N, 13.3777 E by Jane Doe"


@pytest.mark.parametrize("name", _FILES)
def test_a_result_is_as_its_facts_say(name: OutputFormat) -> None:
    opaque = name is OutputFormat.JPG
    result, pixels = cut_out(output_format=name, matte_color=_WHITE if opaque else None)
    assert read_picture(result.data).get_format_mimetype() == name.media_type
    assert (result.format, result.width, result.height) == (name, 300, 200)
    assert (result.full_width, result.full_height, result.foreground) == (300, 200, SUBJECT)
    assert result.coverage == pytest.approx(100 * 40 / (300 * 200))
    assert pixels[0, 0].tolist() == ([255] * 3 if opaque else [0] * 4)
    assert np.abs(pixels[70, 110, :3].astype(int) - RED).max() <= 6


@pytest.mark.parametrize("last", [*_STAGES, None])
def test_stages_come_in_order_and_a_job_can_be_ended_before_each(last: str | None) -> None:
    class Canceled(Exception):  # noqa: N818 - as a caller's own would be
        pass

    entered: list[str] = []

    def hook(stage: str) -> AbstractContextManager[None]:
        if stage == last:
            raise Canceled
        entered.append(stage)
        return nullcontext()

    with pytest.raises(Canceled) if last else nullcontext():
        remove_background(picture_file(subject_picture()), Options(), FakeModel(), stages=hook)
    assert entered == _STAGES[: _STAGES.index(last) if last else None]


@pytest.mark.parametrize(
    ("size", "options", "background", "words"),
    [
        ((16_384, 2), {"output_format": "webp"}, None, "holds at most 16,383 pixels"),
        ((300, 200), {"roi": "0 0 301px 10px"}, None, "only 300 x 200"),
        ((300, 200), {"background_sha256": "0" * 64}, b"none", "background image cannot be used"),
    ],
)
def test_impossible_options_are_found_before_the_model_runs(
    size: tuple[int, int], options: dict[str, object], background: bytes | None, words: str
) -> None:
    with pytest.raises(InvalidOptionError, match=words):
        cut_out(Image.new("L", size), find=_refuse, background=background, **options)


def _refuse(_: Rgb) -> Alpha:
    pytest.fail("the model ran")


def test_a_region_restricts_what_the_model_sees_and_finds() -> None:
    other = Box(200, 100, 240, 180)
    picture = subject_picture((300, 200), SUBJECT, other)
    seen = []

    def find(rgb: Rgb) -> Alpha:
        seen.append(rgb.shape)
        return find_red(rgb)

    result, _ = cut_out(picture, find=find, roi="180px 0 100% 100%", crop=True)
    assert (result.width, result.height) == (other.width, other.height)
    assert seen == [(200, 120, 3)]
    result, pixels = cut_out(picture, roi="0 0 50% 50%")
    # 150 x 100 pixels: the first subject is cut by it on the right.
    assert result.foreground == Box(60, 50, 150, 90)
    assert np.count_nonzero(pixels[..., 3]) == 90 * 40


def test_a_picture_without_a_subject_stays_as_it_is() -> None:
    result, pixels = cut_out(
        Image.new("RGB", (30, 20), BLUE), crop=True, scale=50, position="0%", shadow="drop"
    )
    assert (result.width, result.height, result.foreground) == (30, 20, None)
    assert result.coverage == 0
    assert not pixels.any()


def test_no_result_has_more_pixels_than_an_input_may() -> None:
    limits = ImageLimits(max_pixels=300 * 200)
    result, _ = cut_out(crop=True, crop_margin="500px", limits=limits)
    assert result.width * result.height <= limits.max_pixels
    assert (result.full_width, result.full_height) == (1100, 1040)
    with pytest.raises(ImageTooLargeError):
        cut_out(subject_picture((301, 200)), limits=limits)


def test_a_mask_is_the_subjects_alpha_in_gray() -> None:
    result, pixels = cut_out(output="mask", crop=True, crop_margin="10px")
    assert (result.format, pixels.shape) == (OutputFormat.PNG, (60, 120))
    assert (pixels[10:50, 10:110] == 255).all()
    assert np.count_nonzero(pixels) == 100 * 40
    for name in ("jpg", "webp", "avif"):
        _, lossy = cut_out(output="mask", output_format=name)
        assert lossy[70, 110].min() > 250
        assert lossy[0, 0].max() < 5


def test_the_original_is_the_whole_picture_and_no_model_sees_it() -> None:
    picture = subject_picture()
    result, pixels = cut_out(picture, find=_refuse, output="original", refine=True)
    assert (pixels[..., :3] == np.asarray(picture)).all()
    assert (pixels[..., 3] == 255).all()
    assert result.coverage == 1
    picture.putalpha(128)
    _, own = cut_out(picture, find=_refuse, output="original", matte_color=_WHITE, max_side=30)
    assert own.shape == (20, 30, 3)
    assert np.abs(own[0, 0] - (np.array(BLUE) + 255) / 2).max() <= 1, "it is laid on the color"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "png"),
        ({"matte_color": _WHITE}, "jpg"),
        ({"matte_color": [255, 255, 255, 254]}, "png"),
        ({"crop": True}, "jpg"),
        ({"output": "mask"}, "png"),
    ],
)
def test_auto_is_png_where_something_can_be_seen_through(
    options: dict[str, object], expected: str
) -> None:
    result, _ = cut_out(output_format="auto", **options)
    assert result.format == expected


def _with_secrets(photo: Image.Image, name: str) -> bytes:
    """The photo with the same words in every place that its format has for words."""
    words = _SECRET.decode()
    exif = Image.Exif()
    exif[0x010E] = words
    exif.get_ifd(0x8825)[29] = words
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", words)
    text.add_itxt("XML:com.adobe.xmp", words)
    profile = {"exif": exif, "icc_profile": _SECRET}
    places = {
        "PNG": {**profile, "pnginfo": text, "dpi": (300, 300)},
        "GIF": {"comment": _SECRET},
        "TIFF": {**profile, "artist": words},
        "JPEG": {**profile, "xmp": _SECRET, "comment": _SECRET},
    }
    return picture_file(photo, name, **places.get(name, {**profile, "xmp": _SECRET}))


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "HEIC"])
@pytest.mark.parametrize("target", _FILES)
def test_no_metadata_of_the_input_reaches_a_result(
    source: str, target: OutputFormat, photo: Image.Image
) -> None:
    data = _with_secrets(photo, source)
    assert _SECRET in data
    color = _WHITE if target is OutputFormat.JPG else None
    result, _ = cut_out(data, output_format=target, matte_color=color)
    assert _SECRET not in result.data
    image = read_picture(result.data)
    assert not dict(image.getexif())
    own = {"srgb", "loop", "background", "timestamp", "duration"}
    assert set(image.info) <= own | {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_soft_edges_are_refined_unless_that_is_refused() -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).rotate(90).convert("RGB")
    ramp = np.tile(np.linspace(0.1, 0.9, 64, dtype=np.float32), (64, 1))
    refined, plain = (
        cut_out(picture, find=lambda _: ramp, refine=refine)[1] for refine in (True, False)
    )
    assert np.array_equal(refined[..., 3], plain[..., 3])
    assert (refined[..., :3] != plain[..., :3]).any()
    assert np.array_equal(plain[..., :3], np.asarray(picture)), "the photo's own colors"


def test_any_bytes_are_refused_with_a_reason_or_cut_out_right() -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    outcomes = Counter(_outcome(each) for each in fuzzed(330, seed))
    assert outcomes["cut out"] > 60, outcomes
    assert outcomes["invalid_image"] > 40, outcomes


def _outcome(each: Fuzzed) -> str:
    try:
        result, _ = cut_out(each.data, find=_left_half, refine=True)
    except InferenceError as error:
        assert str(error), each.name  # noqa: PT017 - some files are refused, not all
        assert not isinstance(error, ModelError), each.name  # noqa: PT017 - the same
        return error.code
    each.check_cutout(result.data)
    return "cut out"


def _left_half(rgb: Rgb) -> Alpha:
    matte = np.zeros(rgb.shape[:2], np.float32)
    matte[:, : rgb.shape[1] // 2] = 1
    return matte
