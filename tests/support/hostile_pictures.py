"""Small files that ask much work of a reader."""

import io
import struct
import zlib

from PIL import Image

from tests.support.pictures import picture_file
from tests.support.png_files import png_file


def tall_png(width: int, height: int, *more: bytes) -> bytes:
    """A black gray PNG of any size, with more chunks before its pixels."""
    return png_file((width, height), zlib.compress(bytes((width + 1) * height), 9), *more)


def many_scans(size: tuple[int, int], scans: int, *, progressive: bool = True) -> bytes:
    """A black JPEG of so many scans; not progressive, its three components come one by one."""
    mode = "L" if progressive else "RGB"
    image = Image.new(mode, size)
    whole = picture_file(image, "JPEG", progressive=progressive, quality=50, subsampling=0)
    first, end = whole.index(b"\xff\xda"), len(whole) - 2
    if progressive:
        last = whole.rindex(b"\xff\xda")
        more = scans - whole.count(b"\xff\xda")
        return whole[:end] + more * whole[last:end] + whole[end:]
    # One component a scan; its entropy-coded bytes need not be whole for the structure to be.
    heads = (b"\xff\xda\0\x08\1%c\0\0\x3f\0" % name for name in [1] * (scans - 2) + [2, 3])
    return whole[:first] + b"".join(head + whole[first + 14 : end] for head in heads) + whole[end:]


def many_tags(
    tags: int, length: int, *, order: str = "<", big_tiff: bool = False, far: int = 8
) -> bytes:
    """A gray TIFF of 8 x 8 pixels with so many more tags, which claim two places by turns."""
    word = "Q" if big_tiff else "I"
    entries = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (278, 8), (279, 64)]
    count = len(entries) + tags
    head = (
        struct.pack(order + "HHHQ", 43, 8, 0, 16) if big_tiff else struct.pack(order + "HI", 42, 8)
    )
    table = struct.pack(order + ("Q" if big_tiff else "H"), count)
    for tag, value in entries:
        table += struct.pack(f"{order}HH{word}{word}", tag, 16 if big_tiff else 4, 1, value)
    for number in range(tags):
        table += struct.pack(
            f"{order}HH{word}{word}", 40_000 + number, 1, length, (8, far)[number % 2]
        )
    file = io.BytesIO()
    file.write((b"II" if order == "<" else b"MM") + head + table + bytes(far + max(length, 100)))
    return file.getvalue()


def many_directories(directories: int, length: int) -> bytes:
    """A TIFF of so many directories, each tag of which claims nearly all of so many bytes."""
    tags = (254, 255, 256, 257, 258, 259, 262, 273, 277, 278, 279, 330, 339)
    table, size = b"II*\0" + struct.pack("<I", 8), 2 + 12 * len(tags) + 4
    for number in range(1, directories + 1):
        table += struct.pack("<H", len(tags))
        table += b"".join(struct.pack("<HHII", tag, 1, length - 100, 50) for tag in tags)
        table += struct.pack("<I", 8 + number * size if number < directories else 0)
    return table.ljust(length, b"\0")


def many_strips(strips: int) -> bytes:
    """A TIFF of 2 x so many gray pixels, each row of which is a strip."""
    at = 8 + 2 + 10 * 12 + 4
    entries = [(256, 4, 1, 2), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 8)]
    entries += [(262, 3, 1, 1), (273, 4, strips, at), (277, 3, 1, 1), (278, 4, 1, 1)]
    entries += [(279, 4, strips, at + 4 * strips), (317, 3, 1, 1)]
    table = struct.pack("<H", len(entries))
    table += b"".join(struct.pack("<HHII", *each) for each in entries) + bytes(4)
    row = zlib.compress(bytes(2))
    places = struct.pack("<I", at + 8 * strips) * strips + struct.pack("<I", len(row)) * strips
    return b"II*\0" + struct.pack("<I", 8) + table + places + row


def box(kind: bytes, *parts: bytes, size: int | None = None) -> bytes:
    """A box of a HEIF file; its size may be another one than it says."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body) if size is None else size) + kind + body


def heic_header(
    size: tuple[int, int],
    tiles: dict[int, list[int]],
    tile: tuple[int, int] = (512, 512),
    *,
    wide: bool = False,
    more: bytes = b"",
    brand: bytes = b"heic",
) -> bytes:
    """A HEIC or AVIF as it begins: item 1 of a size, others of another; what it is derived from."""
    word = "I" if wide else "H"
    version = struct.pack(">I", wide << 24)
    names = sorted({1, *tiles, *(each for parts in tiles.values() for each in parts)})
    extents = [box(b"ispe", bytes(4), struct.pack(">II", *each)) for each in (size, tile)]
    links = b"".join(struct.pack(f">{word}BB", name, 1, 0x81 + (name > 1)) for name in names)
    references = [
        box(b"dimg", struct.pack(f">{word}H{len(parts)}{word}", name, len(parts), *parts))
        for name, parts in tiles.items()
    ]
    properties = box(
        b"iprp", box(b"ipco", *extents), box(b"ipma", version, struct.pack(">I", len(names)), links)
    )
    primary = box(b"pitm", version, struct.pack(f">{word}", 1))
    meta = box(b"meta", bytes(4), primary, properties, box(b"iref", version, *references), more)
    return box(b"ftyp", brand, bytes(4), b"mif1", brand) + meta + box(b"mdat", bytes(16))
