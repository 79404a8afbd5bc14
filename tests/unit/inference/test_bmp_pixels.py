"""BMPs whose pixels are divided by masks: any widths and places, with or without alpha."""

import numpy as np
import pytest

from inference.decode import decode
from inference.errors import UnsupportedFormatError
from inference.probe import probe_image
from tests.support.bmp_files import BGRA, LEVELS, bmp_file


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
