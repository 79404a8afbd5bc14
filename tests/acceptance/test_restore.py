"""Redis loses everything under a running service: `rmbg restore` brings every job to success."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from tasks.jobs.job import Status
from tasks.object_store import ORIGINALS, ObjectStore, results_prefix
from tasks.redis_client import connect
from tasks.settings import Settings
from tests.support.jobs import recorded
from tests.support.service import WORKER, RunningService

JOBS = 5


@pytest.fixture
def bucket(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The service's bucket without the originals of other tests, which `rmbg restore` would find.

    The command that this process runs has the service's settings.
    """
    for name, value in service.env.items():
        monkeypatch.setenv(name, value)
    bucket = ObjectStore.from_settings(Settings.load())
    for key in bucket.list(ORIGINALS):
        bucket.delete(key)
    return bucket


def restore() -> dict[str, Any]:
    result = CliRunner().invoke(app, ["restore", "--yes", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return dict(json.loads(result.stdout))


def test_all_jobs_succeed_after_redis_lost_everything(
    service: RunningService, bucket: ObjectStore, coffee: Path
) -> None:
    """Those that wait, as the one worker takes none while it is drained, and one that was done."""
    client, store = service.client, service.store
    options = {"output_format": "webp", "quality": "60", "cache": "false"}
    done = client.wait(client.submit(coffee, options))["task_id"]
    service.registry.drain(WORKER, "so that they wait")
    waiting = [client.submit(coffee, options) for _ in range(JOBS)]
    assert set(store.ids(Status.QUEUED)) == set(waiting)
    before = {task_id: recorded(store, task_id) for task_id in [done, *waiting]}
    lost_result = before[done].result_key
    with connect(service.env["RMBG_REDIS_URL"]) as redis:
        redis.flushdb()
    assert store.get(done) is None

    first, second = restore(), restore()
    # Submitted first, done first.
    assert first["restored"] == list(before)
    nothing: dict[str, Any] = {"lost": [], "restored": [], "expired": 0, "unreadable": []}
    assert second == {**nothing, "recorded": len(before), "owners_without_key": []}

    for task_id, was in before.items():
        task = client.wait(task_id)
        assert task["status"] == "succeeded", task
        job = recorded(store, task_id)
        for name in ("options", "sha256", "file_stem", "created_at", "expires_at"):
            assert getattr(job, name) == getattr(was, name)
        assert (job.request_id, job.priority) == (was.request_id, was.priority)
        assert job.format == "webp"
        # What a run before the loss stored stays until the bucket is swept.
        results = [key for key in bucket.list(results_prefix(task_id)) if key != lost_result]
        assert results == [job.result_key]
