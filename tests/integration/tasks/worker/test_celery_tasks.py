"""The task as Celery calls it: what a run tells others of its worker."""

import io
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from PIL import Image
from redis import Redis

from inference.errors import GpuFaultError, GpuOutOfMemoryError
from inference.options import Options
from tasks import redis_keys
from tasks.app import create_celery
from tasks.jobs import routing
from tasks.jobs.job import Status
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.redis_client import connect
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tasks.worker_registry import MAX_FAULTS, Worker, WorkerRegistry
from tests.support.jobs import make_job, recorded
from tests.support.models import FakeModel

WORKER = "gpu0@h"
FULL = GpuOutOfMemoryError("full")


@pytest.fixture
def settings(server_settings: dict[str, object]) -> Settings:
    return Settings.load(**{**server_settings, "model": "u2netp"})


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with create_celery(settings) as app:
        app.loader.import_default_modules()
        yield app


@pytest.fixture
def model() -> FakeModel:
    return FakeModel("m")


@pytest.fixture
def task(app: Celery, settings: Settings, model: FakeModel, client: Redis) -> Iterator[RemovalTask]:
    """Loaded; `client` is there to have emptied the database."""
    task = app.tasks[routing.REMOVE_TASK]
    task.loader = lambda _settings: model
    task.load(Runtime(settings, celery_app=app), WORKER)
    WorkerRegistry(client).record_heartbeat(WORKER, queue="gpu.h.0")
    yield task
    task.readiness.stop()


@pytest.fixture
def submit(client: Redis, objects: ObjectStore) -> Callable[[bytes], str]:
    def submit(data: bytes) -> str:
        job = make_job(model="m", options=Options().to_dict())
        objects.put(job.original_key, io.BytesIO(data), len(data), "image/png")
        JobStore(client).create(job)
        return job.task_id

    return submit


@pytest.fixture
def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(file, "PNG")
    return file.getvalue()


def _worker(client: Redis) -> Worker:
    (worker,) = WorkerRegistry(client).workers()
    return worker


def test_jobs_that_find_no_memory_drain_their_gpu(
    task: RemovalTask,
    client: Redis,
    model: FakeModel,
    png: bytes,
    submit: Callable[[bytes], str],
) -> None:
    model.error = FULL
    for number in range(MAX_FAULTS):
        assert not _worker(client).drained, number
        task(submit(png))
    drained = _worker(client)
    assert f"{MAX_FAULTS} faults in a row" in drained.drained
    assert drained.drained_by == "service"
    assert drained.running == 0
    model.error = None
    left = submit(png)
    task(left)
    waiting = recorded(JobStore(client), left)
    assert (waiting.status, waiting.attempts) == (Status.QUEUED, 0)


def test_a_job_that_is_done_forgives_the_faults_before_it(
    task: RemovalTask,
    client: Redis,
    model: FakeModel,
    png: bytes,
    submit: Callable[[bytes], str],
) -> None:
    for model.error in (*[FULL] * (MAX_FAULTS - 1), None, FULL):
        task(submit(png))
    assert not _worker(client).drained


def test_only_a_result_shows_that_the_model_answers(
    task: RemovalTask, client: Redis, model: FakeModel, png: bytes, submit: Callable[[bytes], str]
) -> None:
    WorkerRegistry(client).mark_not_ready(WORKER)
    task(submit(b"no picture"))
    model.error = FULL
    task(submit(png))
    failed = _worker(client)
    assert not failed.ready
    # What did not come to its end says nothing of how long a job takes.
    assert not client.hexists(redis_keys.worker_key(WORKER), "seconds")
    model.error = None
    task(submit(png))
    assert _worker(client).ready
    assert client.hexists(redis_keys.worker_key(WORKER), "seconds")


def test_a_probe_that_fails_announces_nothing(
    task: RemovalTask, client: Redis, model: FakeModel
) -> None:
    assert task.readiness is not None
    model.error = FULL
    WorkerRegistry(client).mark_not_ready(WORKER)
    task.readiness.check()
    assert not _worker(client).ready
    model.error = None
    task.readiness.check()
    assert _worker(client).ready


@pytest.fixture
def left(task: RemovalTask, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Is added to when the process would leave; the model's context is broken."""

    left: list[bool] = []
    model.error = GpuFaultError("illegal address")
    monkeypatch.setattr(task.readiness, "_exit_child", lambda: left.append(True))
    return left


def test_a_probe_that_finds_a_broken_gpu_context_ends_the_process(
    task: RemovalTask, client: Redis, left: list[bool]
) -> None:
    assert task.readiness is not None
    task.readiness.check()
    assert left == [True]
    assert client.scard(redis_keys.gpu_faults_key(WORKER)) == 1


def test_it_ends_after_the_job_that_is_at_its_store(task: RemovalTask, left: list[bool]) -> None:
    assert task.readiness is not None
    task.readiness.begin_job()
    task.readiness.check()
    assert left == []
    task.readiness.end_job(0.5)
    assert left == [True]
