"""Batches: taking in, counting, naming, ending; real Redis and S3, and no worker."""

import base64
import io
import zipfile
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from tasks import redis_keys
from tasks.jobs.job import JobError, Priority, Status
from tasks.jobs.job_objects import read_manifest
from tasks.jobs.store import JobStore
from tasks.object_store import UPLOAD_OBJECTS, original_key
from tests.support.servers import Servers
from tests.support.services import services_on, with_parts, with_settings
from tests.support.submissions import data_of, form, job_of, png, refusal
from tests.support.tenants import fail, finish

BATCH = "/api/v1/remove-bg/batch"
RED, GREEN, BLUE = map(png, ("red", "green", "blue"))
RED_TEXT = base64.b64encode(RED).decode()


@pytest.fixture(scope="module")
def services(servers: Servers) -> Services:
    # A bucket of its own, in which nothing else comes and goes.
    settings = servers.settings(servers.redis_url(), s3_bucket=f"{servers.bucket}-batches")
    services = services_on(settings, max_image_mb=1, max_batch_images=5)
    services.runtime.object_store.ensure_bucket()
    return services


def _image(name: str, data: bytes) -> tuple[str, Any]:
    return ("images", (name, data))


def _send(client: FlaskClient, *fields: tuple[str, Any]) -> TestResponse:
    return client.post(BATCH, **form(*fields))


def _begin(client: FlaskClient, **pictures: bytes) -> tuple[str, list[str]]:
    """Send a batch of PNGs by their names; its address, and the ids of its tasks."""
    batch = data_of(
        _send(client, *(_image(f"{name}.png", data) for name, data in pictures.items()))
    )
    return f"/api/v1/batches/{batch['batch_id']}", [item["task_id"] for item in batch["items"]]


def _errors(batch: dict[str, Any]) -> list[str | None]:
    return [item["error"] and item["error"]["type"] for item in batch["items"]]


def _bucket(services: Services) -> set[str]:
    return set(services.runtime.object_store.list(""))


