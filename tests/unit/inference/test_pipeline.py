import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from inference.errors import InvalidImageError, InvalidOptionError
from inference.models.base import Alpha, MattingModel
from inference.options import Options, OutputFormat
from inference.pipeline import Result, remove_background

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
