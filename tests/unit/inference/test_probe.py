"""A file's header tells its format and size, and what is no picture is refused with clear words."""

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
    SideTooLongError,
    UnsupportedFormatError,
)
from inference.probe import ImageHeader, ImageLimits, accepted_formats, probe_image
from tests.support.pictures import picture_file
from tests.support.png_files import png_file


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "HEIC"])
def test_tells_format_and_size_of_each_format(name: str, photo: Image.Image) -> None:
    assert name in accepted_formats()
    data = picture_file(photo, name)
    assert probe_image(data) == ImageHeader(format=name, width=96, height=64)


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
        # A pattern that tried each way through these would not end.
        *(
            (part * (1032 // len(part)), InvalidImageError, "it is text")
            for part in (b"<!--x-->", b"<!--", b"P5 #\n", b" ")
        ),
        (b"<!-- " + b"x" * 900 + b"--><svg:svg/>", UnsupportedFormatError, "SVG files"),
        (b"\r\n" * 400 + b"%PDF-1.4\n", UnsupportedFormatError, "PDF files"),
        *(
            (data, InvalidImageError, f"header of this {name} file is damaged")
            for name, data in (
                ("JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
                ("PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
                ("WEBP", b"RIFF\4\0\0\0WEBP"),
                ("GIF", b"GIF89a"),
                ("BMP", b"BM, a story"),
            )
        ),
        *(
            (png_file(size, b"", kind=2), error, words)
            for size, error, words in (
                ((30_000, 30_000), ImageTooLargeError, r"has 900\.0 megapixels; the limit is 50\."),
                ((10_001, 5_000), ImageTooLargeError, r"has 50\.1 megapixels; the limit is 50\."),
                ((70_000, 2), SideTooLongError, r"at most 65535\. Cut"),
                ((2, 70_000), SideTooLongError, r"at most 65535\. Cut"),
                ((1, 500), ImageTooSmallError, "1 x 500 pixels.* at least 2"),
                ((500, 1), ImageTooSmallError, "500 x 1 pixels.* at least 2"),
            )
        ),
    ],
)
def test_refuses_by_the_header_with_clear_words(
    data: bytes, error: type[InferenceError], words: str
) -> None:
    with pytest.raises(error, match=words):
        probe_image(data)


@pytest.mark.parametrize(
    ("name", "size", "longer"),
    [
        ("JPEG", struct.pack(">HH", 2, 65_500), struct.pack(">HH", 2, 65_501)),
        ("AVIF", struct.pack(">II", 32_768, 2), struct.pack(">II", 32_769, 2)),
    ],
)
def test_a_side_that_no_reader_takes_is_too_long(name: str, size: bytes, longer: bytes) -> None:
    longest = max(struct.unpack(">HH" if len(size) == 4 else ">II", size))
    data = picture_file(Image.new("RGB", (longest, 2)), name)
    assert decode(data).rgb.shape == (2, longest, 3)
    with pytest.raises(SideTooLongError, match=f"at most {longest}"):
        probe_image(data.replace(size, longer))


def test_a_size_at_a_limit_of_ones_own_is_taken() -> None:
    whole, limits = png_file((400, 500), b"", kind=2), ImageLimits(max_pixels=200_000)
    assert probe_image(whole, limits).width == 400
    with pytest.raises(ImageTooLargeError, match=r"the limit is 0\.2\."):
        probe_image(png_file((401, 500), b"", kind=2), limits)


def test_the_scans_of_an_embedded_thumbnail_are_not_the_pictures(photo: Image.Image) -> None:
    thumbnail = picture_file(photo.resize((48, 32)), "JPEG")
    whole = picture_file(photo, "JPEG", comment=thumbnail)
    assert thumbnail in whole
    assert probe_image(whole).width == 96
    with pytest.raises(InvalidImageError):
        probe_image(whole[: whole.rindex(b"\xff\xda")])


def test_a_webp_that_lacks_its_padding_byte_passes() -> None:
    sizes = range(8, 40)
    files = [picture_file(Image.radial_gradient("L").resize((n, n)), "WEBP") for n in sizes]
    padded = [data for data in files if data.endswith(b"\0")]
    assert padded, f"none of {len(files)} files ends in a zero"
    assert all(probe_image(data[:-1]) for data in padded)