def test_files_become_tasks_of_low_priority_with_the_shared_options(
    client: FlaskClient, services: Services, redis: Redis
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
    batch = data_of(answer)
    assert answer.headers["Location"] == batch["status_url"]
    assert (batch["status"], batch["total"], batch["progress"]) == ("processing", 2, 0)
    none = dict.fromkeys(("processing", "succeeded", "failed", "canceled"), 0)
    assert batch["counts"] == {"queued": 2, **none}
    assert [item["name"] for item in batch["items"]] == ["red.png", "green.png"]
    for item, picture in zip(batch["items"], (RED, GREEN), strict=True):
        job = job_of(services, item["task_id"])
        assert services.runtime.object_store.get(job.original_key) == picture
        assert (job.priority, job.batch_id) == (Priority.LOW, batch["batch_id"])
        assert (job.options["output_format"], job.options["quality"]) == ("webp", 70)
        assert job.metadata == {"order": 7}
    # Nothing waits in the bucket any more, and nowhere else.
    assert list(services.runtime.object_store.list(UPLOAD_OBJECTS)) == []
    assert redis.zcard(redis_keys.UPLOADS) == 0


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
    client = create_app(with_parts(services, object_store=counting)).test_client()
    _, (task_id,) = _begin(client, red=RED)
    key = original_key(task_id)
    # The manifest is known once the whole form is read: it goes onto the object where it is.
    assert counting.calls == [("put", f"{key} image/png"), ("copy", f"{key} {key}")]
    job = read_manifest(key, services.runtime.object_store.metadata(key))
    assert job is not None
    assert (job.task_id, job.batch_id) == (task_id, job_of(services, task_id).batch_id)


def test_a_bad_picture_fails_alone_with_its_reason(client: FlaskClient) -> None:
    answer = _send(
        client,
        _image("words.jpg", b"no picture at all"),
        _image("red.png", RED),
        _image("large.png", RED + bytes(2**20)),
        _image("empty.png", b""),
    )
    batch = data_of(answer)
    assert _errors(batch) == ["invalid_image", None, "image_too_large", "empty_image"]
    assert "1 MB" in batch["items"][2]["error"]["message"]
    assert (batch["counts"]["failed"], batch["counts"]["queued"]) == (3, 1)
    assert batch["progress"] == 0.75
    assert [item["task_id"] is None for item in batch["items"]] == [True, False, True, True]


def test_items_come_in_every_way_with_options_of_their_own(
    client: FlaskClient, services: Services
) -> None:
    uploads = services.runtime.uploads
    upload = uploads.create("", len(GREEN), file_name="green.png")
    uploads.append("", upload.upload_id, 0, io.BytesIO(GREEN))
    items = [
        {"image_b64": RED_TEXT, "output_format": "webp", "priority": "high"},
        {"upload_id": upload.upload_id},
        {"image_b64": "!!", "quality": 50},
        {"quality": 50},
        {"image_b64": RED_TEXT, "quality": 1000},
    ]
    batch = data_of(client.post(BATCH, json={"items": items, "output_format": "png"}))
    refused = ["invalid_parameter", "missing_image", "invalid_parameter"]
    assert _errors(batch) == [None, None, *refused]
    first, second = (job_of(services, item["task_id"]) for item in batch["items"][:2])
    assert (first.options["output_format"], first.priority) == ("webp", Priority.HIGH)
    assert (second.options["output_format"], second.priority) == ("png", Priority.LOW)
    assert batch["items"][1]["name"] == "green.png"


@pytest.mark.parametrize(
    ("fields", "cut", "status", "kind"),
    [
        ([], 0, 400, "missing_image"),
        ([("output_format", "png")], 0, 400, "missing_image"),
        ([("images", "text")], 0, 400, "missing_image"),
        ([_image("a", RED), ("nonsense", "1")], 0, 422, "unknown_parameter"),
        ([_image("a", RED), ("quality", "1000")], 0, 422, "invalid_parameter"),
        ([_image("a", RED), _image("b", BLUE), ("quality", "x")], 0, 422, "invalid_parameter"),
        ([_image("a", RED), ("output_format", "jpg")], 0, 422, "invalid_parameter"),
        ([("picture", ("a.png", RED))], 0, 422, "unknown_parameter"),
        ([_image("a", RED)] * 6, 0, 413, "batch_too_large"),
        ([_image("a", RED), _image("b", GREEN)], 40, 400, "bad_request"),
    ],
)
def test_a_form_that_is_wrong_or_cut_off_is_refused_whole_and_leaves_nothing(
    client: FlaskClient,
    services: Services,
    redis: Redis,
    fields: list[tuple[str, Any]],
    *,
    cut: int,
    status: int,
    kind: str,
) -> None:
    before = _bucket(services)
    sent = form(*fields)
    sent["data"] = sent["data"][: len(sent["data"]) - cut]
    assert refusal(client.post(BATCH, **sent)) == (status, kind)
    assert _bucket(services) == before
    assert [name for name in redis.scan_iter() if "batch" in name or "upload" in name] == []
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
    client: FlaskClient, services: Services, redis: Redis
) -> None:
    batch = data_of(_send(client, _image("a.png", RED), _image("a.jpg", GREEN), _image("c", b"x")))
    url = f"/api/v1/batches/{batch['batch_id']}"
    assert refusal(client.get(f"{url}/archive")) == (409, "batch_not_finished")
    first, second = (item["task_id"] for item in batch["items"][:2])
    finish(services, first)
    assert data_of(client.get(url), 200)["completed_at"] is None
    with redis.pubsub() as channel:
        channel.subscribe(f"rmbg:done:{batch['batch_id']}")
        finish(services, second, b"the second")
        messages = [channel.get_message(timeout=5) for _ in range(2)]
    assert [each and each["type"] for each in messages] == ["subscribe", "message"]
    done = data_of(client.get(url), 200)
    assert (done["status"], done["progress"]) == ("completed", 1)
    assert (done["counts"]["succeeded"], done["counts"]["failed"]) == (2, 1)

    archive = client.get(f"{url}/archive")
    assert archive.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
        assert opened.namelist() == ["a.png", "a-2.png"]
        assert opened.read("a-2.png") == b"the second"


def test_a_batch_completes_once_even_if_a_task_is_begun_again(
    client: FlaskClient, services: Services
) -> None:
    url, (task_id,) = _begin(client, a=RED)
    fail(services, task_id, JobError("internal_error", "It crashed."))
    first = data_of(client.get(url), 200)["completed_at"]
    services.runtime.job_store.requeue(task_id)
    finish(services, task_id)
    assert data_of(client.get(url), 200)["completed_at"] == first is not None


