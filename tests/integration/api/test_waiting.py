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
from tests.support.clock import until
from tests.support.removebg_requests import error_of, post
from tests.support.servers import Servers
from tests.support.services import services_on
from tests.support.submissions import data_of, refusal, task_id_of


def test_a_client_that_would_wait_gets_the_finished_task(api: Api) -> None:
    def finish_when_queued() -> None:
        until(api.queued)
        api.finish(*api.queued())

    worker = threading.Thread(target=finish_when_queued)
    worker.start()
    answer = api.send(headers={"Prefer": "respond-async, wait=30"})
    worker.join()
    assert answer.headers["Preference-Applied"] == "wait=30"
    data = data_of(answer, 200)
    assert (data["status"], data["attempts"]) == ("succeeded", 1)
    assert answer.headers["Location"].endswith(data["task_id"])


def test_all_that_wait_share_one_subscription(servers: Servers) -> None:
    # A database that no earlier test subscribed to.
    api = Api.on(services_on(servers.settings(servers.new_database())))
    database = str(api.redis.connection_pool.connection_kwargs["db"])

    def subscriptions() -> int:
        return sum(each["db"] == database for each in api.redis.client_list(_type="pubsub"))

    jobs = [api.job(api.submit()) for _ in range(20)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = [pool.submit(api.services.waiter.wait, each, 30) for each in jobs]
        until(lambda: len(api.runtime.watcher._waiting) == len(jobs))
        until(subscriptions)
        listeners, began = subscriptions(), time.monotonic()
        for each in jobs:
            api.finish(each.task_id)
        ended = [each.result()[0] for each in waiting]
    assert all(job is not None and job.status.final for job in ended)
    assert time.monotonic() - began < 10
    assert listeners == 1


def test_all_that_wait_pause_and_get_the_present_state_when_the_process_is_asked_to_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiter, queued, paused = TaskWaiter(api.runtime), api.job(api.submit()), set[object]()
    pause = TaskWaiter._pause

    def noted(waiter: TaskWaiter, wait: Callable[[float], bool], *longest: float) -> None:
        paused.add(wait)
        pause(waiter, wait, *longest)

    monkeypatch.setattr(TaskWaiter, "_pause", noted)
    with ThreadPoolExecutor(3) as pool:
        waits = pool.submit(waiter.wait, queued, 60)
        events = (waiter.events(queued, lambda _: {}), waiter.events_of([queued], lambda _: {}))
        streams = [pool.submit(list, each) for each in events]
        until(lambda: len(paused) == 3)
        waiter.ending.set()
        job, waited = waits.result(30)
        assert job is not None
        assert (job.status, waited) == (Status.QUEUED, True)
        assert [len(each.result(30)) for each in streams] == [1, 1]  # the state


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("wait=1", "wait=1"), *((it, None) for it in ("wait=0", "wait=soon", "wait", "a=b", ""))],
)
def test_a_task_is_accepted_when_the_time_is_up_or_no_preference_can_be_read(
    api: Api, prefer: str, applied: str | None
) -> None:
    answer = api.send(headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert answer.headers.get("Preference-Applied") == applied


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
        refused, other = shop.get(f"{path}?wait=60"), post(shop)
        assert refusal(refused) == (429, "too_many_waiting")
        assert error_of(other) == (429, "rate_limit_exceeded")
        assert all(each.headers["Retry-After"] for each in (refused, other))
        assert shop.data(path)["status"] == "queued"
        applied = studio.send(headers={"Prefer": "wait=1"}).headers["Preference-Applied"]
        assert applied == "wait=1"
    shop.jobs.cancel(task_id_of(answer))
    assert shop.data(f"{path}?wait=60")["status"] == "canceled"
