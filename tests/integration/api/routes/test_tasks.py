"""Listing, canceling, erasing and following tasks."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from api.app import create_app
from api.services import Services
from api.waiting import TaskWaiter
from tasks import redis_keys
from tasks.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from tasks.jobs.job import Status
from tasks.object_store import original_key, result_key
from tasks.redis_client import connect
from tests.support.services import with_parts
from tests.support.tenants import Tenant, begin, finish, job_of


def _pages(shop: Tenant, query: str) -> list[list[str]]:
    pages, cursor = [], ""
    while True:
        data = shop.data(f"/api/v1/tasks?{query}{cursor}")
        pages.append([each["task_id"] for each in data["tasks"]])
        if data["next_cursor"] is None:
            return pages
        cursor = f"&cursor={data['next_cursor']}"


def test_tasks_are_listed_newest_first_page_by_page(shop: Tenant) -> None:
    submitted = [shop.submit() for _ in range(5)]
    newest = submitted[::-1]
    assert _pages(shop, "limit=2") == [newest[:2], newest[2:4], newest[4:]]
    assert _pages(shop, "") == [newest]
    assert _pages(shop, "limit=5") == [newest]


def test_a_page_goes_on_where_it_was_though_tasks_come_and_go(shop: Tenant) -> None:
    submitted = [shop.submit() for _ in range(4)]
    first = shop.data("/api/v1/tasks?limit=2")
    shop.submit()
    shop.call("DELETE", f"/api/v1/tasks/{submitted[2]}")  # the very one that the cursor names
    second = shop.data(f"/api/v1/tasks?limit=2&cursor={first['next_cursor']}")
    assert [each["task_id"] for each in second["tasks"]] == [submitted[1], submitted[0]]


def test_tasks_of_the_very_same_instant_are_all_listed(services: Services, shop: Tenant) -> None:
    at_once = replace(services, clock=lambda: 4_000_000_000.0)
    client = create_app(at_once).test_client()
    submitted = {replace(shop, client=client).submit() for _ in range(5)}
    pages = _pages(shop, "limit=2")
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {each for page in pages for each in page} == submitted


def test_a_list_may_ask_for_one_state(services: Services, shop: Tenant) -> None:
    queued, done, gone = shop.submit(), shop.submit(), shop.submit()
    finish(services, done)
    shop.call("POST", f"/api/v1/tasks/{gone}/cancel")
    assert _pages(shop, "status=queued") == [[queued]]
    assert _pages(shop, "status=succeeded") == [[done]]
    assert _pages(shop, "status=canceled") == [[gone]]
    assert _pages(shop, "status=expired") == [[]]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "MS4wIHgg", "ü", "", "bmFuIHgK" * 90])
def test_a_cursor_of_ones_own_making_is_refused(shop: Tenant, cursor: str) -> None:
    answer = shop.call("GET", "/api/v1/tasks", query_string={"cursor": cursor})
    assert (answer.status_code, answer.get_json()["error"]["type"]) == (422, "invalid_parameter")
    assert "cursor" in answer.get_json()["error"]["fields"]


def test_what_has_expired_leaves_the_lists(services: Services, shop: Tenant) -> None:
    client = connect(services.settings.redis_url.get_secret_value())
    first, second = shop.submit(), shop.submit()
    for task_id in (first, second):
        client.delete(redis_keys.job_key(task_id))
    listed = redis_keys.owner_tasks_key(shop.id)
    # A new task's way in, and a look at the list, each clear some away.
    third = shop.submit()
    assert client.zrange(listed, 0, -1) == [third]
    client.delete(redis_keys.job_key(third))
    assert _pages(shop, "") == [[]]
    assert client.zrange(listed, 0, -1) == []
    # A list that nobody looks at goes with its last record.
    fourth = shop.submit()
    assert client.expiretime(listed) == client.expiretime(redis_keys.job_key(fourth))


def test_a_queued_task_is_canceled_at_once(services: Services, shop: Tenant) -> None:
    task_id = shop.submit()
    answer = shop.call("POST", f"/api/v1/tasks/{task_id}/cancel")
    assert answer.status_code == 200
    assert answer.get_json()["data"]["status"] == "canceled"
    assert services.runtime.job_store.claim(task_id, token="t", worker="w") == "final"
    assert shop.error("POST", f"/api/v1/tasks/{task_id}/cancel") == (409, "task_finished")
    assert shop.error("GET", f"/api/v1/tasks/{task_id}/result") == (409, "task_canceled")


def test_a_running_task_is_canceled_and_its_workers_last_write_refused(
    services: Services, shop: Tenant
) -> None:
    task_id = shop.submit()
    token = begin(services, task_id)
    assert shop.call("POST", f"/api/v1/tasks/{task_id}/cancel").status_code == 200
    assert not services.runtime.job_store.renew(task_id, token=token)
    assert not services.runtime.job_store.finish(task_id, token=token, status=Status.SUCCEEDED)
    assert shop.data(f"/api/v1/tasks/{task_id}")["status"] == "canceled"


def test_cancel_against_finish_leaves_one_final_state(services: Services, shop: Tenant) -> None:
    outcomes = set()
    for _ in range(25):
        task_id = shop.submit()
        token = begin(services, task_id)
        start = threading.Barrier(2)
        canceling: list[int] = []
        finished: list[bool] = []

        def cancel(task_id: str = task_id, start: threading.Barrier = start) -> None:
            start.wait()
            answer = shop.call("POST", f"/api/v1/tasks/{task_id}/cancel")
            canceling.append(answer.status_code)  # noqa: B023 - joined below

        def end(
            task_id: str = task_id, token: str = token, start: threading.Barrier = start
        ) -> None:
            start.wait()
            finished.append(  # noqa: B023 - joined below
                services.runtime.job_store.finish(task_id, token=token, status=Status.SUCCEEDED)
            )

        threads = [threading.Thread(target=cancel), threading.Thread(target=end)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Exactly one of them won, each got the right answer, and nothing changes it again.
        canceled = canceling[0] == 200
        assert canceling[0] in {200, 409}
        assert canceled != finished[0]
        state = job_of(services, task_id).status
        assert state is (Status.CANCELED if canceled else Status.SUCCEEDED)
        assert [
            status for status in Status if task_id in services.runtime.job_store.ids(status)
        ] == [state]
        outcomes.add(state)
    assert outcomes <= {Status.CANCELED, Status.SUCCEEDED}


def test_an_erased_task_leaves_nothing_behind(services: Services, shop: Tenant) -> None:
    task_id, other = shop.submit(), shop.submit()
    result, others = finish(services, task_id), finish(services, other)
    stray = result_key(task_id, "w/1/stray", "png")
    services.runtime.object_store.put(stray, io.BytesIO(b"x"), 1, "image/png")
    answer = shop.call("DELETE", f"/api/v1/tasks/{task_id}")
    assert answer.get_json()["data"] == {"task_id": task_id, "erased": True}
    for key in (original_key(task_id), result, stray):
        with pytest.raises(ObjectNotFoundError):
            services.runtime.object_store.get(key)
    client = connect(services.settings.redis_url.get_secret_value())
    assert _mentions(client, task_id) == []
    assert shop.error("DELETE", f"/api/v1/tasks/{task_id}") == (404, "task_not_found")
    # The other task, of equal bytes, is whole.
    assert services.runtime.object_store.get(others) == b"a cutout"
    assert services.runtime.object_store.get(original_key(other))
    assert shop.call("GET", f"/api/v1/tasks/{other}/result").status_code == 302


def _mentions(client: object, task_id: str) -> list[str]:
    """The keys of Redis that name a task, but for the queue's message, which finds no record."""
    redis = client
    found = []
    for name in redis.keys("*"):  # type: ignore[attr-defined]
        kind = redis.type(name)  # type: ignore[attr-defined]
        held = {
            "zset": lambda name=name: redis.zrange(name, 0, -1),  # type: ignore[attr-defined]
            "set": lambda name=name: redis.smembers(name),  # type: ignore[attr-defined]
            "hash": lambda name=name: redis.hgetall(name),  # type: ignore[attr-defined]
            "string": lambda name=name: redis.get(name),  # type: ignore[attr-defined]
        }.get(kind, list)()
        if name.startswith(redis_keys.PREFIX) and (task_id in name or task_id in str(held)):
            found.append(name)
    return found


