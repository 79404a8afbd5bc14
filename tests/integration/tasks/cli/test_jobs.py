"""The operator's commands: `celery -A tasks.app jobs …`, against a real Valkey."""

import pytest

from tasks import redis_keys
from tasks.housekeeping.clock_check import ClockCheck
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority
from tasks.jobs.store import MAX_CRASHES
from tests.support.commands import QUEUE, WORKER, Operator
from tests.support.jobs import recorded

UNKNOWN = "rm-20260101-unknown"


def test_list_shows_jobs_aligned_and_counts_all(operator: Operator) -> None:
    assert operator.run("list").stdout.startswith("0 shown")
    queued, failed, canceled = map(operator.make, ("queued", "failed", "canceled"))
    listed = operator.json("list")
    assert {job["task_id"] for job in listed["jobs"]} == {queued, failed, canceled}
    ended = {"succeeded": 0, "failed": 1, "canceled": 1}
    assert listed["counts"] == {"queued": 1, "processing": 0, **ended}
    assert len(operator.json("list", "--limit", "2")["jobs"]) == 2
    both = operator.json("list", "--status", "failed", "--status", "canceled")["jobs"]
    assert {job["task_id"] for job in both} == {failed, canceled}
    heading, row, summary = operator.run("list", "--status", "queued").stdout.splitlines()
    assert row.split()[:2] == [queued, "queued"]
    assert heading.index("STATUS") == row.index("queued")
    assert summary.startswith("1 shown; 1 queued,")


def test_show_tells_everything_or_what_to_do(operator: Operator) -> None:
    operator.make()
    task_id = operator.make()
    shown = operator.json("show", task_id)
    assert (shown["status"], shown["priority"], shown["queue"]) == ("queued", "normal", QUEUE)
    assert (shown["leased"], shown["jobs_ahead"]) == (False, 1)
    assert shown["created_at"] == "2023-11-14T22:13:20+00:00"
    assert task_id in operator.run("show", task_id).stdout.splitlines()[0]
    assert "jobs list" in operator.errors("show", UNKNOWN)
    (line,) = operator.errors("show", operator.damage(task_id)).splitlines()
    assert "rmbg restore" in line
    assert operator.json("show", task_id, status=1)["error"]["type"] == "unreadable_record"


@pytest.mark.parametrize(
    "verb", [("show",), ("requeue",), ("cancel", "--yes"), ("dead", "requeue"), ("dead", "drop")]
)
def test_what_is_no_id_is_unknown(operator: Operator, verb: tuple[str, ...]) -> None:
    """Such as the name of a key beside a record, or bytes that are no UTF-8."""
    for text in (f"{operator.make('processing')}:lease", "*", "\udcff"):
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
    assert operator.status(expired) == "failed"
    assert operator.json("requeue", done, UNKNOWN, status=1) == {
        "requeued": [],
        "refused": [{"task_id": done, "reason": "succeeded"}],
        "unknown": [UNKNOWN],
    }


@pytest.mark.parametrize("command_line", [("requeue", "--failed"), ("dead", "requeue", "--all")])
def test_all_are_requeued_after_a_question(operator: Operator, command_line: list[str]) -> None:
    assert "nothing to do" in operator.errors(*command_line, "--yes", status=0)
    dead, bad = [operator.make("dead"), operator.make("dead")], operator.make("dead")
    canceled = operator.make("canceled")
    assert "Requeue all 3" in operator.errors(*command_line, answers="n\n")
    assert {operator.status(each) for each in dead} == {"failed"}
    operator.damage(bad)
    answer = operator.json(*command_line, "--yes", status=1)
    assert sorted(answer["requeued"]) == sorted(dead)
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert operator.status(canceled) == "canceled"
    assert f"{bad} cannot be read" in operator.errors(*command_line[:-1], bad)


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


def test_purge_knows_the_queues_of_jobs_and_workers(operator: Operator) -> None:
    assert "neither a job nor a worker" in operator.errors("purge", "--queue", QUEUE)
    operator.make()
    assert QUEUE in operator.errors("purge", "--queue", "typo", "--yes")
    error = operator.json("purge", "--queue", "io", "--yes", status=1)["error"]
    assert error["type"] == "unknown_queue"
    operator.registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    operator.run("purge", "--queue", "gpu.testhost.0", "--yes")


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


def test_a_dead_letter_is_listed_and_requeued_with_its_counts_at_zero(operator: Operator) -> None:
    assert "no dead letters" in operator.run("dead", "list").stdout
    dead, failed = operator.make("dead"), operator.make("failed")
    (job,) = operator.json("dead", "list")["jobs"]
    assert (job["task_id"], job["error"]["type"], job["crashes"]) == (dead, "poison", MAX_CRASHES)
    assert operator.run("dead", "list").stdout.splitlines()[1].split()[0] == dead
    result = operator.run("dead", "requeue", dead, failed, UNKNOWN, status=1)
    assert result.stdout.split() == ["requeued", dead]
    assert f"{failed}: failed. It is no dead letter" in result.stderr
    assert f"{UNKNOWN}: unknown" in result.stderr
    again = recorded(operator.store, dead)
    assert (again.status, again.crashes, again.attempts) == ("queued", 0, 0)
    assert operator.store.dead() == []


def test_a_dropped_dead_letter_stays_failed(operator: Operator) -> None:
    first, second = operator.make("dead"), operator.make("dead")
    assert "give --yes" in operator.errors("dead", "drop", first)
    assert operator.json("dead", "drop", first, "--yes")["dropped"] == [first]
    operator.run("dead", "drop", first, UNKNOWN, "--yes", status=1)
    dropped = operator.run("dead", "drop", "--all", answers="y\n").stdout
    assert dropped.split() == ["dropped", second]
    assert operator.store.dead() == []
    assert operator.status(first) == "failed"


def test_redis_away_is_told(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://127.0.0.1:1/0")
    reason, remedy = operator.errors("list").splitlines()
    assert "Redis does not answer" in reason
    assert "RMBG_REDIS_URL" in remedy
    assert operator.json("workers", status=1)["error"]["type"] == "queue_unavailable"


def test_the_clock_is_trusted_after_a_jump(operator: Operator) -> None:
    operator.redis.hset(redis_keys.SWEEPER_CLOCK, mapping={"last": "1", "doubted_since": "1"})
    assert operator.json("trust-clock") == {"trusted": True}
    assert ClockCheck(operator.redis).trusted_time() is not None


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


@pytest.mark.parametrize(
    "command_line", [("cancel",), ("purge", "--queue", QUEUE), ("purge", "--status", "queued")]
)
def test_a_job_whose_record_is_unreadable_can_be_ended(
    operator: Operator, command_line: tuple[str, ...]
) -> None:
    jobs = [operator.make(), operator.damage(operator.make()), operator.make()]
    named = jobs if command_line == ("cancel",) else ()
    answer = operator.json(*command_line, *named, "--yes")
    assert sorted(answer["canceled"]) == sorted(jobs)
    keys = map(redis_keys.job_key, jobs)
    assert {operator.redis.hget(key, "status") for key in keys} == {"canceled"}


def test_what_is_no_record_at_all_is_named_and_the_others_are_canceled(operator: Operator) -> None:
    before, bad, after = (operator.make() for _ in range(3))
    operator.redis.set(redis_keys.job_key(bad), "no hash", keepttl=True)
    answer = operator.json("purge", "--status", "queued", "--yes", status=1)
    assert sorted(answer["canceled"]) == sorted([before, after])
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert f"rmbg:job:{bad}" in operator.errors("cancel", bad, "--yes")
