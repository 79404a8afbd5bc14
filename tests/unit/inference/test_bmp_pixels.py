"""BMPs whose pixels are divided by masks: any widths and places, with or without alpha."""

import struct

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from inference.errors import InvalidImageError, UnsupportedFormatError
from tests.support.bmp_files import BGRA, LEVELS, bmp_file
from tests.support.icc_profiles import BLUE, GREEN, RED, rgb_profile
from tests.support.pictures import picture_file


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize(
    ("masks", "more"),
    [
        (BGRA, {"header": 124}),
        (BGRA, {"header": 108}),
        (BGRA, {"header": 56}),
        (BGRA, {"header": 40, "compression": 6}),
        ((0xFF, 0xFF00, 0xFF0000, 0xFF000000), {}),
        ((0xFF000000, 0xFF0000, 0xFF00, 0xFF), {}),
        ((0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000), {}),  # 10 bits a color, 2 of alpha
        ((0x7C00, 0x3E0, 0x1F, 0x8000), {"bits": 16}),
        ((0xF00, 0xF0, 0xF, 0xF000), {"bits": 16}),
        ((0xF800, 0x7E0, 0x1F, 0), {"bits": 16}),
        ((0xFF0000, 0xFF00, 0xFF), {"header": 40}),
        ((0xFF0000, 0xFF00, 0xFF), {"header": 52}),
    ],
)
def test_levels_are_those_of_the_masks(
    masks: tuple[int, ...], more: dict[str, int], *, top_down: bool
) -> None:
    picture = decode(bmp_file(masks, top_down=top_down, **more))
    found = [*np.moveaxis(picture.rgb, -1, 0)]
    assert (picture.alpha is not None) == (len(masks) == 4 and masks[3] > 0)
    if picture.alpha is not None:
        found.append(picture.alpha)
    for channel, levels in enumerate(found):
        steps = (1 << masks[channel].bit_count()) - 1
        assert np.abs(LEVELS[..., channel] - levels.astype(int)).max() <= 128 / min(steps, 128)


def test_an_alpha_that_is_0_everywhere_is_opaque() -> None:
    levels = LEVELS.copy()
    levels[..., 3] = 0
    picture = decode(bmp_file(levels=levels))
    assert picture.alpha is not None
    assert picture.alpha.min() == 255
    assert np.array_equal(picture.rgb, levels[..., :3])


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (bmp_file()[:-1], InvalidImageError, "ends before the picture does"),
        (bmp_file(bits=64, compression=0), UnsupportedFormatError, "64 bits a pixel"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_its_header(
    data: bytes, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        decode(data)


def _with_colors(kind: bytes, primaries: tuple[float, ...], gamma: float, profile: bytes) -> bytes:
    """A BMP of the V5 header whose colors are said to be so."""
    whole = picture_file(Image.new("RGB", (4, 4), (150, 200, 100)), "BMP")
    numbers = [round(each * (1 << 30)) for each in primaries] + [round(gamma * 65536)] * 3
    stated = struct.pack("<4s12I", kind, *numbers)
    more = bytes(16) + stated + struct.pack("<IIII", 4, 124 + 48, len(profile), 0)
    head = struct.pack("<I", 14 + 124) + struct.pack("<I", 124) + whole[18:54] + more
    return whole[:10] + head + whole[54:] + profile


@pytest.mark.parametrize(
    ("kind", "gamma", "profile", "expected"),
    [
        (bytes(4), 2.2, b"", (124, 201, 92)),
        (bytes(4), 1 / 2.2, b"", (124, 201, 92)),
        (bytes(4), 0, b"", (150, 200, 100)),
        (b"BGRs", 2.2, b"", (150, 200, 100)),
        (b"DEBM", 0, rgb_profile(BLUE, GREEN, RED), (100, 200, 150)),
        (b"DEBM", 0, b"broken", (150, 200, 100)),
    ],
)
def test_stated_colors_of_a_bmp_are_converted(
    kind: bytes, gamma: float, profile: bytes, expected: tuple[int, ...]
) -> None:
    adobe = (0.64, 0.33, 0.03, 0.21, 0.71, 0.08, 0.15, 0.06, 0.79)
    rgb = decode(_with_colors(kind, adobe, gamma, profile)).rgb
    assert np.abs(rgb.astype(int) - expected).max() <= 2
