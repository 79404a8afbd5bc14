"""Many clients that wait keep nobody from submitting, and equal ones cost one run."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from api.waiting import WAITING_REQUESTS
from deploy.client import ServiceClient
from deploy.local import probes
from deploy.local.ports import reserved_ports
from tasks.jobs.job import Status
from tasks.redis_client import connect
from tests.support.servers import Servers, running
from tests.support.service import RunningService, api_service

if TYPE_CHECKING:
    from tasks.jobs.store import JobStore

CLIENTS = 100


@pytest.fixture
def api_alone(
    servers: Servers, service_environment: dict[str, str], tmp_path: Path
) -> Iterator[str]:
    """The API's own process as it is served, and no worker: what is submitted stays queued."""
    database = servers.new_database()
    connect(database).flushdb()
    with reserved_ports() as ports:
        url = f"http://127.0.0.1:{ports[0]}"
        env = {**service_environment, "RMBG_REDIS_URL": database, "RMBG_API_WORKERS": "1"}
        live = replace(api_service(ports[0], env), probe=probes.http_ok(f"{url}/healthz/live"))
        with running(live, tmp_path / "api.log"):
            yield url


def test_100_waiting_clients_do_not_keep_the_101st_from_submitting(
    api_alone: str, coffee: Path
) -> None:
    pool = urllib3.PoolManager(maxsize=CLIENTS, retries=False, timeout=90)
    answered = threading.Semaphore(0)
    ended = threading.Event()
    early: list[str] = []

    def wait(task_id: str) -> str:
        answer = pool.request("GET", f"{api_alone}/api/v1/tasks/{task_id}?wait=60").json()
        status = str(answer["data"]["status"])
        if not ended.is_set():
            early.append(status)
            answered.release()
        return status

    with ServiceClient(api_alone) as client, ThreadPoolExecutor(CLIENTS) as threads:
        task_id = client.submit(coffee, {"cache": "false"})
        waiting = [threads.submit(wait, task_id) for _ in range(CLIENTS)]
        # Those for whom there is no seat are answered at once, with the present state.
        for _ in range(CLIENTS - WAITING_REQUESTS):
            assert answered.acquire(timeout=40)
        began = time.monotonic()
        client.submit(coffee, {"cache": "false"})
        took = time.monotonic() - began
        assert early == ["queued"] * (CLIENTS - WAITING_REQUESTS)
        ended.set()
        pool.request("POST", f"{api_alone}/api/v1/tasks/{task_id}/cancel")
        states = [each.result(timeout=60) for each in waiting]
    assert states.count("canceled") == WAITING_REQUESTS
    # A place for it was free all the time; without one it would have had to wait for theirs.
    assert took < 20


def _send(service: RunningService, photo: bytes, pool: urllib3.PoolManager) -> dict[str, Any]:
    fields = {"image": ("cup.jpg", photo), "max_side": "333"}
    answer = pool.request("POST", f"{service.url}/api/v1/remove-bg", fields=fields)
    assert answer.status in {200, 202}
    return dict(answer.json()["data"])


def test_50_equal_uploads_at_once_run_the_model_once(service: RunningService, coffee: Path) -> None:
    pool = urllib3.PoolManager(maxsize=50, retries=False, timeout=90)
    photo = coffee.read_bytes()
    with ThreadPoolExecutor(50) as threads:
        sent = list(threads.map(lambda _: _send(service, photo, pool), range(50)))
    done = [service.client.wait(each["task_id"]) for each in sent]
    assert {each["status"] for each in done} == {"succeeded"}
    assert len({each["task_id"] for each in done}) == 50
    assert sum(each["attempts"] for each in done) == 1
    assert sum(each["cached"] for each in done) == 49
    bodies = {urllib3.request("GET", each["result_url"]).data for each in done[::7]}
    assert len(bodies) == 1
    # And from now on at once.
    again = _send(service, photo, pool)
    assert (again["status"], again["cached"]) == ("succeeded", True)


def test_a_duplicate_is_completed_when_its_primary_was_canceled(
    service: RunningService, coffee: Path
) -> None:
    """Through every process: the I/O worker promotes it, the model's worker runs it."""
    store: JobStore = service.store
    for _ in range(5):
        photo = coffee.read_bytes() + str(time.time_ns()).encode()
        pool = urllib3.PoolManager(timeout=60)
        primary, duplicate = (_send(service, photo, pool) for _ in range(2))
        canceled = store.cancel(primary["task_id"], only=Status.QUEUED)
        task = service.client.wait(duplicate["task_id"])
        assert task["status"] == "succeeded"
        if canceled == "canceled":
            assert not task["cached"]
            return
    # Its worker was quicker each time, which is no fault.
