"""Read the boxes of a HEIC or AVIF (ISO/IEC 23008-12) in bounded steps: its items, size and colors.

No pixel is read here: Pillow's readers do that.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple

from inference.color import CURVES, PRIMARIES
from inference.errors import ImageTooComplexError

#: Boxes that are read. A phone's picture of 48 megapixels has about 300.
MAX_BOXES: Final = 4_096
#: Items. libavif compares each new one with all others: 32,000 take it 3 s.
MAX_ITEMS: Final = 8_192
#: Bytes of the tables that say what the items are, and which properties and parts they have.
MAX_ITEM_TABLE: Final = 1 << 18

# A grid of tiles is one; readers tell grids of grids, and overlays of those.
_MAX_DERIVATIONS: Final = 4
# Lists of items: where the count is, and the version from which it has 4 bytes and not 2.
_ITEM_LISTS: Final[Mapping[bytes, tuple[int, int]]] = MappingProxyType(
    {b"iinf": (4, 1), b"iloc": (6, 2)}
)
#: Boxes of a file that hold a picture. Of others, it may be that they are no boxes.
_FILE_BOXES: Final = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"idat"})
#: The format by the kind of the primary item, or of those that it is derived from. Brands may say
#: no more than that it is a picture, or name another codec too.
_FORMATS: Final[Mapping[bytes, str]] = MappingProxyType({b"av01": "AVIF", b"hvc1": "HEIC"})
#: Kinds of items that no reader takes.
_UNREADABLE: Final[Mapping[bytes, str]] = MappingProxyType(
    {b"jpeg": "JPEG", b"j2k1": "JPEG 2000", b"avc1": "H.264", b"vvc1": "VVC"}
)
#: What the readers look for in the first box.
_BRANDS: Final[Mapping[str, bytes]] = MappingProxyType({"AVIF": b"avif", "HEIC": b"heic"})
#: Kinds of items that are about a picture: EXIF data, and texts such as XMP.
_METADATA_ITEMS: Final = frozenset({b"Exif", b"mime"})
_IGNORED_ITEM: Final = b"skip"
#: The number of primaries or a curve that are not said. Readers refuse those that they do not know.
_UNSPECIFIED: Final = b"\0\2"


class Size(NamedTuple):
    """What an `ispe` says, in pixels."""

    width: int
    height: int


class CodedColors(NamedTuple):
    """What an `nclx` says: primaries and curve, as ITU-T H.273 numbers them."""

    primaries: int
    transfer: int


class CleanAperture(NamedTuple):
    """What a `clap` leaves of a picture (ISO/IEC 14496-12, 12.1.4): eight numbers as stored.

    Width, height, and how far its center is right of and below the picture's; each a fraction.
    """

    width: tuple[int, int]
    height: tuple[int, int]
    right: tuple[int, int]
    down: tuple[int, int]

    def box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Return left, top, right and bottom in a picture; None unless they are pixels of it."""
        if not all(below for _, below in self):
            return None
        across, tall, right, down = (Fraction(above, below) for above, below in self)
        left, top = right + (width - across) / 2, down + (height - tall) / 2
        edges = left, top, left + across, top + tall
        whole = all(each.denominator == 1 for each in edges)
        if not whole or not (0 <= left < edges[2] <= width and 0 <= top < edges[3] <= height):
            return None
        return int(left), int(top), int(edges[2]), int(edges[3])


_Property = Size | CodedColors | CleanAperture


@dataclass(slots=True)
class Heif:
    """What the boxes of a file say of its picture."""

    #: Width and height of the primary item, as stored; None if that is not said.
    size: tuple[int, int] | None
    #: Pixels that have to be decoded for it, its alpha and similar maps.
    pixels: int
    #: Whether all boxes end within the file.
    complete: bool
    #: Where the last of them ends; what follows is no part of the file.
    end: int
    #: None if they are not said by numbers.
    colors: CodedColors | None
    #: What is left of the picture before it is turned; None for all of it.
    crop: CleanAperture | None
    #: "AVIF" or "HEIC", by how its pixels are coded; empty if the file does not say so.
    format: str
    #: What no reader takes, such as "HEIF files of JPEG 2000 data"; empty for what is read.
    unreadable: str
    #: What takes the place of metadata that could decide whether the picture is read, by where it
    #: stands.
    replaced: dict[int, bytes] = field(default_factory=dict)


