"""Submitting, following and fetching, with real Redis and S3 and no worker."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from flask.testing import FlaskClient
from PIL import Image
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from inference.options import Options, OutputFormat
from tasks.housekeeping.missing_messages import dispatch_seq_of, list_key, message_id
from tasks.jobs.job import Job, JobError, Status
from tasks.jobs.job_objects import read_manifest
from tasks.jobs.routing import JobDispatcher
from tasks.object_store import result_key
from tasks.redis_client import connect
from tests.support.servers import Servers
from tests.support.services import with_parts

Submit = Callable[..., TestResponse]


@pytest.fixture(scope="module")
def settings(servers: Servers) -> ApiSettings:
    return ApiSettings.load(**servers.settings(servers.new_database()))


@pytest.fixture(scope="module")
def services(settings: ApiSettings, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return Services.from_settings(settings)


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


@pytest.fixture
def submit(client: FlaskClient, coffee: Path) -> Submit:
    def send(image: bytes | None = None, name: str = "coffee.jpg", **form: str) -> TestResponse:
        picture = coffee.read_bytes() if image is None else image
        body, kind = encode_multipart_formdata({"cache": "false", **form, "image": (name, picture)})
        return client.post("/api/v1/remove-bg", data=body, content_type=kind)

    return send


def _data(answer: TestResponse) -> dict[str, Any]:
    body = answer.get_json()
    assert body["code"] == 0, body
    assert set(body) == {"code", "message", "data", "request_id"}
    return dict(body["data"])


def _error(answer: TestResponse) -> tuple[int, str, str]:
    body = answer.get_json()
    assert set(body) == {"code", "message", "data", "error", "request_id"}
    assert body["data"] is None
    assert body["code"] // 100 == answer.status_code
    return answer.status_code, body["error"]["type"], body["message"]


def _job(services: Services, task_id: str) -> Job:
    job = services.runtime.job_store.get(task_id)
    assert job is not None
    return job


def test_a_picture_is_stored_recorded_and_queued(
    submit: Submit, services: Services, settings: ApiSettings, coffee: Path
) -> None:
    answer = submit(matte_color="white", output_format="jpg", quality="80", refine="false")
    assert answer.status_code == 202
    data = _data(answer)
    assert answer.headers["Location"] == data["status_url"]
    assert data["status"] == "queued"

    job = _job(services, data["task_id"])
    assert services.runtime.object_store.get(job.original_key) == coffee.read_bytes()
    asked = Options(OutputFormat.JPG, (255, 255, 255, 255), quality=80, refine=False)
    assert Options.from_dict(job.options) == asked
    assert job.file_stem == "coffee"

    client = connect(settings.redis_url.get_secret_value())
    queued = client.lrange(list_key(f"{job.queue}|{int(job.priority)}"), 0, -1)
    sent = {message_id(each): dispatch_seq_of(each) for each in map(json.loads, queued)}
    assert sent[data["task_id"]] == job.dispatch_seq > 0


def test_the_request_id_of_the_caller_is_kept(client: FlaskClient) -> None:
    answer = client.get("/healthz/live", headers={"X-Request-Id": "order-17"})
    assert answer.headers["X-Request-Id"] == "order-17"
    assert answer.get_json()["request_id"] == "order-17"


def test_a_request_id_that_could_forge_log_lines_is_replaced(client: FlaskClient) -> None:
    answer = client.get("/healthz/live", headers={"X-Request-Id": "a b {evil}"})
    assert answer.headers["X-Request-Id"].startswith("req-")


def test_a_task_shows_its_states(submit: Submit, client: FlaskClient, services: Services) -> None:
    task_id = _data(submit())["task_id"]
    assert _data(client.get(f"/api/v1/tasks/{task_id}"))["status"] == "queued"
    answer = client.get(f"/api/v1/tasks/{task_id}/result")
    assert _error(answer)[:2] == (409, "task_not_finished")

    services.runtime.job_store.claim(task_id, token="t", worker="gpu0@a")
    task = _data(client.get(f"/api/v1/tasks/{task_id}"))
    assert (task["status"], task["worker"], task["attempts"]) == ("processing", "gpu0@a", 1)

    _finish(services, task_id, b"cutout")
    task = _data(client.get(f"/api/v1/tasks/{task_id}?wait=5"))
    assert task["status"] == "succeeded"
    assert urllib3.request("GET", task["result_url"]).data == b"cutout"
    answer = client.get(f"/api/v1/tasks/{task_id}/result?download=true")
    assert answer.status_code == 302
    fetched = urllib3.request("GET", answer.headers["Location"])
    assert fetched.headers["Content-Disposition"] == 'attachment; filename="coffee.png"'


def _finish(services: Services, task_id: str, data: bytes) -> None:
    key = result_key(task_id, "t", "png")
    services.runtime.object_store.put(key, io.BytesIO(data), len(data), "image/png")
    assert services.runtime.job_store.finish(
        task_id, token="t", status=Status.SUCCEEDED, result_key=key, format="png"
    )


def test_a_failed_task_says_why(submit: Submit, client: FlaskClient, services: Services) -> None:
    task_id = _data(submit())["task_id"]
    services.runtime.job_store.claim(task_id, token="t", worker="w")
    reason = JobError("invalid_image", "The picture is damaged.")
    services.runtime.job_store.finish(task_id, token="t", status=Status.FAILED, error=reason)
    task = _data(client.get(f"/api/v1/tasks/{task_id}"))
    assert task["error"] == {
        "type": "invalid_image",
        "message": "The picture is damaged.",
        "retryable": False,
    }
    status, kind, message = _error(client.get(f"/api/v1/tasks/{task_id}/result"))
    assert (status, kind) == (409, "task_failed")
    assert "damaged" in message


def test_an_expired_task_is_gone(submit: Submit, services: Services) -> None:
    task_id = _data(submit())["task_id"]
    services.runtime.job_store.claim(task_id, token="t", worker="w")
    _finish(services, task_id, b"cutout")
    later = replace(services, clock=lambda: _job(services, task_id).expires_at + 1)
    with create_app(later).test_client() as client:
        task = _data(client.get(f"/api/v1/tasks/{task_id}"))
        assert (task["status"], task["result_url"], task["original_url"]) == ("expired", None, None)
        answer = client.get(f"/api/v1/tasks/{task_id}/result")
        assert _error(answer)[:2] == (410, "task_expired")


def test_an_unknown_task_is_not_found(client: FlaskClient) -> None:
    assert _error(client.get("/api/v1/tasks/rm-unknown?wait=30"))[:2] == (404, "task_not_found")


def _jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "JPEG")
    return file.getvalue()


def _bomb() -> bytes:
    """A PNG whose header promises 30000 × 30000 pixels."""
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    return file.getvalue()


BAD_FILES = {
    "empty": (b"", 400, "empty_image", "empty"),
    "text": (b"just words, no picture\n" * 20, 422, "invalid_image", "no picture"),
    "truncated": (_jpeg(400, 300)[:1500], 422, "invalid_image", "ends before"),
    "1x1": (_jpeg(1, 1), 422, "image_too_small", "1 x 1"),
    "bomb": (_bomb(), 413, "too_many_pixels", "900"),
    "11 MB": (b"\xff\xd8\xff" + bytes(11 * 2**20), 413, "image_too_large", "limit is 10 MB"),
    "40 MB": (b"\xff\xd8\xff" + bytes(40 * 2**20), 413, "image_too_large", "limit is 10 MB"),
    "pdf": (b"%PDF-1.7\n" + bytes(500), 415, "unsupported_format", "PDF"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_its_own_clear_error(submit: Submit, name: str) -> None:
    file, status, kind, words = BAD_FILES[name]
    answer = submit(file, "photo.jpg")
    assert _error(answer)[:2] == (status, kind)
    assert words in _error(answer)[2]


@pytest.mark.parametrize(
    ("form", "kind", "words"),
    [
        ({"colour": "red"}, "unknown_parameter", "colour"),
        ({"quality": "0"}, "invalid_parameter", "quality"),
        ({"quality": "101"}, "invalid_parameter", "quality"),
        ({"quality": "many"}, "invalid_parameter", "quality"),
        ({"matte_color": "zzz"}, "invalid_parameter", "CSS name"),
        ({"matte_color": "#12345"}, "invalid_parameter", "#rrggbb"),
        ({"output_format": "bmp"}, "invalid_parameter", "png, webp, jpg"),
        ({"output_format": "jpg"}, "invalid_parameter", "matte_color"),
        ({"cache": "perhaps"}, "invalid_parameter", "cache"),
    ],
)
def test_a_bad_parameter_gets_its_own_clear_error(
    submit: Submit, form: dict[str, str], kind: str, words: str
) -> None:
    answer = submit(**form)
    assert _error(answer)[:2] == (422, kind)
    assert words in _error(answer)[2]


def test_nothing_is_stored_for_what_is_refused(submit: Submit, services: Services) -> None:
    before = set(services.runtime.job_store.ids(Status.QUEUED))
    submit(b"no picture")
    submit(quality="0")
    assert set(services.runtime.job_store.ids(Status.QUEUED)) == before


@pytest.mark.parametrize(
    "form", [{}, {"image": "not a file"}, {"quality": "5"}], ids=["nothing", "text", "no image"]
)
def test_a_form_without_a_picture_says_so(client: FlaskClient, form: dict[str, str]) -> None:
    answer = client.post("/api/v1/remove-bg", data=form, content_type="multipart/form-data")
    assert _error(answer)[:2] == (400, "missing_image")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/v1/remove-bg", 405, "method_not_allowed"),
        ("DELETE", "/healthz/live", 405, "method_not_allowed"),
        ("GET", "/api/v1/tasks/rm-1?wait=-1", 422, "invalid_parameter"),
        ("GET", "/api/v1/tasks/rm-1?wiat=1", 422, "unknown_parameter"),
    ],
)
def test_flasks_own_errors_have_the_envelope_too(
    client: FlaskClient, method: str, path: str, status: int, kind: str
) -> None:
    assert _error(client.open(path, method=method))[:2] == (status, kind)


def test_a_store_that_is_away_is_503_and_accepts_nothing(
    server_settings: dict[str, object], coffee: Path
) -> None:
    away = ApiSettings.load(**{**server_settings, "s3_endpoint": "http://127.0.0.1:1"})
    services = Services.from_settings(away)
    before = set(services.runtime.job_store.ids(Status.QUEUED))
    with create_app(services).test_client() as client:
        answer = client.post(
            "/api/v1/remove-bg", data={"image": (coffee.open("rb"), "a.jpg"), "cache": "false"}
        )
    assert _error(answer)[:2] == (503, "store_unavailable")
    assert answer.headers["Retry-After"].isdigit()
    assert set(services.runtime.job_store.ids(Status.QUEUED)) == before


def test_redis_away_is_503_and_no_picture_is_stored(
    server_settings: dict[str, object], coffee: Path
) -> None:
    away = ApiSettings.load(**{**server_settings, "redis_url": "redis://127.0.0.1:1/0"})
    services = Services.from_settings(away)
    put: list[str] = []
    watched = with_parts(services, object_store=_Watched(services.runtime.object_store, put, []))
    # The cache would find Redis away before anything could be put.
    with create_app(watched).test_client() as client:
        answer = client.post(
            "/api/v1/remove-bg", data={"image": (coffee.open("rb"), "a.jpg"), "cache": "false"}
        )
    assert _error(answer)[:2] == (503, "queue_unavailable")
    assert answer.headers["Retry-After"].isdigit()
    assert put == []


class _Watched:
    """The real store, with a note of what passes."""

    def __init__(self, inner: Any, put: list[str], deleted: list[str]) -> None:  # noqa: ANN401
        self._inner, self._put, self._deleted = inner, put, deleted

    def put(self, key: str, *rest: Any, **options: Any) -> None:  # noqa: ANN401
        self._put.append(key)
        self._inner.put(key, *rest, **options)

    def delete(self, key: str) -> None:
        self._deleted.append(key)
        self._inner.delete(key)


def test_a_restore_that_was_quicker_does_not_unmake_the_job(
    services: Services, coffee: Path
) -> None:
    class Restored(_Watched):
        """`rmbg restore` finds the original between its upload and its record."""

        def put(self, key: str, *rest: Any, **options: Any) -> None:  # noqa: ANN401
            super().put(key, *rest, **options)
            job = read_manifest(key, self._inner.metadata(key))
            assert job is not None
            services.runtime.job_store.create(job.evolve(queue="model.u2netp"))

    deleted: list[str] = []
    quick = with_parts(services, object_store=Restored(services.runtime.object_store, [], deleted))
    with create_app(quick).test_client() as client:
        answer = client.post(
            "/api/v1/remove-bg", data={"image": (coffee.open("rb"), "a.jpg"), "cache": "false"}
        )
    assert answer.status_code == 202
    assert deleted == []
    assert _job(services, _data(answer)["task_id"]).status is Status.QUEUED


def test_a_message_that_cannot_be_sent_does_not_unmake_the_job(
    services: Services, coffee: Path
) -> None:
    class Broken:
        def send_task(self, *_: object, **__: object) -> None:
            raise OSError("broker away")

    broken = with_parts(
        services,
        dispatcher=JobDispatcher(Broken(), services.runtime.job_store),  # type: ignore[arg-type]
    )
    with create_app(broken).test_client() as client:
        answer = client.post(
            "/api/v1/remove-bg", data={"image": (coffee.open("rb"), "a.jpg"), "cache": "false"}
        )
    assert answer.status_code == 202
    assert _data(answer)["task_id"] in services.runtime.job_store.ids(Status.QUEUED)
