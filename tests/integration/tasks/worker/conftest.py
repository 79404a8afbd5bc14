"""A Celery application, a fake model and jobs for the tests of a model worker."""

import io
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from redis import Redis

from inference.options import Options
from tasks.app import create_celery
from tasks.jobs.store import JobStore
from tasks.object_store import ObjectStore
from tasks.settings import Settings
from tasks.worker_registry import WorkerRegistry
from tests.support.jobs import make_job
from tests.support.submissions import PICTURE


@pytest.fixture
def settings(server_settings: dict[str, object]) -> Settings:
    return Settings.load(**server_settings, model="u2netp")


@pytest.fixture
def app(settings: Settings) -> Iterator[Celery]:
    with create_celery(settings) as app:
        yield app


@pytest.fixture
def registry(redis: Redis) -> WorkerRegistry:
    return WorkerRegistry(redis)


@pytest.fixture
def submit(redis: Redis, objects: ObjectStore) -> Callable[..., str]:
    """Makes a job of a file."""

    def submit(data: bytes = PICTURE) -> str:
        job = make_job(model="m", options=Options().to_dict())
        objects.put(job.original_key, io.BytesIO(data), len(data), "image/png")
        JobStore(redis).create(job)
        return job.task_id

    return submit
