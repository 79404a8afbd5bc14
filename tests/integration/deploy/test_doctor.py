"""`rmbg doctor` against real servers, with and without faults."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery
from redis import Redis
from typer.testing import CliRunner, Result

from deploy.cli.main import app
from deploy.doctor import CheckResult, Level, check_object_store, check_redis
from tasks import redis_keys
from tasks.api_keys import new_webhook_secret
from tasks.app import create_celery
from tasks.jobs import routing
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.redis_address import RedisAddress
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.webhooks.deliveries import DeliveryState, DeliveryStore, RetryDecision
from tasks.worker_registry import WorkerRegistry
from tests.support.commands import crash
from tests.support.jobs import make_job
from tests.support.redis_user import PREFIX, documented_user

#: Runs the doctor where no worker is ready, and returns the worst result of each subject.
Doctor = Callable[[], dict[str, dict[str, Any]]]


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def _redis_results(redis: Redis, url: str, **changed: object) -> dict[str, CheckResult]:
    """Check a Redis whose INFO differs: the configuration of the tests' own is not changed."""
    info = {**redis.info(), **changed}
    fake = SimpleNamespace(ping=redis.ping, info=lambda *_: info, scan_iter=redis.scan_iter)
    results = check_redis(cast("Redis", fake), RedisAddress.parse(url))
    return {result.subject: result for result in results}


def _store_results(given: dict[str, object]) -> dict[str, CheckResult]:
    settings = Settings.load(**given)
    results = check_object_store(ObjectStore.from_settings(settings), settings)
    return {result.subject: result for result in results}


def test_another_program_in_the_database_is_told(redis: Redis, redis_url: str) -> None:
    with create_celery(Settings.load(redis_url=redis_url)) as own:
        with own.connection_for_write() as connection:
            connection.SimpleQueue(routing.WEBHOOK_QUEUE).put("m")
        own.control.ping(timeout=0.01)
    assert _redis_results(redis, redis_url)["redis.keys"].level is Level.OK
    with Celery("shop", broker=redis_url) as shop, shop.connection_for_write() as connection:
        connection.SimpleQueue("celery").put("m")
    found = _redis_results(redis, redis_url)["redis.keys"]
    assert (found.level, "celery" in found.text) == (Level.WARN, True)


@pytest.fixture
def doctor(
    server_settings: dict[str, object], objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Doctor:
    for name in ("redis_url", "s3_endpoint", "s3_access_key", "s3_secret_key"):
        monkeypatch.setenv(f"RMBG_{name.upper()}", str(server_settings[name]))
    monkeypatch.setenv("RMBG_S3_BUCKET", objects.bucket)
    monkeypatch.setenv("RMBG_DEVICE", "cpu")

    def doctor() -> dict[str, dict[str, Any]]:
        result = _run("--json")
        assert result.exit_code == 1, result.output
        document = json.loads(result.stdout)
        assert document["level"] == "fail", document
        worst: dict[str, dict[str, Any]] = {}
        for found in document["findings"]:
            if found["level"] != "ok" or found["subject"] not in worst:
                worst[found["subject"]] = found
        return worst

    return doctor


def test_servers_pass_and_the_advice_is_how_to_start_workers(
    doctor: Doctor, objects: ObjectStore
) -> None:
    found = doctor()
    healthy = {
        *("settings", "redis.version", "redis.aof", "redis.eviction", "redis.memory"),
        *("store.bucket", "store.objects", "store.signed", "store.clock"),
        *("store.permissions", "store.lifecycle"),
        *("model.device", "queues.depth", "dead_letters"),
    }
    assert {name: found[name]["level"] for name in healthy} == dict.fromkeys(healthy, "ok")
    assert list(objects.list("doctor/")) == []
    assert "celery -A tasks.app worker" in found["workers"]["advice"]
    assert "model.u2netp" in found["workers"]["advice"]
    assert "-Q webhooks" in found["workers.io"]["advice"]


def test_each_worker_is_checked(redis: Redis, doctor: Doctor) -> None:
    registry = WorkerRegistry(redis)
    registry.record_heartbeat("gpu0@a", model="u2netp")
    registry.mark_ready("gpu0@a", 60)
    assert doctor()["workers"]["level"] == "ok"
    registry.drain("gpu0@a", "new fan")
    registry.record_heartbeat("gpu1@a", model="u2netp")
    texts = _run().output
    assert "gpu0@a is drained: new fan" in texts
    assert "jobs undrain gpu0@a" in texts
    assert "gpu1@a is alive, but its model does not answer" in texts
    assert "no worker is ready for u2netp" in texts


def test_jobs_that_wait_are_dead_or_cannot_be_read_are_reported(
    redis: Redis, doctor: Doctor
) -> None:
    store = JobStore(redis)
    dead, broken, waiting = (store.create(make_job(created_at=1e9)).job.task_id for _ in range(3))
    crash(store, dead)
    redis.hset(redis_keys.job_key(broken), "options", "{no json")
    found = doctor()
    assert "jobs dead list" in found["dead_letters"]["advice"]
    assert waiting in found["queues.oldest"]["text"]
    assert "1 queued for u2netp" in found["queues"]["text"]
    assert "1 queued with records that cannot be read" in found["queues.records"]["text"]
    assert "jobs stuck" in found["queues.records"]["advice"]


def test_a_missing_model_file_is_reported_with_the_command_to_fetch_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))
    assert "rmbg models fetch u2netp" in doctor()["model.file"]["advice"]


