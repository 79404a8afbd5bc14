"""`Prefer: wait`: the finished task in the answer, if it is finished in time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.places import Places
from api.waiting import TaskWaiter
from tasks.jobs.job import Status
from tests.support.api import Api
from tests.support.removebg_requests import error_of, file, send
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.submissions import PICTURE, refusal, task_id_of


def _finish_when_queued(api: Api, over: threading.Event) -> None:
    while not over.wait(0.02):
        for task_id in api.queued():
            api.jobs.claim(task_id, token="t", worker="w")
            api.jobs.finish(task_id, token="t", status=Status.SUCCEEDED)


def test_a_client_that_would_wait_gets_the_finished_task(api: Api) -> None:
    over = threading.Event()
    worker = threading.Thread(target=_finish_when_queued, args=(api, over))
    worker.start()
    try:
        answer = api.send(headers={"Prefer": "respond-async, wait=30"})
    finally:
        over.set()
        worker.join()
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=30"
    data = answer.get_json()["data"]
    assert (data["status"], data["attempts"]) == ("succeeded", 1)
    assert answer.headers["Location"].endswith(data["task_id"])


def test_all_that_wait_share_one_subscription(servers: Servers) -> None:
    # A database that no earlier test subscribed to.
    api = Api.on(services_on(servers.settings(servers.new_database())))
    store = api.jobs
    ids = [task_id_of(api.send()) for _ in range(20)]
    queued = list(filter(None, map(store.get, ids)))
    with ThreadPoolExecutor(len(ids)) as pool:
        waiting = [pool.submit(api.services.waiter.wait, each, 30) for each in queued]
        _until(lambda: len(api.runtime.watcher._waiting) == len(ids))
        _until(lambda: _subscriptions(api) > 0)
        listeners = _subscriptions(api)
        began = time.monotonic()
        for task_id in ids:
            store.claim(task_id, token="t", worker="w")
            store.finish(task_id, token="t", status=Status.SUCCEEDED)
        jobs = [each.result()[0] for each in waiting]
    assert all(job is not None and job.status.final for job in jobs)
    assert time.monotonic() - began < 10
    assert listeners == 1


def _subscriptions(api: Api) -> int:
    """Return how many clients subscribe that use this test's database, not another's."""
    redis = api.runtime.redis
    database = str(redis.connection_pool.connection_kwargs["db"])
    return sum(each["db"] == database for each in redis.client_list(_type="pubsub"))


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_that_wait_get_the_present_state_when_the_process_is_asked_to_end(api: Api) -> None:
    waiter = api.services.waiter
    queued = api.jobs.get(task_id_of(api.send()))
    assert queued is not None
    with ThreadPoolExecutor(3) as pool:
        waits = pool.submit(waiter.wait, queued, 60)
        streams = [
            pool.submit(list, events)
            for events in (
                waiter.events(queued, lambda _: {}),
                waiter.events_of([queued], lambda _: {}),
            )
        ]
        _until(lambda: len(api.runtime.watcher._waiting.get(queued.task_id, ())) == 3)
        waiter.ending.set()
        job, waited = waits.result(30)
        assert job is not None
        assert (job.status, waited) == (Status.QUEUED, True)
        assert [len(each.result(30)) for each in streams] == [2, 2]  # `retry:`, and the state


def test_when_the_time_is_up_the_task_is_accepted_all_the_same(api: Api) -> None:
    answer = api.send(headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait=0", "wait=-1", "wait=soon", "wait", "return=minimal", ""])
def test_a_preference_that_cannot_be_read_is_ignored(api: Api, prefer: str) -> None:
    answer = api.send(headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_an_owner_with_its_share_of_waiting_requests_waits_no_more_and_another_does(
    api: Api,
) -> None:
    places = Places(4)
    strict = api.with_settings(auth="on").replaced(waiter=TaskWaiter(api.runtime, places))
    shop, studio = strict.tenant("shop"), strict.tenant("studio")
    with places.hold(shop.owner), places.hold(shop.owner):
        # What was asked for is done all the same.
        answer = shop.send(headers={"Prefer": "wait=60"})
        assert answer.status_code == 202
        assert "Preference-Applied" not in answer.headers
        path = f"/api/v1/tasks/{task_id_of(answer)}"
        refused = shop.get(f"{path}?wait=60")
        assert refusal(refused) == (429, "too_many_waiting")
        assert refused.headers["Retry-After"]
        assert shop.data(path)["status"] == "queued"
        answer = send(shop, image_file=file(PICTURE))
        assert error_of(answer) == (429, "rate_limit_exceeded")
        assert answer.headers["Retry-After"]
        applied = studio.send(headers={"Prefer": "wait=1"}).headers["Preference-Applied"]
        assert applied == "wait=1"
    shop.jobs.cancel(task_id_of(answer := shop.send()))
    assert shop.data(f"/api/v1/tasks/{task_id_of(answer)}?wait=60")["status"] == "canceled"
