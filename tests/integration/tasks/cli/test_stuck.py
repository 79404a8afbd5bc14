"""`celery jobs stuck`: what does not move, and what to do about it."""

import pytest

from tasks import redis_keys
from tasks.housekeeping.missing_messages import list_key
from tasks.worker_registry import ALIVE_SECONDS, WorkerRegistry
from tests.support.commands import QUEUE, WORKER, Operator


def _stuck(operator: Operator, seconds: int = 30) -> set[tuple[str, str]]:
    """What is stuck for longer, with the problem."""
    found = operator.json("stuck", "--older-than", f"{seconds}")["stuck"]
    return {(each["name"], each["problem"]) for each in found}


def test_nothing_is_stuck_while_all_is_well(operator: Operator) -> None:
    operator.make()
    operator.make("processing")
    operator.registry.record_heartbeat(WORKER, model="u2netp")
    operator.registry.mark_ready(WORKER, 60)
    assert operator.run("stuck", "--older-than", "0").stdout == "Nothing is stuck.\n"
    assert operator.json("stuck")["stuck"] == []


def test_stuck_finds_each_kind(operator: Operator) -> None:
    redis = operator.redis
    orphan, lost, due, overdue = map(operator.make, ("processing", "queued", "canceled", "queued"))
    redis.delete(redis_keys.lease_key(orphan), list_key(f"{QUEUE}|3"))
    operator.store.requeue(due)
    redis.zadd(redis_keys.DUE_JOBS, {due: 1e9})
    redis.zadd(redis_keys.JOB_DEADLINES, {overdue: 1e9})
    WorkerRegistry(redis, clock=lambda: 1e9).record_heartbeat("gpu1@testhost")
    operator.registry.record_heartbeat(WORKER, model="u2netp")
    # The beat of a living worker forgets those that were silent for a day.
    assert _stuck(operator, 0) == {
        (orphan, "processing_without_lease"),
        (lost, "queued_without_message"),
        (overdue, "queued_without_message"),
        (due, "due_not_sent"),
        (overdue, "overdue"),
        (WORKER, "worker_not_ready"),
    }
    assert (lost, "queued_without_message") not in _stuck(operator, 3600)
    lines = operator.run("stuck", "--older-than", "0").stdout.splitlines()
    assert lines[0].split()[:2] == ["WHAT", "PROBLEM"]
    assert all("I/O worker" in line for line in lines if line.startswith("rm-"))


def test_a_silent_worker_is_shown_until_it_is_back(operator: Operator) -> None:
    operator.registry.record_heartbeat(WORKER)
    operator.redis.zincrby(redis_keys.ALIVE_WORKERS, -ALIVE_SECONDS - 60, WORKER)
    assert _stuck(operator) == {(WORKER, "worker_silent")}
    assert operator.run("workers").stdout.splitlines()[1].split()[:2] == [WORKER, "silent"]
    operator.registry.record_heartbeat(WORKER)
    operator.registry.mark_ready(WORKER, 60)
    assert _stuck(operator) == set()


@pytest.mark.parametrize("state", ["queued", "processing"])
def test_stuck_shows_what_cannot_be_read_and_what_to_do(operator: Operator, state: str) -> None:
    operator.make()
    bad = operator.damage(operator.make(state))
    (found,) = operator.json("stuck")["stuck"]
    assert (found["name"], found["problem"]) == (bad, "unreadable_record")
    for part in ("options: Expecting", f"rmbg:job:{bad}", f"jobs cancel {bad}"):
        assert part in found["advice"]
    operator.run("cancel", bad, "--yes")
    assert _stuck(operator) == set()


def test_stuck_shows_lists_that_begin_with_an_unknown_message(operator: Operator) -> None:
    operator.make()
    operator.redis.rpush(list_key(f"{QUEUE}|3"), "no message")
    assert _stuck(operator) == {(f"{QUEUE}|3", "unknown_message")}


def test_stuck_shows_the_models_that_no_worker_has(operator: Operator) -> None:
    operator.make()
    operator.make(model="isnet")
    assert _stuck(operator, 0) == {("model.isnet", "no_worker"), ("model.u2netp", "no_worker")}
    operator.registry.record_heartbeat(WORKER, model="isnet")
    operator.registry.mark_ready(WORKER, 60)
    (found,) = operator.json("stuck", "--older-than", "0")["stuck"]
    assert "1 job(s) wait for u2netp: start a worker with RMBG_MODEL=u2netp" in found["advice"]
    assert _stuck(operator, 3600) == set()
