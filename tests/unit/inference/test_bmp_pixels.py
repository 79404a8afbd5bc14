"""BMPs by masks of any widths and places, with or without alpha; and by numbers of colors."""

import time

import numpy as np
import pytest

from inference.decode import decode
from inference.errors import InvalidImageError, UnsupportedFormatError
from inference.probe import probe_image
from tests.support.bmp_files import BGRA, LEVELS, bmp_file, indexed_bmp


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


def test_other_widths_of_a_pixel_are_refused_by_the_header() -> None:
    with pytest.raises(UnsupportedFormatError, match="64 bits a pixel"):
        probe_image(bmp_file(bits=64, compression=0))


_CLEAR = [0, 0, 0, 0]
_ROWS = "0409 0000 0003 0506 0700 0107 0000 0204 0000"


@pytest.mark.parametrize(
    ("bits", "compression", "rows", "expected"),
    [
        (8, 1, _ROWS, [[9] * 4, [5, 6, 7, 7], [4, 4, 0, 0]]),
        (8, 1, f"{_ROWS} 0001", [[9] * 4, [5, 6, 7, 7], [4, 4, 0, 0]]),
        (8, 1, "0403 0001", [[3] * 4, _CLEAR, _CLEAR]),
        (8, 1, "0002 0101 0109 0002 0100 0108 0001", [_CLEAR, [0, 9, 0, 8], _CLEAR]),
        (8, 1, "ff03 ff04 0000 0006 0102 0304 0506 0001", [[3] * 4, [1, 2, 3, 4], _CLEAR]),
        (4, 2, "0312 0134 0000 0003 1230 0145 0000 0467", [[1, 2, 1, 3], [1, 2, 3, 4], [6, 7] * 2]),
        (8, 1, "0105" * 40 + "0000 0001", [[5] * 4, _CLEAR, _CLEAR]),
        (4, 2, "0312" * 40 + "0000 0001", [[1, 2, 1, 1], _CLEAR, _CLEAR]),
        (8, 0, "01020304 05060708 090a0b0c", [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]),
    ],
)
def test_run_lengths_and_palettes_of_any_length(
    bits: int, compression: int, rows: str, expected: list[list[int]]
) -> None:
    for colors in (16, 300):
        data = indexed_bmp(bits, compression, bytes.fromhex(rows), colors)
        assert decode(data).rgb[::-1, :, 0].tolist() == expected


@pytest.mark.parametrize("kept", range(0, 18, 2))
def test_run_lengths_that_lack_pixels_are_refused(kept: int) -> None:
    with pytest.raises(InvalidImageError, match="ends before the picture does"):
        decode(indexed_bmp(8, 1, bytes.fromhex(_ROWS)[:kept]))


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2)])
def test_codes_without_end_that_give_no_pixel_cost_as_little_as_runs(
    bits: int, compression: int
) -> None:
    """Steps to nowhere, and pixels beyond a row: 10 MB of either took 3 s."""
    spent = []
    for codes in ("0103 0103 0103 0103", "0002 0000 0002 0000", "0003 1230 4000 0103"):
        data = indexed_bmp(bits, compression, bytes.fromhex(codes) * 250_000 + b"\0\1")
        start = time.process_time()
        decode(data)
        spent.append(time.process_time() - start)
    assert max(spent) < 5 * spent[0] + 0.2
