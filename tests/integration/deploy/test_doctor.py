"""`rmbg doctor` against real servers, with and without faults."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from celery import Celery
from redis import Redis
from typer.testing import CliRunner

from deploy.cli.main import app
from deploy.doctor import CheckResult, Level, check_object_store, check_redis
from tasks import redis_keys
from tasks.app import create_celery
from tasks.jobs import routing
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.redis_address import RedisAddress
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.webhooks.deliveries import DeliveryState, DeliveryStore
from tasks.worker_registry import WorkerRegistry
from tests.support.commands import crash
from tests.support.jobs import make_job
from tests.support.outbox import attempted
from tests.support.redis_user import PREFIX, documented_user
from tests.support.servers import embedded_valkey
from tests.support.serving import answer, serving
from tests.support.workers import lasting_registry

#: Runs the doctor where it finds something bad; what it says of each subject, one finding a line.
Doctor = Callable[[], Mapping[str, str]]


@pytest.fixture
def doctor(
    server_settings: dict[str, object], objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Doctor:
    for name in ("redis_url", "s3_endpoint", "s3_access_key", "s3_secret_key"):
        monkeypatch.setenv(f"RMBG_{name.upper()}", str(server_settings[name]))
    monkeypatch.setenv("RMBG_S3_BUCKET", objects.bucket)
    monkeypatch.setenv("RMBG_DEVICE", "cpu")

    def doctor() -> Mapping[str, str]:
        result = CliRunner().invoke(app, ["doctor", "--json"])
        document = json.loads(result.stdout)
        assert (result.exit_code, document["level"]) == (1, "fail"), document
        said = defaultdict[str, str](str)
        for each in document["findings"]:
            said[each["subject"]] += f"{each['level']}: {each['text']} → {each['advice']}\n"
        return said

    return doctor


def test_servers_pass_and_the_advice_is_how_to_start_workers(
    doctor: Doctor, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RMBG_DATA_DIR", str(tmp_path))
    found = doctor()
    healthy = (
        *("settings", "redis.version", "redis.aof", "redis.eviction", "redis.memory"),
        *("store.bucket", "store.objects", "store.signed", "store.clock"),
        *("store.permissions", "store.lifecycle"),
        *("model.device", "queues.depth", "dead_letters", "webhooks"),
    )
    assert [name for name in healthy if not found[name].startswith("ok: ")] == []
    assert list(objects.list("doctor/")) == []
    assert "GiB are free" in found["store.disk"]
    assert "celery -A tasks.app worker" in found["workers"]
    assert "model.u2netp" in found["workers"]
    assert "-Q webhooks" in found["workers.io"]
    assert "RMBG_WEBHOOK_SECRET is not set" in found["webhooks"]


def test_what_needs_somebody_is_reported_with_what_to_do(
    redis: Redis, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RMBG_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RMBG_S3_REGIN", "eu-central-1")
    monkeypatch.setenv("RMBG_MAX_PENDING", "2")
    monkeypatch.setattr("deploy.doctor.disk_problem", lambda _: "no room")
    WorkerRegistry(redis, clock=lambda: time.time() - 60).record_heartbeat("gpu2@a")
    registry, store, rows = lasting_registry(redis), JobStore(redis), DeliveryStore(redis)
    registry.mark_ready("gpu2@a", 60)  # before it died
    for worker in ("gpu0@a", "gpu1@a"):
        registry.record_heartbeat(worker, model="u2netp")
    registry.mark_ready("gpu0@a", 60)
    registry.drain("gpu0@a", "new fan")
    assert "let one take jobs again: celery -A tasks.app jobs undrain gpu0@a" in doctor()["workers"]
    registry.mark_not_ready("gpu0@a")
    monkeypatch.setenv("RMBG_HOST", "a")
    dead, broken, waiting = (store.create(make_job(created_at=1e9)).job.task_id for _ in range(3))
    crash(store, dead)
    redis.hset(redis_keys.job_key(broken), "options", "{no json")
    store.cancel(store.create(make_job(webhook_url="http://127.0.0.1:9/")).job.task_id)
    (row,) = rows.waiting(1)
    attempted(rows, row, DeliveryState.DEAD, now=4e9, reason="It is gone.")

    found = doctor()
    for subject, said in (
        ("settings", "warn: RMBG_S3_REGIN is no setting"),
        ("workers", "warn: gpu0@a is drained: new fan"),
        ("workers", "jobs undrain gpu0@a"),
        ("workers", "warn: gpu1@a is alive, but its model does not answer"),
        ("workers", "warn: gpu2@a: no heartbeat for "),
        ("workers", "fail: no worker is ready for u2netp"),
        ("workers", "worker -n gpu2@a -c 1 -Q gpu.a.2,model.u2netp"),
        ("store.disk", "fail: no room"),
        ("dead_letters", "jobs dead list"),
        ("queues.depth", "warn: 2 queued, 0 running, of at most 2"),
        ("queues.oldest", waiting),
        ("queues", "1 queued for u2netp"),
        ("queues.records", "1 queued with records that cannot be read"),
        ("queues.records", "jobs stuck"),
        ("webhooks", "warn: 1 given up; the latest: It is gone."),
        ("webhooks", "webhooks list --dead"),
    ):
        assert said in found[subject]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {
                "REDIS_URL": "redis://:hush@127.0.0.1:1/0",
                "DEVICE": "cuda:99",
                "MODEL": "rmbg-2.0",
            },
            {
                "redis": "fail: 127.0.0.1:1 does not answer",
                "store.objects": "ok: ",
                "model.file": "rmbg models fetch rmbg-2.0",
                "model.device": "cuda:99",
            },
        ),
        (
            {
                "S3_SECRET_KEY": "wrong",
                "MODEL_DIR": "/nowhere",
                "WEBHOOK_SECRET": "whsec_" + "A" * 32,
            },
            {
                "store.bucket": "SignatureDoesNotMatch: check RMBG_S3_SECRET_KEY",
                "workers": "ok: gpu0@a",
                "model.file": "but a worker serves the model",
                "webhooks": "ok: none given up; signed with",
            },
        ),
        (
            {"MODEL": "rmbg-2.0", "DEVICE": "auto", "S3_PUBLIC_ENDPOINT": "http://127.0.0.1:1"},
            {
                "store.signed": "warn: signed URLs do not work from this machine: NewConnection",
                "model.device": "no GPU was found, and the CPU needs seconds for a picture",
            },
        ),
        (
            {"DEVICE": "cuda:0"},
            {"model.device": "fail: RMBG_DEVICE is cuda:0, but no ONNX Runtime with CUDA"},
        ),
        (
            {"MODEL": "nobody"},
            {"model.file": "correct RMBG_MODEL", "workers": "no worker is ready for nobody"},
        ),
    ],
)
def test_a_wrong_setting_is_named_and_all_else_is_checked(
    redis: Redis,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    expected: dict[str, str],
) -> None:
    registry = lasting_registry(redis)
    registry.record_heartbeat("gpu0@a", model="u2netp")
    registry.mark_ready("gpu0@a", 60)
    for name, value in settings.items():
        monkeypatch.setenv(f"RMBG_{name}", value)
    found = doctor()
    assert [name for name, said in expected.items() if said not in found[name]] == [], found
    assert "hush" not in str(found)


def test_all_invalid_settings_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMBG_THREADS", "none")
    monkeypatch.setenv("RMBG_REDIS_URL", "http://x")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "RMBG_THREADS" in result.output
    assert "RMBG_REDIS_URL" in result.output


def _redis_results(redis: Redis, url: str, **changed: object) -> dict[str, CheckResult]:
    """Check a Redis whose INFO differs: the configuration of the tests' own is not changed."""
    info = {**redis.info(), **changed}
    fake = SimpleNamespace(
        ping=redis.ping, delete=redis.delete, info=lambda *_: info, scan_iter=redis.scan_iter
    )
    results = check_redis(cast("Redis", fake), RedisAddress.parse(url))
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
    redis.flushdb()
    redis.set(b"\xff", "")
    found = _redis_results(redis, redis_url)["redis.keys"]
    assert (found.level, r"b'\xff'" in found.text) == (Level.WARN, True)


