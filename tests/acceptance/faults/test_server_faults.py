"""Redis and the object store die or cut their connections; messages are revoked, purged or lost."""

import re
import signal
import time

import pytest

from api.services import Services
from tasks.errors import ObjectStoreUnavailableError
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Status
from tasks.jobs.routing import task_id_of_message
from tasks.redis_client import connect
from tasks.worker_registry import HEARTBEAT_SECONDS
from tests.support.cluster import (
    Cluster,
    assert_exactly_once,
    await_processing,
    job,
    picture,
    submit,
    submit_many,
    wait_final,
    wait_for,
)
from tests.support.fault_scenes import GPU0, GPU1, QUEUES, celery, signal_workers, usable

pytestmark = pytest.mark.faults

#: How long a model's answer counts with the cluster's settings.
ANSWER_SECONDS = 16


def test_redis_killed_under_load_loses_nothing(made: Cluster, services: Services) -> None:
    jobs = submit_many(services, 40)
    await_processing(made, services)
    # The append-only file is written once a second.
    time.sleep(1.1)
    made.kill("valkey")
    made.restart("valkey")
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


def test_cut_connections_lose_nothing_and_run_nothing_twice(
    made: Cluster, services: Services
) -> None:
    jobs = submit_many(services, 40)
    await_processing(made, services)
    client = connect(made.redis_url)
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
    wait_final(made, services, list(jobs), 90)
    assert_exactly_once(made, services, jobs)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.slow)])
def test_accepted_jobs_wait_for_a_store_that_is_away(
    made: Cluster, services: Services, seconds: float
) -> None:
    jobs = submit_many(services, 20 if seconds == 0 else 200)
    await_processing(made, services)
    made.kill("weed")
    end = time.monotonic() + seconds
    refused = 0
    while refused == 0 or time.monotonic() < end:
        began = time.monotonic()
        with pytest.raises(ObjectStoreUnavailableError):
            submit(services, picture())
        # At once, for whoever waits; a hang would take the sockets' timeouts.
        assert time.monotonic() - began < 5
        refused += 1
        time.sleep(min(1, seconds))
    made.restart("weed")
    wait_final(made, services, list(jobs), 180)
    assert_exactly_once(made, services, jobs)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_a_store_that_hangs_is_no_pictures_fault(
    made: Cluster, services: Services, seconds: float
) -> None:
    """It takes connections and answers nothing, for longer than a job may take."""
    jobs = submit_many(services, 10)
    await_processing(made, services)
    made.signal("weed", signal.SIGSTOP)
    time.sleep(seconds)
    made.signal("weed", signal.SIGCONT)
    done = wait_final(made, services, list(jobs), 180)
    assert sum(each.losses for each in done) > 0
    assert sum(each.crashes for each in done) == 0
    assert_exactly_once(made, services, jobs)


@pytest.mark.slow
def test_idle_workers_keep_their_processes_through_an_outage_of_redis(
    made: Cluster, services: Services
) -> None:
    before = {name: made.child(name).pid for name in ("gpu0", "gpu1")}
    made.kill("valkey")
    # Their answers lapse, and nobody can hear new ones.
    time.sleep(ANSWER_SECONDS + 2)
    made.restart("valkey")
    wait_for(lambda: usable(made, GPU0) and usable(made, GPU1), 30, made, "both workers' return")
    jobs = submit_many(services, 10)
    wait_final(made, services, list(jobs), 60)
    time.sleep(2 * HEARTBEAT_SECONDS)
    assert {name: made.child(name).pid for name in before} == before
    assert_exactly_once(made, services, jobs)


@pytest.mark.parametrize("count", [30, pytest.param(60, marks=pytest.mark.slow)])
def test_a_revoked_job_is_canceled_until_it_is_asked_for_again(
    made: Cluster, services: Services, count: int
) -> None:
    app = services.runtime.dispatcher.app
    # Enough to keep the last one waiting while the word goes round.
    jobs = submit_many(services, count)
    last = list(jobs)[-1]
    app.control.revoke(last)
    wait_final(made, services, list(jobs), 40)
    assert job(services, last).status is Status.CANCELED
    assert services.runtime.job_store.requeue(last) == "requeued"
    wait_for(lambda: job(services, last).status is Status.SUCCEEDED, 30, made, "the requeued job")
    assert_exactly_once(made, services, jobs)


def test_a_stock_purge_is_undone(made: Cluster, services: Services) -> None:
    signal_workers(made, signal.SIGSTOP)
    jobs = submit_many(services, 8)
    said = re.search(r"Purged (\d+) messages?", celery(made, "purge", "-f", "-Q", QUEUES))
    assert said is not None
    # The first ones are in the hands of the workers that stand still.
    assert int(said[1]) >= len(jobs) - 4
    signal_workers(made, signal.SIGCONT)
    wait_final(made, services, list(jobs), 40)
    assert_exactly_once(made, services, jobs)


def test_a_worker_that_dies_between_popping_a_message_and_noting_it_loses_nothing(
    made: Cluster, services: Services
) -> None:
    marker = made.folder / "stop-after-pop"
    marker.touch()
    jobs = submit_many(services, 6)
    wait_for(lambda: bool(made.stopped("gpu0", "gpu1")), 20, made, "a worker's stop")
    assert not marker.exists()
    client = connect(made.redis_url)
    lost = _in_no_list(services, list(jobs))
    held = " ".join(client.hvals("unacked"))
    assert [each for each in lost if each not in held]
    made.kill(made.stopped("gpu0", "gpu1")[0])
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)
    assert sum(job(services, each).redispatches for each in jobs) >= 1


def _in_no_list(services: Services, task_ids: list[str]) -> list[str]:
    """Queued jobs whose message no list of the broker holds."""
    client = services.runtime.job_store._client
    messages = [
        text
        for name in services.runtime.job_store.lists()
        for text in client.lrange(list_key(name), 0, -1)
    ]
    waiting = " ".join(messages)
    return [
        each
        for each in task_ids
        if each not in waiting and job(services, each).status is Status.QUEUED
    ]


@pytest.mark.slow
def test_a_message_lost_between_two_servers_is_sent_again(
    made: Cluster, services: Services
) -> None:
    signal_workers(made, signal.SIGSTOP)
    jobs = submit_many(services, 6)
    client = connect(made.redis_url)
    popped = 0
    for task_id in jobs:
        record = job(services, task_id)
        popped += client.rpop(list_key(f"{record.queue}|{int(record.priority)}")) is not None
    assert popped
    signal_workers(made, signal.SIGCONT)
    wait_final(made, services, list(jobs), 60)
    assert_exactly_once(made, services, jobs)


def test_message_ids_name_their_job() -> None:
    assert (
        task_id_of_message("rm-20261122-abc")
        == task_id_of_message("rm-20261122-abc.2")
        == "rm-20261122-abc"
    )
