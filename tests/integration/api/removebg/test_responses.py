"""What remove.bg's API answers once a picture is worked on, and one shape for all its errors."""

import base64
import io
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import TestResponse

from api.waiting import TaskWaiter
from inference.layout import Box
from tasks.jobs.job import Job, JobError, Status
from tasks.worker.runner import Runner
from tests.support.api import Api
from tests.support.jobs import make_job
from tests.support.models import FakeModel
from tests.support.pictures import BLUE, RED, SUBJECT, find_red, picture_file, subject_picture
from tests.support.removebg_requests import REMOVE, error_of, post
from tests.support.services import services_on
from tests.support.workers import make_runner


@dataclass
class Worker:
    """Runs each job in the request that sends it, or later if it is busy."""

    runner: Runner
    busy: bool = False
    sent: list[str] = field(default_factory=list)

    def send(self, job: Job) -> None:
        self.sent.append(job.task_id)
        if not self.busy:
            self.work()

    def work(self) -> None:
        while self.sent:
            self.runner.run(self.sent.pop())


@pytest.fixture
def worker(api: Api) -> Worker:
    return Worker(make_runner(api.runtime, FakeModel(find=find_red)))


@pytest.fixture
def served(api: Api, worker: Worker) -> Api:
    """The API beside a worker."""
    return api.with_parts(dispatcher=worker)


def _post(served: Api, image: Image.Image | None = None, **fields: str) -> TestResponse:
    return post(served, picture_file(image or subject_picture()), **fields)


def _pixels(answer: TestResponse) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.data)))


def test_the_bytes_and_the_headers(served: Api) -> None:
    answer = _post(served)
    pixels = _pixels(answer)
    assert answer.headers["Content-Type"] == "image/png"
    assert pixels.shape == (200, 300, 4)
    assert (pixels[SUBJECT.slices] == (*RED, 255)).all()
    assert not pixels[pixels[..., 3] == 0].any(), "RGB is 0,0,0 wherever alpha is 0"
    expected = {
        "X-Type": "other",
        "X-Width": "300",
        "X-Height": "200",
        "X-Max-Width": "300",
        "X-Max-Height": "200",
        "X-Foreground-Top": "50",
        "X-Foreground-Left": "60",
        "X-Foreground-Width": "100",
        "X-Foreground-Height": "40",
        "X-RateLimit-Limit": "500",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert float(answer.headers["X-Credits-Charged"]) == 0
    assert 0 <= int(answer.headers["X-RateLimit-Remaining"]) < 500
    assert int(answer.headers["X-RateLimit-Reset"]) >= 1.7e9
    assert "Retry-After" not in answer.headers


def test_json_where_it_is_asked_for_by_name(served: Api) -> None:
    text = base64.b64encode(picture_file(subject_picture())).decode()
    body = {"image_file_b64": text, "crop": True}
    named = served.post(REMOVE, json=body, headers={"Accept": "application/json"})
    data = named.get_json()["data"]
    result = Image.open(io.BytesIO(base64.b64decode(data.pop("result_b64"))))
    assert result.size == (100, 40)
    sides = {"top": 0, "left": 0, "width": 100, "height": 40}
    assert data == {f"foreground_{side}": value for side, value in sides.items()}
    # As axios sends it, which writes the bytes to a file.
    anything = {"Accept": "application/json, text/plain, */*"}
    assert _pixels(served.post(REMOVE, json=body, headers=anything)).shape == (40, 100, 3)


@pytest.mark.parametrize(
    ("parameters", "headers"),
    [
        ({"type": "car"}, {"X-Type": "car"}),
        ({"type": "graphics"}, {"X-Type": "graphic"}),
        ({"type_level": "none"}, {"X-Type": None}),
        ({"format": "zip"}, {"Content-Type": "application/zip"}),
        # The largest size beside that of a preview.
        (
            {"size": "preview"},
            {"X-Width": "612", "X-Height": "408", "X-Max-Width": "900", "X-Max-Height": "600"},
        ),
    ],
)
def test_headers_follow_the_parameters(
    served: Api, parameters: dict[str, str], headers: dict[str, str | None]
) -> None:
    answer = _post(served, subject_picture((900, 600), Box(150, 150, 450, 350)), **parameters)
    assert {name: answer.headers.get(name) for name in headers} == headers


def test_a_thousandth_of_the_pixels_is_a_subject_and_less_is_none(served: Api) -> None:
    nothing = _post(served, Image.new("RGB", (90, 60), BLUE))
    assert error_of(nothing) == (400, "unknown_foreground")
    assert _post(served, subject_picture((100, 60), Box(10, 10, 13, 12))).status_code == 200
    # What only the picture's size tells of a region.
    for roi, code in (
        ("0 0 301px 10px", "roi_exceeds_bounds"),
        ("50% 0 100px 100%", "roi_region_empty"),
    ):
        assert error_of(_post(served, roi=roi)) == (400, code)


def test_a_repeat_joins_the_work_that_goes_on(served: Api, worker: Worker) -> None:
    # Trap 4: clients give up, and send the same again.
    worker.busy = True
    for _ in range(2):
        answer = _post(served)
        assert error_of(answer) == (503, "not_finished")
        assert int(answer.headers["Retry-After"]) >= 1
    worker.work()
    assert _post(served).status_code == 200
    assert worker.runner.model.calls == 1


def test_what_a_worker_found(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for type_, error in (
        ("invalid_image", (400, "failed_to_read_image")),
        ("deadline_exceeded", (500, "internal_error")),
    ):
        failed = make_job(status=Status.FAILED, error=JobError(type_, "That is how it is."))
        monkeypatch.setattr(TaskWaiter, "wait", lambda *_, failed=failed: (failed, True))
        answer = post(api)
        assert error_of(answer) == error
        assert answer.get_json()["errors"][0]["detail"] == "That is how it is."


def test_all_that_goes_wrong_has_the_shape(api: Api, server_settings: dict[str, object]) -> None:
    # Trap 6.
    for method, path, status in (
        ("GET", REMOVE, 405),
        ("POST", "/v1.0/account", 405),
        ("GET", "/v1.0/nothing", 404),
    ):
        answer = api.open(path, method=method)
        assert (error_of(answer)[0], "Allow" in answer.headers) == (status, status == 405)
    away = Api.on(services_on(server_settings, redis_url="redis://127.0.0.1:1/0"))
    answer = post(away)
    assert error_of(answer) == (503, "queue_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
