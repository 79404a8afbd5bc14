"""What a small file can make a reader do is counted in its structure, in bounded steps."""

import io
import secrets
import struct
import time
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from inference.errors import (
    ImageTooComplexError,
    InferenceError,
    InvalidImageError,
    SideTooLongError,
)
from inference.heif import MAX_BOXES, MAX_ITEM_TABLE, MAX_ITEMS
from inference.jpeg import MAX_SCANS
from inference.probe import ImageHeader, probe_image
from inference.structure import MAX_PARTS
from inference.tiff import MAX_BLOCKS, MAX_DIRECTORIES, MAX_TIFF_TAGS
from tests.support.fuzzed_pictures import mutated_headers
from tests.support.hostile_pictures import (
    box,
    heic_header,
    many_directories,
    many_scans,
    many_strips,
    many_tags,
    tall_png,
)
from tests.support.pictures import picture_file
from tests.support.png_files import png_chunk
from tests.support.tiff_files import Page, tiff_file


class CountedFile(io.BytesIO):
    """A file that counts how often, and how much of it, is read."""

    reads = 0
    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@pytest.mark.parametrize("progressive", [True, False])
def test_more_scans_than_an_encoder_writes_are_refused(*, progressive: bool) -> None:
    assert probe_image(many_scans((64, 64), 80, progressive=progressive)).width == 64
    with pytest.raises(ImageTooComplexError, match=f"more than {MAX_SCANS} scans.*Save it again"):
        probe_image(many_scans((64, 64), MAX_SCANS + 1, progressive=progressive))


def test_scans_behind_a_false_end_are_counted_and_those_of_another_picture_are_not() -> None:
    data = many_scans((64, 64), MAX_SCANS + 1)
    at = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(ImageTooComplexError):
        probe_image(data[:at] + b"\xff\xfe\0\4\xff\xd9" + data[at:])
    one = many_scans((64, 64), 60)
    assert probe_image(one + one).width == 64


@pytest.mark.parametrize("fill", [2, 3, 5000, 300_001])
def test_fill_bytes_between_segments_are_skipped_in_blocks(fill: int, photo: Image.Image) -> None:
    whole = picture_file(photo, "JPEG", progressive=True)
    file = CountedFile(whole[:2] + b"\xff" * fill + whole[2:])
    assert probe_image(file).width == 96
    assert file.reads < 500


def test_parts_without_end_are_refused_after_a_bounded_number_of_reads(photo: Image.Image) -> None:
    png, jpeg = tall_png(4, 4), picture_file(photo, "JPEG")
    for data in (
        png[:33] + png_chunk(b"IDAT", b"") * (2 * MAX_PARTS) + png[33:],
        jpeg[:2] + b"\xff\xe1\0\x08Exif\0\0" * (2 * MAX_PARTS) + jpeg[2:],
    ):
        file = CountedFile(data)
        with pytest.raises(ImageTooComplexError, match=f"more than {MAX_PARTS}"):
            probe_image(file)
        assert file.reads <= 2 * MAX_PARTS + 10


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big_tiff", [True, False])
def test_more_tags_than_a_writer_makes_are_refused_and_what_others_claim_is_not_read(
    *, order: str, big_tiff: bool
) -> None:
    with pytest.raises(ImageTooComplexError, match=f"more than {MAX_TIFF_TAGS} tags"):
        probe_image(many_tags(MAX_TIFF_TAGS + 1, 1, order=order, big_tiff=big_tiff))
    # Each points at the same bytes.
    file = CountedFile(many_tags(900, 5_000, order=order, big_tiff=big_tiff))
    assert probe_image(file).width == 8
    assert decode(file.getvalue()).rgb.shape == (8, 8, 3)
    assert file.bytes_read < 100_000


def test_of_a_tag_that_claims_all_of_a_file_few_numbers_are_read() -> None:
    """Each of 64 directories has 13 of them: read whole, 1 MB took 43 s."""
    file = CountedFile(many_directories(MAX_DIRECTORIES, 1 << 20))
    with pytest.raises(InferenceError):
        probe_image(file)
    assert file.bytes_read < 4 << 20


