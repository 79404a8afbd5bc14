"""Batches: taking in, counting, naming, ending; real Redis and S3, and no worker."""

import base64
import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from urllib3.filepost import encode_multipart_formdata
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from tasks import redis_keys
from tasks.jobs.batches import Batch, new_batch_id
from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.job_objects import read_manifest
from tasks.jobs.store import JobStore, lease_token
from tasks.object_store import UPLOAD_OBJECTS, original_key, result_key
from tasks.redis_client import connect
from tests.support.services import with_parts

BATCH = "/api/v1/remove-bg/batch"


def _picture(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), color).save(file, "PNG")
    return file.getvalue()


RED, GREEN, BLUE = map(_picture, ("red", "green", "blue"))


@pytest.fixture
def settings(server_settings: dict[str, object]) -> ApiSettings:
    limits = {"max_image_mb": 1, "max_batch_images": 5}
    bucket = f"{server_settings['s3_bucket']}-batches"
    return ApiSettings.load(**{**server_settings, **limits, "s3_bucket": bucket})


@pytest.fixture
def services(settings: ApiSettings) -> Services:
    services = Services.from_settings(settings)
    services.runtime.object_store.ensure_bucket()
    return services


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


def _send(client: FlaskClient, *fields: tuple[str, Any]) -> TestResponse:
    body, kind = encode_multipart_formdata(list(fields))
    return client.post(BATCH, data=body, content_type=kind)


def _image(name: str, data: bytes) -> tuple[str, Any]:
    return ("images", (name, data))


def _data(answer: TestResponse, status: int = 202) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.get_json()["data"])


