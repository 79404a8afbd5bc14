"""Batches: taking in, counting, naming, ending; real Redis and S3, and no worker."""

import base64
import io
import zipfile
from typing import Any, BinaryIO

import pytest
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from api.inputs import spool
from tasks import redis_keys
from tasks.jobs.batches import BatchStore
from tasks.jobs.job import JobError, Priority
from tasks.jobs.job_objects import get_manifest
from tasks.jobs.store import JobStore
from tasks.object_store import UPLOAD_OBJECTS, manifest_key, original_key
from tests.support.api import Api
from tests.support.redis_content import mentions
from tests.support.stores import WatchedStore
from tests.support.submissions import data_of, form, png, refusal

SETTINGS = {"max_image_mb": 1, "max_batch_images": 5}
#: Its own, in which nothing else comes and goes.
BUCKET = "-batches"

BATCH = "/api/v1/remove-bg/batch"
RED, GREEN, BLUE = map(png, ("red", "green", "blue"))
RED_TEXT = base64.b64encode(RED).decode()


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


def test_files_become_tasks_of_low_priority_with_the_shared_options(api: Api) -> None:
    store, uploads = WatchedStore(api.objects), [*api.objects.list(UPLOAD_OBJECTS)]
    # Fields behind the files count for all of them too.
    answer = _send(
        api.with_parts(object_store=store),
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
    assert (batch["counts"], batch["metadata"]) == ({"queued": 2, **none}, {"order": 7})
    for item, name, picture in zip(batch["items"], ("red", "green"), (RED, GREEN), strict=True):
        assert item["name"] == f"{name}.png"
        job = api.job(item["task_id"])
        assert api.objects.get(job.original_key) == picture
        assert (job.priority, job.batch_id) == (Priority.LOW, batch["batch_id"])
        assert (job.options["output_format"], job.options["quality"]) == ("webp", 70)
        assert job.metadata == {"order": 7}
        kept = get_manifest(api.objects, job.task_id)
        assert kept is not None
        assert (kept.task_id, kept.batch_id) == (job.task_id, job.batch_id)
    # Each picture is stored once and never read back; manifests are known once the form is read.
    ids = [item["task_id"] for item in batch["items"]]
    assert {name for name, *_ in store.calls} == {"put"}
    assert store.named("put") == [*map(original_key, ids), *map(manifest_key, ids)]
    # Nothing waits in the bucket any more, and nowhere else.
    assert [*api.objects.list(UPLOAD_OBJECTS)] == uploads
    assert api.redis.zcard(redis_keys.UPLOADS) == 0


def test_tasks_that_end_before_their_batch_is_whole_are_counted_and_keep_their_names(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = BatchStore.seal

    def seal_late(*given: Any, **more: Any) -> None:  # noqa: ANN401 - those of `seal`
        for each in api.queued():
            api.finish(each)
        seal(*given, **more)

    monkeypatch.setattr(BatchStore, "seal", seal_late)
    batch = api.data(_begin(api, red=RED, green=GREEN)[0])
    assert (batch["status"], batch["counts"]["succeeded"]) == ("completed", 2)
    assert [item["name"] for item in batch["items"]] == ["red.png", "green.png"]


def test_a_bad_picture_fails_alone_with_its_reason(api: Api) -> None:
    batch = data_of(
        _send(
            api,
            _image("words.jpg", b"no picture at all"),
            _image("red.png", RED),
            _image("large.png", RED + bytes(2**20)),
            _image("empty.png", b""),
        )
    )
    assert _errors(batch) == ["invalid_image", None, "image_too_large", "empty_image"]
    assert "1 MB" in batch["items"][2]["error"]["message"]
    assert (batch["counts"]["failed"], batch["counts"]["queued"]) == (3, 1)
    assert batch["progress"] == 0.75
    assert [item["task_id"] is None for item in batch["items"]] == [True, False, True, True]
    # One of nothing but bad pictures is complete at once.
    batch = data_of(_send(api, _image("a.png", b"x"), _image("b.png", b"y")))
    assert (batch["status"], batch["progress"]) == ("completed", 1)
    error = api.error("GET", f"/api/v1/batches/{batch['batch_id']}/archive")
    assert error == (409, "batch_empty")


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


_FORM = form(_image("a", RED), _image("b", GREEN))


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (form(output_format="png"), 400, "missing_image"),
        (form(images="text"), 400, "missing_image"),
        (form(_image("a", RED), nonsense="1"), 422, "unknown_parameter"),
        (form(_image("a", RED), quality="1000"), 422, "invalid_parameter"),
        (form(_image("a", RED), output_format="jpg"), 422, "invalid_parameter"),
        (form(picture=("a.png", RED)), 422, "unknown_parameter"),
        (form(*[_image("a", RED)] * 6), 413, "batch_too_large"),
        ({**_FORM, "data": _FORM["data"][:-40]}, 400, "bad_request"),
        ({"json": {}}, 422, "invalid_parameter"),
        ({"json": {"items": []}}, 400, "missing_image"),
        ({"json": {"items": ["a"]}}, 422, "invalid_parameter"),
        ({"json": {"items": [{}], "image_b64": "AAAA"}}, 422, "invalid_parameter"),
        ({"json": {"items": [{}], "quality": 0}}, 422, "invalid_parameter"),
    ],
)
def test_what_is_wrong_or_cut_off_is_refused_whole_and_leaves_nothing(
    api: Api, sent: dict[str, Any], status: int, kind: str
) -> None:
    before = api.bucket()
    assert refusal(api.post(BATCH, **sent)) == (status, kind)
    assert api.bucket() == before
    assert [name for name in api.redis.scan_iter() if "batch" in name or "upload" in name] == []
    assert api.queued() == []