@pytest.mark.parametrize(
    ("command", "subject", "said"),
    [
        ("REPLICAOF 127.0.0.1 1", "redis", "fail: .* read only replica. → .* lead to the primary"),
        ("CONFIG SET maxmemory 1", "redis.room", "fail: .* raise maxmemory"),
        ("CONFIG SET maxmemory 1", "workers.io", "warn: unknown: .* → fix Redis first"),
    ],
)
def test_a_redis_that_takes_no_writes_is_told_and_all_else_is_checked(  # noqa: PLR0917 - one case
    tmp_path: Path,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    subject: str,
    said: str,
) -> None:
    with embedded_valkey(tmp_path) as url, connect(url) as redis:
        redis.execute_command(command)
        monkeypatch.setenv("RMBG_REDIS_URL", url)
        found = doctor()
    assert re.match(said, found[subject])
    assert found["store.objects"].startswith("ok: ")
    assert found["model.device"].startswith("ok: ")


@pytest.mark.parametrize(
    ("subject", "changed", "level", "text"),
    [
        ("aof", {"aof_enabled": 0}, Level.FAIL, ""),
        ("aof", {"aof_last_write_status": "err"}, Level.FAIL, "the last write failed"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, Level.FAIL, ""),
        ("room", {"maxmemory": 1}, Level.FAIL, "raise maxmemory"),
        (
            "version",
            {"redis_version": "6.2.17"},
            Level.FAIL,
            "lacks EXPIRETIME: upgrade to Redis 7.0",
        ),
        ("version", {"redis_version": "7.0.0"}, Level.OK, ""),
        ("version", {"redis_version": "10.0"}, Level.OK, ""),
        ("version", {"redis_mode": "cluster"}, Level.FAIL, "a cluster, which is not supported"),
        ("version", {"server_mode": "sentinel"}, Level.FAIL, "redis+sentinel://"),
    ],
)
def test_an_unsafe_redis_or_one_without_expiretime_fails(  # noqa: PLR0917 - one case
    redis: Redis, redis_url: str, subject: str, changed: dict[str, object], level: Level, text: str
) -> None:
    result = _redis_results(redis, redis_url, **changed)[f"redis.{subject}"]
    assert result.level is level
    assert bool(result.advice) is (level is Level.FAIL)
    assert text in result.text


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


