"""Requests to the remove.bg API, and its errors."""

import io
from typing import Any, Final

from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from tasks.jobs.job import Job, Status
from tests.support.api import Api
from tests.support.submissions import form

REMOVE: Final = "/v1.0/removebg"

#: A part of a form: name, bytes, media type.
File = tuple[str, bytes, str]


def picture(name: str = "PNG", size: tuple[int, int] = (60, 40)) -> bytes:
    """Return a noisy picture in a format of Pillow."""
    stream = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(stream, name)
    return stream.getvalue()


PICTURE: Final = picture()


def file(data: bytes = PICTURE, name: str = "a.png", kind: str = "image/png") -> File:
    return name, data, kind


def send(client: FlaskClient, path: str = REMOVE, **fields: File | str) -> TestResponse:
    """Post a form."""
    return client.post(path, **form(**fields))


def post(client: FlaskClient, data: bytes = PICTURE, **fields: File | str) -> TestResponse:
    """Post a form with a picture."""
    return send(client, **{"image_file": file(data), **fields})


def error_of(answer: TestResponse) -> tuple[int, str]:
    """Return the status and the code of a failure, whose shape is checked."""
    (error,) = answer.get_json()["errors"]
    assert set(error) in ({"title", "code"}, {"title", "code", "detail"})
    assert all(isinstance(value, str) and value for value in error.values())
    return answer.status_code, error["code"]


def accepted(answer: TestResponse) -> bool:
    """Return whether it passed all checks: there is no worker, so it is not finished in time."""
    return error_of(answer) == (503, "not_finished")


def latest_job(api: Api) -> Job:
    """Return the job that was queued last."""
    (job,) = api.jobs.read_newest([Status.QUEUED], 1).jobs
    return job


def latest_options(api: Api) -> dict[str, Any]:
    """Return the options of the job that was queued last."""
    return latest_job(api).options
