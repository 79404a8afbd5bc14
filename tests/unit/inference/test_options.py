"""Options: their ranges, their JSON, and the text forms that requests give."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidOptionError
from inference.options import (
    Canvas,
    Options,
    Output,
    OutputFormat,
    Position,
    Rgba,
    Shadow,
    parse_canvas,
    parse_color,
    parse_crop_margin,
    parse_output_format,
    parse_position,
    parse_roi,
    parse_scale,
    parse_shadow,
)

_BLACK = [0, 0, 0, 255]
_LEVELS = st.integers(0, 255)
_COLORS = st.tuples(_LEVELS, _LEVELS, _LEVELS, _LEVELS)
_SHARES = st.floats(0, 100).map(lambda value: round(value, 2))
_MARGINS = st.one_of(
    st.integers(0, 500).map(lambda value: f"{value}px"),
    st.floats(0, 50).map(lambda value: f"{value:.2f}%"),
)
_ROIS = st.tuples(*[st.floats(0, 49)] * 2, *[st.floats(51, 100)] * 2).map(
    lambda ends: " ".join(f"{each:.2f}%" for each in ends)
)
#: Values of those options that go together with all others.
_FREE = {
    "quality": st.integers(1, 100),
    "roi": _ROIS.map(parse_roi),
    "crop": st.booleans(),
    "crop_margin": st.tuples(*[_MARGINS] * 4).map(" ".join).map(parse_crop_margin),
    "scale": st.none() | st.integers(10, 100) | st.floats(10, 100),
    "position": st.none() | st.builds(Position) | st.builds(Position, _SHARES, _SHARES),
    "max_side": st.none() | st.integers(16, 16384),
    "max_pixels": st.none() | st.integers(1, 50_000_000),
    "shadow_opacity": st.integers(0, 100),
    "semitransparency": st.booleans(),
}
_OPTIONS = st.one_of(
    st.builds(
        Options,
        st.sampled_from([OutputFormat.PNG, OutputFormat.WEBP]),
        matte_color=st.none() | _COLORS,
        **_FREE,
    ),
    st.builds(
        Options,
        st.just(OutputFormat.JPG),
        matte_color=st.tuples(_LEVELS, _LEVELS, _LEVELS, st.just(255)),
        **_FREE,
    ),
    st.builds(Options, output=st.sampled_from([Output.MASK, Output.ORIGINAL]), **_FREE),
    st.builds(Options, canvas=st.builds(Canvas, *[st.integers(16, 5000)] * 2)),
)


@given(_OPTIONS)
def test_options_survive_json_and_are_written_in_one_way(options: Options) -> None:
    text = json.dumps(options.to_dict())
    assert Options.from_dict(json.loads(text)) == options
    assert json.dumps(Options.from_dict(json.loads(text)).to_dict()) == text
    assert len(text) < 900, "it must fit into a bucket's metadata"


def test_what_is_absent_takes_its_default() -> None:
    assert Options.from_dict({}) == Options()


@given(_COLORS)
def test_eight_digits_are_the_color_itself_and_six_are_opaque(color: Rgba) -> None:
    text = "#{:02x}{:02X}{:02x}{:02X}".format(*color)
    assert parse_color(text) == color
    assert parse_color(text[:7]) == (*color[:3], 255)


@given(st.text("#0189abcdefgABEF -\n\0é", max_size=10))
def test_any_text_is_a_color_or_refused(text: str) -> None:
    try:
        color = parse_color(text)
    except InvalidOptionError as error:
        assert error.field == "matte_color"  # noqa: PT017 - most texts are refused, not all
    else:
        assert all(level in range(256) for level in color)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_color, "white", (255, 255, 255, 255)),
        (parse_color, "RebeccaPurple", (102, 51, 153, 255)),
        (parse_color, "#f80", (255, 136, 0, 255)),
        (parse_color, "#f808", (255, 136, 0, 136)),
        (parse_output_format, "webp", OutputFormat.WEBP),
        *((parse_roi, text, None) for text in ("0 0 100% 100%", "0px 0px 100% 100.0%")),
        (parse_scale, "80%", 80),
        (parse_scale, "12.5%", 12.5),
        (parse_scale, "original", None),
        (parse_shadow, "none", Shadow.NONE),
        *((parse_shadow, text, Shadow.DROP) for text in ("drop", "auto", "car", "3D")),
    ],
)
def test_what_a_text_stands_for(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "canonical"),
    [
        (parse_roi, "10% 20% 90% 80%", "10% 20% 90% 80%"),
        (parse_roi, "0 0 100px 50.50%", "0% 0% 100px 50.5%"),
        (parse_roi, "0px 7px 100% 100%", "0% 7px 100% 100%"),
        (parse_crop_margin, "0", "0px 0px 0px 0px"),
        (parse_crop_margin, "10% 5px", "10% 5px 10% 5px"),
        (parse_crop_margin, "1px 2px 3% 50%", "1px 2px 3% 50%"),
        (parse_crop_margin, "500px", "500px 500px 500px 500px"),
        (parse_canvas, "2000x1500", "2000x1500"),
        (parse_position, "original", "original"),
        (parse_position, "center", "50% 50%"),
        (parse_position, "20%", "20% 20%"),
        (parse_position, "0% 100%", "0% 100%"),
    ],
)
def test_a_text_of_lengths_is_written_in_one_way(
    parse: Callable[[str], object], text: str, canonical: str
) -> None:
    assert str(parse(text)) == canonical


_NO_COLORS = "", "#", "#12", "#12345", "#gggggg", "fff", "whitish", "rgb(1,2,3)", "#fff\n", " #fff"
_NO_MARGINS = "", "5", "1px 2px 3px", "-1px", "51%", "501px", "1px,2px", "x"


@pytest.mark.parametrize(
    ("parse", "field", "words", "texts"),
    [
        (parse_color, "matte_color", "Give a color as #rgb", _NO_COLORS),
        (parse_crop_margin, "crop_margin", "", _NO_MARGINS),
        (parse_scale, "scale", "", ("", "80", "big", "-10%", "80 %")),
        (parse_canvas, "canvas", "", ("", "2000", "15x2000", "5001x16", "2000x", "a x b")),
        (parse_position, "position", "", ("", "left", "20", "101%", "1% 2% 3%", "1% x")),
        (parse_shadow, "shadow", "Choose none, drop", ("long",)),
    ],
)
def test_other_texts_are_refused(
    parse: Callable[[str], object], field: str, words: str, texts: tuple[str, ...]
) -> None:
    for text in texts:
        with pytest.raises(InvalidOptionError) as caught:
            parse(text)
        assert caught.value.field == field
        assert words in str(caught.value)


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
        # What only the picture's size tells.
        ("0 0 101px 10px", "roi_exceeds_bounds"),
        ("50% 0 50px 10px", "roi_region_empty"),
    ],
)
def test_what_is_no_region_of_a_picture_100_pixels_wide(text: str, code: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_roi(text).to_pixels(100, 50)  # type: ignore[union-attr]
    assert (caught.value.field, caught.value.code) == ("roi", code)


_QUALITY = "whole number from 1 to 100"
_LEVELS_OF = "red, green, blue and alpha"
_TRANSPARENT = "A jpg has no transparency"


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        *(({"quality": it}, "quality", _QUALITY) for it in (0, 101, -1, 92.0, True, "92", None)),
        *(
            ({"matte_color": color}, "matte_color", _LEVELS_OF)
            for color in ([1, 2, 3], [1, 2, 3, 256], [1, 2, 3, -1], [1, 2, 3, 4.0], [])
        ),
        ({"output_format": "gif"}, "output_format", "Choose png, webp, avif or jpg"),
        ({"output_format": "jpg"}, "matte_color", _TRANSPARENT),
        ({"output_format": "jpg", "matte_color": [0, 0, 0, 254]}, "matte_color", _TRANSPARENT),
        ({"max_side": 15}, "max_side", ""),
        ({"max_side": 16385}, "max_side", ""),
        ({"max_pixels": 0}, "max_pixels", ""),
        ({"shadow_opacity": 101}, "shadow_opacity", ""),
        ({"shadow_opacity": None}, "shadow_opacity", ""),
        *(({"mask_threshold": it}, "mask_threshold", "from 1 to 100") for it in (0, 101, "50")),
        *(({"mask_offset": it}, "mask_offset", "from -100 to 100") for it in (-101, 101, None)),
        *(({"mask_feather": it}, "mask_feather", "from 0 to 100") for it in (-1, 101, 0.5)),
        *(({"scale": scale}, "scale", "") for scale in (9, 101, True)),
        ({"crop": 1}, "crop", ""),
        ({"semitransparency": "yes"}, "semitransparency", ""),
        *(({"refine": value}, "refine", "") for value in (1, "true", None)),
        ({"output": "alpha"}, "output", ""),
        ({"background_sha256": "00"}, "background_sha256", ""),
        ({"background_sha256": "0" * 64, "matte_color": _BLACK}, "matte_color", ""),
        ({"output": "mask", "matte_color": _BLACK}, "matte_color", ""),
        ({"output": "mask", "background_sha256": "0" * 64}, "background_image", ""),
        ({"output": "mask", "shadow": "drop"}, "shadow", ""),
        ({"output": "mask", "output_format": "zip"}, "output_format", ""),
    ],
)
def test_what_is_out_of_range_or_does_not_go_together(
    values: dict[str, object], field: str, words: str
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.from_dict(values)
    assert caught.value.field == field
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "opaque", [{"matte_color": _BLACK}, {"background_sha256": "a" * 64}, {"output": "mask"}]
)
def test_what_makes_a_jpg_opaque(opaque: dict[str, object]) -> None:
    assert Options.from_dict({"output_format": "jpg", **opaque}).output_format is OutputFormat.JPG


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
        "avif": "image/avif",
        "zip": "application/zip",
        "auto": "application/octet-stream",
    }
