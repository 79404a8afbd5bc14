"""`rmbg doctor` against real servers, with and without faults."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from deploy.cli.main import app
from deploy.doctor import CheckResult, Level, check_redis
from tasks import redis_keys
from tasks.api_keys import new_webhook_secret
from tasks.jobs.job import Job, new_task_id
from tasks.jobs.store import MAX_CRASHES, JobStore
from tasks.object_store import original_key
from tasks.redis_client import connect
from tasks.webhooks.deliveries import DeliveryState, DeliveryStore, RetryDecision
from tasks.worker_registry import WorkerRegistry

Doctor = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def client(
    server_settings: dict[str, object], objects: object, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Redis]:
    """A Redis database of its own, and settings that name this run's servers."""
    assert objects is not None  # the bucket exists
    url = str(server_settings["redis_url"])
    monkeypatch.setenv("RMBG_REDIS_URL", url)
    for name in ("s3_endpoint", "s3_access_key", "s3_secret_key"):
        monkeypatch.setenv(f"RMBG_{name.upper()}", str(server_settings[name]))
    monkeypatch.setenv("RMBG_DEVICE", "cpu")
    with connect(url) as client:
        client.flushdb()
        yield client


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


@pytest.fixture
def doctor() -> Doctor:
    def doctor(*, level: str, status: int) -> dict[str, dict[str, Any]]:
        result = _run("--json")
        assert result.exit_code == status, result.output
        document = json.loads(result.stdout)
        assert document["level"] == level, document
        worst: dict[str, dict[str, Any]] = {}
        for result in document["findings"]:
            if result["level"] != "ok" or result["subject"] not in worst:
                worst[result["subject"]] = result
        return worst

    return doctor


@pytest.mark.usefixtures("client")
def test_healthy_servers_pass_their_checks(doctor: Doctor) -> None:
    found = doctor(level="fail", status=1)  # no worker runs here
    for subject in (
        "settings",
        "redis.version",
        "redis.aof",
        "redis.eviction",
        "redis.memory",
        "store.bucket",
        "store.objects",
        "store.signed",
        "store.clock",
        "model.device",
        "queues.depth",
        "dead_letters",
    ):
        assert found[subject]["level"] == "ok", found[subject]


def test_no_object_is_left_in_the_bucket(client: Redis, doctor: Doctor, objects: Any) -> None:  # noqa: ANN401 - the real store
    assert client.ping()
    doctor(level="fail", status=1)
    assert list(objects.list("doctor/")) == []


@pytest.mark.usefixtures("client")
def test_without_workers_the_advice_is_how_to_start_them(doctor: Doctor) -> None:
    found = doctor(level="fail", status=1)
    assert "celery -A tasks.app worker" in found["workers"]["advice"]
    assert "model.u2netp" in found["workers"]["advice"]
    assert "-Q webhooks" in found["workers.io"]["advice"]


def test_each_worker_is_checked(client: Redis, doctor: Doctor) -> None:
    registry = WorkerRegistry(client)
    registry.record_heartbeat("gpu0@a", model="u2netp")
    registry.mark_ready("gpu0@a", 60)
    assert doctor(level="fail", status=1)["workers"]["level"] == "ok"
    registry.drain("gpu0@a", "new fan")
    registry.record_heartbeat("gpu1@a", model="u2netp")
    texts = _run().output
    assert "gpu0@a is drained: new fan" in texts
    assert "jobs undrain gpu0@a" in texts
    assert "gpu1@a is alive, but its model does not answer" in texts
    assert "no worker is ready for u2netp" in texts


def test_queued_jobs_and_dead_letters_are_reported(client: Redis, doctor: Doctor) -> None:
    store = JobStore(client)
    ids = [new_task_id() for _ in range(2)]
    for task_id in ids:
        store.create(Job(task_id, "u2netp", "q", original_key(task_id), 1e9, 4e9))
    for _ in range(MAX_CRASHES):
        store.claim(ids[0], token="w/1/x", worker="w")
        store.crash(ids[0], holder="w/1/")
    found = doctor(level="fail", status=1)
    assert "jobs dead list" in found["dead_letters"]["advice"]
    assert ids[1] in found["queues.oldest"]["text"]
    assert "1 queued for u2netp" in found["queues"]["text"]


