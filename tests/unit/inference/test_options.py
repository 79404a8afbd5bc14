"""Options: their ranges, their JSON, and the text forms that requests give."""

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
    Rgba,
    Shadow,
    parse_color,
    parse_crop_margin,
    parse_output_format,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)

_WHITE = (255, 255, 255, 255)

_LEVELS = st.integers(0, 255)
_COLORS = st.tuples(_LEVELS, _LEVELS, _LEVELS, _LEVELS)
_OPTIONS = st.one_of(
    st.builds(
        Options,
        output_format=st.sampled_from([OutputFormat.PNG, OutputFormat.WEBP]),
        matte_color=st.none() | _COLORS,
        quality=st.integers(1, 100),
    ),
    st.builds(
        Options,
        output_format=st.just(OutputFormat.JPG),
        matte_color=st.tuples(_LEVELS, _LEVELS, _LEVELS, st.just(255)),
        quality=st.integers(1, 100),
    ),
)
_SHARES = st.floats(0, 100).map(lambda value: round(value, 2))
_MARGINS = st.one_of(
    st.integers(0, 500).map(lambda value: f"{value}px"),
    st.floats(0, 50).map(lambda value: f"{value:.2f}%"),
)
_ROIS = st.tuples(*[st.floats(0, 49)] * 2, *[st.floats(51, 100)] * 2).map(
    lambda ends: " ".join(f"{each:.2f}%" for each in ends)
)


@given(_OPTIONS)
def test_options_survive_json(options: Options) -> None:
    assert Options.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_what_is_absent_takes_its_default() -> None:
    assert Options.from_dict({}) == Options()


@given(_COLORS)
def test_eight_digits_are_the_color_itself(color: Rgba) -> None:
    assert parse_color("#{:02x}{:02X}{:02x}{:02X}".format(*color)) == color


@given(st.tuples(_LEVELS, _LEVELS, _LEVELS))
def test_six_digits_are_opaque(color: tuple[int, int, int]) -> None:
    assert parse_color("#{:02x}{:02x}{:02x}".format(*color)) == (*color, 255)


@given(st.text("#0189abcdefgABEF -\n\0é", max_size=10))
def test_any_text_is_a_color_or_refused(text: str) -> None:
    try:
        color = parse_color(text)
    except InvalidOptionError as error:
        assert error.field == "matte_color"  # noqa: PT017 - most texts are refused, not all
    else:
        assert all(level in range(256) for level in color)


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("white", (255, 255, 255, 255)),
        ("RebeccaPurple", (102, 51, 153, 255)),
        ("#f80", (255, 136, 0, 255)),
        ("#f808", (255, 136, 0, 136)),
    ],
)
def test_names_and_short_forms(text: str, color: Rgba) -> None:
    assert parse_color(text) == color


@pytest.mark.parametrize(
    "text", ["", "#", "#12", "#12345", "#gggggg", "fff", "whitish", "rgb(1,2,3)", "#fff\n", " #fff"]
)
def test_other_texts_are_no_colors(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="Give a color as #rgb"):
        parse_color(text)


@pytest.mark.parametrize("quality", [0, 101, -1, 92.0, True, "92", None])
def test_a_quality_out_of_range_is_refused(quality: object) -> None:
    with pytest.raises(InvalidOptionError, match="whole number from 1 to 100") as caught:
        Options.from_dict({"quality": quality})
    assert caught.value.field == "quality"


@pytest.mark.parametrize("color", [[1, 2, 3], [1, 2, 3, 256], [1, 2, 3, -1], [1, 2, 3, 4.0], []])
def test_a_color_of_other_levels_is_refused(color: list[object]) -> None:
    with pytest.raises(InvalidOptionError, match="red, green, blue and alpha") as caught:
        Options.from_dict({"matte_color": color})
    assert caught.value.field == "matte_color"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="Choose png, webp or jpg") as caught:
        Options.from_dict({"output_format": "gif"})
    assert caught.value.field == "output_format"
    assert parse_output_format("webp") is OutputFormat.WEBP


@pytest.mark.parametrize("color", [None, (0, 0, 0, 254)])
def test_a_jpg_needs_an_opaque_background(color: Rgba | None) -> None:
    with pytest.raises(InvalidOptionError, match="A jpg has no transparency") as caught:
        Options(output_format=OutputFormat.JPG, matte_color=color)
    assert caught.value.field == "matte_color"


@pytest.mark.parametrize(("name", "most"), [("webp", 16_383), ("jpg", 65_500)])
def test_a_size_that_the_format_cannot_hold(name: str, most: int) -> None:
    options = Options(output_format=OutputFormat(name), matte_color=(0, 0, 0, 255))
    options.check_size(most, 2)
    with pytest.raises(InvalidOptionError, match="ask for output_format=png") as caught:
        options.check_size(2, most + 1)
    assert caught.value.field == "output_format"
    Options().check_size(most + 1, 2)


def test_media_types() -> None:
    assert {each.value: each.media_type for each in OutputFormat} == {
        "png": "image/png",
        "webp": "image/webp",
        "jpg": "image/jpeg",
        "zip": "application/zip",
        "auto": "application/octet-stream",
    }


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


@pytest.mark.parametrize("value", [1, "true", None])
def test_refine_is_true_or_false(value: object) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.from_dict({"refine": value})
    assert caught.value.field == "refine"
