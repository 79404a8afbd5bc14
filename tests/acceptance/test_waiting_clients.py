"""Many clients that wait keep nobody from submitting, and equal ones cost one run."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import urllib3

from api.places import Places
from api.waiting import WAITING_REQUESTS
from deploy.client import ServiceClient
from tests.support.service import RunningApi, RunningService

CLIENTS = 100
SHARE = Places(WAITING_REQUESTS).share


def test_100_waiting_clients_do_not_keep_the_101st_from_submitting(
    lone_api: RunningApi, coffee: Path
) -> None:
    pool = urllib3.PoolManager(maxsize=CLIENTS, retries=False, timeout=90)
    answered = threading.Semaphore(0)
    ended = threading.Event()
    early: list[str] = []

    def wait(task_id: str) -> str:
        answer = pool.request("GET", f"{lone_api.url}/api/v1/tasks/{task_id}?wait=60").json()
        status = str(answer["data"]["status"] if answer["data"] else answer["error"]["type"])
        if not ended.is_set():
            early.append(status)
            answered.release()
        return status

    with ServiceClient(lone_api.url) as client, ThreadPoolExecutor(CLIENTS) as threads:
        task_id = client.submit(coffee, {"cache": "false"})
        waiting = [threads.submit(wait, task_id) for _ in range(CLIENTS)]
        # Those beyond the owner's share of places are refused at once.
        for _ in range(CLIENTS - SHARE):
            assert answered.acquire(timeout=40)
        began = time.monotonic()
        client.submit(coffee, {"cache": "false"})
        took = time.monotonic() - began
        assert early == ["too_many_waiting"] * (CLIENTS - SHARE)
        ended.set()
        client.request("POST", f"/api/v1/tasks/{task_id}/cancel")
        states = [each.result(timeout=60) for each in waiting]
    assert states.count("canceled") == SHARE
    # A place for it was free all the time; without one it would have had to wait for theirs.
    assert took < 20


def _send(service: RunningService, photo: bytes) -> dict[str, Any]:
    fields = {"image": ("cup.jpg", photo), "max_side": "333"}
    return service.client.request("POST", "/api/v1/remove-bg", fields=fields)


def test_50_equal_uploads_at_once_run_the_model_once(service: RunningService, coffee: Path) -> None:
    photo = coffee.read_bytes()
    with ThreadPoolExecutor(50) as threads:
        sent = list(threads.map(lambda _: _send(service, photo), range(50)))
    done = [service.client.wait(each["task_id"]) for each in sent]
    assert {each["status"] for each in done} == {"succeeded"}
    assert len({each["task_id"] for each in done}) == 50
    assert sum(each["attempts"] for each in done) == 1
    assert sum(each["cached"] for each in done) == 49
    assert len({service.client.download(each["result_url"]) for each in done[::7]}) == 1
    # And from now on at once.
    again = _send(service, photo)
    assert (again["status"], again["cached"]) == ("succeeded", True)
