"""The task as Celery calls it: what a run tells others of its worker."""

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from celery import Celery
from PIL import Image
from redis import Redis

from inference.errors import GpuFaultError, GpuOutOfMemoryError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.options import Options
from tasks import redis_keys
from tasks.app import create_celery
from tasks.jobs import routing
from tasks.jobs.job import Job, Status, new_task_id
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore, original_key
from tasks.redis_client import connect
from tasks.runtime import Runtime
from tasks.settings import Settings
from tasks.worker.celery_tasks import RemovalTask
from tasks.worker_registry import MAX_FAULTS, Worker, WorkerRegistry

WORKER = "gpu0@h"


class Model:
    """Out of memory for as long as the test wants."""

    name = "m"

    def __init__(self) -> None:
        self.full = False

    def warm_up(self) -> None:
        pass

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            if self.full:
                raise GpuOutOfMemoryError("full")
            return [np.ones(image.shape[:2], np.float32) for image in images]


@pytest.fixture
def settings(server_settings: dict[str, object]) -> Settings:
    url = str(server_settings["redis_url"]).removesuffix("/0") + "/4"
    return Settings.load(**{**server_settings, "redis_url": url, "model": "u2netp"})


@pytest.fixture
def client(settings: Settings) -> Iterator[Redis]:
    with connect(settings.redis_url.get_secret_value()) as client:
        client.flushdb()
        yield client


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with create_celery(settings) as app:
        app.loader.import_default_modules()
        yield app


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def task(app: Celery, settings: Settings, model: Model, client: Redis) -> Iterator[RemovalTask]:
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
        task_id = new_task_id()
        original = original_key(task_id)
        objects.put(original, io.BytesIO(data), len(data), "image/png")
        options = Options().to_dict()
        JobStore(client).create(Job(task_id, "m", "model.m", original, 1.7e9, 4e9, options=options))
        return task_id

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
    model: Model,
    png: bytes,
    submit: Callable[[bytes], str],
) -> None:
    model.full = True
    for number in range(MAX_FAULTS):
        assert not _worker(client).drained, number
        task(submit(png))
    drained = _worker(client)
    assert f"{MAX_FAULTS} faults in a row" in drained.drained
    assert drained.drained_by == "service"
    assert drained.running == 0
    model.full = False
    left = submit(png)
    task(left)
    waiting = JobStore(client).get(left)
    assert waiting is not None
    assert (waiting.status, waiting.attempts) == (Status.QUEUED, 0)


def test_a_job_that_is_done_forgives_the_faults_before_it(
    task: RemovalTask,
    client: Redis,
    model: Model,
    png: bytes,
    submit: Callable[[bytes], str],
) -> None:
    for model.full in (*[True] * (MAX_FAULTS - 1), False, True):
        task(submit(png))
    assert not _worker(client).drained


def test_only_a_result_shows_that_the_model_answers(
    task: RemovalTask, client: Redis, model: Model, png: bytes, submit: Callable[[bytes], str]
) -> None:
    WorkerRegistry(client).mark_not_ready(WORKER)
    task(submit(b"no picture"))
    model.full = True
    task(submit(png))
    failed = _worker(client)
    assert not failed.ready
    # What did not come to its end says nothing of how long a job takes.
    assert not client.hexists(redis_keys.worker_key(WORKER), "seconds")
    model.full = False
    task(submit(png))
    assert _worker(client).ready
    assert client.hexists(redis_keys.worker_key(WORKER), "seconds")


def test_a_probe_that_fails_announces_nothing(
    task: RemovalTask, client: Redis, model: Model
) -> None:
    assert task.readiness is not None
    model.full = True
    WorkerRegistry(client).mark_not_ready(WORKER)
    task.readiness.check()
    assert not _worker(client).ready
    model.full = False
    task.readiness.check()
    assert _worker(client).ready


@pytest.fixture
def left(task: RemovalTask, model: Model, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Is added to when the process would leave; the model's context is broken."""

    def fail(*_: object) -> list[Alpha]:
        raise GpuFaultError("illegal address")

    left: list[bool] = []
    monkeypatch.setattr(model, "matte", fail)
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
