"""Walk the structure of an image file: its size, its end, and how much work it asks of a reader.

The walks read with their own few lines instead of Pillow's plugins: those keep, unpack and join
what they meet before the first pixel, so that a small file can make them use seconds and gigabytes.
Each walk takes a bounded number of steps, whatever the file says.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import BinaryIO, Final

from inference.bmp import BmpLayout
from inference.errors import ImageTooComplexError
from inference.tiff import describe_unreadable, find_picture, is_camera_raw, read_layout

#: Scans of a JPEG, each of which costs a pass over the picture. Encoders write about 10, optimizers
#: up to 64.
MAX_SCANS: Final = 100
#: Segments of a JPEG or chunks of a PNG; 60 MB of the usual 8 KiB chunks are 7,700.
MAX_PARTS: Final = 32_768
#: Boxes of a HEIC or AVIF that are read. A phone's picture of 48 megapixels has about 300.
MAX_BOXES: Final = 4_096
#: Items of a HEIC or AVIF. libavif compares each new one with all others: 32,000 take it 3 s.
MAX_ITEMS: Final = 8_192
#: Bytes of the tables that say which properties and parts the items of a HEIC or AVIF have.
MAX_ITEM_TABLE: Final = 1 << 18
#: The tiles of a HEIC, AVIF or TIFF may have this many times the picture's pixels, and some more,
#: since a small picture takes whole tiles. That includes its alpha, depth and similar maps.
MAX_TILE_RATIO: Final = 4
_SPARE_TILE_PIXELS: Final = 1 << 22

_FIRST_BLOCK_BYTES: Final = 1 << 12
_MAX_BLOCK_BYTES: Final = 1 << 18
_TAIL_BYTES: Final = 1 << 12

_JPEG_END: Final = 0xD9
_JPEG_START_OF_SCAN: Final = 0xDA
_JPEG_END_OF_IMAGE: Final = b"\xff\xd9"
# ITU-T T.81, table B.1: start of frame, without the tables and extensions between them.
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
#: Starts of frame whose coding no reader takes.
_JPEG_UNREADABLE: Final[Mapping[int, str]] = MappingProxyType(
    dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "Lossless JPEG files")
    | dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "Hierarchical JPEG files")
)
_JPEG_DEEP: Final = b"\x0c"  # bits
# What begins no segment: fill bytes (replacing them twice leaves the last), stuffing, and markers
# without a length, which may stand within a scan. Replaced, for bytes are searched fastest so.
_JPEG_STUFFING: Final = (b"\xff\0", b"\0\0")
_JPEG_REPLACED: Final = (
    (b"\xff\xff", b"\0\xff"),
    (b"\xff\xff", b"\0\xff"),
    *((bytes((0xFF, kind)), b"\0\0") for kind in (0x00, 0x01, *range(0xD0, 0xD9))),
)
_JPEG_NO_SEGMENT: Final = frozenset(pair for pair, _ in _JPEG_REPLACED)

# A grid of tiles is one; readers tell grids of grids, and overlays of those.
_MAX_DERIVATIONS: Final = 4

# Lists of items: where the count is, and the version from which it has 4 bytes and not 2.
_ITEM_LISTS: Final[Mapping[bytes, tuple[int, int]]] = MappingProxyType(
    {b"iinf": (4, 1), b"iloc": (6, 2)}
)

#: What a file is called that holds what a sensor saw, not yet a picture.
CAMERA_RAW: Final = "Camera raw files (such as DNG, NEF, CR2, ARW)"


@dataclass(frozen=True, slots=True)
class Structure:
    """What the walk over a file found."""

    #: Width and height as stored; None if the header is damaged.
    size: tuple[int, int] | None
    #: False if the file certainly ends before its picture does. Bytes after the picture, as cameras
    #: and editors append them, are ignored.
    complete: bool = True
    #: What no reader takes, such as "12-bit JPEG files"; empty for the kinds that are read.
    unreadable: str = ""


def walk_structure(file: BinaryIO, name: str, prefix: bytes) -> Structure:
    """Walk a file of an accepted format.

    Raises:
        ImageTooComplexError: the file has more parts than any honest writer makes.
    """
    return _WALKS[name](file, prefix)


def _too_complex(parts: str, limit: int) -> ImageTooComplexError:
    return ImageTooComplexError(
        f"The image has more than {limit} {parts}, and would take too long to decode. "
        "Save it again in an image editor."
    )


def _check_tiles(pixels: int, size: tuple[int, int]) -> None:
    """Refuse a picture whose tiles have many times its pixels, all of which are decoded."""
    if pixels > MAX_TILE_RATIO * size[0] * size[1] + _SPARE_TILE_PIXELS:
        raise ImageTooComplexError(
            f"The image is put together from tiles of more than {MAX_TILE_RATIO} times its pixels, "
            "and would take too long to decode. Save it again in an image editor."
        )


def _walk_jpeg(file: BinaryIO, _: bytes) -> Structure:
    at, size, components, progressive, scans = 2, None, 0, False, 0
    for _step in range(MAX_PARTS):
        found = _find_segment(file, at)
        if found is None:
            return Structure(size, complete=scans > 0 and _has_end_of_image(file, 2))
        at, kind = found
        if kind == _JPEG_END and scans:
            return Structure(size)
        file.seek(at + 2)
        head = file.read(8)
        if kind in _JPEG_FRAMES:
            size = int.from_bytes(head[5:7], "big"), int.from_bytes(head[3:5], "big")
            unreadable = _JPEG_UNREADABLE.get(kind, "")
            if head[2:3] == _JPEG_DEEP and not unreadable:
                unreadable = "12-bit JPEG files"
            if unreadable:
                return Structure(size, unreadable=unreadable)
            components, progressive = int.from_bytes(head[7:8], "big"), kind in _JPEG_PROGRESSIVE
        at += 2 + int.from_bytes(head[:2], "big")
        if kind == _JPEG_START_OF_SCAN:
            scans += 1
            if not progressive and int.from_bytes(head[2:3], "big") >= components:
                # All is in this scan, and readers stop after it.
                return Structure(size, complete=_has_end_of_image(file, at))
            if scans > MAX_SCANS:
                raise _too_complex("scans", MAX_SCANS)
    raise _too_complex("segments", MAX_PARTS)


def _find_segment(file: BinaryIO, at: int) -> tuple[int, int] | None:
    """Return where the first marker of a segment is from a place on, and its second byte.

    Within a scan, 0xFF is followed by 0 or a restart marker (ITU-T T.81, B.1.1.5).
    """
    length = 2  # nearly always the marker is right here
    while True:
        file.seek(at)
        block = file.read(length)
        complete = len(block) == length
        block = block.replace(*_JPEG_STUFFING)  # alone in most blocks
        first = block.find(b"\xff", 0, -1)
        if first >= 0 and block[first : first + 2] in _JPEG_NO_SEGMENT:
            for pair, instead in _JPEG_REPLACED:
                block = block.replace(pair, instead)
            first = block.find(b"\xff", 0, -1)
        if first >= 0:
            return at + first, block[first + 1]
        if not complete:
            return None
        at += length - 1  # a marker's two bytes may be parted
        length = min(max(_FIRST_BLOCK_BYTES, 2 * length), _MAX_BLOCK_BYTES)


def _has_end_of_image(file: BinaryIO, start: int) -> bool:
    """Return whether an end marker follows; the tail first, where it nearly always is."""
    tail = file.seek(0, 2) - _TAIL_BYTES
    return any(_has_end_after(file, each) for each in (max(start, tail), start))


def _has_end_after(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    last = b""
    while piece := file.read(_MAX_BLOCK_BYTES):
        if _JPEG_END_OF_IMAGE in last + piece:
            return True
        last = piece[-1:]  # the marker's two bytes may be parted
    return False


def _walk_png(file: BinaryIO, prefix: bytes) -> Structure:
    size = None
    if prefix[12:16] == b"IHDR" and len(prefix) >= 24:  # noqa: PLR2004 - up to the height
        size = int.from_bytes(prefix[16:20], "big"), int.from_bytes(prefix[20:24], "big")
    at, end, pixels = 8, file.seek(0, 2), False
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            # The last chunks may be missing, but no pixels: chunks of them were whole so far.
            return Structure(size, complete=pixels)
        file.seek(at)
        head = file.read(8)
        if head[4:] == b"IEND":
            return Structure(size)
        at += 8 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IDAT":
            pixels = at <= end
            if not pixels:
                return Structure(size, complete=False)
        at += 4
    raise _too_complex("chunks", MAX_PARTS)


def _walk_webp(file: BinaryIO, prefix: bytes) -> Structure:
    end = 8 + int.from_bytes(prefix[4:8], "little")  # of the RIFF container
    # Some writers omit the last padding byte.
    return Structure(_read_webp_size(prefix), complete=end <= file.seek(0, 2) + 1)


def _read_webp_size(prefix: bytes) -> tuple[int, int] | None:
    """Read width and height from the first bytes of a WebP; None if they are not there.

    The three layouts are those of the WebP container specification and, for VP8, of RFC 6386,
    section 9.1.
    """
    kind, body = prefix[12:16], prefix[20:30]
    if kind == b"VP8X" and len(body) >= 10:  # noqa: PLR2004 - the chunk's fixed size
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:  # noqa: PLR2004 - fixed size
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:  # noqa: PLR2004 - fixed
        width, height = body[6:8], body[8:10]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return None


def _walk_gif(_: BinaryIO, prefix: bytes) -> Structure:
    if len(prefix) < 13:  # noqa: PLR2004 - the logical screen descriptor's end
        return Structure(None)
    return Structure(
        (int.from_bytes(prefix[6:8], "little"), int.from_bytes(prefix[8:10], "little"))
    )


def _walk_bmp(file: BinaryIO, prefix: bytes) -> Structure:
    header = int.from_bytes(prefix[14:18], "little")
    if header == 12 and len(prefix) >= 22:  # noqa: PLR2004 - BITMAPCOREHEADER, up to the height
        return Structure(
            (int.from_bytes(prefix[18:20], "little"), int.from_bytes(prefix[20:22], "little"))
        )
    if not 16 <= header <= 124 or len(prefix) < 26:  # noqa: PLR2004 - the later headers' sizes
        return Structure(None)
    width = int.from_bytes(prefix[18:22], "little", signed=True)
    # A negative height says that the top row comes first.
    size = width, abs(int.from_bytes(prefix[22:26], "little", signed=True))
    layout = BmpLayout.read(prefix)
    if layout is None:
        return Structure(size)
    return Structure(
        size,
        complete=layout.is_complete(file.seek(0, 2)),
        unreadable=layout.describe_unreadable(),
    )


def _walk_tiff(file: BinaryIO, _: bytes) -> Structure:
    """Find the picture among the directories; of its tags, only those of its pixels are read."""
    if is_camera_raw(file):
        return Structure((1, 1), unreadable=CAMERA_RAW)
    directory = find_picture(file)
    layout = None if directory is None else read_layout(directory)
    if layout is None:
        return Structure(None)
    size = layout.width, layout.height
    if layout.tiled:
        _check_tiles(layout.tile[0] * layout.tile[1], size)
    return Structure(
        size,
        complete=layout.is_complete(file.seek(0, 2)),
        unreadable=describe_unreadable(layout),
    )


def _walk_heif(file: BinaryIO, _: bytes) -> Structure:
    """Read the boxes of a HEIC or AVIF (ISO/IEC 23008-12): the size of its primary item.

    A picture may be put together from the same large tile again and again: what a reader has to
    decode for it is counted.
    """
    end = file.seek(0, 2)
    items, complete = _HeifItems(), True
    for kind, body, stop in _boxes(file, 0, end, items.steps):
        complete = complete and stop <= end
        if kind == b"meta":
            _read_heif_items(file, body + 4, min(stop, end), items)
    size = items.size_of(items.primary)
    if size is None:
        return Structure(None)
    _check_tiles(items.pixels(items.primary) + sum(map(items.pixels, items.auxiliary)), size)
    return Structure(size, complete=complete)


class _HeifItems:
    """The items of a HEIF file: their sizes, and what they are put together from."""

    def __init__(self) -> None:
        self.primary = -1
        #: One for each box that may still be read, on any level.
        self.steps = iter(range(MAX_BOXES))
        #: Bytes of tables that may still be read.
        self.table_bytes = MAX_ITEM_TABLE
        #: Items that belong to another one, such as its alpha.
        self.auxiliary: list[int] = []
        #: The items that an item is derived from, each as often as it is used.
        self.parts: dict[int, list[int]] = {}
        #: For each property, the width and height that it states.
        self.sizes: list[tuple[int, int] | None] = []
        #: The numbers of each item's properties, from 1.
        self.properties: dict[int, list[int]] = {}
        self._pixels: dict[int, int] = {}

    def size_of(self, item: int) -> tuple[int, int] | None:
        """Return an item's width and height, as stored."""
        numbers = self.properties.get(item, [])
        sizes = [self.sizes[each - 1] for each in numbers if 0 < each <= len(self.sizes)]
        return next((size for size in sizes if size is not None), None)

    def pixels(self, item: int, depth: int = 0) -> int:
        """Count the pixels that have to be decoded for an item.

        Raises:
            ImageTooComplexError: items are derived from others more than a few times over.
        """
        if depth > _MAX_DERIVATIONS:
            raise _too_complex("derived items in a row", _MAX_DERIVATIONS)
        if item not in self._pixels:
            width, height = self.size_of(item) or (0, 0)
            parts = self.parts.get(item)
            self._pixels[item] = (
                width * height
                if parts is None
                else sum(self.pixels(each, depth + 1) for each in parts)
            )
        return self._pixels[item]


