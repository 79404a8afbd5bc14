"""Batches: taking in, counting, naming, ending; real Redis and S3, and no worker."""

import base64
import io
import zipfile
from typing import Any, BinaryIO

import pytest
from werkzeug.test import TestResponse

from api.inputs import spool
from tasks import redis_keys
from tasks.jobs.job import JobError, Priority, Status
from tasks.jobs.job_objects import get_manifest
from tasks.jobs.store import JobStore
from tasks.object_store import UPLOAD_OBJECTS, manifest_key, original_key
from tests.support.api import Api
from tests.support.redis_content import mentions
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.stores import WatchedStore
from tests.support.submissions import data_of, form, png, refusal

BATCH = "/api/v1/remove-bg/batch"
RED, GREEN, BLUE = map(png, ("red", "green", "blue"))
RED_TEXT = base64.b64encode(RED).decode()


@pytest.fixture(scope="module")
def api(servers: Servers) -> Api:
    # A bucket of its own, in which nothing else comes and goes.
    settings = servers.settings(servers.redis_url(), s3_bucket=f"{servers.bucket}-batches")
    api = Api.on(services_on(settings, max_image_mb=1, max_batch_images=5))
    api.objects.ensure_bucket()
    return api


def _image(name: str, data: bytes) -> tuple[str, Any]:
    return ("images", (name, data))


def _send(api: Api, *fields: tuple[str, Any]) -> TestResponse:
    return api.post(BATCH, **form(*fields))


def _begin(api: Api, **pictures: bytes) -> tuple[str, list[str]]:
    """Send a batch of PNGs by their names; its address, and the ids of its tasks."""
    batch = data_of(_send(api, *(_image(f"{name}.png", data) for name, data in pictures.items())))
    return f"/api/v1/batches/{batch['batch_id']}", [item["task_id"] for item in batch["items"]]


def _errors(batch: dict[str, Any]) -> list[str | None]:
    return [item["error"] and item["error"]["type"] for item in batch["items"]]


def _bucket(api: Api) -> set[str]:
    return set(api.objects.list(""))


