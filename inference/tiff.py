"""Read the directories of a TIFF (TIFF 6.0, and BigTIFF) in bounded steps: pages, tags, kinds.

Exif data are such a file too. No pixel is read here: `inference.tiff_pixels` does that.
"""

import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import BinaryIO, Final

from inference.errors import ImageTooComplexError

#: Tags of a directory. The standards name about 300.
MAX_TIFF_TAGS: Final = 1_000
#: Directories that are looked at to find the picture; a camera's raw file has about 8.
MAX_DIRECTORIES: Final = 64
#: Strips or tiles. 50 megapixels in planes of tiles of 16 x 16 have 780,000.
MAX_BLOCKS: Final = 1 << 20
#: Numbers of a tag that are read, but for the places of blocks: the colors of a palette.
MAX_NUMBERS: Final = 3 << 8


class Tag(IntEnum):
    """The tags that say what a picture's pixels are."""

    INTEROPERABILITY_INDEX = 1
    SUBFILE = 254
    OLD_SUBFILE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANES = 284
    T4_OPTIONS = 292
    T6_OPTIONS = 293
    TRANSFER_FUNCTION = 301
    PREDICTOR = 317
    WHITE_POINT = 318
    PRIMARIES = 319
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    REFERENCE_BLACK_WHITE = 532
    CFA_REPEAT = 33421
    CFA_PATTERN = 33422
    ICC_PROFILE = 34675
    EXIF = 34665
    COLOR_SPACE = 40961
    INTEROPERABILITY = 40965
    DNG_VERSION = 50706


class Photometric(IntEnum):
    """What the samples of a pixel are."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    CMYK = 5
    YCBCR = 6
    LAB = 8
    ICC_LAB = 9


#: Samples of a pixel's color.
COLOR_SAMPLES: Final[Mapping[int, int]] = MappingProxyType(
    {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3}
)
UNCOMPRESSED: Final = 1
#: LZW, deflate by its two numbers, PackBits, LZMA, Zstandard: their bytes are samples as stored.
BYTE_COMPRESSIONS: Final = frozenset({UNCOMPRESSED, 5, 8, 32946, 32773, 34925, 50000})
_FAX_COMPRESSIONS: Final = frozenset({2, 3, 4})
_OLD_JPEG: Final = 6
JPEG: Final = 7
_JPEG_COMPRESSIONS: Final = frozenset({_OLD_JPEG, JPEG})

# Compressions of cameras: Sony, packed, Samsung, Nikon, Kodak, Pentax.
_RAW_COMPRESSIONS: Final = frozenset({32767, 32769, 32770, 32772, 34713, 65000, 65535})
# Color filter arrays, and the linear values of their pixels (DNG 1.7).
_RAW_PHOTOMETRICS: Final = frozenset({32803, 34892})

#: What no block has: files are shorter.
_MOST_BYTES: Final = 1 << 62

_UNSIGNED: Final = 1
_SIGNED: Final = 2
_FLOAT: Final = 3
_ASSOCIATED_ALPHA: Final = 1
# Two kinds of the standard, and one that Corel Draw 10 writes.
_ALPHA_KINDS: Final = frozenset({1, 2, 999})
_PLANES: Final = 2

# Of each type: bytes, and the letter of `struct`. Rationals are two numbers.
_TYPES: Final[Mapping[int, tuple[int, str]]] = MappingProxyType(
    {1: (1, "B"), 2: (1, "B"), 3: (2, "H"), 4: (4, "I"), 5: (8, "II"), 6: (1, "b"), 7: (1, "B")}
    | {8: (2, "h"), 9: (4, "i"), 10: (8, "ii"), 11: (4, "f"), 12: (8, "d"), 13: (4, "I")}
    | {16: (8, "Q"), 17: (8, "q"), 18: (8, "Q")}
)
_RATIONALS: Final = frozenset({5, 10})
#: Letters of what may be a place; they mean the same to `array`.
_PLACES: Final = frozenset("BHIQ")
_NATIVE_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_BIG_TIFF: Final = 43


class Directory:
    """A directory: where each tag's value is; values are read when they are asked for."""

    def __init__(self, tiff: "TiffReader", entries: Mapping[int, tuple[int, int, int]]) -> None:
        self._tiff = tiff
        self._entries = entries

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    @property
    def order(self) -> str:
        """The byte order, as `struct` names it."""
        return self._tiff.order

    def subdirectory(self, tag: int) -> "Directory | None":
        """Return the directory that a tag leads to; None if it is not there, or broken."""
        return self._tiff.sound_directory(self.integer(tag, 0))

    def data(self, tag: int) -> bytes:
        """Return a value's bytes; none if the tag is absent, or its value beyond the file."""
        kind, count, at = self._entries.get(tag, (0, 0, 0))
        if kind not in _TYPES:
            return b""
        return self._tiff.read(at, count * _TYPES[kind][0])

    def numbers(self, tag: int, most: int = MAX_NUMBERS) -> tuple[float, ...]:
        """Return a value's numbers, the first ones of too many; none if it is absent or broken."""
        kind, count, at = self._entries.get(tag, (0, 0, 0))
        if kind not in _TYPES or not self._tiff.has(at, count * _TYPES[kind][0]):
            return ()
        width, letters = _TYPES[kind]
        count = min(count, most)
        data = self._tiff.read(at, count * width)
        numbers = struct.unpack(f"{self.order}{len(letters) * count}{letters[0]}", data)
        if kind in _RATIONALS:
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            return tuple(above / below if below else 0.0 for above, below in pairs)
        return numbers

    def integers(self, tag: int, most: int = MAX_NUMBERS) -> tuple[int, ...]:
        """Return a value's first numbers as integers; none if they are others."""
        kind = self._entries.get(tag, (0, 0, 0))[0]
        whole = kind not in _RATIONALS and _TYPES.get(kind, (0, "f"))[1] not in "fd"
        return tuple(int(each) for each in self.numbers(tag, most)) if whole else ()

    def places(self, tag: int) -> "array[int]":
        """Return a value's numbers, which say where blocks are or how long; few bytes for each.

        Raises:
            ImageTooComplexError: there are more than any honest writer makes.
        """
        kind, count, _ = self._entries.get(tag, (0, 0, 0))
        letters = _TYPES.get(kind, (0, ""))[1]
        if letters not in _PLACES:
            return array("B")
        if count > MAX_BLOCKS:
            raise ImageTooComplexError.of_parts("strips or tiles", MAX_BLOCKS)
        found = array(letters, self.data(tag))
        if self.order != _NATIVE_ORDER:
            found.byteswap()
        return found

    def integer(self, tag: int, default: int) -> int:
        """Return a value's first number, which is an integer."""
        return next(iter(self.integers(tag, 1)), default)


