"""Options: their ranges, their JSON, and the text forms that requests give."""

import json
from collections.abc import Callable
from dataclasses import fields

import pytest

from inference.errors import InvalidOptionError
from inference.options import (
    Canvas,
    Options,
    Output,
    OutputFormat,
    Position,
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
_DIGEST = "0" * 64


def test_options_survive_json_and_are_written_in_one_way() -> None:
    examples = [
        Options(),
        Options(
            output_format=OutputFormat.WEBP,
            matte_color=(1, 2, 3, 4),
            quality=1,
            refine=False,
            roi=parse_roi("0 10px 50.5% 100%"),
            crop=True,
            crop_margin=parse_crop_margin("1.25% 500px 0 50%"),
            scale=33.3,
            position=Position(33.33, 0.01),
            max_side=16_384,
            max_pixels=50_000_000,
            shadow=Shadow.DROP,
            shadow_opacity=100,
            semitransparency=False,
            mask_threshold=100,
            mask_offset=-100,
            mask_feather=100,
        ),
        Options(OutputFormat.JPG, position=Position(), scale=10, background_sha256=_DIGEST),
        Options(output=Output.MASK, canvas=Canvas(16, 5000)),
    ]
    for each in fields(Options):
        values = {repr(getattr(options, each.name)) for options in examples}
        assert len(values) > 1, f"no example has {each.name}"
    for options in examples:
        text = json.dumps(options.to_dict())
        again = Options.from_dict(json.loads(text))
        assert again == options
        assert json.dumps(again.to_dict()) == text
        assert len(text) < 900, "it must fit into a bucket's metadata"
    assert Options.from_dict({}) == Options()


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_color, "white", (255, 255, 255, 255)),
        (parse_color, "RebeccaPurple", (102, 51, 153, 255)),
        (parse_color, "#f80", (255, 136, 0, 255)),
        (parse_color, "#f808", (255, 136, 0, 136)),
        (parse_color, "#0aF17f", (10, 241, 127, 255)),
        (parse_color, "#0aF17f33", (10, 241, 127, 51)),
        (parse_output_format, "webp", OutputFormat.WEBP),
        (parse_roi, "0 0 100% 100%", None),
        (parse_roi, "0px 0px 100% 100.0%", None),
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
        (parse_roi, "0 0 100px 50.50%", "0% 0% 100px 50.5%"),
        (parse_roi, "0px 7px 100% 100%", "0% 7px 100% 100%"),
        (parse_crop_margin, "0", "0px 0px 0px 0px"),
        (parse_crop_margin, "10% 5px", "10% 5px 10% 5px"),
        (parse_crop_margin, "1px 2px 3% 50%", "1px 2px 3% 50%"),
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
        (parse_crop_margin, "crop_margin", "px", _NO_MARGINS),
        (parse_scale, "scale", "Give 10% to 100%", ("", "80", "big", "-10%", "80 %")),
        (parse_canvas, "canvas", "Give", ("", "2000", "15x2000", "5001x16", "2000x", "a x b")),
        (parse_position, "position", "Give", ("", "left", "20", "101%", "1% 2% 3%", "1% x")),
        (parse_shadow, "shadow", "Choose none, drop", ("long",)),
    ],
)
def test_other_texts_are_refused(
    parse: Callable[[str], object], field: str, words: str, texts: tuple[str, ...]
) -> None:
    for text in texts:
        with pytest.raises(InvalidOptionError, match=words) as caught:
            parse(text)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1 2 3 4", "invalid_parameter"),
        ("0 0 10px", "invalid_parameter"),
        ("0 0 -5px 10px", "invalid_parameter"),
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


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("quality", (0, 101, -1, 92.0, True, "92", None), "whole number from 1 to 100"),
        ("matte_color", ([1, 2, 3], [1, 2, 3, 256], [1, 2, 3, -1], [1, 2, 3, 4.0], []), "alpha"),
        ("output_format", ("gif",), "Choose png, webp, avif or jpg"),
        ("output", ("alpha",), "Choose cutout, mask"),
        ("max_side", (15, 16_385), "from 16 to 16384"),
        ("max_pixels", (0,), "from 1 to"),
        ("shadow_opacity", (101, None), "from 0 to 100"),
        ("mask_threshold", (0, 101, "50"), "from 1 to 100"),
        ("mask_offset", (-101, 101, None), "from -100 to 100"),
        ("mask_feather", (-1, 101, 0.5), "from 0 to 100"),
        ("scale", (9, 101, True), "Give 10% to 100%"),
        ("crop", (1,), "true or false"),
        ("semitransparency", ("yes",), "true or false"),
        ("refine", (1, "true", None), "true or false"),
        ("background_sha256", ("00",), "64 hex digits"),
    ],
)
def test_what_is_out_of_range(field: str, values: tuple[object, ...], words: str) -> None:
    for value in values:
        with pytest.raises(InvalidOptionError, match=words) as caught:
            Options.from_dict({field: value})
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"output_format": "jpg"}, "matte_color"),
        ({"output_format": "jpg", "matte_color": [0, 0, 0, 254]}, "matte_color"),
        ({"background_sha256": _DIGEST, "matte_color": _BLACK}, "matte_color"),
        ({"canvas": "100x100", "max_side": 100}, "max_side"),
        ({"output": "mask", "matte_color": _BLACK}, "matte_color"),
        ({"output": "mask", "background_sha256": _DIGEST}, "background_image"),
        ({"output": "mask", "shadow": "drop"}, "shadow"),
        ({"output": "mask", "output_format": "zip"}, "output_format"),
    ],
)
def test_what_does_not_go_together(values: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.from_dict(values)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "opaque", [{"matte_color": _BLACK}, {"background_sha256": _DIGEST}, {"output": "mask"}]
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
