"""A HEIC as phones write it, a grid of tiles; and colors that a HEIC or AVIF states."""

import struct

from PIL import Image

from tests.support.hostile_pictures import box
from tests.support.pictures import picture_file


def grid_heic(image: Image.Image, side: int) -> bytes:
    """A HEIC of tiles of `side` x `side` pixels, of which the last ones overhang the picture."""
    width, height = image.size
    places = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    files = [
        picture_file(image.crop((x, y, x + side, y + side)), "HEIC", quality=98) for x, y in places
    ]
    columns, rows = -(-width // side), -(-height // side)
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    items = [grid, *(_body(each, b"mdat") for each in files)]
    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    start = len(head) + len(_meta(files[0], image.size, side, items, 0)) + 8
    return head + _meta(files[0], image.size, side, items, start) + box(b"mdat", *items)


def _meta(tile: bytes, size: tuple[int, int], side: int, items: list[bytes], start: int) -> bytes:
    """The items and their properties; item 1 is the grid, and its bytes are the first."""
    numbers = range(1, len(items) + 1)
    entries = [
        box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), kind, b"\0")
        for number, kind in zip(numbers, [b"grid"] + [b"hvc1"] * len(numbers[1:]), strict=True)
    ]
    places, at = [], start
    for number, item in zip(numbers, items, strict=True):
        places.append(struct.pack(">HHHII", number, 0, 1, at, len(item)))
        at += len(item)
    properties = box(
        b"ipco",
        *(box(b"ispe", bytes(4), struct.pack(">II", *each)) for each in (size, (side, side))),
        box(b"hvcC", _body(tile, b"hvcC")),
    )
    # The grid has the first size, each tile the second and the decoder's configuration.
    links = [struct.pack(">HBB", 1, 1, 1)]
    links += [struct.pack(">HBBB", number, 2, 2, 0x83) for number in numbers[1:]]
    count = struct.pack(">I", len(numbers))
    parts = struct.pack(f">HH{len(numbers) - 1}H", 1, len(numbers) - 1, *numbers[1:])
    return box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), struct.pack(">H", 1)),
        box(b"iloc", bytes(4), b"\x44\0", struct.pack(">H", len(items)), *places),
        box(b"iinf", bytes(4), struct.pack(">H", len(items)), *entries),
        box(b"iprp", properties, box(b"ipma", bytes(4), count, *links)),
        box(b"iref", bytes(4), box(b"dimg", parts)),
    )


def _body(file: bytes, kind: bytes) -> bytes:
    """The body of the first box of a kind."""
    at = file.index(kind) - 4
    return file[at + 8 : at + int.from_bytes(file[at : at + 4], "big")]


def with_brand(file: bytes, brand: bytes) -> bytes:
    """A HEIC or AVIF which is said to be of this brand and of no other."""
    end = int.from_bytes(file[:4], "big")
    return file[:8] + brand + bytes(4) + brand * ((end - 16) // 4) + file[end:]


def with_stated_colors(file: bytes, primaries: int, transfer: int) -> bytes:
    """A HEIC or AVIF whose colors are said to be so, by the numbers of ITU-T H.273."""
    before, after = file.split(b"nclx")
    return before + b"nclx" + struct.pack(">HH", primaries, transfer) + after[4:]


def with_crop(avif: bytes, *fractions: int) -> bytes:
    """An AVIF of one item of which a `clap` of eight numbers leaves a part."""
    data = bytearray(avif)
    clap = box(b"clap", struct.pack(">2I2IiIiI", *fractions))

    def grow(kind: bytes, size: int) -> None:
        at = data.index(kind) - 4
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + size).to_bytes(4, "big")

    start = data.index(b"ipco") - 4
    end, at, count = start + int.from_bytes(data[start : start + 4], "big"), start + 8, 0
    while at < end:
        at, count = at + int.from_bytes(data[at : at + 4], "big"), count + 1
    data[end:end] = clap
    links = data.index(b"ipma") + 4 + 8 + 2
    data.insert(links + 1 + data[links], 0x80 | (count + 1))
    data[links] += 1
    for kind, size in ((b"ipco", 40), (b"ipma", 1), (b"iprp", 41), (b"meta", 41)):
        grow(kind, size)
    # Behind its kind and version: widths, the count of items, an id, zeros, the count of parts.
    at = data.index(b"iloc") + 4 + 4 + 2 + 2 + 2 + 2 + 2
    place = int.from_bytes(data[at : at + 4], "big") + 41
    data[at : at + 4] = place.to_bytes(4, "big")
    return bytes(data)
