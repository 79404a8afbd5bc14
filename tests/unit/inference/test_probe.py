import io
import struct

import pytest
from PIL import Image

from inference.decode import decode
from inference.errors import (
    ImageTooLargeError,
    ImageTooSmallError,
    InferenceError,
    InvalidImageError,
    UnsupportedFormatError,
)
from inference.probe import ImageHeader, ImageLimits, accepted_formats, probe_image
from tests.support.pictures import jpeg_of_frame, picture_file
from tests.support.png_files import png_file

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "HEIC")
ENDS_EARLY = "The file ends before the picture does"
#: What cameras, phones and editors append, or what a transfer pads with.
TRAILERS = [b"\0", b"\0" * 50_000, b"\r\n", b"MotionPhoto_Data" + bytes(range(256)) * 40]


def _png_header(width: int, height: int) -> bytes:
    """A PNG of that size as it begins: enough of it to be judged, no pixels."""
    return png_file((width, height), b"", kind=2)


def _webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


def _bmp_header(width: int, height: int) -> bytes:
    head = struct.pack("<IIiiHHIIiiII", 54, 40, width, height, 1, 24, *[0] * 6)
    return b"BM" + bytes(8) + head


@pytest.mark.parametrize("name", FORMATS)
def test_tells_format_and_size_of_each_format(name: str, photo: Image.Image) -> None:
    assert name in accepted_formats()
    data = picture_file(photo, name)
    assert probe_image(data) == ImageHeader(format=name, width=96, height=64)