def test_files_become_tasks_of_low_priority_with_the_shared_options(api: Api) -> None:
    # Fields behind the files count for all of them too.
    answer = _send(
        api,
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
        job = api.job(item["task_id"])
        assert api.objects.get(job.original_key) == picture
        assert (job.priority, job.batch_id) == (Priority.LOW, batch["batch_id"])
        assert (job.options["output_format"], job.options["quality"]) == ("webp", 70)
        assert job.metadata == {"order": 7}
    # Nothing waits in the bucket any more, and nowhere else.
    assert list(api.objects.list(UPLOAD_OBJECTS)) == []
    assert api.redis.zcard(redis_keys.UPLOADS) == 0


def test_a_picture_is_stored_once_and_never_read_back(api: Api) -> None:
    watched = WatchedStore(api.objects)
    _, (task_id,) = _begin(api.with_parts(object_store=watched), red=RED)
    key = original_key(task_id)
    # The manifest is known once the whole form is read.
    manifest = ("put", manifest_key(task_id), "application/json")
    assert watched.calls == [("put", key, "image/png"), manifest]
    job = get_manifest(api.objects, task_id)
    assert job is not None
    assert (job.task_id, job.batch_id) == (task_id, api.job(task_id).batch_id)


def test_a_bad_picture_fails_alone_with_its_reason(api: Api) -> None:
    answer = _send(
        api,
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


def test_items_come_in_every_way_with_options_of_their_own(api: Api) -> None:
    uploads = api.runtime.uploads
    upload = uploads.create("", len(GREEN), file_name="green.png")
    uploads.append("", upload.upload_id, 0, io.BytesIO(GREEN))
    items = [
        {"image_b64": RED_TEXT, "output_format": "webp", "priority": "high"},
        {"upload_id": upload.upload_id},
        {"image_b64": "!!", "quality": 50},
        {"quality": 50},
        {"image_b64": RED_TEXT, "quality": 1000},
    ]
    batch = data_of(api.post(BATCH, json={"items": items, "output_format": "png"}))
    refused = ["invalid_parameter", "missing_image", "invalid_parameter"]
    assert _errors(batch) == [None, None, *refused]
    first, second = (api.job(item["task_id"]) for item in batch["items"][:2])
    assert (first.options["output_format"], first.priority) == ("webp", Priority.HIGH)
    assert (second.options["output_format"], second.priority) == ("png", Priority.LOW)
    assert batch["items"][1]["name"] == "green.png"


def test_the_pictures_of_one_item_at_a_time_take_files(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BinaryIO] = []
    open_before: list[int] = []

    def watched() -> BinaryIO:
        open_before.append(sum(not each.closed for each in made))
        made.append(spool())
        return made[-1]

    monkeypatch.setattr("api.inputs.spool", watched)
    plain: dict[str, Any] = {"image_b64": RED_TEXT, "cache": False}
    items = [plain, plain | {"background_url": "http://10.0.0.1"}, plain]
    batch = data_of(api.post(BATCH, json={"items": items}))
    assert _errors(batch) == [None, "url_not_allowed", None]
    assert open_before == [0, 0, 1, 0]


def _cut_off() -> dict[str, Any]:
    sent = form(_image("a", RED), _image("b", GREEN))
    return {**sent, "data": sent["data"][:-40]}


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (form(), 400, "missing_image"),
        (form(output_format="png"), 400, "missing_image"),
        (form(images="text"), 400, "missing_image"),
        (form(_image("a", RED), nonsense="1"), 422, "unknown_parameter"),
        (form(_image("a", RED), quality="1000"), 422, "invalid_parameter"),
        (form(_image("a", RED), _image("b", BLUE), quality="x"), 422, "invalid_parameter"),
        (form(_image("a", RED), output_format="jpg"), 422, "invalid_parameter"),
        (form(picture=("a.png", RED)), 422, "unknown_parameter"),
        (form(*[_image("a", RED)] * 6), 413, "batch_too_large"),
        (_cut_off(), 400, "bad_request"),
        ({"json": {}}, 422, "invalid_parameter"),
        ({"json": {"items": []}}, 400, "missing_image"),
        ({"json": {"items": "all"}}, 422, "invalid_parameter"),
        ({"json": {"items": ["a"]}}, 422, "invalid_parameter"),
        ({"json": {"items": [{}], "image_b64": "AAAA"}}, 422, "invalid_parameter"),
        ({"json": {"items": [{}], "quality": 0}}, 422, "invalid_parameter"),
        (form(_image("a", RED), metadata='{"a": 1e400}'), 422, "invalid_parameter"),
        *(
            ({"data": text, "content_type": "application/json"}, 400, "bad_request")
            for text in (b'{"items": [{"width": 1e400}]}', b'{"metadata": {"a": -Infinity}}')
        ),
    ],
)
def test_what_is_wrong_or_cut_off_is_refused_whole_and_leaves_nothing(
    api: Api, sent: dict[str, Any], status: int, kind: str
) -> None:
    before = _bucket(api)
    assert refusal(api.post(BATCH, **sent)) == (status, kind)
    assert _bucket(api) == before
    assert [name for name in api.redis.scan_iter() if "batch" in name or "upload" in name] == []
    assert api.queued() == []