def test_a_run_that_was_under_way_cannot_bring_an_erased_task_back(
    services: Services, shop: Tenant
) -> None:
    task_id = shop.submit()
    token = begin(services, task_id)
    assert shop.call("DELETE", f"/api/v1/tasks/{task_id}").status_code == 200
    assert not services.runtime.job_store.finish(
        task_id, token=token, status=Status.SUCCEEDED, size=1
    )
    assert services.runtime.job_store.release(task_id, token=token) == "none"
    assert services.runtime.job_store.crash(task_id, holder="gpu0@test/1/") == "none"
    assert services.runtime.job_store.requeue(task_id) == "missing"
    assert services.runtime.job_store.get(task_id) is None


def test_an_erasure_that_the_store_cut_short_can_be_repeated(
    services: Services, shop: Tenant
) -> None:
    class Away:
        def delete(self, _key: str) -> None:
            raise ObjectStoreUnavailableError("away")

    task_id = shop.submit()
    broken = with_parts(services, eraser=replace(services.runtime.eraser, object_store=Away()))  # type: ignore[type-var]
    away = replace(shop, client=create_app(broken).test_client())
    assert away.error("DELETE", f"/api/v1/tasks/{task_id}") == (503, "store_unavailable")
    assert shop.call("DELETE", f"/api/v1/tasks/{task_id}").status_code == 200
    assert services.runtime.job_store.get(task_id) is None