def _error(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["type"]


def _job(services: Services, task_id: str) -> Job:
    job = services.runtime.job_store.get(task_id)
    assert job is not None
    return job


def _end(services: Services, task_id: str, status: Status = Status.SUCCEEDED) -> None:
    token = lease_token("gpu0@host", 1)
    services.runtime.job_store.claim(task_id, token=token, worker="gpu0@host")
    facts: dict[str, object] = {}
    if status is Status.SUCCEEDED:
        key = result_key(task_id, token, "png")
        services.runtime.object_store.put(
            key, io.BytesIO(task_id.encode()), len(task_id), "image/png"
        )
        facts = {"result_key": key, "format": "png"}
    assert services.runtime.job_store.finish(task_id, token=token, status=status, **facts)


def test_files_become_tasks_of_low_priority_with_the_shared_options(
    client: FlaskClient, services: Services
) -> None:
    # Fields behind the files count for all of them too.
    answer = _send(
        client,
        ("output_format", "webp"),
        _image("red.png", RED),
        _image("green.png", GREEN),
        ("quality", "70"),
        ("metadata", '{"order": 7}'),
        ("matte_color", ""),
    )
    batch = _data(answer)
    assert answer.headers["Location"] == batch["status_url"]
    assert (batch["status"], batch["total"], batch["progress"]) == ("processing", 2, 0)
    assert batch["counts"] == {
        "queued": 2,
        "processing": 0,
        "succeeded": 0,
        "failed": 0,
        "canceled": 0,
    }
    assert [item["name"] for item in batch["items"]] == ["red.png", "green.png"]
    for item, picture in zip(batch["items"], (RED, GREEN), strict=True):
        job = _job(services, item["task_id"])
        assert services.runtime.object_store.get(job.original_key) == picture
        assert (job.priority, job.batch_id) == (Priority.LOW, batch["batch_id"])
        assert (job.options["output_format"], job.options["quality"]) == ("webp", 70)
        assert job.metadata == {"order": 7}
    # Nothing waits in the bucket any more, and nowhere else.
    assert list(services.runtime.object_store.list(UPLOAD_OBJECTS)) == []
    assert connect(services.settings.redis_url.get_secret_value()).zcard(redis_keys.UPLOADS) == 0


class _Counting:
    """An object store that notes which keys are written and read, and how."""

    def __init__(self, object_store: Any) -> None:  # noqa: ANN401 - any store
        self._object_store = object_store
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method
        method = getattr(self._object_store, name)

        def call(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - as the method's
            self.calls.append((name, " ".join(each for each in arguments if isinstance(each, str))))
            return method(*arguments, **more)

        return call


def test_a_picture_is_stored_once_and_never_read_back(services: Services) -> None:
    counting = _Counting(services.runtime.object_store)
    with create_app(with_parts(services, object_store=counting)).test_client() as client:
        (item,) = _data(_send(client, _image("red.png", RED)))["items"]
    key = original_key(item["task_id"])
    # The manifest is known once the whole form is read: it goes onto the object where it is.
    assert counting.calls == [("put", f"{key} image/png"), ("copy", f"{key} {key}")]
    manifest = services.runtime.object_store.metadata(key)
    job = read_manifest(key, manifest)
    assert job is not None
    assert (job.task_id, job.batch_id) == (item["task_id"], _job(services, job.task_id).batch_id)


def test_pictures_of_a_refused_batch_are_removed(client: FlaskClient, services: Services) -> None:
    before = set(services.runtime.object_store.list(""))
    refused = _send(client, _image("red.png", RED), _image("blue.png", BLUE), ("quality", "x"))
    assert _error(refused) == (422, "invalid_parameter")
    assert set(services.runtime.object_store.list("")) == before


def test_a_bad_picture_fails_alone_with_its_reason(client: FlaskClient) -> None:
    batch = _data(
        _send(
            client,
            _image("words.jpg", b"no picture at all"),
            _image("red.png", RED),
            _image("large.png", RED + bytes(2**20)),
            _image("empty.png", b""),
        )
    )
    reasons = [item["error"] and item["error"]["type"] for item in batch["items"]]
    assert reasons == ["invalid_image", None, "image_too_large", "empty_image"]
    assert "1 MB" in batch["items"][2]["error"]["message"]
    assert batch["counts"]["failed"] == 3
    assert batch["counts"]["queued"] == 1
    assert batch["progress"] == 0.75
    assert [item["task_id"] is None for item in batch["items"]] == [True, False, True, True]


def test_items_come_in_every_way_with_options_of_their_own(
    client: FlaskClient, services: Services
) -> None:
    uploads = services.runtime.uploads
    upload = uploads.create("", len(GREEN), file_name="green.png")
    uploads.append("", upload.upload_id, 0, io.BytesIO(GREEN))
    items = [
        {"image_b64": base64.b64encode(RED).decode(), "output_format": "webp", "priority": "high"},
        {"upload_id": upload.upload_id},
        {"image_b64": "!!", "quality": 50},
        {"quality": 50},
        {"image_b64": base64.b64encode(BLUE).decode(), "quality": 1000},
    ]
    batch = _data(client.post(BATCH, json={"items": items, "output_format": "png"}))
    reasons = [item["error"] and item["error"]["type"] for item in batch["items"]]
    assert reasons == [None, None, "invalid_parameter", "missing_image", "invalid_parameter"]
    first, second = (_job(services, item["task_id"]) for item in batch["items"][:2])
    assert (first.options["output_format"], first.priority) == ("webp", Priority.HIGH)
    assert (second.options["output_format"], second.priority) == ("png", Priority.LOW)
    assert batch["items"][1]["name"] == "green.png"


@pytest.mark.parametrize(
    ("fields", "status", "kind"),
    [
        ([], 400, "missing_image"),
        ([("output_format", "png")], 400, "missing_image"),
        ([("images", "text")], 400, "missing_image"),
        ([_image("a.png", RED), ("nonsense", "1")], 422, "unknown_parameter"),
        ([_image("a.png", RED), ("quality", "1000")], 422, "invalid_parameter"),
        ([_image("a.png", RED), ("output_format", "jpg")], 422, "invalid_parameter"),
        ([("picture", ("a.png", RED))], 422, "unknown_parameter"),
        ([_image("a.png", RED)] * 6, 413, "batch_too_large"),
    ],
)
def test_a_form_that_is_wrong_is_refused_whole_and_leaves_nothing(
    client: FlaskClient,
    services: Services,
    fields: list[tuple[str, Any]],
    status: int,
    kind: str,
) -> None:
    before = set(services.runtime.object_store.list(""))
    assert _error(_send(client, *fields)) == (status, kind)
    assert set(services.runtime.object_store.list("")) == before
    redis = connect(services.settings.redis_url.get_secret_value())
    assert [name for name in redis.scan_iter() if "batch" in name or "upload" in name] == []


def test_a_form_that_is_cut_off_leaves_nothing(client: FlaskClient, services: Services) -> None:
    body, kind = encode_multipart_formdata([_image("a.png", RED), _image("b.png", GREEN)])
    before = set(services.runtime.object_store.list(""))
    answer = client.post(BATCH, data=body[:-40], content_type=kind)
    assert _error(answer) == (400, "bad_request")
    assert set(services.runtime.object_store.list("")) == before
    assert services.runtime.job_store.counts()[Status.QUEUED] == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": "all"},
        {"items": ["a"]},
        {"items": [{}], "image_b64": "AAAA"},
        {"items": [{}], "quality": 0},
    ],
)
def test_json_that_is_wrong_is_refused(client: FlaskClient, body: dict[str, Any]) -> None:
    assert client.post(BATCH, json=body).status_code in {400, 422}