def test_an_unreadable_record_is_reported(client: Redis, doctor: Doctor) -> None:
    store = JobStore(client)
    ids = [new_task_id() for _ in range(2)]
    for task_id in ids:
        store.create(Job(task_id, "u2netp", "q", original_key(task_id), 1e9, 4e9))
    client.hset(redis_keys.job_key(ids[0]), "options", "{no json")
    found = doctor(level="fail", status=1)
    assert "1 queued with records that cannot be read" in found["queues.records"]["text"]
    assert "jobs stuck" in found["queues.records"]["advice"]
    assert ids[1] in found["queues.oldest"]["text"]


@pytest.mark.usefixtures("client")
def test_a_missing_model_file_is_reported_with_the_command_to_fetch_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))
    assert "rmbg models fetch u2netp" in doctor(level="fail", status=1)["model.file"]["advice"]


@pytest.mark.usefixtures("client")
def test_a_missing_gpu_fails(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_DEVICE", "cuda:99")
    monkeypatch.setenv("RMBG_MODEL", "rmbg-2.0")
    finding = doctor(level="fail", status=1)["model.device"]
    assert finding["level"] == "fail"
    assert "cuda:99" in finding["text"]


@pytest.fixture
def check_redis_with(client: Redis, redis_url: str) -> Callable[..., dict[str, CheckResult]]:
    """Check a Redis whose INFO differs: the configuration of the tests' own is not changed."""

    def check(**changed: object) -> dict[str, CheckResult]:
        info = {**client.info(), **changed}
        fake = SimpleNamespace(ping=client.ping, info=lambda: info)
        results = check_redis(cast("Redis", fake), redis_url)
        return {result.subject: result for result in results}

    return check


def test_an_unsafe_redis_fails(check_redis_with: Callable[..., dict[str, CheckResult]]) -> None:
    found = check_redis_with(aof_enabled=0, maxmemory_policy="allkeys-lru")
    for subject in ("redis.aof", "redis.eviction"):
        assert found[subject].level is Level.FAIL
        assert found[subject].advice


@pytest.mark.parametrize("version", ["5.0.14", "6.2.17", "6.9"])
def test_a_redis_without_expiretime_fails(
    version: str, check_redis_with: Callable[..., dict[str, CheckResult]]
) -> None:
    result = check_redis_with(redis_version=version)["redis.version"]
    assert result.level is Level.FAIL
    assert "EXPIRETIME" in result.text
    assert "Redis 7.0" in result.advice


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.2.1", "10.0"])
def test_a_redis_with_expiretime_passes(
    version: str, check_redis_with: Callable[..., dict[str, CheckResult]]
) -> None:
    assert check_redis_with(redis_version=version)["redis.version"].level is Level.OK


@pytest.mark.usefixtures("client")
def test_without_redis_the_other_checks_run(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    found = doctor(level="fail", status=1)
    assert "127.0.0.1:1 does not answer" in found["redis"]["text"]
    assert found["store.objects"]["level"] == "ok"
    assert "secret" not in json.dumps(found)


@pytest.mark.usefixtures("client")
def test_an_object_store_that_refuses_the_keys_fails(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_S3_SECRET_KEY", "wrong")
    found = doctor(level="fail", status=1)
    assert found["store.bucket"]["level"] == "fail"
    assert "RMBG_S3_ENDPOINT" in found["store.bucket"]["advice"]


def test_all_invalid_settings_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_THREADS", "none")
    monkeypatch.setenv("RMBG_REDIS_URL", "http://x")
    result = _run()
    assert result.exit_code == 1
    assert "RMBG_THREADS" in result.output
    assert "RMBG_REDIS_URL" in result.output


def test_webhooks_that_were_given_up_are_reported(
    client: Redis, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "RMBG_WEBHOOK_SECRET" in doctor(level="fail", status=1)["webhooks"]["text"]
    monkeypatch.setenv("RMBG_WEBHOOK_SECRET", new_webhook_secret())
    assert "signed with" in doctor(level="fail", status=1)["webhooks"]["text"]
    url = "http://127.0.0.1:9/"
    job = Job(new_task_id(), "m", "model.m", "o/x", 1.7e9, 4e9, webhook_url=url)
    JobStore(client).create(job)
    JobStore(client).cancel(job.task_id)
    rows = DeliveryStore(client)
    (row,) = rows.waiting(1)
    rows.dispatch(row, 4e9, seconds=30, limit=99)
    claim = rows.claim(row, 4e9, seconds=30)
    rows.record_attempt(
        row, str(claim), None, RetryDecision(DeliveryState.DEAD, 1.0, "It is gone.")
    )
    finding = doctor(level="fail", status=1)["webhooks"]
    assert finding["level"] == "warn"
    assert "1 given up; the latest: It is gone." in finding["text"]
    assert "webhooks list --dead" in finding["advice"]
