import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidOptionError
from inference.options import Options, OutputFormat, Rgba, parse_color, parse_output_format

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


@given(st.text())
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
