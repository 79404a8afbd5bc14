"""`rmbg bucket` and `rmbg restore`, with real Redis and S3 and no worker."""

import io
import json

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from deploy.cli.main import app
from tasks.jobs.job import Job
from tasks.jobs.job_objects import put_manifest
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.settings import Settings
from tests.support.jobs import make_job


@pytest.fixture(autouse=True)
def bucket(server_settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A bucket that `rmbg bucket` creates."""
    server_settings["s3_bucket"] = f"{server_settings['s3_bucket']}-of-commands"
    for name, value in server_settings.items():
        if value is not None:
            monkeypatch.setenv(f"RMBG_{name.upper()}", str(value))
    assert "-of-commands is ready" in run("bucket").stdout
    return ObjectStore.from_settings(Settings.load())


@pytest.fixture
def lost(bucket: ObjectStore) -> Job:
    """A job whose picture and manifest are in the bucket, and which has no record."""
    for key in bucket.list(""):
        bucket.delete(key)
    job = make_job()
    bucket.put(job.original_key, io.BytesIO(b"x"), 1, "image/png")
    put_manifest(bucket, job)
    return job


def run(*arguments: str, status: int = 0, answers: str | None = None) -> Result:
    result = CliRunner().invoke(app, arguments, input=answers)
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_nothing_is_restored_without_a_yes(lost: Job, redis: Redis) -> None:
    store = JobStore(redis)
    for answers in (None, "n\n"):
        asked = run("restore", status=1, answers=answers)
        assert f"lost  {lost.task_id}" in asked.stdout
        assert "--yes" in asked.stderr
    listed = json.loads(run("restore", "--json", status=1).stdout)
    assert (listed["lost"], listed["restored"]) == ([lost.task_id], [])
    assert store.get(lost.task_id) is None
    assert f"restored  {lost.task_id}" in run("restore", answers="y\n").stdout
    assert store.get(lost.task_id) is not None


@pytest.mark.usefixtures("lost")
def test_originals_without_a_manifest_are_named(bucket: ObjectStore) -> None:
    bucket.put("originals/rm-by-hand", io.BytesIO(b"x"), 1, "image/png")
    done = run("restore", "--yes")
    assert "1 of 1 lost jobs restored" in done.stderr
    assert "1 originals have no readable manifest" in done.stderr
    assert "originals/rm-by-hand" in done.stderr


def test_owners_whose_keys_are_lost_are_named(lost: Job, bucket: ObjectStore) -> None:
    put_manifest(bucket, lost.evolve(owner="own-1"))
    assert "no API key in Redis: own-1" in run("restore", answers="n\n", status=1).stderr
    assert json.loads(run("restore", "--json", status=1).stdout)["owners_without_key"] == ["own-1"]


@pytest.mark.parametrize("command", [("bucket",), ("restore", "--yes")])
def test_a_store_that_is_away_is_one_line(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_S3_ENDPOINT", "http://127.0.0.1:1")
    away = run(*command, status=1)
    assert "object store does not answer" in away.stderr
    assert isinstance(away.exception, SystemExit)