def _store_results(given: dict[str, object]) -> dict[str, CheckResult]:
    settings = Settings.load(**given)
    results = check_object_store(ObjectStore.from_settings(settings), settings)
    return {result.subject: result for result in results}


@pytest.mark.parametrize(
    ("ahead", "level"), [(0, Level.OK), (-200, Level.WARN), (2000, Level.FAIL)]
)
def test_a_clock_that_differs_from_the_object_stores_is_told(
    server_settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
    level: Level,
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + ahead, perf_counter=time.perf_counter)
    monkeypatch.setattr("deploy.doctor.time", clock)
    found = _store_results(server_settings)["store.clock"]
    assert (found.level, bool(found.advice)) == (level, level is not Level.OK)
    # The store tells whole seconds, and takes some time to answer.
    assert abs(int(found.text.partition(" ")[0]) - abs(ahead)) < 30


def test_a_store_that_refuses_signed_urls_or_loses_bytes_is_told(
    server_settings: dict[str, object], objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer(403)) as port:
        proxy = {"s3_public_endpoint": f"http://127.0.0.1:{port}"}
        found = _store_results({**server_settings, "s3_bucket": objects.bucket, **proxy})
    assert found["store.signed"].text == "a signed URL was answered with 403"
    assert "RMBG_S3_PUBLIC_ENDPOINT" in found["store.signed"].advice
    monkeypatch.setattr(ObjectStore, "get", lambda *_: b"")
    assert "differs from the written one" in _store_results(server_settings)["store.objects"].text


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
    longer = ObjectStore.from_settings(Settings.load(**server_settings, retention_hours=240))
    longer.ensure_bucket()
    try:
        found = _store_results(server_settings)["store.lifecycle"]
    finally:
        objects.ensure_bucket(shorten=True)
    assert (found.level, "rmbg bucket --shorten" in found.text) == (Level.OK, True)
