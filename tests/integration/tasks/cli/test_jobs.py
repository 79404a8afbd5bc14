"""The operator's commands: `celery -A tasks.app jobs …`, against a real Valkey."""

import json
import os
import subprocess

import pytest
from redis import Redis

from deploy.local import service
from tasks import redis_keys
from tasks.housekeeping.clock_check import ClockCheck
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority
from tasks.jobs.store import MAX_CRASHES
from tests.support.commands import QUEUE, WORKER, Operator
from tests.support.jobs import recorded

UNKNOWN = "rm-20260101-unknown"


def test_celery_finds_the_commands_by_their_entry_point(operator: Operator, redis_url: str) -> None:
    task_id = operator.make()
    done = subprocess.run(
        [service.script("celery"), "-A", "tasks.app", "jobs", "list", "--json"],
        env={**os.environ, "RMBG_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [job["task_id"] for job in json.loads(done.stdout)["jobs"]] == [task_id]
    assert done.stderr == ""


def test_list_shows_the_newest_first_and_counts_all(operator: Operator) -> None:
    queued, failed, canceled = map(operator.make, ("queued", "failed", "canceled"))
    listed = operator.json("list")
    assert {job["task_id"] for job in listed["jobs"]} == {queued, failed, canceled}
    ended = {"succeeded": 0, "failed": 1, "canceled": 1}
    assert listed["counts"] == {"queued": 1, "processing": 0, **ended}
    assert len(operator.json("list", "--limit", "2")["jobs"]) == 2
    both = operator.json("list", "--status", "failed", "--status", "canceled")["jobs"]
    assert {job["task_id"] for job in both} == {failed, canceled}


def test_list_is_aligned_for_people_and_for_awk(operator: Operator) -> None:
    assert operator.run("list").stdout.startswith("0 shown")
    assert operator.json("list")["jobs"] == []
    task_id = operator.make()
    heading, row, summary = operator.run("list").stdout.splitlines()
    assert heading.split()[:2] == ["TASK", "STATUS"]
    assert row.split()[:2] == [task_id, "queued"]
    assert heading.index("STATUS") == row.index("queued")
    assert summary.startswith("1 shown; 1 queued,")


def test_show_tells_everything(operator: Operator) -> None:
    operator.make()
    task_id = operator.make()
    shown = operator.json("show", task_id)
    assert (shown["status"], shown["priority"], shown["queue"]) == ("queued", "normal", QUEUE)
    assert (shown["leased"], shown["jobs_ahead"]) == (False, 1)
    assert shown["created_at"] == "2023-11-14T22:13:20+00:00"
    assert task_id in operator.run("show", task_id).stdout.splitlines()[0]


def test_show_of_an_unknown_id_says_what_to_do(operator: Operator) -> None:
    result = operator.run("show", UNKNOWN, status=1)
    assert result.stdout == ""
    assert "jobs list" in result.stderr
    assert operator.json("show", UNKNOWN, status=1)["error"]["type"] == "unknown_job"


@pytest.mark.parametrize(
    "verb", [("show",), ("requeue",), ("cancel", "--yes"), ("dead", "requeue"), ("dead", "drop")]
)
@pytest.mark.parametrize("form", ["{}:lease", "*", "\udcff"])
def test_what_is_no_id_is_unknown(operator: Operator, verb: tuple[str, ...], form: str) -> None:
    """Such as the name of a key beside a record, or bytes that are no UTF-8."""
    text = form.format(operator.make("processing"))
    answer = operator.json(*verb, text, *(["--yes"] if "drop" in verb else []), status=1)
    assert answer.get("unknown") == [text] or answer["error"]["type"] == "unknown_job"


def test_requeue_does_what_it_can_and_fails_for_the_rest(operator: Operator) -> None:
    states = ("failed", "canceled", "succeeded", "failed")
    failed, canceled, done, expired = map(operator.make, states)
    operator.redis.hset(redis_keys.job_key(expired), "expires_at", 1.0)
    result = operator.run("requeue", failed, canceled, done, expired, UNKNOWN, status=1)
    assert result.stdout.split() == ["requeued", failed, "requeued", canceled]
    assert operator.redis.llen(list_key(f"{QUEUE}|3")) == 2
    assert operator.store.due() == []
    assert f"{done}: succeeded. Only failed and canceled" in result.stderr
    assert f"{expired}: expired" in result.stderr
    assert f"{UNKNOWN}: unknown." in result.stderr
    ended = [operator.status(each) for each in (failed, canceled, expired)]
    assert ended == ["queued", "queued", "failed"]
    assert operator.json("requeue", done, UNKNOWN, status=1) == {
        "requeued": [],
        "refused": [{"task_id": done, "reason": "succeeded"}],
        "unknown": [UNKNOWN],
    }


def test_requeue_of_all_failed_jobs_asks(operator: Operator) -> None:
    first, second, canceled = map(operator.make, ("failed", "dead", "canceled"))
    assert "Requeue all 2 failed jobs?" in operator.errors("requeue", "--failed", answers="n\n")
    assert operator.status(first) == "failed"
    answer = operator.json("requeue", "--failed", "--yes")
    assert sorted(answer["requeued"]) == sorted([first, second])
    assert operator.status(canceled) == "canceled"
    assert operator.store.dead() == []
    assert "nothing to do" in operator.errors("requeue", "--failed", status=0)


def test_cancel_asks_and_ends_waiting_and_running_jobs(operator: Operator) -> None:
    waiting, running = operator.make(), operator.make("processing")
    assert "give --yes" in operator.errors("cancel", waiting)
    assert operator.status(waiting) == "queued"
    operator.run("cancel", waiting, answers="y\n")
    assert operator.json("cancel", running, "--yes")["canceled"] == [running]
    assert not operator.store.has_lease(running)
    again = operator.errors("cancel", running, UNKNOWN, "--yes")
    assert f"{running}: canceled already" in again
    assert f"{UNKNOWN}: unknown" in again


def test_purge_of_a_queue_cancels_its_records_and_drops_its_messages(operator: Operator) -> None:
    inside, running = operator.make(), operator.make("processing")
    elsewhere = operator.make(queue="model.other")
    for priority in Priority:
        operator.redis.lpush(list_key(f"{QUEUE}|{int(priority)}"), "{}")
    assert "Cancel 1 jobs" in operator.errors("purge", "--queue", QUEUE)
    answer = operator.json("purge", "--queue", QUEUE, "--yes")
    assert (answer["canceled"], answer["messages"]) == ([inside], 4)
    assert not list(operator.redis.scan_iter(f"{QUEUE}*"))
    states = [operator.status(each) for each in (inside, running, elsewhere)]
    assert states == ["canceled", "processing", "queued"]
    assert "nothing to do" in operator.errors("purge", "--queue", QUEUE, "--yes", status=0)


def test_purge_knows_the_queues_and_needs_a_choice(operator: Operator) -> None:
    assert "neither a job nor a worker" in operator.errors("purge", "--queue", QUEUE)
    operator.make()
    assert QUEUE in operator.errors("purge", "--queue", "typo", "--yes")
    error = operator.json("purge", "--queue", "io", "--yes", status=1)["error"]
    assert error["type"] == "unknown_queue"
    # Those of workers that had no job among them.
    operator.registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    none = operator.errors("purge", "--queue", "gpu.testhost.0", "--yes", status=0)
    assert "nothing to do" in none


@pytest.mark.parametrize(
    "command_line",
    [
        ("requeue",),
        ("requeue", UNKNOWN, "--failed"),
        ("purge",),
        ("purge", "--queue", QUEUE, "--status", "queued"),
        ("dead", "requeue"),
    ],
    ids=" ".join,
)
def test_a_choice_is_needed_and_only_one(operator: Operator, command_line: tuple[str, ...]) -> None:
    assert "--" in operator.errors(*command_line, status=2)


def test_dead_letters_are_listed_with_their_reason(operator: Operator) -> None:
    assert "no dead letters" in operator.run("dead", "list").stdout
    dead, _ = operator.make("dead"), operator.make("failed")
    (job,) = operator.json("dead", "list")["jobs"]
    assert (job["task_id"], job["error"]["type"], job["crashes"]) == (dead, "poison", MAX_CRASHES)
    assert operator.run("dead", "list").stdout.splitlines()[1].split()[0] == dead


def test_a_dead_letter_is_requeued_with_its_counts_at_zero(operator: Operator) -> None:
    dead, failed = operator.make("dead"), operator.make("failed")
    result = operator.run("dead", "requeue", dead, failed, UNKNOWN, status=1)
    assert result.stdout.split() == ["requeued", dead]
    assert f"{failed}: failed. It is no dead letter" in result.stderr
    assert f"{UNKNOWN}: unknown" in result.stderr
    job = recorded(operator.store, dead)
    assert (job.status, job.crashes, job.attempts) == ("queued", 0, 0)
    assert operator.store.dead() == []


def test_all_dead_letters_are_requeued_after_a_question(operator: Operator) -> None:
    dead = {operator.make("dead"), operator.make("dead")}
    operator.run("dead", "requeue", "--all", status=1)
    assert set(operator.json("dead", "requeue", "--all", "--yes")["requeued"]) == dead
    assert "nothing to do" in operator.errors("dead", "requeue", "--all", "--yes", status=0)


def test_a_dropped_dead_letter_stays_failed(operator: Operator) -> None:
    first, second = operator.make("dead"), operator.make("dead")
    operator.run("dead", "drop", first, status=1)
    assert operator.json("dead", "drop", first, "--yes")["dropped"] == [first]
    operator.run("dead", "drop", first, UNKNOWN, "--yes", status=1)
    dropped = operator.run("dead", "drop", "--all", answers="y\n").stdout
    assert dropped.split() == ["dropped", second]
    assert operator.store.dead() == []
    assert operator.status(first) == "failed"


def test_redis_away_is_said_with_the_remedy(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://127.0.0.1:1/0")
    reason, remedy = operator.errors("list").splitlines()
    assert "Redis does not answer" in reason
    assert "RMBG_REDIS_URL" in remedy
    assert operator.json("workers", status=1)["error"]["type"] == "queue_unavailable"


# -- records that cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize("command_line", [("list",), ("dead", "list")])
def test_listings_show_what_can_be_read_and_name_the_rest(
    operator: Operator, command_line: tuple[str, ...]
) -> None:
    good, bad = operator.make("dead"), operator.damage(operator.make("dead"))
    result = operator.run(*command_line)
    assert good in result.stdout
    assert bad not in result.stdout
    assert f"The record of {bad} cannot be read: options: Expecting" in result.stderr
    document = operator.json(*command_line)
    assert [job["task_id"] for job in document["jobs"]] == [good]
    assert document["unreadable"] == [bad]


def test_show_of_an_unreadable_record_is_a_clear_line(operator: Operator) -> None:
    bad = operator.damage(operator.make())
    (line,) = operator.errors("show", bad).splitlines()
    assert "rmbg restore" in line
    assert operator.json("show", bad, status=1)["error"]["type"] == "unreadable_record"


@pytest.mark.parametrize("command_line", [("requeue", "--failed"), ("dead", "requeue", "--all")])
def test_an_unreadable_record_is_not_requeued_but_the_others_are(
    operator: Operator, command_line: tuple[str, ...]
) -> None:
    before, bad, after = (operator.make("dead") for _ in range(3))
    operator.damage(bad)
    answer = operator.json(*command_line, "--yes", status=1)
    assert sorted(answer["requeued"]) == sorted([before, after])
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert {operator.status(each) for each in (before, after)} == {"queued"}
    by_id = operator.errors(*command_line[:-1], bad, UNKNOWN)
    assert f"{bad} cannot be read" in by_id
    assert f"{UNKNOWN}: unknown" in by_id


@pytest.mark.parametrize(
    "command_line", [("cancel",), ("purge", "--queue", QUEUE), ("purge", "--status", "queued")]
)
def test_a_job_whose_record_is_unreadable_can_be_ended(
    operator: Operator, command_line: tuple[str, ...]
) -> None:
    jobs = [operator.make(), operator.damage(operator.make()), operator.make()]
    running = operator.make("processing")
    named = jobs if command_line == ("cancel",) else ()
    answer = operator.json(*command_line, *named, "--yes")
    assert sorted(answer["canceled"]) == sorted(jobs)
    keys = map(redis_keys.job_key, jobs)
    assert {operator.redis.hget(key, "status") for key in keys} == {"canceled"}
    assert operator.status(running) == "processing"


def test_what_is_no_record_at_all_is_named_and_the_others_are_canceled(operator: Operator) -> None:
    before, bad, after = (operator.make() for _ in range(3))
    operator.redis.set(redis_keys.job_key(bad), "no hash")
    answer = operator.json("purge", "--status", "queued", "--yes", status=1)
    assert sorted(answer["canceled"]) == sorted([before, after])
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert f"rmbg:job:{bad}" in operator.errors("cancel", bad, "--yes")


def test_the_clock_is_trusted_after_a_jump(operator: Operator, redis: Redis) -> None:
    redis.hset(redis_keys.SWEEPER_CLOCK, mapping={"last": "1", "doubted_since": "1"})
    assert operator.json("trust-clock") == {"trusted": True}
    assert ClockCheck(redis).trusted_time() is not None
