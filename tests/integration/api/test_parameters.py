"""The parameters of a submission reach the record, by form and by JSON, or are refused by name."""

import base64
import json
from typing import Any

import pytest

from inference.options import Options, Output, OutputFormat, Shadow
from tasks.api_keys import new_webhook_secret
from tasks.jobs.job import Priority
from tasks.jobs.job_objects import get_manifest
from tests.support.api import Api
from tests.support.submissions import PATH, PICTURE, form, refused_fields

SETTINGS = {"webhook_secret": new_webhook_secret()}
IMAGE = {"image_b64": base64.b64encode(PICTURE).decode()}


def test_every_parameter_reaches_the_record_and_the_bucket(api: Api) -> None:
    asked: dict[str, Any] = {
        "output_format": "webp",
        "matte_color": "#f00",
        "quality": 70,
        "refine": False,
        "mask_threshold": 60,
        "mask_offset": -3,
        "mask_feather": 2,
        "crop": True,
        "crop_margin": "10% 5px",
        "max_side": 640,
        "roi": "10% 0px 90% 100%",
        "scale": "80%",
        "position": "center",
        "shadow": "drop",
        "shadow_opacity": 70,
        "model": api.services.settings.model,
        "priority": "high",
        "metadata": {"order": 17, "ä": [1, {"b": None}]},
        "webhook_url": "https://93.184.216.34/hook?a=b",
        "expires_in": 60,
        "cache": False,
    }
    texts = {
        name: json.dumps(value) if isinstance(value, (dict, bool)) else str(value)
        for name, value in asked.items()
    }
    for sent in ({"json": asked | IMAGE}, form(**texts, image=("cup.jpg", PICTURE))):
        job = api.accepted(api.post(PATH, **sent))
        options = Options.from_dict(job.options)
        assert options.output_format is OutputFormat.WEBP
        assert (options.quality, options.refine) == (70, False)
        assert (options.mask_threshold, options.mask_offset, options.mask_feather) == (60, -3, 2)
        assert options.matte_color == (255, 0, 0, 255)
        assert (options.crop, str(options.crop_margin)) == (True, "10% 5px 10% 5px")
        assert (options.max_side, options.scale) == (640, 80.0)
        assert str(options.roi) == "10% 0% 90% 100%"
        assert options.position is not None
        assert (options.shadow, options.shadow_opacity) == (Shadow.DROP, 70)
        assert (job.priority, job.metadata) == (Priority.HIGH, asked["metadata"])
        assert job.webhook_url == asked["webhook_url"]
        assert job.deadline == pytest.approx(job.created_at + 60)
        kept = get_manifest(api.objects, job.task_id)
        assert kept is not None
        assert kept.metadata == job.metadata
        assert (kept.webhook_url, kept.priority) == (job.webhook_url, job.priority)
    mask = api.accepted(api.post(PATH, json={**IMAGE, "output": "mask"}))
    assert Options.from_dict(mask.options).output is Output.MASK


def test_an_empty_field_is_none(api: Api) -> None:
    fields = {"matte_color": "", "quality": "", "webhook_url": "", "image": ("a.jpg", PICTURE)}
    job = api.accepted(api.post(PATH, **form(**fields)))
    assert job.options["matte_color"] is None
    assert job.webhook_url is None


@pytest.mark.parametrize(
    ("body", "status", "kind", "names"),
    [
        ({}, 400, "missing_image", {"image"}),
        ({"image_b64": ""}, 400, "empty_image", {"image_b64"}),
        ({"image_b64": "data:image/png;base64,"}, 400, "empty_image", {"image_b64"}),
        ({"image_b64": "no base64!"}, 422, "invalid_parameter", {"image_b64"}),
        ({"image_b64": "AAA"}, 422, "invalid_parameter", {"image_b64"}),
        ({"image_b64": "AAAA"}, 422, "invalid_image", {"image"}),
        ({"image_b64": 7}, 422, "invalid_parameter", {"image_b64"}),
        (
            {**IMAGE, "image_url": "http://a.example/"},
            422,
            "invalid_parameter",
            {"image_b64", "image_url"},
        ),
        ({"image": "AAAA"}, 422, "unknown_parameter", {"image"}),
        ({**IMAGE, "colour": 1}, 422, "unknown_parameter", {"colour"}),
    ],
)
def test_a_picture_that_is_given_wrongly_is_refused_by_name(
    api: Api, body: dict[str, object], status: int, kind: str, names: set[str]
) -> None:
    assert refused_fields(api.post(PATH, json=body)) == (status, kind, names)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("quality", 0, ""),
        ("quality", 101, ""),
        ("quality", "many", ""),
        ("matte_color", "zzz", "CSS name"),
        ("matte_color", "#12345", "#rrggbb"),
        ("output_format", "bmp", "png, webp, avif, jpg"),
        ("output_format", "zip", "png, webp, avif, jpg"),
        ("cache", "perhaps", ""),
        ("priority", "urgent", "high"),
        ("metadata", [1], "JSON object"),
        ("metadata", "{", "no JSON"),
        ("metadata", {"a": "x" * 2048}, "limit is 2048"),
        ("expires_in", 0, ""),
        ("webhook_url", "ftp://a.example", ""),
        ("webhook_events", "removal.done", "removal.succeeded"),
        ("webhook_events", "removal.failed,", "removal.succeeded"),
        ("webhook_events", "batch.completed", "removal.succeeded"),
        ("output", "both", "mask"),
        ("crop_margin", "1 2 3", ""),
        ("max_side", 15, ""),
        ("roi", "everywhere", ""),
        ("mask_threshold", 0, "1 and less"),
        ("mask_offset", "2px", "integer"),
        ("mask_feather", 101, "100"),
        ("scale", "5%", ""),
        ("position", "left", ""),
        ("shadow", "long", "drop"),
        ("shadow_opacity", 101, ""),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_fetched(
    api: Api, name: str, value: object, words: str
) -> None:
    asked = {"image_url": "http://127.0.0.1:1/never-called", name: value}
    answer = api.post(PATH, json=asked)
    assert refused_fields(answer) == (422, "invalid_parameter", {name})
    assert words in answer.get_json()["error"]["fields"][name]


FILE = ("b.png", PICTURE)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"output_format": "jpg"}, {"matte_color"}),
        ({"background_image": ("b.png", b"no picture at all")}, {"background_image"}),
        ({"background_image": FILE, "matte_color": "red"}, {"matte_color"}),
        ({"background_image": FILE, "output": "mask"}, {"background_image"}),
        (
            {"background_image": FILE, "background_url": "http://example.com/"},
            {"background_image", "background_url"},
        ),
    ],
)
def test_parameters_that_do_not_go_together_are_named(
    api: Api, fields: dict[str, Any], names: set[str]
) -> None:
    answer = api.post(PATH, **form(image=FILE, **fields))
    assert (answer.status_code, refused_fields(answer)[2]) == (422, names)


def test_a_model_that_nobody_serves_is_refused_with_those_that_are(api: Api) -> None:
    asked = {**IMAGE, "model": "rmbg-2.0"}
    answer = api.post(PATH, json=asked)
    assert refused_fields(answer) == (422, "invalid_parameter", {"model"})
    assert api.services.settings.model in answer.get_json()["message"]

    api.runtime.registry.record_heartbeat("gpu0@a", model="rmbg-2.0", queue="gpu.a.0")
    api.runtime.registry.mark_ready("gpu0@a", 60)
    assert api.accepted(api.post(PATH, json=asked)).model == "rmbg-2.0"
