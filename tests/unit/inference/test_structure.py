"""What a small file can make a reader do is counted in its structure, in bounded steps."""

import io
import struct
import zlib

import pytest
from PIL import Image

from inference.errors import (
    ImageTooComplexError,
    InferenceError,
    InvalidImageError,
    SideTooLongError,
)
from inference.probe import probe_image
from inference.structure import MAX_PARTS, MAX_SCANS, MAX_TIFF_TAGS
from tests.support.hostile_pictures import many_scans, many_tags, tall_png
from tests.support.pictures import picture_file


class CountedFile(io.BytesIO):
    """A file that counts how often it is read."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


def _chunks(count: int, kind: bytes) -> bytes:
    whole = tall_png(4, 4)
    empty = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    return whole[:33] + empty * count + whole[33:]


def _segments(count: int, photo: Image.Image) -> bytes:
    whole = picture_file(photo, "JPEG")
    return whole[:2] + b"\xff\xe1\0\x08Exif\0\0" * count + whole[2:]


@pytest.mark.parametrize("progressive", [True, False])
def test_more_scans_than_an_encoder_writes_are_refused(*, progressive: bool) -> None:
    assert probe_image(many_scans((64, 64), 80, progressive=progressive)).width == 64
    with pytest.raises(ImageTooComplexError, match=f"more than {MAX_SCANS} scans.*Save it again"):
        probe_image(many_scans((64, 64), MAX_SCANS + 1, progressive=progressive))


def test_scans_behind_a_false_end_are_counted_too() -> None:
    data = many_scans((64, 64), MAX_SCANS + 1)
    at = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(ImageTooComplexError):
        probe_image(data[:at] + b"\xff\xfe\0\4\xff\xd9" + data[at:])


def test_a_picture_appended_to_a_progressive_one_is_not_counted() -> None:
    one = many_scans((64, 64), 60)
    assert probe_image(one + one).width == 64


@pytest.mark.parametrize("fill", [2, 3, 5000, 300_001])
def test_fill_bytes_between_segments_are_skipped_in_blocks(fill: int, photo: Image.Image) -> None:
    whole = picture_file(photo, "JPEG", progressive=True)
    file = CountedFile(whole[:2] + b"\xff" * fill + whole[2:])
    assert probe_image(file).width == 96
    assert file.reads < 500


@pytest.mark.parametrize("size", [(2, 70_000), (70_000, 2)])
def test_a_side_longer_than_any_jpeg_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(SideTooLongError, match=r"at most 65535\. Cut"):
        probe_image(tall_png(*size))


def test_parts_without_end_are_refused_after_a_bounded_number_of_reads(photo: Image.Image) -> None:
    for data in (_chunks(2 * MAX_PARTS, b"IDAT"), _segments(2 * MAX_PARTS, photo)):
        file = CountedFile(data)
        with pytest.raises(ImageTooComplexError, match=f"more than {MAX_PARTS}"):
            probe_image(file)
        assert file.reads <= 2 * MAX_PARTS + 10


@pytest.mark.parametrize(
    ("tags", "length", "error"),
    [
        (MAX_TIFF_TAGS + 1, 1, ImageTooComplexError),
        (900, 5_000, InvalidImageError),  # each points at the same bytes
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big_tiff", [True, False])
def test_tags_that_claim_more_than_the_file_has_are_refused(
    *, order: str, big_tiff: bool, tags: int, length: int, error: type[InferenceError]
) -> None:
    with pytest.raises(error):
        probe_image(many_tags(tags, length, order=order, big_tiff=big_tiff))
    assert probe_image(many_tags(20, 5, order=order, big_tiff=big_tiff)).width == 8
