"""The remove.bg API's errors: their codes, and one shape for all of them."""

import json

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from api.submission import SubmissionService
from api.waiting import TaskWaiter
from tasks.jobs.job import Job, JobError, Status
from tests.support.removebg_requests import REMOVE, File, accepted, error_of, picture, send

#: Name, bytes and declared type.
PICTURE = picture()


def file(data: bytes = PICTURE, name: str = "a.png", kind: str = "image/png") -> File:
    return name, data, kind


def post(client: FlaskClient, data: bytes = PICTURE, **form: File | str) -> TestResponse:
    return send(client, **{"image_file": file(data), **form})


def test_still_working_is_503_with_a_time(client: FlaskClient) -> None:
    answer = post(client)
    assert accepted(answer)
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("type_", "status", "code"),
    [
        ("invalid_image", 400, "failed_to_read_image"),
        ("roi_exceeds_bounds", 400, "roi_exceeds_bounds"),
        ("roi_region_empty", 400, "roi_region_empty"),
        ("internal_error", 500, "internal_error"),
        ("deadline_exceeded", 500, "internal_error"),
    ],
)
def test_what_a_worker_found(
    services: Services, monkeypatch: pytest.MonkeyPatch, type_: str, status: int, code: str
) -> None:
    error = JobError(type_, "That is how it is.")
    failed = Job("rm-1", "m", "q", "o", 1.0, 9e9, status=Status.FAILED, error=error)
    monkeypatch.setattr(TaskWaiter, "wait", lambda *_: (failed, True))
    with create_app(services).test_client() as client:
        answer = post(client)
    assert error_of(answer) == (status, code)
    assert answer.get_json()["errors"][0]["detail"] == "That is how it is."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", REMOVE, 405), ("POST", "/v1.0/account", 405), ("GET", "/v1.0/nothing", 404)],
)
def test_whatever_goes_wrong_has_the_shape(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    # Trap 6.
    assert error_of(client.open(path, method=method))[0] == status


def test_a_store_that_is_away_is_503_in_the_shape(server_settings: dict[str, object]) -> None:
    away = ApiSettings.load(**{**server_settings, "redis_url": "redis://127.0.0.1:1/0"})
    with create_app(Services.from_settings(away)).test_client() as client:
        answer = post(client)
    assert error_of(answer) == (503, "queue_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_what_nobody_foresaw_is_500_in_the_shape(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("Nobody foresaw this.")

    monkeypatch.setattr(SubmissionService, "submit", crash)
    with create_app(services).test_client() as client:
        answer = post(client)
    assert error_of(answer) == (500, "internal_error")
    assert "foresaw" not in json.dumps(answer.get_json())


def test_errors_elsewhere_keep_their_own_shape(client: FlaskClient) -> None:
    assert client.get("/api/v1/nothing").get_json()["error"]["type"] == "not_found"
