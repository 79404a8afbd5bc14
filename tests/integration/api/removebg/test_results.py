"""What remove.bg's API answers once a picture is worked on."""

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.services import Services
from inference.layout import Box
from tasks.jobs.job import Job
from tasks.worker.runner import Runner
from tests.support.models import FakeModel
from tests.support.pictures import BLUE, RED, SUBJECT, find_red, picture_file, subject_picture
from tests.support.removebg_requests import REMOVE, error_of, post
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
def worker(services: Services) -> Worker:
    made: Any = Worker(make_runner(services.runtime, FakeModel(find=find_red)))
    services.runtime.dispatcher = made
    return made


@pytest.fixture
def client(worker: Worker, client: FlaskClient) -> FlaskClient:  # noqa: ARG001 - does the work
    return client


def _post(client: FlaskClient, image: Image.Image | None = None, **fields: str) -> TestResponse:
    return post(client, picture_file(image or subject_picture()), **fields)


def _pixels(answer: TestResponse) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.data)))


def test_the_bytes_and_the_headers(client: FlaskClient) -> None:
    answer = _post(client)
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


def test_json_where_it_is_asked_for_by_name(client: FlaskClient) -> None:
    body = {
        "image_file_b64": base64.b64encode(picture_file(subject_picture())).decode(),
        "crop": True,
    }
    named = client.post(REMOVE, json=body, headers={"Accept": "application/json"})
    assert named.status_code == 200
    data = named.get_json()["data"]
    result = Image.open(io.BytesIO(base64.b64decode(data.pop("result_b64"))))
    assert result.size == (100, 40)
    assert data == {
        "foreground_top": 0,
        "foreground_left": 0,
        "foreground_width": 100,
        "foreground_height": 40,
    }
    # As axios sends it, which writes the bytes to a file.
    anything = {"Accept": "application/json, text/plain, */*"}
    assert _pixels(client.post(REMOVE, json=body, headers=anything)).shape == (40, 100, 3)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"type": "car"}, "car"), ({"type": "graphics"}, "graphic"), ({"type_level": "none"}, None)],
)
def test_the_type_is_the_callers(
    client: FlaskClient, parameters: dict[str, str], expected: str | None
) -> None:
    assert _post(client, **parameters).headers.get("X-Type") == expected


def test_the_headers_tell_the_largest_size_beside_that_of_a_preview(client: FlaskClient) -> None:
    answer = _post(client, subject_picture((900, 600), Box(150, 150, 450, 350)), size="preview")
    assert _pixels(answer).shape == (408, 612, 4)
    sizes = {"X-Width": "612", "X-Height": "408", "X-Max-Width": "900", "X-Max-Height": "600"}
    assert {name: answer.headers[name] for name in sizes} == sizes


def test_a_zip_has_its_media_type(client: FlaskClient) -> None:
    assert _post(client, format="zip").headers["Content-Type"] == "application/zip"


def test_a_thousandth_of_the_pixels_is_a_subject_and_less_is_none(client: FlaskClient) -> None:
    assert error_of(_post(client, Image.new("RGB", (90, 60), BLUE))) == (400, "unknown_foreground")
    assert _post(client, subject_picture((100, 60), Box(10, 10, 13, 12))).status_code == 200


def test_a_region_beyond_the_picture_or_without_a_subject(client: FlaskClient) -> None:
    assert error_of(_post(client, roi="0 0 301px 10px")) == (400, "roi_exceeds_bounds")
    assert error_of(_post(client, roi="50% 0 100px 100%")) == (400, "roi_region_empty")


def test_a_repeat_joins_the_work_that_goes_on(client: FlaskClient, worker: Worker) -> None:
    # Trap 4: clients give up, and send the same again.
    worker.busy = True
    for _ in range(2):
        answer = _post(client)
        assert error_of(answer) == (503, "not_finished")
        assert int(answer.headers["Retry-After"]) >= 1
    worker.work()
    assert _post(client).status_code == 200
    assert worker.runner.model.calls == 1
