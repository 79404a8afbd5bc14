"""The remove.bg API's parameters: what is taken, and what is refused by name."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from tasks.jobs.job import Priority
from tests.support.api import Api
from tests.support.removebg_requests import PICTURE, REMOVE, accepted, error_of, picture, post, send

SETTINGS = {"max_image_mb": 1}


def test_what_is_wrong_is_named(api: Api) -> None:
    for code, parameters in {
        "invalid_size": {"size": "huge"},
        "invalid_format": {"format": "gif"},
        "invalid_bg_color": {"bg_color": "12345"},
        "invalid_roi": {"roi": "1 2 3"},
        "roi_exceeds_bounds": {"roi": "0 0 120% 100%"},
        "roi_region_empty": {"roi": "50% 0 50% 100%"},
        "invalid_crop": {"crop": "maybe"},
        "invalid_shadow_type": {"shadow_type": "long"},
        "invalid_shadow_opacity": {"shadow_opacity": "x"},
        "invalid_bg_image_url": {"bg_image_url": "nowhere"},
        "multiple_bg_sources": {"bg_color": "red", "bg_image_url": "http://127.0.0.1/"},
    }.items():
        assert error_of(post(api, **parameters)) == (400, code)
    for code, parameters in {
        "missing_source": {},
        "invalid_image_url": {"image_url": "example.com/a.jpg"},
        "failed_to_read_image": {"image_file_b64": "not base64!"},
        "multiple_sources": {"image_file_b64": "AAAA", "image_url": "http://example.com/a.jpg"},
    }.items():
        assert error_of(send(api, **parameters)) == (400, code)
        assert error_of(api.post(REMOVE, json=parameters)) == (400, code)


def test_empty_means_absent(api: Api) -> None:
    # Trap 1: the official command line sends every parameter that is not set as "".
    names = [
        "image_file_b64", "image_url", "size", "type", "type_level", "format", "roi", "crop",
        "crop_margin", "scale", "position", "channels", "add_shadow", "shadow_type",
        "shadow_opacity", "semitransparency", "bg_color", "bg_image_url", "bg_image_file",
    ]  # fmt: skip
    options = accepted(api, post(api, **dict.fromkeys(names, ""))).options
    assert (options["output_format"], options["max_pixels"]) == ("auto", 250_000)
    assert not options["crop"]
    assert options["background_sha256"] is None


def test_json_with_its_own_types(api: Api) -> None:
    body = {
        "image_file_b64": base64.b64encode(PICTURE).decode(),
        "crop": True,
        "shadow_opacity": 30,
        "semitransparency": False,
        "bg_color": None,
        "scale": "50%",
        "shadow_type": {"car": "3D"},
    }
    options = accepted(api, api.post(REMOVE, json=body)).options
    assert (options["crop"], options["shadow_opacity"], options["scale"]) == (True, 30, 50.0)
    assert (options["semitransparency"], options["shadow"]) == (False, "drop")


def test_json_has_no_more_fields_than_a_form(api: Api) -> None:
    # A nested one has the outer name as well: 3,300 of them made 100 MB of a body of 58 kB.
    fields = {str(each): 0 for each in range(65)}
    for body in (fields, {"outer": fields}, {"outer": {"inner": fields}}):
        assert error_of(api.post(REMOVE, json=body)) == (400, "file_too_large")


def test_base64_as_clients_spoil_it(api: Api) -> None:
    # Trap 9; and trap 8: Flask's own limit for a form's text is 500,000 bytes.
    large = picture(size=(700, 500))
    for file in (PICTURE, large):
        text = base64.b64encode(file).decode()
        assert "+" in text
        lines = "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))
        for spoilt in (lines, f"data:image/png;base64,{text}".replace("+", " ")):
            job = accepted(api, send(api, image_file_b64=spoilt))
            assert job.priority is Priority.HIGH
            assert api.objects.get(job.original_key) == file
    assert len(text) > 600_000
    answer = send(api, image_file_b64="A" * 1_500_000)
    assert error_of(answer) == (400, "file_too_large")


def test_a_png_may_be_capped(api: Api) -> None:
    capped = api.with_settings(removebg_png_megapixels=10)
    for name, pixels in (("png", 10_000_000), ("jpg", 25_000_000)):
        job = accepted(api, post(capped, size="full", format=name))
        assert job.options["max_pixels"] == pixels


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"size": "preview"}, {"max_pixels": 250_000}),
        ({"size": "hd"}, {"max_pixels": 4_000_000}),
        ({"size": "auto"}, {"max_pixels": 25_000_000}),
        ({"size": "50MP"}, {"max_pixels": 50_000_000}),
        ({"format": "jpg"}, {"matte_color": [255, 255, 255, 255]}),
        ({"format": "jpg", "bg_color": "0f08"}, {"matte_color": [119, 255, 119, 255]}),
        ({"bg_color": "#81d4fa"}, {"matte_color": [129, 212, 250, 255]}),
        ({"bg_color": "81d4fa77"}, {"matte_color": [129, 212, 250, 119]}),
        ({"bg_color": "Teal"}, {"matte_color": [0, 128, 128, 255]}),
        ({"channels": "alpha"}, {"output": "mask", "output_format": "auto"}),
        ({"channels": "alpha", "format": "zip"}, {"output": "mask", "output_format": "png"}),
        ({"channels": "alpha", "bg_color": "red"}, {"output": "mask", "matte_color": None}),
        ({"add_shadow": "true"}, {"shadow": "drop", "shadow_opacity": 50}),
        ({"shadow_type": "none", "add_shadow": "true"}, {"shadow": "none"}),
        ({"shadow_type": "3D", "shadow_opacity": "80"}, {"shadow": "drop", "shadow_opacity": 80}),
        ({"shadow_type[car]": "car", "type": "car"}, {"shadow": "drop"}),
        ({"shadow_type[car]": "car", "type": "person"}, {"shadow": "none"}),
        ({"crop": "1", "crop_margin": "10% 20px"}, {"crop_margin": "10% 20px 10% 20px"}),
        ({"roi": "0 0 50% 20px"}, {"roi": "0% 0% 50% 20px"}),
        ({"scale": "80%", "position": "20%"}, {"scale": 80.0, "position": "20% 20%"}),
        ({"colour": "unknown parameters do no harm"}, {}),
    ],
    ids=str,
)
def test_parameters_reach_the_options(
    api: Api, parameters: dict[str, str], expected: Mapping[str, Any]
) -> None:
    options = accepted(api, post(api, **parameters)).options
    assert {name: options[name] for name in expected} == expected
