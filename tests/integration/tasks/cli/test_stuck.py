"""`celery jobs stuck`: what does not move, and what to do about it."""

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from tasks import redis_keys
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.store import JobStore
from tasks.worker_registry import ALIVE_SECONDS, WorkerRegistry
from tests.support.commands import QUEUE, WORKER, Make, Run, json_of


def test_nothing_is_stuck_while_all_is_well(run: Run, make: Make, registry: WorkerRegistry) -> None:
    make()
    make("processing")
    registry.record_heartbeat(WORKER)
    registry.mark_ready(WORKER, 60)
    assert run("stuck", "--older-than", "0").stdout == "Nothing is stuck.\n"
    assert json_of(run("stuck", "--json"))["stuck"] == []


def test_stuck_finds_each_kind(
    run: Run, make: Make, client: Redis, store: JobStore, registry: WorkerRegistry
) -> None:
    orphan, lost, due, overdue = make("processing"), make(), make("canceled"), make()
    client.delete(redis_keys.lease_key(orphan))
    client.delete(list_key(f"{QUEUE}|3"))
    store.requeue(due)
    client.zadd(redis_keys.DUE_JOBS, {due: 1e9})
    client.zadd(redis_keys.JOB_DEADLINES, {overdue: 1e9})
    WorkerRegistry(client, clock=lambda: 1e9).record_heartbeat("gpu1@testhost")
    registry.record_heartbeat(WORKER)
    found = {(each["name"], each["problem"]) for each in _stuck(run, "0")}
    # The beat of a living worker forgets those that were silent for a day.
    assert found == {
        (orphan, "processing_without_lease"),
        (lost, "queued_without_message"),
        (overdue, "queued_without_message"),
        (due, "due_not_sent"),
        (overdue, "overdue"),
        (WORKER, "worker_not_ready"),
    }
    assert (lost, "queued_without_message") not in {
        (each["name"], each["problem"]) for each in _stuck(run, "3600")
    }
    lines = run("stuck", "--older-than", "0").stdout.splitlines()
    assert lines[0].split()[:2] == ["WHAT", "PROBLEM"]
    assert all("I/O worker" in line for line in lines if line.startswith("rm-"))


def _stuck(run: Run, seconds: str) -> list[dict[str, Any]]:
    return list(json_of(run("stuck", "--older-than", seconds, "--json"))["stuck"])


def test_a_silent_worker_is_shown_until_it_is_back(
    run: Run, client: Redis, registry: WorkerRegistry
) -> None:
    registry.record_heartbeat(WORKER)
    client.zincrby(redis_keys.ALIVE_WORKERS, -ALIVE_SECONDS - 60, WORKER)
    assert [(each["name"], each["problem"]) for each in _stuck(run, "30")] == [
        (WORKER, "worker_silent")
    ]
    assert run("workers").stdout.splitlines()[1].split()[:2] == [WORKER, "silent"]
    registry.record_heartbeat(WORKER)
    registry.mark_ready(WORKER, 60)
    assert _stuck(run, "30") == []


@pytest.mark.parametrize("state", ["queued", "processing"])
def test_stuck_shows_what_cannot_be_read_and_what_to_do(
    run: Run, make: Make, damage: Callable[[str], str], state: str
) -> None:
    make()
    bad = damage(make(state))
    ((name, problem, advice),) = [
        (each["name"], each["problem"], each["advice"]) for each in _stuck(run, "30")
    ]
    assert (name, problem) == (bad, "unreadable_record")
    for part in ("options: Expecting", f"rmbg:job:{bad}", f"jobs cancel {bad}"):
        assert part in advice
    run("cancel", bad, "--yes")
    assert _stuck(run, "30") == []


def test_stuck_shows_lists_that_begin_with_an_unknown_message(
    run: Run, make: Make, client: Redis
) -> None:
    make()
    client.rpush(list_key(f"{QUEUE}|3"), "no message")
    assert [(each["name"], each["problem"]) for each in _stuck(run, "30")] == [
        (f"{QUEUE}|3", "unknown_message")
    ]