def test_ends_are_counted_and_the_last_one_completes_it(
    client: FlaskClient, services: Services
) -> None:
    batch = _data(_send(client, _image("a.png", RED), _image("a.jpg", GREEN), _image("c", b"x")))
    url = f"/api/v1/batches/{batch['batch_id']}"
    assert _error(client.get(f"{url}/archive")) == (409, "batch_not_finished")
    first, second = (item["task_id"] for item in batch["items"][:2])
    _end(services, first)
    assert _data(client.get(url), 200)["completed_at"] is None
    redis = connect(services.settings.redis_url.get_secret_value()).pubsub()
    redis.subscribe(f"rmbg:done:{batch['batch_id']}")
    _end(services, second)
    done = _data(client.get(url), 200)
    assert (done["status"], done["progress"]) == ("completed", 1)
    assert done["counts"]["succeeded"] == 2
    assert done["counts"]["failed"] == 1

    archive = client.get(f"{url}/archive")
    assert archive.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
        assert opened.namelist() == ["a.png", "a-2.png"]
        assert opened.read("a-2.png") == second.encode()
    messages = [redis.get_message(timeout=5) for _ in range(2)]
    assert [each and each["type"] for each in messages] == ["subscribe", "message"]


def test_a_batch_completes_once_even_if_a_task_is_begun_anew(
    client: FlaskClient, services: Services
) -> None:
    batch = _data(_send(client, _image("a.png", RED)))
    task_id = batch["items"][0]["task_id"]
    _end(services, task_id, Status.FAILED)
    first = services.runtime.batches.get(batch["batch_id"])
    services.runtime.job_store.requeue(task_id)
    _end(services, task_id)
    second = services.runtime.batches.get(batch["batch_id"])
    assert first is not None
    assert second is not None
    assert first.completed_at == second.completed_at is not None


def test_a_batch_that_nobody_begins_is_over_after_a_day(
    client: FlaskClient, services: Services
) -> None:
    batch = _data(_send(client, _image("a.png", RED), _image("b.png", GREEN)))
    first, second = (_job(services, item["task_id"]) for item in batch["items"])
    _end(services, first.task_id)
    redis = connect(services.settings.redis_url.get_secret_value())
    later = JobStore(redis, clock=lambda: second.created_at + 24 * 3600 + 1)
    assert later.overdue() == [second.task_id]
    assert later.fail_overdue(second.task_id)
    done = _data(client.get(f"/api/v1/batches/{batch['batch_id']}"), 200)
    assert (done["status"], done["counts"]["succeeded"], done["counts"]["failed"]) == (
        "completed",
        1,
        1,
    )


def test_a_batch_of_nothing_but_bad_pictures_is_complete_at_once(client: FlaskClient) -> None:
    batch = _data(_send(client, _image("a.png", b"x"), _image("b.png", b"y")))
    assert (batch["status"], batch["progress"]) == ("completed", 1)
    answer = client.get(f"/api/v1/batches/{batch['batch_id']}/archive")
    assert _error(answer) == (409, "batch_empty")


def test_canceling_ends_what_is_not_done(client: FlaskClient, services: Services) -> None:
    batch = _data(_send(client, _image("a.png", RED), _image("b.png", GREEN)))
    url = f"/api/v1/batches/{batch['batch_id']}"
    _end(services, batch["items"][0]["task_id"])
    after = _data(client.post(f"{url}/cancel"), 200)
    assert [item["status"] for item in after["items"]] == ["succeeded", "canceled"]
    assert after["status"] == "completed"
    assert _error(client.post(f"{url}/cancel")) == (409, "batch_finished")
    with zipfile.ZipFile(io.BytesIO(client.get(f"{url}/archive").data)) as opened:
        assert opened.namelist() == ["a.png"]


