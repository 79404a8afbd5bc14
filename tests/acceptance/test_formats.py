"""Files of every format and kind through the service: the right picture, or a refusal by name."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from deploy.client import submit_batch
from tests.support.format_files import FILES, ROWS
from tests.support.heic_files import with_stated_colors
from tests.support.paths import DATA
from tests.support.pictures import picture_file, read_picture
from tests.support.png_files import png_chunk, png_of_samples
from tests.support.service import RunningService, eventually
from tests.support.tiff_files import Page, tiff_file

#: Pictures of a batch, at most.
_BATCH: Final = 100

Array = np.ndarray[Any, Any]


def _send(service: RunningService, files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    """Send files in batches; return of each the cutout's bytes, or the item that failed."""
    found: dict[str, Any] = {}
    names = list(files)
    for start in range(0, len(names), _BATCH):
        part = names[start : start + _BATCH]
        paths = [folder / f"{start + number}.bin" for number in range(len(part))]
        for path, name in zip(paths, part, strict=True):
            path.write_bytes(files[name])
        address = f"/api/v1/batches/{submit_batch(service.client, paths, {})['batch_id']}"

        def ended(address: str = address) -> dict[str, Any] | None:
            batch = service.client.request("GET", address)
            return batch if batch["status"] == "completed" else None

        items = eventually("the batch is completed", ended)["items"]
        found |= {name: item for name, item in zip(part, items, strict=True) if item["error"]}
        if len(found) == start + len(part):
            continue  # without a cutout there is no archive
        archive = service.client.download(f"{service.url}{address}/archive")
        with zipfile.ZipFile(io.BytesIO(archive)) as cutouts:
            for path, name in zip(paths, part, strict=True):
                if name not in found:
                    found[name] = cutouts.read(f"{path.stem}.png")
    return found