def _events(text: str) -> list[tuple[str, dict[str, object]]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if "event:" in block]
    found = []
    for lines in blocks:
        fields = dict(line.split(": ", 1) for line in lines)
        found.append((fields["event"], json.loads(fields["data"])))
    return found


@pytest.fixture
def later() -> Iterator[Callable[[Callable[[], object]], None]]:
    threads: list[threading.Thread] = []

    def begin_later(step: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=step))
        threads[-1].start()

    yield begin_later
    for thread in threads:
        thread.join()


def test_events_tell_each_state_until_the_last(
    services: Services, shop: Tenant, later: Callable[[Callable[[], object]], None]
) -> None:
    task_id = shop.submit()
    answer = shop.call(
        "GET", f"/api/v1/tasks/{task_id}/events", headers={"Last-Event-ID": "processing"}
    )
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    pieces = []
    for piece in answer.response:
        pieces.append(piece if isinstance(piece, str) else piece.decode())
        if len(pieces) == 2:
            later(lambda: finish(services, task_id))
    assert pieces[0] == "retry: 3000\n\n"
    events = _events("".join(pieces))
    states = [data["status"] for _, data in events]
    assert states in (["queued", "succeeded"], ["queued", "processing", "succeeded"])
    assert {name for name, _ in events} == {"status"}
    assert set(events[-1][1]) == set(shop.data(f"/api/v1/tasks/{task_id}"))
    assert events[-1][1]["result_url"]


def test_events_of_a_finished_task_are_its_last_state_and_the_end(
    services: Services, shop: Tenant
) -> None:
    task_id = shop.submit()
    finish(services, task_id)
    answer = shop.call("GET", f"/api/v1/tasks/{task_id}/events")
    assert [data["status"] for _, data in _events(answer.get_data(as_text=True))] == ["succeeded"]


def test_events_end_when_the_task_is_erased(
    services: Services, shop: Tenant, later: Callable[[Callable[[], object]], None]
) -> None:
    task_id = shop.submit()
    job = job_of(services, task_id)
    pieces = []
    for piece in shop.call("GET", f"/api/v1/tasks/{task_id}/events").response:
        pieces.append(piece if isinstance(piece, str) else piece.decode())
        if len(pieces) == 2:
            later(lambda: services.runtime.eraser.erase(job))
    states = [data["status"] for _, data in _events("".join(pieces))]
    assert states in (["queued"], ["queued", "canceled"])


def test_events_count_among_the_waiting_and_give_their_place_back(
    services: Services, shop: Tenant
) -> None:
    places = _Places()
    one = replace(services, waiter=TaskWaiter(services.runtime, places))
    caller = replace(shop, client=create_app(one).test_client())
    task_id = shop.submit()
    path = f"/api/v1/tasks/{task_id}/events"
    with caller.call("GET", path) as idle:  # nobody reads it, so that it waits for nothing
        assert idle.status_code == 200
    first = threading.Thread(target=lambda: caller.call("GET", path).get_data())
    first.start()
    assert places.taken.wait(30)
    second = caller.call("GET", path)
    assert [data["status"] for _, data in _events(second.get_data(as_text=True))] == ["queued"]
    services.runtime.job_store.cancel(task_id)
    first.join()
    assert places.acquire(blocking=False)


class _Places(threading.BoundedSemaphore):
    """One place, that tells when it is taken."""

    def __init__(self) -> None:
        super().__init__(1)
        self.taken = threading.Event()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 - the base class's
        got = super().acquire(blocking, timeout)
        if got:
            self.taken.set()
        return got