class TiffReader:
    """Reads the directories of a TIFF; nothing outside of the file is ever asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = file.seek(0, 2)
        head = self.read(0, 16) or self.read(0, 8)
        self.order: Final = "<" if head[:2] == b"II" else ">"
        self._big = head[2 if self.order == "<" else 3 : 4][:1] == bytes([_BIG_TIFF])
        self._word = 8 if self._big else 4
        self.first: Final = self._number(head[self._word : 2 * self._word])

    def has(self, at: int, length: int) -> bool:
        """Return whether a part of the file is all there."""
        return 0 <= at <= at + length <= self._end

    def read(self, at: int, length: int) -> bytes:
        """Return a part of the file; nothing if it is not all there."""
        if not self.has(at, length):
            return b""
        self._file.seek(at)
        return self._file.read(length)

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def directory(self, at: int) -> tuple[Directory, int] | None:
        """Read the directory at a place, and where the next one is; None if it is not all there.

        Raises:
            ImageTooComplexError: it has more tags than any honest writer makes.
        """
        head = 8 if self._big else 2
        count = self._number(self.read(at, head))
        if count > MAX_TIFF_TAGS:
            raise ImageTooComplexError.of_parts("tags", MAX_TIFF_TAGS)
        entry = 4 + 2 * self._word
        table = self.read(at + head, count * entry)
        if not table:
            return None
        entries: dict[int, tuple[int, int, int]] = {}
        for start in range(0, len(table), entry):
            tag = self._number(table[start : start + 2])
            kind = self._number(table[start + 2 : start + 4])
            number = self._number(table[start + 4 : start + 4 + self._word])
            value = at + head + start + 4 + self._word
            if number * _TYPES.get(kind, (1, ""))[0] > self._word:
                value = self._number(table[start + 4 + self._word : start + entry])
            entries.setdefault(tag, (kind, number, value))
        following = at + head + len(table)
        return Directory(self, entries), self._number(self.read(following, self._word))

    def sound_directory(self, at: int) -> Directory | None:
        """Return the directory at a place; None if there is none, or it is broken."""
        try:
            found = self.directory(at) if at else None
        except ImageTooComplexError:
            return None
        return None if found is None else found[0]

    def _directory_if_sound(self, at: int) -> tuple[Directory, int] | None:
        try:
            return self.directory(at)
        except ImageTooComplexError:
            if at == self.first:
                raise
            return None  # where a damaged tag leads decides nothing

    def directories(self) -> Iterator[tuple[Directory, bool]]:
        """Yield pages in their order, each followed by its subdirectories, and whether it is one.

        Those that are broken end their chain; at most `MAX_DIRECTORIES` are read.
        """
        seen: set[int] = set()
        pending = [(self.first, True)]
        while pending and len(seen) < MAX_DIRECTORIES:
            at, is_page = pending.pop()
            found = None if at in seen or not at else self._directory_if_sound(at)
            seen.add(at)
            if found is None:
                continue
            directory, following = found
            yield directory, is_page
            pending.append((following, is_page))
            subdirectories = directory.integers(Tag.SUB_DIRECTORIES, MAX_DIRECTORIES)
            pending.extend((each, False) for each in reversed(subdirectories))


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels of a directory are stored."""

    directory: Directory
    width: int
    height: int
    #: Of each sample; all have as many.
    bits: int
    #: Of a pixel.
    samples: int
    sample_format: int
    photometric: int
    compression: int
    predictor: int
    planar: bool
    #: Size of a tile; of a strip, which is as wide as the picture.
    tile: tuple[int, int]
    tiled: bool
    #: Where each strip or tile begins, and how many bytes it has.
    offsets: Sequence[int]
    lengths: Sequence[int]

    def is_complete(self, length: int) -> bool:
        """Return whether all strips and tiles are there, and within a file of that length."""
        needed = self.planes * self.blocks_of_a_plane
        if self.compression == _OLD_JPEG:
            return True  # which has tags of its own for its place
        if min(len(self.offsets), len(self.lengths)) < needed:
            return False
        blocks = zip(self.offsets[:needed], self.lengths, strict=False)
        return all(at and at + size <= length for at, size in blocks)

    @property
    def planes(self) -> int:
        """How often the picture's area is stored."""
        return self.samples if self.planar else 1

    @property
    def across(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.tile[0])

    @property
    def blocks_of_a_plane(self) -> int:
        """How many strips or tiles cover the picture."""
        return self.across * -(-self.height // self.tile[1])

    @property
    def alpha(self) -> int | None:
        """The number of the sample that is the pixel's alpha; None if there is none."""
        colors = COLOR_SAMPLES[self.photometric]
        kinds = self.directory.integers(Tag.EXTRA_SAMPLES)[: self.samples - colors]
        if not kinds and self.photometric == Photometric.RGB and self.samples == colors + 1:
            return colors  # the tag is missing, but nothing else has four samples
        return next((colors + at for at, kind in enumerate(kinds) if kind in _ALPHA_KINDS), None)

    @property
    def associated_alpha(self) -> bool:
        """Whether colors are multiplied by the alpha."""
        kinds = self.directory.integers(Tag.EXTRA_SAMPLES)
        return next((each for each in kinds if each in _ALPHA_KINDS), 0) == _ASSOCIATED_ALPHA


def find_picture(file: BinaryIO) -> Directory | None:
    """Return the directory of a TIFF's picture; None if there is none.

    It is the first page that is no reduced version of another one and no mask, as NewSubfileType
    says, or a larger one among that page's subdirectories, whose page is then its thumbnail.
    """
    best: Directory | None = None
    rank = (0, 0)
    for directory, is_page in TiffReader(file).directories():
        if is_page and rank[0] == _WHOLE:
            break  # of further pages, none is the picture
        size = directory.integer(Tag.WIDTH, 0) * directory.integer(Tag.HEIGHT, 0)
        found = (_REDUCED if _is_reduced(directory) else _WHOLE, size)
        if size and found > rank:
            best, rank = directory, found
    return best


_REDUCED: Final = 1
_WHOLE: Final = 2


def _is_reduced(directory: Directory) -> bool:
    # Bit 0: a reduced version; bit 2: a mask. The older tag has numbers: 2 is a reduced version.
    subfile = directory.integer(Tag.SUBFILE, 0)
    return bool(subfile & 5) or directory.integer(Tag.OLD_SUBFILE, 1) == 2  # noqa: PLR2004


def is_camera_raw(file: BinaryIO) -> bool:
    """Return whether a TIFF holds what a camera's sensor saw, as DNG, NEF, ARW and PEF do."""
    return any(
        directory.integer(Tag.PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS
        or directory.integer(Tag.COMPRESSION, 1) in _RAW_COMPRESSIONS
        or any(tag in directory for tag in (Tag.DNG_VERSION, Tag.CFA_PATTERN, Tag.CFA_REPEAT))
        for directory, _ in TiffReader(file).directories()
    )


def read_layout(directory: Directory) -> Layout | None:
    """Return how a directory's pixels are stored; None if what says so is damaged.

    Raises:
        ImageTooComplexError: the picture has more strips or tiles than any honest writer makes.
    """
    width, height = directory.integer(Tag.WIDTH, 0), directory.integer(Tag.HEIGHT, 0)
    if min(width, height) < 1:
        return None
    bits = directory.integers(Tag.BITS) or (1,)
    formats = directory.integers(Tag.SAMPLE_FORMAT) or (_UNSIGNED,)
    tiled = Tag.TILE_OFFSETS in directory
    tile = directory.integer(Tag.TILE_WIDTH, 0), directory.integer(Tag.TILE_HEIGHT, 0)
    if not tiled:
        rows = directory.integer(Tag.ROWS_PER_STRIP, height)
        tile = width, min(rows, height) if rows > 0 else height
    if min(tile) < 1:
        return None
    offsets = directory.places(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS)
    lengths = directory.places(Tag.TILE_BYTES if tiled else Tag.STRIP_BYTES)
    samples = directory.integer(Tag.SAMPLES, 1)
    compression = directory.integer(Tag.COMPRESSION, UNCOMPRESSED)
    planar = directory.integer(Tag.PLANES, 1) == _PLANES and samples > 1
    if compression == UNCOMPRESSED:
        # Some writers leave the lengths out, or give them wrong.
        row = -(-tile[0] * bits[0] * (1 if planar else samples) // 8)
        strips = -(-height // tile[1])
        whole = min(row * tile[1], _MOST_BYTES)
        lengths = array("Q", [whole]) * len(offsets)
        if not tiled:
            for at in range(strips - 1, len(offsets), strips):  # of each plane, the last one
                lengths[at] = min(row * (height - (strips - 1) * tile[1]), _MOST_BYTES)
    return Layout(
        directory=directory,
        width=width,
        height=height,
        bits=bits[0] if len(set(bits)) == 1 else 0,
        samples=samples,
        sample_format=formats[0] if len(set(formats)) == 1 else 0,
        photometric=directory.integer(Tag.PHOTOMETRIC, 0),
        compression=compression,
        predictor=directory.integer(Tag.PREDICTOR, 1),
        planar=planar,
        tile=tile,
        tiled=tiled,
        offsets=offsets,
        lengths=lengths,
    )


def describe_unreadable(layout: Layout) -> str:
    """Say which kind of TIFF it is, if it is one that is not read; else nothing."""
    compression = layout.compression
    if compression in BYTE_COMPRESSIONS:
        return _describe_unreadable_samples(layout)
    if compression in _JPEG_COMPRESSIONS:
        return "TIFF files with JPEG in planes" if layout.planar else ""
    if compression in _FAX_COMPRESSIONS:
        return "" if layout.bits == layout.samples == 1 else "TIFF files with gray fax data"
    return f"TIFF files of compression {compression}"


def _describe_unreadable_samples(layout: Layout) -> str:
    colors = COLOR_SAMPLES.get(layout.photometric, 0)
    if not colors or layout.samples < colors or not _reads_samples(layout):
        return "TIFF files with pixels of this kind"
    if layout.photometric == Photometric.CMYK:
        if layout.directory.integer(Tag.INK_SET, 1) != 1:
            return "TIFF files with other inks than CMYK"
        return "CMYK TIFF files with alpha" if layout.alpha is not None else ""
    if layout.photometric == Photometric.YCBCR and not _has_full_chroma(layout):
        return "TIFF files with subsampled colors that are no JPEG"
    return ""


#: Of the kinds of numbers, how many bits are read.
_DEEP_BITS: Final[Mapping[int, frozenset[int]]] = MappingProxyType(
    {
        _UNSIGNED: frozenset({*range(1, 17), 32}),
        _SIGNED: frozenset({16, 32}),
        _FLOAT: frozenset({16, 32, 64}),
    }
)
_BYTE: Final = 8


def _reads_samples(layout: Layout) -> bool:
    if layout.photometric in {Photometric.LAB, Photometric.ICC_LAB}:
        # a and b are signed by their nature, whatever the format says.
        integers = layout.sample_format in {_UNSIGNED, _SIGNED}
        return integers and layout.bits in {8, 16} and layout.predictor in {1, 2}
    if layout.bits not in _DEEP_BITS.get(layout.sample_format, ()):
        return False
    if layout.predictor != 1 and layout.bits % _BYTE:
        return False
    predictors = {1, 3} if layout.sample_format == _FLOAT else {1, 2}
    if layout.predictor not in predictors:
        return False
    if layout.photometric in {Photometric.PALETTE, Photometric.YCBCR}:
        return layout.sample_format == _UNSIGNED and layout.bits <= _BYTE
    return True


def _has_full_chroma(layout: Layout) -> bool:
    """Return whether Cb and Cr are stored for each pixel."""
    ratio = layout.directory.integers(Tag.YCBCR_SUBSAMPLING)
    if ratio:
        return ratio[:2] == (1, 1)
    stored = sum(layout.directory.places(Tag.STRIP_BYTES))
    return layout.compression == UNCOMPRESSED and stored >= 3 * layout.width * layout.height
