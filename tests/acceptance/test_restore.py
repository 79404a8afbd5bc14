"""Redis loses everything under a running service: `rmbg restore` brings every job to success."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deploy.local import service as local_service
from tasks.jobs.job import Status
from tasks.object_store import ORIGINALS, ObjectStore, results_prefix
from tasks.redis_client import connect
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.servers import Servers, embedded_valkey
from tests.support.service import RunningService, running_service

HOST = "restore"
JOBS = 20


@dataclass(frozen=True)
class Restorable:
    """A service with a Redis and a bucket of its own, which these tests may empty."""

    service: RunningService
    redis: Redis
    objects: ObjectStore
    env: dict[str, str]

    def restore(self, *options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [local_service.script("rmbg"), "restore", *options],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def restore_json(self) -> dict[str, Any]:
        return dict(json.loads(self.restore("--yes", "--json").stdout))


@pytest.fixture(scope="module")
def restorable(
    service_environment: dict[str, str], servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Restorable]:
    folder = tmp_path_factory.mktemp("restore")
    with embedded_valkey(folder / "valkey") as url:
        own = {
            "RMBG_REDIS_URL": url,
            "RMBG_S3_BUCKET": f"{servers.bucket}-restorable",
            "RMBG_HOST": HOST,
        }
        env = {**service_environment, **own}
        settings = Settings.load(
            s3_endpoint=servers.s3.endpoint,
            s3_access_key=servers.s3.access_key,
            s3_secret_key=servers.s3.secret_key,
            s3_bucket=f"{servers.bucket}-restorable",
        )
        objects = ObjectStore.from_settings(settings)
        objects.ensure_bucket()
        with running_service(env, folder) as service, connect(url) as redis:
            yield Restorable(service, redis, objects, env)


@pytest.fixture(autouse=True)
def empty_bucket(restorable: Restorable) -> Iterator[None]:
    """One test's originals are not for the next one to restore."""
    yield
    for key in restorable.objects.list(ORIGINALS):
        restorable.objects.delete(key)


@pytest.fixture
def waiting(restorable: Restorable, coffee: Path) -> list[str]:
    """Jobs that wait: the one worker takes none of them while it is drained."""
    WorkerRegistry(restorable.redis).drain(f"gpu0@{HOST}", "so that they wait")
    ids = [
        restorable.service.client.submit(
            coffee, {"output_format": "webp", "quality": "60", "cache": "false"}
        )
        for _ in range(JOBS)
    ]
    assert set(restorable.service.store.ids(Status.QUEUED)) == set(ids)
    return ids


def _results(restorable: Restorable, task_id: str) -> list[str]:
    return list(restorable.objects.list(results_prefix(task_id)))


def test_all_queued_jobs_succeed_after_redis_lost_everything(
    restorable: Restorable, waiting: list[str]
) -> None:
    before = {job.task_id: job for job in restorable.service.store.get_many(waiting)}
    restorable.redis.flushall()
    assert restorable.service.store.get(waiting[0]) is None

    first, second = restorable.restore_json(), restorable.restore_json()
    # Submitted first, done first.
    assert first["restored"] == waiting
    assert second == {
        "lost": [],
        "restored": [],
        "recorded": JOBS,
        "expired": 0,
        "unreadable": [],
    }

    for task_id in waiting:
        task = restorable.service.client.wait(task_id)
        assert task["status"] == "succeeded", task
        job = restorable.service.store.get(task_id)
        assert job is not None
        was = before[task_id]
        assert (job.options, job.sha256, job.file_stem) == (was.options, was.sha256, was.file_stem)
        assert (job.created_at, job.expires_at) == (was.created_at, was.expires_at)
        assert (job.request_id, job.priority) == (was.request_id, was.priority)
        assert job.format == "webp"
        assert _results(restorable, task_id) == [job.result_key]


def test_a_job_that_had_succeeded_is_run_again(restorable: Restorable, coffee: Path) -> None:
    client = restorable.service.client
    done = client.wait(client.submit(coffee, {"cache": "false"}))
    restorable.redis.flushall()
    assert restorable.restore_json()["restored"] == [done["task_id"]]
    assert client.wait(done["task_id"])["status"] == "succeeded"


def test_nothing_is_restored_without_a_yes(restorable: Restorable, coffee: Path) -> None:
    client = restorable.service.client
    task_id = client.wait(client.submit(coffee, {"cache": "false"}))["task_id"]
    restorable.redis.flushall()
    asked = restorable.restore(status=1)
    assert f"lost  {task_id}" in asked.stdout
    assert "--yes" in asked.stderr
    listed = json.loads(restorable.restore("--json", status=1).stdout)
    assert (listed["lost"], listed["restored"]) == ([task_id], [])
    assert restorable.service.store.get(task_id) is None
    said = restorable.restore("--yes")
    assert f"restored  {task_id}" in said.stdout
    assert client.wait(task_id)["status"] == "succeeded"


def test_a_store_that_is_away_is_one_line(restorable: Restorable) -> None:
    restorable.env["RMBG_S3_ENDPOINT"], kept = (
        "http://127.0.0.1:1",
        restorable.env["RMBG_S3_ENDPOINT"],
    )
    try:
        said = restorable.restore("--yes", status=1)
    finally:
        restorable.env["RMBG_S3_ENDPOINT"] = kept
    assert "object store does not answer" in said.stderr
    assert "Traceback" not in said.stderr