def test_a_missing_gpu_fails(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_DEVICE", "cuda:99")
    monkeypatch.setenv("RMBG_MODEL", "rmbg-2.0")
    finding = doctor()["model.device"]
    assert finding["level"] == "fail"
    assert "cuda:99" in finding["text"]


@pytest.mark.parametrize(
    ("subject", "changed", "level", "text"),
    [
        ("aof", {"aof_enabled": 0}, Level.FAIL, ""),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, Level.FAIL, ""),
        ("room", {"maxmemory": 1}, Level.FAIL, "raise maxmemory"),
        *(
            ("version", {"redis_version": version}, Level.FAIL, "EXPIRETIME")
            for version in ("5.0.14", "6.2.17", "6.9")
        ),
        ("version", {"redis_mode": "cluster"}, Level.FAIL, "a cluster, which is not supported"),
        ("version", {"server_mode": "sentinel"}, Level.FAIL, "redis+sentinel://"),
        *(
            ("version", {"redis_version": version}, Level.OK, "")
            for version in ("7.0.0", "7.2.4", "8.2.1", "10.0")
        ),
    ],
)
def test_an_unsafe_redis_or_one_without_expiretime_fails(  # noqa: PLR0917 - one case
    redis: Redis, redis_url: str, subject: str, changed: dict[str, object], level: Level, text: str
) -> None:
    result = _redis_results(redis, redis_url, **changed)[f"redis.{subject}"]
    assert result.level is level
    assert bool(result.advice) is (level is Level.FAIL)
    assert text in result.text
    assert text != "EXPIRETIME" or "Redis 7.0" in result.text


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ("", Level.OK, ""),
        ("-zadd -evalsha", Level.FAIL, "ZADD shop:rmbg:doctor 1 1, EVALSHA"),
        ("resetkeys ~shop:rmbg:*", Level.FAIL, "EXISTS shop:webhooks"),
        ("resetchannels", Level.FAIL, "PUBLISH shop:rmbg:done:"),
        ("-multi", Level.FAIL, "MULTI"),
        ("-info -bgrewriteaof", Level.WARN, "INFO, BGREWRITEAOF"),
    ],
)
def test_what_a_user_of_redis_may_not_is_named(
    redis: Redis, redis_url: str, changes: str, level: Level, text: str
) -> None:
    before = {*redis.scan_iter()}
    with documented_user(redis_url, *changes.split()) as url:
        address = RedisAddress.parse(url, PREFIX)
        with connect(address) as client:
            found = {each.subject: each for each in check_redis(client, address)}
    assert (found["redis.rights"].level, text in found["redis.rights"].text) == (level, True)
    assert ("redis.info" in found) is ("info" in changes)
    assert {*redis.scan_iter()} == before


