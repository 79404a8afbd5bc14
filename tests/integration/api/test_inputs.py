"""A picture by form, by JSON, in base64; what does not fit is refused by name."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from tasks.api_keys import new_webhook_secret
from tasks.jobs.job import Job, Priority
from tasks.jobs.job_objects import read_manifest
from tasks.jobs.store import JobStore
from tasks.redis_client import connect
from tests.support.servers import Servers
from tests.support.services import services_on

PATH = "/api/v1/remove-bg"


@pytest.fixture(scope="module")
def services(servers: Servers, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return services_on(
        servers.settings(servers.new_database()), webhook_secret=new_webhook_secret()
    )


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


@pytest.fixture
def photo(coffee: Path) -> bytes:
    return coffee.read_bytes()


def _text(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def _accepted(answer: TestResponse, services: Services) -> Job:
    body = answer.get_json()
    assert answer.status_code == 202, body
    job = services.runtime.job_store.get(body["data"]["task_id"])
    assert job is not None
    return job


def _refused(answer: TestResponse) -> tuple[int, str, dict[str, str], str]:
    body = answer.get_json()
    error = body["error"]
    return answer.status_code, error["type"], error["fields"], body["message"]


@pytest.mark.parametrize(
    "prefix", ["", "data:image/jpeg;base64,", "data:;base64,", "data:image/svg+xml;a=b;base64,"]
)
def test_base64_with_and_without_a_prefix(
    client: FlaskClient, services: Services, photo: bytes, prefix: str
) -> None:
    job = _accepted(client.post(PATH, json={"image_b64": prefix + _text(photo)}), services)
    assert services.runtime.object_store.get(job.original_key) == photo


def test_base64_with_line_breaks(client: FlaskClient, services: Services, photo: bytes) -> None:
    broken = base64.encodebytes(photo).decode()
    job = _accepted(client.post(PATH, json={"image_b64": broken}), services)
    assert services.runtime.object_store.get(job.original_key) == photo


def test_base64_in_a_form_may_be_larger_than_flask_allows_by_itself(
    client: FlaskClient, services: Services, photo: bytes
) -> None:
    # A JPEG may be followed by anything; 2 MB of it is more than a form's 500 kB.
    large = photo + bytes(2 * 2**20)
    body, kind = encode_multipart_formdata({"image_b64": _text(large)})
    job = _accepted(client.post(PATH, data=body, content_type=kind), services)
    assert services.runtime.object_store.get(job.original_key) == large


def test_the_largest_picture_fits_in_json_and_a_larger_one_does_not(
    client: FlaskClient, services: Services, photo: bytes
) -> None:
    most = services.settings.max_image_bytes
    full = photo + bytes(most - len(photo))
    job = _accepted(client.post(PATH, json={"image_b64": _text(full)}), services)
    services.runtime.object_store.delete(job.original_key)
    answer = client.post(PATH, json={"image_b64": _text(full + b"x")})
    assert _refused(answer)[:2] == (413, "image_too_large")
    assert set(_refused(answer)[2]) == {"image_b64"}


@pytest.mark.parametrize(
    ("settings", "asked", "seconds"),
    [
        ({}, None, 24 * 3600),
        ({"retention_hours": 72.0}, None, 24 * 3600),
        ({"retention_hours": 1.0}, None, 3600),
        ({"queue_seconds": 600.0}, None, 600),
        ({"queue_seconds": 600.0}, 60, 60),
        ({"queue_seconds": 600.0}, 6000, 600),
    ],
)
def test_a_task_that_nobody_begins_has_a_deadline(
    services: Services, photo: bytes, settings: dict[str, float], asked: int | None, seconds: float
) -> None:
    changed = replace(services, settings=services.settings.model_copy(update=settings))
    body = {"image_b64": _text(photo), "cache": False}
    with create_app(changed).test_client() as client:
        answer = client.post(PATH, json=body | ({"expires_in": asked} if asked else {}))
    job = _accepted(answer, services)
    assert job.deadline == pytest.approx(job.created_at + seconds)
    assert job.deadline <= job.expires_at
    waiting = JobStore(connect(services.settings.redis_url.get_secret_value()), clock=lambda: now)
    now = job.created_at + seconds - 1
    assert not waiting.fail_overdue(job.task_id)
    now = job.created_at + seconds + 1
    assert waiting.fail_overdue(job.task_id)


def test_every_parameter_reaches_the_record_and_the_bucket(
    client: FlaskClient, services: Services, photo: bytes
) -> None:
    asked: dict[str, Any] = {
        "output_format": "webp",
        "matte_color": "#f00",
        "quality": 70,
        "refine": False,
        "model": services.settings.model,
        "priority": "high",
        "metadata": {"order": 17, "ä": [1, {"b": None}]},
        "webhook_url": "https://93.184.216.34/hook?a=b",
        "expires_in": 60,
        "cache": False,
    }
    as_json = _accepted(client.post(PATH, json={**asked, "image_b64": _text(photo)}), services)
    form = {
        name: json.dumps(value) if isinstance(value, (dict, bool)) else str(value)
        for name, value in asked.items()
    }
    body, kind = encode_multipart_formdata({**form, "image": ("cup.jpg", photo)})
    as_form = _accepted(client.post(PATH, data=body, content_type=kind), services)
    for job in (as_json, as_form):
        assert job.options["output_format"] == "webp"
        assert (job.options["quality"], job.options["refine"]) == (70, False)
        assert job.options["matte_color"] == [255, 0, 0, 255]
        assert (job.priority, job.metadata) == (Priority.HIGH, asked["metadata"])
        assert job.webhook_url == asked["webhook_url"]
        assert job.deadline == pytest.approx(job.created_at + 60)
        kept = read_manifest(
            job.original_key, services.runtime.object_store.metadata(job.original_key)
        )
        assert kept is not None
        assert kept.metadata == job.metadata
        assert (kept.webhook_url, kept.priority) == (job.webhook_url, job.priority)


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
            {"image_b64": "AAAA", "image_url": "http://a.example/"},
            422,
            "invalid_parameter",
            {"image_b64", "image_url"},
        ),
        ({"image": "AAAA"}, 422, "unknown_parameter", {"image"}),
        ({"image_b64": "AAAA", "colour": 1}, 422, "unknown_parameter", {"colour"}),
        ({"image_b64": "AAAA", "priority": "urgent"}, 422, "invalid_parameter", {"priority"}),
        ({"image_b64": "AAAA", "metadata": [1]}, 422, "invalid_parameter", {"metadata"}),
        ({"image_b64": "AAAA", "metadata": "{"}, 422, "invalid_parameter", {"metadata"}),
        (
            {"image_b64": "AAAA", "metadata": {"a": "x" * 2048}},
            422,
            "invalid_parameter",
            {"metadata"},
        ),
        ({"image_b64": "AAAA", "expires_in": 0}, 422, "invalid_parameter", {"expires_in"}),
        (
            {"image_b64": "AAAA", "webhook_url": "ftp://a.example"},
            422,
            "invalid_parameter",
            {"webhook_url"},
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    client: FlaskClient, body: dict[str, object], status: int, kind: str, names: set[str]
) -> None:
    answer = client.post(PATH, json=body)
    assert _refused(answer)[:2] == (status, kind)
    assert set(_refused(answer)[2]) == names


def test_a_model_that_nobody_serves_is_refused_with_those_that_are(
    client: FlaskClient, services: Services, photo: bytes
) -> None:
    asked = {"image_b64": _text(photo), "model": "rmbg-2.0"}
    status, kind, fields, message = _refused(client.post(PATH, json=asked))
    assert (status, kind, set(fields)) == (422, "invalid_parameter", {"model"})
    assert services.settings.model in message

    services.runtime.registry.record_heartbeat("gpu0@a", model="rmbg-2.0", queue="gpu.a.0")
    services.runtime.registry.mark_ready("gpu0@a", 60)
    assert _accepted(client.post(PATH, json=asked), services).model == "rmbg-2.0"


@pytest.mark.parametrize(
    ("data", "mimetype", "status", "kind"),
    [
        (b"[1]", "application/json", 400, "bad_request"),
        (b"{", "application/json", 400, "bad_request"),
        (b"\xff", "application/json", 400, "bad_request"),
        (b"", "application/json", 400, "bad_request"),
        (b"<a/>", "text/xml", 415, "unsupported_media_type"),
        (b"", "", 400, "missing_image"),
        (b"a=b", "application/x-www-form-urlencoded", 422, "unknown_parameter"),
    ],
)
def test_a_body_that_is_no_form_and_no_json_object(
    client: FlaskClient, data: bytes, mimetype: str, status: int, kind: str
) -> None:
    answer = client.post(PATH, data=data, content_type=mimetype)
    assert _refused(answer)[:2] == (status, kind)


def test_an_empty_field_is_none(client: FlaskClient, services: Services, photo: bytes) -> None:
    form = {"matte_color": "", "quality": "", "webhook_url": "", "image": ("a.jpg", photo)}
    body, kind = encode_multipart_formdata(form)
    job = _accepted(client.post(PATH, data=body, content_type=kind), services)
    assert job.options["matte_color"] is None
    assert job.webhook_url is None
