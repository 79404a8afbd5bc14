"""Listing, canceling, erasing and following tasks."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl, urlsplit

import pytest
import urllib3
from minio.commonconfig import REPLACE, CopySource
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from api.places import Places
from api.waiting import TaskWaiter
from tasks import redis_keys
from tasks.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from tasks.jobs.job import JobError, Status
from tasks.jobs.store import JobStore
from tasks.object_store import original_key, result_key
from tests.support.api import Api, audited
from tests.support.clock import until
from tests.support.redis_content import mentions
from tests.support.submissions import PICTURE, data_of, refusal, refused_fields

SETTINGS = {"auth": "on"}

#: Begins a call in a thread.
Later = Callable[..., Future[Any]]


def test_a_task_shows_its_states_and_its_result(shop: Api) -> None:
    task_id = shop.submit()
    path = f"/api/v1/tasks/{task_id}"
    assert shop.data(path)["status"] == "queued"
    assert shop.error("GET", f"{path}/result") == (409, "task_not_finished")

    token = shop.begin(task_id)
    task = shop.data(path)
    assert (task["status"], task["worker"], task["attempts"]) == ("processing", "gpu0@test", 1)

    shop.end(task_id, token)
    task = shop.data(f"{path}?wait=5")
    assert task["status"] == "succeeded"
    assert urllib3.request("GET", task["result_url"]).data == b"a cutout"
    answer = shop.get(f"{path}/result?download=true")
    assert answer.status_code == 302
    fetched = urllib3.request("GET", answer.headers["Location"])
    assert fetched.headers["Content-Disposition"].startswith('attachment; filename="a.png"; ')

    later = shop.replaced(clock=lambda: shop.job(task_id).expires_at + 1)
    task = later.data(path)
    assert (task["status"], task["result_url"], task["original_url"]) == ("expired", None, None)
    assert later.error("GET", f"{path}/result") == (410, "task_expired")


def test_a_failed_task_says_why(shop: Api) -> None:
    task_id = shop.submit()
    shop.fail(task_id, JobError("invalid_image", "The picture is damaged."))
    shown = {"type": "invalid_image", "message": "The picture is damaged.", "retryable": False}
    assert shop.data(f"/api/v1/tasks/{task_id}")["error"] == shown
    answer = shop.get(f"/api/v1/tasks/{task_id}/result")
    assert refusal(answer, "damaged") == (409, "task_failed")


def test_each_access_to_a_picture_and_its_erasure_is_one_line(shop: Api, studio: Api) -> None:
    task_id = shop.submit()
    path, request = f"/api/v1/tasks/{task_id}", {"X-Request-Id": "order-17"}
    with capture_logs() as logged:
        # An access that is refused is none.
        studio.get(f"{path}/result")
        studio.delete(path)
        shop.get(f"{path}/result")
        shop.finish(task_id)
        for method, end in (("GET", ""), ("GET", "/result"), ("GET", "/original"), ("DELETE", "")):
            assert shop.open(path + end, method=method, headers=request).status_code in {200, 302}
    lines = audited(logged)
    names = ["addresses_issued", "result_read", "original_read", "erased"]
    assert [line["event"] for line in lines] == [f"audit.{name}" for name in names]
    assert lines[0]["pictures"] == "original result"
    for line in lines:
        assert (line["owner"], line["task_id"]) == (shop.owner, task_id)
        assert line["request_id"] == "order-17"
        assert "http" not in str(line)
        assert "X-Amz" not in str(line)
    # A page of a list is a line for each kind of addresses.
    waiting, finished = ([shop.submit() for _ in range(2)] for _ in range(2))
    for each in finished:
        shop.finish(each)
    with capture_logs() as logged:
        shop.data("/api/v1/tasks")
    issued = {line["pictures"]: line["task_ids"] for line in audited(logged)}
    assert issued == {"original": waiting[::-1], "original result": finished[::-1]}


def test_signed_urls_work_for_an_hour_and_say_nothing_of_the_task(shop: Api) -> None:
    hook = "https://93.184.216.34/hook?token=t"
    first = shop.submit(cache="true", webhook_url=hook, metadata="{}")
    shop.finish(first)
    # An earlier version kept the manifest with the original.
    old: dict[str, str | list[str] | tuple[str]] = {"rmbg-job": "of an earlier version"}
    store, key = shop.objects, shop.job(first).original_key
    source = CopySource(store.bucket, key)
    store.client.copy_object(store.bucket, key, source, metadata=old, metadata_directive=REPLACE)
    copied = shop.submit(cache="true")
    for task_id in (shop.submit(), copied):
        task = shop.data(f"/api/v1/tasks/{task_id}")
        signed = dict(parse_qsl(urlsplit(task["original_url"]).query))
        assert signed["X-Amz-Expires"] == "3600"
        until = datetime.fromisoformat(task["urls_expire_at"]).timestamp()
        assert until == pytest.approx(shop.services.clock() + 3600, abs=60)
        got = urllib3.request("GET", task["original_url"])
        assert (got.status, got.headers["Content-Type"]) == (200, "image/png")
        assert not [name for name in got.headers if name.lower().startswith("x-amz-meta")]
    job = shop.job(copied)
    for left, signed_for in ((60, 60), (0.5, 1)):
        end = job.expires_at - left
        near = shop.replaced(clock=lambda end=end: end).data(f"/api/v1/tasks/{copied}")
        assert near["urls_expire_at"] == near["expires_at"]
        assert f"X-Amz-Expires={signed_for}&" in near["result_url"]


def _pages(shop: Api, query: str) -> list[list[str]]:
    pages, cursor = [], ""
    while True:
        data = shop.data(f"/api/v1/tasks?{query}{cursor}")
        pages.append([each["task_id"] for each in data["tasks"]])
        if data["next_cursor"] is None:
            return pages
        cursor = f"&cursor={data['next_cursor']}"


def test_tasks_are_listed_newest_first_page_by_page(shop: Api) -> None:
    newest = [shop.submit() for _ in range(5)][::-1]
    assert _pages(shop, "limit=2") == [newest[:2], newest[2:4], newest[4:]]
    assert _pages(shop, "") == _pages(shop, "limit=5") == [newest]
    # Those of the very same instant are all listed, too.
    at_once = shop.replaced(clock=lambda: 4_000_000_000.0)
    latest = {at_once.submit() for _ in range(5)}
    pages = _pages(shop, "limit=2")
    assert [len(page) for page in pages] == [2] * 5
    assert {each for page in pages for each in page} == {*latest, *newest}


def test_a_page_goes_on_where_it_was_though_tasks_come_and_go(shop: Api) -> None:
    submitted = [shop.submit() for _ in range(4)]
    first = shop.data("/api/v1/tasks?limit=2")
    shop.submit()
    shop.delete(f"/api/v1/tasks/{submitted[2]}")  # the very one that the cursor names
    second = shop.data(f"/api/v1/tasks?limit=2&cursor={first['next_cursor']}")
    assert [each["task_id"] for each in second["tasks"]] == [submitted[1], submitted[0]]


def test_a_list_may_ask_for_one_state(shop: Api) -> None:
    queued, done, gone = (shop.submit() for _ in range(3))
    shop.finish(done)
    shop.post(f"/api/v1/tasks/{gone}/cancel")
    for status, ids in (("queued", [queued]), ("succeeded", [done]), ("canceled", [gone])):
        assert _pages(shop, f"status={status}") == [ids]
    assert _pages(shop, "status=expired") == [[]]


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("x", "MS4wIHgg", "ü", "", "bmFuIHgK" * 90),
        *map(_encoded, ("nan x", "1e999 x", "1.0 x:lease", "1 x", " 1.0 x", "1.0 \n")),
    ],
)
def test_a_cursor_of_ones_own_making_is_refused(shop: Api, cursor: str) -> None:
    answer = shop.get("/api/v1/tasks", query_string={"cursor": cursor})
    assert refused_fields(answer) == (422, "invalid_parameter", {"cursor"})


def test_what_has_expired_leaves_the_lists(shop: Api) -> None:
    for task_id in (shop.submit(), shop.submit()):
        shop.redis.delete(redis_keys.job_key(task_id))
    listed = redis_keys.owner_tasks_key(shop.owner)
    # A new task's way in, and a look at the list, each clear some away.
    third = shop.submit()
    assert shop.redis.zrange(listed, 0, -1) == [third]
    shop.redis.delete(redis_keys.job_key(third))
    assert _pages(shop, "") == [[]]
    assert shop.redis.zrange(listed, 0, -1) == []
    # A list that nobody looks at goes with its last record.
    fourth = shop.submit()
    assert shop.redis.expiretime(listed) == shop.redis.expiretime(redis_keys.job_key(fourth))


def test_a_task_is_canceled_unless_it_has_ended(shop: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, running = shop.submit(), shop.submit()
    lease = shop.begin(running)
    for canceled in (waiting, running):
        path = f"/api/v1/tasks/{canceled}"
        with capture_logs() as lines:
            assert data_of(shop.post(f"{path}/cancel"), 200)["status"] == "canceled"
        (line,) = [each for each in lines if each["event"] == "job.canceled"]
        assert line["task_id"] == canceled
        assert line["request_id"] == shop.job(canceled).request_id != line["canceled_by"]
        assert shop.error("POST", f"{path}/cancel") == (409, "task_finished")
        assert shop.error("GET", f"{path}/result") == (409, "task_canceled")
    # No worker begins or ends it any more.
    assert shop.jobs.claim(waiting, token="t", worker="w") == "final"
    assert not shop.jobs.finish(running, token=lease, status=Status.SUCCEEDED)
    assert shop.job(running).status is Status.CANCELED
    # It ends while the request is judged.
    task_id = shop.submit()
    token, cancel = shop.begin(task_id), JobStore.cancel

    def end_first(store: JobStore, _: str) -> object:
        shop.end(task_id, token)
        return cancel(store, task_id)

    monkeypatch.setattr(JobStore, "cancel", end_first)
    assert shop.error("POST", f"/api/v1/tasks/{task_id}/cancel") == (409, "task_finished")
    assert shop.job(task_id).status is Status.SUCCEEDED


def test_an_erased_task_leaves_nothing_behind(shop: Api) -> None:
    store = shop.objects
    task_id, other = shop.submit(), shop.submit()
    result, others = shop.finish(task_id), shop.finish(other)
    stray = result_key(task_id, "w/1/stray", "png")
    store.put(stray, io.BytesIO(b"x"), 1, "image/png")
    answer = shop.delete(f"/api/v1/tasks/{task_id}")
    assert data_of(answer, 200) == {"task_id": task_id, "erased": True}
    for key in (original_key(task_id), result, stray):
        with pytest.raises(ObjectNotFoundError):
            store.get(key)
    assert mentions(shop.redis, task_id) == []
    assert shop.error("DELETE", f"/api/v1/tasks/{task_id}") == (404, "task_not_found")
    # The other task, of equal bytes, is whole.
    assert store.get(others) == b"a cutout"
    assert store.get(original_key(other)) == PICTURE


def test_an_erasure_that_the_store_cut_short_can_be_repeated(shop: Api) -> None:
    class Away:
        def delete(self, _key: str) -> None:
            raise ObjectStoreUnavailableError("away")

    task_id = shop.submit()
    eraser = replace(shop.runtime.eraser, object_store=Away())  # type: ignore[type-var]
    away = shop.with_parts(eraser=eraser)
    assert away.error("DELETE", f"/api/v1/tasks/{task_id}") == (503, "store_unavailable")
    assert shop.delete(f"/api/v1/tasks/{task_id}").status_code == 200
    assert shop.jobs.get(task_id) is None


def _read(pieces: Iterator[bytes | str], step: Callable[[], object]) -> list[dict[str, Any]]:
    """Read a stream of events, with a step of the test once one piece came; what each holds."""
    text, events = "", []
    for number, piece in enumerate(pieces):
        text += piece if isinstance(piece, str) else piece.decode()
        if number == 0:
            step()
    assert text.startswith("retry: 3000\n\n")
    for block in text.split("\n\n"):
        if "event:" in block:
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            assert fields["event"] == "status"
            events.append(json.loads(fields["data"]))
    return events


def _states(answer: TestResponse, step: Callable[[], object] = lambda: None) -> list[str]:
    return [event["status"] for event in _read(answer.response, step)]


@pytest.fixture
def later() -> Iterator[Later]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def test_events_tell_each_state_until_the_last(shop: Api, later: Later) -> None:
    task_id = shop.submit()
    path = f"/api/v1/tasks/{task_id}/events"
    answer = shop.get(path, headers={"Last-Event-ID": "processing"})
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    events = _read(answer.response, lambda: later(shop.finish, task_id))
    states = [event["status"] for event in events]
    assert states in (["queued", "succeeded"], ["queued", "processing", "succeeded"])
    assert set(events[-1]) == set(shop.data(f"/api/v1/tasks/{task_id}"))
    assert events[-1]["result_url"]
    # Of a finished task they are its last state, and the end.
    assert _states(shop.get(path)) == ["succeeded"]


def test_events_end_when_the_task_is_erased(shop: Api, later: Later) -> None:
    job = shop.job(shop.submit())
    answer = shop.get(f"/api/v1/tasks/{job.task_id}/events")
    states = _states(answer, lambda: later(shop.runtime.eraser.erase, job))
    assert states in (["queued"], ["queued", "canceled"])


def test_events_count_among_the_waiting_and_give_their_place_back(
    shop: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.waiting._HEARTBEAT_SECONDS", 0)
    places = Places(1)
    caller = shop.replaced(waiter=TaskWaiter(shop.runtime, places))
    task_id = shop.submit()
    path = f"/api/v1/tasks/{task_id}/events"
    with caller.get(path) as idle:  # nobody reads it, so that it waits for nothing
        assert idle.status_code == 200
    pieces = iter(caller.get(path).response)
    begun = [next(pieces), next(pieces)]
    assert begun[1] == b": still here\n\n", "it waits"
    assert _states(caller.get(path)) == ["queued"]
    shop.jobs.cancel(task_id)
    events = _read(iter([*begun, *pieces]), lambda: None)
    assert [event["status"] for event in events] == ["queued", "canceled"]
    assert places.take(shop.owner)


@pytest.mark.parametrize("path", ["tasks/{}/events", "events?ids={}"])
def test_a_stream_tells_nothing_more_once_its_key_is_revoked(shop: Api, path: str) -> None:
    task_id = shop.submit()
    pieces = iter(shop.get(f"/api/v1/{path.format(task_id)}").response)
    assert b"queued" in next(pieces)
    shop.runtime.api_keys.revoke("shop")
    shop.finish(task_id)
    assert list(pieces) == []


def test_a_stream_of_many_tasks_looks_seldom_for_their_places(
    shop: Api, monkeypatch: pytest.MonkeyPatch, later: Later
) -> None:
    monkeypatch.setattr("api.waiting._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("api.waiting._POSITION_SECONDS", 60)
    asked = {name: Mock(wraps=getattr(shop.jobs, name)) for name in ("position", "get_many")}
    for name, mock in asked.items():
        monkeypatch.setattr(JobStore, name, mock)
    ids = [shop.submit() for _ in range(5)]
    positions, reads = asked["position"].call_count, asked["get_many"].call_count + 10
    pieces = iter(shop.get(f"/api/v1/events?ids={','.join(ids)}").response)

    def cancel() -> None:
        until(lambda: asked["get_many"].call_count >= reads)
        for each in ids:
            shop.jobs.cancel(each)

    later(cancel)
    events = _read(pieces, lambda: None)
    assert {event["task_id"] for event in events if event["status"] == "canceled"} == {*ids}
    # Two looks at all of them, and not one with each of ten reads.
    assert asked["position"].call_count - positions == 2 * len(ids)


def test_one_stream_tells_the_states_and_places_of_several_tasks(shop: Api, studio: Api) -> None:
    first, second, foreign = shop.submit(), shop.submit(), studio.submit()
    path = f"/api/v1/events?ids={first},{second},{foreign},rm-none"
    pieces = iter(shop.get(path).response)
    begun = next(pieces)
    nobody = _read(iter([begun]), lambda: None)
    assert [each["expected_seconds"] for each in nobody] == [None, None], "there is no worker"
    # A worker comes, which tells by its pace what the second one waits.
    shop.runtime.registry.record_heartbeat("gpu0@here", queue="gpu.here.0", model="u2netp")
    shop.runtime.registry.record_result("gpu0@here", 2.5, ready_seconds=60)
    later = [next(pieces), next(pieces)]
    served = _read(iter([b"retry: 3000\n\n", *later]), lambda: None)
    assert [(each["position"], each["expected_seconds"]) for each in served] == [(0, 0), (2, 5)]
    shop.finish(first)
    shop.finish(second)
    events = _read(iter([begun, *later, *pieces]), lambda: None)
    assert {event["task_id"] for event in events} == {first, second}
    last = {event["task_id"]: event["status"] for event in events}
    assert set(last.values()) == {"succeeded"}
    places = {event["task_id"]: event["position"] for event in reversed(events)}
    assert places[second] > places[first]
    assert _read(shop.get(path).response, lambda: None)[0]["position"] == 0

    many = ",".join(f"rm-{number}" for number in range(101))
    assert refused_fields(shop.get(f"/api/v1/events?ids={many}"))[2] == {"ids"}


def test_the_pictures_come_from_this_address_too_and_never_as_a_page(
    shop: Api, studio: Api
) -> None:
    task_id = shop.submit(image=PICTURE)
    path = f"/api/v1/tasks/{task_id}"
    assert shop.get(f"{path}/original").data == PICTURE
    shop.finish(task_id, b"a cutout")
    answer = shop.get(f"{path}/result?redirect=false")
    assert (answer.status_code, answer.data, answer.mimetype) == (200, b"a cutout", "image/png")
    head = shop.head(f"{path}/result")
    assert (head.status_code, head.data, head.content_length) == (200, b"", len(b"a cutout"))
    for each, name in ((answer, "a.png"), (head, "a.png"), (shop.get(f"{path}/original"), "a")):
        disposition = each.headers["Content-Disposition"]
        assert disposition.startswith(f'attachment; filename="{name}"; ')
        assert each.headers["X-Content-Type-Options"] == "nosniff"
        assert each.headers["Content-Security-Policy"].startswith("sandbox")
    assert studio.error("GET", f"{path}/original") == (404, "task_not_found")
    assert studio.error("GET", f"{path}/result?redirect=false") == (404, "task_not_found")
    shop.objects.delete(original_key(task_id))
    assert shop.error("GET", f"{path}/original") == (410, "task_expired")
    later = shop.replaced(clock=lambda: shop.job(task_id).expires_at + 1)
    assert later.error("GET", f"{path}/original") == (410, "task_expired")
