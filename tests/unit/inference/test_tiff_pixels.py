"""A TIFF of any depth, order, layout and colors gives its picture, or is refused by name."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from inference.errors import InvalidImageError, UnsupportedFormatError
from inference.probe import probe_image
from tests.support.pictures import ended_early, picture_file
from tests.support.tiff_files import Page, tiff_file

_COLORS = np.array(
    [[200, 30, 40], [30, 180, 60], [20, 60, 220], [128, 128, 128], [255, 255, 255], [0, 0, 0]],
    np.uint8,
)
#: 13 x 18: neither strips nor tiles fit.
_PICTURE = np.repeat(np.repeat(_COLORS.reshape(2, 3, 3), 7, axis=0)[:13], 6, axis=1)
_GRAY = _PICTURE[..., 1:2]
_ALPHA = np.where(np.arange(18) < 5, 51, 255)[None, :, None].repeat(13, 0).astype(np.uint8)


def _deepen(levels: np.ndarray[Any, Any], bits: int, kind: str) -> np.ndarray[Any, Any]:
    if kind == "f":
        return (levels / 255).astype(f"f{bits // 8}")
    wide = "u4" if bits == 32 else "u2" if bits > 8 else "u1"
    return np.rint(levels * (((1 << bits) - 1) / 255)).astype(wide)


#: What a picture's samples are: photometric, samples, more tags, and what is expected of them.
_KINDS: dict[str, tuple[int, np.ndarray[Any, Any], dict[int, tuple[int, ...]]]] = {
    "black is zero": (1, _GRAY, {}),
    "white is zero": (0, 255 - _GRAY, {}),
    "gray, alpha": (1, np.dstack([_GRAY, _ALPHA]), {338: (2,)}),
    "gray, associated alpha": (1, np.dstack([_GRAY * (_ALPHA / 255), _ALPHA]), {338: (1,)}),
    "rgb": (2, _PICTURE, {}),
    "rgb, something": (2, np.dstack([_PICTURE, _ALPHA]), {338: (0,)}),
    "rgb, alpha": (2, np.dstack([_PICTURE, _ALPHA]), {338: (2,)}),
    "rgb, something, alpha": (2, np.dstack([_PICTURE, _GRAY, _ALPHA]), {338: (0, 2)}),
    "rgb, associated alpha": (2, np.dstack([_PICTURE * (_ALPHA / 255), _ALPHA]), {338: (1,)}),
    "cmyk": (5, np.dstack([255 - _PICTURE, 0 * _GRAY]), {}),
}


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        *((bits, "u") for bits in (1, 2, 4, 6, 8, 10, 12, 16, 32)),
        *((bits, "f") for bits in (16, 32, 64)),
    ],
)
@pytest.mark.parametrize("name", _KINDS)
def test_the_picture_is_the_same_at_each_depth(name: str, bits: int, kind: str) -> None:
    photometric, levels, tags = _KINDS[name]
    samples = _deepen(levels, bits, kind)
    alike = "gray" in name or "zero" in name
    expected = (_GRAY if alike else _PICTURE).astype(float).repeat(3 if alike else 1, axis=2)
    if bits < 8:
        top = (1 << bits) - 1
        expected = np.rint(expected * top / 255) * 255 / top
    # Dividing by an alpha of a fifth makes five levels of one.
    tolerance = 6 if "associated" in name and bits <= 10 else 1.1
    for order in "<>":
        for planar in (False, True):
            for deflated, predictor, tile in ((False, 1, 0), (False, 1, 16), (True, 0, 0)):
                chosen = predictor or (1 if bits % 8 else 3 if kind == "f" else 2)
                page = Page(samples, photometric, bits, planar, deflated, chosen, tile, tags)
                picture = decode(tiff_file(page, order=order))
                told = f"{order} planar {planar}, deflated {deflated}, tile {tile}"
                shown = slice(None) if bits >= 8 or "associated" not in name else slice(5, None)
                assert np.abs(picture.rgb - expected)[:, shown].max() <= tolerance, told
                assert (picture.alpha is not None) is name.endswith(" alpha"), told
                if picture.alpha is not None and bits >= 8:
                    assert np.abs(picture.alpha - _ALPHA[..., 0].astype(int)).max() <= 1, told


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [8, 9])
def test_lab_of_8_and_16_bits_signed_or_not(photometric: int, bits: int) -> None:
    # CIE L*a*b* of sRGB's red at D50: 54.3, 80.8, 69.9
    lightness, a, b = 54.3, 81, 70
    offset = 128 if photometric == 9 else 0
    if bits == 8:
        stored = [round(lightness * 2.55), a + offset, b + offset]
    else:
        top = 65280 if photometric == 9 else 65535
        stored = [round(lightness * top / 100), (a + offset) * 256, (b + offset) * 256]
    samples = np.full((4, 5, 3), stored, np.uint8 if bits == 8 else np.uint16)
    picture = decode(tiff_file(Page(samples, photometric, bits)))
    assert np.abs(picture.rgb.astype(int) - [255, 0, 0]).max() <= 8


def test_palettes_of_each_depth_and_of_8_bit_entries() -> None:
    for bits in (1, 2, 4, 8):
        samples = np.arange(12).reshape(3, 4, 1) % (1 << bits)
        entries = np.arange(3 << bits) * 77 % 256
        for factor in (257, 1):
            colors = tuple(int(each) * factor for each in entries)
            page = Page(samples.astype(np.uint8), 3, bits, tags={320: colors})
            expected = entries.reshape(3, -1).T[samples[..., 0]]
            assert np.array_equal(decode(tiff_file(page)).rgb, expected), (bits, factor)


def _flat(size: int, tags: dict[int, tuple[int, ...]], **more: Any) -> Page:  # noqa: ANN401
    return Page(np.full((size, size, 3), size, np.uint8), 2, tags=tags, **more)


_REDUCED = {254: (1,)}


@pytest.mark.parametrize(
    "pages",
    [
        (_flat(8, _REDUCED), _flat(40, {})),
        (_flat(8, {255: (2,)}), _flat(40, {})),
        (_flat(8, {254: (4,)}), _flat(40, {})),
        (_flat(8, _REDUCED, subdirectories=(_flat(20, _REDUCED), _flat(40, {}))),),
        (_flat(8, {}, subdirectories=(_flat(40, {}),)), _flat(60, {})),
        (_flat(40, {}, subdirectories=(_flat(20, _REDUCED),)), _flat(60, {})),
        (_flat(40, {}), _flat(60, {})),
        (_flat(8, _REDUCED), _flat(40, _REDUCED)),
    ],
)
def test_the_picture_and_not_its_thumbnail_is_taken(pages: tuple[Page, ...]) -> None:
    for order in "<>":
        data = tiff_file(*pages, order=order)
        assert probe_image(data).width == 40
        assert (decode(data).rgb == 40).all()


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({50706: (1,)}, "Camera raw files.*Develop the picture"),
        ({262: (10,)}, "pixels of this kind"),
        ({258: (5, 6, 5)}, "pixels of this kind"),
        ({258: (24,) * 3}, "pixels of this kind"),
        ({259: (7,), 284: (2,)}, "JPEG in planes"),
    ],
)
def test_what_is_not_read_is_named(tags: dict[int, tuple[int, ...]], words: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=words):
        probe_image(tiff_file(_flat(8, tags)))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("deflated", [False, True])
def test_missing_strips_are_found(*, planar: bool, deflated: bool) -> None:
    page = Page(_PICTURE, 2, planar=planar, deflated=deflated)
    assert np.array_equal(decode(tiff_file(page)).rgb, _PICTURE)
    for tags in ({257: (30,)}, {273: (1 << 30,)}):  # too few, and beyond the end
        with pytest.raises(InvalidImageError, match="ends before the picture does"):
            probe_image(tiff_file(replace(page, tags=tags)))


def test_a_picture_of_many_bytes_a_pixel_is_no_bomb() -> None:
    samples = np.full((1700, 1700, 4), 0.5)  # 92 MB
    picture = decode(tiff_file(Page(samples, 2, 64, deflated=True, predictor=3)))
    assert (picture.rgb == 128).all()


@pytest.mark.parametrize("brightest", [1.2, 16, np.inf])
def test_highlights_beyond_white_are_cut_and_darken_nothing(brightest: float) -> None:
    levels = (_PICTURE / 255).astype(np.float32)
    levels[0, 0] = brightest
    expected = _PICTURE.copy()
    expected[0, 0] = 255
    assert np.array_equal(decode(tiff_file(Page(levels, 2, 32))).rgb, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_missing_data_of_a_jpeg_within_a_tiff_are_found(mode: str, photo: Image.Image) -> None:
    strips = {"compression": "jpeg", "tiffinfo": {278: 16}}
    whole = picture_file(photo.convert(mode), "TIFF", **strips)
    assert decode(whole).rgb.shape == (64, 96, 3)
    with pytest.raises(InvalidImageError, match="ends before the picture does"):
        decode(ended_early(whole))


def test_odd_tags_decide_nothing() -> None:
    odd = {700: (1 << 31,) * 3, 34675: (7,), 34665: (1 << 31,), 50000: (0,), 330: (9, 9)}
    data = tiff_file(Page(_PICTURE, 2, tags=odd))
    data = data.replace(b"\xbc\x02\4\0\3\0\0\0", b"\xbc\x02\4\0\0\0\0\x80")  # 700, of 8 GB
    assert np.array_equal(decode(data).rgb, _PICTURE)