def walk_heif(file: BinaryIO) -> Heif:
    """Read the boxes of a file.

    A picture may be put together from the same large tile again and again: what a reader has to
    decode for it is counted.

    Raises:
        ImageTooComplexError: the file has more parts, or derives items more often, than any honest
            writer makes it do.
    """
    length = file.seek(0, 2)
    items, complete, end, brand = _Items(), True, 0, 0
    for kind, body, stop in _boxes(file, 0, length, items.steps):
        if kind not in _FILE_BOXES and stop > length:
            break
        complete = complete and stop <= length
        end = min(stop, length)
        if kind == b"ftyp":
            brand = body
        elif kind == b"meta":
            _read_items(file, body + 4, end, items)
    primary = items.primary
    coding = items.coding_of(primary)
    coded_format = _FORMATS.get(coding, "")
    if coded_format and brand:
        items.replaced[brand] = _BRANDS[coded_format]
    other = _UNREADABLE.get(coding)
    return Heif(
        size=items.size_of(primary),
        pixels=items.pixels(primary) + sum(map(items.pixels, items.auxiliary)),
        complete=complete,
        end=end,
        colors=items.colors_of(primary),
        crop=items.crop_of(primary),
        format=coded_format,
        unreadable=f"HEIF files of {other} data" if other else "",
        replaced=items.replaced,
    )


def without_metadata(data: bytes, heif: Heif) -> bytes:
    """Return a file in which readers find no EXIF, no texts, and nothing behind its boxes."""
    changed = bytearray(data[: heif.end])
    for at, instead in heif.replaced.items():
        changed[at : at + len(instead)] = instead
    return bytes(changed)


class _Items:
    """The items of a file: their sizes, and what they are put together from."""

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
        #: Each property, as far as it is known here.
        self.known: list[_Property | None] = []
        #: The numbers of each item's properties, from 1.
        self.properties: dict[int, list[int]] = {}
        #: How each item is coded, or derived from others.
        self.kinds: dict[int, bytes] = {}
        self.replaced: dict[int, bytes] = {}
        self._pixels: dict[int, int] = {}

    def _known_of(self, item: int) -> Iterator[_Property]:
        for number in self.properties.get(item, []):
            found = self.known[number - 1] if 0 < number <= len(self.known) else None
            if found is not None:
                yield found

    def size_of(self, item: int) -> tuple[int, int] | None:
        """Return an item's width and height, as stored."""
        sizes = (each for each in self._known_of(item) if isinstance(each, Size))
        return next(sizes, None)

    def crop_of(self, item: int) -> CleanAperture | None:
        """Return what is left of an item."""
        crops = (each for each in self._known_of(item) if isinstance(each, CleanAperture))
        return next(crops, None)

    def coding_of(self, item: int) -> bytes:
        """Return how an item is coded, or the first of those that it is derived from."""
        for _ in range(_MAX_DERIVATIONS):
            item = next(iter(self.parts.get(item, ())), item)
        return self.kinds.get(item, b"")

    def colors_of(self, item: int) -> CodedColors | None:
        """Return an item's colors; else those of the first item that it is derived from."""
        for each in (item, *self.parts.get(item, [])[:1]):
            for found in self._known_of(each):
                if isinstance(found, CodedColors):
                    return found
        return None

    def pixels(self, item: int, depth: int = 0) -> int:
        """Count the pixels that have to be decoded for an item.

        Raises:
            ImageTooComplexError: items are derived from others more than a few times over.
        """
        if depth > _MAX_DERIVATIONS:
            raise ImageTooComplexError.of_parts("derived items in a row", _MAX_DERIVATIONS)
        if item not in self._pixels:
            width, height = self.size_of(item) or (0, 0)
            parts = self.parts.get(item)
            self._pixels[item] = (
                width * height
                if parts is None
                else sum(self.pixels(each, depth + 1) for each in parts)
            )
        return self._pixels[item]

    def read_table(self, file: BinaryIO, start: int, end: int) -> bytes:
        """Read a table of a bounded size."""
        self.table_bytes -= end - start
        if self.table_bytes < 0:
            raise ImageTooComplexError.of_parts("bytes in the tables of its items", MAX_ITEM_TABLE)
        file.seek(start)
        return file.read(end - start)


