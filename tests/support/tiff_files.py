"""TIFFs of any kind, written here: samples of any depth, in pixels or planes, strips or tiles."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Value = tuple[int, ...]
_DEFLATE = 8


@dataclass(frozen=True)
class Page:
    """A directory and its pixels: (height, width, samples), as they are stored."""

    samples: NDArray[np.generic]
    photometric: int
    bits: int = 8
    planar: bool = False
    deflated: bool = False
    predictor: int = 1
    tile: int = 0
    tags: Mapping[int, Value] = field(default_factory=dict)
    subdirectories: Sequence["Page"] = ()


def tiff_file(*pages: Page, order: str = "<") -> bytes:
    """Write pages, each with its subdirectories."""
    file = bytearray(8)
    places = [_write(file, page, order) for page in pages]
    links = [4, *(next_link for _, next_link in places)]
    for link, (directory, _) in zip(links, places, strict=False):
        file[link : link + 4] = struct.pack(f"{order}I", directory)
    file[:4] = b"II*\0" if order == "<" else b"MM\0*"
    return bytes(file)


def _write(file: bytearray, page: Page, order: str) -> tuple[int, int]:
    """Append a page; return where its directory is, and where that names the next one."""
    height, width, count = page.samples.shape
    rows, columns = (page.tile, page.tile) if page.tile else (5, width)
    planes = np.split(page.samples, count, axis=2) if page.planar else [page.samples]
    blocks = [
        _pack(plane[top : top + rows, left : left + columns], page, order)
        for plane in planes
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]
    tags: dict[int, Value] = {256: (width,), 257: (height,), 258: (page.bits,) * count}
    tags |= {259: (_DEFLATE if page.deflated else 1,), 262: (page.photometric,), 277: (count,)}
    tags |= {284: (2 if page.planar else 1,), 317: (page.predictor,)}
    kinds = {"i": 2, "f": 3}
    tags[339] = (kinds.get(page.samples.dtype.kind, 1),) * count
    offsets = tuple(len(file) + sum(map(len, blocks[:at])) for at in range(len(blocks)))
    lengths = tuple(map(len, blocks))
    if page.tile:
        tags |= {322: (columns,), 323: (rows,), 324: offsets, 325: lengths}
    else:
        tags |= {273: offsets, 278: (rows,), 279: lengths}
    file += b"".join(blocks)
    if page.subdirectories:
        tags[330] = tuple(_write(file, each, order)[0] for each in page.subdirectories)
    tags |= page.tags
    return _write_directory(file, tags, order)


def _write_directory(file: bytearray, tags: Mapping[int, Value], order: str) -> tuple[int, int]:
    entries = b""
    for tag, values in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            data, place = struct.pack(f"{order}I", len(file)), data
            file += place
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + data
    at = len(file)
    file += struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return at, len(file) - 4


def _pack(block: NDArray[np.generic], page: Page, order: str) -> bytes:
    """Pack a strip or tile: predicted, and in the file's byte order."""
    if page.tile:
        missing = [(0, page.tile - length) for length in block.shape[:2]]
        block = np.pad(block, [*missing, (0, 0)], mode="edge")
    if page.bits % 8 or page.bits == 24:
        flat = np.asarray(block, np.uint16).reshape(len(block), -1, 1)
        bits = flat >> np.arange(page.bits, dtype=np.uint16)[::-1] & 1
        data = np.packbits(bits.astype(np.uint8).reshape(len(block), -1), axis=1).tobytes()
    elif page.predictor == 3:
        data = _predict_floats(block)
    else:
        if page.predictor == 2:
            whole = np.ascontiguousarray(block).view(f"u{block.dtype.itemsize}")
            block = np.concatenate([whole[:, :1], whole[:, 1:] - whole[:, :-1]], axis=1)
        data = block.astype(block.dtype.newbyteorder(order)).tobytes()
    return zlib.compress(data) if page.deflated else data


def _predict_floats(block: NDArray[np.generic]) -> bytes:
    rows, _, count = block.shape
    big = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">")))
    parted = big.view(np.uint8).reshape(rows, -1, block.dtype.itemsize)
    flat = np.moveaxis(parted, 2, 1).reshape(rows, -1)
    flat[:, count:] = flat[:, count:] - flat[:, :-count].copy()
    return flat.tobytes()
