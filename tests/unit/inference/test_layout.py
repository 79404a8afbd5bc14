"""Exact places, on pictures whose subject is a rectangle that the model knows."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.layout import Box, limit_size, plan_layout
from inference.options import Options
from tests.support.cutouts import cut_out
from tests.support.pictures import RED, SUBJECT, subject_picture


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({}, (300, 200), SUBJECT),
        ({"crop": True, "crop_margin": "0"}, (100, 40), Box(0, 0, 100, 40)),
        ({"crop": True, "crop_margin": "5px 10%"}, (120, 50), Box(10, 5, 110, 45)),
        ({"crop": True, "crop_margin": "1px 2px 3px 4px"}, (106, 44), Box(4, 1, 104, 41)),
        # Wider than what the picture has around the subject: the margin is empty all the same.
        ({"crop": True, "crop_margin": "500px"}, (1100, 1040), Box(500, 500, 600, 540)),
        # The larger share decides: 240 of 300 pixels are 80 %.
        ({"scale": 80}, (300, 200), Box(30, 52, 270, 148)),
        ({"scale": 80, "position": "0%"}, (300, 200), Box(0, 0, 240, 96)),
        ({"scale": 80, "position": "100% 50%"}, (300, 200), Box(60, 52, 300, 148)),
        ({"scale": 20, "position": "original"}, (300, 200), Box(80, 58, 140, 82)),
        ({"scale": 100, "position": "original"}, (300, 200), Box(0, 10, 300, 130)),
        ({"position": "center"}, (300, 200), Box(100, 80, 200, 120)),
        ({"position": "original"}, (300, 200), SUBJECT),
        ({"scale": 80, "crop": True, "crop_margin": "10%"}, (120, 48), Box(12, 5, 108, 43)),
        ({"scale": 100, "max_side": 150}, (150, 100), Box(0, 20, 150, 80)),
        ({"canvas": "600x600", "scale": 80}, (600, 600), Box(60, 204, 540, 396)),
        ({"canvas": "100x100", "crop": True}, (100, 100), Box(0, 30, 100, 70)),
        ({"canvas": "300x400"}, (300, 400), Box(60, 150, 160, 190)),
    ],
)
def test_crop_margin_scale_and_position(
    options: dict[str, object], size: tuple[int, int], expected: Box
) -> None:
    result, pixels = cut_out(**options)
    assert (result.width, result.height) == size
    assert result.foreground == expected
    assert (pixels[expected.slices] == (*RED, 255)).all()
    assert np.count_nonzero(pixels[..., 3]) == expected.width * expected.height


def test_a_subject_at_the_upper_left_is_cropped_like_others() -> None:
    result, pixels = cut_out(subject_picture((300, 200), Box(0, 0, 100, 40)), crop=True)
    assert (result.width, result.height) == (100, 40)
    assert (pixels == (*RED, 255)).all()


@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    max_side=st.none() | st.integers(16, 16_384),
    max_pixels=st.none() | st.integers(1, 50_000_000),
)
def test_limits_hold_and_proportions_stay(
    width: int, height: int, max_side: int | None, max_pixels: int | None
) -> None:
    options = Options(max_side=max_side, max_pixels=max_pixels)
    across, down = limit_size(width, height, options, 50_000_000)
    assert 1 <= across <= width
    assert 1 <= down <= height
    assert across * down <= (max_pixels or 50_000_000)
    assert max(across, down) <= (max_side or 20_000)
    if min(across, down) > 100:
        assert across / down == pytest.approx(width / height, rel=0.03)
    if width * height <= (max_pixels or 50_000_000) and max(width, height) <= (max_side or 20_000):
        assert (across, down) == (width, height)


@given(
    place=st.tuples(st.integers(0, 90), st.integers(0, 40)),
    size=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    options=st.fixed_dictionaries(
        {
            "crop": st.booleans(),
            "crop_margin": st.just("7% 3px"),
            "scale": st.none() | st.integers(10, 100),
            "position": st.sampled_from([None, "original", "center", "0%", "100%", "33.3% 66.6%"]),
        }
    ),
    limits=st.fixed_dictionaries({"max_side": st.none() | st.integers(16, 200)})
    | st.fixed_dictionaries({"canvas": st.sampled_from(["16x19", "16x400", "400x16"])})
    | st.fixed_dictionaries({"max_pixels": st.integers(1, 9)}),
)
@example(place=(90, 40), size=(9, 9), options={}, limits={"max_pixels": 1})
def test_a_subject_never_leaves_its_result(
    place: tuple[int, int],
    size: tuple[int, int],
    options: dict[str, object],
    limits: dict[str, object],
) -> None:
    subject = Box(*place, place[0] + size[0], place[1] + size[1])
    chosen = Options.from_dict(options | limits)
    layout = plan_layout(100, 50, subject, chosen, max_pixels=10_000)
    whole = Box(0, 0, *layout.size)
    assert layout.subject is not None
    for box in (layout.target, layout.subject):
        assert box.intersect(whole) == box
        assert min(box.width, box.height) >= 1
    assert layout.source.intersect(Box(0, 0, 100, 50)) == layout.source