def _boxes(
    file: BinaryIO, start: int, end: int, steps: Iterator[int]
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of a range (ISO/IEC 14496-12, 4.2): kind, and where body and box end."""
    at = start
    for _ in steps:
        if at + 8 > end:
            return
        file.seek(at)
        head = file.read(16)
        size, body = int.from_bytes(head[:4], "big"), at + 8
        if size == 1:
            size, body = int.from_bytes(head[8:], "big"), at + 16
        elif size == 0:
            size = end - at
        if at + size < body:
            return
        yield head[4:8], body, at + size
        at += size
    raise ImageTooComplexError.of_parts("boxes", MAX_BOXES)


def _read_items(file: BinaryIO, start: int, end: int, items: _Items) -> None:
    for kind, body, claimed in _boxes(file, start, end, items.steps):
        stop = min(claimed, end)
        file.seek(body)
        if kind == b"pitm":
            version, *_ = file.read(4) or b"\0"
            items.primary = int.from_bytes(file.read(4 if version else 2), "big")
        elif kind in _ITEM_LISTS:
            head = file.read(16)
            _check_item_count(head, *_ITEM_LISTS[kind])
            if kind == b"iinf":
                _read_kinds(file, body + (8 if head[:1] > b"\0" else 6), stop, items)
        elif kind == b"iprp":
            _read_properties(file, body, stop, items)
        elif kind == b"iref":
            version, *_ = file.read(4) or b"\0"
            width = 4 if version else 2
            for inner, inside, close in _boxes(file, body + 4, stop, items.steps):
                _read_reference(inner, items.read_table(file, inside, close), width, items)


def _check_item_count(head: bytes, at: int, first_long: int) -> None:
    version, *_ = head or b"\0"
    if int.from_bytes(head[at : at + (4 if version >= first_long else 2)], "big") > MAX_ITEMS:
        raise ImageTooComplexError.of_parts("items", MAX_ITEMS)


def _read_kinds(file: BinaryIO, start: int, end: int, items: _Items) -> None:
    """Read the kinds of items, those of metadata among them, in the `infe` boxes of an `iinf`."""
    table, at = items.read_table(file, start, max(start, end)), 0
    for _ in range(MAX_ITEMS):
        size, version = int.from_bytes(table[at : at + 4], "big"), table[at + 8 : at + 9]
        # Version, flags, id (of 2 bytes, or 4) and a word.
        kind = at + 12 + (6 if version > b"\2" else 4)
        if table[at + 4 : at + 8] == b"infe":
            items.kinds[int.from_bytes(table[at + 12 : kind - 2])] = table[kind : kind + 4]
            if table[kind : kind + 4] in _METADATA_ITEMS:
                items.replaced[start + kind] = _IGNORED_ITEM
        if size < 8 or at + size > len(table):  # noqa: PLR2004 - a box's head
            return
        at += size


def _read_properties(file: BinaryIO, start: int, end: int, items: _Items) -> None:
    for kind, body, stop in _boxes(file, start, end, items.steps):
        if kind == b"ipco":
            properties = _boxes(file, body, min(stop, end), items.steps)
            items.known = [_read_property(file, kind, body, items) for kind, body, _ in properties]
        elif kind == b"ipma":
            _read_associations(items.read_table(file, body, stop), items)


def _read_property(file: BinaryIO, kind: bytes, body: int, items: _Items) -> _Property | None:
    file.seek(body)
    data = file.read(32)
    if kind == b"ispe":
        return Size(int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big"))
    if kind == b"clap" and len(data) == 32:  # noqa: PLR2004 - eight numbers
        numbers = struct.unpack(">2I2IiIiI", data)
        return CleanAperture(*zip(numbers[::2], numbers[1::2], strict=True))
    if kind == b"colr" and data[:4] == b"nclx":
        primaries, transfer = struct.unpack(">HH", data[4:8].ljust(4, b"\0"))
        for at, number, known in ((4, primaries, PRIMARIES), (6, transfer, CURVES)):
            if number not in known:
                items.replaced[body + at] = _UNSPECIFIED
        return CodedColors(primaries, transfer)
    return None


def _read_associations(table: bytes, items: _Items) -> None:
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


def _read_reference(kind: bytes, table: bytes, width: int, items: _Items) -> None:
    """Read what an item refers to, from a box in `iref`; ids have `width` bytes."""
    source = int.from_bytes(table[:width], "big")
    if kind == b"dimg":
        places = range(width + 2, len(table) - width + 1, width)
        items.parts[source] = [int.from_bytes(table[at : at + width], "big") for at in places]
    elif kind == b"auxl":
        items.auxiliary.append(source)
