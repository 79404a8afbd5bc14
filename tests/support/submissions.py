"""Sends the photo of the tests to the API, with an Idempotency-Key or without."""

import io
from typing import Any, Final

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.paths import DATA

PATH: Final = "/api/v1/remove-bg"
PHOTO: Final = (DATA / "coffee.jpg").read_bytes()


def send_photo(
    client: FlaskClient,
    key: str | None,
    headers: dict[str, str] | None = None,
    **form: Any,  # noqa: ANN401 - bytes for the image, text for the others
) -> TestResponse:
    """Submit it; the cache is not asked unless a field says so."""
    sent = {**(headers or {}), **({"Idempotency-Key": key} if key is not None else {})}
    image = (io.BytesIO(form.pop("image", PHOTO)), "a.jpg")
    return client.post(PATH, data={"cache": "false", **form, "image": image}, headers=sent)


def task_id_of(answer: TestResponse) -> str:
    """Return the id of the task that was accepted."""
    assert answer.status_code in {200, 202}, answer.get_json()
    return str(answer.get_json()["data"]["task_id"])
