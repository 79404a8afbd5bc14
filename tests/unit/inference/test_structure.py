"""What a small file can make a reader do is counted in its structure, in bounded steps."""

import io
import secrets
import struct
import time
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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


def _chunks(count: int, kind: bytes) -> bytes:
    whole = tall_png(4, 4)
    return whole[:33] + png_chunk(kind, b"") * count + whole[33:]


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
    data = tiff_file(page)
    with pytest.raises(ImageTooComplexError, match="tiles of more than 4 times"):
        probe_image(data)


#: 8 x 6 tiles, as a phone writes them.
_PHONE = {1: list(range(2, 50))}


@pytest.mark.parametrize("name", ["HEIC", "AVIF"])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(
    ("size", "tiles"), [((4032, 3024), _PHONE), ((16, 16), {1: [2]}), ((4000, 9), {1: [2] * 8})]
)
def test_a_picture_of_tiles_is_read_by_its_primary_item(
    size: tuple[int, int], tiles: dict[int, list[int]], name: str, *, wide: bool
) -> None:
    data = heic_header(size, tiles, wide=wide, brand=name.lower().encode())
    assert probe_image(data) == ImageHeader(name, *size)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (
            heic_header((64, 64), {1: [2] * 60_000}),
            ImageTooComplexError,
            "tiles of more than 4 times",
        ),
        (heic_header((4032, 3024), {1: [2] * 48}, (8192, 8192)), ImageTooComplexError, "tiles"),
        (heic_header((64, 64), {1: [2] * 9, 2: [3] * 9}), ImageTooComplexError, "tiles"),
        (heic_header((64, 64), {1: [2], 2: [1]}), ImageTooComplexError, "derived items in a row"),
        (
            heic_header((9, 9), {}, more=box(b"free") * MAX_BOXES),
            ImageTooComplexError,
            f"more than {MAX_BOXES} boxes",
        ),
        (
            heic_header(
                (9, 9), {}, more=box(b"iref", bytes(4), box(b"dimg", bytes(1 + MAX_ITEM_TABLE)))
            ),
            ImageTooComplexError,
            f"more than {MAX_ITEM_TABLE} bytes",
        ),
        *(
            (heic_header((9, 9), {}, more=more, brand=b"avif"), ImageTooComplexError, "items")
            for more in (
                box(b"iinf", struct.pack(">IH", 0, MAX_ITEMS + 1)),
                box(b"iinf", struct.pack(">II", 1 << 24, 1 << 31)),
                box(b"iloc", struct.pack(">IHH", 0, 0, MAX_ITEMS + 1)),
                box(b"iloc", struct.pack(">IHI", 2 << 24, 0, 1 << 31)),
            )
        ),
        # Each claims that what follows is its own.
        (
            box(b"ftyp", b"avif", bytes(4), b"avif")
            + box(b"meta", bytes(4), box(b"iprp", box(b"ipco", size=1 << 30))) * MAX_BOXES,
            ImageTooComplexError,
            f"more than {MAX_BOXES} boxes",
        ),
        (heic_header((70_000, 2), {}), SideTooLongError, "70000 x 2"),
        (heic_header((9, 9), {})[:-1], InvalidImageError, "ends before the picture does"),
        (heic_header((9, 9), {})[:60], InvalidImageError, "damaged or incomplete"),
        (
            box(b"ftyp", b"avif", bytes(4), b"avif") + struct.pack(">I4sQ", 1, b"mdat", 1 << 63),
            InvalidImageError,
            "damaged",
        ),
        (box(b"ftyp", b"heic", bytes(4), b"heic", size=7), InvalidImageError, "damaged"),
    ],
)
def test_a_heic_that_asks_for_much_work_is_refused_in_few_reads(
    data: bytes, error: type[InferenceError], words: str
) -> None:
    file = CountedFile(data)
    with pytest.raises(error, match=words):
        probe_image(file)
    assert file.reads <= 2 * MAX_BOXES


@given(
    data=st.data(),
    photo=st.sampled_from(
        [picture_file(Image.new("RGB", (40, 30), "teal"), name) for name in ("HEIC", "AVIF")]
    ),
)
def test_any_damage_to_boxes_is_refused_or_read(*, data: st.DataObject, photo: bytes) -> None:
    broken = bytearray(photo)
    for at in data.draw(
        st.lists(st.integers(24, min(460, len(photo) - 1)), min_size=1, max_size=6)
    ):
        broken[at] = data.draw(st.integers(0, 255))
    with suppress(InferenceError):
        probe_image(bytes(broken))


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