def _boxes(
    file: BinaryIO, start: int, end: int, steps: Iterator[int]
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of a range (ISO/IEC 14496-12, 4.2): kind, and where body and box end."""
    at = start
    for _ in steps:
        file.seek(at)
        head = file.read(16)
        size, body = int.from_bytes(head[:4], "big"), at + 8
        if size == 1:
            size, body = int.from_bytes(head[8:], "big"), at + 16
        elif size == 0:
            size = end - at
        if at + 8 > end or at + size < body:
            return
        yield head[4:8], body, at + size
        at += size
    raise _too_complex("boxes", MAX_BOXES)


def _read_heif_items(file: BinaryIO, start: int, end: int, items: _HeifItems) -> None:
    for kind, body, claimed in _boxes(file, start, end, items.steps):
        stop = min(claimed, end)
        file.seek(body)
        if kind == b"pitm":
            version, *_ = file.read(4) or b"\0"
            items.primary = int.from_bytes(file.read(4 if version else 2), "big")
        elif kind in _ITEM_LISTS:
            _check_item_count(file.read(16), *_ITEM_LISTS[kind])
        elif kind == b"iprp":
            for inner, inside, close in _boxes(file, body, stop, items.steps):
                if inner == b"ipco":
                    properties = _boxes(file, inside, min(close, stop), items.steps)
                    items.sizes = [_read_extent(file, *each) for each in properties]
                elif inner == b"ipma":
                    _read_associations(_read_table(file, inside, close, items), items)
        elif kind == b"iref":
            version, *_ = file.read(4) or b"\0"
            width = 4 if version else 2
            for inner, inside, close in _boxes(file, body + 4, stop, items.steps):
                _read_reference(inner, _read_table(file, inside, close, items), width, items)


def _check_item_count(head: bytes, at: int, first_long: int) -> None:
    version, *_ = head or b"\0"
    if int.from_bytes(head[at : at + (4 if version >= first_long else 2)], "big") > MAX_ITEMS:
        raise _too_complex("items", MAX_ITEMS)


def _read_table(file: BinaryIO, start: int, end: int, items: _HeifItems) -> bytes:
    items.table_bytes -= end - start
    if items.table_bytes < 0:
        raise _too_complex("bytes in the tables of its items", MAX_ITEM_TABLE)
    file.seek(start)
    return file.read(end - start)


def _read_extent(file: BinaryIO, kind: bytes, body: int, _: int) -> tuple[int, int] | None:
    if kind != b"ispe":
        return None
    file.seek(body + 4)
    data = file.read(8)
    return int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")


def _read_associations(table: bytes, items: _HeifItems) -> None:
    """Read which properties each item has, from the body of an `ipma` box."""
    if len(table) < 8:  # noqa: PLR2004 - version, flags and count
        return
    id_bytes, number_bytes = 4 if table[0] else 2, 2 if table[3] & 1 else 1
    at = 8
    while at + id_bytes < len(table):
        item, count = int.from_bytes(table[at : at + id_bytes], "big"), table[at + id_bytes]
        at += id_bytes + 1
        end = at + count * number_bytes
        numbers = [table[each : each + number_bytes] for each in range(at, end, number_bytes)]
        # The first bit says whether a reader has to know the property.
        mask = (1 << (8 * number_bytes - 1)) - 1
        items.properties[item] = [int.from_bytes(each, "big") & mask for each in numbers]
        at = end


def _read_reference(kind: bytes, table: bytes, width: int, items: _HeifItems) -> None:
    """Read what an item refers to, from a box in `iref`; ids have `width` bytes."""
    source = int.from_bytes(table[:width], "big")
    if kind == b"dimg":
        places = range(width + 2, len(table) - width + 1, width)
        items.parts[source] = [int.from_bytes(table[at : at + width], "big") for at in places]
    elif kind == b"auxl":
        items.auxiliary.append(source)


_WALKS: Final[Mapping[str, Callable[[BinaryIO, bytes], Structure]]] = MappingProxyType(
    {
        "JPEG": _walk_jpeg,
        "PNG": _walk_png,
        "WEBP": _walk_webp,
        "GIF": _walk_gif,
        "BMP": _walk_bmp,
        "TIFF": _walk_tiff,
        "HEIC": _walk_heif,
        "AVIF": _walk_heif,
    }
)
