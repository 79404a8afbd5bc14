"""Is a file's end missing? Told from its structure, without decoding."""

from typing import BinaryIO

_CHUNK = 1 << 18
_TAIL = 1 << 12

_JPEG_MARK = 0xFF
_JPEG_SOS = 0xDA
_JPEG_EOI = b"\xff\xd9"


def is_cut_off(file: BinaryIO, name: str) -> bool:
    """Does the file end before its picture does?

    Only what is certain counts: bytes after the picture, as cameras and editors append them, are
    none of its business, and formats that do not tell are never cut off.

    Args:
        file: seekable; its position is not kept.
        name: the format, as `identify` names it.
    """
    size = file.seek(0, 2)
    if name == "JPEG":
        return not _has_end_of_jpeg(file, size)
    if name == "PNG":
        return not _has_end_of_png(file, size)
    if name == "WEBP":
        return _riff_end(file) > size + 1  # some writers leave out the last padding byte
    return False


def _has_end_of_jpeg(file: BinaryIO, size: int) -> bool:
    """Is there an end marker after the first scan begins?

    Within a scan, 0xFF is followed by 0 or a restart marker (ITU-T T.81, B.1.1.5), so an EOI there
    is a real one. Those of thumbnails lie before, in the application segments. The file's tail is
    looked at first, since that is where it nearly always is.
    """
    scan = _first_scan(file, size)
    if scan is None:
        return False
    tail = max(scan, size - _TAIL)
    return _contains(file, tail, _JPEG_EOI) or _contains(file, scan, _JPEG_EOI)


def _first_scan(file: BinaryIO, size: int) -> int | None:
    at = 2
    while at + 4 <= size:
        file.seek(at)
        mark, kind, high, low = file.read(4)
        if mark != _JPEG_MARK or kind in {
            0x00,
            _JPEG_MARK,
        }:  # fill bytes, or stray ones that readers skip
            at += 1
        elif kind == _JPEG_SOS:
            return at
        elif kind == 0x01 or 0xD0 <= kind <= 0xD8:  # noqa: PLR2004 - markers without a length
            at += 2
        else:
            at += 2 + (high << 8 | low)
    return None


def _contains(file: BinaryIO, start: int, wanted: bytes) -> bool:
    file.seek(start)
    carried = b""
    while piece := file.read(_CHUNK):
        if wanted in carried + piece:
            return True
        carried = piece[1 - len(wanted) :]
    return False


def _has_end_of_png(file: BinaryIO, size: int) -> bool:
    at = 8
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        if head[4:] == b"IEND":
            return True
        at += 12 + int.from_bytes(head[:4], "big")
    return False


def _riff_end(file: BinaryIO) -> int:
    file.seek(4)
    return 8 + int.from_bytes(file.read(4), "little")
