"""Walk the segments of a JPEG (ITU-T T.81) in bounded steps: its frame, its scans, its metadata.

No pixel is read here: `inference.jpeg_pixels` does that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple, Self

from inference.errors import ImageTooComplexError

#: Scans, each of which costs a pass over the picture. Encoders write about 10, optimizers up to 64.
MAX_SCANS: Final = 100
#: Segments of a file.
MAX_SEGMENTS: Final = 32_768

START_OF_IMAGE: Final = b"\xff\xd8"
END_OF_IMAGE: Final = b"\xff\xd9"
#: Second bytes of markers (table B.1): a scan; application data; tables of Huffman codes, of
#: arithmetic conditioning and of quantization, and the restart interval.
START_OF_SCAN: Final = 0xDA
JFIF: Final = 0xE0
EXIF: Final = 0xE1
ICC_PROFILE: Final = 0xE2
ADOBE: Final = 0xEE
TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
#: Starts of frame, without the tables and extensions between them,
#: and with that of JPEG-LS (ITU-T T.87).
FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
#: Starts of frame whose coding no reader takes.
_UNREADABLE: Final[Mapping[int, str]] = MappingProxyType(
    dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "Lossless JPEG files")
    | dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "Hierarchical JPEG files")
    | {0xF7: "JPEG-LS files"}
)
_DEEP: Final = 12  # bits
#: Defines the number of lines, behind the first scan, where the frame leaves it open (B.2.5).
_LINES: Final = 0xDC
_START: Final = 0xD8
_END: Final = 0xD9
_COEFFICIENTS: Final = 64
_MAX_COMPONENTS: Final = 4
#: Bytes of a segment's beginning that the walk reads: a frame's header of four components.
_HEAD_BYTES: Final = 8 + 3 * _MAX_COMPONENTS

_FIRST_BLOCK_BYTES: Final = 1 << 12
_MAX_BLOCK_BYTES: Final = 1 << 18
# What begins no segment: fill bytes (replacing them twice leaves the last), stuffing, and markers
# without a length, which may stand within a scan. Replaced, for bytes are searched fastest so.
_STUFFING: Final = (b"\xff\0", b"\0\0")
_REPLACED: Final = (
    (b"\xff\xff", b"\0\xff"),
    (b"\xff\xff", b"\0\xff"),
    *((bytes((0xFF, kind)), b"\0\0") for kind in (0x00, 0x01, *range(0xD0, _START))),
)
_NO_SEGMENT: Final = frozenset(pair for pair, _ in _REPLACED)


class Segment(NamedTuple):
    """Where a segment is."""

    #: The second byte of its marker.
    kind: int
    #: Where its marker begins.
    start: int
    #: Where what follows it begins; of a scan, its entropy-coded data.
    end: int
    #: Its first bytes, from its length on.
    head: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """What a start of frame says (B.2.2)."""

    width: int
    height: int
    #: The numbers by which scans name the components.
    components: tuple[int, ...]
    progressive: bool
    #: What no reader takes, such as "12-bit JPEG files"; empty for the kinds that are read.
    unreadable: str

    @classmethod
    def read(cls, segment: Segment) -> Self:
        """Read the segment of a start of frame."""
        head = segment.head
        unreadable = _UNREADABLE.get(segment.kind, "")
        if head[2:3] == bytes([_DEEP]) and not unreadable:
            unreadable = "12-bit JPEG files"
        count, names = int.from_bytes(head[7:8], "big"), head[8::3]
        return cls(
            width=int.from_bytes(head[5:7], "big"),
            height=int.from_bytes(head[3:5], "big"),
            components=tuple(names[:count]),
            progressive=segment.kind in _PROGRESSIVE,
            unreadable=unreadable,
        )


class _Coverage:
    """Which coefficients the scans have sent, and which of their bits."""

    def __init__(self, frame: Frame) -> None:
        #: Of each component, by coefficient: the bits that are missing yet.
        self._missing = {name: [_COEFFICIENTS] * _COEFFICIENTS for name in frame.components}
        self._progressive = frame.progressive

    def add(self, scan: Segment) -> None:
        """Count what a scan sends (B.2.3)."""
        count = int.from_bytes(scan.head[2:3], "big")
        names, parameters = scan.head[3 : 3 + 2 * count : 2], scan.head[3 + 2 * count :]
        first, last, bits = 0, _COEFFICIENTS - 1, 0
        if self._progressive and len(parameters) >= 3:  # noqa: PLR2004 - the three numbers
            first, last, bits = parameters[0], parameters[1], parameters[2] & 0xF
        for name in names:
            missing = self._missing.get(name, [])
            for at in range(first, min(last + 1, len(missing))):
                missing[at] = bits

    @property
    def complete(self) -> bool:
        """Whether nothing of any component is missing."""
        return bool(self._missing) and not any(map(any, self._missing.values()))


@dataclass(frozen=True, slots=True)
class Jpeg:
    """What the walk over a file found, up to the end of its picture."""

    #: None if the header is damaged.
    frame: Frame | None
    segments: tuple[Segment, ...]
    #: Whether the scans are all there. Their data may end early: their reader tells.
    complete: bool


def walk_jpeg(file: BinaryIO) -> Jpeg:
    """Walk the segments of the first picture; what is appended to it is not looked at.

    A sequential picture ends with the scan that completes it, where readers stop.

    Raises:
        ImageTooComplexError: the file has more segments or scans than any honest writer makes.
    """
    frame: Frame | None = None
    coverage: _Coverage | None = None
    segments: list[Segment] = []
    at, scans = len(START_OF_IMAGE), 0
    while (found := find_segment(file, at)) is not None:
        _check_number(len(segments) + 1, MAX_SEGMENTS, "segments")
        start, kind = found
        if kind == _END or (kind == _START and scans):
            break
        segment = _read_segment(file, start, kind)
        segments.append(segment)
        at = segment.end
        if kind in FRAMES and frame is None:
            frame = Frame.read(segment)
            coverage = _Coverage(frame)
            if frame.unreadable:
                break
        if kind == _LINES and frame is not None and not frame.height and scans == 1:
            frame = replace(frame, height=int.from_bytes(segment.head[2:4], "big"))
        elif kind == START_OF_SCAN:
            scans += 1
            _check_number(scans, MAX_SCANS, "scans")
            if coverage is not None:
                coverage.add(segment)
        if _has_all(frame, coverage):
            break
    return Jpeg(frame, tuple(segments), coverage is not None and coverage.complete)


def _check_number(count: int, most: int, parts: str) -> None:
    if count > most:
        raise ImageTooComplexError.of_parts(parts, most)


def _has_all(frame: Frame | None, coverage: _Coverage | None) -> bool:
    """Return whether nothing of a sequential picture is missing, its height included."""
    if frame is None or coverage is None or frame.progressive or not frame.height:
        return False
    return coverage.complete


def _read_segment(file: BinaryIO, start: int, kind: int) -> Segment:
    if kind == _START:  # a second one in a row has no length
        return Segment(kind, start, start + 2, b"")
    file.seek(start + 2)
    head = file.read(_HEAD_BYTES)
    return Segment(kind, start, start + 2 + int.from_bytes(head[:2], "big"), head)


def find_segment(file: BinaryIO, at: int) -> tuple[int, int] | None:
    """Return where the first marker of a segment is from a place on, and its second byte.

    Within a scan, 0xFF is followed by 0 or a restart marker (B.1.1.5).
    """
    length = 2  # nearly always the marker is right here
    while True:
        file.seek(at)
        block = file.read(length)
        complete = len(block) == length
        block = block.replace(*_STUFFING)  # alone in most blocks
        first = block.find(b"\xff", 0, -1)
        if first >= 0 and block[first : first + 2] in _NO_SEGMENT:
            for pair, instead in _REPLACED:
                block = block.replace(pair, instead)
            first = block.find(b"\xff", 0, -1)
        if first >= 0:
            return at + first, block[first + 1]
        if not complete:
            return None
        at += length - 1  # a marker's two bytes may be parted
        length = min(max(_FIRST_BLOCK_BYTES, 2 * length), _MAX_BLOCK_BYTES)
