"""Servers hang or are away for long; messages are purged or lost."""

import re
import time
from collections.abc import Callable

import pytest

from tasks import redis_keys
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Status
from tasks.worker_registry import HEARTBEAT_SECONDS
from tests.support.cluster import QUEUES, WORKERS, Cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.mark.timeout(240)
def test_a_store_that_hangs_is_no_pictures_fault(made: Cluster) -> None:
    """It takes connections and answers nothing, for longer than a job may take."""
    jobs = made.submit_many(10)
    made.await_processing()
    with made.standing("weed"):
        time.sleep(30)
    done = made.succeed(jobs, 180)
    assert sum(each.losses for each in done) > 0
    assert sum(each.crashes for each in done) == 0


def test_idle_workers_keep_their_processes_through_an_outage_of_redis(made: Cluster) -> None:
    before = {name: made.child(name).pid for name in WORKERS}
    made.kill("valkey")
    # Their answers lapse, as they count for 16 s with these settings, and nobody can hear new ones.
    time.sleep(18)
    made.restart("valkey")
    made.wait_for(lambda: all(map(made.usable, WORKERS)), 30, "both workers' return")
    jobs = made.submit_many(10)
    made.wait_final(jobs, 60)
    time.sleep(2 * HEARTBEAT_SECONDS)
    assert {name: made.child(name).pid for name in WORKERS} == before
    made.assert_exactly_once(jobs)


def stock_purge(made: Cluster, jobs: list[str]) -> None:
    said = re.search(r"Purged (\d+) messages?", made.celery("purge", "-f", "-Q", QUEUES))
    assert said is not None
    # The first ones are in the hands of the workers that stand still.
    assert int(said[1]) >= len(jobs) - 4


def lose_between_two_servers(made: Cluster, jobs: list[str]) -> None:
    queues = [f"{job.queue}|{int(job.priority)}" for job in map(made.job, jobs)]
    popped = [made.redis.rpop(list_key(queue)) for queue in queues]
    assert any(popped)


@pytest.mark.parametrize("lose", [stock_purge, lose_between_two_servers])
def test_a_message_that_is_purged_or_lost_is_sent_again(
    made: Cluster, lose: Callable[[Cluster, list[str]], None]
) -> None:
    with made.standing(*WORKERS):
        jobs = made.submit_many(8)
        lose(made, list(jobs))
    made.succeed(jobs, 60)


def test_a_worker_that_dies_between_popping_a_message_and_noting_it_loses_nothing(
    made: Cluster,
) -> None:
    marker = made.folder / "stop-after-pop"
    marker.touch()
    jobs = made.submit_many(6)
    made.wait_for(made.stopped, 20, "a worker's stop")
    assert not marker.exists()
    held = " ".join(made.redis.hvals(redis_keys.UNACKED))
    assert [each for each in _in_no_list(made, list(jobs)) if each not in held]
    made.kill(made.stopped()[0])
    done = made.succeed(jobs, 60)
    assert sum(each.redispatches for each in done) >= 1


def _in_no_list(made: Cluster, task_ids: list[str]) -> list[str]:
    """Queued jobs whose message no list of the broker holds."""
    waiting = " ".join(
        text for name in made.store.lists() for text in made.redis.lrange(list_key(name), 0, -1)
    )
    queued = [each for each in task_ids if made.job(each).status is Status.QUEUED]
    return [each for each in queued if each not in waiting]