def _archived(api: Api, url: str) -> dict[str, bytes]:
    archive = api.get(f"{url}/archive")
    assert archive.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_ends_are_counted_and_the_last_one_completes_it(api: Api) -> None:
    batch = data_of(_send(api, _image("a.png", RED), _image("a.jpg", GREEN), _image("c", b"x")))
    url = f"/api/v1/batches/{batch['batch_id']}"
    assert api.error("GET", f"{url}/archive") == (409, "batch_not_finished")
    first, second = (item["task_id"] for item in batch["items"][:2])
    api.finish(first)
    assert api.data(url)["completed_at"] is None
    with api.redis.pubsub() as channel:
        channel.subscribe(f"rmbg:done:{batch['batch_id']}")
        api.finish(second, b"the second")
        messages = [channel.get_message(timeout=5) for _ in range(2)]
    assert [each and each["type"] for each in messages] == ["subscribe", "message"]
    done = api.data(url)
    assert (done["status"], done["progress"]) == ("completed", 1)
    assert (done["counts"]["succeeded"], done["counts"]["failed"]) == (2, 1)
    assert _archived(api, url) == {"a.png": b"a cutout", "a-2.png": b"the second"}


def test_a_batch_completes_once_even_if_a_task_is_begun_again(api: Api) -> None:
    url, (task_id, other) = _begin(api, a=RED, b=GREEN)
    crash = JobError("internal_error", "It crashed.")
    api.fail(task_id, crash)
    api.jobs.requeue(task_id)
    api.finish(other)
    assert api.data(url)["completed_at"] is None, "it is queued again"
    api.fail(task_id, crash)
    first = api.data(url)["completed_at"]
    api.jobs.requeue(task_id)
    api.finish(task_id)
    assert api.data(url)["completed_at"] == first is not None
    later = api.services.clock() + api.services.settings.retention_hours * 3600 + 1
    afterwards = api.replaced(clock=lambda: later)
    assert afterwards.data(url)["status"] == "expired"
    assert afterwards.error("GET", f"{url}/archive") == (410, "batch_expired")


def test_a_task_that_is_begun_again_while_it_is_erased_holds_up_no_batch(api: Api) -> None:
    url, (task_id, other) = _begin(api, a=RED, b=GREEN)
    api.jobs.cancel(task_id)
    api.jobs.requeue(task_id)
    api.finish(other)
    api.jobs.erase(task_id)
    assert api.data(url)["completed_at"] is not None


def test_a_batch_that_nobody_begins_is_over_after_a_day(api: Api) -> None:
    url, (first, second) = _begin(api, a=RED, b=GREEN)
    api.finish(first)
    over = api.job(second).created_at + 24 * 3600 + 1
    later = JobStore(api.redis, clock=lambda: over)
    assert later.overdue() == [second]
    assert later.fail_overdue(second)
    done = api.data(url)
    assert done["status"] == "completed"
    assert (done["counts"]["succeeded"], done["counts"]["failed"]) == (1, 1)