def test_deleting_erases_everything_of_it_and_nothing_else(
    client: FlaskClient, services: Services
) -> None:
    other = _data(_send(client, _image("other.png", BLUE)))
    before = set(services.runtime.object_store.list(""))
    batch = _data(_send(client, _image("a.png", RED), _image("b.png", GREEN)))
    _end(services, batch["items"][0]["task_id"])
    url = f"/api/v1/batches/{batch['batch_id']}"
    assert _data(client.delete(url), 200) == {"batch_id": batch["batch_id"], "erased": True}
    assert _error(client.get(url)) == (404, "batch_not_found")
    assert set(services.runtime.object_store.list("")) == before
    redis = connect(services.settings.redis_url.get_secret_value())
    for word in [batch["batch_id"], *(item["task_id"] for item in batch["items"])]:
        assert [name for name in redis.scan_iter() if word in name] == []
    assert _data(client.get(f"/api/v1/batches/{other['batch_id']}"), 200)["total"] == 1


def test_a_batch_of_somebody_else_is_not_found(client: FlaskClient, services: Services) -> None:
    now = services.clock()
    batch = Batch(new_batch_id(), "another-owner", now, now + 3600)
    services.runtime.batches.create(batch)
    url = f"/api/v1/batches/{batch.batch_id}"
    answers = [
        client.get(url),
        client.get(f"{url}/archive"),
        client.post(f"{url}/cancel"),
        client.delete(url),
    ]
    assert {_error(answer) for answer in answers} == {(404, "batch_not_found")}


def test_an_expired_batch_says_so(services: Services) -> None:
    with create_app(services).test_client() as client:
        batch = _data(_send(client, _image("a.png", RED)))
    _end(services, batch["items"][0]["task_id"])
    later = services.clock() + services.settings.retention_hours * 3600 + 1
    with create_app(replace(services, clock=lambda: later)).test_client() as client:
        url = f"/api/v1/batches/{batch['batch_id']}"
        assert _data(client.get(url), 200)["status"] == "expired"
        assert _error(client.get(f"{url}/archive")) == (410, "batch_expired")


def test_when_nothing_can_be_taken_in_nothing_is(services: Services) -> None:
    full = replace(services, settings=services.settings.model_copy(update={"max_pending": 1}))
    with create_app(full).test_client() as client:
        first = _data(_send(client, _image("a.png", RED), _image("b.png", GREEN)))
        assert [item["error"] and item["error"]["type"] for item in first["items"]] == [
            None,
            "queue_full",
        ]
        assert first["items"][1]["error"]["retryable"]
        assert _error(_send(client, _image("c.png", BLUE))) == (503, "queue_full")
        bad_first = _send(client, _image("bad.png", b"no picture"), _image("c.png", BLUE))
        assert _error(bad_first) == (503, "queue_full")


def test_the_same_request_again_is_answered_with_the_same_batch(
    client: FlaskClient, services: Services
) -> None:
    def send(key: str, *pictures: bytes) -> TestResponse:
        fields = [_image(f"{number}.png", data) for number, data in enumerate(pictures)]
        body, kind = encode_multipart_formdata(fields)
        headers = {"Idempotency-Key": key, "Content-Type": kind}
        return client.post(BATCH, data=body, headers=headers)

    first, again = send("order-7", RED, GREEN), send("order-7", RED, GREEN)
    assert _data(first)["batch_id"] == _data(again)["batch_id"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert services.runtime.job_store.counts()[Status.QUEUED] == 2
    assert _error(send("order-7", RED, BLUE)) == (422, "idempotency_mismatch")
    assert _data(send("order-8", RED, GREEN))["batch_id"] != _data(first)["batch_id"]
    client.delete(f"/api/v1/batches/{_data(first)['batch_id']}")
    assert _error(send("order-7", RED, GREEN)) == (410, "gone")


def test_a_key_of_a_batch_that_was_refused_may_be_used_again(client: FlaskClient) -> None:
    headers = {"Idempotency-Key": "order-9"}
    bad = client.post(BATCH, json={"items": [{}], "quality": 0}, headers=headers)
    assert bad.status_code == 422
    good = {"items": [{"image_b64": base64.b64encode(RED).decode()}]}
    assert client.post(BATCH, json=good, headers=headers).status_code == 202