def test_a_batch_that_nobody_begins_is_over_after_a_day(
    client: FlaskClient, services: Services, redis: Redis
) -> None:
    url, (first, second) = _begin(client, a=RED, b=GREEN)
    finish(services, first)
    over = job_of(services, second).created_at + 24 * 3600 + 1
    later = JobStore(redis, clock=lambda: over)
    assert later.overdue() == [second]
    assert later.fail_overdue(second)
    done = data_of(client.get(url), 200)
    assert done["status"] == "completed"
    assert (done["counts"]["succeeded"], done["counts"]["failed"]) == (1, 1)


def test_a_batch_of_nothing_but_bad_pictures_is_complete_at_once(client: FlaskClient) -> None:
    batch = data_of(_send(client, _image("a.png", b"x"), _image("b.png", b"y")))
    assert (batch["status"], batch["progress"]) == ("completed", 1)
    answer = client.get(f"/api/v1/batches/{batch['batch_id']}/archive")
    assert refusal(answer) == (409, "batch_empty")


def test_canceling_ends_what_is_not_done(client: FlaskClient, services: Services) -> None:
    url, (first, _) = _begin(client, a=RED, b=GREEN)
    finish(services, first)
    after = data_of(client.post(f"{url}/cancel"), 200)
    assert [item["status"] for item in after["items"]] == ["succeeded", "canceled"]
    assert after["status"] == "completed"
    assert refusal(client.post(f"{url}/cancel")) == (409, "batch_finished")
    with zipfile.ZipFile(io.BytesIO(client.get(f"{url}/archive").data)) as opened:
        assert opened.namelist() == ["a.png"]


def test_deleting_erases_everything_of_it_and_nothing_else(
    client: FlaskClient, services: Services, redis: Redis
) -> None:
    other, _ = _begin(client, other=BLUE)
    before = _bucket(services)
    url, ids = _begin(client, a=RED, b=GREEN)
    batch_id = url.rpartition("/")[2]
    finish(services, ids[0])
    assert data_of(client.delete(url), 200) == {"batch_id": batch_id, "erased": True}
    assert refusal(client.get(url)) == (404, "batch_not_found")
    assert _bucket(services) == before
    left = [name for name in redis.scan_iter() if any(word in name for word in (batch_id, *ids))]
    assert left == []
    assert data_of(client.get(other), 200)["total"] == 1


def test_an_expired_batch_says_so(client: FlaskClient, services: Services) -> None:
    url, (task_id,) = _begin(client, a=RED)
    finish(services, task_id)
    later = services.clock() + services.settings.retention_hours * 3600 + 1
    afterwards = create_app(replace(services, clock=lambda: later)).test_client()
    assert data_of(afterwards.get(url), 200)["status"] == "expired"
    assert refusal(afterwards.get(f"{url}/archive")) == (410, "batch_expired")


def test_when_the_queue_is_full_a_batch_is_accepted_in_part_or_not_at_all(
    services: Services,
) -> None:
    client = create_app(with_settings(services, max_pending=1)).test_client()
    first = data_of(_send(client, _image("a.png", RED), _image("b.png", GREEN)))
    assert _errors(first) == [None, "queue_full"]
    assert first["items"][1]["error"]["retryable"]
    for more in ([], [_image("bad.png", b"no picture")]):
        assert refusal(_send(client, *more, _image("c.png", BLUE))) == (503, "queue_full")


def test_the_same_request_again_is_answered_with_the_same_batch(
    client: FlaskClient, services: Services
) -> None:
    def send(key: str, *pictures: bytes) -> TestResponse:
        sent = form(*(_image(f"{number}.png", data) for number, data in enumerate(pictures)))
        return client.post(BATCH, headers={"Idempotency-Key": key}, **sent)

    first, again = send("order-7", RED, GREEN), send("order-7", RED, GREEN)
    batch_id = data_of(first)["batch_id"]
    assert data_of(again)["batch_id"] == batch_id
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert services.runtime.job_store.counts()[Status.QUEUED] == 2
    assert refusal(send("order-7", RED, BLUE)) == (422, "idempotency_mismatch")
    assert data_of(send("order-8", RED, GREEN))["batch_id"] != batch_id
    client.delete(f"/api/v1/batches/{batch_id}")
    assert refusal(send("order-7", RED, GREEN)) == (410, "gone")


def test_a_key_of_a_batch_that_was_refused_may_be_used_again(client: FlaskClient) -> None:
    for body, status in (
        ({"items": [{}], "quality": 0}, 422),
        ({"items": [{"image_b64": RED_TEXT}]}, 202),
    ):
        answer = client.post(BATCH, json=body, headers={"Idempotency-Key": "order-9"})
        assert answer.status_code == status
