"""Requests to the remove.bg API, and its errors."""

from typing import Any, Final

from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from tasks.jobs.job import Job, Status
from tests.support.api import Api
from tests.support.pictures import picture_file
from tests.support.submissions import form

REMOVE: Final = "/v1.0/removebg"


def picture(name: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    """Return a noisy picture in a format of Pillow."""
    return picture_file(Image.effect_noise(size, 90).convert("RGB"), name)


PICTURE: Final = picture()


def send(client: FlaskClient, path: str = REMOVE, **fields: Any) -> TestResponse:  # noqa: ANN401 - as those of a form
    """Post a form."""
    return client.post(path, **form(**fields))


def post(
    client: FlaskClient,
    data: bytes = PICTURE,
    path: str = REMOVE,
    **fields: Any,  # noqa: ANN401 - as those of a form
) -> TestResponse:
    """Post a form with a picture."""
    return send(client, path, **{"image_file": ("a.png", data), **fields})


def error_of(answer: TestResponse) -> tuple[int, str]:
    """Return the status and the code of a failure, whose shape is checked."""
    (error,) = answer.get_json()["errors"]
    assert set(error) in ({"title", "code"}, {"title", "code", "detail"})
    assert all(isinstance(value, str) and value for value in error.values())
    return answer.status_code, error["code"]


def accepted(api: Api, answer: TestResponse) -> Job:
    """Return the job of an answer: there is no worker, so it is not finished in time."""
    assert error_of(answer) == (503, "not_finished")
    (job,) = api.jobs.read_newest([Status.QUEUED], 1).jobs
    return job