def test_canceling_ends_what_is_not_done(api: Api) -> None:
    url, (first, _) = _begin(api, a=RED, b=GREEN)
    api.finish(first)
    with capture_logs() as lines:
        after = data_of(api.post(f"{url}/cancel"), 200)
    logged = [each["request_id"] for each in lines if each["event"] == "job.canceled"]
    assert logged == [api.job(first).request_id]
    assert [item["status"] for item in after["items"]] == ["succeeded", "canceled"]
    assert after["status"] == "completed"
    assert api.error("POST", f"{url}/cancel") == (409, "batch_finished")
    assert list(_archived(api, url)) == ["a.png"]


def test_erasing_a_task_takes_its_name_out_of_the_batch(api: Api) -> None:
    url, (first, second) = _begin(api, anna=RED, bert=GREEN)
    data_of(api.delete(f"/api/v1/tasks/{first}"), 200)
    assert not mentions(api.redis, "anna")
    items = api.data(url)["items"]
    assert [(each["name"], each["task_id"], each["status"]) for each in items] == [
        ("", first, "erased"),
        ("bert.png", second, "queued"),
    ]


def test_deleting_erases_everything_of_it_and_nothing_else(api: Api) -> None:
    other, _ = _begin(api, other=BLUE)
    before = api.bucket()
    url, ids = _begin(api, a=RED, b=GREEN)
    batch_id = url.rpartition("/")[2]
    api.redis.hset(redis_keys.batch_key(batch_id), "webhook_url", "https://93.184.216.34/hook")
    for task_id in ids:
        api.finish(task_id)
    assert api.runtime.deliveries.of(batch_id)
    assert data_of(api.delete(url), 200) == {"batch_id": batch_id, "erased": True}
    assert api.error("GET", url) == (404, "batch_not_found")
    assert api.bucket() == before
    # The cache may still name a task: it finds no record, and forgets it then.
    left = [name for name in mentions(api.redis, batch_id, *ids) if ":cached:" not in name]
    assert left == []
    assert api.data(other)["total"] == 1


def test_a_batch_that_the_queue_has_no_room_for_is_accepted_in_part_or_not(api: Api) -> None:
    full = api.with_settings(max_pending=1)
    first = data_of(_send(full, _image("a.png", RED), _image("b.png", GREEN)))
    assert _errors(first) == [None, "queue_full"]
    assert first["items"][1]["error"]["retryable"]
    for more in ([], [_image("bad.png", b"no picture")]):
        assert refusal(_send(full, *more, _image("c.png", BLUE))) == (503, "queue_full")


def test_the_same_request_again_is_answered_with_the_same_batch_and_costs_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = api.with_settings(auth="on").tenant("repeating", rate_per_minute=4)

    def send(key: str, *pictures: bytes) -> TestResponse:
        sent = form(*(_image(f"{number}.png", data) for number, data in enumerate(pictures)))
        return caller.post(BATCH, headers={"Idempotency-Key": key}, **sent)

    # The key of a batch that was refused may be used again.
    unfit = {"items": [{}], "quality": 0}
    refused = caller.post(BATCH, json=unfit, headers={"Idempotency-Key": "order-7"})
    assert refusal(refused) == (422, "invalid_parameter")
    first = send("order-7", RED, GREEN)
    batch_id = data_of(first)["batch_id"]
    with monkeypatch.context() as patch:
        patch.setattr(type(api.objects), "put", None)
        again, mismatch = send("order-7", RED, GREEN), send("order-7", RED, BLUE)
    assert data_of(again)["batch_id"] == batch_id
    assert refusal(mismatch) == (422, "idempotency_mismatch")
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(api.queued()) == 2
    assert data_of(send("order-8", RED, GREEN))["batch_id"] != batch_id
    assert refusal(send("order-9", RED, GREEN, BLUE)) == (429, "rate_limited")
    caller.delete(f"/api/v1/batches/{batch_id}")
    assert refusal(send("order-7", RED, GREEN)) == (410, "gone")


def test_files_are_charged_as_they_are_counted_and_given_back(api: Api) -> None:
    four = [_image(f"{number}.png", RED) for number in range(4)]
    # A refused batch costs nothing; one of more than the quota needs all of it, and leaves a debt.
    for quota in (1, 3):
        caller = api.with_settings(auth="on").tenant(f"of {quota}", rate_per_minute=quota)
        assert refusal(_send(caller, *four, ("qualty", "9"))) == (422, "unknown_parameter")
        assert data_of(_send(caller, *four))["total"] == 4
        before = api.bucket()
        for refused in (_send(caller, *four), caller.post(BATCH, json={"items": [{}] * 2})):
            assert refusal(refused) == (429, "rate_limited")
            assert int(refused.headers["Retry-After"]) >= 60 / quota
        assert api.bucket() == before
