"""The operator's commands: `celery -A tasks.app jobs …`, against a real Valkey."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from redis import Redis

from deploy.local import service
from tasks import redis_keys
from tasks.app import create_celery
from tasks.cli.jobs import jobs
from tasks.housekeeping.missing_messages import list_key
from tasks.jobs.job import Job, Priority, Status, new_task_id
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import MAX_CRASHES, JobStore
from tasks.object_store import original_key
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import ALIVE_SECONDS, WorkerRegistry

QUEUE = "model.u2netp"
WORKER = "gpu0@testhost"
UNKNOWN = "rm-20260101-unknown"

Run = Callable[..., Result]
Make = Callable[..., str]


@pytest.fixture
def settings(server_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> Settings:
    # A database of its own: what is listed and purged is this test's alone.
    own = str(server_settings["redis_url"]).removesuffix("/0") + "/2"
    monkeypatch.setenv("RMBG_REDIS_URL", own)
    return Settings.load()


@pytest.fixture
def client(settings: Settings) -> Iterator[Redis]:
    with connect(settings.redis_url.get_secret_value()) as client:
        client.flushdb()
        yield client


@pytest.fixture
def store(client: Redis) -> JobStore:
    return JobStore(client)


@pytest.fixture
def registry(client: Redis) -> WorkerRegistry:
    return WorkerRegistry(client)


@pytest.fixture
def app(settings: Settings, client: Redis) -> Iterator[Celery]:
    assert client.dbsize() == 0
    with create_celery(settings) as app:
        yield app


@pytest.fixture
def run(app: Celery) -> Run:
    def run(*arguments: str, answers: str = "", status: int = 0) -> Result:
        context = CLIContext(app=app, no_color=True, workdir=None)
        result = CliRunner().invoke(jobs, arguments, obj=context, input=answers)
        assert result.exit_code == status, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def make(store: JobStore, app: Celery) -> Make:
    """Makes jobs of each state; those that wait have a message."""

    def make(state: str = "queued", *, queue: str = QUEUE) -> str:
        task_id = new_task_id()
        original = original_key(task_id)
        job = store.create(Job(task_id, "u2netp", queue, original, 1.7e9, 4e9)).job
        if state == "queued":
            JobDispatcher(app, store).send(job)
        elif state == "canceled":
            store.cancel(task_id)
        elif state == "dead":
            _crash(store, task_id)
        else:
            assert store.claim(task_id, token="w/1/x", worker="w") == "claimed"
            if state != "processing":
                store.finish(task_id, token="w/1/x", status=Status(state))
        return task_id

    return make


def _crash(store: JobStore, task_id: str) -> None:
    for _ in range(MAX_CRASHES):
        store.claim(task_id, token="w/1/x", worker="w")
        store.crash(task_id, holder="w/1/")


def _json(result: Result) -> dict[str, Any]:
    """Standard output is one JSON document, and nothing else."""
    return dict(json.loads(result.stdout))


def _status(store: JobStore, task_id: str) -> str:
    job = store.get(task_id)
    assert job is not None
    return job.status.value


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
    listed = _json(run("list", "--json"))
    assert {job["task_id"] for job in listed["jobs"]} == {queued, failed, canceled}
    assert listed["counts"] == {
        "queued": 1,
        "processing": 0,
        "succeeded": 0,
        "failed": 1,
        "canceled": 1,
    }
    assert len(_json(run("list", "--limit", "2", "--json"))["jobs"]) == 2
    both = _json(run("list", "--status", "failed", "--status", "canceled", "--json"))["jobs"]
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
    assert _json(run("list", "--json"))["jobs"] == []


def test_show_tells_everything(run: Run, make: Make) -> None:
    make()
    task_id = make()
    shown = _json(run("show", task_id, "--json"))
    assert (shown["status"], shown["priority"], shown["queue"]) == ("queued", "normal", QUEUE)
    assert (shown["leased"], shown["jobs_ahead"]) == (False, 1)
    assert shown["created_at"] == "2023-11-14T22:13:20+00:00"
    assert task_id in run("show", task_id).stdout.splitlines()[0]


def test_show_of_an_unknown_id_says_what_to_do(run: Run) -> None:
    result = run("show", UNKNOWN, status=1)
    assert result.stdout == ""
    assert "jobs list" in result.stderr
    error = _json(run("show", UNKNOWN, "--json", status=1))["error"]
    assert error["type"] == "unknown_job"


def test_requeue_sends_a_failed_and_a_canceled_job_again(
    run: Run, make: Make, store: JobStore, client: Redis
) -> None:
    failed, canceled = make("failed"), make("canceled")
    assert _json(run("requeue", failed, canceled, "--json"))["requeued"] == [failed, canceled]
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
    assert _json(run("requeue", done, UNKNOWN, "--json", status=1)) == {
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
    answer = _json(run("requeue", "--failed", "--yes", "--json"))
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
    assert _json(run("cancel", running, "--yes", "--json"))["canceled"] == [running]
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
    answer = _json(run("purge", "--queue", QUEUE, "--yes", "--json"))
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
    error = _json(run("purge", "--queue", "io", "--yes", "--json", status=1))["error"]
    assert error["type"] == "unknown_queue"
    run("purge", status=2)
    run("purge", "--queue", QUEUE, "--status", "queued", status=2)


def test_dead_letters_are_listed_with_their_reason(run: Run, make: Make) -> None:
    assert "no dead letters" in run("dead", "list").stdout
    dead, _ = make("dead"), make("failed")
    (job,) = _json(run("dead", "list", "--json"))["jobs"]
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
    assert set(_json(run("dead", "requeue", "--all", "--yes", "--json"))["requeued"]) == dead
    assert "nothing to do" in run("dead", "requeue", "--all", "--yes").stderr
    run("dead", "requeue", status=2)


def test_a_dropped_dead_letter_stays_failed(run: Run, make: Make, store: JobStore) -> None:
    first, second = make("dead"), make("dead")
    run("dead", "drop", first, status=1)
    assert _json(run("dead", "drop", first, "--yes", "--json"))["dropped"] == [first]
    run("dead", "drop", first, UNKNOWN, "--yes", status=1)
    assert run("dead", "drop", "--all", answers="y\n").stdout.split() == ["dropped", second]
    assert store.dead() == []
    assert _status(store, first) == "failed"


def test_nothing_is_stuck_while_all_is_well(run: Run, make: Make, registry: WorkerRegistry) -> None:
    make()
    make("processing")
    registry.record_heartbeat(WORKER)
    registry.mark_ready(WORKER, 60)
    assert run("stuck", "--older-than", "0").stdout == "Nothing is stuck.\n"
    assert _json(run("stuck", "--json"))["stuck"] == []


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
    return list(_json(run("stuck", "--older-than", seconds, "--json"))["stuck"])


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


def test_workers_shows_what_each_is_doing(run: Run, registry: WorkerRegistry) -> None:
    assert "start one" in run("workers").stdout
    registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    assert _json(run("workers", "--json"))["workers"][0]["state"] == "not-ready"
    registry.mark_ready(WORKER, 60, pid=7)
    (worker,) = _json(run("workers", "--json"))["workers"]
    assert (worker["name"], worker["state"], worker["model"]) == (WORKER, "ready", "u2netp")
    assert run("workers").stdout.splitlines()[1].split()[:2] == [WORKER, "ready"]


def test_a_worker_is_drained_and_undrained(run: Run, registry: WorkerRegistry) -> None:
    registry.record_heartbeat(WORKER)
    result = run("drain", WORKER, "--reason", "new fan")
    assert f"undrain {WORKER}" in result.stderr
    assert registry.drained(WORKER) == "new fan"
    assert _json(run("workers", "--json"))["workers"][0]["state"] == "drained"
    assert "new fan" in run("workers").stdout
    assert _json(run("undrain", WORKER, "--json")) == {"undrained": WORKER}
    assert registry.drained(WORKER) == ""
    assert "not drained" in run("undrain", WORKER, status=1).stderr


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_mistyped_worker_is_not_drained(run: Run, registry: WorkerRegistry, command: str) -> None:
    registry.record_heartbeat(WORKER)
    assert f"Model workers: {WORKER}" in run(command, "gpu9", status=1).stderr
    assert _json(run(command, "gpu9", "--json", status=1))["error"]["type"] == "unknown_worker"


def test_redis_away_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://127.0.0.1:1/0")
    result = run("list", status=1)
    assert len(result.stderr.splitlines()) == 1
    assert "Redis does not answer" in result.stderr
    error = _json(run("workers", "--json", status=1))["error"]
    assert error["type"] == "queue_unavailable"


# -- records that cannot be read -----------------------------------------------------------------


@pytest.fixture
def damage(client: Redis) -> Callable[[str], str]:
    def damage(task_id: str) -> str:
        client.hset(redis_keys.job_key(task_id), "options", "{no json")
        return task_id

    return damage


def test_listings_show_what_can_be_read_and_name_the_rest(
    run: Run, make: Make, damage: Callable[[str], str]
) -> None:
    good, bad = make("dead"), damage(make("dead"))
    for command in (("list",), ("dead", "list")):
        result = run(*command)
        assert good in result.stdout
        assert bad not in result.stdout
        assert f"The record of {bad} cannot be read: options: Expecting" in result.stderr
        document = _json(run(*command, "--json"))
        assert [job["task_id"] for job in document["jobs"]] == [good]
        assert document["unreadable"] == [bad]


def test_show_of_an_unreadable_record_is_a_clear_line(
    run: Run, make: Make, damage: Callable[[str], str]
) -> None:
    bad = damage(make())
    result = run("show", bad, status=1)
    assert len(result.stderr.splitlines()) == 1
    assert "rmbg restore" in result.stderr
    assert _json(run("show", bad, "--json", status=1))["error"]["type"] == "unreadable_record"


@pytest.mark.parametrize("command", [("requeue", "--failed"), ("dead", "requeue", "--all")])
def test_an_unreadable_record_is_not_begun_anew_but_the_others_are(
    run: Run,
    make: Make,
    damage: Callable[[str], str],
    store: JobStore,
    command: tuple[str, ...],
) -> None:
    before, bad, after = make("dead"), damage(make("dead")), make("dead")
    answer = _json(run(*command, "--yes", "--json", status=1))
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
    answer = _json(run(*command, *named, "--yes", "--json"))
    assert sorted(answer["canceled"]) == sorted(jobs)
    assert {client.hget(redis_keys.job_key(each), "status") for each in jobs} == {"canceled"}


def test_what_is_no_record_at_all_is_named_and_the_others_are_canceled(
    run: Run, make: Make, client: Redis
) -> None:
    before, bad, after = make(), make(), make()
    client.set(redis_keys.job_key(bad), "no hash")
    answer = _json(run("purge", "--status", "queued", "--yes", "--json", status=1))
    assert sorted(answer["canceled"]) == sorted([before, after])
    assert answer["refused"] == [{"task_id": bad, "reason": "unreadable_record"}]
    assert f"rmbg:job:{bad}" in run("cancel", bad, "--yes", status=1).stderr


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