@pytest.mark.parametrize("parameters", [{"lossless": True}, {"quality": 80}, {"exact": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_reads_the_size_of_every_layout_of_webp(
    mode: str, parameters: dict[str, object], photo: Image.Image
) -> None:
    data = picture_file(photo.convert(mode), "WEBP", **parameters)
    assert probe_image(data) == ImageHeader(format="WEBP", width=96, height=64)


def test_a_picture_for_stereo_viewers_is_a_jpeg(photo: Image.Image) -> None:
    data = picture_file(photo, "MPO", save_all=True, append_images=[photo.rotate(180)])
    assert probe_image(data) == ImageHeader(format="JPEG", width=96, height=64)


def test_a_file_is_read_from_its_start_and_left_there(photo: Image.Image) -> None:
    file, refused = io.BytesIO(picture_file(photo, "PNG")), io.BytesIO(b"no picture")
    file.seek(7)
    assert probe_image(file).width == 96
    with pytest.raises(InvalidImageError):
        probe_image(refused)
    assert file.tell() == refused.tell() == 0


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", InvalidImageError, "The file is empty"),
        (b"<!doctype html><title>404</title>", InvalidImageError, r"a web page \(HTML\)"),
        # A pattern that tried each way through these would not end.
        *(
            (part * (1032 // len(part)), InvalidImageError, "it is text")
            for part in (b"<!--x-->", b"<!--", b"P5 #\n", b" ")
        ),
        (b"%PDF-1.7\n", UnsupportedFormatError, "PDF files are not accepted here"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedFormatError, "SVG files"),
        *(
            (prolog + b"<svg:svg xmlns:svg='x'/>", UnsupportedFormatError, "SVG files")
            for prolog in (
                b"\xef\xbb\xbf",
                b'<?xml version="1.0"?>\n',
                b"<!-- Tool " + b"x" * 900 + b"-->",
            )
        ),
        (b"\r\n" * 400 + b"%PDF-1.4\n", UnsupportedFormatError, "PDF files"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", UnsupportedFormatError, "PostScript files"),
        (b"<?xml version='1.0'?><rss/>", InvalidImageError, "is no picture"),
        (b"<!DOCTYPE html><body><svg/>", InvalidImageError, "is no picture"),
        (b"8BPS\0\1", UnsupportedFormatError, "Photoshop files"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", UnsupportedFormatError, "MP4 or QuickTime files"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", InvalidImageError, "header of this JPEG file is damaged"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", InvalidImageError, "header of this PNG file is damaged"),
        (b"RIFF\4\0\0\0WEBP", InvalidImageError, "header of this WEBP file is damaged"),
        (b"GIF89a", InvalidImageError, "header of this GIF file is damaged"),
        (b"BM, a story", InvalidImageError, "header of this BMP file is damaged"),
    ],
)
def test_refuses_with_clear_words(data: bytes, error: type[InferenceError], words: str) -> None:
    with pytest.raises(error, match=words):
        probe_image(data)


@pytest.mark.parametrize(
    ("data", "megapixels"),
    [
        (_png_header(30_000, 30_000), "900.0"),
        (_webp_header(16_383, 16_383), "268.5"),
        (_bmp_header(30_000, 30_000), "900.0"),
    ],
    ids=["png", "webp", "bmp"],
)
def test_refuses_too_many_pixels_by_the_header_alone(data: bytes, megapixels: str) -> None:
    with pytest.raises(ImageTooLargeError) as caught:
        probe_image(data)
    assert str(caught.value) == f"The image has {megapixels} megapixels; the limit is 50."


def test_a_picture_just_over_the_limit_never_reads_as_one_at_the_limit() -> None:
    with pytest.raises(ImageTooLargeError, match=r"has 0\.3 megapixels; the limit is 0\.2\."):
        probe_image(_png_header(401, 500), ImageLimits(max_pixels=200_000))
    assert probe_image(_png_header(400, 500), ImageLimits(max_pixels=200_000)).width == 400


def test_a_limit_above_pillows_own_guard_holds_without_a_warning() -> None:
    assert probe_image(_png_header(20_000, 20_000), ImageLimits(max_pixels=10**9)).height == 20_000


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_refuses_too_few_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmallError, match=f"{size[0]} x {size[1]} pixels.* at least 2"):
        probe_image(picture_file(Image.new("RGB", size), "PNG"))


@pytest.fixture(params=["PNG", "WEBP"])
def ending(request: pytest.FixtureRequest, photo: Image.Image) -> bytes:
    """A file of a format whose end its structure tells."""
    return picture_file(photo, request.param)


def _cmyk_tiff(photo: Image.Image, extra_samples: int) -> bytes:
    """CMYK with a fifth sample of a kind: 0 for unspecified, 1 and 2 for alpha."""
    width, height = photo.size
    pixels = bytes(5 * width * height)
    ends = 8 + len(pixels)
    tags = {256: width, 257: height, 258: ends + 126, 259: 1, 262: 5, 273: 8, 277: 5, 278: height}
    tags |= {279: len(pixels), 338: extra_samples}
    table = b"".join(
        struct.pack("<HHII", tag, 4, 5 if tag == 258 else 1, value) for tag, value in tags.items()
    )
    bits = struct.pack("<5I", *[8] * 5)
    directory = struct.pack("<H", len(tags)) + table + bytes(4)
    return b"II*\0" + struct.pack("<I", ends) + pixels + directory + bits


def test_what_no_reader_takes_is_named(photo: Image.Image) -> None:
    for data, words in (
        (jpeg_of_frame(photo, b"\xc1", 12), "12-bit JPEG"),
        (jpeg_of_frame(photo, b"\xc3", 8), "Lossless JPEG"),
        (jpeg_of_frame(photo, b"\xc5", 8), "Hierarchical JPEG"),
        (_cmyk_tiff(photo, 1), "CMYK TIFF files with alpha"),
        (_cmyk_tiff(photo, 2), "CMYK TIFF files with alpha"),
    ):
        with pytest.raises(UnsupportedFormatError, match=f"{words}.* 8 or 16 bits a channel"):
            probe_image(data)
    assert decode(_cmyk_tiff(photo, 0)).rgb.shape == (64, 96, 3)


def test_pixels_that_its_reader_does_not_know_are_no_damage(photo: Image.Image) -> None:
    data = _cmyk_tiff(photo, 0).replace(
        struct.pack("<HHII", 262, 4, 1, 5), struct.pack("<HHII", 262, 4, 1, 10)
    )
    with pytest.raises(UnsupportedFormatError, match="TIFF files with pixels of this kind"):
        decode(data)


@pytest.mark.parametrize("trailer", TRAILERS, ids=["zero", "zeros", "newline", "video"])
def test_bytes_after_the_picture_are_nobodys_business(ending: bytes, trailer: bytes) -> None:
    assert probe_image(ending + trailer).width == 96


@pytest.mark.parametrize("kept", [0.99, 0.9, 0.75])
def test_a_missing_end_is_found(ending: bytes, kept: float) -> None:
    with pytest.raises(InvalidImageError, match=ENDS_EARLY):
        probe_image(ending[: int(len(ending) * kept)])


@pytest.mark.parametrize("cut", [12, 16, 1])
def test_a_png_that_lacks_no_pixels_is_whole(cut: int, photo: Image.Image) -> None:
    data = picture_file(photo, "PNG")
    assert probe_image(data[:-cut]).width == 96
    with pytest.raises(InvalidImageError, match=ENDS_EARLY):
        probe_image(data[:-17])


def test_the_scans_of_an_embedded_thumbnail_are_not_the_pictures(photo: Image.Image) -> None:
    thumbnail = picture_file(photo.resize((48, 32)), "JPEG")
    whole = picture_file(photo, "JPEG", comment=thumbnail)
    assert thumbnail in whole
    assert probe_image(whole).width == 96
    with pytest.raises(InvalidImageError):
        probe_image(whole[: whole.rindex(b"\xff\xda")])


@pytest.mark.parametrize("between", [b"\xff\xff", b"\xff\xd0"], ids=["fill", "restart"])
def test_marks_without_a_segment_are_passed_over(between: bytes, photo: Image.Image) -> None:
    data = picture_file(photo, "JPEG")
    assert probe_image(data[:2] + between + data[2:]).width == 96


def test_a_jpeg_cut_before_its_first_scan(photo: Image.Image) -> None:
    data = picture_file(photo, "JPEG")
    with pytest.raises(InvalidImageError):
        probe_image(data[: data.index(b"\xff\xda") + 2])


def test_a_webp_that_lacks_its_padding_byte_passes() -> None:
    sizes = range(8, 40)
    files = [picture_file(Image.radial_gradient("L").resize((n, n)), "WEBP") for n in sizes]
    padded = [data for data in files if data.endswith(b"\0")]
    assert padded, f"none of {len(files)} files ends in a zero"
    assert all(probe_image(data[:-1]) for data in padded)
