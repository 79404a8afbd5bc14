import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidOptionError
from inference.options import (
    Options,
    Output,
    OutputFormat,
    Position,
    Shadow,
    parse_crop_margin,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)

_WHITE = (255, 255, 255, 255)
_SHARES = st.floats(0, 100).map(lambda value: round(value, 2))
_MARGINS = st.one_of(
    st.integers(0, 500).map(lambda value: f"{value}px"),
    st.floats(0, 50).map(lambda value: f"{value:.2f}%"),
)
_ROIS = st.tuples(*[st.floats(0, 49)] * 2, *[st.floats(51, 100)] * 2).map(
    lambda ends: " ".join(f"{each:.2f}%" for each in ends)
)


@given(
    st.builds(
        Options,
        output=st.sampled_from(Output),
        roi=_ROIS.map(parse_roi),
        crop=st.booleans(),
        crop_margin=st.tuples(*[_MARGINS] * 4).map(" ".join).map(parse_crop_margin),
        scale=st.none() | st.integers(10, 100) | st.floats(10, 100),
        position=st.none() | st.builds(Position) | st.builds(Position, _SHARES, _SHARES),
        max_side=st.none() | st.integers(16, 16384),
        max_pixels=st.none() | st.integers(1, 50_000_000),
        shadow_opacity=st.integers(0, 100),
        semitransparency=st.booleans(),
    )
)
def test_all_options_survive_json_and_are_written_in_one_way(options: Options) -> None:
    text = json.dumps(options.to_dict())
    assert Options.from_dict(json.loads(text)) == options
    assert json.dumps(Options.from_dict(json.loads(text)).to_dict()) == text
    assert len(text) < 900, "it must fit into a bucket's metadata"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10% 20% 90% 80%", "10% 20% 90% 80%"),
        ("0 0 100px 50.50%", "0% 0% 100px 50.5%"),
        ("0px 7px 100% 100%", "0% 7px 100% 100%"),
    ],
)
def test_regions(text: str, canonical: str) -> None:
    assert str(parse_roi(text)) == canonical


@pytest.mark.parametrize("text", ["0 0 100% 100%", "0% 0% 100% 100%", "0px 0px 100% 100.0%"])
def test_the_whole_picture_is_no_region(text: str) -> None:
    assert parse_roi(text) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_parameter"),
        ("1 2 3 4", "invalid_parameter"),
        ("0 0 10px", "invalid_parameter"),
        ("0 0 -5px 10px", "invalid_parameter"),
        ("0 0 10em 10em", "invalid_parameter"),
        ("0 0 101% 100%", "roi_exceeds_bounds"),
        ("50% 0 40% 100%", "roi_region_empty"),
        ("0 9px 100% 9px", "roi_region_empty"),
    ],
)
def test_what_is_no_region(text: str, code: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_roi(text)
    assert (caught.value.field, caught.value.code) == ("roi", code)


@pytest.mark.parametrize(
    ("ends", "code"),
    [("0 0 101px 10px", "roi_exceeds_bounds"), ("50% 0 50px 10px", "roi_region_empty")],
)
def test_a_region_is_judged_by_the_pictures_size(ends: str, code: str) -> None:
    roi = parse_roi(ends)
    assert roi is not None
    with pytest.raises(InvalidOptionError) as caught:
        roi.to_pixels(100, 50)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0px 0px 0px 0px"),
        ("30px", "30px 30px 30px 30px"),
        ("10% 5px", "10% 5px 10% 5px"),
        ("1px 2px 3% 50%", "1px 2px 3% 50%"),
        ("500px", "500px 500px 500px 500px"),
    ],
)
def test_margins(text: str, canonical: str) -> None:
    assert str(parse_crop_margin(text)) == canonical


@pytest.mark.parametrize("text", ["", "5", "1px 2px 3px", "-1px", "51%", "501px", "1px,2px", "x"])
def test_what_is_no_margin(text: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_crop_margin(text)
    assert caught.value.field == "crop_margin"


@pytest.mark.parametrize(("text", "scale"), [("80%", 80), ("12.5%", 12.5), ("original", None)])
def test_scales(text: str, scale: float | None) -> None:
    assert parse_scale(text) == scale


@pytest.mark.parametrize("text", ["", "80", "9%", "101%", "big", "-10%", "80 %"])
def test_what_is_no_scale(text: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options(scale=parse_scale(text))
    assert caught.value.field == "scale"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("original", "original"),
        ("center", "50% 50%"),
        ("20%", "20% 20%"),
        ("0% 100%", "0% 100%"),
    ],
)
def test_positions(text: str, canonical: str) -> None:
    assert str(parse_position(text)) == canonical


@pytest.mark.parametrize("text", ["", "left", "20", "101%", "1% 2% 3%", "1% x"])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_position(text)
    assert caught.value.field == "position"


def test_shadows() -> None:
    assert [parse_shadow(each) for each in ("none", "drop")] == [Shadow.NONE, Shadow.DROP]
    assert {parse_shadow(each) for each in ("auto", "car", "3D")} == {Shadow.DROP}
    with pytest.raises(InvalidOptionError, match="Choose none, drop"):
        parse_shadow("long")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_side": 15}, "max_side"),
        ({"max_side": 16385}, "max_side"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"shadow_opacity": 101}, "shadow_opacity"),
        ({"shadow_opacity": None}, "shadow_opacity"),
        ({"scale": True}, "scale"),
        ({"crop": 1}, "crop"),
        ({"semitransparency": "yes"}, "semitransparency"),
        ({"output": "alpha"}, "output"),
        ({"background_sha256": "00"}, "background_sha256"),
        ({"background_sha256": "0" * 64, "matte_color": [0, 0, 0, 255]}, "matte_color"),
        ({"output": "mask", "matte_color": [0, 0, 0, 255]}, "matte_color"),
        ({"output": "mask", "background_sha256": "0" * 64}, "background_image"),
        ({"output": "mask", "shadow": "drop"}, "shadow"),
        ({"output": "mask", "output_format": "zip"}, "output_format"),
    ],
)
def test_what_is_out_of_range_or_does_not_go_together(
    values: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.from_dict(values)
    assert caught.value.field == field


def test_what_makes_a_jpg_opaque() -> None:
    jpg = OutputFormat.JPG
    assert Options(jpg, matte_color=_WHITE).output_format is jpg
    assert Options(jpg, background_sha256="a" * 64).output_format is jpg
    assert Options(jpg, output=Output.MASK).output_format is jpg
