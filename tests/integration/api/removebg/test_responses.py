"""The remove.bg API's errors: their codes, and one shape for all of them."""

import pytest
from structlog.testing import capture_logs

from api.submission import SubmissionService
from api.waiting import TaskWaiter
from tasks.jobs.job import JobError, Status
from tests.support.api import Api
from tests.support.jobs import make_job
from tests.support.removebg_requests import REMOVE, error_of, post
from tests.support.services import services_on


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
    api: Api, monkeypatch: pytest.MonkeyPatch, type_: str, status: int, code: str
) -> None:
    failed = make_job(status=Status.FAILED, error=JobError(type_, "That is how it is."))
    monkeypatch.setattr(TaskWaiter, "wait", lambda *_: (failed, True))
    answer = post(api)
    assert error_of(answer) == (status, code)
    assert answer.get_json()["errors"][0]["detail"] == "That is how it is."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", REMOVE, 405), ("POST", "/v1.0/account", 405), ("GET", "/v1.0/nothing", 404)],
)
def test_all_that_goes_wrong_has_the_shape(api: Api, method: str, path: str, status: int) -> None:
    # Trap 6.
    assert error_of(api.open(path, method=method))[0] == status


def test_a_store_that_is_away_is_503_in_the_shape(server_settings: dict[str, object]) -> None:
    away = services_on(server_settings, redis_url="redis://127.0.0.1:1/0")
    answer = post(Api.on(away))
    assert error_of(answer) == (503, "queue_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_what_nobody_foresaw_is_500_in_the_shape(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("Nobody foresaw this.")

    monkeypatch.setattr(SubmissionService, "submit", crash)
    with capture_logs():  # a traceback is long in the making
        answer = post(api)
    assert error_of(answer) == (500, "internal_error")
    assert "foresaw" not in answer.text


def test_errors_elsewhere_keep_their_own_shape(api: Api) -> None:
    answer = api.get("/api/v1/nothing")
    assert answer.get_json()["error"]["type"] == "not_found"
    assert "Access-Control-Allow-Origin" not in answer.headers