def test_ends_are_counted_and_the_last_one_completes_it(api: Api) -> None:
    batch = data_of(_send(api, _image("a.png", RED), _image("a.jpg", GREEN), _image("c", b"x")))
    url = f"/api/v1/batches/{batch['batch_id']}"
    assert refusal(api.get(f"{url}/archive")) == (409, "batch_not_finished")
    first, second = (item["task_id"] for item in batch["items"][:2])
    api.finish(first)
    assert data_of(api.get(url), 200)["completed_at"] is None
    with api.redis.pubsub() as channel:
        channel.subscribe(f"rmbg:done:{batch['batch_id']}")
        api.finish(second, b"the second")
        messages = [channel.get_message(timeout=5) for _ in range(2)]
    assert [each and each["type"] for each in messages] == ["subscribe", "message"]
    done = data_of(api.get(url), 200)
    assert (done["status"], done["progress"]) == ("completed", 1)
    assert (done["counts"]["succeeded"], done["counts"]["failed"]) == (2, 1)

    archive = api.get(f"{url}/archive")
    assert archive.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
        assert opened.namelist() == ["a.png", "a-2.png"]
        assert opened.read("a-2.png") == b"the second"


def test_a_batch_completes_once_even_if_a_task_is_begun_again(api: Api) -> None:
    url, (task_id,) = _begin(api, a=RED)
    api.fail(task_id, JobError("internal_error", "It crashed."))
    first = data_of(api.get(url), 200)["completed_at"]
    api.jobs.requeue(task_id)
    api.finish(task_id)
    assert data_of(api.get(url), 200)["completed_at"] == first is not None


def test_a_batch_that_nobody_begins_is_over_after_a_day(api: Api) -> None:
    url, (first, second) = _begin(api, a=RED, b=GREEN)
    api.finish(first)
    over = api.job(second).created_at + 24 * 3600 + 1
    later = JobStore(api.redis, clock=lambda: over)
    assert later.overdue() == [second]
    assert later.fail_overdue(second)
    done = data_of(api.get(url), 200)
    assert done["status"] == "completed"
    assert (done["counts"]["succeeded"], done["counts"]["failed"]) == (1, 1)


def test_a_batch_of_nothing_but_bad_pictures_is_complete_at_once(api: Api) -> None:
    batch = data_of(_send(api, _image("a.png", b"x"), _image("b.png", b"y")))
    assert (batch["status"], batch["progress"]) == ("completed", 1)
    answer = api.get(f"/api/v1/batches/{batch['batch_id']}/archive")
    assert refusal(answer) == (409, "batch_empty")


def test_canceling_ends_what_is_not_done(api: Api) -> None:
    url, (first, _) = _begin(api, a=RED, b=GREEN)
    api.finish(first)
    after = data_of(api.post(f"{url}/cancel"), 200)
    assert [item["status"] for item in after["items"]] == ["succeeded", "canceled"]
    assert after["status"] == "completed"
    assert refusal(api.post(f"{url}/cancel")) == (409, "batch_finished")
    with zipfile.ZipFile(io.BytesIO(api.get(f"{url}/archive").data)) as opened:
        assert opened.namelist() == ["a.png"]


def test_erasing_a_task_takes_its_name_out_of_the_batch(api: Api) -> None:
    url, (first, second) = _begin(api, anna=RED, bert=GREEN)
    data_of(api.delete(f"/api/v1/tasks/{first}"), 200)
    assert not mentions(api.redis, "anna")
    items = data_of(api.get(url), 200)["items"]
    assert [(each["name"], each["task_id"], each["status"]) for each in items] == [
        ("", first, "erased"),
        ("bert.png", second, "queued"),
    ]


def test_deleting_erases_everything_of_it_and_nothing_else(api: Api) -> None:
    other, _ = _begin(api, other=BLUE)
    before = _bucket(api)
    url, ids = _begin(api, a=RED, b=GREEN)
    batch_id = url.rpartition("/")[2]
    api.redis.hset(redis_keys.batch_key(batch_id), "webhook_url", "https://93.184.216.34/hook")
    for task_id in ids:
        api.finish(task_id)
    assert api.runtime.deliveries.of(batch_id)
    assert data_of(api.delete(url), 200) == {"batch_id": batch_id, "erased": True}
    assert refusal(api.get(url)) == (404, "batch_not_found")
    assert _bucket(api) == before
    # The cache may still name a task: it finds no record, and forgets it then.
    left = [name for name in mentions(api.redis, batch_id, *ids) if ":cached:" not in name]
    assert left == []
    assert data_of(api.get(other), 200)["total"] == 1