def test_the_places_of_strips_take_few_bytes_each() -> None:
    data = many_strips(300_000)
    tracemalloc.start()
    with pytest.raises(SideTooLongError):
        probe_image(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * len(data)
    with pytest.raises(ImageTooComplexError, match=f"more than {MAX_BLOCKS} strips"):
        probe_image(many_strips(MAX_BLOCKS + 1))


def test_a_tiff_whose_tile_is_far_larger_than_its_picture_is_refused() -> None:
    page = Page(np.zeros((8, 8, 1), np.uint8), 1, tile=16, tags={322: (1 << 15,), 323: (1 << 15,)})
    with pytest.raises(ImageTooComplexError, match="tiles of more than 4 times"):
        probe_image(tiff_file(page))


def test_strips_of_jpeg_may_be_the_same_few_bytes_but_not_the_same_many() -> None:
    """1 MB of fill bytes, 1,000 times the same: 16 s."""

    def strips(length: int) -> bytes:
        tags = {259: (7,), 273: (8,) * 10, 279: (length,) * 10}
        return tiff_file(Page(np.zeros((50, 8, 1), np.uint8), 1, tags=tags)) + bytes(length)

    assert probe_image(strips(4_000)).width == 8
    with pytest.raises(ImageTooComplexError, match="lie within each other"):
        probe_image(strips(100_000))


#: 8 x 6 tiles, as a phone writes them.
_PHONE = {1: list(range(2, 50))}


@pytest.mark.parametrize("name", ["HEIC", "AVIF"])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("size", "tiles"), [((4032, 3024), _PHONE), ((4000, 9), {1: [2] * 8})])
def test_a_picture_of_tiles_is_read_by_its_primary_item(
    size: tuple[int, int], tiles: dict[int, list[int]], name: str, *, wide: bool
) -> None:
    data = heic_header(size, tiles, wide=wide, brand=name.lower().encode())
    assert probe_image(data) == ImageHeader(name, *size)


def _holding(kind: bytes, *body: bytes) -> bytes:
    """A HEIC of 9 x 9 pixels with one more box in its metadata."""
    return heic_header((9, 9), {}, more=box(kind, *body))


_AVIF = box(b"ftyp", b"avif", bytes(4), b"avif")
#: Each claims that what follows is its own.
_NESTED = box(b"meta", bytes(4), box(b"iprp", box(b"ipco", size=1 << 30)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (heic_header((64, 64), {1: [2] * 60_000}), "tiles of more than 4 times"),
        (heic_header((4032, 3024), {1: [2] * 48}, (8192, 8192)), "tiles"),
        (heic_header((64, 64), {1: [2] * 9, 2: [3] * 9}), "tiles"),
        (heic_header((64, 64), {1: [2], 2: [1]}), "derived items in a row"),
        (heic_header((9, 9), {}, more=box(b"free") * MAX_BOXES), f"more than {MAX_BOXES} boxes"),
        (
            _holding(b"iref", bytes(4), box(b"dimg", bytes(1 + MAX_ITEM_TABLE))),
            f"more than {MAX_ITEM_TABLE} bytes",
        ),
        (_holding(b"iinf", struct.pack(">IH", 0, MAX_ITEMS + 1)), "items"),
        (_holding(b"iinf", struct.pack(">II", 1 << 24, 1 << 31)), "items"),
        (_holding(b"iloc", struct.pack(">IHH", 0, 0, MAX_ITEMS + 1)), "items"),
        (_holding(b"iloc", struct.pack(">IHI", 2 << 24, 0, 1 << 31)), "items"),
        (_AVIF + _NESTED * MAX_BOXES, f"more than {MAX_BOXES} boxes"),
    ],
)
def test_a_heic_that_asks_for_much_work_is_refused_in_few_reads(data: bytes, words: str) -> None:
    file = CountedFile(data)
    with pytest.raises(ImageTooComplexError, match=words):
        probe_image(file)
    assert file.reads <= 2 * MAX_BOXES


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (heic_header((9, 9), {})[:-1], "ends before the picture does"),
        (heic_header((9, 9), {})[:60], "damaged or incomplete"),
        (_AVIF + struct.pack(">I4sQ", 1, b"mdat", 1 << 63), "damaged"),
        (box(b"ftyp", b"heic", bytes(4), b"heic", size=7), "damaged"),
    ],
)
def test_boxes_that_claim_what_is_not_there_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImageError, match=words):
        probe_image(data)


#: What a walk may read: a few blocks for each part, and a file without an end a few times.
_MAX_READS = 3 * MAX_PARTS
_MAX_BYTES_A_READ = 1 << 12
#: Of the processor, for one file: 1 s where nothing else runs, more on a busy machine.
_MAX_SECONDS = 3.0


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.hostile])]
)
def test_a_walk_over_any_header_is_bounded(count: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - repeats this run
    for name, data in mutated_headers(count, seed):
        file = CountedFile(data)
        began = time.thread_time()
        with suppress(InferenceError):
            probe_image(file)
        assert time.thread_time() - began < _MAX_SECONDS, name
        assert file.reads <= _MAX_READS, name
        assert file.bytes_read <= 8 * len(data) + _MAX_BYTES_A_READ * file.reads, name
