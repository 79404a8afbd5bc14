"""The operator's commands: `celery -A tasks.app jobs …`, against a real Valkey."""

import json
import os
import subprocess
from collections.abc import Callable

import pytest
from redis import Redis

from deploy.local import service
from tasks import redis_keys
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Priority, Status
from tasks.jobs.store import MAX_CRASHES, JobStore
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.commands import QUEUE, WORKER, Make, Run, json_of
from tests.support.jobs import recorded

UNKNOWN = "rm-20260101-unknown"


def _status(store: JobStore, task_id: str) -> str:
    return recorded(store, task_id).status.value


def test_celery_finds_the_commands_by_their_entry_point(settings: Settings, make: Make) -> None:
    task_id = make()
    command = [service.script("celery"), "-A", "tasks.app", "jobs", "list", "--json"]
    url = settings.redis_url.get_secret_value()
    done = subprocess.run(
        command,
        env={**os.environ, "RMBG_REDIS_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [job["task_id"] for job in json.loads(done.stdout)["jobs"]] == [task_id]
    assert done.stderr == ""


def test_list_shows_the_newest_first_and_counts_all(run: Run, make: Make) -> None:
    queued, failed, canceled = make(), make("failed"), make("canceled")
    listed = json_of(run("list", "--json"))
    assert {job["task_id"] for job in listed["jobs"]} == {queued, failed, canceled}
    assert listed["counts"] == {
        "queued": 1,
        "processing": 0,
        "succeeded": 0,
        "failed": 1,
        "canceled": 1,
    }
    assert len(json_of(run("list", "--limit", "2", "--json"))["jobs"]) == 2
    both = json_of(run("list", "--status", "failed", "--status", "canceled", "--json"))["jobs"]
    assert {job["task_id"] for job in both} == {failed, canceled}


def test_list_is_aligned_for_people_and_for_awk(run: Run, make: Make) -> None:
    task_id = make()
    heading, row, summary = run("list").stdout.splitlines()
    assert heading.split()[:2] == ["TASK", "STATUS"]
    assert row.split()[:2] == [task_id, "queued"]
    assert heading.index("STATUS") == row.index("queued")
    assert summary.startswith("1 shown; 1 queued,")


def test_list_of_nothing_is_no_error(run: Run) -> None:
    assert run("list").stdout.startswith("0 shown")
    assert json_of(run("list", "--json"))["jobs"] == []


def test_show_tells_everything(run: Run, make: Make) -> None:
    make()
    task_id = make()
    shown = json_of(run("show", task_id, "--json"))
    assert (shown["status"], shown["priority"], shown["queue"]) == ("queued", "normal", QUEUE)
    assert (shown["leased"], shown["jobs_ahead"]) == (False, 1)
    assert shown["created_at"] == "2023-11-14T22:13:20+00:00"
    assert task_id in run("show", task_id).stdout.splitlines()[0]


def test_show_of_an_unknown_id_says_what_to_do(run: Run) -> None:
    result = run("show", UNKNOWN, status=1)
    assert result.stdout == ""
    assert "jobs list" in result.stderr
    error = json_of(run("show", UNKNOWN, "--json", status=1))["error"]
    assert error["type"] == "unknown_job"


def test_requeue_sends_a_failed_and_a_canceled_job_again(
    run: Run, make: Make, store: JobStore, client: Redis
) -> None:
    failed, canceled = make("failed"), make("canceled")
    assert json_of(run("requeue", failed, canceled, "--json"))["requeued"] == [failed, canceled]
    assert {_status(store, failed), _status(store, canceled)} == {"queued"}
    assert client.llen(list_key(f"{QUEUE}|3")) == 2
    assert store.due() == []


def test_requeue_does_what_it_can_and_fails_for_the_rest(
    run: Run, make: Make, store: JobStore
) -> None:
    failed, done = make("failed"), make("succeeded")
    result = run("requeue", failed, done, UNKNOWN, status=1)
    assert result.stdout.split() == ["requeued", failed]
    assert f"{done}: succeeded. Only failed and canceled" in result.stderr
    assert f"{UNKNOWN}: unknown." in result.stderr
    assert _status(store, failed) == "queued"
    assert json_of(run("requeue", done, UNKNOWN, "--json", status=1)) == {
        "requeued": [],
        "refused": [{"task_id": done, "reason": "succeeded"}],
        "unknown": [UNKNOWN],
    }


def test_requeue_refuses_a_job_whose_pictures_have_expired(
    run: Run, make: Make, store: JobStore, client: Redis
) -> None:
    task_id = make("failed")
    client.hset(redis_keys.job_key(task_id), "expires_at", 1.0)
    assert f"{task_id}: expired" in run("requeue", task_id, status=1).stderr
    assert _status(store, task_id) == "failed"


def test_requeue_of_all_failed_jobs_asks(run: Run, make: Make, store: JobStore) -> None:
    first, second, canceled = make("failed"), make("dead"), make("canceled")
    assert (
        "Requeue all 2 failed jobs?" in run("requeue", "--failed", answers="n\n", status=1).stderr
    )
    assert _status(store, first) == "failed"
    answer = json_of(run("requeue", "--failed", "--yes", "--json"))
    assert sorted(answer["requeued"]) == sorted([first, second])
    assert _status(store, canceled) == "canceled"
    assert store.dead() == []
    assert "nothing to do" in run("requeue", "--failed").stderr


def test_requeue_needs_ids_or_all(run: Run) -> None:
    assert "--failed" in run("requeue", status=2).stderr
    run("requeue", UNKNOWN, "--failed", status=2)


def test_cancel_asks_and_ends_waiting_and_running_jobs(
    run: Run, make: Make, store: JobStore
) -> None:
    waiting, running = make(), make("processing")
    refused = run("cancel", waiting, status=1)
    assert "give --yes" in refused.stderr
    assert _status(store, waiting) == "queued"
    run("cancel", waiting, answers="y\n")
    assert json_of(run("cancel", running, "--yes", "--json"))["canceled"] == [running]
    assert not store.has_lease(running)
    again = run("cancel", running, UNKNOWN, "--yes", status=1)
    assert f"{running}: canceled already" in again.stderr
    assert f"{UNKNOWN}: unknown" in again.stderr


def test_purge_of_a_queue_cancels_its_records_and_drops_its_messages(
    run: Run, make: Make, store: JobStore, client: Redis
) -> None:
    inside, running, elsewhere = make(), make("processing"), make(queue="model.other")
    for priority in Priority:
        client.lpush(list_key(f"{QUEUE}|{int(priority)}"), "{}")
    assert "Cancel 1 jobs" in run("purge", "--queue", QUEUE, status=1).stderr
    answer = json_of(run("purge", "--queue", QUEUE, "--yes", "--json"))
    assert (answer["canceled"], answer["messages"]) == ([inside], 4)
    assert not list(client.scan_iter(f"{QUEUE}*"))
    assert _status(store, inside) == "canceled"
    assert _status(store, running) == "processing"
    assert _status(store, elsewhere) == "queued"
    assert "nothing to do" in run("purge", "--queue", QUEUE, "--yes").stderr


def test_purge_of_all_that_waits(run: Run, make: Make, store: JobStore) -> None:
    waiting = [make(), make(queue="model.other")]
    running = make("processing")
    result = run("purge", "--status", "queued", answers="y\n")
    assert result.stdout.count("canceled  rm-") == 2
    assert {_status(store, each) for each in waiting} == {"canceled"}
    assert _status(store, running) == "processing"


def test_purge_knows_the_queues_of_workers_that_had_no_job(
    run: Run, registry: WorkerRegistry
) -> None:
    registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    for queue in ("gpu.testhost.0", QUEUE):
        assert "nothing to do" in run("purge", "--queue", queue, "--yes").stderr


def test_purge_knows_the_queues_and_needs_a_choice(run: Run, make: Make) -> None:
    assert "neither a job nor a worker" in run("purge", "--queue", QUEUE, status=1).stderr
    make()
    assert QUEUE in run("purge", "--queue", "typo", "--yes", status=1).stderr
    error = json_of(run("purge", "--queue", "io", "--yes", "--json", status=1))["error"]
    assert error["type"] == "unknown_queue"
    run("purge", status=2)
    run("purge", "--queue", QUEUE, "--status", "queued", status=2)


def test_dead_letters_are_listed_with_their_reason(run: Run, make: Make) -> None:
    assert "no dead letters" in run("dead", "list").stdout
    dead, _ = make("dead"), make("failed")
    (job,) = json_of(run("dead", "list", "--json"))["jobs"]
    assert (job["task_id"], job["error"]["type"], job["crashes"]) == (dead, "poison", MAX_CRASHES)
    assert run("dead", "list").stdout.splitlines()[1].split()[0] == dead


def test_a_dead_letter_is_requeued_with_its_counts_at_zero(
    run: Run, make: Make, store: JobStore
) -> None:
    dead, failed = make("dead"), make("failed")
    result = run("dead", "requeue", dead, failed, UNKNOWN, status=1)
    assert result.stdout.split() == ["requeued", dead]
    assert f"{failed}: failed. It is no dead letter" in result.stderr
    assert f"{UNKNOWN}: unknown" in result.stderr
    job = store.get(dead)
    assert job is not None
    assert (job.status, job.crashes, job.attempts) == (Status.QUEUED, 0, 0)
    assert store.dead() == []


def test_all_dead_letters_are_requeued_after_a_question(run: Run, make: Make) -> None:
    dead = {make("dead"), make("dead")}
    run("dead", "requeue", "--all", status=1)
    assert set(json_of(run("dead", "requeue", "--all", "--yes", "--json"))["requeued"]) == dead
    assert "nothing to do" in run("dead", "requeue", "--all", "--yes").stderr
    run("dead", "requeue", status=2)


def test_a_dropped_dead_letter_stays_failed(run: Run, make: Make, store: JobStore) -> None:
    first, second = make("dead"), make("dead")
    run("dead", "drop", first, status=1)
    assert json_of(run("dead", "drop", first, "--yes", "--json"))["dropped"] == [first]
    run("dead", "drop", first, UNKNOWN, "--yes", status=1)
    assert run("dead", "drop", "--all", answers="y\n").stdout.split() == ["dropped", second]
    assert store.dead() == []
    assert _status(store, first) == "failed"


def test_redis_away_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://127.0.0.1:1/0")
    result = run("list", status=1)
    assert len(result.stderr.splitlines()) == 1
    assert "Redis does not answer" in result.stderr
    error = json_of(run("workers", "--json", status=1))["error"]
    assert error["type"] == "queue_unavailable"


def test_listings_show_what_can_be_read_and_name_the_rest(
    run: Run, make: Make, damage: Callable[[str], str]
) -> None:
    good, bad = make("dead"), damage(make("dead"))
    for command in (("list",), ("dead", "list")):
        result = run(*command)
        assert good in result.stdout
        assert bad not in result.stdout
        assert f"The record of {bad} cannot be read: options: Expecting" in result.stderr
        document = json_of(run(*command, "--json"))
        assert [job["task_id"] for job in document["jobs"]] == [good]
        assert document["unreadable"] == [bad]


def test_show_of_an_unreadable_record_is_a_clear_line(
    run: Run, make: Make, damage: Callable[[str], str]
) -> None:
    bad = damage(make())
    result = run("show", bad, status=1)
    assert len(result.stderr.splitlines()) == 1
    assert "rmbg restore" in result.stderr
    assert json_of(run("show", bad, "--json", status=1))["error"]["type"] == "unreadable_record"


@pytest.mark.parametrize("command", [("requeue", "--failed"), ("dead", "requeue", "--all")])
def test_an_unreadable_record_is_not_begun_anew_but_the_others_are(
    run: Run,
    make: Make,
    damage: Callable[[str], str],
    store: JobStore,
    command: tuple[str, ...],
) -> None:
    before, bad, after = make("dead"), damage(make("dead")), make("dead")
    answer = json_of(run(*command, "--yes", "--json", status=1))
    assert sorted(answer["requeued"]) == sorted([before, after])
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert {_status(store, each) for each in (before, after)} == {"queued"}
    by_id = run(*command[:-1], bad, UNKNOWN, status=1)
    assert f"{bad} cannot be read" in by_id.stderr
    assert f"{UNKNOWN}: unknown" in by_id.stderr


@pytest.mark.parametrize(
    "command", [("cancel",), ("purge", "--queue", QUEUE), ("purge", "--status", "queued")]
)
def test_a_job_whose_record_is_unreadable_can_be_ended(
    run: Run,
    make: Make,
    damage: Callable[[str], str],
    client: Redis,
    command: tuple[str, ...],
) -> None:
    jobs = [make(), damage(make()), make()]
    named = jobs if command == ("cancel",) else ()
    answer = json_of(run(*command, *named, "--yes", "--json"))
    assert sorted(answer["canceled"]) == sorted(jobs)
    assert {client.hget(redis_keys.job_key(each), "status") for each in jobs} == {"canceled"}


def test_what_is_no_record_at_all_is_named_and_the_others_are_canceled(
    run: Run, make: Make, client: Redis
) -> None:
    before, bad, after = make(), make(), make()
    client.set(redis_keys.job_key(bad), "no hash")
    answer = json_of(run("purge", "--status", "queued", "--yes", "--json", status=1))
    assert sorted(answer["canceled"]) == sorted([before, after])
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert f"rmbg:job:{bad}" in run("cancel", bad, "--yes", status=1).stderr