def test_an_expired_batch_says_so(api: Api) -> None:
    url, (task_id,) = _begin(api, a=RED)
    api.finish(task_id)
    later = api.services.clock() + api.services.settings.retention_hours * 3600 + 1
    afterwards = api.replaced(clock=lambda: later)
    assert data_of(afterwards.get(url), 200)["status"] == "expired"
    assert refusal(afterwards.get(f"{url}/archive")) == (410, "batch_expired")


def test_a_batch_that_the_queue_has_no_room_for_is_accepted_in_part_or_not(api: Api) -> None:
    full = api.with_settings(max_pending=1)
    first = data_of(_send(full, _image("a.png", RED), _image("b.png", GREEN)))
    assert _errors(first) == [None, "queue_full"]
    assert first["items"][1]["error"]["retryable"]
    for more in ([], [_image("bad.png", b"no picture")]):
        assert refusal(_send(full, *more, _image("c.png", BLUE))) == (503, "queue_full")


def test_the_same_request_again_is_answered_with_the_same_batch(api: Api) -> None:
    def send(key: str, *pictures: bytes) -> TestResponse:
        sent = form(*(_image(f"{number}.png", data) for number, data in enumerate(pictures)))
        return api.post(BATCH, headers={"Idempotency-Key": key}, **sent)

    first, again = send("order-7", RED, GREEN), send("order-7", RED, GREEN)
    batch_id = data_of(first)["batch_id"]
    assert data_of(again)["batch_id"] == batch_id
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert api.jobs.counts()[Status.QUEUED] == 2
    assert refusal(send("order-7", RED, BLUE)) == (422, "idempotency_mismatch")
    assert data_of(send("order-8", RED, GREEN))["batch_id"] != batch_id
    api.delete(f"/api/v1/batches/{batch_id}")
    assert refusal(send("order-7", RED, GREEN)) == (410, "gone")


@pytest.mark.parametrize("quota", [1, 3], ids=["one a minute", "three a minute"])
def test_files_are_charged_as_they_are_counted_and_given_back(api: Api, quota: int) -> None:
    caller = api.with_settings(auth="on").tenant(f"of {quota}", rate_per_minute=quota)
    four = [_image(f"{number}.png", RED) for number in range(4)]
    # A refused batch costs nothing; one of more than the quota needs all of it, and leaves a debt.
    assert refusal(_send(caller, *four, ("qualty", "9"))) == (422, "unknown_parameter")
    assert data_of(_send(caller, *four))["total"] == 4
    before = _bucket(api)
    for refused in (_send(caller, *four), caller.post(BATCH, json={"items": [{}] * 2})):
        assert refusal(refused) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) >= 60 / quota
    assert _bucket(api) == before


def test_a_repeated_batch_costs_nothing_and_stores_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = api.with_settings(auth="on").tenant("repeating", rate_per_minute=2)
    sent = form(_image("a.png", RED), _image("b.png", GREEN))
    first = caller.post(BATCH, headers={"Idempotency-Key": "k"}, **sent)
    monkeypatch.setattr(type(api.objects), "put", None)
    again = caller.post(BATCH, headers={"Idempotency-Key": "k"}, **sent)
    assert data_of(again)["batch_id"] == data_of(first)["batch_id"]
    other = form(_image("a.png", RED), _image("b.png", BLUE))
    mismatch = caller.post(BATCH, headers={"Idempotency-Key": "k"}, **other)
    assert refusal(mismatch) == (422, "idempotency_mismatch")


def test_a_key_of_a_batch_that_was_refused_may_be_used_again(api: Api) -> None:
    for body, status in (
        ({"items": [{}], "quality": 0}, 422),
        ({"items": [{"image_b64": RED_TEXT}]}, 202),
    ):
        answer = api.post(BATCH, json=body, headers={"Idempotency-Key": "order-9"})
        assert answer.status_code == status