def test_without_redis_the_other_checks_run(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    found = doctor()
    assert "127.0.0.1:1 does not answer" in found["redis"]["text"]
    assert found["store.objects"]["level"] == "ok"
    assert "secret" not in json.dumps(found)


def test_an_object_store_that_refuses_the_keys_fails(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_S3_SECRET_KEY", "wrong")
    finding = doctor()["store.bucket"]
    assert finding["level"] == "fail"
    assert "SignatureDoesNotMatch: check RMBG_S3_SECRET_KEY" in finding["text"]
    assert "RMBG_S3_ENDPOINT" in finding["advice"]


@pytest.mark.parametrize(
    ("user", "missing"),
    [
        ("reader", "s3:PutObject, s3:AbortMultipartUpload, s3:DeleteObject"),
        ("writer", "s3:ListBucket"),
    ],
)
def test_what_the_keys_may_not_is_named(
    server_settings: dict[str, object], objects: ObjectStore, user: str, missing: str
) -> None:
    keys = {"s3_access_key": user, "s3_secret_key": user * 2, "s3_bucket": objects.bucket}
    found = _store_results({**server_settings, **keys})["store.permissions"]
    assert (found.level, found.text) == (Level.FAIL, f"the S3 keys may not {missing}")
    assert "docs/own-servers.md" in found.advice


def test_a_bucket_without_lifecycle_rules_is_told(
    server_settings: dict[str, object], objects: ObjectStore
) -> None:
    objects.client.delete_bucket_lifecycle(objects.bucket)
    try:
        found = _store_results(server_settings)["store.lifecycle"]
    finally:
        objects.ensure_bucket()
    assert (found.level, "`rmbg bucket`" in found.advice) == (Level.WARN, True)


def test_a_disk_without_room_fails(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "store.disk" not in doctor()
    monkeypatch.setenv("RMBG_DATA_DIR", str(tmp_path))
    assert "are free" in doctor()["store.disk"]["text"]
    monkeypatch.setattr("deploy.doctor.disk_problem", lambda folder: f"{folder} has no room")
    assert doctor()["store.disk"]["level"] == "fail"


def test_all_invalid_settings_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_THREADS", "none")
    monkeypatch.setenv("RMBG_REDIS_URL", "http://x")
    result = _run()
    assert result.exit_code == 1
    assert "RMBG_THREADS" in result.output
    assert "RMBG_REDIS_URL" in result.output


def test_webhooks_without_a_secret_and_those_given_up_are_reported(
    redis: Redis, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "RMBG_WEBHOOK_SECRET" in doctor()["webhooks"]["text"]
    monkeypatch.setenv("RMBG_WEBHOOK_SECRET", new_webhook_secret())
    assert "signed with" in doctor()["webhooks"]["text"]
    store, rows = JobStore(redis), DeliveryStore(redis)
    store.cancel(store.create(make_job(webhook_url="http://127.0.0.1:9/")).job.task_id)
    (row,) = rows.waiting(1)
    rows.dispatch(row, 4e9, seconds=30, limit=99, threads=99)
    claim = str(rows.claim(row, 4e9, seconds=30))
    gone = RetryDecision(DeliveryState.DEAD, 1.0, "It is gone.")
    rows.record_attempt(row, claim, None, gone)
    finding = doctor()["webhooks"]
    assert finding["level"] == "warn"
    assert "1 given up; the latest: It is gone." in finding["text"]
    assert "webhooks list --dead" in finding["advice"]
