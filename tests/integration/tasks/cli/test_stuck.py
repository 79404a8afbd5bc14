"""`celery jobs stuck`: what does not move, and what to do about it."""

import json
import time

import pytest

from tasks import redis_keys
from tasks.cli import stuck
from tasks.housekeeping.missing_messages import list_key
from tasks.worker_registry import ALIVE_SECONDS, WorkerRegistry
from tests.support.commands import QUEUE, WORKER, Operator


@pytest.fixture(autouse=True)
def no_message_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck, "_RECHECK_SECONDS", 0.0)


def _stuck(operator: Operator, seconds: int = 30) -> set[tuple[str, str]]:
    """What is stuck for longer, with the problem."""
    found = operator.json("stuck", "--older-than", f"{seconds}")["stuck"]
    return {(each["name"], each["problem"]) for each in found}


def test_stuck_finds_each_kind_and_says_what_to_do(operator: Operator) -> None:
    redis = operator.redis
    orphan, lost, due, overdue = map(operator.make, ("processing", "queued", "canceled", "queued"))
    redis.delete(redis_keys.lease_key(orphan), list_key(f"{QUEUE}|3"))
    operator.store.requeue(due)
    redis.zadd(redis_keys.DUE_JOBS, {due: 1e9})
    redis.zadd(redis_keys.JOB_DEADLINES, {overdue: 1e9})
    queued, running = (
        operator.make(each, queue="model.other") for each in ("queued", "processing")
    )
    bad = {operator.damage(queued), operator.damage(running)}
    redis.rpush(list_key("model.other|3"), "no message")
    WorkerRegistry(redis, clock=lambda: 1e9).record_heartbeat("gpu1@testhost")
    operator.registry.record_heartbeat(WORKER, model="u2netp")
    # The beat of a living worker forgets those that were silent for a day.
    assert _stuck(operator, 0) == {
        (orphan, "processing_without_lease"),
        (lost, "queued_without_message"),
        (overdue, "queued_without_message"),
        (due, "due_not_sent"),
        (overdue, "overdue"),
        *((each, "unreadable_record") for each in bad),
        ("model.other|3", "unknown_message"),
        (WORKER, "worker_not_ready"),
    }
    assert (lost, "queued_without_message") not in _stuck(operator, 3600)
    heading, *lines = operator.run("stuck", "--older-than", "0").stdout.splitlines()
    assert heading.split()[:2] == ["WHAT", "PROBLEM"]
    for line in lines:
        name = line.split()[0]
        if name in bad:
            for part in ("options: Expecting", f"rmbg:job:{name}", f"jobs cancel {name}"):
                assert part in line
        else:
            assert "I/O worker" in line or not name.startswith("rm-")


def test_a_message_that_a_worker_holds_by_the_clock_of_redis_is_not_missing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 3600  # this host's clock
    monkeypatch.setattr(WorkerRegistry, "now", lambda _: time.time() - ahead)
    operator.make()
    message = json.loads(operator.redis.rpop(list_key(f"{QUEUE}|3")))
    operator.redis.hset(redis_keys.UNACKED, "tag", json.dumps([message, "", QUEUE]))
    operator.redis.zadd(redis_keys.UNACKED_INDEX, {"tag": time.time() - ahead})
    assert "queued_without_message" not in {problem for _, problem in _stuck(operator, 0)}


def test_a_silent_worker_is_shown_until_it_is_back(operator: Operator) -> None:
    operator.make()
    operator.make("processing")
    operator.registry.record_heartbeat(WORKER, model="u2netp")
    operator.redis.zincrby(redis_keys.ALIVE_WORKERS, -ALIVE_SECONDS - 60, WORKER)
    assert _stuck(operator) == {(WORKER, "worker_silent")}
    assert operator.run("workers").stdout.splitlines()[1].split()[:2] == [WORKER, "silent"]
    operator.registry.record_heartbeat(WORKER)
    operator.registry.mark_ready(WORKER, 60)
    assert operator.run("stuck", "--older-than", "0").stdout == "Nothing is stuck.\n"


def test_stuck_shows_the_models_that_no_worker_has(operator: Operator) -> None:
    operator.make()
    operator.make(model="isnet")
    operator.registry.record_heartbeat(WORKER, model="isnet")
    operator.registry.mark_ready(WORKER, 60)
    assert _stuck(operator, 0) == {("model.u2netp", "no_worker")}
    (found,) = operator.json("stuck", "--older-than", "0")["stuck"]
    assert "1 job(s) wait for u2netp: start a worker with RMBG_MODEL=u2netp" in found["advice"]
    assert _stuck(operator, 3600) == set()