@pytest.fixture(scope="module")
def answers(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each file, by the row's first words and a number."""
    files = {f"{row} {at}": file for row in FILES for at, file in enumerate(FILES[row]())}
    return _send(service, files, tmp_path_factory.mktemp("kinds"))


def test_the_table_and_the_files_have_the_same_rows() -> None:
    for row in ROWS:
        assert any(row.startswith(each) for each in FILES), row
    for each in FILES:
        assert any(row.startswith(each) for row in ROWS), each


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_becomes_of_the_file(answers: dict[str, Any], row: str) -> None:
    key = max((each for each in FILES if row.startswith(each)), key=len)
    refused = re.match(r"`(\w+)`: (.+?)(, when it is cut out)?$", ROWS[row])
    for answer in [answers[f"{key} {at}"] for at in range(len(FILES[key]()))]:
        if refused is None:
            assert isinstance(answer, bytes), answer
        else:
            assert not isinstance(answer, bytes)
            assert answer["error"]["type"] == refused[1]
            assert refused[2] in answer["error"]["message"]
            assert (answer["task_id"] is not None) is (refused[3] is not None)


with Image.open(DATA / "coffee.jpg") as _coffee:
    _PHOTO: Final = _coffee.convert("RGB").resize((96, 64), Image.Resampling.LANCZOS)
_RGB: Final = np.asarray(_PHOTO)
_GRAY: Final = np.asarray(_PHOTO.convert("L"))[..., None]


def _png(samples: Array) -> bytes:
    return picture_file(Image.fromarray(np.rint(samples).astype(np.uint8).squeeze()))


def _srgb(light: Array) -> Array:
    """Levels of sRGB for linear light."""
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _with(*chunks: bytes) -> bytes:
    return png_of_samples(2, 8, _RGB, *chunks)


def _transparent_gray(depth: int) -> tuple[bytes, bytes, float]:
    """A gray PNG, one level of which is transparent; and the same with an alpha of its own."""
    samples, top = _GRAY >> (8 - depth), (1 << depth) - 1
    chunk = png_chunk(b"tRNS", struct.pack(">H", top))
    levels = (samples * (255 // top)).repeat(3, axis=2)
    alpha = np.where(samples == top, 0, 255)
    return png_of_samples(0, depth, samples, chunk), _png(np.dstack([levels, alpha])), 0


def _ancillary(kind: bytes, body: bytes, *, wrong: bool = False) -> tuple[bytes, bytes, float]:
    """A PNG with a chunk of metadata, whose checksum may be wrong; and one without."""
    chunk = png_chunk(kind, body)
    return _with(chunk[:-1] + bytes([chunk[-1] ^ wrong])), _with(), 0


_DEEP: Final = _RGB.astype(np.uint16) * 257
_REDUCED: Final = Page(np.asarray(_PHOTO.resize((24, 16))), 2, tags={254: (1,)})
_LARGE: Final = zlib.compress(bytes(3_000_000))
_JPEG: Final = picture_file(_PHOTO, "JPEG")
_AVIF: Final = picture_file(_PHOTO, "AVIF", quality=100, subsampling="4:4:4")
_LINEAR: Final = _png(_srgb(_RGB / 255))
#: A file, a plain one of the same picture, and by how many levels their cutouts may differ.
_SAME: Final[dict[str, tuple[bytes, bytes, float]]] = {
    "TIFF of 16 bits in planes": (tiff_file(Page(_DEEP, 2, 16, planar=True)), _png(_RGB), 0),
    "TIFF of 16 bits, white is zero": (
        tiff_file(Page(65535 - _GRAY.astype(np.uint16) * 257, 0, 16)),
        _png(_GRAY),
        0,
    ),
    "TIFF, first a thumbnail": (tiff_file(_REDUCED, Page(_RGB, 2)), _png(_RGB), 0),
    "TIFF, the picture in a subdirectory": (
        tiff_file(Page(_REDUCED.samples, 2, tags={254: (1,)}, subdirectories=(Page(_RGB, 2),))),
        _png(_RGB),
        0,
    ),
    "gray PNG of 2 bits with tRNS": _transparent_gray(2),
    "gray PNG of 4 bits with tRNS": _transparent_gray(4),
    "PNG with gAMA": (_with(png_chunk(b"gAMA", struct.pack(">I", 100_000))), _LINEAR, 2),
    "PNG with cICP": (
        _with(png_chunk(b"cICP", b"\1\5\0\1")),
        _png(_srgb((_RGB / 255) ** 2.8)),
        2,
    ),
    "AVIF with nclx": (with_stated_colors(_AVIF, 1, 8), _LINEAR, 4),
    "PNG with a large text": _ancillary(b"zTXt", b"Raw profile type xmp\0\0" + _LARGE),
    "PNG with a large international text": _ancillary(b"iTXt", b"XML\0\1\0\0\0" + _LARGE),
    "PNG with a large profile": _ancillary(b"iCCP", b"name\0\0" + _LARGE),
    "PNG with a wrong checksum": _ancillary(b"tEXt", b"Comment\0cup", wrong=True),
    "PNG with a short chunk": _ancillary(b"gAMA", b"\0"),
    "JPEG without its end mark": (_JPEG[:-2], _JPEG, 0),
}


@pytest.fixture(scope="module")
def cutouts(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cutouts of `_SAME`: of each file, and of the plain one."""
    pairs = {name: dict(zip(("", " plain"), each, strict=False)) for name, each in _SAME.items()}
    files = {name + kind: file for name, both in pairs.items() for kind, file in both.items()}
    return _send(service, files, tmp_path_factory.mktemp("same"))


@pytest.mark.parametrize("name", _SAME)
def test_a_file_of_a_rare_kind_gives_the_cutout_of_a_plain_one(
    cutouts: dict[str, Any], name: str
) -> None:
    found, plain = (np.asarray(read_picture(cutouts[name + kind]), int) for kind in ("", " plain"))
    assert found.shape == plain.shape == (64, 96, 4)
    assert (plain[..., 3] > 0).any(), "there is something to compare"
    assert np.abs(found - plain).mean() <= _SAME[name][2]


def test_a_half_jpeg_with_an_end_mark_fails_and_a_webp_is_dark_where_it_is_clear(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    path, whole = tmp_path / "photo.jpg", coffee.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[-2:])
    task = service.client.wait(service.client.submit(path, {}))
    assert (task["status"], task["error"]["type"]) == ("failed", "invalid_image")
    webp = read_picture(service.client.cut_out(coffee, {"output_format": "webp"}))
    pixels = np.asarray(webp)
    assert (webp.format, webp.mode) == ("WEBP", "RGBA")
    # Its compression loses some; libwebp's own filling would be up to white.
    assert np.percentile(pixels[pixels[..., 3] == 0], 99) <= 32
