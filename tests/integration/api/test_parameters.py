"""The parameters of a submission reach the record, by form and by JSON, or are refused by name."""

import base64
import json
from typing import Any

import pytest

from tasks.api_keys import new_webhook_secret
from tasks.jobs.job import Priority
from tasks.jobs.job_objects import get_manifest
from tests.support.api import Api
from tests.support.submissions import PATH, PICTURE, form, refused_fields

SETTINGS = {"webhook_secret": new_webhook_secret()}
IMAGE = {"image_b64": base64.b64encode(PICTURE).decode()}
FILE = ("b.png", PICTURE)

#: Options of the result, and how the record has those that are parsed.
OPTIONS: dict[str, Any] = {
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
}
PARSED = {
    "matte_color": [255, 0, 0, 255],
    "crop_margin": "10% 5px 10% 5px",
    "roi": "10% 0% 90% 100%",
    "scale": 80.0,
    "position": "50% 50%",
}


def test_every_parameter_reaches_the_record_and_the_bucket(api: Api) -> None:
    asked = OPTIONS | {
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
    for sent in ({"json": asked | IMAGE}, form(**texts, image=FILE)):
        job = api.accepted(api.post(PATH, **sent))
        assert job.options | OPTIONS | PARSED == job.options
        assert (job.priority, job.metadata) == (Priority.HIGH, asked["metadata"])
        assert job.webhook_url == asked["webhook_url"]
        assert job.deadline == pytest.approx(job.created_at + 60)
        kept = get_manifest(api.objects, job.task_id)
        assert kept is not None
        assert kept.metadata == job.metadata
        assert (kept.webhook_url, kept.priority) == (job.webhook_url, job.priority)
    mask = api.accepted(api.post(PATH, json={**IMAGE, "output": "mask"}))
    assert mask.options["output"] == "mask"


def test_a_picture_that_is_given_wrongly_is_refused_by_name(api: Api) -> None:
    refused: list[tuple[dict[str, object], int, str, str]] = [
        ({}, 400, "missing_image", "image"),
        ({"image_b64": "data:image/png;base64,"}, 400, "empty_image", "image_b64"),
        ({"image_b64": "no base64!"}, 422, "invalid_parameter", "image_b64"),
        ({"image_b64": "AAAA"}, 422, "invalid_image", "image"),
        ({"image_b64": 7}, 422, "invalid_parameter", "image_b64"),
        ({"image": "AAAA"}, 422, "unknown_parameter", "image"),
        ({**IMAGE, "colour": 1}, 422, "unknown_parameter", "colour"),
    ]
    for body, status, kind, name in refused:
        assert refused_fields(api.post(PATH, json=body)) == (status, kind, {name})


def test_a_wrong_value_is_named_before_anything_is_fetched(api: Api) -> None:
    wrong: list[tuple[str, object, str]] = [
        ("quality", 101, ""),
        ("matte_color", "zzz", "CSS name"),
        ("canvas", "9x9", "2000x2000"),
        ("output_format", "zip", "png, webp, avif, jpg"),
        ("cache", "perhaps", ""),
        ("priority", "urgent", "high"),
        ("metadata", [1], "JSON object"),
        ("metadata", "{", "no JSON"),
        ("metadata", {"a": "x" * 2048}, "limit is 2048"),
        ("expires_in", 0, ""),
        ("webhook_events", "removal.done", "removal.succeeded"),
    ]
    for name, value, words in wrong:
        asked = {"image_url": "http://127.0.0.1:1/never-called", name: value}
        answer = api.post(PATH, json=asked)
        assert refused_fields(answer) == (422, "invalid_parameter", {name})
        assert words in answer.get_json()["error"]["fields"][name]


def test_parameters_that_do_not_go_together_are_named(api: Api) -> None:
    address = "http://example.com/"
    refused: list[tuple[dict[str, Any], set[str]]] = [
        ({"output_format": "jpg"}, {"matte_color"}),
        ({"background_image": FILE, "matte_color": "red"}, {"matte_color"}),
        ({"background_image": ("b.png", b"no picture at all")}, {"background_image"}),
        ({"image_url": address}, {"image", "image_url"}),
        (
            {"background_image": FILE, "background_url": address},
            {"background_image", "background_url"},
        ),
    ]
    for fields, names in refused:
        assert refused_fields(api.send(**fields)) == (422, "invalid_parameter", names)


def test_a_model_that_nobody_serves_is_refused_with_those_that_are(api: Api) -> None:
    answer = api.send(model="rmbg-2.0")
    assert refused_fields(answer) == (422, "invalid_parameter", {"model"})
    assert api.services.settings.model in answer.get_json()["message"]

    api.runtime.registry.record_heartbeat("gpu0@a", model="rmbg-2.0", queue="gpu.a.0")
    api.runtime.registry.mark_ready("gpu0@a", 60)
    assert api.accepted(api.send(model="rmbg-2.0")).model == "rmbg-2.0"
